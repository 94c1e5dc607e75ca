package broker

import (
	"context"
	"errors"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// queueOf decodes a request about a queue and finds it; nil if the topic has no
// message there yet.
func (b *Broker) queueOf(topic string, id int32) (*storage.Queue, error) {
	t, ok := b.group.State().Topic(topic)
	if !ok {
		return nil, b.noTopic(topic)
	}
	if id < 0 || id >= max(t.Config.ReadQueueNums, t.Config.WriteQueueNums) {
		return nil, remoting.Errorf(remoting.InvalidParameter, "queueId %d: the topic %s has %d queues to read", id, topic, t.Config.ReadQueueNums)
	}
	return b.group.Store().Queue(storage.QueueID{Topic: topic, Incarnation: t.Incarnation, Queue: id}), nil
}

// current makes sure, on a leader, that it still is one: a deposed leader would
// tell where a queue used to end, and a new consumer would begin there. A
// follower answers with what it has, as a RocketMQ slave does.
func (b *Broker) current(ctx context.Context) error {
	if !b.leads() {
		return nil
	}
	return b.group.Barrier(ctx)
}

// maxOffset answers GET_MAX_OFFSET (30): the offset the next message will get.
// Only committed messages have one, so the field committed means nothing here.
func (b *Broker) maxOffset(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	return b.queueOffset(ctx, req, func(q *storage.Queue) (int64, error) { return q.Max(), nil })
}

// minOffset answers GET_MIN_OFFSET (31).
func (b *Broker) minOffset(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	return b.queueOffset(ctx, req, (*storage.Queue).Min)
}

func (b *Broker) queueOffset(ctx context.Context, req *remoting.Command, of func(*storage.Queue) (int64, error)) (answer, error) {
	var h remoting.QueueRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	return b.offsetOf(ctx, h.Topic, h.QueueID, of)
}

// offsetOf answers with an offset of a queue, 0 if it has no message yet.
func (b *Broker) offsetOf(ctx context.Context, topic string, queue int32, of func(*storage.Queue) (int64, error)) (answer, error) {
	if err := b.current(ctx); err != nil {
		return answer{}, err
	}
	q, err := b.queueOf(topic, queue)
	if err != nil {
		return answer{}, err
	}
	var offset int64
	if q != nil {
		if offset, err = of(q); err != nil {
			return answer{}, err
		}
	}
	return answer{header: &remoting.OffsetResponse{Offset: offset}}, nil
}

// searchOffset answers SEARCH_OFFSET_BY_TIMESTAMP (29): the first message stored
// at the time or after it, or the queue's end; with the boundary UPPER the last
// one stored at the time or before it.
func (b *Broker) searchOffset(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.SearchOffsetRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	boundary := storage.Lower
	if h.Upper {
		boundary = storage.Upper
	}
	return b.offsetOf(ctx, h.Topic, h.QueueID, func(q *storage.Queue) (int64, error) { return q.OffsetByTime(h.Timestamp, boundary) })
}

// earliestStoreTime answers GET_EARLIEST_MSG_STORETIME (32): -1 for a queue
// without messages.
func (b *Broker) earliestStoreTime(_ context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.QueueRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	q, err := b.queueOf(h.Topic, h.QueueID)
	if err != nil {
		return answer{}, err
	}
	at := int64(-1)
	if q != nil {
		if at, err = b.firstStoreTime(q); err != nil {
			return answer{}, err
		}
	}
	return answer{header: &remoting.TimestampResponse{Timestamp: at}}, nil
}

// firstStoreTime is when a queue's first message was stored, -1 if it has none.
func (b *Broker) firstStoreTime(q *storage.Queue) (int64, error) {
	first, err := q.Min()
	if err != nil || first == q.Max() {
		return -1, err
	}
	return b.storeTimeAt(q, first)
}

// storeTimeAt is when the message at a queue offset was stored.
func (b *Broker) storeTimeAt(q *storage.Queue, offset int64) (int64, error) {
	units, err := q.Units(offset, 1, nil)
	if err != nil {
		return 0, err
	}
	if len(units) == 0 {
		return 0, errors.New("no message at that offset")
	}
	return b.storeTime(units[0].Phys)
}
