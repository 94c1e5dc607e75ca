package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/raftmq/raftmq/storage/disk"
)

// Readers beside the writer, snapshots and trims: what they get is whole and
// right, and a unit that is visible has its record.
func TestConcurrentReaders(t *testing.T) {
	t.Parallel()
	s := seed(t)
	for _, fs := range []disk.FS{disk.NewMem(1), disk.OS()} {
		t.Run(fmt.Sprintf("%T", fs), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(s, 0))
			o := testOptions(fs)
			if fs == disk.OS() {
				o.Dir = t.TempDir()
			}
			r := newRig(t, o)
			var appended atomic.Int64
			r.s.opts.OnAppend = func(queues []*Queue) {
				for _, q := range queues {
					if q.Max() == 0 {
						t.Error("told of a queue without units")
					}
				}
				appended.Add(1)
			}
			stop := make(chan struct{})
			var wg sync.WaitGroup
			var read atomic.Int64
			for i := range 4 {
				wg.Go(func() { readUntil(t, r.s, rand.New(rand.NewPCG(s, uint64(i)+1)), stop, &read) })
			}
			batches := int64(0)
			for range 300 {
				r.do(r.m.append(messages(rng, 1+rng.IntN(20), 3, 500)...))
				batches++
				switch rng.IntN(20) {
				case 0:
					r.do(r.m.trim(rng.Int64N(int64(len(r.m.log)))))
				case 1, 2:
					m := r.s.Pin()
					wg.Go(func() {
						if err := r.s.Sync(m); err != nil {
							t.Error(err)
						}
					})
				}
			}
			for read.Load() < 2000 {
				runtime.Gosched()
			}
			close(stop)
			wg.Wait()
			r.check()
			if appended.Load() != batches {
				t.Errorf("OnAppend was called %d times for %d batches", appended.Load(), batches)
			}
			if n := r.s.Stats(); n.BadBlocks+n.BadQueueBlocks+n.BadSums > 0 {
				t.Errorf("damage was found where there was none: %+v", n)
			}
		})
	}
}

func readUntil(t *testing.T, s *Store, rng *rand.Rand, stop chan struct{}, count *atomic.Int64) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		q := s.Queue(QueueID{fmt.Sprintf("t%d", rng.IntN(3)), 1, int32(rng.IntN(3))})
		if q == nil {
			runtime.Gosched()
			continue
		}
		lo, err := q.Min()
		if err != nil {
			t.Error(err)
			return
		}
		hi := q.Max()
		if lo == hi {
			continue
		}
		off := lo + rng.Int64N(hi-lo)
		if rng.IntN(2) == 0 {
			off = hi - 1 // the tail
		}
		units, err := q.Units(off, 1+rng.IntN(50), nil)
		if err != nil && !errors.Is(err, ErrTrimmed) {
			t.Errorf("units at %d: %v", off, err)
			return
		}
		for i, u := range units {
			if err := checkRecord(s, rng, off+int64(i), u); err != nil {
				t.Errorf("unit %d of queue %s: %v", off+int64(i), q.id, err)
				return
			}
			count.Add(1)
		}
		if rng.IntN(10) == 0 {
			if _, err := s.Search(context.Background(), q.id.Topic, fmt.Sprint(rng.IntN(1000)), 0, 1<<60, 5); err != nil {
				t.Error(err)
			}
			if _, err := q.OffsetByTime(1_700_000_000_000+rng.Int64N(1000), Lower); err != nil && !errors.Is(err, ErrTrimmed) {
				t.Error(err)
			}
		}
	}
}

// checkRecord reads a unit's record and holds it against the unit.
func checkRecord(s *Store, rng *rand.Rand, off int64, u Unit) error {
	v := View{}
	var err error
	if rng.IntN(2) == 0 {
		v.Bytes, err = s.Read(u.Phys, int(u.Size))
	} else {
		v, err = s.View(u.Phys, int(u.Size))
	}
	if errors.Is(err, ErrTrimmed) {
		return nil
	}
	if err != nil {
		return err
	}
	defer v.Release()
	rec, err := parseRecord(v.Bytes)
	if err == nil {
		err = rec.checkBody()
	}
	if err == nil && (rec.phys != u.Phys || rec.queueOffset != off) {
		err = fmt.Errorf("record at %d is that of offset %d at %d", u.Phys, rec.queueOffset, rec.phys)
	}
	return err
}

// A view outlives the trim of its segment, and the Close of the store. The file
// goes when the view does.
func TestViewHoldsItsSegment(t *testing.T) {
	for _, fs := range []disk.FS{disk.NewMem(1), disk.OS()} {
		t.Run(fmt.Sprintf("%T", fs), func(t *testing.T) {
			o := testOptions(fs)
			o.HotBytes = 1 << 30
			if fs == disk.OS() {
				o.Dir = t.TempDir()
			}
			r := newRig(t, o)
			id := QueueID{"t", 1, 0}
			for range 40 {
				r.do(r.m.append(message{id: id, body: bytes.Repeat([]byte{7}, 3000)}))
			}
			first := r.m.queues[id][0]
			v, err := r.s.View(first.Phys, int(first.Size))
			r.must(err)
			last := r.m.queues[id][39]
			w, err := r.s.View(last.Phys, int(last.Size))
			r.must(err)
			if v.mapping == nil || w.mapping == nil {
				t.Fatal("not from the mapping")
			}
			exists := func(base int64) bool {
				_, err := fs.Stat("", segmentPath(r.s.dir, base))
				return err == nil
			}
			dir := r.s.dir
			r.s.house.sweep.Store(true) // as after a Resume that the trim has overtaken
			r.do(r.m.trim(2 * r.m.size))
			r.await(func() bool { poke(r.changed); return !exists(r.m.size) && !r.s.house.sweep.Load() })
			r.s.keepHouse()
			if !exists(0) {
				t.Error("the file of a segment that is read was removed")
			}
			if !bytes.Equal(v.Bytes, r.m.log[:first.Size]) {
				t.Error("a view's bytes changed")
			}
			if _, err := r.s.View(first.Phys, int(first.Size)); !errors.Is(err, ErrTrimmed) {
				t.Errorf("view of a trimmed segment: %v", err)
			}
			v.Release()
			r.await(func() bool { poke(r.changed); return !exists(0) })
			r.close()
			if !bytes.Equal(w.Bytes, r.m.log[last.Phys:last.Phys+int64(last.Size)]) || dir == "" {
				t.Error("a view's bytes changed with Close")
			}
			w.Release()
		})
	}
}

// Everything fails with ErrClosed after Close, and no goroutine is left.
func TestClose(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := newRig(t, testOptions(nil))
	id := QueueID{"t", 1, 0}
	r.do(r.m.append(message{id: id, body: []byte("x")}))
	s := r.s
	q := s.Queue(id)
	m := s.Pin()
	r.close()
	_, readErr := s.Read(0, 10)
	_, viewErr := s.View(0, 10)
	_, searchErr := s.Search(context.Background(), "t", "k", 0, 1, 1)
	for what, err := range map[string]error{
		"write": s.Write(&Batch{}), "sync": s.Sync(m), "trim": s.Trim(5), "drop": s.DropTopic("t", 1), "resume": s.Resume(nil),
		"room": s.Room(), "fill": s.Fill(0, nil), "sums": s.FillSums(0, nil), "close": s.Close(), "read": readErr, "view": viewErr,
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if !errors.Is(searchErr, ErrIndexClosed) {
		t.Errorf("search after Close: %v", searchErr)
	}
	if u, err := q.Units(0, 1, nil); err == nil && u[0].Phys != 0 {
		t.Errorf("units after Close: %v", u)
	}
}

// openDescriptors counts this process's.
func openDescriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) - 1
}

// Tens of thousands of queues share a few hundred descriptors, and idle ones cost
// next to nothing.
func TestManyQueues(t *testing.T) {
	queues, messages := 2_000, 3
	if os.Getenv("RAFTMQ_LONG") != "" {
		queues = 40_000
	}
	before := openDescriptors(t)
	o := testOptions(disk.OS())
	o.Dir, o.SegmentSize, o.MaxOpenFiles, o.KeysOf = t.TempDir(), 16<<20, 512, nil
	r := newRig(t, o)
	most := 0
	count := func() { most = max(most, openDescriptors(t)-before) }
	var msgs []message
	for range messages {
		for i := range queues {
			msgs = append(msgs, message{id: QueueID{fmt.Sprintf("topic-%d", i/8), 1, int32(i % 8)}})
			if len(msgs) == 100 {
				r.do(r.m.append(msgs...))
				msgs = msgs[:0]
				count()
			}
		}
		r.snap()
		count()
	}
	r.check()
	count()
	if most > 600 {
		t.Errorf("%d descriptors", most)
	}
	r.snap()
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	r.m.ops = nil // nothing to replay
	r.snapshotAt = 0
	snapshot := r.manifest()
	r.close()
	full := heap()
	s, err := Open(r.opts)
	r.must(err)
	r.must(s.Resume(snapshot))
	snapshot = nil
	// The checkpoint keeps the manifest: count it apart.
	perQueue := int(heap()-full) / queues
	t.Logf("%d queues: %d descriptors, %d bytes of heap a queue with the manifest", queues, most, perQueue)
	if perQueue > 450 {
		t.Errorf("%d bytes of heap for an idle queue", perQueue)
	}
	r.must(s.Close())
	runtime.KeepAlive(s)
}

// A follower that is being brought up to date is read meanwhile.
func TestConcurrentFill(t *testing.T) {
	t.Parallel()
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 0))
	leader := filledRig(t, rng)
	r := newRig(t, testOptions(nil))
	r.m = leader.m
	r.snapshot, r.snapshotAt, r.applied = leader.snapshot, leader.snapshotAt, leader.snapshotAt
	r.must(r.s.Resume(r.manifest()))
	r.replay()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 3 {
		rng := rand.New(rand.NewPCG(s, uint64(i)+1))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				off := rng.Int64N(r.s.End())
				b, err := r.s.Read(off, int(min(1+rng.Int64N(3000), r.m.size-off%r.m.size, r.s.End()-off)))
				if err != nil && !errors.Is(err, ErrMissing) {
					t.Error(err)
				}
				if err == nil && !bytes.Equal(b, r.m.log[off:off+int64(len(b))]) {
					t.Errorf("wrong bytes at %d", off)
				}
			}
		})
	}
	r.await(func() bool {
		for fetch(t, rng, r.s, leader.s) {
		}
		return r.s.Complete()
	})
	close(stop)
	wg.Wait()
	r.check()
}
