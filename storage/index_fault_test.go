package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

// grow adds n records of 10 bytes with two keys each, as one batch.
func (l *indexLog) grow(x *Index, n int) {
	for range n {
		i := len(l.recs)
		l.add(10, int64(i)*1000, "k", fmt.Sprint("u", i))
	}
	l.appendAll(x)
}

func (l *indexLog) checkAll(t *testing.T, x *Index) {
	t.Helper()
	for i := range l.recs {
		if err := l.check(t, x, indexAnyTime("T", fmt.Sprint("u", i), 64)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.check(t, x, indexAnyTime("T", "k", 64)); err != nil {
		t.Fatal(err)
	}
}

// Each operation of writing a run fails once: nothing is lost, the snapshot is
// told, and the next attempt succeeds.
func TestIndexFlushFails(t *testing.T) {
	for _, kind := range []disk.OpKind{disk.OpOpen, disk.OpWrite, disk.OpSync, disk.OpRename, disk.OpSyncDir} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l indexLog
				fs := disk.NewMem(1)
				x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
				l.grow(x, 100)
				var failed atomic.Int32
				fs.SetHook(func(op disk.Op) error {
					if op.Label == indexFlushLabel && op.Kind == kind && failed.Add(1) == 1 {
						return errIndexInjected
					}
					return nil
				})
				if at, err := x.Sync(t.Context(), 500); at != 0 || !errors.Is(err, errIndexInjected) {
					t.Fatalf("Sync = %d, %v", at, err)
				}
				if s := x.Stats(); !errors.Is(s.FlushError, errIndexInjected) || s.Missing != nil || s.TableEntries != 200 {
					t.Fatalf("after the failure: %+v", s)
				}
				l.checkAll(t, x)
				syncTestIndex(t, x) // does not wait for the pause
				if s := x.Stats(); s.FlushError != nil || s.Runs != 1 || s.TableEntries != 0 {
					t.Fatalf("after the second attempt: %+v", s)
				}
				if failed.Load() < 2 {
					t.Fatal("nothing was tried again")
				}
				closeTestIndex(t, x)
				x = openTestIndex(t, IndexOptions{FS: fs.Crash(3)}, 0, math.MaxInt64)
				if x.Next() != 1000 || x.Missing() != nil {
					t.Fatalf("reopened at %d, missing %v", x.Next(), x.Missing())
				}
				l.checkAll(t, x)
				closeTestIndex(t, x)
			})
		})
	}
}

// A disk that fails for good never stops Append and never takes more memory
// than agreed; what is left out is said, and filled in once the disk is back.
func TestIndexDiskFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		fs := disk.NewMem(1)
		x := openTestIndex(t, IndexOptions{FS: fs, tableEntries: 100}, 0, math.MaxInt64)
		l.grow(x, 10)
		syncTestIndex(t, x)
		fs.SetHook(func(op disk.Op) error {
			if op.Label == indexFlushLabel {
				return syscall.EIO
			}
			return nil
		})
		start := time.Now()
		for range 200 {
			l.grow(x, 7)
			synctest.Wait()
		}
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("Append waited %v in all, StallTimeout is 1s", waited)
		}
		s := x.Stats()
		if s.TableEntries != indexTables*100 || s.Dropped != 2*(1410-160) || !slices.Equal(s.Missing, []IndexRange{{1600, 14100}}) {
			t.Fatalf("%+v", s)
		}
		select {
		case <-x.Behind():
		default:
			t.Error("the owner was not told")
		}
		if err := l.check(t, x, indexAnyTime("T", "u3", 64)); !errors.Is(err, ErrIndexBehind) {
			t.Errorf("query: %v", err)
		}

		fs.SetHook(nil)
		time.Sleep(indexRetryMax) // fake
		synctest.Wait()
		l.grow(x, 7)
		gap := []IndexRange{{1600, 14100}}
		if got := x.Missing(); !slices.Equal(got, gap) {
			t.Fatalf("after the disk came back, missing %v", got)
		}
		f := x.Fill()
		if err := errors.Join(f.Append(1600, 14100, l.batch(1600, 14100)), f.Flush()); err != nil {
			t.Fatal(err)
		}
		l.checkAll(t, x)
		closeTestIndex(t, x)
	})
}

// A disk that hangs is no different, but that nothing fails; Append waits while
// the hang is short, and Sync as long as its context lets it.
func TestIndexDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		fs := disk.NewMem(1)
		x := openTestIndex(t, IndexOptions{FS: fs, tableEntries: 100}, 0, math.MaxInt64)
		hang := make(chan struct{})
		fs.SetHook(func(op disk.Op) error {
			if op.Label == indexFlushLabel && op.Kind == disk.OpSync {
				<-hang
			}
			return nil
		})
		l.grow(x, 150) // the third table is full, two wait
		go func() {
			time.Sleep(900 * time.Millisecond)
			hang <- struct{}{} // lets one table through
		}()
		l.grow(x, 1)
		if x.Missing() != nil {
			t.Fatalf("missing %v after a short hang", x.Missing())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if at, err := x.Sync(ctx, math.MaxInt64); !errors.Is(err, context.DeadlineExceeded) || at != 500 || time.Since(start) != time.Minute {
			t.Fatalf("Sync = %d, %v after %v", at, err, time.Since(start))
		}
		start = time.Now()
		for range 50 {
			l.grow(x, 20)
		}
		if waited := time.Since(start); waited != time.Second || x.Missing() == nil {
			t.Fatalf("Append waited %v in all; missing %v", waited, x.Missing())
		}
		close(hang)
		synctest.Wait()
		l.grow(x, 1)
		f := x.Fill()
		for _, gap := range x.Missing() {
			if err := f.Append(gap.From, gap.To, l.batch(gap.From, gap.To)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		l.checkAll(t, x)
		closeTestIndex(t, x)
	})
}

// Close wakes whoever waits: an Append for room, a Sync for the flusher, and a
// flusher for its next attempt.
func TestIndexCloseWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		fs := disk.NewMem(1)
		x := openTestIndex(t, IndexOptions{FS: fs, tableEntries: 100, StallTimeout: time.Hour}, 0, math.MaxInt64)
		hang := make(chan struct{})
		fs.SetHook(func(op disk.Op) error {
			if op.Label == indexFlushLabel {
				<-hang
				return errIndexInjected
			}
			return nil
		})
		l.grow(x, 150)
		synced, appended := make(chan error), make(chan struct{})
		go func() {
			_, err := x.Sync(t.Context(), math.MaxInt64)
			synced <- err
		}()
		go func() {
			l.grow(x, 1)
			close(appended)
		}()
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- x.Close() }()
		if err := <-synced; !errors.Is(err, ErrIndexClosed) {
			t.Errorf("Sync: %v", err)
		}
		<-appended
		start := time.Now()
		close(hang)
		if err := <-closed; err != nil || time.Since(start) != 0 {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
	})
}

// With no room for a merge's output the runs stay, and are merged when there is.
func TestIndexMergeDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		fs := disk.NewMem(1)
		x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
		var full atomic.Bool
		full.Store(true)
		fs.SetHook(func(op disk.Op) error {
			if full.Load() && op.Label == indexMergeLabel && op.Kind == disk.OpWrite {
				return disk.ShortWrite{N: op.Len / 2, Err: syscall.ENOSPC}
			}
			return nil
		})
		for range 20 {
			l.grow(x, 30)
			syncTestIndex(t, x)
			synctest.Wait()
		}
		if s := x.Stats(); s.Runs != 20 || s.Merges != 0 {
			t.Fatalf("while full: %+v", s)
		}
		l.checkAll(t, x)
		files, err := fs.ReadDir("test", "store/index")
		if err != nil || len(files) != 20 {
			t.Fatalf("%d files, %v: a failed merge leaves nothing behind", len(files), err)
		}
		full.Store(false)
		time.Sleep(indexRetryMax) // fake
		synctest.Wait()
		if s := x.Stats(); s.Runs >= 20 || s.Merges == 0 {
			t.Fatalf("with room again: %+v", s)
		}
		l.checkAll(t, x)
		closeTestIndex(t, x)
	})
}

// A run that cannot be read for once is no damage: queries say so, merges leave
// it out, and it serves again when it can be read.
func TestIndexReadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		fs := disk.NewMem(1)
		x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
		bad := indexRunName(3)
		var failing atomic.Bool
		failing.Store(true)
		fs.SetHook(func(op disk.Op) error {
			if failing.Load() && op.Kind == disk.OpRead && strings.HasSuffix(op.Name, bad) {
				return syscall.EIO
			}
			return nil
		})
		for range 20 {
			l.grow(x, 30)
			syncTestIndex(t, x)
			synctest.Wait()
		}
		q := indexAnyTime("T", "u70", 64) // in run 3
		if err := l.check(t, x, q); !errors.Is(err, ErrIndexBehind) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("query: %v", err)
		}
		if s := x.Stats(); s.Damaged != 0 || s.Missing != nil || s.Merges == 0 {
			t.Fatalf("%+v", s)
		}
		failing.Store(false)
		l.checkAll(t, x)
		closeTestIndex(t, x)

		// At open it is given up: nobody can say what it covers, and a start may be
		// one that has to cut it.
		failing.Store(true)
		x = openTestIndex(t, x.o, 0, math.MaxInt64)
		if s := x.Stats(); s.Damaged != 1 || !slices.Equal(s.Missing, []IndexRange{{600, 900}}) {
			t.Fatalf("opened with an unreadable run: %+v", s)
		}
		failing.Store(false)
		f := x.Fill()
		if err := errors.Join(f.Append(600, 900, l.batch(600, 900)), f.Flush()); err != nil {
			t.Fatal(err)
		}
		l.checkAll(t, x)
		closeTestIndex(t, x)
	})
}

// OpenIndex fails where it says, and leaves no goroutine behind.
func TestIndexOpenFails(t *testing.T) {
	for _, kind := range []disk.OpKind{disk.OpMkdir, disk.OpSyncDir, disk.OpReadDir, disk.OpRemove} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l indexLog
				fs := disk.NewMem(1)
				x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
				l.grow(x, 10)
				syncTestIndex(t, x)
				closeTestIndex(t, x)
				fs.SetHook(func(op disk.Op) error {
					if op.Label == indexDirLabel && op.Kind == kind {
						return errIndexInjected
					}
					return nil
				})
				if _, err := OpenIndex(x.o, 0, 50); !errors.Is(err, errIndexInjected) {
					t.Fatalf("OpenIndex: %v", err)
				}
			})
		})
	}
}
