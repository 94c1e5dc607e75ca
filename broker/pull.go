package broker

import (
	"context"
	"errors"
	"time"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// scanUnits bounds the queue entries that one pull looks at.
	scanUnits = 800
	// maxSuspend bounds how long a client may have a pull held.
	maxSuspend = 120 * time.Second
	// missingWait is how long a pull of what is not here yet is held before the
	// client is sent elsewhere.
	missingWait = 200 * time.Millisecond
	// pullAtOnce is how many units are read in one go.
	pullAtOnce = 64
)

// pullOp is one PULL_MESSAGE (11) or LITE_PULL_MESSAGE (361), answered at once or
// held until there is something for it. Leader and followers serve what they
// have applied. A follower that is behind holds a pull that is ahead of it, and
// never tells a consumer that its offset is wrong because of that.
type pullOp struct {
	b         *Broker
	s         *session
	responder remoting.Responder
	h         remoting.PullRequest
	filter    filter
	queue     storage.QueueID
	deadline  time.Time // until when it may be held
	next      int64     // entries before this one were looked at and did not match
	moved     bool      // it was looked at as far as next

	// Of a held one, guarded by holds.mu.
	held  bool
	until time.Time
	index int // in the heap
}

// pull answers a pull, or holds it.
func (b *Broker) pull(s *session, req *remoting.Command) {
	op := &pullOp{b: b, s: s, responder: req.Responder(), index: -1}
	if err := op.h.Decode(req); err != nil {
		b.refuse(op.responder, err)
		return
	}
	err := op.check()
	if errors.Is(err, errGroupMissing) {
		op.createGroup()
		return
	}
	if err != nil {
		b.refuse(op.responder, err)
		return
	}
	op.begin()
}

var errGroupMissing = errors.New("the group is to be made")

// check looks whether the pull is allowed, in RocketMQ's order.
func (op *pullOp) check() error {
	b, h := op.b, &op.h
	if !b.leads() && !*b.cfg.SlaveReadEnable {
		return remoting.Errorf(remoting.SystemBusy, "[REJECTREQUEST] this replica does not lead %s and slaveReadEnable is off", b.name)
	}
	group, ok := b.group.State().Group(h.ConsumerGroup)
	if !ok {
		return errGroupMissing
	}
	if !group.ConsumeEnable {
		return remoting.Errorf(remoting.NoPermission, "the consumer group %s may not consume (consumeEnable)", h.ConsumerGroup)
	}
	topic, ok := b.group.State().Topic(h.Topic)
	if !ok {
		return b.noTopic(h.Topic)
	}
	if topic.Config.Perm&remoting.PermRead == 0 {
		return remoting.Errorf(remoting.NoPermission, "the topic %s can't be read", h.Topic)
	}
	if h.QueueID < 0 || h.QueueID >= topic.Config.ReadQueueNums {
		return remoting.Errorf(remoting.InvalidParameter, "queueId %d: the topic %s has %d queues to read", h.QueueID, h.Topic, topic.Config.ReadQueueNums)
	}
	op.queue = storage.QueueID{Topic: h.Topic, Incarnation: topic.Incarnation, Queue: h.QueueID}
	op.next = h.QueueOffset
	if h.MaxMsgNums <= 0 {
		return remoting.Errorf(remoting.InvalidParameter, "maxMsgNums is %d", h.MaxMsgNums)
	}
	return op.subscription(group)
}

// subscription finds the filter: the request's own, or the one that the group's
// heartbeats carry.
func (op *pullOp) subscription(group remoting.GroupConfig) error {
	h := &op.h
	expression, kind := h.Subscription, h.ExpressionType
	if h.SysFlag&remoting.PullSubscription == 0 {
		sub, model, ok := op.b.clients.subscription(h.ConsumerGroup, h.Topic)
		switch {
		case !ok:
			return remoting.Errorf(remoting.SubscriptionNotExist, "the consumer group %s has not subscribed to %s at this broker yet", h.ConsumerGroup, h.Topic)
		case sub.Version < h.SubVersion:
			return remoting.Errorf(remoting.SubscriptionNotLatest, "the subscription of %s to %s that this broker has is older than the request's", h.ConsumerGroup, h.Topic)
		case model == remoting.Broadcasting && !group.ConsumeBroadcastEnable:
			return remoting.Errorf(remoting.NoPermission, "the consumer group %s may not broadcast (consumeBroadcastEnable)", h.ConsumerGroup)
		}
		expression, kind = sub.Expression, sub.ExpressionType
	}
	if kind != "" && kind != remoting.ExpressionTag {
		return remoting.Errorf(remoting.SystemError, "the broker does not filter by %s (enablePropertyFilter)", kind)
	}
	var err error
	if op.filter, err = parseTags(expression); err != nil {
		return remoting.Errorf(remoting.SubscriptionParseFailed, "%v", err)
	}
	return nil
}

// createGroup makes the consumer group, if that is allowed, and begins again.
func (op *pullOp) createGroup() {
	b := op.b
	if !b.workers.try(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		if _, err := b.subscriptionGroup(ctx, op.h.ConsumerGroup); err != nil {
			b.refuse(op.responder, err)
			return
		}
		if err := op.check(); err != nil {
			b.refuse(op.responder, err)
			return
		}
		op.begin()
	}) {
		b.refuse(op.responder, errBusy)
	}
}

// begin commits the offset that the pull carries and looks for messages.
func (op *pullOp) begin() {
	b, h := op.b, &op.h
	if h.SysFlag&remoting.PullCommitOffset != 0 && h.CommitOffset >= 0 && b.leads() {
		b.offsets.add(h.ConsumerGroup, h.Topic, h.QueueID, h.CommitOffset, nil)
	}
	if h.SysFlag&remoting.PullSuspend != 0 && *b.cfg.LongPollingEnable {
		suspend := min(time.Duration(max(0, h.SuspendTimeoutMillis))*time.Millisecond, maxSuspend)
		op.deadline = time.Now().Add(suspend)
	}
	// At the end of the queue, where most pulls are, nothing has to be read.
	q := b.group.Store().Queue(op.queue)
	if q != nil && q.Max() == op.next && op.hold(op.deadline) {
		return
	}
	if !b.workers.try(op.look) {
		b.refuse(op.responder, errBusy)
	}
}

// hold parks the pull until a time, or says that it may not be held.
func (op *pullOp) hold(until time.Time) bool {
	return !op.deadline.IsZero() && time.Now().Before(op.deadline) && op.b.holds.park(op, until)
}

// look looks for messages, and answers or holds the pull.
func (op *pullOp) look(ctx context.Context) {
	b := op.b
	if t, ok := b.group.State().Topic(op.h.Topic); !ok || t.Incarnation != op.queue.Incarnation {
		b.refuse(op.responder, b.noTopic(op.h.Topic)) // deleted while the pull was held
		return
	}
	q := b.group.Store().Queue(op.queue)
	first, last := int64(0), int64(0)
	if q != nil {
		var err error
		if first, err = q.Min(); err != nil {
			op.missing(err, first, q.Max())
			return
		}
		last = q.Max()
	}
	switch {
	case op.next < first:
		op.answer(remoting.PullOffsetMoved, first, first, last)
	case op.next > last:
		op.ahead(ctx, first, last)
	case op.next == last:
		if !op.hold(op.deadline) {
			op.nothing(first, last)
		}
	default:
		op.scan(q, first, last)
	}
}

// ahead handles a pull beyond the end of the queue as this replica has it. Only
// a leader that is sure to be one may call that an error of the consumer's.
func (op *pullOp) ahead(ctx context.Context, first, last int64) {
	b := op.b
	if b.leads() {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		if b.group.Barrier(ctx) == nil {
			if q := b.group.Store().Queue(op.queue); q != nil {
				last = q.Max()
			}
			if op.next > last {
				op.answer(remoting.PullOffsetMoved, last, first, last)
			} else if !op.hold(op.deadline) {
				op.look(ctx)
			}
			return
		}
	}
	if !op.hold(op.deadline) {
		op.answer(remoting.PullRetryImmediately, op.next, first, last)
	}
}

// nothing answers a pull that found nothing in time.
func (op *pullOp) nothing(first, last int64) {
	b := op.b
	b.counters.getMiss.Add(1, time.Time{})
	switch {
	case op.moved:
		op.answer(remoting.PullRetryImmediately, op.next, first, last)
	case op.next > last:
		op.answer(remoting.PullRetryImmediately, op.next, first, last)
	default:
		op.answer(remoting.PullNotFound, op.next, first, last)
	}
}

// missing handles what is not on this replica at present: the client is sent to
// another one.
func (op *pullOp) missing(err error, first, last int64) {
	b := op.b
	switch {
	case errors.Is(err, storage.ErrMissing):
		if op.deadline.IsZero() || !op.hold(time.Now().Add(missingWait)) {
			op.answer(remoting.PullRetryImmediately, op.next, first, last)
		}
	case errors.Is(err, storage.ErrDropped):
		b.refuse(op.responder, b.noTopic(op.h.Topic))
	default:
		b.logger.Error("a pull can't be answered", "queue", op.queue, "offset", op.next, "error", err)
		b.refuse(op.responder, err)
	}
}

// scan looks at the queue from next on and answers with what matches.
func (op *pullOp) scan(q *storage.Queue, first, last int64) {
	store := op.b.group.Store()
	found := &pulled{b: op.b, want: int(op.h.MaxMsgNums), maxBytes: int(op.h.MaxMsgBytes), end: store.End()}
	defer found.release()
	var units []storage.Unit
	limit := max(scanUnits, int(min(op.h.MaxMsgNums, scanUnits*20)))
	for looked := 0; looked < limit && op.next < last; {
		var err error
		units, err = q.Units(op.next, min(pullAtOnce, limit-looked), units[:0])
		if err != nil && len(units) == 0 {
			if errors.Is(err, storage.ErrTrimmed) { // meanwhile
				op.answer(remoting.PullRetryImmediately, op.next, first, last)
				return
			}
			if found.n > 0 {
				break
			}
			op.missing(err, first, last)
			return
		}
		for _, u := range units {
			if op.filter.match(u.Tag) {
				more, err := found.add(store, u)
				switch {
				case errors.Is(err, storage.ErrTrimmed): // meanwhile: passed over
				case err != nil && found.n == 0:
					op.missing(err, first, last)
					return
				case err != nil || !more:
					op.found(found, first, last)
					return
				}
			}
			op.moved = true
			op.next++
			looked++
		}
	}
	if found.n > 0 {
		op.found(found, first, last)
		return
	}
	if op.next >= last && op.hold(op.deadline) {
		return
	}
	op.nothing(first, last)
}

// found answers with messages.
func (op *pullOp) found(p *pulled, first, last int64) {
	b := op.b
	b.counters.get.Add(int64(p.n), time.Time{})
	b.counters.getBytes.Add(int64(p.bytes))
	op.responder.RespondSegments(op.response(remoting.Success, op.next, first, last), p.segments, p.handOver())
}

func (op *pullOp) answer(code int32, next, first, last int64) {
	op.responder.Respond(op.response(code, next, first, last))
}

func (op *pullOp) response(code int32, next, first, last int64) *remoting.Command {
	return &remoting.Command{Code: code, Header: &remoting.PullResponse{
		SuggestBrokerID: op.b.suggest(), NextBeginOffset: next, MinOffset: first, MaxOffset: last,
	}}
}

// suggest is the broker to pull from next: the leader, while there is one.
func (b *Broker) suggest() int64 {
	if l := b.group.Leadership(); l.Self || l.Node != "" {
		return 0
	}
	return b.slaveID
}

// pulled gathers the messages of an answer.
type pulled struct {
	b        *Broker
	want     int
	maxBytes int   // the client's wish, 0 for none
	end      int64 // of the CommitLog

	n        int
	bytes    int
	segments [][]byte
	views    []storage.View
}

// add takes a message, or says that the answer is full. The first message is
// always taken.
func (p *pulled) add(store *storage.Store, u storage.Unit) (more bool, err error) {
	cfg := p.b.cfg
	maxCount, maxBytes := cfg.TransferCountOnMessageInMem, cfg.TransferBytesOnMessageInMem
	if p.end-u.Phys > int64(cfg.AccessMessageInMemory) {
		maxCount, maxBytes = cfg.TransferCountOnMessageInDisk, cfg.TransferBytesOnMessageInDisk
	}
	if p.maxBytes > 0 {
		maxBytes = min(maxBytes, p.maxBytes)
	}
	if p.n > 0 && (p.n >= min(p.want, maxCount) || p.bytes+int(u.Size) > maxBytes) {
		return false, nil
	}
	v, err := store.View(u.Phys, int(u.Size))
	if err != nil {
		return false, err
	}
	p.views = append(p.views, v)
	p.segments = append(p.segments, v.Bytes)
	p.n++
	p.bytes += int(u.Size)
	return true, nil
}

func (p *pulled) release() {
	for _, v := range p.views {
		v.Release()
	}
	p.views = nil
}

// handOver returns what releases the messages once they were sent.
func (p *pulled) handOver() func() {
	views := p.views
	p.views = nil
	return func() {
		for _, v := range views {
			v.Release()
		}
	}
}
