package broker

import (
	"context"
	"sync"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// offsetDelay is how long offsets that nobody waits for gather before they
	// are proposed together.
	offsetDelay = 100 * time.Millisecond
	// maxOffsets bounds what is gathered: it is one command.
	maxOffsets = 20_000
)

// offsetWriter turns commits of consumer offsets into few raft entries: of many
// for one queue only the last counts.
type offsetWriter struct {
	b    *Broker
	more chan struct{}

	mu      sync.Mutex
	pending map[offsetKey]int64
	order   []offsetKey
	waiting []func(error)
	writing bool
}

type offsetKey struct {
	group, topic string
	queue        int32
}

func newOffsetWriter(b *Broker) *offsetWriter {
	return &offsetWriter{b: b, more: make(chan struct{}, 1), pending: map[offsetKey]int64{}}
}

// add takes an offset. done, if not nil, is told when it is committed.
func (w *offsetWriter) add(group, topic string, queue int32, offset int64, done func(error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := offsetKey{group, topic, queue}
	if _, ok := w.pending[k]; !ok {
		if len(w.order) >= maxOffsets {
			if done != nil {
				done(raftgroup.ErrBusy)
			}
			return // one-way, and as good as lost on the way: the client commits again
		}
		w.order = append(w.order, k)
	}
	w.pending[k] = offset
	if done != nil {
		w.waiting = append(w.waiting, done)
	}
	poke(w.more)
}

// flushed waits until what was added before the call is committed.
func (w *offsetWriter) flushed(ctx context.Context) error {
	w.mu.Lock()
	if len(w.order) == 0 && !w.writing {
		w.mu.Unlock()
		return nil
	}
	// What is being written now is done before the next write begins.
	written := make(chan error, 1)
	w.waiting = append(w.waiting, func(err error) { written <- err })
	w.mu.Unlock()
	poke(w.more)
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *offsetWriter) run() {
	for {
		select {
		case <-w.more:
		case <-w.b.ctx.Done():
			ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
			w.write(ctx) // so that the last waiters are told, one thing or the other
			cancel()
			return
		}
		if !w.urgent() {
			t := time.NewTimer(offsetDelay)
		gather:
			for {
				select {
				case <-t.C:
					break gather
				case <-w.more:
					if w.urgent() {
						break gather
					}
				case <-w.b.ctx.Done():
					break gather
				}
			}
			t.Stop()
		}
		ctx, cancel := context.WithTimeout(w.b.ctx, requestTimeout)
		w.write(ctx)
		cancel()
	}
}

// urgent says whether somebody waits.
func (w *offsetWriter) urgent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting) > 0
}

func (w *offsetWriter) write(ctx context.Context) {
	w.mu.Lock()
	var offsets []fsm.Offset
	for _, k := range w.order {
		offsets = append(offsets, fsm.Offset{Group: k.group, Topic: k.topic, Queue: k.queue, Offset: w.pending[k]})
	}
	waiting := w.waiting
	w.pending, w.order, w.waiting = map[offsetKey]int64{}, nil, nil
	w.writing = true
	w.mu.Unlock()
	var err error
	if len(offsets) > 0 {
		_, err = w.b.group.Propose(ctx, fsm.CommitOffsets(offsets))
	}
	if err != nil && len(waiting) == 0 {
		// Nobody was promised anything: the clients commit again in 5 s.
		w.b.logger.Debug("consumer offsets were not committed", "count", len(offsets), "error", err)
	}
	for _, done := range waiting {
		done(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = false
}

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
		b.refuse(r, remoting.Errorf(remoting.SubscriptionGroupNotExist, "consumer group %s does not exist on %s", h.ConsumerGroup, b.name))
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
	if err := b.offsets.flushed(ctx); err != nil {
		return answer{}, err
	}
	if err := b.group.Barrier(ctx); err != nil {
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
