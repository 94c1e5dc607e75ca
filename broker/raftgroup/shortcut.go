package raftgroup

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// A leader's process that dies is noticed at once: its connections end and its
// port refuses new ones, long before its heartbeats are missed. The follower with
// the longest log then stands for election without waiting, by a TimeoutNow to
// itself. That asks for no pre-vote, and voters drop their leader for it: sent
// wrongly it deposes a healthy one. So it is sent only if
//
//	C1  every raft connection with the leader has ended, in both directions, and a
//	    new one is refused: not accepted, not reset, not timed out;
//	C2  a majority of the voters, this one being one of them, says so of the same
//	    leader in the same term: one link proves nothing;
//	C3  nobody who answers has a longer log, and of equals that can stand this is
//	    the one with the highest ServerID;
//	C4  this replica is a voter, complete, and not kept from standing;
//	C5  all that time the leader and the term stay what they were. So it is sent
//	    once in a term at most.
//
// If it comes to nothing, raft's election timeout is still there.

// shortcutStep is how soon a replica looks again: a port may close a moment
// after the connections, and the other voters see it a moment later.
const shortcutStep = 10 * time.Millisecond

// loss is a leader whose process is gone.
type loss struct {
	leader raft.ServerID
	term   uint64
}

// shortcut is what a replica knows of its leader's end.
type shortcut struct {
	seen  atomic.Pointer[loss] // what this replica sees right now (C1)
	taken atomic.Uint64        // how often it has stood
}

// sees is the leader whose end this replica sees; zero if it sees none.
func (s *shortcut) sees() loss {
	if l := s.seen.Load(); l != nil {
		return *l
	}
	return loss{}
}

// shortcutGuards switches conditions off, for the tests that show what each is for.
type shortcutGuards struct {
	off                      bool // there is no shortcut
	anyConnections, anyError bool // C1
	noMajority               bool // C2
	anyLog                   bool // C3
	anybody                  bool // C4
	anyTerm                  bool // C5
	// before is called when all has been found to be so.
	before func()
}

// watchConnections looks after the leader whenever a connection has ended.
func (l *life) watchConnections() {
	for {
		select {
		case <-l.layer.ended:
			if !l.g.cfg.guard.shortcut.off {
				l.seeWhetherLeaderDied()
			}
		case <-l.ctx.Done():
			return
		}
	}
}

// seeWhetherLeaderDied looks for about as long as an election timeout, when raft
// itself would notice.
func (l *life) seeWhetherLeaderDied() {
	ctx, cancel := context.WithTimeout(l.ctx, l.g.cfg.Election)
	defer cancel()
	tick := time.NewTicker(shortcutStep)
	defer tick.Stop()
	defer l.g.shortcut.seen.Store(nil)
	what, addr, ok := l.follows()
	for ok && l.still(what) {
		gone, lives := l.processGone(ctx, what.leader, addr)
		switch {
		case lives:
			return
		case !gone:
			l.g.shortcut.seen.Store(nil)
		default:
			l.g.shortcut.seen.Store(&what)
			if l.mayGo(ctx, what) && l.stand(what) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// follows is whom this replica follows; false if nobody.
func (l *life) follows() (what loss, addr string, ok bool) {
	term := l.raft.CurrentTerm()
	at, id := l.raft.LeaderWithID()
	_, addr, err := splitAddress(at)
	// raft forgets the leader before it changes the term.
	ok = err == nil && id != l.g.id && l.raft.State() == raft.Follower && l.raft.CurrentTerm() == term
	return loss{leader: id, term: term}, addr, ok
}

// still says whether this replica follows the same leader in the same term (C5).
func (l *life) still(what loss) bool {
	now, _, ok := l.follows()
	return l.ctx.Err() == nil && (ok && now == what || l.g.cfg.guard.shortcut.anyTerm)
}

// processGone says whether the leader's process is gone (C1), or else whether it
// has answered.
func (l *life) processGone(ctx context.Context, leader raft.ServerID, addr string) (gone, lives bool) {
	guard := &l.g.cfg.guard.shortcut
	if !guard.anyConnections && l.layer.connected(leader) {
		return false, false
	}
	ctx, cancel := context.WithTimeout(ctx, l.g.cfg.Election/4)
	defer cancel()
	_, err := l.g.ask(ctx, addr)
	return errors.Is(err, syscall.ECONNREFUSED) || guard.anyError && err != nil, err == nil
}

// mayGo says whether a majority sees the same (C2), and of it this replica is the
// one to go (C3, C4).
func (l *life) mayGo(ctx context.Context, what loss) bool {
	g, guard := l.g, &l.g.cfg.guard.shortcut
	servers, err := g.servers()
	if err != nil || !g.standsIn(servers) {
		return false
	}
	var others []raft.Server
	voters := 0
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			if voters++; s.ID != g.id && s.ID != what.leader {
				others = append(others, s)
			}
		}
	}
	see := 1
	mine := g.logEnd()
	for _, s := range l.askAll(ctx, others) {
		// Of equals also one that does not see it yet: it will in a moment.
		if better := !mine.reaches(s.LogEnd) || s.LogEnd == mine && s.Stands && s.ServerID > string(g.id); better && !guard.anyLog {
			return false
		}
		if s.LostLeader == string(what.leader) && s.LostTerm == what.term {
			see++
		}
	}
	return see > voters/2 || guard.noMajority
}

// askAll asks replicas for their states and returns the answers of those who
// answer in time.
func (l *life) askAll(ctx context.Context, servers []raft.Server) []replicaState {
	ctx, cancel := context.WithTimeout(ctx, l.g.cfg.Election/4)
	defer cancel()
	answers := make([]replicaState, len(servers))
	var asking sync.WaitGroup
	for i, s := range servers {
		_, addr, err := splitAddress(s.Address)
		if err != nil {
			continue
		}
		asking.Go(func() {
			if a, err := l.g.ask(ctx, addr); err == nil && a.ServerID == string(s.ID) {
				answers[i] = a
			}
		})
	}
	asking.Wait()
	var got []replicaState
	for _, a := range answers {
		if a.ServerID != "" {
			got = append(got, a)
		}
	}
	return got
}

// stand makes raft stand for election, and says whether it does.
func (l *life) stand(what loss) bool {
	g, guard := l.g, &l.g.cfg.guard.shortcut
	if guard.before != nil {
		guard.before()
	}
	if !l.still(what) || !guard.anyConnections && l.layer.connected(what.leader) {
		return false
	}
	g.logger.Info("the leader's process is gone: standing for election at once", "leader", what.leader, "term", what.term)
	if err := l.trans.timeoutNow(); err != nil {
		g.logger.Warn("raft does not stand for election", "error", err)
		return false
	}
	g.shortcut.taken.Add(1)
	return true
}

// timeoutNow gives raft a TimeoutNow, as a leader would that hands over.
func (t *transport) timeoutNow() error {
	answer := make(chan raft.RPCResponse, 1)
	t.deliver(raft.RPC{
		Command:  &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}},
		RespChan: answer,
	})
	return (<-answer).Error
}

// standsIn says whether this replica can lead these servers (C4).
func (g *Group) standsIn(servers []raft.Server) bool {
	if g.cfg.guard.shortcut.anybody {
		return true
	}
	for _, s := range servers {
		if s.ID == g.id {
			return s.Suffrage == raft.Voter && g.standing.mayStand() == nil && g.failure.Load() == nil && g.store.Complete()
		}
	}
	return false
}

// stands says whether this replica can lead the group.
func (g *Group) stands() bool {
	servers, err := g.servers()
	return err == nil && g.standsIn(servers)
}
