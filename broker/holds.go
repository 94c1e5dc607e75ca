package broker

import (
	"container/heap"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/raftmq/raftmq/storage"
)

const (
	// holdSweep is how often held pulls are compared with their queues, whatever
	// has or has not told of a change.
	holdSweep = 5 * time.Second
	// holdPause is how long changes of topics and groups gather before held pulls
	// are compared with them.
	holdPause = 100 * time.Millisecond
)

// holds are the pulls that were taken and are not answered: those that are being
// looked at, or wait for that, and those that wait for messages. None of the
// latter has a goroutine or a timer of its own: appends wake those of their
// queues, and one goroutine those whose time is up.
//
//	H1  A pull is parked (in byQueue, byConn and byTime), or ready, or being
//	    looked at, or answered: never two of these. Only whoever looks at it
//	    changes it.
//	H2  At most MaxHeldPulls are parked or ready.
//	H3  A message that is there when park returns, or comes later, wakes the pull
//	    parked for it.
type holds struct {
	b     *Broker
	limit int // of goroutines that look

	mu       sync.Mutex
	byQueue  map[storage.QueueID]map[*pullOp]struct{}
	byConn   map[*session]map[*pullOp]struct{}
	byTime   holdHeap
	ready    []*pullOp
	looking  int
	released bool // none are parked any more
	group    sync.WaitGroup

	timer  chan struct{} // the next deadline has changed
	tables chan struct{} // topics or groups have changed
}

func newHolds(b *Broker) *holds {
	return &holds{
		b: b, limit: b.cfg.MaxBlockingRequests,
		byQueue: map[storage.QueueID]map[*pullOp]struct{}{},
		byConn:  map[*session]map[*pullOp]struct{}{},
		timer:   make(chan struct{}, 1),
		tables:  make(chan struct{}, 1),
	}
}

// take has a new pull looked at, or says that there are too many.
func (h *holds) take(op *pullOp) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full() {
		return false
	}
	h.look(op)
	return true
}

func (h *holds) full() bool { return len(h.byTime)+len(h.ready) >= h.b.cfg.MaxHeldPulls }

// look has a pull looked at. The lock is held.
func (h *holds) look(op *pullOp) {
	h.ready = append(h.ready, op)
	if h.looking < h.limit {
		h.looking++
		h.group.Go(h.lookAll)
	}
}

// lookAll looks at pulls until none is ready.
func (h *holds) lookAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.ready) > 0 {
		op := h.ready[0]
		h.ready[0] = nil
		if h.ready = h.ready[1:]; len(h.ready) == 0 {
			h.ready = nil
		}
		h.mu.Unlock()
		op.look(h.b.ctx)
		h.mu.Lock()
	}
	h.looking--
}

// park holds a pull until a time, and until then for messages if appends is set.
// It says no when too many are held or the connection is gone.
func (h *holds) park(op *pullOp, until time.Time, appends bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released || h.full() || op.s.conn.Err() != nil {
		return false
	}
	op.held, op.appends, op.until = true, appends, until
	if appends {
		add(h.byQueue, op.queue, op)
	}
	add(h.byConn, op.s, op)
	heap.Push(&h.byTime, op)
	if h.byTime[0] == op {
		poke(h.timer)
	}
	// One may have come while nobody was looking. (H3)
	if q := h.b.group.Store().Queue(op.queue); appends && q != nil && q.Max() > op.next {
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

// unpark ends the parking of a pull. The lock is held.
func (h *holds) unpark(op *pullOp) {
	op.held = false
	if op.appends {
		remove(h.byQueue, op.queue, op)
	}
	remove(h.byConn, op.s, op)
	heap.Remove(&h.byTime, op.index)
}

// wakeOp has a parked pull looked at again. The lock is held.
func (h *holds) wakeOp(op *pullOp) {
	h.unpark(op)
	h.look(op)
}

// wake looks again for the pulls of these queues.
func (h *holds) wake(queues []*storage.Queue) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, q := range queues {
		for op := range h.byQueue[q.ID()] {
			if q.Max() > op.next { // or it is ahead of this replica
				h.wakeOp(op)
			}
		}
	}
}

// changed has held pulls compared with the topics and groups there are.
func (h *holds) changed() { poke(h.tables) }

// recheck wakes the pulls that may not be held any more, or whose messages have
// come without an append: with a snapshot.
func (h *holds) recheck() {
	h.mu.Lock()
	queues := slices.Collect(maps.Keys(h.byQueue))
	h.mu.Unlock()
	for _, id := range queues {
		end := int64(0)
		if q := h.b.group.Store().Queue(id); q != nil {
			end = q.Max()
		}
		h.mu.Lock() // for a moment: apply waits for it
		for op := range h.byQueue[id] {
			if end > op.next || op.allowed() != nil || op.resetPending() {
				h.wakeOp(op)
			}
		}
		h.mu.Unlock()
	}
}

// drop forgets the pulls of a connection that is gone.
func (h *holds) drop(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for op := range h.byConn[s] {
		h.unpark(op)
	}
}

// release answers all pulls and parks none any more.
func (h *holds) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.released = true
	for len(h.byTime) > 0 {
		h.wakeOp(h.byTime[0])
	}
}

// count is how many pulls are held.
func (h *holds) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.byTime)
}

// run watches the clock and the tables, until the broker is closed.
func (h *holds) run() {
	// Nobody asks any more: all connections are closed before ctx ends.
	defer h.group.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	sweep := time.NewTicker(holdSweep)
	defer sweep.Stop()
	tables, pause := h.tables, (<-chan time.Time)(nil)
	for {
		timer.Reset(h.expire(time.Now()))
		select {
		case <-timer.C:
		case <-h.timer:
		case <-sweep.C:
			h.recheck()
		case <-tables:
			h.recheck()
			tables, pause = nil, time.After(holdPause)
		case <-pause:
			tables, pause = h.tables, nil
		case <-h.b.ctx.Done():
			return
		}
	}
}

// expire has the pulls answered whose time is up, and says when to look again.
func (h *holds) expire(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.byTime) > 0 {
		op := h.byTime[0]
		if wait := op.until.Sub(now); wait > 0 {
			return wait
		}
		op.deadline = time.Time{} // it is answered now, whatever it finds
		h.wakeOp(op)
	}
	return time.Hour
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// holdHeap orders parked pulls by the time they are parked until.
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
