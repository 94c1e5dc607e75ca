package storage

import (
	"errors"
	"fmt"
	"slices"
)

// ErrIndexCovered is returned by IndexFill when a part of the log that was to be
// filled in is indexed already: what it holds was not added.
var ErrIndexCovered = errors.New("index: already covered")

// IndexFill adds a part of the log that is Missing, on its own goroutine and
// beside Append. It writes runs as it goes and waits for the disk.
type IndexFill struct {
	x *Index
	t *indexTable
}

// Fill begins to fill in missing parts. It is given the records of parts that
// Missing names, in order; end it with Flush.
func (x *Index) Fill() *IndexFill { return &IndexFill{x: x} }

// Append adds the keys of all records in [from, to), as Index.Append does. Parts
// need not meet. What it has returned nil for is durable, and found, after
// Flush; after an error, what is still Missing has to be filled in anew.
func (f *IndexFill) Append(from, to int64, keys []IndexKey) error {
	if !indexKeysInOrder(from, to, keys) {
		return fmt.Errorf("index: fill [%d, %d): keys out of order", from, to)
	}
	for from < to {
		if f.t != nil && (f.t.full() || f.t.end != from) {
			if err := f.Flush(); err != nil {
				return err
			}
		}
		if f.t == nil {
			f.t = newIndexTable(from, f.x.o.tableEntries)
		}
		keys = keys[f.t.append(to, keys, f.x.o.hash):]
		from = f.t.end
	}
	return nil
}

// Flush makes what was appended durable, and found by queries.
func (f *IndexFill) Flush() error {
	t, x := f.t, f.x
	f.t = nil
	if t == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return ErrIndexClosed
	}
	if t.end <= x.min {
		return nil // trimmed
	}
	if x.covers(t.indexSpan) {
		return fmt.Errorf("%w: [%d, %d)", ErrIndexCovered, t.begin, t.end)
	}
	x.users++
	defer x.leave()
	number := x.takeNumber()
	x.mu.Unlock()
	r, err := x.writeTable(indexFillLabel, t, number)
	x.mu.Lock()
	if err != nil {
		return err
	}
	if r.end <= x.min || x.covers(r.indexSpan) { // trimmed, or filled in by another, meanwhile
		x.garbage = append(x.garbage, r)
		poke(x.work)
		return nil
	}
	x.insert(r)
	return nil
}

// covers says whether some of the span is not missing, but for what was trimmed.
func (x *Index) covers(s indexSpan) bool {
	return !slices.ContainsFunc(x.missing(), func(gap IndexRange) bool {
		return gap.From <= max(s.begin, x.min) && s.end <= gap.To
	})
}
