package broker

import (
	"cmp"
	"container/heap"
	"math"
	"slices"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage"
)

const (
	// bucketKeep is how many units of a bucket are kept when there are twice as
	// many. What is left out is due later than all that is kept.
	bucketKeep = 32 << 10
	// scanAtOnce is how many units are looked at before what is due has its turn,
	// scanRead how many are read at a time.
	scanAtOnce = 16 << 10
	scanRead   = 2 << 10
)

// dueUnit is a message that waits in a bucket.
type dueUnit struct {
	at     int64 // when it is due, or to be tried again
	offset int64 // in the bucket
	phys   int64
	size   int32
}

// bucket is a queue of the timer topic of which a part is due soon. Its messages
// lie in the order in which they were sent: what is due soon is picked out of it.
//
//	B1  Each message of the queue below scanned that is due before both until and
//	    cut is among items, or with raft, or settled.
//	B2  There are at most 2*bucketKeep items.
type bucket struct {
	id      storage.QueueID
	queue   *storage.Queue // nil before its first message
	looked  bool           // for messages
	until   int64          // what is due then or later is for another time
	scanned int64          // up to which offset the queue was looked at
	cut     int64          // what is due then or later was left out
	lost    bool           // messages were trimmed before they were due
	items   dueHeap
	flying  int // messages that are with raft
}

func newBucket(id storage.QueueID, until int64) *bucket {
	return &bucket{id: id, until: until, cut: math.MaxInt64}
}

// rewind begins to look at the queue anew. What is with raft is taken up again,
// and delivered once nevertheless.
func (k *bucket) rewind() {
	k.items, k.scanned, k.cut = k.items[:0], 0, math.MaxInt64
}

// scan looks at some of what was not looked at, and says whether there is more.
func (k *bucket) scan(store *storage.Store, state *fsm.State, buf *[]storage.Unit) (more bool, err error) {
	k.looked = true
	if k.queue == nil {
		if k.queue = store.Queue(k.id); k.queue == nil {
			return false, nil
		}
	}
	if len(k.items) == 0 && k.flying == 0 && k.cut != math.MaxInt64 {
		k.rewind() // for what was left out
	}
	begin := k.scanned
	k.scanned, k.lost, err = eachUnsettled(k.queue, state, begin, begin+scanAtOnce, buf, func(offset int64, u storage.Unit) bool {
		if u.Tag < k.until && u.Tag < k.cut {
			k.add(dueUnit{at: u.Tag, offset: offset, phys: u.Phys, size: u.Size})
		}
		return true
	})
	return k.scanned < k.queue.Max(), err
}

// add takes a unit in, and leaves the latest ones out if there are too many.
func (k *bucket) add(u dueUnit) {
	heap.Push(&k.items, u)
	if len(k.items) < 2*bucketKeep {
		return
	}
	slices.SortFunc(k.items, compareDue) // still a heap
	k.cut = k.items[bucketKeep].at
	k.items = k.items[:bucketKeep]
}

// done says that nothing is left that this bucket was opened for.
func (k *bucket) done() bool {
	return k.looked && len(k.items) == 0 && k.flying == 0 && k.cut == math.MaxInt64 && (k.queue == nil || k.scanned >= k.queue.Max())
}

// eachUnsettled calls f with the units of a queue that are not settled, from an offset
// on until about to or until f says no, and returns where it stopped. lost says
// that some were trimmed before they were settled.
func eachUnsettled(q *storage.Queue, state *fsm.State, from, to int64, buf *[]storage.Unit, f func(offset int64, u storage.Unit) bool) (next int64, lost bool, err error) {
	first, err := q.Min()
	if err != nil {
		return from, false, err
	}
	if from = state.Unsettled(q.ID(), from); from < first {
		lost, from = true, first
	}
	for from < to {
		if from = state.Unsettled(q.ID(), from); from >= q.Max() {
			return from, lost, nil
		}
		if *buf, err = q.Units(from, scanRead, (*buf)[:0]); err != nil {
			return from, lost, err
		}
		for i, u := range *buf {
			if i > 0 && state.Settled(q.ID(), from+int64(i)) {
				continue
			}
			if !f(from+int64(i), u) {
				return from + int64(i), lost, nil
			}
		}
		from += int64(len(*buf))
	}
	return from, lost, nil
}

// dueHeap has what is due first in front.
type dueHeap []dueUnit

func compareDue(a, b dueUnit) int {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.offset, b.offset))
}

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return compareDue(h[i], h[j]) < 0 }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueUnit)) }
func (h *dueHeap) Pop() any {
	old := *h
	u := old[len(old)-1]
	*h = old[:len(old)-1]
	return u
}
