package raftlog

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

const lockName = "lock"

// Log is a raft.LogStore on segment files. The package comment says what it
// promises. Any goroutine may call its methods; changes are made one at a time,
// and readers never wait for one.
//
// Entries are kept by reference: StoreLogs takes ownership of each Log's Data
// and Extensions, and GetLog hands the same bytes to everyone who asks. Nobody
// may change them afterwards. (raft.LogCache does the same.)
//
// Invariants, besides those of the package comment:
//
//	M1 segs is never empty; the last one, the tail, is where entries are written.
//	M2 The entries of segs[i] and segs[i+1] are consecutive. One that has none
//	   (the tail, or one too small for a batch after the segment size was raised)
//	   has the next index as its base, 1 in an empty log.
//	M3 first <= last, or both are 0 and the log is empty.
//	M4 spares follow the tail in sequence, without a gap.
//	M5 segs, spares and free are guarded by mu, which nobody holds during I/O.
type Log struct {
	fs      disk.FS
	dir     string
	opts    Options
	logID   uint64
	seed    uint32
	lock    io.Closer
	poison  *latch
	started time.Time
	began   atomic.Int64 // of the change in progress: ns since started, 0 for none
	stats   counters

	syncing turn // see Log.sync

	// writing is held by whoever changes the log: one at a time.
	writing turn
	buf     []byte  // frames of one write
	added   []entry // and where they are
	lastCRC uint32

	// headers is held by whoever writes segment headers, and guards what is
	// handed out with them. Taken after writing, before mu.
	headers    turn
	state      state
	epoch      uint64 // the highest handed out
	generation uint64
	mark       mark

	mu       sync.RWMutex
	closed   bool // set by the holder of writing
	segs     []*segment
	spares   []*segment // ready to become the tail, in this order
	free     []*segment // to be made spares again
	doomed   []*segment // to be removed
	first    uint64
	last     uint64
	lastTerm uint64
	synced   position
	deletes  uint64 // how many deletions there have been
	cache    cache

	number   int64 // the keeper's: the highest file name
	kick     chan struct{}
	requests chan spareRequest
	quit     chan struct{}
	quitOnce sync.Once
	joined   sync.WaitGroup
}

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)

// IsMonotonic implements raft.MonotonicLogStore: the log has no gaps.
func (l *Log) IsMonotonic() bool { return true }

// FirstIndex returns the first entry's index, 0 if the log is empty.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first, nil
}

// LastIndex returns the last entry's index, 0 if the log is empty.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last, nil
}

// LastTerm returns the last entry's term, 0 if the log is empty.
func (l *Log) LastTerm() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.lastTerm
}

// Last returns the last entry's index and term, 0 and 0 if the log is empty.
func (l *Log) Last() (index, term uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last, l.lastTerm
}

// BytesAfter returns how many bytes of the log's files the entries behind index
// take.
func (l *Log) BytesAfter(index uint64) int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.last == 0 || index >= l.last {
		return 0
	}
	next := max(index+1, l.first)
	var n int64
	for _, s := range slices.Backward(l.segs) {
		if len(s.entries) == 0 {
			continue
		}
		if next >= s.base {
			return n + s.end - int64(s.entries[next-s.base].off)
		}
		n += s.end - int64(s.entries[0].off)
	}
	return n
}

// GetLog reads one entry, from memory or from the file. raft.ErrLogNotFound if
// it is not in the log; an error that wraps ErrCorrupt if what the file holds is
// not what was written. The entry's Data and Extensions must not be changed.
func (l *Log) GetLog(index uint64, out *raft.Log) error {
	for {
		l.mu.RLock()
		if l.closed {
			l.mu.RUnlock()
			return ErrClosed
		}
		if index < l.first || index > l.last || l.last == 0 {
			l.mu.RUnlock()
			return raft.ErrLogNotFound
		}
		if cached := l.cache.get(index); cached != nil {
			*out = *cached
			l.mu.RUnlock()
			return nil
		}
		s, e, n := l.locate(index)
		deletes := l.deletes
		l.mu.RUnlock()

		err := l.read(s, e, n, index, out)
		if err == nil {
			return nil
		}
		// Did the entry go, and its place with it, while we were reading?
		l.mu.RLock()
		same := l.deletes == deletes
		l.mu.RUnlock()
		if same {
			return err
		}
	}
}

// locate returns where the frame of an entry is, and its length. Callers hold mu.
func (l *Log) locate(index uint64) (*segment, entry, int64) {
	s := l.segs[l.segmentOf(index)]
	i := index - s.base
	end := s.end
	if i+1 < uint64(len(s.entries)) {
		end = int64(s.entries[i+1].off)
	}
	return s, s.entries[i], end - int64(s.entries[i].off)
}

// segmentOf returns which of segs holds an entry of the log. Callers hold mu.
func (l *Log) segmentOf(index uint64) int {
	return sort.Search(len(l.segs), func(i int) bool { return l.segs[i].base > index }) - 1
}

func (l *Log) read(s *segment, e entry, n int64, index uint64, out *raft.Log) error {
	b := make([]byte, n)
	off := int64(e.off)
	if _, err := disk.WithLabel(s.file, LabelRead).ReadAt(b, off); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("raftlog: reading entry %d from %s at byte %d: %w", index, s.file.Name(), off, err)
	}
	f, err := l.verifyFrame(b, s, e, index)
	if err != nil {
		return &FileError{File: s.file.Name(), Offset: off, Detail: fmt.Sprintf("entry %d: %v", index, err), Err: ErrCorrupt}
	}
	f.log(b, out)
	return nil
}

// Err returns nil, or the failure that poisoned the log.
func (l *Log) Err() error { return l.poison.get() }

// Poisoned is closed when the log is poisoned.
func (l *Log) Poisoned() <-chan struct{} { return l.poison.closed }

// Pending says whether a change (StoreLogs, DeleteRange or Reset) is under way
// and since when.
func (l *Log) Pending() (since time.Time, ok bool) {
	ns := l.began.Load()
	return l.started.Add(time.Duration(ns)), ns != 0
}

// change begins a change: it takes the lock and says whether the log may be
// changed. The caller calls done in any case.
func (l *Log) change() (done func(), err error) {
	l.writing.Lock()
	l.began.Store(max(1, int64(time.Since(l.started))))
	if l.closed {
		err = ErrClosed
	} else {
		err = l.poison.get()
	}
	return l.changed, err
}

func (l *Log) changed() {
	l.began.Store(0)
	l.writing.Unlock()
}

// turn is a mutex that is held while the disk is at work. It is a channel, so that
// in the fake time of tests time goes on while one waits for it.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// Lock waits for its turn.
func (t turn) Lock() { t <- struct{}{} }

// Unlock gives the turn to somebody who waits.
func (t turn) Unlock() { <-t }

// tail returns the segment that entries are written to. Callers hold writing or mu.
func (l *Log) tail() *segment { return l.segs[len(l.segs)-1] }

// saveState writes st, with the next generation, into the header of s. Callers
// hold headers, and have set what else is to change in h.
func (l *Log) saveState(s *segment, h header, st state) error {
	if err := l.poison.get(); err != nil {
		return err
	}
	l.generation++
	st.generation = l.generation
	h.state = st
	if err := s.save(h, l.sync); err != nil {
		return l.poison.fail(err)
	}
	l.state = st
	return nil
}

// cutAt makes a place, before which everything is on the disk, the end of the
// log: what lies behind it is dead for ever. first and start are the state's.
// Callers hold headers.
func (l *Log) cutAt(s *segment, off int64, first uint64, start position) error {
	l.epoch++
	s.epoch = l.epoch
	h := s.head
	h.cut = cut{off: off, epoch: l.epoch}
	return l.saveState(s, h, state{first: first, start: start, last: s.seq, synced: s.at(off)})
}

// sync syncs a segment of the log. One at a time: the kernel reports a failed
// write-back to one of those who sync a file, and the failure must be latched
// before another, told that all is well, acknowledges what was lost.
func (l *Log) sync(f disk.File) error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	if err := l.poison.get(); err != nil {
		return err
	}
	if err := f.Datasync(); err != nil {
		return l.poison.fail(err)
	}
	l.stats.syncs.Add(1)
	return nil
}

// Stats are counts since the log was opened, and sizes at the moment.
type Stats struct {
	Writes         int64 // of entries
	Syncs          int64 // of entries and headers
	BytesWritten   int64 // of entries with their frames
	Made, Recycled int64 // segments
	Segments       int   // in the log
	Spare, Free    int   // segments ready to be written, and kept to be used again
	CacheBytes     int64
}

type counters struct {
	writes, syncs, bytes, made, recycled atomic.Int64
}

// Stats returns figures for people and metrics.
func (l *Log) Stats() Stats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return Stats{
		Writes: l.stats.writes.Load(), Syncs: l.stats.syncs.Load(), BytesWritten: l.stats.bytes.Load(),
		Made: l.stats.made.Load(), Recycled: l.stats.recycled.Load(),
		Segments: len(l.segs), Spare: len(l.spares), Free: len(l.free), CacheBytes: l.cache.bytes,
	}
}
