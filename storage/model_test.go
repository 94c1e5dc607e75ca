package storage

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
)

// moment is a copy of everything at one moment: what a restart would find.
type moment struct {
	fs         *disk.Mem
	snapshot   []byte
	snapshotAt int
}

// crashAt arms the file system: at the nth operation from now it is copied as a
// power loss, or kill -9, would leave it. The store goes on, and is thrown away
// by restartAt.
func (r *rig) crashAt(n int64, power bool, seed uint64) func() *moment {
	var (
		mu  sync.Mutex
		got *moment
		ops atomic.Int64
	)
	fs := r.fs
	fs.SetHook(func(disk.Op) error {
		if ops.Add(1) == n {
			r.snapMu.Lock()
			m := &moment{snapshot: r.snapshot, snapshotAt: r.snapshotAt}
			if power {
				m.fs = fs.Crash(seed)
			} else {
				m.fs = fs.Clone()
			}
			r.snapMu.Unlock()
			mu.Lock()
			got = m
			mu.Unlock()
		}
		return nil
	})
	return func() *moment {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

// restartAt goes on from a moment.
func (r *rig) restartAt(m *moment) {
	r.t.Helper()
	r.fs.SetHook(nil)
	r.snapshot, r.snapshotAt = m.snapshot, m.snapshotAt
	r.restart(m.fs)
}

// A random history of batches, trims, drops and snapshots, with a crash or a
// kill at a random disk operation now and then: the store always is what the
// model is.
func TestModel(t *testing.T) {
	rounds := 25
	if os.Getenv("RAFTMQ_LONG") != "" {
		rounds = 1000
	}
	first := seed(t)
	if os.Getenv("RAFTMQ_SEED") != "" {
		rounds = 1
	}
	for i := range rounds {
		s := first + uint64(i)
		t.Run(fmt.Sprint(s), func(t *testing.T) { t.Parallel(); modelRound(t, s) })
	}
}

func modelRound(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	o := testOptions(nil)
	o.SegmentSize = int64(8+4*rng.IntN(8)) << 10
	o.HotBytes = int64(rng.IntN(100)) << 10
	r := newRig(t, o)
	armed := func() *moment { return nil }
	incarnation := uint64(1)
	for range 120 {
		if m := armed(); m != nil {
			r.restartAt(m)
			r.check()
			armed = func() *moment { return nil }
		}
		switch rng.IntN(20) {
		case 0:
			r.do(r.m.trim(rng.Int64N(int64(len(r.m.log)) + 1)))
		case 1:
			r.do(r.m.drop(TopicID{"t1", incarnation}))
			incarnation++
		case 2, 3:
			r.snap()
		case 4:
			// A snapshot beside the next batches.
			m, at := r.s.Pin(), r.applied
			done := make(chan error, 1)
			go func() { done <- r.s.Sync(m) }()
			for range rng.IntN(4) {
				r.do(r.m.append(r.randomBatch(rng, incarnation)...))
			}
			r.must(<-done)
			now := r.applied
			r.applied = at
			r.keep(m)
			r.applied = now
		case 5, 6:
			armed = r.crashAt(1+rng.Int64N(100), rng.IntN(2) == 0, rng.Uint64())
		case 7:
			r.check()
		default:
			r.do(r.m.append(r.randomBatch(rng, incarnation)...))
		}
	}
	r.fs.SetHook(nil)
	r.check()
	r.restart(r.fs.Crash(rng.Uint64()))
	r.check()
	r.await(r.s.Complete)
	r.check()
	if n := r.s.Stats(); n.BadBlocks+n.BadQueueBlocks+n.BadSums > 0 {
		t.Errorf("damage was found where there was none: %+v", n)
	}
}

func (r *rig) randomBatch(rng *rand.Rand, incarnation uint64) []message {
	body := []int{10, 100, 3000}[rng.IntN(3)]
	msgs := messages(rng, 1+rng.IntN(30), 1+rng.IntN(4), body)
	for i := range msgs {
		if msgs[i].id.Topic == "t1" {
			msgs[i].id.Incarnation = incarnation
		}
		if rng.IntN(2) == 0 {
			msgs[i].id = QueueID{"t0", 1, 0}
		}
	}
	return msgs
}
