package raftgroup

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

// faults draws faults for a cluster, from a seed.
type faults struct {
	c     *testCluster
	h     *history
	rng   *rand.Rand
	kinds []faultKind    // those of this run
	async bool           // nodes acknowledge what is not synced
	seen  map[string]int // how often each kind has happened
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
	if f.rng.IntN(2) == 0 || !f.mayLosePower(n) {
		f.happened("kill", n)
		n.kill()
		return
	}
	f.happened("power loss", n)
	n.powerLoss(f.rng.Uint64())
}

// mayLosePower says whether a node may lose what it has not synced: with
// AsyncFlush no more than a minority may have, at a time.
func (f *faults) mayLosePower(n *testNode) bool {
	if !f.async {
		return true
	}
	for _, o := range f.c.nodes {
		if p := o.now.Load(); o != n && (p == nil || p.dead.Load() || p.group.Err() != nil || p.group.log.Suspect()) {
			return false
		}
	}
	return !n.group().log.Suspect()
}

// faultKind is a kind of fault: it happens to a node that is up, and is mostly
// mended again when do returns.
type faultKind struct {
	name string
	do   func(f *faults, n *testNode)
}

var faultKinds = []faultKind{
	{"crash", func(f *faults, n *testNode) {
		f.crash(n)
		f.revive(n)
	}},
	{"crash of many", func(f *faults, _ *testNode) { // a majority, or all
		for _, n := range f.c.nodes[f.rng.IntN(2):] {
			if n.now.Load() != nil {
				f.crash(n)
			}
		}
		for _, n := range f.c.nodes {
			f.revive(n)
		}
	}},
	{"isolation", func(f *faults, n *testNode) {
		f.happened("isolation", n)
		f.c.net.isolate(n.addr, f.c.addrs(), true)
		f.sleep(3 * time.Second)
		f.c.net.heal()
	}},
	{"one-way cut", func(f *faults, n *testNode) { // one direction of one link, or of all
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
	}},
	{"broken connections", (*faults).breakConnections},
	{"delay", func(f *faults, n *testNode) {
		f.happened("delay", n)
		f.delay(n, 150*time.Millisecond)
		f.sleep(3 * time.Second)
		f.c.net.heal()
	}},
	{"spikes", (*faults).spikes},
	{"transfer", (*faults).transfers},
	{"snapshot", func(f *faults, n *testNode) {
		if err := n.group().Snapshot(); err == nil {
			f.happened("snapshot", n)
		}
	}},
	{"crash at a step", (*faults).crashAtStep},
	{"crash at a vote", (*faults).crashAtVote},
	{"disk error", (*faults).diskError},
	{"slow disk", (*faults).slowDisk},
	{"hung disk", (*faults).hungDisk},
	{"full disk", (*faults).fullDisk},
	{"pause", (*faults).pause},
	{"wrong clock", (*faults).wrongClock},
	{"power loss after an ack", (*faults).powerLossAfterAck},
	{"failed syncs", (*faults).failedSyncs},
	{"wiped node", (*faults).wipedNode},
	{"bit rot", (*faults).rot},
}

// everywhere are the kinds of fault that lose what a majority has not synced.
var everywhere = []string{"power loss after an ack", "failed syncs"}

// draw makes one fault of those that the seed has chosen happen, or none.
func (f *faults) draw() {
	n := f.victim()
	switch {
	case n == nil:
		f.revive(f.any())
	case f.rng.IntN(4) == 0: // quiet
		f.sleep(time.Second)
	default:
		f.kinds[f.rng.IntN(len(f.kinds))].do(f, n)
	}
}

// choose gives a run those kinds of fault that are named, with commas between
// them, or else a few: the same ones, again and again, find
// more than all of them, each once.
func (f *faults) choose(names string) {
	if names != "" {
		for _, k := range faultKinds {
			if slices.Contains(strings.Split(names, ","), k.name) {
				f.kinds = append(f.kinds, k)
			}
		}
		return
	}
	for _, i := range f.rng.Perm(len(faultKinds))[:2+f.rng.IntN(5)] {
		f.kinds = append(f.kinds, faultKinds[i])
	}
	if f.async {
		f.kinds = slices.DeleteFunc(f.kinds, func(k faultKind) bool { return slices.Contains(everywhere, k.name) })
		f.kinds = append(f.kinds, faultKinds[0])
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
	if f.rng.IntN(2) == 0 && f.mayLosePower(n) {
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
		f.stopsAt(name, n, p)
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
