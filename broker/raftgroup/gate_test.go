package raftgroup

import (
	"runtime"
	"testing"

	"github.com/hashicorp/raft"
)

type fixedView struct {
	state raft.RaftState
	term  uint64
}

func (v fixedView) State() raft.RaftState { return v.state }
func (v fixedView) CurrentTerm() uint64   { return v.term }

func TestGatePasses(t *testing.T) {
	for _, v := range []struct {
		view   fixedView
		stored uint64
		term   uint64
		want   bool
	}{
		{fixedView{raft.Follower, 5}, 5, 5, true},
		{fixedView{raft.Follower, 5}, 5, 6, false},
		{fixedView{raft.Follower, 5}, 5, 4, false},
		{fixedView{raft.Follower, 5}, 6, 5, false}, // raft is about to be in 6
		{fixedView{raft.Candidate, 5}, 5, 5, false},
		{fixedView{raft.Leader, 5}, 5, 5, false},
		{fixedView{raft.Shutdown, 5}, 5, 5, false},
	} {
		var g heartbeatGate
		if g.pass(v.term, func() { t.Error("passed before there is a raft") }) {
			t.Error("passed before there is a raft")
		}
		g.watch(v.view, fixedView{term: v.stored})
		ran := false
		if got := g.pass(v.term, func() { ran = true }); got != v.want || ran != v.want {
			t.Errorf("%+v: passed %v, ran %v", v, got, ran)
		}
	}
}

// While a heartbeat is handled beside the main loop, the main loop can't raise
// the term under it; and the heartbeat's own writing of the term it found is not
// held up.
func TestGateHoldsUpARaise(t *testing.T) {
	mem := newMemStable()
	var gate heartbeatGate
	s := &stableStore{StableStore: mem, gate: &gate, note: noNote, halt: func(error) bool { return false }}
	set := func(term uint64) {
		if err := s.SetUint64([]byte(keyCurrentTerm), term); err != nil {
			t.Error(err)
		}
	}
	set(5)
	gate.watch(fixedView{raft.Follower, 5}, termOf{mem})
	raised := make(chan struct{})
	passed := gate.pass(5, func() {
		set(5)
		go func() {
			defer close(raised)
			set(6)
		}()
		// No reader gets in once a writer waits: then it does.
		for gate.mu.TryRLock() {
			gate.mu.RUnlock()
			runtime.Gosched()
		}
		if got := (termOf{mem}).CurrentTerm(); got != 5 {
			t.Errorf("the term is %d while the heartbeat is handled", got)
		}
	})
	<-raised
	if got := (termOf{mem}).CurrentTerm(); !passed || got != 6 {
		t.Errorf("passed %v, the term is %d", passed, got)
	}
	if gate.pass(5, func() {}) {
		t.Error("a heartbeat of the old term passed")
	}
}
