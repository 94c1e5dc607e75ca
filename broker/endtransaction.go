package broker

import (
	"context"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// endTransaction answers END_TRANSACTION (37): a producer says what is to become of
// a half message, by itself or because it was asked. Commit is one entry of the log
// that stores the message where it belongs and settles the half message, rollback
// one that settles it. A request that comes again, before or after a change of
// leader, is answered with SUCCESS and changes nothing; so is one that contradicts
// the first.
//
// The request has to fit the half message: physical and queue offset, producer
// group, and transaction id if it has one. Deviations from RocketMQ: a state that is
// not known is answered, too, with SUCCESS; a replica that does not lead passes the
// request on; a commit that comes late, after
// CHECK_IMMUNITY_TIME_IN_SECONDS, is as good as any; offsets stay what they were
// when the message was sent, however often was asked about it.
func (b *Broker) endTransaction(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.EndTransactionRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if !b.leads() {
		return answer{}, raftgroup.ErrNotLeader
	}
	v, half, err := b.halfMessage(&h)
	if err != nil {
		return answer{}, err
	}
	var op *storeOp
	switch h.State {
	case remoting.TransactionUnknown:
		return answer{}, nil // it will be asked about again
	case remoting.TransactionRolledBack:
		p := v.Properties()
		op = &storeOp{settles: &half, key: messageKey(p.Get(remoting.PropRealTopic), v.ReconsumeTimes(), p.Get(remoting.PropUniqKey), p)}
	case remoting.TransactionCommitted:
		if err = b.writable(); err != nil {
			return answer{}, err
		}
		if op, err = b.commitOp(v, half); err != nil {
			return answer{}, err
		}
	default:
		return answer{}, remoting.Errorf(remoting.SystemError, "commitOrRollback is %d, want %d, %d or %d",
			h.State, remoting.TransactionCommitted, remoting.TransactionRolledBack, remoting.TransactionUnknown)
	}
	if b.group.State().Settled(half.Queue, half.Offset) {
		return answer{}, nil
	}
	r, err := b.store(ctx, op)
	if err != nil || r.Status == fsm.Stale {
		return answer{}, err
	}
	return answer{}, refusalOf(r.Status, v.Properties().Get(remoting.PropRealTopic))
}

// halfMessage is the half message that a request names, if it names one.
func (b *Broker) halfMessage(h *remoting.EndTransactionRequest) (v remoting.RecordView, half fsm.Waiting, err error) {
	refuse := func(format string, args ...any) (remoting.RecordView, fsm.Waiting, error) {
		return v, half, remoting.Errorf(remoting.SystemError, format, args...)
	}
	if v, err = b.message(h.CommitLogOffset); err != nil {
		return refuse("the half message at physical offset %d can't be read: %v", h.CommitLogOffset, err)
	}
	half, ok := b.waitingAt(remoting.TopicHalf, v.QueueOffset())
	p := v.Properties()
	switch {
	case !ok || string(v.TopicBytes()) != remoting.TopicHalf || v.QueueID() != half.Queue.Queue:
		return refuse("the message at physical offset %d is no half message", h.CommitLogOffset)
	case v.QueueOffset() != h.TranStateTableOffset:
		return refuse("the half message at physical offset %d is not the one at queue offset %d", h.CommitLogOffset, h.TranStateTableOffset)
	case p.Get(remoting.PropProducerGroup) != h.ProducerGroup:
		return refuse("the half message at physical offset %d is not of producer group %q", h.CommitLogOffset, h.ProducerGroup)
	case h.TransactionID != "" && h.TransactionID != p.Get(remoting.PropUniqKey):
		return refuse("the half message at physical offset %d is not of transaction %q", h.CommitLogOffset, h.TransactionID)
	}
	return v, half, nil
}
