package raftgroup

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// raftView is what the gate needs to know of a running raft.
type raftView interface {
	State() raft.RaftState
	CurrentTerm() uint64
}

// termView is what it needs to know of the stable store.
type termView interface{ CurrentTerm() uint64 }

// heartbeatGate decides which heartbeats may bypass raft's main loop: those that
// find a follower in the sender's own term, which change nothing but the time of
// the last contact. All else belongs to the main loop: hashicorp/raft would set
// term and state from the connection's goroutine, beside an election that does
// the same (issue 695).
//
// The lock closes what is left of the race: while a heartbeat is being handled
// beside the main loop, the stable store does not raise the term, and raft
// raises its own only after the stable store's. So both have to be looked at.
type heartbeatGate struct {
	mu     sync.RWMutex
	raft   atomic.Pointer[raftView]
	stable termView // set before raft is
}

// watch gives the gate the raft to look at. Until then nothing passes.
func (g *heartbeatGate) watch(r raftView, stable termView) {
	g.stable = stable
	g.raft.Store(&r)
}

func (g *heartbeatGate) now() (raft.RaftState, uint64) {
	r := g.raft.Load()
	if r == nil {
		return raft.Shutdown, 0
	}
	return (*r).State(), (*r).CurrentTerm()
}

// pass runs fast if a heartbeat of this term may bypass the main loop.
func (g *heartbeatGate) pass(term uint64, fast func()) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	state, current := g.now()
	if state != raft.Follower || current != term || g.stable.CurrentTerm() != term {
		return false
	}
	fast()
	return true
}
