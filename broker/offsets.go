package broker

import (
	"context"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// updateConsumerOffset answers UPDATE_CONSUMER_OFFSET (15). A two-way request is
// answered when the offset is committed by a quorum: RocketMQ's broker answers
// at once and may lose it. Lower offsets are taken, as there.
func (b *Broker) updateConsumerOffset(_ *session, req *remoting.Command) {
	var h remoting.UpdateConsumerOffsetRequest
	r := req.Responder()
	if err := h.Decode(req); err != nil {
		b.refuse(r, err)
		return
	}
	state := b.group.State()
	_, groupOK := state.Group(h.ConsumerGroup)
	topic, topicOK := state.Topic(h.Topic)
	switch {
	case !b.leads():
		b.refuse(r, raftgroup.ErrNotLeader)
	case h.CommitOffset < 0:
		// Node clients send -1 for queues they know nothing of.
		r.Respond(&remoting.Command{Code: remoting.Success})
	case !groupOK:
		b.refuse(r, b.noGroup(h.ConsumerGroup))
	case !topicOK:
		b.refuse(r, b.noTopic(h.Topic))
	case h.QueueID < 0 || h.QueueID >= max(topic.Config.ReadQueueNums, topic.Config.WriteQueueNums):
		b.refuse(r, remoting.Errorf(remoting.InvalidParameter, "queueId %d: the topic %s has %d queues to read", h.QueueID, h.Topic, topic.Config.ReadQueueNums))
	case req.IsOneway():
		b.offsets.add(h.ConsumerGroup, h.Topic, h.QueueID, h.CommitOffset, nil)
	default:
		b.offsets.add(h.ConsumerGroup, h.Topic, h.QueueID, h.CommitOffset, func(err error) {
			if err != nil {
				b.refuse(r, err)
				return
			}
			r.Respond(&remoting.Command{Code: remoting.Success})
		})
	}
}

// upToDate waits until this replica is sure to lead, and has applied every offset
// that it has answered for.
func (b *Broker) upToDate(ctx context.Context) error {
	if err := b.offsets.flushed(ctx); err != nil {
		return err
	}
	return b.group.Barrier(ctx)
}

// queryConsumerOffset answers QUERY_CONSUMER_OFFSET (14). QUERY_NOT_FOUND means
// "never committed", and consumers then begin where they like: so only a leader
// that is sure to be one says it. A young queue, whose first message is still
// recent, is at 0 for a group that never committed, as in RocketMQ.
func (b *Broker) queryConsumerOffset(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.QueryConsumerOffsetRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if !b.leads() {
		return answer{}, raftgroup.ErrNotLeader
	}
	if err := b.upToDate(ctx); err != nil {
		return answer{}, err
	}
	state := b.group.State()
	if offset, ok := state.CommittedOffset(h.ConsumerGroup, h.Topic, h.QueueID); ok {
		return answer{header: &remoting.OffsetResponse{Offset: offset}}, nil
	}
	if !h.NoZero && b.young(h.Topic, h.QueueID) {
		return answer{header: &remoting.OffsetResponse{Offset: 0}}, nil
	}
	return answer{}, remoting.Errorf(remoting.QueryNotFound, "consumer group %s has committed nothing in queue %d of %s", h.ConsumerGroup, h.QueueID, h.Topic)
}

// young says whether a queue's message at offset 0 is there and recent.
func (b *Broker) young(topic string, queue int32) bool {
	q := b.queue(topic, queue)
	if q == nil || q.Max() == 0 {
		return false
	}
	first, err := q.Min()
	if err != nil || first > 0 {
		return false
	}
	units, err := q.Units(0, 1, nil)
	return err == nil && len(units) == 1 && b.group.Store().End()-units[0].Phys <= int64(b.cfg.AccessMessageInMemory)
}

// queue finds a queue; nil if it has no message yet.
func (b *Broker) queue(topic string, queue int32) *storage.Queue {
	t, ok := b.group.State().Topic(topic)
	if !ok {
		return nil
	}
	return b.group.Store().Queue(storage.QueueID{Topic: topic, Incarnation: t.Incarnation, Queue: queue})
}
