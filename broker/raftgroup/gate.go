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

// heartbeatGate decides which heartbeats may bypass raft's main loop: those that
// find a follower in the sender's own term, which change nothing but the time of
// the last contact. All else belongs to the main loop: hashicorp/raft would set
// term and state from the connection's goroutine, beside an election that does
// the same (issue 695).
//
// The lock closes what is left of the race: while a heartbeat is being handled
// beside the main loop, the stable store does not raise the term.
type heartbeatGate struct {
	mu   sync.RWMutex
	raft atomic.Pointer[raftView]
}

// watch gives the gate the raft to look at. Until then nothing passes.
func (g *heartbeatGate) watch(r raftView) { g.raft.Store(&r) }

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
	if state != raft.Follower || current != term {
		return false
	}
	fast()
	return true
}

// gatedStable is a stable store that raises the term only while no heartbeat is
// being handled beside the main loop.
type gatedStable struct {
	raft.StableStore
	gate *heartbeatGate
}

// SetUint64 implements raft.StableStore.
func (s gatedStable) SetUint64(key []byte, val uint64) error {
	if string(key) == keyCurrentTerm {
		// The heartbeat being handled sets the term it found: not a raise, and
		// it holds the lock already.
		if old, err := s.GetUint64(key); err == nil && old == val {
			return nil
		}
		s.gate.mu.Lock()
		defer s.gate.mu.Unlock()
	}
	return s.StableStore.SetUint64(key, val)
}

// keyCurrentTerm is raft's name for the current term in its stable store.
const keyCurrentTerm = "CurrentTerm"
