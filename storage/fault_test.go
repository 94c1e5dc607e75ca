package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
)

// A write or a sync that fails, once, at each place that must not fail: the store
// stops for good, reads go on, and a restart, even after a power loss, finds
// everything that was synced before and replays the rest.
func TestFaultPoisons(t *testing.T) {
	first := seed(t)
	for i, f := range []struct {
		label disk.Label
		kind  disk.OpKind
	}{
		{LabelCommitLog, disk.OpWrite},
		{LabelCommitLog, disk.OpSync},
		{LabelSums, disk.OpWrite},
		{LabelSums, disk.OpSync},
		{LabelQueue, disk.OpOpen},
		{LabelQueue, disk.OpMkdir},
		{LabelQueue, disk.OpWrite},
		{LabelQueue, disk.OpSyncFS},
		{LabelQueueSums, disk.OpWrite},
		{LabelCheckpoint, disk.OpOpen},
		{LabelCheckpoint, disk.OpWrite},
		{LabelCheckpoint, disk.OpTruncate},
		{LabelCheckpoint, disk.OpSync},
		{LabelCheckpoint, disk.OpRename},
		{LabelCheckpoint, disk.OpSyncDir},
	} {
		t.Run(fmt.Sprintf("%s %s", f.kind, f.label), func(t *testing.T) {
			t.Parallel()
			for j := range uint64(4) {
				rng := rand.New(rand.NewPCG(first, uint64(i)<<8|j))
				r := newRig(t, testOptions(nil))
				for range 10 {
					r.do(r.m.append(r.randomBatch(rng, 1)...))
				}
				r.snap()
				r.failOnce(f.label, f.kind, 1+rng.Int64N(3), syscall.EIO)
				err := r.runUntilError(rng)
				if !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO) {
					t.Fatalf("error %v, expected a poisoned store", err)
				}
				r.poisoned()
				r.restart(r.fs.Crash(rng.Uint64()))
				r.check()
				r.snap()
				r.check()
			}
		})
	}
}

// failOnce makes the nth operation of a kind and a label fail.
func (r *rig) failOnce(label disk.Label, kind disk.OpKind, nth int64, err error) *atomic.Bool {
	var n atomic.Int64
	var fired atomic.Bool
	r.fs.SetHook(func(op disk.Op) error {
		if op.Label == label && op.Kind == kind && n.Add(1) == nth {
			fired.Store(true)
			return err
		}
		return nil
	})
	return &fired
}

// runUntilError goes on with batches and snapshots. What was proposed when it
// fails is in the model: it was committed.
func (r *rig) runUntilError(rng *rand.Rand) error {
	r.t.Helper()
	for i := range 200 {
		msgs := r.randomBatch(rng, 1)
		msgs = append(msgs, message{id: QueueID{fmt.Sprintf("new%d", i), 1, 0}}) // opens files, makes directories
		if err := apply(r.s, r.m.append(msgs...)); err != nil {
			return err
		}
		r.applied++
		if i%3 == 2 {
			m := r.s.Pin()
			if err := r.s.Sync(m); err != nil {
				return err
			}
			r.keep(m)
		}
	}
	r.t.Fatal("the fault did not fire")
	return nil
}

// poisoned checks that the store takes nothing any more, though the disk is well
// again, and that what was published is still read.
func (r *rig) poisoned() {
	r.t.Helper()
	for what, err := range map[string]error{
		"write":  r.s.Write(&Batch{Pos: r.s.End(), Log: []byte("x")}),
		"sync":   r.s.Sync(r.s.Pin()),
		"trim":   r.s.Trim(r.m.size),
		"drop":   r.s.DropTopic("t0", 1),
		"room":   r.s.Room(),
		"fill":   r.s.Fill(0, nil),
		"sums":   r.s.FillSums(0, nil),
		"resume": r.s.Resume(nil),
		"err":    r.s.Err(),
	} {
		if !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO) {
			r.t.Errorf("%s of a poisoned store: %v", what, err)
		}
	}
	if _, err := r.s.Read(0, int(min(r.s.End(), 5000))); err != nil {
		r.t.Errorf("read of a poisoned store: %v", err)
	}
}

// A read that fails with an I/O error is damage: that range is fetched. One that
// fails for want of descriptors is not.
func TestReadFaults(t *testing.T) {
	t.Parallel()
	for _, label := range []disk.Label{LabelCommitLog, LabelSums, LabelQueue, LabelQueueSums} {
		for _, cause := range []error{syscall.EIO, syscall.EMFILE} {
			t.Run(fmt.Sprintf("%s %v", label, cause), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed(t), 0))
				r := filledRig(t, rng)
				r.kill() // nothing is hot
				peer := newRig(t, testOptions(nil))
				peer.m = r.m
				peer.replay()
				r.await(r.s.Complete) // and the repairer is done with the index
				fired := r.failOnce(label, disk.OpRead, 2, cause)
				err := r.compare()
				if !fired.Load() || !errors.Is(err, cause) || errors.Is(err, ErrMissing) != (cause == syscall.EIO) {
					t.Fatalf("fired %v, error %v", fired.Load(), err)
				}
				r.await(func() bool {
					for fetch(t, rng, r.s, peer.s) {
					}
					return r.s.Complete()
				})
				r.check()
			})
		}
	}
}

// The disk fills up: Room refuses before Write could fail, reads go on, nothing is
// poisoned, and with the oldest segments trimmed it goes on by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(seed(t), 0))
	o := testOptions(nil)
	o.Reserve = 256 << 10 // the index takes its share
	r := newRig(t, o)
	r.fs.SetCapacity(3 << 19)
	for range 4 {
		full := false
		for !full {
			switch err := r.s.Room(); {
			case errors.Is(err, ErrNoSpace):
				full = true
			case err != nil:
				t.Fatal(err)
			}
			r.do(r.m.append(messages(rng, 20, 4, 200)...)) // one more was under way
		}
		r.check()
		r.snap()
		r.do(r.m.trim(int64(len(r.m.log)) / 4 * 3))
		r.await(func() bool { poke(r.changed); return r.s.Room() == nil })
		r.check()
	}
	r.kill()
	r.check()
}

// No room for a queue's file or the checkpoint fails a snapshot, and no more.
func TestNoRoomForSnapshot(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		label disk.Label
		kind  disk.OpKind
	}{
		{LabelQueue, disk.OpWrite}, {LabelQueue, disk.OpOpen}, {LabelQueueSums, disk.OpWrite}, {LabelCheckpoint, disk.OpWrite},
	} {
		t.Run(fmt.Sprintf("%s %s", f.kind, f.label), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed(t), 0))
			r := newRig(t, testOptions(nil))
			for range 20 {
				r.do(r.m.append(r.randomBatch(rng, 1)...))
			}
			r.snap()
			var full atomic.Bool
			full.Store(true)
			r.fs.SetHook(func(op disk.Op) error {
				if full.Load() && op.Label == f.label && op.Kind == f.kind {
					return syscall.ENOSPC
				}
				return nil
			})
			// A new file, with blocks that are whole.
			r.do(r.m.append(slices.Repeat([]message{{id: QueueID{"new", 1, 0}}}, 2*unitsPerBlock)...))
			for range 20 {
				r.do(r.m.append(r.randomBatch(rng, 1)...))
			}
			if err := r.s.Sync(r.s.Pin()); !errors.Is(err, ErrNoSpace) {
				t.Fatalf("sync: %v", err)
			}
			if f.label == LabelQueue {
				if err := r.s.Room(); !errors.Is(err, ErrNoSpace) {
					t.Errorf("room: %v", err)
				}
			}
			for range 20 {
				r.do(r.m.append(r.randomBatch(rng, 1)...))
			}
			if f.kind != disk.OpOpen {
				r.check()
			}
			full.Store(false)
			r.await(func() bool { poke(r.changed); return r.s.Room() == nil })
			r.snap()
			r.check()
			r.crash(rng.Uint64())
			r.check()
		})
	}
}

// A segment that cannot be made is no error until one is needed, and then only
// until it can.
func TestAllocateFaults(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		t.Run(cause.Error(), func(t *testing.T) {
			r := newRig(t, testOptions(nil))
			r.await(func() bool { poke(r.changed); return r.s.Room() == nil && r.s.alloc.isReady() })
			var fail atomic.Bool
			fail.Store(true)
			r.fs.SetHook(func(op disk.Op) error {
				if fail.Load() && op.Kind == disk.OpAllocate {
					return cause
				}
				return nil
			})
			// The first segment was made ahead; the second cannot be.
			for int64(len(r.m.log)) < r.m.size/2 {
				r.do(r.m.append(message{id: QueueID{"t", 1, 0}, body: make([]byte, 2000)}))
			}
			r.await(func() bool { poke(r.changed); return r.s.Room() != nil })
			if err := r.s.Room(); !errors.Is(err, cause) || errors.Is(err, ErrNoSpace) != (cause == syscall.ENOSPC) {
				t.Fatalf("room: %v", err)
			}
			// The allocator tries again and again: a file is there while it does, and
			// must not be left.
			r.await(func() bool { poke(r.changed); return len(r.files0(commitLogDir)) == 1 })
			fail.Store(false)
			r.await(func() bool { poke(r.changed); return r.s.Room() == nil })
			for int64(len(r.m.log)) < 3*r.m.size {
				r.do(r.m.append(message{id: QueueID{"t", 1, 0}, body: make([]byte, 2000)}))
			}
			r.check()
			// One that is needed and cannot be made stops the store.
			fail.Store(true)
			var err error
			for err == nil {
				err = apply(r.s, r.m.append(message{id: QueueID{"t", 1, 0}, body: make([]byte, 2000)}))
			}
			if !errors.Is(err, ErrPoisoned) || !errors.Is(err, cause) {
				t.Errorf("write: %v", err)
			}
		})
	}
}

func (a *allocator) isReady() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ready != nil
}

func (r *rig) files0(dir string) []string { return r.fileNames(r.opts.Dir + "/" + dir) }

// A peer's bytes that cannot be written stay missing, and nothing else happens.
func TestFillFaults(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		t.Run(cause.Error(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed(t), 0))
			leader := filledRig(t, rng)
			r := newRig(t, testOptions(nil))
			r.m = leader.m
			r.snapshot, r.snapshotAt, r.applied = leader.snapshot, leader.snapshotAt, leader.snapshotAt
			r.must(r.s.Resume(r.manifest()))
			var fail atomic.Bool
			fail.Store(true)
			r.fs.SetHook(func(op disk.Op) error {
				if fail.Load() && op.Label == LabelFill && (op.Kind == disk.OpWrite || op.Kind == disk.OpAllocate) {
					return cause
				}
				return nil
			})
			r.await(func() bool { m := r.s.Missing(); return len(m) > 0 && m[0].Off == 0 && m[0].Sums > 0 })
			before := r.s.Stats().MissingBytes
			want := r.s.Missing()[0]
			sums, err := leader.s.ReadSums(want.Off, want.Sums)
			r.must(err)
			if err := r.s.FillSums(want.Off, sums); !errors.Is(err, cause) || errors.Is(err, ErrNoSpace) != (cause == syscall.ENOSPC) {
				t.Fatalf("sums: %v", err)
			}
			fail.Store(false)
			r.must(r.s.FillSums(want.Off, sums))
			r.await(func() bool { return r.s.Missing()[0].Sums == 0 })
			fail.Store(true)
			data, err := leader.s.Read(want.Off, blockSize)
			r.must(err)
			if err := r.s.Fill(want.Off, data); !errors.Is(err, cause) {
				t.Fatalf("fill: %v", err)
			}
			if r.s.Err() != nil || r.s.Stats().MissingBytes != before {
				t.Fatalf("err %v, missing %d, before %d", r.s.Err(), r.s.Stats().MissingBytes, before)
			}
			fail.Store(false)
			r.await(func() bool {
				for fetch(t, rng, r.s, leader.s) {
				}
				return r.s.Complete()
			})
			r.replay()
			r.check()
		})
	}
}
