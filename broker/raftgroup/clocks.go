package raftgroup

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	clockEvery = 5 * time.Second
	// clockTimeout is how long an answer may take: what took longer says too little.
	clockTimeout = time.Second
)

// clockAnswer is what a replica's clock shows, in ms.
type clockAnswer struct {
	Clock float64 `json:"clock"`
}

// keepTime asks the voters for their clocks, again and again, whoever leads: the
// next leader has to know them at once.
func (g *Group) keepTime() {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		g.askClocks(g.ctx, func() bool { return false })
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
	}
}

// beginTime makes the log time right for a term that begins. It waits for clocks
// only if it does not know enough of them, and not for long.
func (g *Group) beginTime(ctx context.Context) {
	if !g.clock.settled() {
		g.askClocks(ctx, g.clock.settled)
	}
	if !g.clock.settled() {
		g.logger.Warn("too few clocks of the group are known, or they differ: its time goes on from where it was")
	}
	g.clock.begin()
}

// askClocks asks the other voters for their clocks, all at once, until it is
// enough.
func (g *Group) askClocks(ctx context.Context, enough func() bool) {
	servers, err := g.servers()
	if err != nil {
		return // raft has stopped
	}
	var others []string
	self := false
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if s.ID == g.id {
			self = true
		} else {
			others = append(others, string(s.Address))
		}
	}
	g.clock.of(others, self)
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for _, o := range others {
		asking.Go(func() {
			if g.askClock(ctx, o) == nil && enough() {
				cancel()
			}
		})
	}
	asking.Wait()
}

func (g *Group) askClock(ctx context.Context, voter string) error {
	id, addr, err := splitAddress(raft.ServerAddress(voter))
	if err != nil {
		return err
	}
	var answer clockAnswer
	asked := g.clock.mono()
	if err := g.question(ctx, addr, hello{Kind: streamClock, Group: g.cfg.Name, From: string(g.id), To: string(id)}, clockTimeout, &answer); err != nil {
		return err
	}
	g.clock.note(voter, asked, answer.Clock)
	return nil
}
