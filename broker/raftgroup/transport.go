package raftgroup

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/mutant"
)

// maxAppendBytes bounds the data of one AppendEntries request. hashicorp/raft
// bounds only the number of entries.
const maxAppendBytes = 4 << 20

// transport is raft's NetworkTransport with guards against what hashicorp/raft
// v1.7 does wrong. It embeds the concrete type: embedding the interface would
// hide RequestPreVote and so turn pre-vote off without a word.
//
//   - Commit clamp: a follower commits min(LeaderCommitIndex, its own last
//     index), also for an AppendEntries that proves nothing about its tail, and
//     so applies entries that a newer leader has replaced. LeaderCommitIndex is
//     cut to what the request itself proves.
//   - Heartbeat gate: heartbeats bypass raft's main loop and, when the terms
//     differ, change term and state beside it (issue 695). Only those that
//     change nothing may.
//   - Byte bound: entries beyond maxAppendBytes are cut from a request, in
//     place, because raft reads back what was sent.
//   - Pipeline: see pipeline.
//   - Held snapshots: one that ends where the log or the state has been already
//     is answered, not installed: installing it would empty the log, and with it
//     take back what was acknowledged.
//   - Forgotten entries: see passForgotten.
//
// It keeps a replica out of elections that it may not take part in, see standing,
// and notes when each peer has last shown that it follows us, see contacts.
type transport struct {
	*raft.NetworkTransport

	consumer chan raft.RPC
	stop     chan struct{}
	once     sync.Once
	done     sync.WaitGroup
	gate     *heartbeatGate
	beat     atomic.Pointer[func(raft.RPC)]
	// holds says whether the replica holds the entry (index, term) and all before.
	holds func(index, term uint64) bool
	// forgotten is the snapshot that stands for an entry the log has forgotten.
	forgotten func(prev uint64) (index, term uint64)
	contacts  contacts
	standing  *standing
	guard     guards
}

// guards switches single guards off, for the tests that show what happens
// without them. The zero value is what runs.
type guards struct {
	noClamp, noGate, noByteBound, noDrain, noHeldSnapshot  bool
	noSnapshotEntry, noReconcile, noSupervisor, noContacts bool
	noTermCheck, fixedDeadlines, noSuspects, noForgotten   bool
	shortcut                                               shortcutGuards
}

func newTransport(inner *raft.NetworkTransport, gate *heartbeatGate, holds func(index, term uint64) bool, forgotten func(prev uint64) (index, term uint64), standing *standing, g guards) *transport {
	t := &transport{
		NetworkTransport: inner,
		consumer:         make(chan raft.RPC),
		stop:             make(chan struct{}),
		gate:             gate,
		holds:            holds,
		forgotten:        forgotten,
		standing:         standing,
		guard:            g,
	}
	inner.SetHeartbeatHandler(t.heartbeat)
	t.done.Go(t.receive)
	return t
}

// Consumer implements raft.Transport: the requests of other replicas, guarded.
func (t *transport) Consumer() <-chan raft.RPC { return t.consumer }

// SetHeartbeatHandler implements raft.Transport.
func (t *transport) SetHeartbeatHandler(fast func(raft.RPC)) { t.beat.Store(&fast) }

func (t *transport) heartbeat(rpc raft.RPC) {
	req, ok := rpc.Command.(*raft.AppendEntriesRequest)
	fast := t.beat.Load()
	if ok && fast != nil && *fast != nil {
		if t.guard.noGate {
			(*fast)(rpc)
			return
		}
		if t.gate.pass(req.Term, func() { (*fast)(rpc) }) {
			return
		}
	}
	t.deliver(rpc)
}

func (t *transport) deliver(rpc raft.RPC) {
	select {
	case t.consumer <- rpc:
	case <-t.stop:
		rpc.Respond(nil, raft.ErrTransportShutdown)
	}
}

func (t *transport) receive() {
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			if t.refuseElection(rpc) {
				continue
			}
			switch req := rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				if !t.guard.noForgotten {
					t.passForgotten(req)
				}
				if !t.guard.noClamp && !mutant.On("clamp") {
					clampCommit(req)
				}
			case *raft.InstallSnapshotRequest:
				if !t.guard.noHeldSnapshot && t.answerHeld(rpc, req) {
					continue
				}
			}
			t.deliver(rpc)
		case <-t.stop:
			return
		}
	}
}

func clampCommit(req *raft.AppendEntriesRequest) {
	proven := req.PrevLogEntry + uint64(len(req.Entries))
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, proven)
}

// cutEntries keeps the first entries of a request that fit in maxAppendBytes,
// and at least one.
func cutEntries(req *raft.AppendEntriesRequest) {
	size := 0
	for i, e := range req.Entries {
		size += len(e.Data) + len(e.Extensions)
		if i > 0 && size > maxAppendBytes {
			req.Entries = req.Entries[:i]
			return
		}
	}
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if !t.guard.noByteBound {
		cutEntries(args)
	}
	sent := time.Now()
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	if err == nil {
		t.contacts.note(id, sent, args, resp)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return newPipeline(inner, func(f raft.AppendFuture) {
		t.contacts.note(id, f.Start(), f.Request(), f.Response())
	}, t.guard), nil
}

// Close implements raft.WithClose.
func (t *transport) Close() error {
	var err error
	t.once.Do(func() {
		err = t.NetworkTransport.Close()
		t.CloseStreams()
		close(t.stop)
		t.done.Wait()
	})
	return err
}

// errHeld refuses a snapshot that must not be installed, for a time.
var errHeld = errors.New("the replica holds the snapshot's last entry already")

// answerHeld answers the installation of a snapshot that the replica is not
// behind, and says whether it did. With success only as a follower in the term
// we are in; a newer term raft has to see first, in a heartbeat.
func (t *transport) answerHeld(rpc raft.RPC, req *raft.InstallSnapshotRequest) bool {
	state, term := t.gate.now()
	if req.Term < term || !t.holds(req.LastLogIndex, req.LastLogTerm) {
		return false
	}
	answer, refusal := &raft.InstallSnapshotResponse{Term: term}, errHeld
	if state == raft.Follower && term == req.Term {
		answer.Success, refusal = true, nil
	}
	t.done.Go(func() {
		// The sender streams the snapshot whatever we answer.
		if _, err := io.Copy(io.Discard, rpc.Reader); err != nil {
			answer.Success, refusal = false, err
		}
		rpc.Respond(answer, refusal)
	})
	return true
}
