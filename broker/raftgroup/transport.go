package raftgroup

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
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
//   - Held snapshots: a snapshot whose last entry is in the log already is
//     answered, not installed: installing it would empty the log for nothing.
type transport struct {
	*raft.NetworkTransport

	consumer chan raft.RPC
	stop     chan struct{}
	done     sync.WaitGroup
	gate     *heartbeatGate
	beat     atomic.Pointer[func(raft.RPC)]
	// holds says whether the local log holds the entry (index, term).
	holds func(index, term uint64) bool
	guard guards
}

// guards switches single guards off, for the tests that show what happens
// without them. The zero value is what runs.
type guards struct {
	noClamp, noGate, noByteBound, noDrain, noHeldSnapshot bool
}

func newTransport(inner *raft.NetworkTransport, gate *heartbeatGate, holds func(index, term uint64) bool, g guards) *transport {
	t := &transport{
		NetworkTransport: inner,
		consumer:         make(chan raft.RPC),
		stop:             make(chan struct{}),
		gate:             gate,
		holds:            holds,
		guard:            g,
	}
	inner.SetHeartbeatHandler(t.heartbeat)
	t.done.Add(1)
	go t.receive()
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
	defer t.done.Done()
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			switch req := rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				if !t.guard.noClamp {
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
	return t.NetworkTransport.AppendEntries(id, target, args, resp)
}

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return newPipeline(inner, t.guard), nil
}

// Close implements raft.WithClose.
func (t *transport) Close() error {
	err := t.NetworkTransport.Close()
	t.CloseStreams()
	select {
	case <-t.stop:
	default:
		close(t.stop)
	}
	t.done.Wait()
	return err
}

// answerHeld answers the installation of a snapshot whose last entry the log
// holds, and says whether it did. Only for the term we are in: a newer one has
// to be seen by raft.
func (t *transport) answerHeld(rpc raft.RPC, req *raft.InstallSnapshotRequest) bool {
	state, term := t.gate.now()
	if state != raft.Follower || term != req.Term || !t.holds(req.LastLogIndex, req.LastLogTerm) {
		return false
	}
	t.done.Add(1)
	go func() {
		defer t.done.Done()
		// The sender streams the snapshot whatever we answer.
		_, err := io.Copy(io.Discard, rpc.Reader)
		rpc.Respond(&raft.InstallSnapshotResponse{Term: term, Success: err == nil}, err)
	}()
	return true
}
