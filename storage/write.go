package storage

import (
	"errors"
	"fmt"
	"slices"
)

const (
	// writebackBytes is how much is written before the kernel is told to begin
	// writing it back: a snapshot's sync then finds little left to do.
	writebackBytes = 4 << 20
	// pendingBytes is how much of the queues may wait in memory.
	pendingBytes = 16 << 20
)

// writer is what only the applying goroutine uses.
type writer struct {
	batch   uint64
	touched []*Queue // by the batch
	full    []*Queue // those with a block's worth to flush
	order   []*Queue // all queues; by ID if sorted
	sorted  bool
	mapped  []*segment // that have a mapping, oldest first
}

// Write appends a batch: first the bytes to the CommitLog, then the units to
// their queues, where readers see them, then it tells Options.OnAppend. Nothing
// is synced: what was not pinned and synced since has to be written again, the
// same, after Resume.
//
// An error is for good (ErrPoisoned): of the batch anything may be there.
func (s *Store) Write(b *Batch) error {
	if err := s.Err(); err != nil {
		return err
	}
	if err := s.write(b); err != nil {
		return s.fail(fmt.Errorf("write of %d bytes at %d: %w", len(b.Log), b.Pos, err))
	}
	return nil
}

func (s *Store) write(b *Batch) error {
	st := *s.state.Load()
	if st.epoch == 0 {
		return errors.New("the store was not resumed")
	}
	if b.Pos != st.end {
		return fmt.Errorf("the log ends at %d", st.end)
	}
	for rest := b.Log; len(rest) > 0; {
		g, err := s.active(&st)
		if err != nil {
			return err
		}
		n := min(int64(len(rest)), g.end()-st.end)
		if _, err := g.w.WriteAt(rest[:n], st.end-g.base); err != nil {
			return err
		}
		g.dirty.Store(true)
		st.part = g.absorb(rest[:n], st.end, st.part)
		st.end += n
		rest = rest[n:]
	}
	s.state.Store(&st)
	if b.Pos/writebackBytes != st.end/writebackBytes {
		s.house.writeback(st.end)
	}
	if err := s.appendUnits(b.Units); err != nil {
		return err
	}
	if x := s.index.Load(); x != nil {
		x.Append(b.Pos, st.end, b.Keys)
	}
	if s.opts.OnAppend != nil && len(s.writer.touched) > 0 {
		s.opts.OnAppend(s.writer.touched)
	}
	return nil
}

// active returns the segment that the log's next byte goes to.
func (s *Store) active(st *state) (*segment, error) {
	if g := st.segment(st.end); g != nil {
		return g, nil
	}
	g, err := s.alloc.take(st.end)
	if err != nil {
		return nil, fmt.Errorf("segment %d: %w", st.end, err)
	}
	st.segs = append(slices.Clip(st.segs), g)
	s.alloc.prepare(g.end())
	w := &s.writer
	w.mapped = append(w.mapped, g)
	for w.mapped[0].end()+s.opts.HotBytes <= st.end {
		w.mapped[0].unmap()
		w.mapped = slices.Delete(w.mapped, 0, 1)
	}
	return g, nil
}

// appendUnits makes units visible and flushes queues that have a block's worth.
func (s *Store) appendUnits(units []QueueUnit) error {
	w := &s.writer
	w.batch++
	w.touched, w.full = w.touched[:0], w.full[:0]
	for i := range units {
		u := &units[i]
		q := u.Queue
		if q.store != s || u.Offset != q.Max() {
			return fmt.Errorf("unit %d of queue %s, which ends at %d", u.Offset, q.id, q.Max())
		}
		full := q.append(u.Unit)
		if q.touched != w.batch {
			q.touched = w.batch
			w.touched = append(w.touched, q)
		}
		if full && (len(w.full) == 0 || w.full[len(w.full)-1] != q) {
			w.full = append(w.full, q)
		}
	}
	for _, q := range w.full {
		if err := s.flushQueue(q); err != nil {
			return err
		}
	}
	if s.house.pending.Add(int64(len(units)*UnitSize)) > pendingBytes {
		s.house.flush()
	}
	return nil
}

// flushQueue writes a queue's pending units. That there is no room is no error:
// they stay in memory, and Room refuses until they could be written.
func (s *Store) flushQueue(q *Queue) error {
	n, err := q.flush()
	s.house.pending.Add(-int64(n))
	if isNoSpace(err) {
		if !s.noRoom.Swap(true) {
			s.log.Error("no room for a queue's file: nothing is accepted until there is", "queue", q.id, "error", err)
		}
		return nil
	}
	return err
}

// flushQueues writes the pending units of all queues. ErrNoSpace if there is no
// room for them. For whoever holds maintain.
func (s *Store) flushQueues() error {
	s.noRoom.Store(false)
	for _, q := range s.allQueues() {
		if err := s.flushQueue(q); err != nil {
			return err
		}
		if s.noRoom.Load() {
			return fmt.Errorf("%w: units of queue %s", ErrNoSpace, q.id)
		}
	}
	return nil
}
