package broker

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// deliverAtOnce bounds the messages of one deliver command, deliverBytes what
	// they have together.
	deliverAtOnce = 64
	deliverBytes  = 256 << 10
	// deliverRetry is after how long a delivery that failed is tried again.
	deliverRetry = 100 * time.Millisecond
)

// schedule delivers delayed messages when they are due. Each level is a queue of
// the schedule topic, in the order of due times; how far each was emptied is
// replicated state, changed by the very entry that appends what was due.
type schedule struct {
	b     *Broker
	units []storage.Unit
}

// deliver delivers what is due and says when to look again. The levels take
// turns, so that a busy one does not hold up the others.
func (s *schedule) deliver(ctx context.Context) time.Duration {
	topic, ok := s.b.group.State().Topic(remoting.TopicSchedule)
	if !ok {
		return leadingTick
	}
	next, more := leadingTick, false
	for level := range topic.Config.WriteQueueNums {
		q := s.b.group.Store().Queue(storage.QueueID{Topic: remoting.TopicSchedule, Incarnation: topic.Incarnation, Queue: level})
		if q == nil {
			continue
		}
		n, wait, err := s.empty(ctx, q, level)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, raftgroup.ErrNotLeader) && !errors.Is(err, raftgroup.ErrNoRoom) {
				s.b.logger.Warn("delayed messages that are due can't be delivered now", "level", level+1, "error", err)
			}
			wait = deliverRetry
			if errors.Is(err, raftgroup.ErrNoRoom) {
				wait = leadingTick // it is told, and due, when there is room
			}
		}
		next, more = min(next, wait), more || n > 0
	}
	if more {
		return 0
	}
	return next
}

// empty delivers some of what is due of a level: n messages, or none, and then the
// time to wait for the next.
func (s *schedule) empty(ctx context.Context, q *storage.Queue, level int32) (n int, wait time.Duration, err error) {
	from := s.b.group.State().Delivered(level)
	first, err := q.Min()
	if err != nil {
		return 0, 0, err
	}
	if from < first {
		// Trimmed before they were due: only by command of an operator, as
		// retention spares them.
		s.b.logger.Error("delayed messages were trimmed before they were delivered", "level", level+1, "count", first-from)
	}
	command, n, wait, err := s.command(q, level, from, first)
	if err != nil || n == 0 {
		return 0, wait, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	results, err := s.b.group.Deliver(ctx, command)
	for _, r := range results {
		if r.Status != fsm.Stored && r.Status != fsm.Stale {
			s.b.logger.Warn("a delayed message was dropped", "level", level+1, "because", refusalOf(r.Status, "it is for"))
		}
	}
	if err != nil {
		return 0, deliverRetry, err
	}
	return n, leadingTick, nil
}

// command makes the command that delivers what is due from an offset on: n
// messages, or none, and then the time to wait for the next.
func (s *schedule) command(q *storage.Queue, level int32, from, first int64) (command []byte, n int, wait time.Duration, err error) {
	b := s.b
	d := fsm.NewDeliverCommand(b.addr, level, from)
	for ; from+int64(n) < first && n < maxBatch; n++ {
		d.End(d.Begin(fsm.SendMeta{}), 0)
	}
	if n > 0 {
		return d.Bytes(), n, 0, nil
	}
	if s.units, err = q.Units(from, deliverAtOnce, s.units[:0]); err != nil {
		return nil, 0, 0, err
	}
	now := b.group.LogTime()
	latest := int64(math.MaxInt64)
	if int(level) < len(b.node.delays) {
		// What is due later was delayed when the level was longer: it comes at once,
		// as in RocketMQ.
		latest = now + b.node.delays[level].Milliseconds()
	}
	for _, u := range s.units {
		if u.Tag > now && u.Tag <= latest {
			return d.Bytes(), n, time.Duration(u.Tag-now) * time.Millisecond, nil
		}
		if n > 0 && d.Len()+int(u.Size) > deliverBytes {
			break
		}
		rec, err := b.waiter(u)
		if errors.Is(err, errUndeliverable) {
			b.logger.Error("a delayed message is dropped", "error", err)
			d.End(d.Begin(fsm.SendMeta{}), 0)
			n++
			continue
		}
		if err != nil {
			return nil, 0, 0, err
		}
		buf, err := remoting.AppendRecord(d.Begin(fsm.SendMeta{}), &rec)
		if err != nil {
			return nil, 0, 0, err
		}
		d.End(buf, 1)
		n++
	}
	return d.Bytes(), n, leadingTick, nil
}

var errUndeliverable = errors.New("undeliverable")

// waiter is the message that is delivered when a unit of the schedule or timer
// topic is due.
func (b *Broker) waiter(u storage.Unit) (remoting.Record, error) {
	rec, err := b.group.Store().Read(u.Phys, int(u.Size))
	if err != nil {
		return remoting.Record{}, err
	}
	v, err := remoting.ParseRecord(rec)
	if err != nil {
		return remoting.Record{}, errors.Join(errUndeliverable, err)
	}
	r, err := unschedule(v)
	if err != nil {
		return r, errors.Join(errUndeliverable, err)
	}
	r.StoreHost = b.addr
	return r, nil
}
