package client

import (
	"context"
	"errors"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// A leader whose host is lost, or that is cut off, says nothing: connections to it stay. So while sends wait for a replica that answers none
// of them, the others are asked who leads. Once they name another one, in a term later than any in which this one was said to lead, nobody
// waits for it any more: its connection is ended, and what waits is sent again, under its id, to the new leader.

const (
	// silenceTick is how often is looked whether answers come, and how long an answer who leads may take.
	silenceTick = 100 * time.Millisecond
	// silentTicks without any answer are one reason to ask.
	silentTicks = 2
	// idleTicks without a send end the looking.
	idleTicks = 20
)

var errDeposed = errors.New("it does not answer, and another replica leads")

// sending notes that a send is about to wait for p, of group g.
func (p *peer) sending(g *group) {
	p.waiting.Add(1)
	if !p.watched.Load() && p.watched.CompareAndSwap(false, true) && !p.c.spawn(func() { p.watch(g) }) {
		p.watched.Store(false)
	}
}

// answered notes that it waits no more.
func (p *peer) answered() {
	p.answers.Add(1)
	p.waiting.Add(-1)
}

// watch looks whether sends are answered, for as long as there are some.
func (p *peer) watch(g *group) {
	ticker := time.NewTicker(silenceTick)
	defer ticker.Stop()
	last, silent, idle := p.answers.Load(), 0, 0
	for {
		select {
		case <-ticker.C:
		case <-p.c.ctx.Done():
			return
		}
		now := p.answers.Load()
		switch {
		case p.waiting.Load() == 0 && now == last:
			silent = 0
			if idle++; idle < idleTicks {
				continue
			}
			p.watched.Store(false)
			if p.waiting.Load() == 0 || !p.watched.CompareAndSwap(false, true) {
				return
			}
			idle = 0
		case now != last:
			last, silent, idle = now, 0, 0
		default:
			if idle = 0; silent < silentTicks {
				silent++
			}
			if silent == silentTicks {
				p.askOthers(g)
			}
		}
	}
}

// askOthers asks the other replicas who leads, and does not wait.
func (p *peer) askOthers(g *group) {
	for _, other := range g.replicas.Load().list {
		if other == p || !other.asked.CompareAndSwap(false, true) {
			continue
		}
		if !p.c.spawn(func() {
			defer other.asked.Store(false)
			p.heed(g, other.whoLeads())
		}) {
			other.asked.Store(false)
		}
	}
}

// whoLeads asks a replica. The zero value is no answer, as of a broker that does not know the request.
func (p *peer) whoLeads() (s remoting.RaftStatus) {
	ctx, cancel := context.WithTimeout(p.c.ctx, silenceTick)
	defer cancel()
	resp, err := p.call(ctx, &remoting.Command{Code: remoting.RaftStatusRequest}, silenceTick, silenceTick)
	if err != nil || resp.Code != remoting.Success || s.DecodeBody(resp.Body) != nil {
		return remoting.RaftStatus{}
	}
	return s
}

// heed takes in what a replica says about who leads the group of p, which is silent.
func (p *peer) heed(g *group, s remoting.RaftStatus) {
	if s.LeaderAddress == "" || !g.believe(s.Term, s.LeaderAddress == p.addr) || s.LeaderAddress == p.addr {
		return
	}
	g.lead(p.c.peer(s.LeaderAddress))
	if conn := p.conn.Load(); conn != nil && p.waiting.Load() > 0 {
		p.c.log.Info("silent", "broker", g.name, "peer", p.addr, "leader", s.LeaderAddress)
		conn.Fail(errDeposed)
	}
}

// believe says whether an answer about a term is news; same: it names the replica that is silent.
func (g *group) believe(term uint64, same bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if same {
		g.silentTerm = max(g.silentTerm, term)
	}
	return term > g.silentTerm
}
