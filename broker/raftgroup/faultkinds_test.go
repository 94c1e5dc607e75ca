package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// delay delays what comes from a node and goes to it, by less than most.
func (f *faults) delay(n *testNode, most time.Duration) {
	for _, o := range f.c.others(n) {
		d := time.Duration(f.rng.Int64N(int64(most)))
		f.c.net.change(n.addr, o, func(l *memLink) { l.delay = d })
		f.c.net.change(o, n.addr, func(l *memLink) { l.delay = d })
	}
}

// breakConnections breaks a node's connections; what is on its way then, often
// the first part of a frame, is all that arrives.
func (f *faults) breakConnections(n *testNode) {
	f.happened("broken connections", n)
	if f.rng.IntN(2) == 0 {
		f.delay(n, 20*time.Millisecond)
		defer f.c.net.heal()
	}
	for range 1 + f.rng.IntN(5) {
		f.c.net.sever(func(from, to string) bool { return (from == n.addr || to == n.addr) && f.rng.IntN(2) == 0 })
		f.sleep(200 * time.Millisecond)
	}
}

// spikes delays a node's traffic by half a second, for a moment, again and again.
func (f *faults) spikes(n *testNode) {
	f.happened("spikes", n)
	for range 2 + f.rng.IntN(4) {
		f.delay(n, 500*time.Millisecond)
		f.sleep(300 * time.Millisecond)
		f.c.net.heal()
		f.sleep(500 * time.Millisecond)
	}
}

// transfers gives leadership away, once or every while, whoever has it.
func (f *faults) transfers(*testNode) {
	for range 1 + f.rng.IntN(2)*f.rng.IntN(4) {
		n := f.c.leading()
		if n == nil {
			return
		}
		if err := n.group().TransferLeadership(context.Background(), ""); err == nil {
			f.happened("transfer", n)
		}
		f.sleep(2 * time.Second)
	}
}

// stopsAt looks that a replica whose raft log or CommitLog can't be trusted any
// more has stopped: E1 of the fault matrix.
func (f *faults) stopsAt(step string, n *testNode, p *process) {
	switch step {
	case "frame write", "log sync", "apply write":
		if !f.c.poll(5*time.Second, func() bool { return p.group.Err() != nil }) {
			f.c.t.Errorf("E1: %s goes on after an error at %s", n.id, step)
		}
	}
}

// crashAtVote crashes a node just before it stores a term or a vote, after which
// it may be asked again.
func (f *faults) crashAtVote(n *testNode) {
	p, left, happened := n.now.Load(), 1+f.rng.IntN(3), make(chan struct{})
	fs, stable := n.fs, n.stable
	var mu sync.Mutex
	stable.setHook(func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if left--; left == 0 {
			n.crash(p, fs.Clone, false)
			close(happened)
		}
		if left <= 0 {
			return errInjected
		}
		return nil
	})
	// Something to vote about.
	if l := f.c.leading(); l != nil {
		f.c.net.isolate(l.addr, f.c.addrs(), true)
	}
	select {
	case <-happened:
		f.happened("crash at a vote", n)
		n.stop()
		n.start()
	case <-time.After(2 * time.Second):
	}
	stable.setHook(nil)
	f.c.net.heal()
}

// slowDisk makes each sync of a node's raft log take up to 200 ms for a while.
func (f *faults) slowDisk(n *testNode) {
	f.happened("slow disk", n)
	d := time.Duration(1+f.rng.IntN(200)) * time.Millisecond
	n.fs.SetHook(func(op disk.Op) error {
		if steps["log sync"](op) {
			time.Sleep(d)
		}
		return nil
	})
	f.sleep(5 * time.Second)
	n.fs.SetHook(nil)
}

// hang makes a node's disk stand still, for the raft log and what is applied,
// until what it returns is called. What is done under a mutex that others want,
// the stable store among it, must not: in a bubble of synctest time stands still
// while a goroutine waits for a mutex.
func (n *testNode) hang() (release func()) {
	fs, held := n.fs, make(chan struct{})
	fs.SetHook(func(op disk.Op) error {
		if op.Label == raftlog.LabelAppend || op.Label == raftlog.LabelHeader || steps["apply write"](op) {
			<-held
		}
		return nil
	})
	return func() {
		fs.SetHook(nil)
		close(held)
	}
}

// hungDisk makes a node's disk stand still, and then go on, or never again: it is
// killed.
func (f *faults) hungDisk(n *testNode) {
	f.happened("hung disk", n)
	release := n.hang()
	f.sleep(10 * time.Second)
	if f.rng.IntN(3) > 0 {
		release()
		f.sleep(2 * time.Second)
		f.mend(n)
		return
	}
	n.crash(n.now.Load(), n.fs.Clone, false)
	release()
	n.stop()
	f.revive(n)
}

// mend restarts a node that has stopped by itself, as its operator does.
func (f *faults) mend(n *testNode) {
	if p := n.now.Load(); p != nil && p.group.Err() != nil {
		n.stop()
		f.revive(n)
	}
}

// pause is what SIGSTOP does: a node neither writes nor sends, and what was sent
// to it waits. Its timers run on, which they would not.
func (f *faults) pause(n *testNode) {
	f.happened("pause", n)
	release := n.hang()
	f.c.net.isolate(n.addr, f.c.addrs(), true)
	f.sleep(10 * time.Second)
	f.c.net.heal()
	release()
	f.sleep(time.Second)
	f.mend(n)
}

// fullDisk leaves a node little room for a while. It is no failure: nothing stops,
// except a replica that had to begin at a snapshot meanwhile and had no room for
// that: it goes on when it is started again.
func (f *faults) fullDisk(n *testNode) {
	f.happened("full disk", n)
	p := n.now.Load()
	snapshot := p.group.lastSnapshot()
	u, err := n.fs.Usage("data")
	if err != nil {
		f.c.t.Fatal(err)
	}
	n.fs.SetCapacity(int64(u.Total-u.Free) + f.rng.Int64N(512<<10))
	f.sleep(5 * time.Second)
	n.fs.SetCapacity(0)
	if err := p.group.Err(); errors.Is(err, syscall.ENOSPC) && p.group.lastSnapshot() == snapshot {
		f.c.t.Errorf("row 18: %s has stopped for want of room: %v", n.id, err)
	}
	f.mend(n)
}

// wrongClock sets a node's clock an hour on or back, or here and there.
func (f *faults) wrongClock(n *testNode) {
	f.happened("wrong clock", n)
	for range 1 + f.rng.IntN(2)*f.rng.IntN(20) {
		n.skew.Store(f.rng.Int64N(int64(2*time.Hour)) - int64(time.Hour))
		f.sleep(200 * time.Millisecond)
	}
	f.sleep(3 * time.Second)
	if f.rng.IntN(2) == 0 {
		n.skew.Store(0)
	}
}

// powerLossAfterAck cuts the power of a majority, or of all, just when somebody
// was told that a message is stored.
func (f *faults) powerLossAfterAck(n *testNode) {
	before := f.h.count()
	f.c.poll(10*time.Second, func() bool { return f.h.count() > before })
	f.loseAll(f.rng.IntN(2))
	f.happened("power loss after an ack", n)
}

// loseAll cuts the power of all nodes but some, at one moment, and starts them.
func (f *faults) loseAll(but int) {
	for _, n := range f.c.nodes[but:] {
		seed, fs := f.rng.Uint64(), n.fs
		n.crash(n.now.Load(), func() *disk.Mem { return fs.Crash(seed) }, true)
	}
	for _, n := range f.c.nodes {
		if p := n.now.Load(); p != nil && p.dead.Load() {
			n.stop()
		}
		if n.now.Load() == nil {
			n.start()
		}
	}
}

// failedSyncs lets the next sync of the raft log fail at every follower, so that
// the page cache of each holds what its disk may not. They are started again, what
// they hold is committed, and they lose power; the leader is killed and stays away
// for a while. A failed sync at the leader itself shows nothing: what it could not
// store it has not sent.
func (f *faults) failedSyncs(_ *testNode) {
	leader := f.c.leading()
	if leader == nil {
		return
	}
	var hit []*testNode
	for _, n := range f.c.nodes {
		if n != leader && n.now.Load() != nil {
			hit = append(hit, n)
		}
	}
	failed := make(chan struct{}, len(hit))
	for _, n := range hit {
		n.fs.SetHook((&onceHook{left: 1, match: steps["log sync"], done: func() { failed <- struct{}{} }}).see)
	}
	f.c.poll(2*time.Second, func() bool { return len(failed) == len(hit) })
	if len(failed) == len(hit) {
		f.happened("failed syncs", leader)
	}
	for _, n := range hit {
		n.fs.SetHook(nil)
		if p := n.now.Load(); p.group.Err() != nil {
			n.crash(p, n.fs.Clone, false)
			n.stop()
			n.start()
		}
	}
	before := f.h.count()
	f.c.poll(5*time.Second, func() bool { return f.h.count() > before })
	if leader.now.Load() != nil {
		leader.kill()
	}
	for _, n := range hit {
		n.powerLoss(f.rng.Uint64())
	}
	for _, n := range hit {
		n.start()
	}
	f.revive(leader)
}

// wipedNode leaves a replica that lacks the last messages, and one that had them
// and has lost its disk: they must not become a majority. Then those come back
// who have them, the wiped one with the disk it had.
func (f *faults) wipedNode(_ *testNode) {
	c := f.c
	if len(c.nodes) != 3 {
		return
	}
	for _, n := range c.nodes {
		if n.now.Load() == nil {
			n.start()
		}
	}
	leader := c.leading()
	if leader == nil {
		return
	}
	rest := slices.DeleteFunc(slices.Clone(c.nodes), func(n *testNode) bool { return n == leader })
	behind, wiped := rest[0], rest[1]
	c.net.isolate(behind.addr, c.addrs(), true)
	defer c.net.heal()
	before := f.h.count()
	if !c.poll(5*time.Second, func() bool { return f.h.count() > before+5 }) {
		return
	}
	leader.kill()
	wiped.kill()
	kept := wiped.left
	wiped.wipe()
	wiped.start()
	c.net.heal()
	f.happened("wiped node", wiped)
	if c.poll(5*time.Second, func() bool { return c.leading() != nil }) {
		c.t.Errorf("row 23: %s leads by the vote of %s, which was wiped", c.leading().id, wiped.id)
	}
	wiped.kill()
	wiped.left = kept
	wiped.start()
	leader.start()
}

// rot flips a bit of what is sealed in a node's CommitLog, and has it looked for.
func (f *faults) rot(n *testNode) {
	g := n.group()
	first, end := g.Store().Min(), g.Store().End()/testSegment*testSegment
	if end <= first || g.Err() != nil {
		return // nothing is sealed
	}
	at := first + f.rng.Int64N(end-first)
	name := fmt.Sprintf("data/store/commitlog/%020d", at/testSegment*testSegment)
	if err := n.fs.FlipBit(name, at%testSegment, uint(f.rng.IntN(8))); err != nil {
		return // it is being fetched
	}
	f.happened("bit rot", n)
	pass := g.Scrub(1 << 30)
	f.c.poll(20*time.Second, func() bool { return g.Status().Scrub.Passes >= pass })
}
