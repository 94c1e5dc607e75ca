package storage

import (
	"errors"
	"fmt"
	"io"
)

// blocksDamaged is called by a reader that found blocks of the CommitLog
// damaged: they are missing from now on, and fetched from a peer like any
// others. It returns the error for the reader.
func (s *Store) blocksDamaged(st *state, g *segment, from, to int64, cause error) error {
	err := fmt.Errorf("%w: %w", ErrMissing, cause)
	switch sealed := g.sums.memory.Load() == nil; {
	case isNotExist(cause) && !sealed:
		// The writer has the file open that had this name.
		return fmt.Errorf("%w: %w", ErrMissing, s.fail(fmt.Errorf("segment %d was removed while it was written: %w", g.base, cause)))
	case isNotExist(cause):
		from, to = g.base, g.end()
	case errors.Is(cause, io.EOF) && sealed: // it was cut off
		to = g.end()
	}
	if to%blockSize != 0 {
		// The last block, which is not whole. What the manifest knows of it can
		// be fetched; what was written since, only when the block is whole.
		if to = min(to, g.base+g.trusted().valid); from >= to {
			if s.badTail.Swap(from+1) != from+1 { // once for each
				s.counters.badBlocks.Add(1)
				s.log.Error("the last block of the CommitLog is damaged: it can be fetched when it is whole", "from", from, "error", cause)
			}
			return err
		}
	}
	more := s.gaps.add(st.epoch, from, to)
	if more == 0 {
		return err // known already, or the store was resumed while we read
	}
	// What has its name now may be another file, or none.
	s.files.forgetFile(fileKey{base: g.base})
	s.counters.badBlocks.Add(1)
	s.counters.badBytes.Add(more)
	s.log.Error("the CommitLog is damaged: the range is not served until it was fetched from another replica",
		"segment", g.base, "from", from, "to", to, "error", cause)
	s.repairChanged()
	return err
}

// sumsDamaged is called by a reader that found a segment's block sums damaged.
func (s *Store) sumsDamaged(g *segment, cause error) {
	s.repair.mu.Lock()
	first := !g.sums.needed.Swap(true)
	g.resum = g.resum || first
	s.repair.mu.Unlock()
	if !first {
		return
	}
	g.sums.damaged.Store(true)
	s.files.forgetFile(fileKey{base: g.base, sums: true})
	s.counters.badSums.Add(1)
	s.log.Error("block sums are damaged: they are made anew from the segment", "segment", g.base, "error", cause)
	s.repairChanged()
}

// damaged is called by a reader that found a block of a queue damaged: it is a
// hole from now on, and rebuilt from the CommitLog.
func (q *Queue) damaged(b lookup, cause error) error {
	s := q.store
	err := fmt.Errorf("%w: %w", ErrMissing, cause)
	lo, hi := b.start, b.start+b.file
	if isNotExist(cause) { // all of the file
		lo, hi = queueFile(lo), queueFile(lo)+unitsPerFile
	}
	n := q.addHoles(b.gen, lo, hi, true)
	if n == 0 {
		return err
	}
	s.files.drop(func(k fileKey) bool { return k.queue == q && k.base == queueFile(b.start) })
	s.counters.badQueueBlocks.Add(int64(n))
	s.log.Error("a queue's file is damaged: its units are rebuilt from the CommitLog", "queue", q.id, "from", lo, "to", hi, "error", cause)
	s.repairChanged()
	return err
}

// addHoles makes holes of the units in [lo, hi) that are in the files and in no
// hole yet, and returns how many. damaged says that what is there was found so.
func (q *Queue) addHoles(gen uint32, lo, hi int64, damaged bool) int {
	q.mu.Lock()
	if q.gen != gen || q.dropped {
		q.mu.Unlock()
		return 0
	}
	open := spans{}.add(max(lo, q.front), min(hi, q.flushed))
	for _, h := range q.holes {
		open = open.remove(h.lo, h.hi)
	}
	var holes []*hole
	for _, sp := range open {
		h := newHole(q, holeState{lo: sp.from, hi: sp.to, from: -1})
		h.damaged = damaged
		holes = append(holes, h)
	}
	q.holes = append(q.holes, holes...)
	q.mu.Unlock()
	q.store.repair.add(holes)
	return len(holes)
}

// repairChanged wakes who repairs: ourselves, and who fetches for us.
func (s *Store) repairChanged() {
	s.repair.wake()
	if s.opts.OnRepair != nil {
		s.opts.OnRepair()
	}
}
