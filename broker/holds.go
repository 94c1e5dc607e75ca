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
	// has or has not told of a change, and those answered that only messages they
	// do not want have passed.
	holdSweep = 5 * time.Second
	// holdPause is how long changes of topics and groups gather before held pulls
	// are compared with them.
	holdPause = 100 * time.Millisecond
)

// maxHeldFilters bounds what the filters of the pulls that are held take, in
// bytes. Pulls with one expression share a filter.
const maxHeldFilters = 64 << 20

// holds are the pulls that were taken and are not answered: those that are being
// looked at, or wait for that, and those that wait for messages. None of the
// latter has a goroutine or a timer of its own: appends have their queues sifted
// for messages that some of them want, and one goroutine wakes those whose time
// is up.
//
//	H1  A pull is parked (in byQueue, byConn and byTime), or ready, or being
//	    looked at, or answered: never two of these. Only whoever looks at it
//	    changes it, but for next of a parked one, which sifting moves.
//	H2  At most MaxHeldPulls are parked or ready, with filters of maxHeldFilters.
//	H3  A message that is there when park returns, or comes later, and that the
//	    parked pull's filter lets through wakes it.
//	H4  Whoever appends does work in proportion to the queues, whatever is parked.
type holds struct {
	b     *Broker
	limit int // of goroutines that look

	mu         sync.Mutex
	byQueue    map[storage.QueueID]*heldQueue
	byConn     map[*session]map[*pullOp]struct{}
	byTime     holdHeap
	ready      int // pulls among jobs
	jobs       []holdJob
	looking    int
	filters    map[*filter]int // of parked and ready pulls, and how many these are
	filterSize int
	released   bool // none are parked any more
	group      sync.WaitGroup

	timer  chan struct{} // the next deadline has changed
	tables chan struct{} // topics or groups have changed
}

// holdJob is a pull to look at, or a queue to sift.
type holdJob struct {
	op    *pullOp
	queue *heldQueue
}

func newHolds(b *Broker) *holds {
	return &holds{
		b: b, limit: b.cfg.MaxBlockingRequests,
		byQueue: map[storage.QueueID]*heldQueue{},
		byConn:  map[*session]map[*pullOp]struct{}{},
		filters: map[*filter]int{},
		timer:   make(chan struct{}, 1),
		tables:  make(chan struct{}, 1),
	}
}

// take has a new pull looked at, or says that there are too many.
func (h *holds) take(op *pullOp) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full(op) {
		return false
	}
	h.look(op)
	return true
}

// full says whether a pull would be one too many.
func (h *holds) full(op *pullOp) bool {
	size := h.filterSize
	if h.filters[op.filter] == 0 {
		size += op.filter.size
	}
	return len(h.byTime)+h.ready >= h.b.cfg.MaxHeldPulls || size > maxHeldFilters
}

// countFilter counts a filter of a pull that is parked or ready, or does so no more.
func (h *holds) countFilter(f *filter, n int) {
	switch was := h.filters[f]; {
	case was == 0:
		h.filterSize += f.size
	case was+n == 0:
		h.filterSize -= f.size
		delete(h.filters, f)
		return
	}
	h.filters[f] += n
}

// look has a pull looked at. The lock is held.
func (h *holds) look(op *pullOp) {
	h.countFilter(op.filter, 1)
	h.ready++
	h.work(holdJob{op: op})
}

// work has a job done. The lock is held.
func (h *holds) work(j holdJob) {
	h.jobs = append(h.jobs, j)
	if h.looking < h.limit {
		h.looking++
		h.group.Go(h.workAll)
	}
}

// workAll does jobs until there are none.
func (h *holds) workAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.jobs) > 0 {
		j := h.jobs[0]
		h.jobs[0] = holdJob{}
		if h.jobs = h.jobs[1:]; len(h.jobs) == 0 {
			h.jobs = nil
		}
		if j.op != nil {
			h.ready--
			h.countFilter(j.op.filter, -1)
		}
		h.mu.Unlock()
		if j.op != nil {
			j.op.look(h.b.ctx)
		} else {
			h.sift(j.queue)
		}
		h.mu.Lock()
	}
	h.looking--
}

// park holds a pull until a time, and until then for messages if appends is set.
// It says no when too many are held or the connection is gone.
func (h *holds) park(op *pullOp, until time.Time, appends bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released || h.full(op) || op.s.conn.Err() != nil {
		return false
	}
	op.held, op.appends, op.until = true, appends, until
	if appends {
		h.enqueue(op)
	}
	h.countFilter(op.filter, 1)
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
		h.dequeue(op)
	}
	h.countFilter(op.filter, -1)
	remove(h.byConn, op.s, op)
	heap.Remove(&h.byTime, op.index)
}

// wakeOp has a parked pull looked at again. The lock is held.
func (h *holds) wakeOp(op *pullOp) {
	h.unpark(op)
	h.look(op)
}

// wake has these queues sifted, if pulls wait for their messages. It is called by
// apply. (H4)
func (h *holds) wake(queues []*storage.Queue) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, q := range queues {
		if hq := h.byQueue[q.ID()]; hq != nil {
			h.siftSoon(hq)
		}
	}
}

// changed has held pulls compared with the topics, groups and subscriptions there
// are.
func (h *holds) changed() { poke(h.tables) }

// recheck wakes the pulls that may not be held any more, or not with their filter,
// and finds messages that have come without an append: with a snapshot. If told, it
// also has those answered that messages have passed which they do not want: the
// client learns where to go on.
func (h *holds) recheck(passed bool) {
	h.mu.Lock()
	queues := slices.Collect(maps.Values(h.byQueue))
	h.mu.Unlock()
	for _, hq := range queues {
		end := int64(0)
		if q := h.b.group.Store().Queue(hq.id); q != nil {
			end = q.Max()
		}
		h.mu.Lock() // for a moment: apply waits for it
		for op := range hq.all() {
			switch {
			case op.allowed() != nil || op.resubscribed() || op.resetPending():
				h.wakeOp(op)
			case passed && op.moved():
				op.deadline = time.Time{}
				h.wakeOp(op)
			case end > op.next && !hq.sifting:
				h.siftSoon(hq)
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

// answerAll answers all pulls that are held now, whatever there is.
func (h *holds) answerAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.byTime) > 0 {
		h.byTime[0].deadline = time.Time{}
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
			h.recheck(true)
		case <-tables:
			h.recheck(false)
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
