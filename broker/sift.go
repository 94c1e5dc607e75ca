package broker

import (
	"iter"
	"time"

	"github.com/raftmq/raftmq/storage"
)

const (
	// siftTime bounds for how long a queue is sifted at once: pulls that were not
	// come to by then look for themselves.
	siftTime = 50 * time.Millisecond
	// siftAtOnce is how many pulls are moved or woken between two moments in which
	// others get the lock.
	siftAtOnce = 256
)

// heldQueue are the pulls that are parked for messages of one queue. Sifting looks
// at each new message once for each filter, however many pulls have it.
type heldQueue struct {
	id       storage.QueueID
	byFilter map[*filter]map[*pullOp]struct{}
	sifting  bool // or about to be
	again    bool // messages have come meanwhile
}

// enqueue parks a pull for messages. The lock is held.
func (h *holds) enqueue(op *pullOp) {
	hq := h.byQueue[op.queue]
	if hq == nil {
		hq = &heldQueue{id: op.queue, byFilter: map[*filter]map[*pullOp]struct{}{}}
		h.byQueue[op.queue] = hq
	}
	add(hq.byFilter, op.filter, op)
}

func (h *holds) dequeue(op *pullOp) {
	hq := h.byQueue[op.queue]
	remove(hq.byFilter, op.filter, op)
	h.forget(hq)
}

// forget lets go of a queue that nothing is parked for. The lock is held.
func (h *holds) forget(hq *heldQueue) {
	if len(hq.byFilter) == 0 && !hq.sifting {
		delete(h.byQueue, hq.id)
	}
}

// all are the pulls that are parked for the queue. They may be unparked meanwhile.
func (hq *heldQueue) all() iter.Seq[*pullOp] {
	return func(yield func(*pullOp) bool) {
		for _, ops := range hq.byFilter {
			for op := range ops {
				if !yield(op) {
					return
				}
			}
		}
	}
}

// siftSoon has a queue sifted. The lock is held.
func (h *holds) siftSoon(hq *heldQueue) {
	if hq.sifting {
		hq.again = true
		return
	}
	hq.sifting = true
	h.work(holdJob{queue: hq})
}

// sieve is a filter that messages of a queue go through.
type sieve struct {
	filter *filter
	ops    []*pullOp
	from   int64 // the first message that one of ops has not been compared with
	hit    int64 // the first one that is let through; -1: none
}

// sift wakes the pulls that a queue has messages for, and moves the others on
// behind those messages.
func (h *holds) sift(hq *heldQueue) {
	for {
		var sieves []sieve
		end := int64(0)
		h.mu.Lock()
		hq.again = false
		q := h.b.group.Store().Queue(hq.id)
		if q != nil {
			end = q.Max()
		}
		for f, ops := range hq.byFilter {
			s := sieve{filter: f, from: end, hit: -1}
			for op := range ops {
				switch {
				case op.next >= end: // it is ahead of this replica, or has seen all
				case op.resubscribed(): // the filter is not its any more
					h.wakeOp(op)
				default:
					s.from = min(s.from, op.next)
					s.ops = append(s.ops, op)
				}
			}
			if len(s.ops) > 0 {
				sieves = append(sieves, s)
			}
		}
		h.mu.Unlock()

		to := end
		if len(sieves) > 0 {
			to = h.pour(q, sieves, end)
		}
		for i := range sieves {
			h.settle(&sieves[i], to)
		}

		h.mu.Lock()
		if !hq.again && to == end {
			hq.sifting = false
			h.forget(hq)
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
	}
}

// pour compares the messages of a queue, up to end or a number of them, with the
// sieves. It says up to where.
func (h *holds) pour(q *storage.Queue, sieves []sieve, end int64) int64 {
	at, open := end, 0
	for i := range sieves {
		if s := &sieves[i]; s.filter.all {
			s.hit = s.from
		} else {
			at = min(at, s.from)
			open++
		}
	}
	if open == 0 {
		return end
	}
	properties := propertyReader{store: h.b.group.Store()}
	until, begun := min(end, at+scanUnits), time.Now()
	for buf := make([]storage.Unit, 0, pullAtOnce); at < until; {
		units, err := q.Units(at, int(min(until-at, int64(cap(buf)))), buf[:0])
		for i := range units {
			for k := range sieves {
				s := &sieves[k]
				if s.hit >= 0 || at < s.from {
					continue
				}
				// What can't be read, or takes too long, is the pulls' own affair.
				hit := s.filter.sql != nil && time.Since(begun) > siftTime
				if !hit {
					match, err := s.filter.match(&properties, units[i:])
					hit = match || err != nil
				}
				if hit {
					s.hit = at
					open--
				}
			}
			if at++; open == 0 {
				return end
			}
		}
		if err != nil || len(units) == 0 {
			for k := range sieves {
				if s := &sieves[k]; s.hit < 0 {
					s.hit = max(at, s.from)
				}
			}
			return end
		}
	}
	return at
}

// settle wakes the pulls of a sieve, or moves them on to an offset.
func (h *holds) settle(s *sieve, to int64) {
	for i, op := range s.ops {
		if i%siftAtOnce == 0 {
			if i > 0 {
				h.mu.Unlock() // apply waits for it
			}
			h.mu.Lock()
		}
		switch {
		case !op.held || op.filter != s.filter: // woken meanwhile
		case s.hit < 0:
			op.next = max(op.next, to)
		default:
			// One that was parked behind the hit looks for itself.
			op.next = max(op.next, s.hit)
			h.wakeOp(op)
		}
	}
	h.mu.Unlock()
}
