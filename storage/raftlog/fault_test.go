package raftlog

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// failAt makes the n-th operation fail that changes or reads the disk, and
// counts them.
type failAt struct {
	mu    sync.Mutex
	n     int
	short bool
	seen  int
	op    disk.Op // that failed
}

func (f *failAt) hook(op disk.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	if f.seen != f.n {
		return nil
	}
	f.op = op
	if f.short && op.Kind == disk.OpWrite {
		return disk.ShortWrite{N: op.Len / 2, Err: errInjected}
	}
	return errInjected
}

// Row 17: each operation on the disk fails once, at each call site. What was
// acknowledged is there afterwards; a failed change poisons the log, or leaves
// it as it was; and no site fails silently.
func TestEachOperationFails(t *testing.T) {
	t.Parallel()
	history := []change{
		{kind: "append", logs: batch(3, 9, 1, 4000)},
		{kind: "append", logs: batch(10, 20, 1, 5000)}, // rolls
		{kind: "suffix", min: 19, max: 20},
		{kind: "append", logs: batch(19, 21, 2, 4000)},
		{kind: "prefix", min: 1, max: 15},
		{kind: "append", logs: batch(22, 40, 2, 4000)},
		{kind: "all"},
		{kind: "append", logs: batch(30, 31, 3, 100)},
	}
	killed := newMem(t)
	base := mustOpen(t, killed, small())
	ok(t, base.StoreLogs(batch(1, 2, 1, 50)))
	killed = killed.Clone()
	ok(t, base.Close())
	sites := map[string]int{}
	// play opens, changes, reads and closes a log, and returns the disk, what
	// must be on it, and the first error.
	play := func(f *failAt, flush FlushMode) (*disk.Mem, model, error) {
		fs := killed.Clone()
		fs.SetHook(f.hook)
		opts := uncached(small())
		opts.Flush = flush
		m := model{acked: batch(1, 2, 1, 50)}
		l, err := Open(fs, dir, opts)
		if err != nil {
			return fs, m, err
		}
		defer func() { l.Close() }()
		for _, c := range history {
			settle(l)
			if err := c.do(l); err != nil {
				m.unknown = &c
				if l.Err() == nil {
					// Refused before anything was done: the log goes on as before.
					m.unknown = nil
					holds(t, l, m.acked)
					return fs, m, err
				}
				<-l.Poisoned()
				want(t, "Err", l.Err(), ErrPoisoned)
				want(t, "StoreLogs", l.StoreLog(entryOf(41, 3, 1)), ErrPoisoned)
				want(t, "DeleteRange", l.DeleteRange(0, 1<<40), ErrPoisoned)
				want(t, "Reset", l.Reset(), ErrPoisoned)
				ok(t, l.Close())
				return fs, m, err
			}
			m = model{acked: m.after(c)}
			if n := len(m.acked); n > 0 {
				var got raft.Log
				if err := l.GetLog(m.acked[n-1].Index, &got); err != nil {
					return fs, m, err
				}
			}
		}
		return fs, m, errors.Join(l.Close(), l.Err())
	}
	for _, flush := range []FlushMode{SyncFlush, AsyncFlush} {
		var count failAt
		if _, _, err := play(&count, flush); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= count.seen; n++ {
			for _, short := range []bool{false, true} {
				f := &failAt{n: n, short: short}
				fs, m, err := play(f, flush)
				fs.SetHook(nil)
				if f.op.Kind == "" {
					break // the keeper did more last time
				}
				site := fmt.Sprintf("%s %s", f.op.Label, f.op.Kind)
				sites[site]++
				if err == nil && f.op.Kind != disk.OpRemove {
					t.Errorf("%d, %s of %s: failed silently", n, site, f.op.Name)
				}
				got, err := reads(fs.Clone(), small())
				if err == nil {
					err = m.allows(got)
				}
				if err != nil {
					t.Errorf("%d, %s of %s, after a restart: %v", n, site, f.op.Name, err)
				}
				if flush == SyncFlush { // else a power loss may take what was not synced
					got, err = reads(fs.Crash(uint64(n)), small())
					if err == nil {
						err = m.allows(got)
					}
					if err != nil {
						t.Errorf("%d, %s of %s, after a power loss: %v", n, site, f.op.Name, err)
					}
				}
				if f.op.Kind != disk.OpWrite {
					break // cannot be short
				}
			}
		}
	}
	t.Log(sites)
	for _, site := range []string{
		"raftlog.append write", "raftlog.append sync", "raftlog.header write", "raftlog.header sync",
		"raftlog.prepare write", "raftlog.prepare sync", "raftlog.prepare allocate", "raftlog.prepare open",
		"raftlog.dir syncdir", "raftlog.dir rename", "raftlog.dir readdir", "raftlog.dir mkdir", "raftlog.dir open",
		"raftlog.scan open", "raftlog.scan read", "raftlog.resync write", "raftlog.resync sync", "raftlog.resync read", "raftlog.read read",
		"raftlog.mark write", "raftlog.mark sync", "raftlog.mark open", "raftlog.mark rename", "raftlog.mark syncdir", "raftlog.mark remove",
	} {
		if sites[site] == 0 {
			t.Errorf("%s never failed", site)
		}
	}
}

// A failed write-back is told to one of those who sync a file. If the keeper gets
// it, the writer must not acknowledge what it wrote before.
func TestFailureToldToTheKeeperStopsTheWriter(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	ok(t, l.StoreLogs(batch(1, 3, 1, 100)))
	settle(l)
	syncing, written := make(chan struct{}), make(chan struct{})
	fs.SetHook(func(op disk.Op) error {
		switch {
		case op.Label == LabelHeader && op.Kind == disk.OpSync:
			close(syncing)
			<-written
			return errInjected
		case op.Label == LabelAppend && op.Kind == disk.OpSync:
			t.Error("the writer synced, and would have been told that all is well")
		}
		return nil
	})
	saved := make(chan error)
	go func() { // as the keeper does for a new spare
		l.headers.Lock()
		defer l.headers.Unlock()
		saved <- l.saveState(l.tail(), l.tail().head, l.state)
	}()
	<-syncing
	stored := make(chan error)
	go func() { stored <- l.StoreLog(entryOf(4, 1, 100)) }()
	for l.stats.writes.Load() < 2 {
		yield()
	}
	close(written)
	want(t, "saving a header", <-saved, ErrPoisoned)
	want(t, "StoreLog", <-stored, ErrPoisoned)
	holds(t, l, batch(1, 3, 1, 100))
	ok(t, l.Close())
}

// Row 18: on a full disk entries are refused, reads go on, nothing is poisoned,
// and it works again when there is room.
func TestNoSpace(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	settle(l)
	u, err := fs.Usage(dir)
	ok(t, err)
	fs.SetCapacity(int64(u.Total-u.Free) + minSegmentBytes/2) // no further segment
	var logs []*raft.Log
	next := uint64(1)
	for {
		b := batch(next, next+2, 1, 5000)
		err := l.StoreLogs(b)
		if errors.Is(err, ErrNoSpace) {
			break
		}
		ok(t, err)
		logs = concat(logs, b)
		next += 3
	}
	if st := l.Stats(); st.Segments != 2 || st.Spare != 0 {
		t.Errorf("%+v", st)
	}
	for range 3 {
		want(t, "StoreLogs", l.StoreLogs(batch(next, next+2, 1, 5000)), ErrNoSpace)
		holds(t, l, logs)
	}
	ok(t, l.Err())
	ok(t, l.StoreLog(entryOf(next, 1, 10))) // there is still room in the segment
	logs = append(logs, entryOf(next, 1, 10))
	next++
	want(t, "a batch of two segments", l.StoreLogs(batch(next, next+11, 1, 9000)), ErrNoSpace)
	holds(t, l, logs)
	// It opens on a full disk, too.
	ok(t, l.Close())
	l = mustOpen(t, fs, small())
	holds(t, l, logs)
	want(t, "StoreLogs", l.StoreLogs(batch(next, next+2, 1, 5000)), ErrNoSpace)
	// Deleting makes room: segments are used again.
	ok(t, l.DeleteRange(0, next-2))
	settle(l)
	ok(t, l.StoreLogs(batch(next, next+2, 1, 5000)))
	next += 3
	fs.SetCapacity(0)
	ok(t, l.StoreLogs(batch(next, next+29, 1, 9000)))
	if got := names(t, fs, dir); len(got) < 6 {
		t.Errorf("files %v", got)
	}
	ok(t, l.Err())
}

// The keeper tries again by itself when there may be room again.
func TestSpareAppearsWhenThereIsRoomAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newMem(t)
		l, err := Open(fs, dir, small())
		ok(t, err)
		settle(l)
		u, err := fs.Usage(dir)
		ok(t, err)
		fs.SetCapacity(int64(u.Total - u.Free))
		ok(t, l.StoreLogs(batch(1, 20, 1, 4000))) // takes the spare
		synctest.Wait()
		if st := l.Stats(); st.Spare != 0 {
			t.Errorf("%+v", st)
		}
		fs.SetCapacity(0)
		sleep(2 * retryAfter)
		synctest.Wait()
		if st := l.Stats(); st.Spare != 1 {
			t.Errorf("%+v", st)
		}
		ok(t, l.Close())
	})
}

func TestNoSpaceFromTheSystem(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		for _, kind := range []disk.OpKind{disk.OpOpen, disk.OpAllocate, disk.OpWrite, disk.OpSync} {
			fs := newMem(t)
			opts := small()
			l := mustOpen(t, fs, opts)
			settle(l)
			fs.SetHook(func(op disk.Op) error {
				if op.Label == LabelPrepare && op.Kind == kind {
					return errno
				}
				return nil
			})
			ok(t, l.StoreLogs(batch(1, 20, 1, 4000)))
			want(t, fmt.Sprint(errno, kind), l.StoreLogs(batch(21, 40, 1, 4000)), ErrNoSpace)
			ok(t, l.Err())
			holds(t, l, batch(1, 20, 1, 4000))
			fs.SetHook(nil)
			ok(t, l.StoreLogs(batch(21, 40, 1, 4000)))
			holds(t, l, batch(1, 40, 1, 4000))
			settle(l) // the next spare, too, is under another name for a while
			for _, n := range names(t, fs, dir) {
				if n != lockName {
					if _, ok := parseSegmentName(n); !ok {
						t.Errorf("%s was left behind", n)
					}
				}
			}
			ok(t, l.Close())
		}
	}
}

func TestRoomRefuses(t *testing.T) {
	full := errors.New("the reserve is needed")
	var room error
	opts := small()
	opts.Room = func([]*raft.Log) error { return room }
	l := mustOpen(t, newMem(t), opts)
	ok(t, l.StoreLogs(batch(1, 2, 1, 10)))
	room = full
	err := l.StoreLogs(batch(3, 4, 1, 10))
	want(t, "StoreLogs", err, ErrNoSpace)
	want(t, "StoreLogs", err, full)
	holds(t, l, batch(1, 2, 1, 10))
	ok(t, l.DeleteRange(1, 1)) // gives room back
	room = nil
	ok(t, l.StoreLogs(batch(3, 4, 1, 10)))
	holds(t, l, batch(2, 4, 1, 10))
}

// Close wakes a StoreLogs that waits for a segment that the disk is slow to
// give.
func TestCloseWakesAWaiter(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	settle(l)
	reached, release := blockSync(fs, LabelPrepare)
	ok(t, l.StoreLogs(batch(1, 20, 1, 4000)))
	<-reached
	stored, closed := make(chan error), make(chan error)
	go func() { stored <- l.StoreLogs(batch(21, 40, 1, 4000)) }()
	for _, pending := l.Pending(); !pending; _, pending = l.Pending() {
		yield()
	}
	go func() { closed <- l.Close() }()
	<-l.quit
	release()
	want(t, "StoreLogs", <-stored, ErrClosed)
	ok(t, <-closed)
	got, err := reads(fs, small())
	ok(t, err)
	ok(t, same(got, batch(1, 20, 1, 4000)))
}
