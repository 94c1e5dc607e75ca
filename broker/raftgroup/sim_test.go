package raftgroup

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testSim runs one seed: clients of all kinds against faults that are drawn.
func testSim(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	nodes := 3
	if rng.IntN(6) == 0 {
		nodes = 5
	}
	small, async := rng.IntN(2) == 0, rng.IntN(5) == 0
	tweak := func(c *Config) {
		c.DedupSpan = 1000 * time.Hour // longer than any run, whatever the clocks say
		if async {
			asyncFlush(c)
		}
		if small {
			// Logs are compacted all the time.
			c.SnapshotBytes, c.TrailingBytes, c.RaftSegmentSize, c.MaxEntry = 64<<10, 1, 128<<10, 64<<10
			c.BatchBytes = 8 << 10
		}
	}
	inCluster(t, nodes, tweak, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 3)
		h := &history{}
		f := &faults{c: c, h: h, rng: rng, async: async, seen: map[string]int{}}
		f.choose(os.Getenv("RAFTMQ_FAULTS"))
		t.Logf("%d nodes, small logs: %v, async: %v, faults from %v", nodes, small, async, f.names())
		cl := newClients(c, h, 2+rng.IntN(8), "T", 3, seed)
		o := newOthers(cl, seed)
		c.wait("a load before the first fault", func() bool { return h.count() >= floor })
		for left, tries := 6+rng.IntN(10), 0; left > 0 || len(f.seen) == 0 && tries < 100; left, tries = left-1, tries+1 {
			f.draw()
			if n := f.any(); n.now.Load() == nil {
				f.revive(n)
			}
		}
		c.heal()
		before := h.count()
		c.wait("a load after the last fault", func() bool { return h.count() >= before+floor })
		cl.end()
		o.finish()
		cl.check()
		o.check()
		t.Logf("%d of %d sends acknowledged, %v, faults: %v", h.count(), len(h.ops), o, f.seen)
	})
}

func (f *faults) names() (all []string) {
	for _, k := range f.kinds {
		all = append(all, k.name)
	}
	return all
}

// TestSim draws clusters, clients and faults from seeds. RAFTMQ_RUNS says how
// many, RAFTMQ_SEED where they begin; with RAFTMQ_SEED alone it is that one only.
// Everything a seed draws is the same each time. What goroutines that can run at
// one moment of fake time do first is not: see DESIGN.md.
func TestSim(t *testing.T) {
	runs := 4
	if long() {
		runs = 1000
	}
	seed := testSeed(t)
	if os.Getenv("RAFTMQ_SEED") != "" {
		runs = 1
	}
	if v := os.Getenv("RAFTMQ_RUNS"); v != "" {
		var err error
		if runs, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	const tooMany = 10 // failures; more tell nothing new
	stop := int32(tooMany)
	if f := flag.Lookup("test.failfast"); f != nil && f.Value.String() == "true" {
		stop = 1
	}
	begin := time.Now()
	var next, failed atomic.Int32
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= runs || failed.Load() >= stop {
					return
				}
				s := seed + uint64(i)
				if !t.Run(fmt.Sprint(s), func(t *testing.T) { testSim(t, s) }) {
					failed.Add(1)
					t.Errorf("seed %d fails, after %d: make sim SEED=%d SEEDS=1 runs it again", s, i, s)
				}
			}
		})
	}
	workers.Wait()
	done := min(int(next.Load()), runs)
	fmt.Printf("%d seeds from %d on, %d failed, %.0f a minute\n", done, seed, failed.Load(), float64(done)/time.Since(begin).Minutes())
}
