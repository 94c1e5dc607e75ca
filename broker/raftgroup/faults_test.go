package raftgroup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

// faults draws faults for a cluster, from a seed.
type faults struct {
	c    *testCluster
	rng  *rand.Rand
	seen map[string]int // how often each kind has happened
}

func (f *faults) any() *testNode { return f.c.nodes[f.rng.IntN(len(f.c.nodes))] }

// victim is the leader, or anybody who is up; nil if nobody is.
func (f *faults) victim() *testNode {
	if n := f.c.leading(); n != nil && f.rng.IntN(2) == 0 {
		return n
	}
	for range 10 {
		if n := f.any(); n.now.Load() != nil {
			return n
		}
	}
	return nil
}

func (f *faults) happened(what string, n *testNode) {
	f.seen[what]++
	f.c.logger.Info("FAULT "+what, "node", n.id)
}

func (f *faults) sleep(d time.Duration) { time.Sleep(time.Duration(f.rng.Int64N(int64(d)))) }

// revive starts a node that is down, after a while.
func (f *faults) revive(n *testNode) {
	f.sleep(2 * time.Second)
	if n.now.Load() == nil {
		n.start()
	}
}

// crash ends a process as kill -9 or a power loss would.
func (f *faults) crash(n *testNode) {
	if f.rng.IntN(2) == 0 {
		f.happened("kill", n)
		n.kill()
		return
	}
	f.happened("power loss", n)
	n.powerLoss(f.rng.Uint64())
}

// draw makes one fault happen, and mostly mends it again.
func (f *faults) draw() {
	n := f.victim()
	if n == nil {
		f.revive(f.any())
		return
	}
	p := n.now.Load()
	switch f.rng.IntN(16) {
	case 0, 1, 2, 3: // quiet
		f.sleep(time.Second)
	case 4:
		f.crash(n)
		f.revive(n)
	case 5: // a majority, or all
		for _, n := range f.c.nodes[f.rng.IntN(2):] {
			if n.now.Load() != nil {
				f.crash(n)
			}
		}
		for _, n := range f.c.nodes {
			f.revive(n)
		}
	case 6:
		f.happened("isolation", n)
		f.c.net.isolate(n.addr, f.c.addrs(), true)
		f.sleep(3 * time.Second)
		f.c.net.heal()
	case 7: // one direction of one link, or of all
		f.happened("one-way cut", n)
		for _, o := range f.c.others(n)[f.rng.IntN(2):] {
			if f.rng.IntN(2) == 0 {
				f.c.net.cut(n.addr, o, true)
			} else {
				f.c.net.cut(o, n.addr, true)
			}
		}
		f.sleep(3 * time.Second)
		f.c.net.heal()
	case 8:
		f.happened("broken connections", n)
		for range 1 + f.rng.IntN(5) {
			f.c.net.sever(func(from, to string) bool { return (from == n.addr || to == n.addr) && f.rng.IntN(2) == 0 })
			f.sleep(200 * time.Millisecond)
		}
	case 9:
		f.happened("delay", n)
		for _, o := range f.c.others(n) {
			d := time.Duration(f.rng.IntN(150)) * time.Millisecond
			f.c.net.change(n.addr, o, func(l *memLink) { l.delay = d })
			f.c.net.change(o, n.addr, func(l *memLink) { l.delay = d })
		}
		f.sleep(3 * time.Second)
		f.c.net.heal()
	case 10:
		if err := p.group.TransferLeadership(context.Background(), ""); err == nil {
			f.happened("transfer", n)
		}
	case 11, 12:
		if err := p.group.Snapshot(); err == nil {
			f.happened("snapshot", n)
		}
	case 13, 14:
		f.crashAtStep(n)
	case 15:
		f.diskError(n)
	}
}

// steps are where a crash can be made to fall: just before such an operation.
var steps = map[string]func(disk.Op) bool{
	"any":           func(disk.Op) bool { return true },
	"frame write":   func(op disk.Op) bool { return op.Label == "raftlog.append" && op.Kind == disk.OpWrite },
	"log sync":      func(op disk.Op) bool { return op.Label == "raftlog.append" && op.Kind == disk.OpSync },
	"log header":    func(op disk.Op) bool { return op.Label == "raftlog.header" },
	"apply write":   func(op disk.Op) bool { return op.Label == "commitlog" && op.Kind == disk.OpWrite },
	"queue write":   func(op disk.Op) bool { return op.Label == "consumequeue" && op.Kind == disk.OpWrite },
	"snapshot":      func(op disk.Op) bool { return op.Label == "raftlog.snapshot" },
	"checkpoint":    func(op disk.Op) bool { return op.Label == "store checkpoint" },
	"fill":          func(op disk.Op) bool { return op.Label == "commitlog fill" },
	"segment ahead": func(op disk.Op) bool { return op.Label == "commitlog allocate" || op.Label == "raftlog.prepare" },
}

func (f *faults) step() (string, func(disk.Op) bool) {
	names := []string{"any", "frame write", "log sync", "log header", "apply write", "queue write", "snapshot", "checkpoint", "fill", "segment ahead"}
	name := names[f.rng.IntN(len(names))]
	return name, steps[name]
}

// crashAtStep crashes a node at one operation of its disk.
func (f *faults) crashAtStep(n *testNode) {
	name, match := f.step()
	disks := n.fs.Clone
	if f.rng.IntN(2) == 0 {
		seed, fs := f.rng.Uint64(), n.fs
		disks = func() *disk.Mem { return fs.Crash(seed) }
	}
	happened := n.crashAt(1+f.rng.IntN(20), match, disks)
	if f.rng.IntN(2) == 0 {
		// One that is busy with a snapshot.
		n.now.Load().group.Snapshot() // it may fail: the node is killed
	}
	select {
	case <-happened:
		f.happened("crash at "+name, n)
		n.stop()
		f.revive(n)
	case <-time.After(3 * time.Second):
		n.fs.SetHook(nil)
	}
}

// diskError makes one operation fail, once.
func (f *faults) diskError(n *testNode) {
	name, match := f.step()
	p := n.now.Load()
	left := 1 + f.rng.IntN(10)
	failed := make(chan struct{})
	hook := &onceHook{left: left, match: match, done: func() { close(failed) }}
	n.fs.SetHook(hook.see)
	select {
	case <-failed:
		f.happened("error at "+name, n)
	case <-time.After(2 * time.Second):
	}
	n.fs.SetHook(nil)
	f.sleep(time.Second)
	if p.group.Err() != nil {
		// Its operator comes.
		f.happened("stopped by an error", n)
		n.stop()
		f.revive(n)
	}
}

// testFaults runs one seed: senders and a reader against drawn faults.
func testFaults(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	nodes := 3
	if rng.IntN(6) == 0 {
		nodes = 5
	}
	small := rng.IntN(2) == 0
	t.Logf("%d nodes, small logs: %v", nodes, small)
	tweak := func(c *Config) {
		c.DedupSpan = time.Hour // longer than any run
		if small {
			// Logs are compacted all the time.
			c.SnapshotBytes, c.TrailingBytes, c.RaftSegmentSize, c.MaxEntry = 64<<10, 1, 128<<10, 64<<10
			c.BatchBytes = 8 << 10
		}
	}
	inCluster(t, nodes, tweak, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 3)
		f := &faults{c: c, rng: rng, seen: map[string]int{}}
		h := &history{}
		cl := newClients(c, h, 2+rng.IntN(8), "T", 3, seed)
		c.wait("a load before the first fault", func() bool { return h.count() >= floor })
		for left := 6 + rng.IntN(10); left > 0 || len(f.seen) == 0; left-- {
			f.draw()
			if n := f.any(); n.now.Load() == nil {
				f.revive(n)
			}
		}
		c.heal()
		before := h.count()
		c.wait("a load after the last fault", func() bool { return h.count() >= before+floor })
		cl.end()
		cl.check()
		t.Logf("%d of %d sends acknowledged, faults: %v", h.count(), len(h.ops), f.seen)
	})
}

// TestRandomFaults draws faults from seeds: RAFTMQ_SEED repeats one, with
// RAFTMQ_LONG=1 there are as many as RAFTMQ_RUNS says, or 1000. The faults of a
// seed are the same each time; how goroutines are scheduled between them is not.
func TestRandomFaults(t *testing.T) {
	runs := 4
	if long() {
		runs = 1000
		if v, err := strconv.Atoi(os.Getenv("RAFTMQ_RUNS")); err == nil {
			runs = v
		}
	}
	seed := testSeed(t)
	if os.Getenv("RAFTMQ_SEED") != "" {
		testFaults(t, seed)
		return
	}
	for i := range uint64(runs) {
		t.Run(fmt.Sprint(seed+i), func(t *testing.T) {
			t.Parallel()
			testFaults(t, seed+i)
		})
	}
}
