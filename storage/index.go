package storage

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

var (
	// ErrIndexBehind means that the index does not have, or could not read, the
	// keys of a part of the log: what it answered is right, but there may be
	// more. Index.Missing says what to fill in.
	ErrIndexBehind = errors.New("index: incomplete")
	// ErrIndexCandidates means that a query gave up after IndexMaxCandidates
	// records with the same hash that Match refused.
	ErrIndexCandidates = errors.New("index: too many candidates")
	// ErrIndexClosed is returned once Close was called.
	ErrIndexClosed = errors.New("index: closed")
)

// IndexRange is a part of the log, in physical offsets: [From, To).
type IndexRange struct{ From, To int64 }

// Index finds records by key. It is derived data: everything in it follows from
// the CommitLog, nothing is acknowledged on its word, and a disk that fails it
// makes it fall behind but never stops or fails Append. What it lacks it says
// (Missing, ErrIndexBehind), and the owner fills it in from the CommitLog (Fill).
//
// New keys go to a table in memory. Full tables are written by a flusher
// goroutine as immutable sorted runs, and a merger goroutine keeps the runs few
// by merging neighbours of like size.
//
// Invariants:
//
//	I1 The runs and tables cover disjoint ranges of the log. What they do not
//	   cover between the last trim and next is missing.
//	I2 A run or table that covers [begin, end) holds every key of every record
//	   in there that was not trimmed when it was written, and no other key.
//	I3 A run is complete and synced, and so is its name, before what it replaces
//	   (a table, the runs merged) is let go.
//	I4 Of two runs that overlap on disk, the one with the higher number is right:
//	   it was made from the other, or after the other was given up.
//	I5 mu is not held during disk operations, nor across a Match.
type Index struct {
	o   IndexOptions
	log hclog.Logger

	mu     sync.Mutex
	cond   *sync.Cond // a flush ended, there is room, a user left, Close
	next   int64      // everything below was appended, or is missing
	min    int64      // of the log, by the last trim
	synced int64      // the last Sync's position: where a restart resumes, or later
	active *indexTable
	frozen []*indexTable // oldest first; the flusher's
	runs   []*indexRun   // by begin; replaced, never changed in place
	number uint64        // of the newest run file

	lastPhys, lastTime int64 // of the newest record with a key

	shedding bool // out of memory: keys are dropped until the flusher has caught up
	shedFrom int64
	flushErr error // of the last attempt
	failures int64 // flushes that failed
	garbage  []*indexRun
	users    int // queries and fills under way
	closed   bool

	stats IndexStats

	closing chan struct{} // closed by Close
	retry   chan struct{} // ends the flusher's wait after a failure
	work    chan struct{} // for the merger
	behind  chan struct{}
	wg      sync.WaitGroup
}

// Append adds the keys of all records in [from, to), a batch of the log, and
// records that this part of the log is indexed. keys are in order of Phys, each
// within [from, to); they are not kept.
//
// What lies below the position reached before is skipped, so a replay does no
// harm. If from lies beyond it, the part between is Missing. (Append(end, end,
// nil) says where the log stands.)
//
// It takes tens of nanoseconds a key and does no I/O. It waits, up to
// StallTimeout, only when MemoryBytes are used up; if the flusher makes no room
// by then, keys are dropped without waiting, and their part of the log is
// Missing, until it has. For one goroutine at a time.
func (x *Index) Append(from, to int64, keys []IndexKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed || to <= x.next {
		return
	}
	if !indexKeysInOrder(from, to, keys) {
		// A defect of the caller. The index must not stop it, nor pretend.
		x.log.Error("keys out of order, this part of the log is not indexed", "from", from, "to", to)
		x.next = to
		x.signalBehind()
		return
	}
	if from > x.next {
		x.log.Warn("a part of the log is not indexed yet", "from", x.next, "to", from)
		x.signalBehind()
	}
	from = max(from, x.next)
	for len(keys) > 0 && keys[0].Phys < from {
		keys = keys[1:]
	}
	for from < to {
		t := x.tableAt(from)
		if t == nil {
			break
		}
		n := t.append(to, keys, x.o.hash)
		keys = keys[n:]
		from = t.end
		if t.last >= 0 {
			x.lastPhys, x.lastTime = t.last, max(x.lastTime, t.maxTime)
		}
	}
	x.stats.Dropped += int64(len(keys))
	x.next = max(x.next, to)
}

// indexKeysInOrder checks what Append and IndexFill.Append ask for.
func indexKeysInOrder(from, to int64, keys []IndexKey) bool {
	prev := from
	for i := range keys {
		if keys[i].Phys < prev || keys[i].Phys >= to {
			return false
		}
		prev = keys[i].Phys
	}
	return from >= 0 && from <= to
}

// tableAt returns the table to add to at position from, nil if there is no room
// for one.
func (x *Index) tableAt(from int64) *indexTable {
	for {
		t := x.active
		switch {
		case t == nil:
			if x.shedding {
				x.shedding = false
				x.log.Error("indexing again; the part left out is to be filled in from the log", "from", x.shedFrom, "to", from)
				x.signalBehind()
			}
			x.active = newIndexTable(from, x.o.tableEntries)
			return x.active
		case t.end == from && !t.full():
			return t
		case len(x.frozen) < indexTables-1:
			x.freeze()
		case x.shedding || !x.waitForRoom():
			if !x.shedding && !x.closed {
				x.shedding, x.shedFrom = true, from
				x.log.Error("the disk does not keep up and the memory bound is reached: keys are left out of the index",
					"from", from, "bound", x.o.MemoryBytes, "error", x.flushErr)
				x.signalBehind()
			}
			return nil
		}
	}
}

// waitForRoom waits for the flusher and says whether it made room.
func (x *Index) waitForRoom() bool {
	late := false
	timer := time.AfterFunc(x.o.StallTimeout, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		late = true
		x.cond.Broadcast()
	})
	defer timer.Stop()
	for len(x.frozen) >= indexTables-1 && !late && !x.closed {
		x.cond.Wait()
	}
	return len(x.frozen) < indexTables-1
}

// freeze hands the active table to the flusher.
func (x *Index) freeze() {
	x.frozen = append(x.frozen, x.active)
	x.active = nil
	x.cond.Broadcast()
}

// signalBehind tells the owner that something is missing.
func (x *Index) signalBehind() { poke(x.behind) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Behind receives a value when a part of the log has gone missing from the
// index: time to look at Missing. It is never closed.
func (x *Index) Behind() <-chan struct{} { return x.behind }

// Next is the position up to which the log was given to Append, or trimmed.
func (x *Index) Next() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.next
}

// Missing lists the parts of the log between the last trim and Next that are
// not indexed, in order: nil if the index is complete.
func (x *Index) Missing() []IndexRange {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.missing()
}

func (x *Index) missing() (gaps []IndexRange) {
	at := x.min
	// Runs that a fill has made lie in front of tables that were there before.
	spans := make([]IndexRange, 0, len(x.runs)+indexTables)
	for _, r := range x.runs {
		spans = append(spans, IndexRange{r.begin, r.end})
	}
	for _, t := range x.tables() {
		spans = append(spans, IndexRange{t.begin, t.end})
	}
	slices.SortFunc(spans, func(a, b IndexRange) int { return cmp.Compare(a.From, b.From) })
	for _, s := range append(spans, IndexRange{x.next, x.next}) {
		if s.From > at {
			gaps = append(gaps, IndexRange{at, s.From})
		}
		at = max(at, s.To)
	}
	return gaps
}

// tables lists the tables in memory, oldest first.
func (x *Index) tables() []*indexTable {
	tables := slices.Clone(x.frozen)
	if x.active != nil {
		tables = append(tables, x.active)
	}
	return tables
}

// LastUpdate returns the store time (milliseconds) and the physical offset of
// the newest record that has a key, both 0 if there is none.
func (x *Index) LastUpdate() (ms, phys int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lastTime, x.lastPhys
}

// Trim forgets what lies below the log's new first offset: run files that lie
// below it wholly are deleted in the background, the rest goes with later
// merges. A lower value than before is ignored.
func (x *Index) Trim(min int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.trim(min)
}

func (x *Index) trim(first int64) {
	x.min = max(x.min, first)
	x.next = max(x.next, x.min)
	x.drop(func(r *indexRun) bool { return r.end <= x.min })
}

// drop takes runs out of the index. Their files are removed by the merger.
func (x *Index) drop(which func(*indexRun) bool) {
	var keep []*indexRun
	for _, r := range x.runs {
		if which(r) {
			r.gone = true
			x.garbage = append(x.garbage, r)
		} else {
			keep = append(keep, r)
		}
	}
	if len(keep) != len(x.runs) {
		x.runs = keep
		poke(x.work)
	}
}

// insert adds a run.
func (x *Index) insert(r *indexRun) {
	i, _ := slices.BinarySearchFunc(x.runs, r.begin, func(r *indexRun, begin int64) int {
		return cmp.Compare(r.begin, begin)
	})
	x.runs = slices.Insert(slices.Clone(x.runs), i, r)
	poke(x.work)
}

// condemn drops a run that was found damaged: the keys of its range are missing
// until the owner has filled them in.
func (x *Index) condemn(r *indexRun, err error) {
	if r.gone {
		return
	}
	x.stats.Damaged++
	x.log.Error("a run file is damaged and given up; its part of the log is to be indexed again",
		"file", r.name, "from", r.begin, "to", r.end, "entries", r.count, "error", err)
	x.drop(func(other *indexRun) bool { return other == r })
	x.signalBehind()
}

// leave ends a use that Close waits for.
func (x *Index) leave() {
	x.users--
	x.cond.Broadcast()
}

// Close stops the background work and waits for it, and for queries and fills
// under way. What is only in memory is forgotten: Sync first, or replay.
func (x *Index) Close() error {
	x.mu.Lock()
	if !x.closed {
		x.closed = true
		close(x.closing)
		x.cond.Broadcast()
	}
	for x.users > 0 {
		x.cond.Wait()
	}
	x.mu.Unlock()
	x.wg.Wait()
	return nil
}

// IndexStats describes an Index.
type IndexStats struct {
	Runs       int
	RunEntries int64
	RunBytes   int64

	TableEntries int          // keys in memory
	Missing      []IndexRange // as Index.Missing
	Dropped      int64        // keys left out for want of memory, since open
	FlushError   error        // why the last flush failed; nil if it did not
	Damaged      int          // run files given up: damaged, or unreadable at open
	Foreign      int          // files in the directory that are not ours, at open
	Flushes      int64        // tables written, since open
	Merges       int64        // merges done, since open
	MergedBytes  int64        // written by them
}

// Stats returns the current numbers.
func (x *Index) Stats() IndexStats {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.stats
	s.Runs = len(x.runs)
	for _, r := range x.runs {
		s.RunEntries += r.count
		s.RunBytes += r.fileSize()
	}
	for _, t := range x.tables() {
		s.TableEntries += t.n
	}
	s.Missing = x.missing()
	s.FlushError = x.flushErr
	return s
}
