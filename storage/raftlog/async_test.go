package raftlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

func async(boot string) Options {
	o := uncached(small())
	o.Flush, o.BootID = AsyncFlush, boot
	return o
}

// entriesLeft opens the log after a crash or a kill, in SyncFlush, and says what
// it holds and whether it is suspect.
func entriesLeft(t *testing.T, fs disk.FS, boot string) ([]*raft.Log, bool) {
	t.Helper()
	o := uncached(small())
	o.BootID = boot
	l, err := Open(fs, dir, o)
	ok(t, err)
	got, err := all(l)
	ok(t, err)
	suspect := l.Suspect()
	ok(t, l.Close())
	return got, suspect
}

func TestFLUSH03AsyncFlushSyncsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newMem(t)
		o := async("boot-1")
		o.FlushInterval = 100 * time.Millisecond
		l, err := Open(fs, dir, o)
		ok(t, err)
		settle(l)
		syncs := 0
		fs.SetHook(func(op disk.Op) error {
			if op.Kind == disk.OpSync && op.Label == LabelAppend {
				syncs++
			}
			return nil
		})
		logs := batch(1, 3, 1, 100)
		ok(t, l.StoreLogs(logs))
		holds(t, l, logs)
		if syncs != 0 {
			t.Error("StoreLogs synced")
		}
		got, _ := entriesLeft(t, fs.Clone(), "boot-1")
		ok(t, same(got, logs)) // a kill loses nothing
		sleep(o.FlushInterval)
		synctest.Wait()
		for seed := range uint64(20) {
			got, _ := entriesLeft(t, fs.Crash(seed), "boot-2")
			ok(t, same(got, logs))
		}
		sleep(10 * o.FlushInterval)
		synctest.Wait()
		if syncs != 1 {
			t.Errorf("%d syncs for one batch", syncs)
		}
		ok(t, l.Close())
		fs.SetHook(nil)
	})
}

func TestAsyncFlushFailurePoisons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newMem(t)
		l, err := Open(fs, dir, async("boot-1"))
		ok(t, err)
		settle(l)
		fs.SetHook(func(op disk.Op) error {
			if op.Kind == disk.OpSync {
				return errInjected
			}
			return nil
		})
		ok(t, l.StoreLog(entryOf(1, 1, 100)))
		ok(t, l.Err())
		sleep(time.Second)
		<-l.Poisoned()
		want(t, "StoreLog", l.StoreLog(entryOf(2, 1, 100)), ErrPoisoned)
		fs.SetHook(nil)
		ok(t, l.Close())
		if !hasMark(t, fs) {
			t.Error("a poisoned log ended as if it were clean")
		}
	})
}

func hasMark(t *testing.T, fs disk.FS) bool {
	for _, n := range names(t, fs, dir) {
		if n == markName {
			return true
		}
	}
	return false
}

// A clean end syncs everything and takes the mark away.
func TestAsyncFlushClose(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, async("boot-1"))
	logs := batch(1, 30, 1, 4000)
	ok(t, l.StoreLogs(logs))
	if !hasMark(t, fs) {
		t.Error("no mark while entries are not synced")
	}
	ok(t, l.Close())
	for seed := range uint64(20) {
		got, suspect := entriesLeft(t, fs.Crash(seed), "boot-2")
		ok(t, same(got, logs))
		if suspect {
			t.Error("suspect after a clean end")
		}
	}
}

// A segment is synced before the next one gets its first entry, and a
// truncation leaves nothing behind it unsynced.
func TestAsyncFlushSyncsBeforeItGoesOn(t *testing.T) {
	fs := newMem(t)
	o := async("boot-1")
	o.FlushInterval = time.Hour
	l := mustOpen(t, fs, o)
	first, second := batch(1, 10, 1, 5000), batch(11, 15, 1, 5000)
	ok(t, l.StoreLogs(first))
	ok(t, l.StoreLogs(second))
	if l.Stats().Segments != 2 {
		t.Fatalf("%+v", l.Stats())
	}
	lost := false
	for seed := range uint64(50) {
		got, suspect := entriesLeft(t, fs.Crash(seed), "boot-2")
		if n := len(got); n < 10 {
			t.Fatalf("seed %d: %d entries left, 10 were synced", seed, n)
		} else {
			ok(t, same(got, concat(first, second)[:n]))
			lost = lost || n < 15
		}
		if !suspect {
			t.Error("not suspect after a power loss")
		}
	}
	if !lost {
		t.Error("a power loss took nothing: the test shows nothing")
	}
	// A crash in the middle of the truncation: its record vouches for what is
	// before it, so that must have been synced first.
	settle(l)
	logs := concat(first, second, batch(16, 18, 1, 5000))
	ok(t, l.StoreLogs(logs[15:]))
	during := 0
	fs.SetHook(func(op disk.Op) error {
		if op.Label == LabelHeader && op.Kind == disk.OpSync && during < 50 {
			for range 25 {
				during++
				got, _ := entriesLeft(t, fs.Crash(uint64(during)), "boot-2")
				if n := len(got); n != 16 && n != 18 {
					t.Errorf("%d entries left, want those before or after the truncation", n)
				}
				ok(t, same(got, logs[:len(got)]))
			}
		}
		return nil
	})
	ok(t, l.DeleteRange(17, 18))
	fs.SetHook(nil)
	for seed := range uint64(20) {
		got, _ := entriesLeft(t, fs.Crash(seed), "boot-2")
		ok(t, same(got, logs[:16]))
	}
	ok(t, l.Close())
}

// Random histories in AsyncFlush: a kill loses nothing, a power loss only an end
// of the log that was not synced, and never the middle.
func TestAsyncFlushHistories(t *testing.T) {
	seed := testSeed(t)
	steps := 400
	if long {
		steps = 20_000
	}
	rng := rand.New(rand.NewPCG(seed, 7))
	fs := newMem(t)
	boot, term := "boot", uint64(1)
	o := async(boot)
	o.FlushInterval = time.Millisecond
	l, err := Open(fs, dir, o)
	ok(t, err)
	var m model
	shorter := 0
	for i := range steps {
		c := drawn(rng, m, &term)
		ok(t, c.do(l))
		m = model{acked: m.after(c)}
		var left *disk.Mem
		switch rng.IntN(20) {
		default:
			continue
		case 0:
			left = fs.Clone()
		case 1:
			left = fs.Crash(rng.Uint64())
			boot = fmt.Sprint("boot-", i)
		}
		l.poison.fail(errors.New("killed"))
		ok(t, l.Close())
		crashed := o.BootID != boot
		fs, o.BootID = left, boot
		l, err = Open(fs, dir, o)
		ok(t, err)
		got, err := all(l)
		ok(t, err)
		if crashed && len(got) < len(m.acked) {
			shorter++
			m.acked = m.acked[:len(got)]
		}
		ok(t, same(got, m.acked))
		if crashed != l.Suspect() {
			t.Fatalf("crashed %v, suspect %v", crashed, l.Suspect())
		}
		ok(t, l.ClearSuspect())
	}
	ok(t, l.Close())
	t.Logf("%d power losses took something", shorter)
}

// The flush comes between taking a new segment and writing its first entry: the
// end of the log is still in the segment before.
func TestFlushOfATailWithoutEntries(t *testing.T) {
	fs := newMem(t)
	o := async("boot-1")
	o.FlushInterval = time.Hour
	l := mustOpen(t, fs, o)
	settle(l)
	logs := batch(1, 5, 1, 5000)
	ok(t, l.StoreLogs(logs[:3]))
	ok(t, l.roll())
	ok(t, l.syncTail())
	ok(t, l.StoreLogs(logs[3:]))
	got, _ := entriesLeft(t, fs.Clone(), "boot-1")
	ok(t, same(got, logs))
	ok(t, l.Close())
}

// The mark outlives everything but a clean end of a replica that is not suspect,
// and ClearSuspect.
func TestSuspect(t *testing.T) {
	fs := newMem(t)
	step := func(o Options, suspect bool) *Log {
		t.Helper()
		l, err := Open(fs, dir, o)
		ok(t, err)
		if l.Suspect() != suspect {
			t.Fatalf("suspect %v, want %v", l.Suspect(), suspect)
		}
		return l
	}
	kill := func(l *Log) {
		fs = fs.Clone()
		l.poison.fail(errors.New("killed"))
		ok(t, l.Close())
	}
	sync := func(boot string) Options {
		o := small()
		o.BootID = boot
		return o
	}
	kill(step(async("a"), false))
	kill(step(async("a"), false))         // the same boot: all is in the page cache
	kill(step(async("b"), true))          // another one
	kill(step(async("b"), true))          // and stays so
	ok(t, step(async("b"), true).Close()) // even after a clean end
	ok(t, step(sync("b"), true).Close())
	ok(t, step(sync("c"), true).Close())
	l := step(async("c"), true)
	ok(t, l.ClearSuspect())
	if l.Suspect() {
		t.Error("still suspect")
	}
	kill(l)
	kill(step(async("c"), false))
	ok(t, step(sync("c"), false).Close()) // opening has synced everything
	if hasMark(t, fs) {
		t.Error("the mark is still there")
	}
	kill(step(async("c"), false))
	l = step(sync("d"), true)
	ok(t, l.ClearSuspect())
	ok(t, l.ClearSuspect())
	ok(t, l.Close())
	ok(t, step(sync("e"), false).Close())

	// A mark that cannot be read is one.
	kill(step(async("e"), false))
	name := path.Join(dir, markName)
	mark := readFile(t, fs, name)
	for off := range mark {
		for _, b := range [][]byte{mark[:off], append(mark[:len(mark):len(mark)], 0)} {
			c := fs.Clone()
			writeFile(t, c, name, b)
			if _, suspect := entriesLeft(t, c, "e"); !suspect {
				t.Errorf("not suspect with a mark of %d bytes", len(b))
			}
		}
		c := fs.Clone()
		ok(t, c.FlipBit(name, int64(off), 2))
		if _, suspect := entriesLeft(t, c, "e"); !suspect {
			t.Errorf("not suspect with byte %d of the mark changed", off)
		}
	}
}

// The mark is on the disk before the first entry that is acknowledged unsynced.
func TestMarkComesFirst(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, async("a"))
	ok(t, l.StoreLog(entryOf(1, 1, 10)))
	for seed := range uint64(50) {
		if _, suspect := entriesLeft(t, fs.Crash(seed), "b"); !suspect {
			t.Fatalf("seed %d: not suspect", seed)
		}
	}
	ok(t, l.Close())
}
