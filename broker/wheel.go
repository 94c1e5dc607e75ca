package broker

import (
	"container/heap"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// openBuckets is how many buckets may be open when the sweep opens more.
	openBuckets = 16
	// maxFlying bounds the messages that are being delivered, flyingBytes what they
	// have together.
	maxFlying   = 1024
	flyingBytes = 4 << 20
	// againAfter is after how long, ms, a delivery that failed is tried again.
	againAfter = 100
	// sweepAtOnce is how many buckets are looked at before what is due has its turn.
	sweepAtOnce = 1024
	// sweepPeriod is how often all buckets are looked at.
	sweepPeriod = time.Hour
)

// wheel delivers timer messages when they are due, while this replica leads. It
// has the buckets open of the minute that is, the one before and the next: what
// it keeps in memory is what is due soon. Delivering is a send of the message to
// its topic that settles the one that waited, so that another leader goes on where
// this one was, and none is delivered twice. What was due while nobody led, or the
// clock leapt, is found by a sweep over all buckets that each term begins with.
//
//	W1 What is due before the minute that is next was taken up by an open bucket,
//	   or lies in one that the sweep is to come to, or is settled.
//	W2 Everything here is run's, but landed.
type wheel struct {
	b    *Broker
	poke chan struct{}

	term    uint64
	topic   fsm.Topic
	buckets map[int32]*bucket
	next    int64 // the first minute whose buckets were not opened
	swept   sweep
	sweeps  atomic.Int64   // that came to their end
	units   []storage.Unit // buffer
	flying  int            // deliveries that are with raft
	bytes   int            // of them

	mu     sync.Mutex
	landed []landing
}

// sweep looks for what is overdue in all buckets, backwards from a minute.
type sweep struct {
	begun time.Time
	from  int64 // minute
	done  int32 // buckets
	at    int64 // offset in the next one
}

func newWheel(b *Broker) *wheel {
	return &wheel{b: b, poke: make(chan struct{}, 1), buckets: map[int32]*bucket{}}
}

// wake has the wheel look at once for what there is to do.
func (w *wheel) wake() { poke(w.poke) }

func (w *wheel) run() {
	timer := time.NewTimer(leadingTick)
	defer timer.Stop()
	for {
		timer.Reset(w.turn())
		select {
		case <-w.poke:
		case <-timer.C:
		case <-w.b.ctx.Done():
			return
		}
	}
}

// turn does what there is to do now, or some of it, and says when to come again.
func (w *wheel) turn() time.Duration {
	w.land()
	lead := w.b.group.Leadership()
	topic, ok := w.b.group.State().Topic(remoting.TopicTimer)
	if !lead.Self || !ok {
		w.term = 0
		clear(w.buckets)
		return leadingTick
	}
	now := w.b.group.LogTime()
	if w.term != lead.Term {
		w.term, w.topic = lead.Term, topic
		clear(w.buckets)
		w.next = 0
	}
	w.close(now)
	w.open(now)
	more, err := w.scan()
	if err == nil && !more {
		more, err = w.sweep(now)
	}
	wait := w.deliver(now)
	if err != nil {
		w.b.logger.Warn("which messages are due can't be told now", "error", err)
		return min(wait, againAfter*time.Millisecond)
	}
	if more {
		return 0
	}
	return wait
}

// open opens the buckets up to the next minute.
func (w *wheel) open(now int64) {
	if w.next < now/minuteMs-1 { // it begins, or the clock has leapt
		w.next = now/minuteMs - 1
		w.swept = sweep{}
	}
	for ; w.next <= now/minuteMs+1; w.next++ {
		w.openBucket(bucketOf(w.next*minuteMs, w.topic.Config.WriteQueueNums), (w.next+1)*minuteMs)
	}
}

func (w *wheel) openBucket(queue int32, until int64) {
	k := w.buckets[queue]
	switch {
	case k == nil:
		w.buckets[queue] = newBucket(storage.QueueID{Topic: w.topic.Config.Name, Incarnation: w.topic.Incarnation, Queue: queue}, until)
	case k.until < until:
		k.until = until
		k.rewind()
	}
}

// close forgets buckets of which nothing is left. One stays open for a minute
// longer than its own, for what is stored late.
func (w *wheel) close(now int64) {
	for queue, k := range w.buckets {
		if k.done() && k.until+minuteMs <= now {
			delete(w.buckets, queue)
		}
	}
}

// scan looks at what is new in the open buckets, and says whether there is more.
func (w *wheel) scan() (more bool, err error) {
	for _, k := range w.buckets {
		lost := k.lost
		left, e := k.scan(w.b.group.Store(), w.b.group.State(), &w.units)
		more, err = more || left, errors.Join(err, e)
		if k.lost && !lost {
			w.b.logger.Error("timer messages were trimmed before they were due", "queue", k.id)
		}
	}
	return more, err
}

// sweep looks at some buckets for what is overdue, and opens those that have some.
// It says whether there are more.
func (w *wheel) sweep(now int64) (more bool, err error) {
	s, n := &w.swept, w.topic.Config.WriteQueueNums
	if s.done >= n || s.begun.IsZero() {
		if !s.begun.IsZero() && time.Since(s.begun) < sweepPeriod {
			return false, nil
		}
		*s = sweep{begun: time.Now(), from: now/minuteMs - 1}
	}
	until := s.from * minuteMs // younger ones are in buckets that are open
	for range sweepAtOnce {
		if s.done >= n || len(w.buckets) >= openBuckets { // then when some are closed
			return false, nil
		}
		queue := int32((s.from + int64(n) - int64(s.done)) % int64(n))
		q := w.b.group.Store().Queue(storage.QueueID{Topic: w.topic.Config.Name, Incarnation: w.topic.Incarnation, Queue: queue})
		if q != nil && w.b.group.State().Unsettled(q.ID(), 0) < q.Max() {
			overdue := false
			s.at, _, err = eachUnsettled(q, w.b.group.State(), s.at, s.at+scanAtOnce, &w.units, func(_ int64, u storage.Unit) bool {
				overdue = u.Tag < until
				return !overdue
			})
			switch {
			case err != nil:
				return true, err
			case overdue:
				w.openBucket(queue, until)
			case s.at < q.Max():
				return true, nil
			}
		}
		if s.done, s.at = s.done+1, 0; s.done == n {
			w.sweeps.Add(1)
		}
	}
	return true, nil
}

// deliver delivers what is due, first what was due first, and says when to look
// again.
func (w *wheel) deliver(now int64) time.Duration {
	for {
		var k *bucket
		for _, other := range w.buckets {
			if len(other.items) > 0 && (k == nil || compareDue(other.items[0], k.items[0]) < 0) {
				k = other
			}
		}
		switch {
		case k == nil:
			return leadingTick
		case k.items[0].at > now:
			return min(leadingTick, time.Duration(k.items[0].at-now)*time.Millisecond)
		case w.flying >= maxFlying || w.bytes >= flyingBytes:
			return leadingTick // those who land wake it
		}
		u := heap.Pop(&k.items).(dueUnit)
		if w.b.group.State().Settled(k.id, u.offset) {
			continue // recalled
		}
		err := w.launch(k, u)
		switch {
		case err == nil:
		case errors.Is(err, raftgroup.ErrNotLeader), errors.Is(err, raftgroup.ErrBusy):
			heap.Push(&k.items, u)
			return againAfter * time.Millisecond
		default:
			w.b.logger.Warn("a message that is due can't be delivered now", "queue", k.id, "offset", u.offset, "error", err)
			u.at = now + againAfter
			heap.Push(&k.items, u)
		}
	}
}

// launch gives the delivery of a message to raft.
func (w *wheel) launch(k *bucket, u dueUnit) error {
	r, err := w.b.waiter(storage.Unit{Phys: u.phys, Size: u.size})
	if errors.Is(err, errUndeliverable) {
		w.b.logger.Error("a message that is due is dropped", "error", err)
		return w.send(&flight{w: w, bucket: k, unit: u})
	}
	if err != nil {
		return err
	}
	return w.send(&flight{w: w, bucket: k, unit: u, record: r})
}

func (w *wheel) send(f *flight) error {
	send := raftgroup.Send{
		SendMeta: fsm.SendMeta{Settles: &fsm.Waiting{Queue: f.bucket.id, Offset: f.unit.offset}},
		Size:     recordOverhead, Accepted: true, Op: f,
	}
	if f.record.Topic != "" {
		send.Waited, send.Count = true, 1
		send.Size += f.record.Size()
	}
	f.size = send.Size
	err := w.b.group.Append(send)
	if err == nil {
		f.bucket.flying++
		w.flying++
		w.bytes += f.size
	}
	return err
}

// flight is the delivery of a message that is with raft: a send that settles it.
type flight struct {
	w      *wheel
	bucket *bucket
	unit   dueUnit
	record remoting.Record // without a topic if the message is only to be settled
	size   int
}

// landing is how it ended.
type landing struct {
	*flight
	status fsm.Status
	err    error
}

// AppendRecords implements raftgroup.SendOp.
func (f *flight) AppendRecords(dst []byte) ([]byte, error) {
	if f.record.Topic == "" {
		return dst, nil
	}
	return remoting.AppendRecord(dst, &f.record)
}

// Done implements raftgroup.SendOp.
func (f *flight) Done(r fsm.Result, err error) {
	f.w.mu.Lock()
	f.w.landed = append(f.w.landed, landing{f, r.Status, err})
	f.w.mu.Unlock()
	f.w.wake()
}

// land takes note of the deliveries that have ended.
func (w *wheel) land() {
	w.mu.Lock()
	landed := w.landed
	w.landed = nil
	w.mu.Unlock()
	for _, l := range landed {
		l.bucket.flying--
		w.flying--
		w.bytes -= l.size
		switch {
		case l.err != nil:
			// Settled once, it is delivered once, however often it is tried.
			l.unit.at = w.b.group.LogTime() + againAfter
			heap.Push(&l.bucket.items, l.unit)
		case l.status == fsm.Stored, l.status == fsm.Stale, l.status == fsm.NotWaiting:
		default:
			w.b.logger.Warn("a message that is due is dropped", "queue", l.bucket.id, "offset", l.unit.offset, "because", refusalOf(l.status, l.record.Topic))
			if err := w.send(&flight{w: w, bucket: l.bucket, unit: l.unit}); err != nil {
				l.unit.at = w.b.group.LogTime() + againAfter
				heap.Push(&l.bucket.items, l.unit)
			}
		}
	}
}
