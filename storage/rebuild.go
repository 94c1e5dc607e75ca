package storage

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// hole is a range of a queue's units that are not in its files as they should
// be, on its way to being rebuilt from the log. What the queue's readers look
// at, lo and hi, never changes; the rest is for whoever holds maintain.
type hole struct {
	holeState
	q       *Queue
	at      int64  // the next unit wanted
	scanned int64  // the log below was looked through
	buf     []byte // units before at that are not written yet
	found   bool   // the first unit was
	damaged bool   // what was there was found damaged
	stuck   bool   // the log does not have what it must
}

func newHole(q *Queue, h holeState) *hole {
	return &hole{holeState: h, q: q, at: h.lo, scanned: h.from}
}

// boundSearch is how many damaged blocks the search for a hole's neighbours
// passes before it takes the whole log.
const boundSearch = 64

// rebuildStep looks through a part of the log for units that are in holes. It
// says whether it came any further.
func (s *Store) rebuildStep() (progress bool, err error) {
	s.repair.mu.Lock()
	open := make([]*hole, 0, len(s.repair.open))
	st := s.state.Load()
	begin := max(st.min, st.floor)
	for h := range s.repair.open {
		if !h.stuck || h.from >= 0 && h.to <= begin {
			open = append(open, h)
		}
	}
	s.repair.mu.Unlock()
	for _, h := range open {
		if h.from < 0 {
			h.bound(st)
		}
		if h.scanned = max(h.scanned, h.from); h.scanned < begin { // trimmed meanwhile
			h.from, h.scanned, h.skip, h.found, h.stuck = min(begin, h.to), begin, true, false, false
		}
	}
	var places []int64
	for _, h := range open {
		if h.scanned < h.to {
			places = append(places, h.scanned)
		}
	}
	slices.Sort(places)
	for _, pos := range slices.Compact(places) {
		end := pos
		for _, h := range open {
			if h.scanned <= pos {
				end = max(end, h.to)
			}
		}
		var done int64
		done, err = s.scanLog(pos, end, func(phys int64, rec []byte) { s.rebuildUnit(pos, phys, rec) })
		for _, h := range open {
			if h.scanned >= pos && h.scanned < done {
				h.scanned = done
			}
		}
		switch {
		case errors.Is(err, ErrMissing), errors.Is(err, ErrTrimmed):
			err = nil
		case errors.Is(err, ErrCorrupt): // the checksums are right, what was written is not
			for _, h := range open {
				h.stuck = h.stuck || h.scanned == done && h.scanned < h.to
			}
		}
		if done > pos || err != nil {
			progress = done > pos
			break
		}
	}
	for _, h := range open {
		if e := s.settleHole(h); e != nil {
			return progress, errors.Join(err, e)
		}
		progress = progress || !s.repair.has(h)
	}
	return progress, err
}

func (r *repairer) has(h *hole) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.open[h]
	return ok
}

// bound finds the part of the log that holds a hole's records: between those of
// the nearest good units before and behind it.
func (h *hole) bound(st *state) {
	q := h.q
	h.from, h.to, h.skip = max(st.min, st.floor), st.end, st.min > 0
	q.mu.Lock()
	front := q.front
	q.mu.Unlock()
	for u, n := h.lo-1, 0; u >= front && n < boundSearch; n++ {
		if unit, err := q.unit(u); err == nil {
			if at := unit.Phys + int64(unit.Size); at > h.from {
				h.from, h.skip = at, false
			}
			break
		}
		u, _ = queueBlock(u)
		u--
	}
	for u, n := h.hi, 0; u < q.Max() && n < boundSearch; n++ {
		if unit, err := q.unit(u); err == nil {
			h.to = max(h.from, unit.Phys)
			break
		}
		_, u = queueBlock(u)
	}
}

// rebuildUnit takes the unit of a record if it is in a hole that a scan from
// begin serves: others have yet to see records before begin.
func (s *Store) rebuildUnit(begin, phys int64, rec []byte) {
	id, off, unit, ok := s.opts.UnitOf(rec)
	if !ok {
		return
	}
	q := s.Queue(id)
	if q == nil {
		return
	}
	q.mu.Lock()
	holes := q.holes
	q.mu.Unlock()
	for _, h := range holes {
		if h.from < 0 || h.stuck || h.scanned < begin || phys < h.scanned || phys >= h.to || off < h.at || off >= h.hi {
			continue
		}
		if off > h.at && !(h.skip && !h.found) {
			h.stuck = true
			s.log.Error("units of a queue cannot be rebuilt: the log does not have their records", "queue", q.id, "from", h.at, "to", off)
			return
		}
		if off > h.at {
			h.begin(off)
		}
		h.found = true
		h.buf = appendUnit(h.buf, unit)
		h.at++
		return
	}
}

// begin makes off the queue's first unit: the log was trimmed so far that what
// is before it is gone.
func (h *hole) begin(off int64) {
	h.q.mu.Lock()
	h.q.front = max(h.q.front, off)
	h.q.mu.Unlock()
	h.at = off
}

// settleHole writes what was found of a hole, and closes it when all was.
func (s *Store) settleHole(h *hole) error {
	done := h.scanned >= h.to
	if len(h.buf) == 0 && h.at < h.hi && !done {
		return nil
	}
	if h.at < h.hi && done && !h.stuck {
		if h.found || !h.skip {
			h.stuck = true
			s.log.Error("units of a queue cannot be rebuilt: the log does not have their records", "queue", h.q.id, "from", h.at, "to", h.hi)
		} else {
			h.begin(h.hi) // all were trimmed
		}
	}
	q := h.q
	io := s.ioLock(q)
	io.Lock()
	defer io.Unlock()
	from := h.at - int64(len(h.buf)/UnitSize)
	ok, err := h.checkLead(from)
	if err != nil || !ok {
		return err
	}
	if err := s.writeUnits(q, from, h.buf); err != nil {
		return fmt.Errorf("units of queue %s: %w", q.id, err)
	}
	s.counters.rebuiltUnits.Add(int64(len(h.buf) / UnitSize))
	h.buf = nil
	closed := h.at == h.hi
	if closed {
		q.mu.Lock()
		q.holes = slices.DeleteFunc(slices.Clone(q.holes), func(o *hole) bool { return o == h })
		q.mu.Unlock()
		if h.damaged {
			s.counters.mendedQueueBlocks.Add(1)
		}
	}
	start, end := queueBlock(from)
	for ; start < h.at; start, end = queueBlock(end) {
		if end <= h.at || closed {
			if err := s.resumQueueBlock(q, start, h); err != nil {
				return fmt.Errorf("block sums of queue %s: %w", q.id, err)
			}
		}
	}
	if closed {
		s.repair.mu.Lock()
		delete(s.repair.open, h)
		s.repair.closed = append(s.repair.closed, h)
		s.repair.mu.Unlock()
	}
	return nil
}

// checkLead makes sure of the units before the first one found in its block, which
// the block's new sum will vouch for. If the log was trimmed there, blanks take
// their place. If they are not what they were when the hole was made, the hole
// has to begin before them: then ok is false, and another takes its place.
func (h *hole) checkLead(from int64) (ok bool, err error) {
	q, s := h.q, h.q.store
	start, _ := queueBlock(from)
	q.mu.Lock()
	front := q.front
	q.mu.Unlock()
	switch {
	case from == front && start < front:
		blanks := make([]byte, 0, unitsPerBlock*UnitSize)
		for range front - start {
			blanks = append(blanks, noUnit...)
		}
		return true, s.writeUnits(q, start, blanks)
	case from != h.lo || start == h.lo:
		return true, nil
	}
	crc, err := q.rawCRC(start, h.lo)
	if err != nil && !isDamage(err) {
		return false, err
	}
	if err == nil && crc == h.lead {
		return true, nil
	}
	s.log.Error("a queue's file is damaged before units that are rebuilt: they are rebuilt as well", "queue", q.id, "from", start, "to", h.lo)
	wider := newHole(q, holeState{lo: max(start, front), hi: h.hi, from: -1})
	wider.damaged = h.damaged
	q.mu.Lock()
	q.holes = append(slices.DeleteFunc(slices.Clone(q.holes), func(o *hole) bool { return o == h }), wider)
	q.mu.Unlock()
	s.repair.mu.Lock()
	delete(s.repair.open, h)
	s.repair.open[wider] = struct{}{}
	s.repair.mu.Unlock()
	return false, nil
}

// rawCRC is the CRC of units of one block as the file has them.
func (q *Queue) rawCRC(from, to int64) (uint32, error) {
	file := queueFile(from)
	f, err := q.store.files.get(fileKey{queue: q, base: file}, false)
	if err != nil {
		return 0, err
	}
	defer q.store.files.put(f)
	units := make([]byte, (to-from)*UnitSize)
	if len(units) > 0 {
		if _, err := f.ReadAt(units, (from-file)*UnitSize); err != nil {
			return 0, err
		}
	}
	start, _ := queueBlock(from)
	return crc32.Update(q.blockSeed(start), castagnoli, units), nil
}

// resumQueueBlock makes the sum of a block anew from what the file has, unless a
// hole is in it: h is one up to h.at no more. For the holder of the queue's I/O
// lock.
func (s *Store) resumQueueBlock(q *Queue, start int64, h *hole) error {
	_, end := queueBlock(start)
	q.mu.Lock()
	flushed := q.flushed
	holed := slices.ContainsFunc(q.holes, func(o *hole) bool {
		lo := o.lo
		if o == h {
			lo = h.at
		}
		return lo < end && start < o.hi
	})
	q.mu.Unlock()
	if holed || start >= flushed {
		return nil
	}
	crc, err := q.rawCRC(start, min(end, flushed))
	if err != nil {
		return err
	}
	q.mu.Lock()
	if end > flushed {
		q.local = crc
		q.mu.Unlock()
		return nil
	}
	n := blockNumber(start)
	if t := q.tail; t != nil && n >= t.first {
		t.sums[n-t.first] = sealSum(crc)
		q.mu.Unlock()
		return nil
	}
	q.mu.Unlock()
	return s.writeQueueSums(q, n, []uint32{sealSum(crc)})
}

// Rebuild makes all queues anew from the CommitLog, in the background: until
// then reads of them give ErrMissing.
func (s *Store) Rebuild() {
	for _, q := range s.allQueues() {
		q.mu.Lock()
		gen, front, flushed := q.gen, q.front, q.flushed
		q.mu.Unlock()
		q.addHoles(gen, front, flushed, false)
	}
	s.repairChanged()
}
