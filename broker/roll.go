package broker

import (
	"context"
	"errors"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// rollAtOnce bounds the messages that are appended again together, rollBytes
	// what they have.
	rollAtOnce = 256
	rollBytes  = 1 << 20
	// rollAhead, ms: what is due in less is waited for.
	rollAhead = 2 * minuteMs
)

// Messages may wait for longer than the CommitLog is kept. What is in the way of
// a trim is rolled: appended again, to the timer topic, by the same entry that
// settles the one before. No table says which these are: each queue where messages
// wait has them in the order of the log, so a look at the first of each tells.

// waits is a message that waits in the schedule or the timer topic.
type waits struct {
	queue  *storage.Queue
	offset int64
	unit   storage.Unit
}

// waiting calls f with the messages that wait below a physical offset, of each
// queue in order, until f says that the rest of the queue is not wanted.
func (r *retention) waiting(below int64, f func(waits) (bool, error)) error {
	state, store := r.b.group.State(), r.b.group.Store()
	each := func(name string, next func(q *storage.Queue, from int64) (int64, error)) error {
		topic, ok := state.Topic(name)
		if !ok {
			return nil
		}
		for id := range topic.Config.WriteQueueNums {
			q := store.Queue(storage.QueueID{Topic: name, Incarnation: topic.Incarnation, Queue: id})
			if q == nil {
				continue
			}
			for at := int64(0); ; at++ {
				var err error
				if at, err = next(q, at); err != nil {
					return err
				}
				if at >= q.Max() {
					break
				}
				units, err := q.Units(at, 1, r.units[:0])
				if err != nil {
					return err
				}
				if r.units = units; len(units) == 0 || units[0].Phys >= below {
					break
				}
				if more, err := f(waits{q, at, units[0]}); err != nil {
					return err
				} else if !more {
					break
				}
			}
		}
		return nil
	}
	err := each(remoting.TopicSchedule, func(q *storage.Queue, from int64) (int64, error) {
		return max(from, state.Delivered(q.ID().Queue)), nil
	})
	if err != nil {
		return err
	}
	return each(remoting.TopicTimer, func(q *storage.Queue, from int64) (int64, error) {
		if from = state.Unsettled(q.ID(), from); from >= q.Max() {
			return from, nil
		}
		first, err := q.Min()
		return state.Unsettled(q.ID(), max(from, first)), err
	})
}

// owed is how many bytes below a physical offset are of messages that wait.
func (r *retention) owed(below int64) (bytes int64, err error) {
	err = r.waiting(below, func(w waits) (bool, error) {
		bytes += int64(w.unit.Size)
		return true, nil
	})
	return bytes, err
}

// roll appends again what waits below a physical offset, and says whether nothing
// waits there any more. What is due soon it leaves.
func (r *retention) roll(ctx context.Context, below int64) (clear bool, err error) {
	b := r.b
	clear = true
	var ops []*storeOp
	rolled, bytes := 0, 0
	land := func() error {
		err := b.landed(ctx, ops)
		ops, bytes = ops[:0], 0
		return err
	}
	err = r.waiting(below, func(w waits) (bool, error) {
		if w.unit.Tag < b.group.LogTime()+rollAhead {
			clear = false
			return false, nil
		}
		record, err := b.rolled(w.unit)
		if err != nil {
			return false, err
		}
		rolled++
		if w.queue.ID().Topic == remoting.TopicSchedule {
			return true, b.moveOn(ctx, w, record)
		}
		op := &storeOp{record: record, settles: &fsm.Waiting{Queue: w.queue.ID(), Offset: w.offset}, waited: record.Topic != ""}
		if err := b.propose(op); err != nil {
			return false, err
		}
		ops, bytes = append(ops, op), bytes+int(w.unit.Size)
		if len(ops) < rollAtOnce && bytes < rollBytes {
			return true, nil
		}
		return true, land()
	})
	err = errors.Join(err, land())
	if rolled > 0 {
		b.logger.Info("messages that wait were appended again", "below", below, "count", rolled)
	}
	return clear, err
}

// rolled is the message of a unit as it waits anew; without a topic if the topic
// is gone that it is for.
func (b *Broker) rolled(u storage.Unit) (remoting.Record, error) {
	rec, err := b.group.Store().Read(u.Phys, int(u.Size))
	if err != nil {
		return remoting.Record{}, err
	}
	v, err := remoting.ParseRecord(rec)
	if err != nil {
		return remoting.Record{}, err
	}
	r := v.Record()
	if t, ok := b.group.State().Topic(r.Properties.Get(remoting.PropRealTopic)); !ok || u.Phys < t.Birth {
		b.logger.Warn("a message that waits is dropped: the topic it is for is gone", "topic", r.Properties.Get(remoting.PropRealTopic), "offset", u.Phys)
		return remoting.Record{}, nil
	}
	b.putInBucket(&r, u.Tag)
	r.StoreHost = b.addr
	return r, nil
}

// landed waits for sends that were proposed, and says whether all have settled
// what they were to settle.
func (b *Broker) landed(ctx context.Context, ops []*storeOp) (err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for _, op := range ops {
		r, e := op.wait(ctx)
		if e == nil && r.Status != fsm.Stale { // it was delivered, or recalled
			e = refusalOf(r.Status, remoting.TopicTimer)
		}
		if e != nil {
			err = e // that of one says enough of all
		}
	}
	return err
}

// moveOn moves the next message of a delay level to the timer topic.
func (b *Broker) moveOn(ctx context.Context, w waits, record remoting.Record) error {
	d := fsm.NewDeliverCommand(b.addr, w.queue.ID().Queue, w.offset)
	if record.Topic == "" {
		d.End(d.Begin(fsm.SendMeta{}), 0)
	} else {
		buf, err := remoting.AppendRecord(d.Begin(fsm.SendMeta{}), &record)
		if err != nil {
			return err
		}
		d.End(buf, 1)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := b.group.Deliver(ctx, d.Bytes()) // stale: it was delivered meanwhile
	return err
}
