package broker

import (
	"context"
	"errors"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// A group's offset of a queue that was reset is pending in the replicated state
// until a consumer has begun there (fsm.Reset). Whoever pulls elsewhere is told
// where to go on, with PULL_OFFSET_MOVED, and so is, once, whoever happens to
// pull there: it may hold older messages. Who has been told and then pulls there
// has obeyed, and gets its messages when the end of the reset is committed: an
// answer that was lost is given again, and nothing that was consumed since comes
// again, whoever leads.

// toldKey names a queue's reset to a session.
type toldKey struct {
	group, topic string
	queue        int32
}

// resetPending says whether a consumer is to be told of a reset first.
func (op *pullOp) resetPending() bool {
	_, ok := op.b.group.State().PendingReset(op.h.ConsumerGroup, op.h.Topic, op.h.QueueID)
	return ok
}

// reset handles a pull of a queue with a pending reset. It says whether the pull
// was answered, or held.
func (op *pullOp) reset(ctx context.Context, r queueRange) bool {
	b, h := op.b, &op.h
	if !op.resetPending() {
		return false
	}
	if !b.leads() {
		// The leader tells it. There may be none at the moment.
		if op.parked || !op.hold(time.Now().Add(missingWait), false) {
			op.elsewhere(r)
		}
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := b.group.Barrier(ctx); err != nil { // deposed, it would tell of what is over
		op.refuse(err)
		return true
	}
	pending, ok := b.group.State().PendingReset(h.ConsumerGroup, h.Topic, h.QueueID)
	if !ok {
		return false
	}
	k := toldKey{h.ConsumerGroup, h.Topic, h.QueueID}
	if h.QueueOffset != pending.Offset || !op.s.wasTold(k, pending.ID) {
		op.s.tell(k, pending.ID)
		op.answer(remoting.PullOffsetMoved, pending.Offset, r, false)
		return true
	}
	if err := b.endReset(ctx, k, pending.ID); err != nil {
		op.refuse(err)
		return true
	}
	op.s.forget(k)
	return false
}

// endReset makes commits count again, those that come from now on.
func (b *Broker) endReset(ctx context.Context, k toldKey, id uint64) error {
	// What was taken so far is of before: it is passed over.
	if err := b.offsets.flushed(ctx); err != nil && !errors.Is(err, raftgroup.ErrNotLeader) {
		return err
	}
	_, err := b.group.Propose(ctx, fsm.EndReset(k.group, k.topic, k.queue, id))
	return err
}

// tell notes that a reset is told to the session's client.
func (s *session) tell(k toldKey, id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told == nil {
		s.told = map[toldKey]uint64{}
	}
	s.told[k] = id
}

func (s *session) wasTold(k toldKey, id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told[k] == id
}

func (s *session) forget(k toldKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.told, k)
}
