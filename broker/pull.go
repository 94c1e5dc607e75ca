package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// maxSuspend bounds how long a client may have a pull held.
const maxSuspend = 120 * time.Second

// pullOp is one PULL_MESSAGE (11) or LITE_PULL_MESSAGE (361), answered at once or
// held until there is something for it. Leader and followers serve what they
// have applied. A follower that is behind holds a pull that is ahead of it, and
// never tells a consumer that its offset is wrong because of that.
//
// A held pull is woken by messages that its filter lets through, tag or SQL. One
// that only others have passed is answered within 5 s (holdSweep), so that the
// client learns where to go on.
//
// Deviations: SQL that can't be parsed is refused in a pull that brings it, too;
// what a group has changed in its subscription goes for the pulls that are held;
// maxMsgBytes is heeded; a leader suggests a follower for what is not in memory any
// more, as with RocketMQ's slaveReadEnable, which is on here.
type pullOp struct {
	b         *Broker
	s         *session
	responder remoting.Responder
	h         remoting.PullRequest
	filter    *filter
	sub       *interest // whose filter it is; nil: the request's own
	queue     storage.QueueID
	deadline  time.Time // until when it may be held; zero: not at all
	next      int64     // entries before this one were looked at and did not match; of a parked one guarded by holds.mu
	parked    bool      // it was held once

	// Of a parked one, guarded by holds.mu.
	held    bool
	appends bool // a message wakes it
	until   time.Time
	index   int // in the heap
}

// pull answers a pull, or holds it.
func (b *Broker) pull(s *session, req *remoting.Command) {
	op := &pullOp{b: b, s: s, responder: req.Responder(), index: -1}
	err := op.h.Decode(req)
	if err == nil {
		err = op.check()
	}
	switch {
	case errors.Is(err, errGroupMissing):
		b.run(b.workers, 0, op.refuse, op.createGroup)
	case errors.Is(err, errSubscriptionMissing) && len(b.others()) > 0:
		b.run(b.borrowing, 0, op.refuse, op.borrowSubscription)
	case err != nil:
		op.refuse(err)
	default:
		op.begin()
	}
}

func (op *pullOp) refuse(err error) { op.b.refuse(op.responder, err) }

var errGroupMissing = errors.New("the group is to be made")

// check looks whether the pull can be served, in RocketMQ's order.
func (op *pullOp) check() error {
	b, h := op.b, &op.h
	if !b.leads() && !*b.cfg.SlaveReadEnable {
		return remoting.Errorf(remoting.SystemBusy, "[REJECTREQUEST] this replica does not lead %s and slaveReadEnable is off", b.name)
	}
	group, ok := b.group.State().Group(h.ConsumerGroup)
	switch {
	case ok:
	case b.group.Leadership().Address == "" && !b.leads() && remoting.CheckGroup(h.ConsumerGroup) == nil && b.mayCreateGroup(h.ConsumerGroup):
		// It is made when somebody leads; nothing keeps it from reading until then.
		group = remoting.NewGroupConfig(h.ConsumerGroup)
	default:
		return errGroupMissing
	}
	if topic, ok := b.group.State().Topic(h.Topic); ok {
		op.queue = storage.QueueID{Topic: topic.Config.Name, Incarnation: topic.Incarnation, Queue: h.QueueID}
	}
	if err := op.allowed(); err != nil {
		return err
	}
	op.next = h.QueueOffset
	return op.subscription(group)
}

// allowed looks whether the pull may be served by what is known of its group and
// topic now, which can change while it is held.
func (op *pullOp) allowed() error {
	b, h := op.b, &op.h
	if group, ok := b.group.State().Group(h.ConsumerGroup); ok && !group.ConsumeEnable {
		return remoting.Errorf(remoting.NoPermission, "the consumer group %s may not consume (consumeEnable)", h.ConsumerGroup)
	}
	topic, ok := b.group.State().Topic(h.Topic)
	switch {
	case !ok || topic.Incarnation != op.queue.Incarnation:
		return b.noTopic(h.Topic)
	case topic.Config.Perm&remoting.PermRead == 0:
		return remoting.Errorf(remoting.NoPermission, "the topic %s can't be read", h.Topic)
	case h.QueueID < 0 || h.QueueID >= topic.Config.ReadQueueNums:
		return remoting.Errorf(remoting.InvalidParameter, "queueId %d: the topic %s has %d queues to read", h.QueueID, h.Topic, topic.Config.ReadQueueNums)
	}
	return nil
}

// subscription finds the filter: the request's own, or the one that the group's
// heartbeats carry.
func (op *pullOp) subscription(group remoting.GroupConfig) error {
	b, h := op.b, &op.h
	expression, kind, invalid := h.Subscription, h.ExpressionType, remoting.SubscriptionParseFailed
	if h.SysFlag&remoting.PullSubscription == 0 {
		sub, data, model := b.clients.subscription(h.ConsumerGroup, h.Topic)
		switch {
		case model == remoting.Broadcasting && !group.ConsumeBroadcastEnable:
			return remoting.Errorf(remoting.NoPermission, "the consumer group %s may not broadcast (consumeBroadcastEnable)", h.ConsumerGroup)
		case sub == nil:
			return fmt.Errorf("%w%w", errSubscriptionMissing, remoting.Errorf(remoting.SubscriptionNotExist, "the consumer group %s has not subscribed to %s at this broker yet", h.ConsumerGroup, h.Topic))
		case data.Version < h.SubVersion:
			return remoting.Errorf(remoting.SubscriptionNotLatest, "the subscription of %s to %s that this broker has is older than the request's", h.ConsumerGroup, h.Topic)
		}
		op.sub = sub
		if expression, kind = data.Expression, data.ExpressionType; data.ClassFilterMode {
			expression, kind = "*", remoting.ExpressionTag // there are no filter servers any more
		}
		if kind != remoting.ExpressionTag {
			invalid = remoting.FilterDataNotExist
		}
	}
	f, err := b.filters.get(kind, expression)
	switch {
	case errors.Is(err, errFiltersOff):
		return remoting.Errorf(remoting.SystemError, "%v", err)
	case err != nil:
		return remoting.Errorf(invalid, "%v", err)
	}
	op.filter = f
	return nil
}

// resubscribed says whether the group has come to want other messages than the
// pull's filter lets through.
func (op *pullOp) resubscribed() bool { return op.sub != nil && op.sub.replaced.Load() }

// moved says whether messages were passed that the pull does not want.
func (op *pullOp) moved() bool { return op.next > op.h.QueueOffset }

// createGroup makes the consumer group, if that is allowed, and begins again.
func (op *pullOp) createGroup(ctx context.Context) {
	_, err := op.b.subscriptionGroup(ctx, op.h.ConsumerGroup)
	if err == nil {
		err = op.check()
	}
	if err != nil {
		op.refuse(err)
		return
	}
	op.begin()
}

// begin commits the offset that the pull carries and has it looked at, unless
// that is at the end of its queue, where most pulls are: it is held at once.
func (op *pullOp) begin() {
	b, h := op.b, &op.h
	h.Subscription = "" // it may be large, and the filter has it
	if h.SysFlag&remoting.PullCommitOffset != 0 && h.CommitOffset >= 0 && b.leads() {
		b.offsets.add(h.ConsumerGroup, h.Topic, h.QueueID, h.CommitOffset, nil)
	}
	if h.SysFlag&remoting.PullSuspend != 0 && *b.cfg.LongPollingEnable {
		suspend := min(time.Duration(max(0, min(h.SuspendTimeoutMillis, maxSuspend.Milliseconds())))*time.Millisecond, maxSuspend)
		op.deadline = time.Now().Add(suspend)
	}
	end := int64(0)
	if q := b.group.Store().Queue(op.queue); q != nil {
		end = q.Max()
	}
	if op.next == end && !op.resetPending() && op.hold(op.deadline, true) {
		return
	}
	if !b.holds.take(op) {
		op.refuse(errManyPulls)
	}
}

var errManyPulls = remoting.Errorf(remoting.SystemBusy, "[OVERLOAD] too many pulls are held (maxHeldPulls), or with filters that are too large, try again later")

// hold parks the pull until a time, or says that it may not be held.
func (op *pullOp) hold(until time.Time, appends bool) bool {
	if op.deadline.IsZero() || !time.Now().Before(op.deadline) {
		return false
	}
	op.parked = true
	return op.b.holds.park(op, until, appends)
}
