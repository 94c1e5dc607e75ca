package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// Sync makes everything that a manifest from Pin names durable, beside writes
// that go on. Only when it has returned nil may the raft log forget what the
// manifest covers. Then topics dropped before Pin lose their files.
//
// ErrSuperseded if Resume was called since Pin. ErrNoSpace if a queue's file
// cannot be written: try again with a new manifest. Any other error is for good
// (ErrPoisoned): of a failed sync nobody knows what reached the disk.
func (s *Store) Sync(m *Manifest) error {
	if m.pin == nil || m.pin.store != s {
		return errors.New("storage: Sync of a manifest that this store did not pin")
	}
	s.maintain.Lock()
	defer s.maintain.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	err := s.sync(m)
	switch {
	case err == nil:
		s.house.topicsDone(m.pin.dropped)
		s.repair.wake()
		return nil
	case errors.Is(err, ErrSuperseded), errors.Is(err, ErrNoSpace):
		return err
	}
	return s.fail(fmt.Errorf("sync: %w", err))
}

func (s *Store) sync(m *Manifest) error {
	if s.state.Load().epoch != m.pin.epoch {
		return ErrSuperseded
	}
	s.gaps.beginSync()
	s.repair.beginSync()
	s.noRoom.Store(false)
	for _, q := range m.pin.queues {
		if s.hurry.Load() {
			return ErrSuperseded
		}
		if err := s.flushQueue(q); err != nil {
			return err
		}
		if err := q.saveSums(); err != nil {
			return noSpace(err)
		}
		if s.noRoom.Load() {
			return fmt.Errorf("%w: units of queue %s", ErrNoSpace, q.id)
		}
	}
	c := *s.checkpoint
	c.manifest = m.plain()
	for _, t := range m.pin.dropped {
		if !slices.Contains(c.doomed, t) {
			c.doomed = append(c.doomed, t)
		}
	}
	s.collectFacts(&c, true)
	if err := s.syncSegments(c.manifest); err != nil {
		return err
	}
	if s.hurry.Load() {
		return ErrSuperseded
	}
	if err := s.fs.SyncFS(LabelQueue, s.dir+"/"+queuesDir); err != nil {
		return err
	}
	if err := s.syncIndex(m.End, &c); err != nil {
		return err
	}
	c.missing = s.gaps.listed()
	if err := s.saveCheckpoint(&c); err != nil {
		return noSpace(err) // the one before is still there
	}
	s.gaps.endSync()
	s.repair.endSync()
	s.releaseSums(m)
	return nil
}

// noSpace marks an error that is for want of room.
func noSpace(err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// syncSegments writes the block sums of what m covers and syncs the segments
// written since the last time, with their sums.
func (s *Store) syncSegments(m *Manifest) error {
	for _, g := range s.state.Load().segs {
		if !g.dirty.Swap(false) {
			continue
		}
		if g.end() > m.End {
			g.dirty.Store(true) // m does not cover all of it
		}
		if g.base >= m.End {
			continue
		}
		if err := s.syncSegment(g, (min(m.End, g.end())-g.base)/blockSize); err != nil {
			return fmt.Errorf("segment %d: %w", g.base, err)
		}
	}
	return nil
}

func (s *Store) syncSegment(g *segment, blocks int64) error {
	if err := g.saveSums(blocks); err != nil {
		return err
	}
	if g.w != nil {
		if err := g.w.Datasync(); err != nil {
			return err
		}
	} else if err := s.syncFile(fileKey{base: g.base}); err != nil {
		return err
	}
	return s.syncFile(fileKey{base: g.base, sums: true})
}

// syncFile syncs a file; one that is not there has nothing to sync.
func (s *Store) syncFile(key fileKey) error {
	f, err := s.files.get(key, false)
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.files.put(f)
	return f.Datasync()
}

// syncIndex syncs the index. That it cannot is no reason to fail: what it loses
// it will find missing, and be given again.
func (s *Store) syncIndex(end int64, c *checkpoint) error {
	x := s.index.Load()
	if x == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.cancelIndex.Store(&cancel)
	if s.hurry.Load() {
		cancel()
	}
	covered, err := x.Sync(ctx, end)
	if err != nil {
		s.log.Warn("the index could not be synced; a crash would have part of it made anew", "up to", end, "reached", covered, "error", err)
	}
	c.index = min(covered, end)
	for _, gap := range x.Missing() {
		c.index = min(c.index, gap.From)
	}
	return nil
}

// releaseSums gives up the memory and the descriptors of segments that are
// sealed and synced.
func (s *Store) releaseSums(m *Manifest) {
	for _, g := range s.state.Load().segs {
		if g.end() > m.End || g.sums.memory.Load() == nil || g.sums.needed.Load() || len(s.gaps.within(g.base, g.end())) > 0 {
			continue
		}
		g.setPages(encodeSums(*g.sums.memory.Load()))
		g.sums.memory.Store(nil)
		if g.w != nil {
			if err := g.w.Close(); err != nil {
				s.log.Error("a file cannot be closed", "error", err)
			}
			g.w = nil
		}
	}
}

// collectFacts sets what c says of queues whose files are not as c.manifest says.
// It is called before the sync that makes c true; without one, synced is false.
// For whoever holds maintain.
func (s *Store) collectFacts(c *checkpoint, synced bool) {
	holes := map[*Queue][]holeState{}
	s.repair.mu.Lock()
	for h := range s.repair.open {
		holes[h.q] = append(holes[h.q], h.holeState)
	}
	listed := s.repair.closed
	if !synced {
		listed = append(slices.Clip(listed), s.repair.closing...)
	}
	for _, h := range listed {
		holes[h.q] = append(holes[h.q], h.holeState)
	}
	s.repair.mu.Unlock()
	c.queues = nil
	for _, e := range c.manifest.Queues {
		q := s.Queue(e.QueueID)
		if q == nil {
			continue
		}
		f := queueFacts{id: q.id, holes: holes[q]}
		q.mu.Lock()
		f.front = q.front
		q.mu.Unlock()
		// Units before front in the last block: the replica has others there.
		if start, _ := queueBlock(e.Max); start < f.front {
			f.local, f.hasLocal = q.localAt(e.Max)
		}
		if f.front > 0 || len(f.holes) > 0 {
			slices.SortFunc(f.holes, func(a, b holeState) int { return cmp.Compare(a.lo, b.lo) })
			c.queues = append(c.queues, f)
		}
	}
}

// localAt is the CRC of what the file has of the last block before unit max. Not
// ok if it cannot be read: then the block will be found damaged, and rebuilt.
func (q *Queue) localAt(max int64) (crc uint32, ok bool) {
	io := q.store.ioLock(q)
	io.Lock()
	defer io.Unlock()
	q.mu.Lock()
	flushed, local := q.flushed, q.local
	q.mu.Unlock()
	if flushed == max {
		return local, true
	}
	start, _ := queueBlock(max)
	crc, err := q.rawCRC(start, max)
	return crc, err == nil
}
