package raftgroup

import (
	"time"

	"github.com/raftmq/raftmq/fsm"
)

// batch is a command being filled or on its way, and who waits for it.
type batch struct {
	command *fsm.AppendCommand
	ops     []SendOp
	size    int       // of the sends, bytes
	born    time.Time // when the first send came

	// Of a batch that is with raft; guarded by proposer.mu.
	sent    time.Time
	timer   *time.Timer
	late    error         // why the wait was ended
	expired chan struct{} // closed when it was
}

// expire ends the wait for the batch.
func (b *batch) expire(why error) {
	if b.late == nil {
		b.late = why
		close(b.expired)
	}
}

// tell tells the senders the outcome.
func (b *batch) tell(r []fsm.Result, err error) {
	if err == nil && len(r) != len(b.ops) {
		err = ErrUnknown
	}
	for i, op := range b.ops {
		if err != nil {
			op.Done(fsm.Result{}, err)
		} else {
			op.Done(r[i], nil)
		}
	}
}
