package storage

import (
	"errors"
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
	return len(r.closed)+len(r.closing) > 0
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
