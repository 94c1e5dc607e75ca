package storage

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
)

const (
	// repairSyncBytes is how much is filled before it is synced: what a crash
	// makes us fetch again.
	repairSyncBytes = 64 << 20
	// repairStepBytes is how much of the log one step of repair reads: what a
	// Resume or a Sync may have to wait for.
	repairStepBytes = 16 << 20
)

// repairer brings the files to what the manifest says, on a goroutine of its
// own: it finds missing ranges that are on the disk after all, makes block sums
// anew, rebuilds queue units and index keys from the log, and syncs what was
// filled. What only a peer has it leaves to who calls Missing.
type repairer struct {
	store *Store
	kick  chan struct{}

	mu      sync.Mutex
	open    map[*hole]struct{}
	closed  []*hole // rebuilt, not synced: the checkpoint still lists them
	closing []*hole // covered by the sync under way
}

func (r *repairer) init(s *Store) {
	r.store, r.kick, r.open = s, make(chan struct{}, 1), map[*hole]struct{}{}
	s.wg.Go(r.run)
}

func (r *repairer) wake() { poke(r.kick) }

func (r *repairer) run() {
	for {
		var behind <-chan struct{}
		if x := r.store.index.Load(); x != nil {
			behind = x.Behind()
		}
		select {
		case <-r.store.stop:
			return
		case <-r.kick:
		case <-behind:
		}
		for r.store.repairStep() {
			select {
			case <-r.store.stop:
				return
			default:
			}
		}
	}
}

func (r *repairer) add(holes []*hole) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range holes {
		r.open[h] = struct{}{}
	}
}

// lookFor has missing ranges of a segment looked for in its file.
func (r *repairer) lookFor(g *segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g.adopt = true
	r.wake()
}

// done takes a segment's work off the list. The holder of gaps.fill calls it, so
// that it does not take off what was put on meanwhile.
func (r *repairer) done(work *bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*work = false
}

// busy says whether there is work, or work not yet synced.
func (r *repairer) busy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.store.state.Load().segs {
		if g.adopt || g.resum {
			return true
		}
	}
	return len(r.open)+len(r.closed)+len(r.closing) > 0
}

// forget drops the holes of a queue that was dropped.
func (r *repairer) forget(q *Queue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.open, func(h *hole, _ struct{}) bool { return h.q == q })
}

// reset drops all work: Resume begins anew.
func (r *repairer) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open, r.closed, r.closing = map[*hole]struct{}{}, nil, nil
}

func (r *repairer) beginSync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing, r.closed = append(r.closing, r.closed...), nil
}

func (r *repairer) endSync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = nil
}

// repairStep does one step of what there is to repair, and says whether there
// may be more to do at once.
func (s *Store) repairStep() (more bool) {
	s.maintain.Lock()
	defer s.maintain.Unlock()
	if s.Err() != nil || s.hurry.Load() {
		return false
	}
	defer func() {
		if more && s.opts.OnRepair != nil {
			s.opts.OnRepair()
		}
	}()
	if g, adopt := s.repairSegment(); g != nil {
		if adopt {
			s.adoptSegment(g)
		} else {
			s.resumSegment(g)
		}
		return true
	}
	progress, err := s.rebuildStep()
	if err == nil && !progress {
		progress, err = s.indexStep()
	}
	if err != nil {
		s.log.Error("repair stops until something changes", "error", err)
	}
	unsynced, here := s.gaps.pending()
	if unsynced >= repairSyncBytes || !progress && here && (unsynced > 0 || s.repair.unsynced()) {
		if err := s.repairSync(); err != nil {
			if !errors.Is(err, ErrNoSpace) {
				err = s.fail(err)
			}
			s.log.Error("what was repaired cannot be synced", "error", err)
			return false
		}
		progress = true
	}
	return progress && err == nil
}

func (r *repairer) unsynced() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.closed) > 0
}

// repairSegment picks a segment to look into.
func (s *Store) repairSegment() (g *segment, adopt bool) {
	s.repair.mu.Lock()
	defer s.repair.mu.Unlock()
	for _, g := range s.state.Load().segs {
		switch {
		case g.adopt:
			return g, true
		case g.resum:
			return g, false
		}
	}
	return nil, false
}

// adoptSegment looks in a segment's own file for blocks that are listed as
// missing: left from before a Resume or a crash. They count if their sums agree.
func (s *Store) adoptSegment(g *segment) {
	s.gaps.fill.Lock()
	defer s.gaps.fill.Unlock()
	defer s.repair.done(&g.adopt)
	if !g.acquire() {
		return
	}
	defer g.release()
	if !g.sums.needed.Load() && g.sums.memory.Load() == nil {
		if _, err := g.sumPage(0); err != nil {
			g.sums.needed.Store(true)
			s.log.Info("the block sums of a segment are to be fetched", "segment", g.base, "error", err)
		}
	}
	if g.sums.needed.Load() {
		return
	}
	for _, gap := range s.gaps.within(g.base, g.end()) {
		for at := gap.from; at < gap.to && !s.hurry.Load(); at += 1 << 20 {
			part := span{at, min(at+(1<<20), gap.to)}
			data, err := s.readRaw(g, part.from, int(part.to-part.from))
			if err != nil {
				if !isNotExist(err) {
					s.log.Warn("a missing range cannot be looked for in the segment's file", "segment", g.base, "at", at, "error", err)
				}
				return
			}
			for _, good := range g.goodBlocks(part, data) {
				g.dirty.Store(true)
				s.gaps.here(good.from, good.to)
				s.counters.adopted.Add(good.to - good.from)
			}
		}
	}
}

// goodBlocks returns the blocks of a range whose sums agree.
func (g *segment) goodBlocks(r span, data []byte) (good spans) {
	for at := r.from; at < r.to; at += blockSize {
		b := span{at, min(at+blockSize, r.to)}
		if g.checkFill(b, data[b.from-r.from:b.to-r.from]) == nil {
			good = good.add(b.from, b.to)
		}
	}
	return good
}

// resumSegment makes a segment's block sums anew from its data. If that does not
// give the digest they have to be fetched.
func (s *Store) resumSegment(g *segment) {
	s.gaps.fill.Lock()
	defer s.gaps.fill.Unlock()
	defer s.repair.done(&g.resum)
	if !g.acquire() {
		return
	}
	defer g.release()
	want := g.trusted()
	if len(s.gaps.within(g.base, g.end())) > 0 {
		return
	}
	n := want.valid / blockSize
	sums, end := make([]uint32, 0, n), g.base+n*blockSize
	for at := g.base; at < end; at += 1 << 20 {
		if s.hurry.Load() {
			return
		}
		data, err := s.readRaw(g, at, int(min(1<<20, end-at)))
		if err != nil {
			s.log.Error("a segment cannot be read to make its block sums", "segment", g.base, "at", at, "error", err)
			return
		}
		for ; len(data) > 0; data = data[blockSize:] {
			sums = append(sums, blockSum(data[:blockSize]))
		}
	}
	encoded := encodeSums(sums)
	if digestOf(encoded) != want.digest {
		s.log.Error("a segment's block sums are damaged, and so is its data: the sums are to be fetched", "segment", g.base)
		return
	}
	if err := s.takeSums(g, encoded); err != nil {
		s.log.Error("a segment's block sums cannot be written", "segment", g.base, "error", err)
		return
	}
	s.log.Info("block sums were made anew", "segment", g.base)
}

// repairSync syncs what was filled and rebuilt, and then takes it off the
// checkpoint's lists. For whoever holds maintain.
func (s *Store) repairSync() error {
	s.gaps.beginSync()
	s.repair.beginSync()
	c := *s.checkpoint
	s.collectFacts(&c, true)
	if err := s.syncSegments(c.manifest); err != nil {
		return err
	}
	if err := s.fs.SyncFS(LabelQueue, s.dir+"/"+queuesDir); err != nil {
		return err
	}
	c.missing = s.gaps.listed()
	if err := s.saveCheckpoint(&c); err != nil {
		return noSpace(err)
	}
	s.gaps.endSync()
	s.repair.endSync()
	return nil
}

// indexStep gives the index the keys of a part of the log that it lacks.
func (s *Store) indexStep() (progress bool, err error) {
	x := s.index.Load()
	if x == nil {
		return false, nil
	}
	st := s.state.Load()
	for _, r := range x.Missing() {
		from := max(r.From, st.min, st.floor)
		if from >= r.To || r.To > st.end {
			continue
		}
		fill := x.Fill()
		pos, keys := from, []IndexKey(nil)
		end, err := s.scanLog(from, r.To, func(phys int64, rec []byte) {
			keys = append(keys, s.opts.KeysOf(rec)...)
		})
		if end > pos {
			if err := fill.Append(pos, end, keys); err != nil {
				return progress, fmt.Errorf("index [%d, %d): %w", pos, end, err)
			}
			if err := fill.Flush(); err != nil {
				return progress, fmt.Errorf("index [%d, %d): %w", pos, end, err)
			}
			return true, nil
		}
		if err != nil && !errors.Is(err, ErrMissing) && !errors.Is(err, ErrTrimmed) {
			return progress, err
		}
	}
	return progress, nil
}

// scanLog calls fn with the records from pos on, until end, or about
// repairStepBytes are read, or something is not here. It returns how far it
// came. rec is good during the call only.
func (s *Store) scanLog(pos, end int64, fn func(phys int64, rec []byte)) (int64, error) {
	first := pos
	scan := logScan{segment: s.opts.SegmentSize, pos: pos, end: end, read: func(off int64, need, want int) ([]byte, error) {
		if gap, ok := s.gaps.next(off); ok {
			want = int(min(int64(want), max(int64(need), gap.from-off)))
		}
		return s.Read(off, want)
	}}
	for scan.pos-first < repairStepBytes && !s.hurry.Load() {
		phys, rec, err := scan.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return scan.pos, err
		}
		fn(phys, rec)
	}
	return scan.pos, nil
}
