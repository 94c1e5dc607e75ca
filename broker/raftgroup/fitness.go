package raftgroup

import (
	"sync"
	"time"
)

const (
	fitnessLook = 500 * time.Millisecond
	// storeSpan is over what the time that entries take is averaged, in storeSteps.
	storeSpan  = 2 * time.Second
	storeSteps = 20
	// storeEnough is how many there must be to tell.
	storeEnough = 3
	// fitFor is how long a disk must have been fast, or have had room, to be called
	// so again.
	fitFor = 10 * time.Second

	slowDisk = "on a disk that is slow"
	noRoom   = "short of room on its disk"
)

// fitness is how well a replica's disk does. One that is slow or full makes a bad
// leader, a follower with it is no worse than any: of three, two decide.
//
//	D1  A replica is slow when entries take DiskSlow to be stored on the average of
//	    storeSpan, and most of them do; it is so until it has been twice as fast for
//	    fitFor. If there are no entries, probes tell.
//	D2  It is full when it takes no messages for want of room, until there has been
//	    room for fitFor.
//	D3  It is restrained for either, standLast, while another voter has what it lacks:
//	    if it leads it hands over. When none has it stays as it is, and where it is.
type fitness struct {
	base time.Time

	mu      sync.Mutex
	steps   [storeSteps]storeStep
	slow    bool
	full    bool
	why     string    // there is no room
	fast    time.Time // since when it is not slow, if it is said to be
	roomy   time.Time // since when it is not full, if it is said to be
	starved bool      // it is slow, and there are no entries that tell more
}

// storeStep is what was stored in one step of the time.
type storeStep struct {
	number  int64
	n, long int
	total   time.Duration
	limit   time.Duration // what is long
}

func (f *fitness) init(limit time.Duration) {
	f.base = time.Now()
	for i := range f.steps {
		f.steps[i] = storeStep{number: -storeSteps - 1, limit: limit}
	}
}

func (f *fitness) step() int64 { return int64(time.Since(f.base) / (storeSpan / storeSteps)) }

// stored notes how long it took to store entries, or a probe.
func (f *fitness) stored(took time.Duration) {
	now := f.step()
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.steps[now%storeSteps]
	if s.number != now {
		*s = storeStep{number: now, limit: s.limit}
	}
	s.n++
	s.total += took
	if took >= s.limit {
		s.long++
	}
}

// average is how long entries have taken of late. The lock is held.
func (f *fitness) average() (took time.Duration, n int, mostLong bool) {
	now, long := f.step(), 0
	for _, s := range f.steps {
		if s.number > now-storeSteps {
			n, long, took = n+s.n, long+s.long, took+s.total
		}
	}
	if n > 0 {
		took /= time.Duration(n)
	}
	return took, n, 2*long >= n
}

// wantsProbe says whether only a probe can tell how fast the disk is.
func (f *fitness) wantsProbe() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starved
}

// judge looks at how fast the disk is, and notes whether there is room. (D1, D2)
func (f *fitness) judge(now time.Time, limit time.Duration, room error) (slow, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	took, n, mostLong := f.average()
	switch {
	case n >= storeEnough && took >= limit && mostLong:
		f.slow, f.fast = true, time.Time{}
	case f.slow && n > 0 && took < limit/2 && f.fast.IsZero():
		f.fast = now
	case f.slow && n > 0 && took >= limit/2:
		f.fast = time.Time{}
	case f.slow && !f.fast.IsZero() && now.Sub(f.fast) >= fitFor:
		f.slow, f.fast = false, time.Time{}
	}
	f.starved = f.slow && n == 0
	switch {
	case room != nil:
		f.full, f.why, f.roomy = true, room.Error(), time.Time{}
	case f.full && f.roomy.IsZero():
		f.roomy = now
	case f.full && now.Sub(f.roomy) >= fitFor:
		f.full, f.why = false, ""
	}
	return f.slow, f.full
}

// fit is what a replica says of its disk.
type fit struct {
	slow    bool
	room    bool
	noRoom  string // why there is none
	average time.Duration
}

func (f *fitness) get() fit {
	f.mu.Lock()
	defer f.mu.Unlock()
	took, _, _ := f.average()
	return fit{slow: f.slow, room: !f.full, noRoom: f.why, average: took}
}

// watchFitness judges the disk until the group is closed.
func (g *Group) watchFitness() {
	tick := time.NewTicker(fitnessLook)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
		if !g.isFenced() {
			g.judgeDisk(time.Now())
		}
	}
}

func (g *Group) judgeDisk(now time.Time) {
	before := g.fitness.get()
	slow, full := g.fitness.judge(now, g.cfg.DiskSlow, g.room())
	f := g.fitness.get()
	switch {
	case slow && !before.slow:
		g.logger.Warn("the disk of this replica is slow: it should not lead", "an entry takes", f.average, "diskSlowTime", g.cfg.DiskSlow)
	case !slow && before.slow:
		g.logger.Info("the disk of this replica is fast again", "an entry takes", f.average)
	}
	switch {
	case full && before.room:
		g.logger.Error("this replica has no room on its disk: while it leads, sends are refused", "because", f.noRoom, "todo", "make room, or let messages go sooner (fileReservedTime)")
	case !full && !before.room:
		g.logger.Info("this replica has room on its disk again")
	}
	var faster, roomier bool // another one
	if slow || full {
		others, err := g.inspect(g.ctx)
		if err != nil {
			return // raft has stopped
		}
		for _, o := range others {
			fit := o.unfit == nil && o.state.Fenced == "" && !o.state.Slow
			roomier = roomier || fit
			faster = faster || fit && 2*o.state.StoreTime < f.average.Milliseconds()
		}
	}
	g.standing.set(slowDisk, standLast, slow && faster)
	g.standing.set(noRoom, standLast, full && roomier)
}

// room is nil, or says why no messages are taken for want of room.
func (g *Group) room() error {
	if err := g.store.Room(); err != nil {
		return err
	}
	if f := g.cfg.Full; f != nil {
		return f()
	}
	return nil
}
