package storage

import (
	"sync"
	"sync/atomic"
)

// gaps are the ranges of the CommitLog that are not here, or were and are not
// any more. They begin and end where blocks do; the last may end where the log
// ended when the store was resumed.
//
//	missing ──Fill, or found on the disk──▶ unsynced ──sync──▶ (syncing) ──checkpoint──▶ gone
//
// The checkpoint lists them all until the last step, so a crash forgets none.
type gaps struct {
	fill sync.Mutex // over Fill and FillSums; Resume takes it

	mu       sync.RWMutex
	epoch    uint64 // of the state it belongs to
	floor    int64  // where the log begins: below it nothing is missing
	missing  spans
	unsynced spans
	syncing  spans
	bad      spans       // those of missing that were found damaged
	any      atomic.Bool // that missing has some: readers pass without the lock
}

func (g *gaps) overlaps(from, to int64) bool {
	if !g.any.Load() {
		return false
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.missing.overlaps(from, to)
}

func (g *gaps) next(from int64) (span, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.missing.next(from)
}

func (g *gaps) within(from, to int64) spans {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.missing.within(from, to)
}

// add makes a damaged range missing that the state of an epoch knows, and
// returns how much of it was not yet; 0 also if the state is another. Who found
// it may hold a segment that has been trimmed since.
func (g *gaps) add(epoch uint64, from, to int64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	from = max(from, g.floor)
	more := to - from - g.missing.within(from, to).size()
	if g.epoch != epoch || more <= 0 {
		return 0
	}
	g.missing = g.missing.add(from, to)
	g.bad = g.bad.add(from, to)
	g.any.Store(true)
	return more
}

// here says that a missing range was written, and returns how much of it had
// been damaged.
func (g *gaps) here(from, to int64) (mended int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.missing.within(from, to) {
		g.unsynced = g.unsynced.add(s.from, s.to)
	}
	g.missing = g.missing.remove(from, to)
	mended = g.bad.within(from, to).size()
	g.bad = g.bad.remove(from, to)
	g.any.Store(len(g.missing) > 0)
	return mended
}

// trim forgets what lies below a position, for good.
func (g *gaps) trim(below int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.floor = below
	for _, s := range []*spans{&g.missing, &g.unsynced, &g.syncing, &g.bad} {
		*s = s.remove(0, below)
	}
	g.any.Store(len(g.missing) > 0)
}

func (g *gaps) set(epoch uint64, floor int64, missing spans) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.epoch, g.floor = epoch, floor
	g.missing, g.unsynced, g.syncing, g.bad = missing, nil, nil, nil
	g.any.Store(len(missing) > 0)
}

// beginSync is called before a sync: what is unsynced now will be covered by it.
func (g *gaps) beginSync() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.unsynced {
		g.syncing = g.syncing.add(s.from, s.to)
	}
	g.unsynced = nil
}

// listed is what a checkpoint that follows that sync has to list.
func (g *gaps) listed() spans {
	g.mu.RLock()
	defer g.mu.RUnlock()
	all := g.missing
	for _, s := range g.unsynced {
		all = all.add(s.from, s.to)
	}
	return all
}

// endSync is called when that checkpoint is on the disk.
func (g *gaps) endSync() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.syncing = nil
}

// pending is how much was written and is not synced, and whether nothing is
// missing any more.
func (g *gaps) pending() (unsynced int64, complete bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.unsynced.size() + g.syncing.size(), len(g.missing) == 0
}
