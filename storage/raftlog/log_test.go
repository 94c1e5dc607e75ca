package raftlog

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

func TestStoreGetReopen(t *testing.T) {
	for name, fs := range map[string]disk.FS{"Mem": newMem(t), "OS": nil} {
		t.Run(name, func(t *testing.T) {
			where := dir
			if fs == nil {
				fs, where = disk.OS(), t.TempDir()
			}
			l, err := Open(fs, where, small())
			ok(t, err)
			holds(t, l, nil)
			var logs []*raft.Log
			for i := uint64(1); i < 200; i += 10 { // some segments
				b := batch(i, i+9, i/40+1, 2000)
				ok(t, l.StoreLogs(b))
				logs = append(logs, b...)
				holds(t, l, logs)
			}
			ok(t, l.Close())
			ok(t, l.Close())
			want(t, "GetLog", l.GetLog(1, new(raft.Log)), ErrClosed)
			want(t, "StoreLog", l.StoreLog(entryOf(201, 9, 1)), ErrClosed)
			want(t, "DeleteRange", l.DeleteRange(1, 2), ErrClosed)

			opts := uncached(small())
			opts.Create = false
			l, err = Open(fs, where, opts)
			ok(t, err)
			holds(t, l, logs)
			_, err = Open(fs, where, opts)
			want(t, "second Open", err, disk.ErrLocked)
			more := batch(201, 260, 9, 3000)
			ok(t, l.StoreLogs(more))
			holds(t, l, concat(logs, more))
			ok(t, l.Close())
			var scanned []*raft.Log
			ok(t, Scan(fs, where, func(e *raft.Log) error { scanned = append(scanned, e); return nil }))
			ok(t, same(scanned, concat(logs, more)))
		})
	}
}

func TestOddEntriesRoundTrip(t *testing.T) {
	l := mustOpen(t, newMem(t), uncached(small()))
	logs := []*raft.Log{
		{Index: 7, Term: 1, Type: raft.LogConfiguration},
		{Index: 8, Term: 1, Data: []byte{1}, AppendedAt: time.Unix(0, 0).UTC()},
		{Index: 9, Term: 1 << 60, Extensions: []byte{2}, Type: 255},
		{Index: 10, Term: 1 << 60, Data: make([]byte, minSegmentBytes-segmentHeader-frameHeader)}, // the largest
		{Index: 11, Term: 1<<64 - 1, AppendedAt: time.Date(2200, 1, 2, 3, 4, 5, 6, time.UTC)},
	}
	ok(t, l.StoreLogs(logs))
	holds(t, l, logs)
	// Times that do not fit become none.
	ok(t, l.StoreLog(&raft.Log{Index: 12, Term: 1<<64 - 1, AppendedAt: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}))
	var got raft.Log
	ok(t, l.GetLog(12, &got))
	if !got.AppendedAt.IsZero() {
		t.Errorf("time %v", got.AppendedAt)
	}
}

func TestRefusedEntriesChangeNothing(t *testing.T) {
	l := mustOpen(t, newMem(t), small())
	want(t, "index 0", l.StoreLog(&raft.Log{Index: 0, Term: 1}), ErrGap)
	first := batch(5, 8, 3, 100)
	ok(t, l.StoreLogs(first))
	ok(t, l.StoreLogs(nil))
	for _, c := range []struct {
		what string
		logs []*raft.Log
		err  error
	}{
		{"gap", batch(10, 11, 3, 10), ErrGap},
		{"repeated", batch(8, 9, 3, 10), ErrGap},
		{"gap inside", []*raft.Log{entryOf(9, 3, 1), entryOf(11, 3, 1)}, ErrGap},
		{"lower term", batch(9, 9, 2, 10), ErrStaleTerm},
		{"lower term inside", []*raft.Log{entryOf(9, 4, 1), entryOf(10, 3, 1)}, ErrStaleTerm},
		{"too large", []*raft.Log{entryOf(9, 3, 1), {Index: 10, Term: 3, Data: make([]byte, minSegmentBytes-segmentHeader-frameHeader+1)}}, ErrTooLarge},
	} {
		want(t, c.what, l.StoreLogs(c.logs), c.err)
		holds(t, l, first)
	}
	want(t, "middle", l.DeleteRange(6, 7), ErrMiddle)
	for _, r := range [][2]uint64{{0, 4}, {9, 20}, {7, 6}} {
		ok(t, l.DeleteRange(r[0], r[1]))
	}
	holds(t, l, first)
	ok(t, l.Err())
}

func TestDeleteRange(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, uncached(small()))
	logs := batch(1, 100, 1, 3000)
	ok(t, l.StoreLogs(logs)) // in parts: it is larger than a segment
	holds(t, l, logs)
	reopen := func() {
		t.Helper()
		ok(t, l.Close())
		l = mustOpen(t, fs, uncached(small()))
	}
	check := func(want []*raft.Log) {
		t.Helper()
		holds(t, l, want)
		reopen()
		holds(t, l, want)
	}
	ok(t, l.DeleteRange(1, 3)) // within the first segment
	check(logs[3:])
	ok(t, l.DeleteRange(0, 60)) // some segments
	check(logs[60:])
	ok(t, l.DeleteRange(95, 100)) // within the last
	check(logs[60:94])
	ok(t, l.DeleteRange(70, 200)) // back over segments
	check(logs[60:69])
	second := batch(70, 120, 2, 2500)
	ok(t, l.StoreLogs(second))
	check(concat(logs[60:69], second))
	ok(t, l.DeleteRange(61, 120))
	check(nil)
	ok(t, l.Reset())
	ok(t, l.StoreLogs(logs[30:50])) // lower than before
	check(logs[30:50])
	ok(t, l.Reset())
	check(nil)
	ok(t, l.StoreLogs(batch(1000, 1100, 5, 100)))
	check(batch(1000, 1100, 5, 100))
}

func TestSegmentsAreRecycled(t *testing.T) {
	fs := newMem(t)
	opts := small()
	opts.FreeSegments = 2
	l := mustOpen(t, fs, opts)
	next := uint64(1)
	add := func(n uint64) {
		for range n {
			ok(t, l.StoreLogs(batch(next, next+9, 1, 5000)))
			next += 10
		}
		settle(l)
	}
	add(10)
	made := l.Stats().Made
	for range 10 {
		ok(t, l.DeleteRange(0, next-11))
		add(2)
	}
	st := l.Stats()
	if st.Made-made > 4 || st.Recycled < 15 {
		t.Errorf("%d segments were made and %d recycled in the steady state: %+v", st.Made-made, st.Recycled, st)
	}
	if st.Free > 2 || len(names(t, fs, dir)) > st.Segments+st.Spare+st.Free+1 {
		t.Errorf("files %v, stats %+v", names(t, fs, dir), st)
	}
	first, _ := l.FirstIndex()
	holds(t, l, batch(first, next-1, 1, 5000))
	ok(t, l.Close())
	l = mustOpen(t, fs, opts)
	holds(t, l, batch(first, next-1, 1, 5000))
}

func TestSegmentSizeMayChange(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	ok(t, l.StoreLogs(batch(1, 50, 1, 4000)))
	ok(t, l.Reset()) // the tail is empty, and too small for what comes
	ok(t, l.Close())
	big := small()
	big.SegmentBytes = 4 * minSegmentBytes
	var logs []*raft.Log
	for i := uint64(1); i < 10; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1, Data: make([]byte, 2*minSegmentBytes)})
	}
	for _, opts := range []Options{big, small(), big} {
		l = mustOpen(t, fs, opts)
		last, _ := l.LastIndex()
		holds(t, l, logs[:last])
		if opts.SegmentBytes == big.SegmentBytes {
			ok(t, l.StoreLogs(logs[last:last+3]))
			holds(t, l, logs[:last+3])
			if last > 0 {
				ok(t, l.DeleteRange(1, 2))
				holds(t, l, logs[2:last+3])
			}
		}
		ok(t, l.Close())
	}
}

func TestBytesAfter(t *testing.T) {
	l := mustOpen(t, newMem(t), small())
	if n := l.BytesAfter(0); n != 0 {
		t.Errorf("an empty log has %d bytes", n)
	}
	logs := batch(11, 110, 1, 3000)
	ok(t, l.StoreLogs(logs))
	ok(t, l.DeleteRange(0, 14))
	size := func(after uint64) (n int64) {
		for _, e := range logs[4:] {
			if e.Index > after {
				n += frameLen(int64(len(e.Data) + len(e.Extensions)))
			}
		}
		return n
	}
	for i := uint64(0); i < 115; i++ {
		if got := l.BytesAfter(i); got != size(i) {
			t.Errorf("BytesAfter(%d) = %d, want %d", i, got, size(i))
		}
	}
}

func TestCacheIsBoundedInBytes(t *testing.T) {
	opts := small()
	opts.CacheBytes = 50_000
	l := mustOpen(t, newMem(t), opts)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := uint64(1); i < 2000; i++ {
		ok(t, l.StoreLog(entryOf(i, 1, rng.IntN(3000))))
		if i%300 == 0 {
			ok(t, l.DeleteRange(i-2, i))
			ok(t, l.StoreLogs(batch(i-2, i, 1, 100)))
		}
		if i%500 == 0 {
			ok(t, l.DeleteRange(0, i-5))
		}
		var sum int64
		for _, e := range l.cache.logs[l.cache.dead:] {
			sum += cost(&e)
		}
		if sum != l.cache.bytes || sum > opts.CacheBytes {
			t.Fatalf("the cache counts %d bytes and has %d", l.cache.bytes, sum)
		}
	}
	if n := len(l.cache.logs) - l.cache.dead; n < 5 || cap(l.cache.logs) > 2000 {
		t.Errorf("%d entries in a cache with capacity %d", n, cap(l.cache.logs))
	}
	// An entry larger than all of it is not kept.
	ok(t, l.StoreLog(&raft.Log{Index: 2000, Term: 1, Data: make([]byte, 51_000)}))
	if l.cache.bytes != 0 {
		t.Errorf("%d bytes in the cache", l.cache.bytes)
	}
	var got raft.Log
	ok(t, l.GetLog(2000, &got))
}

// blockSync makes the next sync with a label wait; release lets it go on.
func blockSync(m *disk.Mem, label disk.Label) (reached <-chan struct{}, release func()) {
	in, out := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.SetHook(func(op disk.Op) error {
		if op.Kind == disk.OpSync && op.Label == label {
			once.Do(func() {
				close(in)
				<-out
			})
		}
		return nil
	})
	return in, func() { close(out) }
}

func TestReadersDoNotWaitForASync(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, uncached(small()))
	logs := batch(1, 10, 1, 100)
	ok(t, l.StoreLogs(logs))
	if _, pending := l.Pending(); pending {
		t.Error("pending without a change")
	}
	settle(l)
	reached, release := blockSync(fs, LabelAppend)
	before := time.Now()
	stored := make(chan error)
	go func() { stored <- l.StoreLog(entryOf(11, 1, 100)) }()
	<-reached
	holds(t, l, logs) // and not the entry that is not synced
	if n := l.BytesAfter(10); n != 0 {
		t.Errorf("%d bytes behind the last entry", n)
	}
	since, pending := l.Pending()
	if !pending || since.Before(before) || since.After(time.Now()) {
		t.Errorf("pending %v since %v", pending, since)
	}
	release()
	ok(t, <-stored)
	if _, pending := l.Pending(); pending {
		t.Error("pending after the change")
	}
	holds(t, l, concat(logs, batch(11, 11, 1, 100)))
}

// Readers on every path, a writer, and prefix deletions from a third goroutine
// as raft's snapshots make them.
func TestConcurrentUse(t *testing.T) {
	fs := newMem(t)
	opts := small()
	opts.CacheBytes = 100_000
	l := mustOpen(t, fs, opts)
	steps := uint64(400)
	if long {
		steps = 5000
	}
	done := make(chan struct{})
	var readers, deleter sync.WaitGroup
	for r := range 3 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 1))
			for {
				select {
				case <-done:
					return
				default:
				}
				first, _ := l.FirstIndex()
				last, _ := l.LastIndex()
				if last == 0 {
					continue
				}
				i := first + rng.Uint64N(last-first+1)
				var got raft.Log
				err := l.GetLog(i, &got)
				if errors.Is(err, raft.ErrLogNotFound) {
					continue
				}
				if err != nil {
					t.Errorf("entry %d: %v", i, err)
					return
				}
				if !equal(&got, entryOf(i, got.Term, 2000)) {
					t.Errorf("entry %d is not what was stored", i)
					return
				}
				l.BytesAfter(i)
				l.LastTerm()
				l.Stats()
			}
		})
	}
	deletes := make(chan uint64, 1)
	deleter.Go(func() {
		for to := range deletes {
			if err := l.DeleteRange(0, to); err != nil {
				t.Error(err)
			}
		}
	})
	term, next := uint64(1), uint64(1)
	for s := range steps {
		ok(t, l.StoreLogs(batch(next, next+4, term, 2000)))
		next += 5
		if s%7 == 6 { // a follower whose tail conflicts
			term++
			ok(t, l.DeleteRange(next-3, next-1))
			next -= 3
		}
		if s%20 == 19 {
			select {
			case deletes <- next - 50:
			default:
			}
		}
	}
	close(deletes)
	deleter.Wait()
	close(done)
	readers.Wait()
	ok(t, l.Err())
	got, err := all(l)
	ok(t, err)
	ok(t, l.Close())
	l = mustOpen(t, fs, uncached(opts))
	holds(t, l, got)
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"small segments":  {Create: true, SegmentBytes: minSegmentBytes - 4096},
		"large segments":  {Create: true, SegmentBytes: maxSegmentBytes + 4096},
		"odd segments":    {Create: true, SegmentBytes: minSegmentBytes + 1},
		"flush mode":      {Create: true, Flush: 7},
		"interval":        {Create: true, FlushInterval: -1},
		"async, no boot":  {Create: true, Flush: AsyncFlush},
		"boot id too big": {Create: true, BootID: string(make([]byte, 256))},
	} {
		fs := newMem(t)
		if _, err := Open(fs, dir, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if n := names(t, fs, "/data"); len(n) != 0 {
			t.Errorf("%s: left %v", name, n)
		}
	}
}

func TestNoLogIsNotAnEmptyLog(t *testing.T) {
	fs := newMem(t)
	opts := small()
	opts.Create = false
	_, err := Open(fs, dir, opts)
	damaged(t, err, ErrMissing, dir)
	want(t, "Scan", Scan(fs, dir, nil), os.ErrNotExist)
	ok(t, fs.MkdirAll("test", dir))
	_, err = Open(fs, dir, opts)
	damaged(t, err, ErrMissing, dir)
	damaged(t, Scan(fs, dir, nil), ErrMissing, dir)
}

func TestStatsAndMonotonic(t *testing.T) {
	l := mustOpen(t, newMem(t), small())
	if !l.IsMonotonic() {
		t.Error("not monotonic")
	}
	settle(l)
	before := l.Stats()
	for i := range uint64(10) {
		ok(t, l.StoreLogs(batch(i*3+1, i*3+3, 1, 100)))
	}
	st := l.Stats()
	if st.Writes-before.Writes != 10 || st.Syncs-before.Syncs != 10 {
		t.Errorf("%d writes and %d syncs for 10 batches", st.Writes-before.Writes, st.Syncs-before.Syncs)
	}
	if st.BytesWritten-before.BytesWritten != l.BytesAfter(0) || st.Segments != 1 || st.Spare != 1 || st.CacheBytes == 0 {
		t.Errorf("%+v", st)
	}
	if !slices.Contains(names(t, l.fs, dir), "00000002.seg") {
		t.Error("the next segment is not there")
	}
}
