package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

const (
	// IndexMaxResults is the most a query returns.
	IndexMaxResults = 64
	// IndexMaxCandidates is the most records a query offers to Match.
	IndexMaxCandidates = 1024
)

// IndexQuery asks for the records of a topic with a key.
type IndexQuery struct {
	Topic string
	Key   string

	// Max bounds the results, as does IndexMaxResults. None if it is not
	// positive.
	Max int

	// Begin and End bound the store time, in milliseconds and inclusive. Only
	// their seconds count.
	Begin, End int64

	// Match says whether the record at a physical offset is wanted: other keys
	// can have the same hash, so it reads the record and compares. It may take
	// its time. Nil takes every candidate.
	Match func(phys int64) bool
}

// Query returns the physical offsets of the records asked for, ascending,
// without duplicates; of more than Max the newest. With an error, what it
// returns is right but may lack some: ErrIndexBehind if a part of the log is
// not indexed or cannot be read (a file found damaged is given up, see Behind),
// ErrIndexCandidates, the error of ctx, ErrIndexClosed. From any goroutine.
func (x *Index) Query(ctx context.Context, q IndexQuery) ([]int64, error) {
	if q.Max <= 0 || q.End < 0 || q.End < q.Begin {
		return nil, nil
	}
	s := &indexSearch{
		IndexQuery: q, x: x, ctx: ctx,
		hash: x.o.hash(q.Topic, q.Key), prev: -1,
		from: indexSeconds(q.Begin), to: indexSeconds(q.End),
	}
	s.Max = min(q.Max, IndexMaxResults)
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end()
	err := s.search()
	if errors.Is(err, errIndexEnough) {
		err = nil
	}
	err = errors.Join(err, s.unread, s.behind())
	slices.Reverse(s.found)
	return s.found, err
}

// errIndexEnough ends a search that has found Max.
var errIndexEnough = errors.New("index: enough")

// indexSearch is a query under way.
type indexSearch struct {
	IndexQuery
	x        *Index
	ctx      context.Context
	hash     uint64
	from, to uint32 // seconds

	// What there was when it began.
	tables  []*indexTable
	runs    []*indexRun
	missing []IndexRange
	min     int64 // of the log

	found   []int64 // descending
	offered int
	prev    int64 // offset looked at last
	unread  error
}

func (s *indexSearch) begin() error {
	x := s.x
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return ErrIndexClosed
	}
	x.users++
	for _, t := range x.tables() {
		if t.n > 0 {
			s.tables = append(s.tables, t)
		}
	}
	s.runs = x.runs
	x.hold(s.runs)
	s.missing = x.missing()
	s.min = x.min
	return nil
}

func (s *indexSearch) end() {
	x := s.x
	x.mu.Lock()
	defer x.mu.Unlock()
	x.release(s.runs)
	x.leave()
}

// search goes through tables and runs from new to old.
func (s *indexSearch) search() error {
	tables, runs := s.tables, s.runs
	for len(tables)+len(runs) > 0 {
		t, r := len(tables)-1, len(runs)-1
		if r < 0 || t >= 0 && tables[t].begin > runs[r].begin {
			if err := s.searchTable(tables[t]); err != nil {
				return err
			}
			tables = tables[:t]
			continue
		}
		if err := s.searchRun(runs[r]); err != nil {
			return err
		}
		runs = runs[:r]
	}
	return nil
}

func (s *indexSearch) searchTable(t *indexTable) error {
	for n := t.newest(s.hash); n > 0; {
		e := t.entry(n)
		if e.hash == s.hash {
			if err := s.offer(*e); err != nil {
				return err
			}
		}
		n = e.prev
	}
	return nil
}

// searchRun offers a run's entries. An error of the run is noted and the search
// goes on with the next: the others' answers are as right as before.
func (s *indexSearch) searchRun(r *indexRun) error {
	if r.count == 0 || indexSeconds(r.maxTime) < s.from || indexSeconds(r.minTime) > s.to {
		return nil
	}
	c, err := r.seek(s.x.o.FS, s.hash)
	if err != nil {
		s.failed(r, err)
		return nil
	}
	var offerErr error
	for offerErr == nil {
		e, ok, err := c.prev()
		if err != nil {
			s.failed(r, err)
		}
		if err != nil || !ok {
			break
		}
		offerErr = s.offer(e)
	}
	if err := c.close(); err != nil {
		s.failed(r, err)
	}
	return offerErr
}

func (s *indexSearch) failed(r *indexRun, err error) {
	if errors.Is(err, errIndexDamaged) {
		s.x.mu.Lock()
		s.x.condemn(r, err)
		s.x.mu.Unlock()
	} else {
		s.x.log.Error("a run file cannot be read", "file", r.name, "error", err)
	}
	s.unread = fmt.Errorf("%w: [%d, %d) cannot be read: %w", ErrIndexBehind, r.begin, r.end, err)
}

// offer considers an entry with the hash.
func (s *indexSearch) offer(e indexEntry) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if s.x.isClosing() {
		return ErrIndexClosed
	}
	if e.sec < s.from || e.sec > s.to || e.phys < s.min || e.phys == s.prev {
		return nil
	}
	s.prev = e.phys
	if s.Match != nil {
		if s.offered == IndexMaxCandidates {
			return fmt.Errorf("%w: topic %q, key %q", ErrIndexCandidates, s.Topic, s.Key)
		}
		s.offered++
		if !s.Match(e.phys) {
			return nil
		}
	}
	s.found = append(s.found, e.phys)
	if len(s.found) == s.Max {
		return errIndexEnough
	}
	return nil
}

// behind is the error for what is missing where results may have been.
func (s *indexSearch) behind() error {
	floor := s.min
	if len(s.found) == s.Max {
		floor = s.found[len(s.found)-1]
	}
	for _, gap := range s.missing {
		if gap.To > floor {
			return fmt.Errorf("%w: [%d, %d) is not indexed", ErrIndexBehind, gap.From, gap.To)
		}
	}
	return nil
}
