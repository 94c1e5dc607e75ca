package storage

import (
	"errors"
	"fmt"
	"io"
)

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
