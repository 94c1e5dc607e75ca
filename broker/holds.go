package broker

import (
	"container/heap"
	"sync"
	"time"

	"github.com/raftmq/raftmq/storage"
)

// pullers is how many goroutines look again for held pulls that were woken.
const pullers = 4

// holds are the pulls that wait for messages. None has a goroutine or a timer of
// its own: appends wake those of their queues, and one goroutine those whose
// time is up.
type holds struct {
	b *Broker

	mu       sync.Mutex
	byQueue  map[storage.QueueID]map[*pullOp]struct{}
	byConn   map[*session]map[*pullOp]struct{}
	byTime   holdHeap
	released bool // none are held any more

	timer chan struct{} // the next deadline has changed
	ready chan *pullOp
	woken []*pullOp // waiting for a place in ready; guarded by mu
	more  chan struct{}
}

func newHolds(b *Broker) *holds {
	return &holds{
		b:       b,
		byQueue: map[storage.QueueID]map[*pullOp]struct{}{},
		byConn:  map[*session]map[*pullOp]struct{}{},
		timer:   make(chan struct{}, 1),
		more:    make(chan struct{}, 1),
		ready:   make(chan *pullOp),
	}
}

// park holds a pull until a time. It says no when too many are held, or when
// there is something for the pull now: a message may have come while nobody was
// looking.
func (h *holds) park(op *pullOp, until time.Time) bool {
	h.mu.Lock()
	if h.released || len(h.byTime) >= h.b.cfg.MaxHeldPulls || op.s.conn.Err() != nil {
		h.mu.Unlock()
		return false
	}
	op.held = true
	op.until = until
	add(h.byQueue, op.queue, op)
	add(h.byConn, op.s, op)
	heap.Push(&h.byTime, op)
	first := h.byTime[0] == op
	h.mu.Unlock()
	if first {
		poke(h.timer)
	}
	if q := h.b.group.Store().Queue(op.queue); q != nil && q.Max() > op.next {
		h.wakeOp(op)
	}
	return true
}

func add[K comparable](m map[K]map[*pullOp]struct{}, k K, op *pullOp) {
	if m[k] == nil {
		m[k] = map[*pullOp]struct{}{}
	}
	m[k][op] = struct{}{}
}

func remove[K comparable](m map[K]map[*pullOp]struct{}, k K, op *pullOp) {
	delete(m[k], op)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}

// take ends the holding of a pull, or says that it was not held. The lock is
// held.
func (h *holds) take(op *pullOp) bool {
	if !op.held {
		return false
	}
	op.held = false
	remove(h.byQueue, op.queue, op)
	remove(h.byConn, op.s, op)
	heap.Remove(&h.byTime, op.index)
	return true
}

// wake looks again for the pulls of these queues.
func (h *holds) wake(queues []*storage.Queue) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, q := range queues {
		for op := range h.byQueue[q.ID()] {
			if h.take(op) {
				h.woken = append(h.woken, op)
			}
		}
	}
	if len(h.woken) > 0 {
		poke(h.more)
	}
}

func (h *holds) wakeOp(op *pullOp) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.take(op) {
		h.woken = append(h.woken, op)
		poke(h.more)
	}
}

// wakeAll looks again for all pulls: topics may have gone, or all of it come.
func (h *holds) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.byTime) > 0 {
		op := h.byTime[0]
		h.take(op)
		h.woken = append(h.woken, op)
	}
	poke(h.more)
}

// drop forgets the pulls of a connection that is gone.
func (h *holds) drop(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for op := range h.byConn[s] {
		h.take(op)
	}
}

// release answers all pulls and holds none any more.
func (h *holds) release() {
	h.mu.Lock()
	h.released = true
	h.mu.Unlock()
	h.wakeAll()
}

// count is how many pulls are held.
func (h *holds) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.byTime)
}

// run feeds the pullers and watches the clock.
func (h *holds) run() {
	var group sync.WaitGroup
	defer group.Wait()
	defer close(h.ready)
	for range pullers {
		group.Go(func() {
			for op := range h.ready {
				op.look(h.b.ctx)
			}
		})
	}
	group.Go(h.watch)
	for {
		select {
		case <-h.more:
		case <-h.b.ctx.Done():
			return
		}
		for {
			h.mu.Lock()
			batch := h.woken
			h.woken = nil
			h.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			for _, op := range batch {
				select {
				case h.ready <- op:
				case <-h.b.ctx.Done():
					return
				}
			}
		}
	}
}

// watch answers the pulls whose time is up.
func (h *holds) watch() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		h.mu.Lock()
		wait := time.Hour
		for len(h.byTime) > 0 {
			op := h.byTime[0]
			if wait = time.Until(op.until); wait > 0 {
				break
			}
			h.take(op)
			op.deadline = time.Time{} // it is answered now, whatever it finds
			h.woken = append(h.woken, op)
			poke(h.more)
		}
		h.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-h.timer:
		case <-h.b.ctx.Done():
			return
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// holdHeap orders held pulls by the time they are held until.
type holdHeap []*pullOp

func (h holdHeap) Len() int           { return len(h) }
func (h holdHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h holdHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *holdHeap) Push(x any) {
	op := x.(*pullOp)
	op.index = len(*h)
	*h = append(*h, op)
}

func (h *holdHeap) Pop() any {
	old := *h
	op := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	op.index = -1
	return op
}
