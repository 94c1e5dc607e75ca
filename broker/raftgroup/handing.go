package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// settleTimeout bounds the wait for what is on its way when leadership is handed
// over.
const settleTimeout = 500 * time.Millisecond

// intake lets in what is to be proposed while this replica leads, and says when
// all of it has its outcome.
//
// A leader that hands over first stops taking anything: it counts as none, so who
// asks is held and passed on to the next one. Then it waits until what it has
// taken is applied, so that nobody's outcome is unknown. Only then raft transfers:
// on its own it would refuse what comes meanwhile, and forget what is on its way.
type intake struct {
	mu     sync.Mutex
	inside int
	empty  chan struct{} // closed when nothing is inside; nil if nobody waits
}

// enter lets one in, if may says so.
func (t *intake) enter(may func() bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !may() {
		return false
	}
	t.inside++
	return true
}

// exit says that so many have their outcome.
func (t *intake) exit(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inside -= n; t.inside == 0 && t.empty != nil {
		close(t.empty)
		t.empty = nil
	}
}

// settled returns a channel that is closed when nothing is inside.
func (t *intake) settled() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inside == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	return t.empty
}

// takes lets in what is to be proposed, if this replica leads. Who is let in calls
// taking.exit when the outcome is known.
func (g *Group) takes() bool {
	return g.taking.enter(func() bool { return g.Leadership().Self })
}

// handOver gives leadership to a voter in good order. If it fails this replica
// leads on.
func (g *Group) handOver(ctx context.Context, to raft.Server, why string) error {
	select {
	case g.handover.turn <- struct{}{}:
		defer func() { <-g.handover.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l := g.Leadership()
	if !l.Self {
		return ErrNotLeader
	}
	g.logger.Info("leadership is handed over", "to", to.ID, "because", why)
	g.taking.enter(func() bool {
		g.lead(func() (Leadership, bool) { return Leadership{Term: l.Term}, true })
		return false
	})
	settle := time.NewTimer(settleTimeout)
	defer settle.Stop()
	select {
	case <-g.taking.settled():
	case <-settle.C: // raft may manage; what is on its way may be unknown
	case <-ctx.Done():
	}
	err := g.transfer(ctx, to)
	if err == nil {
		g.handover.given(fmt.Sprintf("to %s: %s", to.ID, why))
		return nil
	}
	g.lead(func() (Leadership, bool) { return l, g.leads(l.Term) && g.state.Leader().Term == l.Term })
	if !g.leads(l.Term) {
		return ErrNotLeader
	}
	return fmt.Errorf("handing over to %s: %w", to.ID, err)
}

// transfer has raft give leadership to a voter.
func (g *Group) transfer(ctx context.Context, to raft.Server) error {
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(stop) })()
	err := await(g.raft().LeadershipTransferToServer(to.ID, to.Address), stop)
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return ErrNotLeader
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// TimeoutNow implements raft.Transport. Until it returns raft takes no proposals,
// whoever was given up on.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	answered := make(chan error, 1)
	var answer raft.TimeoutNowResponse
	t.done.Go(func() { answered <- t.NetworkTransport.TimeoutNow(id, target, args, &answer) })
	timer := time.NewTimer(settleTimeout)
	defer timer.Stop()
	select {
	case err := <-answered:
		*resp = answer
		return err
	case <-timer.C:
		return fmt.Errorf("%s has not answered in %v", id, settleTimeout)
	case <-t.stop:
		return raft.ErrTransportShutdown
	}
}
