package broker

import (
	"context"
	"errors"
	"math"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// recallMessage answers RECALL_MESSAGE (370): a message that waits for its time is
// settled without being delivered. That and its delivery are commands of the same
// kind, of which one succeeds: SUCCESS means that it never comes.
//
//	recallMessageEnable is off                                     NO_PERMISSION
//	the topic does not exist                                       TOPIC_NOT_EXIST
//	the handle can't be read, or is of another topic or broker;
//	its time has passed; no such message waits (any more)          ILLEGAL_OPERATION
//
// Deviations from RocketMQ: it is off there by default; a message is found at once,
// not when its second has come; a recall that is repeated after a lost answer is
// told that no such message waits.
func (b *Broker) recallMessage(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.RecallMessageRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if !*b.cfg.RecallMessageEnable {
		return answer{}, remoting.Errorf(remoting.NoPermission, "messages can't be recalled here (recallMessageEnable)")
	}
	if err := b.writable(); err != nil {
		return answer{}, err
	}
	if _, ok := b.group.State().Topic(h.Topic); !ok {
		return answer{}, b.noTopic(h.Topic)
	}
	illegal := func(format string, args ...any) (answer, error) {
		return answer{}, remoting.Errorf(remoting.IllegalOperation, format, args...)
	}
	handle, err := remoting.ParseRecallHandle(h.RecallHandle)
	now := b.group.LogTime()
	switch {
	case err != nil:
		return illegal("%v", err)
	case handle.Topic != h.Topic:
		return illegal("the recall handle is of topic %.255q, the request of %s", handle.Topic, h.Topic)
	case handle.BrokerName != b.name:
		return illegal("the recall handle is of broker %.255q, this is %s", handle.BrokerName, b.name)
	case handle.Due <= now:
		return illegal("the message was due %d ms ago", now-handle.Due)
	}
	for {
		op, err := b.timerMessage(ctx, handle)
		if err != nil {
			return answer{}, err
		}
		if op == nil {
			return illegal("no message of %s with UNIQ_KEY %.255q waits: it was delivered, or recalled", h.Topic, handle.UniqKey)
		}
		r, err := b.store(ctx, op)
		if err != nil {
			return answer{}, err
		}
		if r.Status == fsm.Stored {
			return answer{header: &remoting.RecallMessageResponse{MsgID: handle.UniqKey}}, nil
		}
		// Meanwhile it was delivered, or appended again to wait elsewhere.
	}
}

// maxRecalled bounds the messages with one UNIQ_KEY that are looked at.
const maxRecalled = 64

// timerMessage finds the message that waits by a handle, to settle it: of several,
// the one that is due closest to its time. Nil: there is none.
func (b *Broker) timerMessage(ctx context.Context, h remoting.RecallHandle) (*storeOp, error) {
	found, err := b.group.Store().Search(ctx, remoting.TopicTimer, h.UniqKey, 0, math.MaxInt64, maxRecalled)
	if err != nil && !errors.Is(err, storage.ErrIndexBehind) {
		return nil, err
	}
	var best *storeOp
	least := int64(math.MaxInt64)
	for _, phys := range found {
		v, e := b.message(phys)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		topic, _ := b.group.State().Topic(v.Topic())
		p := v.Properties()
		w := fsm.Waiting{Queue: storage.QueueID{Topic: topic.Config.Name, Incarnation: topic.Incarnation, Queue: v.QueueID()}, Offset: v.QueueOffset()}
		// A key is any of a message's; the handle names its id.
		if p.Get(remoting.PropRealTopic) != h.Topic || p.Get(remoting.PropUniqKey) != h.UniqKey || b.group.State().Settled(w.Queue, w.Offset) {
			continue
		}
		due := v.PreparedTransactionOffset()
		if away := max(due-h.Due, h.Due-due); away < least {
			best, least = &storeOp{settles: &w, key: messageKey(h.Topic, v.ReconsumeTimes(), h.UniqKey, p)}, away
		}
	}
	if best == nil && err != nil {
		// It may be there.
		return nil, remoting.Errorf(remoting.SystemError, "whether the message waits can't be told now: %v", err)
	}
	return best, nil
}
