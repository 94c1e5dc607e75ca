package storage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Trim removes everything below newMin from the CommitLog: whole segments, so
// Min becomes the begin of the segment that newMin is in. It is a replicated
// decision. Reads below give ErrTrimmed at once; the files go in the background,
// a segment's once nobody reads it, a queue's once its last unit's record is
// below Min and it is not the queue's last file.
func (s *Store) Trim(newMin int64) error {
	if err := s.Err(); err != nil {
		return err
	}
	st := *s.state.Load()
	if newMin > st.end {
		return fmt.Errorf("%w: trim to %d, the log ends at %d", ErrBeyond, newMin, st.end)
	}
	newMin -= newMin % s.opts.SegmentSize
	if newMin <= st.min {
		return nil
	}
	n := 0
	for n < len(st.segs) && st.segs[n].end() <= newMin {
		n++
	}
	gone := st.segs[:n]
	st.segs, st.min = slices.Clone(st.segs[n:]), newMin
	s.state.Store(&st)
	s.writer.mapped = slices.DeleteFunc(s.writer.mapped, func(g *segment) bool { return slices.Contains(gone, g) })
	s.gaps.trim(newMin)
	if x := s.index.Load(); x != nil {
		x.Trim(newMin)
	}
	s.house.mu.Lock()
	s.house.trimmed = append(s.house.trimmed, gone...)
	s.house.mu.Unlock()
	poke(s.house.kick)
	s.repairChanged()
	return nil
}

// letGo removes the files below the log's begin. The checkpoint has to know
// first: a replay from before the trim must not look for them.
func (s *Store) letGo() error {
	h := &s.house
	h.mu.Lock()
	gone := h.trimmed
	h.trimmed = nil
	h.mu.Unlock()
	st := s.state.Load()
	if len(gone) == 0 && st.min <= s.checkpoint.floor {
		return nil
	}
	if err := s.trimQueues(st.min); err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.trimmed = append(gone, h.trimmed...)
		return err
	}
	c := *s.checkpoint
	c.floor = max(c.floor, st.min)
	s.collectFacts(&c, false)
	err := noSpace(s.saveCheckpoint(&c))
	if err != nil && !errors.Is(err, ErrNoSpace) {
		return s.fail(err)
	}
	// If it cannot be written for want of room, the segments go first. A replay
	// that looks for them lists them as missing, until it comes to the trim.
	for _, g := range gone {
		if g.w != nil {
			if err := g.w.Close(); err != nil {
				s.log.Error("a file cannot be closed", "error", err)
			}
			g.w = nil
		}
		g.retire(true)
	}
	s.removeSegments()
	if err != nil {
		if err := noSpace(s.saveCheckpoint(&c)); errors.Is(err, ErrNoSpace) {
			return err // again when there is something to do
		} else if err != nil {
			return s.fail(err)
		}
	}
	for _, key := range h.files {
		s.removeFile(key)
	}
	h.files = nil
	return nil
}

// trimQueues moves the queues' fronts over files of which even the last unit's
// record is below begin. The last file stays.
func (s *Store) trimQueues(begin int64) error {
	for _, q := range s.allQueues() {
		for {
			q.mu.Lock()
			file, last := queueFile(q.front), queueFile(max(0, q.flushed-1))
			q.mu.Unlock()
			if file >= last {
				break
			}
			u, err := q.unit(file + unitsPerFile - 1)
			if errors.Is(err, ErrMissing) || errors.Is(err, ErrDropped) {
				break // a later trim will find it
			}
			if err != nil {
				return err
			}
			if u.Phys >= begin {
				break
			}
			q.mu.Lock()
			q.front = file + unitsPerFile
			q.mu.Unlock()
			s.house.files = append(s.house.files, fileKey{queue: q, base: file}, fileKey{queue: q, base: file, sums: true})
		}
	}
	return nil
}

// removeSegment is called with the last reference on a trimmed segment.
func (s *Store) removeSegment(g *segment) {
	s.house.mu.Lock()
	s.house.removed = append(s.house.removed, g)
	s.house.mu.Unlock()
	poke(s.house.kick)
}

// removeSegments removes the files of segments that nobody reads any more. Not
// those from before a Resume: their names may be in use again.
func (s *Store) removeSegments() {
	h := &s.house
	h.mu.Lock()
	removed := h.removed
	h.removed = nil
	h.mu.Unlock()
	epoch := s.state.Load().epoch
	for _, g := range removed {
		if g.epoch == epoch {
			s.removeFile(fileKey{base: g.base})
			s.removeFile(fileKey{base: g.base, sums: true})
		}
	}
}

// removeFile removes a file that nothing needs any more. That it stays costs
// room only.
func (s *Store) removeFile(key fileKey) {
	s.files.drop(func(k fileKey) bool { return k == key })
	if err := s.fs.Remove(LabelTrim, key.path(s.dir)); err != nil && !isNotExist(err) {
		s.log.Error("a file that is no longer needed cannot be removed", "error", err)
	}
}

// sweepFiles removes files that a crash or a Resume left behind: below where the
// log began then, and below the queues' fronts that the checkpoint knows. What
// goes since is let go with a reader's leave (letGo).
func (s *Store) sweepFiles() {
	for _, sums := range []bool{false, true} {
		dir := s.dir + "/" + commitLogDir
		if sums {
			dir = s.dir + "/" + sumsDir
		}
		s.sweepDir(dir, 1, fileKey{base: s.house.began, sums: sums})
	}
	for _, f := range s.checkpoint.queues {
		if q := s.Queue(f.id); q != nil && f.front >= unitsPerFile {
			s.sweepDir(queuePath(s.dir, q.id), UnitSize, fileKey{queue: q, base: queueFile(f.front)})
			s.sweepDir(queuePath(s.dir, q.id), UnitSize, fileKey{queue: q, base: queueFile(f.front), sums: true})
		}
	}
}

// sweepDir removes the files of a directory that lie below first, and are of its
// kind. Their names count bytes, first.base units of so many bytes.
func (s *Store) sweepDir(dir string, unit int64, first fileKey) {
	entries, err := s.fs.ReadDir(LabelTrim, dir)
	if err != nil && !isNotExist(err) {
		s.log.Error("a directory cannot be listed", "error", err)
	}
	for _, e := range entries {
		name := e.Name()
		if first.queue != nil && first.sums {
			name = strings.TrimSuffix(name, sumsSuffix)
		}
		if off, ok := parseOffsetName(name); ok && off%unit == 0 && off/unit < first.base {
			s.removeFile(fileKey{queue: first.queue, base: off / unit, sums: first.sums})
		}
	}
}
