package broker

import (
	"context"
	"errors"
	"time"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// scanUnits bounds the queue entries that one pull looks at, and scanTime for
	// how long it looks at properties.
	scanUnits = 800
	scanTime  = 100 * time.Millisecond
	// missingWait is how long a pull of what is not here yet is held before the
	// client is sent elsewhere.
	missingWait = 200 * time.Millisecond
)

// look looks for messages, and answers or holds the pull.
func (op *pullOp) look(ctx context.Context) {
	b := op.b
	if op.s.conn.Err() != nil {
		return // nobody waits for it any more
	}
	if err := op.allowed(); err != nil { // things may have changed while it was held
		op.refuse(err)
		return
	}
	q := b.group.Store().Queue(op.queue)
	var r queueRange
	if q != nil {
		var err error
		if r, err = rangeOf(q); err != nil {
			op.missing(err, r)
			return
		}
	}
	// Not before the range was read: what comes after a heartbeat is for its
	// subscription.
	if op.resubscribed() {
		group, _ := b.group.State().Group(op.h.ConsumerGroup)
		if err := op.subscription(group); err != nil {
			op.refuse(err)
			return
		}
	}
	switch {
	case op.reset(ctx, r):
	case op.next < r.first:
		op.answer(remoting.PullOffsetMoved, r.first, r, false)
	case op.next > r.end:
		op.ahead(ctx, r)
	case op.next == r.end:
		op.nothing(r)
	default:
		op.scan(q, r)
	}
}

// queueRange is what a queue has: the offsets [first, end).
type queueRange struct{ first, end int64 }

func rangeOf(q *storage.Queue) (r queueRange, err error) {
	r.first, err = q.Min()
	r.end = q.Max()
	return r, err
}

// ahead handles a pull beyond the end of the queue as this replica has it. Only
// a leader that is sure to be one may call that an error of the consumer's.
func (op *pullOp) ahead(ctx context.Context, r queueRange) {
	b := op.b
	if b.leads() {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		if b.group.Barrier(ctx) == nil {
			if q := b.group.Store().Queue(op.queue); q != nil {
				r.end = q.Max()
			}
			if op.next > r.end {
				op.answer(remoting.PullOffsetMoved, r.end, r, false)
				return
			}
			op.look(ctx)
			return
		}
	}
	if !op.hold(op.deadline, true) {
		op.answer(remoting.PullRetryImmediately, op.next, r, false)
	}
}

// nothing handles a pull that has come to the end of its queue and found nothing:
// it is held, unless entries were passed over when it was looked at first, which
// RocketMQ tells the client at once.
func (op *pullOp) nothing(r queueRange) {
	moved := op.moved()
	if (op.parked || !moved) && op.hold(op.deadline, true) {
		return
	}
	op.b.counters.getMiss.Add(1, time.Time{})
	if moved {
		op.answer(remoting.PullRetryImmediately, op.next, r, false)
	} else {
		op.answer(remoting.PullNotFound, op.next, r, false)
	}
}

// missing handles what is not on this replica at present: the client is sent to
// another one.
func (op *pullOp) missing(err error, r queueRange) {
	b := op.b
	switch {
	case errors.Is(err, storage.ErrMissing):
		// Not before a moment has passed: it may come from there any time.
		if op.deadline.IsZero() || !op.hold(time.Now().Add(missingWait), false) {
			op.elsewhere(r)
		}
	case errors.Is(err, storage.ErrTrimmed):
		op.answer(remoting.PullRetryImmediately, op.next, r, false)
	case errors.Is(err, storage.ErrDropped):
		op.refuse(b.noTopic(op.h.Topic))
	case errors.Is(err, storage.ErrClosed):
		op.refuse(errClosing)
	case errors.Is(err, errHungDisk):
		op.elsewhere(r)
	default:
		b.counters.readErrors.Add(1)
		b.logger.Error("a pull can't be answered", "queue", op.queue, "offset", op.next, "error", err)
		if b.replicas() > 1 {
			op.elsewhere(r) // the others have it as well
			return
		}
		op.refuse(err)
	}
}

// errHungDisk is why a replica that is fenced reads nothing that may not be in
// memory: whoever waits for its disk waits in vain, and keeps others waiting.
var errHungDisk = errors.New("the disk hangs")

var errClosing = remoting.Errorf(remoting.ServiceNotAvailable, "this replica is closing")

// scan looks at the queue from next on and answers with what matches.
func (op *pullOp) scan(q *storage.Queue, r queueRange) {
	b := op.b
	p := pulledMessages.Get().(*pulled)
	defer p.free()
	p.begin(b, &op.h)
	limit := max(scanUnits, int(min(op.h.MaxMsgNums, 20*scanUnits)))
	next, err := op.pick(q, p, limit, r.end)
	switch {
	case len(p.picked) > 0:
		op.deliver(p, next, r)
	case err != nil && next == op.next:
		op.missing(err, r)
	case next == r.end:
		op.next = next
		op.nothing(r)
	default:
		op.next = next
		op.answer(remoting.PullRetryImmediately, next, r, false)
	}
}

// pick takes what matches of at most limit entries, and says which is the first
// that was not looked at, and why, if there are more that could have been.
func (op *pullOp) pick(q *storage.Queue, p *pulled, limit int, end int64) (next int64, err error) {
	properties := propertyReader{store: op.b.group.Store()}
	begun := time.Now()
	for next = op.next; limit > 0 && next < end; {
		units, err := q.Units(next, min(cap(p.units), limit), p.units[:0])
		for i, u := range units {
			match, err := op.filter.match(&properties, units[i:])
			if err != nil || match && !p.pick(next, u) {
				return next, err
			}
			next++
			limit--
			if op.filter.sql != nil && time.Since(begun) > scanTime {
				return next, nil
			}
		}
		if err != nil || len(units) == 0 { // the queue is not what it was
			return next, err
		}
	}
	return next, nil
}

// match says whether the first of some messages is wanted. The others are about to
// be asked for.
func (f *filter) match(properties *propertyReader, units []storage.Unit) (bool, error) {
	if f.sql == nil {
		return f.matchTag(units[0].Tag), nil
	}
	p, err := properties.properties(units)
	return err == nil && f.sql.Match(p.All()), err
}

// deliver answers with the messages that were picked; the entries before next
// were looked at.
func (op *pullOp) deliver(p *pulled, next int64, r queueRange) {
	b := op.b
	switch err := b.pulling.reserve(op.s.conn, p.bytes); err {
	case nil:
	case errSlowReader:
		// It gets to read this, and to pull again, when it has taken what waits.
		op.answer(remoting.PullRetryImmediately, op.next, r, false)
		return
	default:
		op.refuse(err)
		return
	}
	read, err := 0, errHungDisk
	if !p.cold || b.group.Fenced() == "" {
		read, err = p.read(b.group.Store())
	}
	if read < len(p.picked) { // what follows is for the next pull
		next = p.picked[read].offset
	}
	if read == 0 {
		b.pulling.give(p.bytes)
		op.missing(err, r)
		return
	}
	b.counters.get.Add(int64(read), time.Time{})
	op.responder.RespondSegments(op.response(remoting.Success, next, r, p.cold), p.segments, p.handOver(&b.pulling))
}

func (op *pullOp) answer(code int32, next int64, r queueRange, cold bool) {
	op.responder.Respond(op.response(code, next, r, cold))
}

// elsewhere sends the client to another replica.
func (op *pullOp) elsewhere(r queueRange) {
	resp := op.response(remoting.PullRetryImmediately, op.next, r, false)
	if b := op.b; b.leads() {
		resp.Header.(*remoting.PullResponse).SuggestBrokerID = b.anotherReplica(0)
	}
	op.responder.Respond(resp)
}

func (op *pullOp) response(code int32, next int64, r queueRange, cold bool) *remoting.Command {
	resp := &remoting.Command{Code: code, Header: &remoting.PullResponse{
		SuggestBrokerID: op.suggest(cold), NextBeginOffset: next, MinOffset: r.first, MaxOffset: r.end,
	}}
	if b := op.b; b.leaves() {
		// The routes of the client may still call this one the leader.
		if l := b.group.Leadership(); l.Address != "" && !l.Self {
			resp.Ext.Add(extLeader, l.Address)
		}
	}
	return resp
}

// suggest is the broker to pull from next: the leader, while there is one; but a
// follower for what is not in memory any more.
func (op *pullOp) suggest(cold bool) int64 {
	b := op.b
	lead := b.group.Leadership()
	switch {
	case b.group.Err() != nil:
		return 0 // this replica gets nothing new any more
	case b.leaves() && lead.Node == "":
		return b.anotherReplica(0)
	case b.leaves():
		return 0 // see response
	case cold && *b.cfg.SlaveReadEnable && lead.Self:
		group, _ := b.group.State().Group(op.h.ConsumerGroup)
		return b.anotherReplica(group.WhichBrokerWhenSlow)
	case cold && *b.cfg.SlaveReadEnable, lead.Node == "":
		return b.slaveID()
	}
	return 0
}
