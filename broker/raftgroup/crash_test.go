package raftgroup

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// floor is how many sends have to be acknowledged before and after the faults of
// a run, for the run to count.
const floor = 30

// underLoad runs faults on a cluster of n nodes while clients send and read, and
// checks everything afterwards.
func underLoad(t *testing.T, n int, tweak func(*Config), faults func(t *testing.T, c *testCluster, h *history, rng *rand.Rand)) {
	seed := testSeed(t)
	inCluster(t, n, func(c *Config) {
		c.DedupSpan = time.Hour
		if tweak != nil {
			tweak(c)
		}
	}, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 2)
		h := &history{}
		cl := newClients(c, h, 4, "T", 2, seed)
		c.wait("a load", func() bool { return h.count() >= floor })
		faults(t, c, h, rand.New(rand.NewPCG(seed, 1)))
		c.heal()
		before := h.count()
		c.wait("a load afterwards", func() bool { return h.count() >= before+floor })
		cl.end()
		cl.check()
	})
}

// waitFor waits for what has to be seen to happen.
func (c *testCluster) waitFor(what string, happened <-chan struct{}) {
	c.t.Helper()
	select {
	case <-happened:
	case <-time.After(time.Minute):
		c.explain()
		c.t.Fatalf("it did not come to %s", what)
	}
}

// moments are the steps of an entry's way, for row 7: just before each, and,
// where the next may be far, just after.
var moments = []struct {
	name  string
	match func(disk.Op) bool
	after bool // at the next operation, whichever it is
}{
	{"frame write", steps["frame write"], false},
	{"frame sync", steps["log sync"], false},
	{"after frame sync", steps["log sync"], true},
	{"apply", steps["apply write"], false},
	{"after apply", steps["apply write"], true},
	{"queue write", steps["queue write"], false},
}

// Row 7: the leader, or a follower, stops at each step. In half of the cases it
// has lost what was not synced.
func TestCrashAtEachStep(t *testing.T) {
	for i, m := range moments {
		for role, name := range []string{"leader", "follower"} {
			t.Run(name+" "+m.name, func(t *testing.T) {
				t.Parallel()
				// Queues are written when they are flushed.
				tweak := func(c *Config) { c.SnapshotBytes, c.TrailingBytes = 64<<10, 16<<10 }
				underLoad(t, 3, tweak, func(t *testing.T, c *testCluster, h *history, rng *rand.Rand) {
					for round := range 2 {
						n := c.leader()
						if role == 1 {
							n = c.followers()[0]
						}
						disks := n.fs.Clone
						if seed, fs := rng.Uint64(), n.fs; (i+role+round)%2 == 0 {
							disks = func() *disk.Mem { return fs.Crash(seed) }
						}
						match := m.match
						if m.after {
							match = afterFirst(m.match)
						}
						c.waitFor(m.name, n.crashAt(1, match, disks))
						n.stop()
						time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
						n.start()
					}
				})
			})
		}
	}
}

// afterFirst matches all that comes after the first match.
func afterFirst(match func(disk.Op) bool) func(disk.Op) bool {
	seen := false
	return func(op disk.Op) bool {
		if seen {
			return true
		}
		seen = match(op)
		return false
	}
}

// Row 7, between publish and response: what was applied is readable, its sender
// was told nothing.
func TestCrashBetweenPublishAndResponse(t *testing.T) {
	underLoad(t, 3, nil, func(t *testing.T, c *testCluster, h *history, _ *rand.Rand) {
		n := c.leader()
		p := n.now.Load()
		happened := make(chan struct{})
		n.published.Store(func() {
			if !p.dead.Load() {
				n.crash(p, n.fs.Clone, false)
				close(happened)
			}
		})
		c.waitFor("a publication", happened)
		n.published.Store(func() {})
		n.stop()
		n.start()
	})
}

// Row 8: all nodes lose what they have not synced, at one moment.
func TestSEND21AndHA06PowerLossEverywhere(t *testing.T) {
	underLoad(t, 3, nil, func(t *testing.T, c *testCluster, h *history, rng *rand.Rand) {
		for range 5 {
			before := h.count()
			c.wait("sends between power losses", func() bool { return h.count() > before+5 })
			for _, n := range c.nodes {
				n.crashPower(rng.Uint64())
			}
			for _, n := range c.nodes {
				n.stop()
			}
			for _, n := range c.nodes {
				n.start()
			}
		}
	})
}

// Row 1: the leader is killed again and again.
func TestKillLeaderInALoop(t *testing.T) {
	underLoad(t, 3, nil, func(t *testing.T, c *testCluster, h *history, rng *rand.Rand) {
		for range 8 {
			n := c.leader()
			before := h.count()
			n.kill()
			// L1: the others go on without it.
			c.wait("sends without it", func() bool { return h.count() > before+5 })
			n.start()
			time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
		}
	})
}

// Row 2: minorities, majorities and all are killed; without a quorum nothing is
// acknowledged.
func TestSEND21AndSTORE02KillMany(t *testing.T) {
	underLoad(t, 5, nil, func(t *testing.T, c *testCluster, h *history, rng *rand.Rand) {
		for _, kills := range []int{1, 2, 3, 4, 5} {
			c.settleLeader()
			victims := slices.Clone(c.nodes)
			rng.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
			for _, n := range victims[:kills] {
				n.kill()
			}
			if kills >= 3 {
				// What was on its way may yet be answered; then nothing more.
				time.Sleep(100 * time.Millisecond)
				at := h.count()
				time.Sleep(5 * time.Second)
				if now := h.count(); now != at {
					t.Errorf("S7: with %d of 5 dead %d sends were acknowledged", kills, now-at)
				}
			} else {
				before := h.count()
				c.wait("sends with a minority dead", func() bool { return h.count() > before+5 })
			}
			for _, n := range victims[:kills] {
				n.start()
			}
		}
	})
}

// settleLeader waits until the cluster takes entries.
func (c *testCluster) settleLeader() {
	c.t.Helper()
	c.propose(fsm.CommitOffsets(nil))
}

// Row 3: a replica is killed while it recovers, again and again, at any
// operation of its disk.
func TestKillDuringRecovery(t *testing.T) {
	for _, loss := range []struct {
		name string
		lose func(*disk.Mem, *rand.Rand) *disk.Mem
	}{
		{"kill", func(d *disk.Mem, _ *rand.Rand) *disk.Mem { return d.Clone() }},
		{"power loss", func(d *disk.Mem, rng *rand.Rand) *disk.Mem { return d.Crash(rng.Uint64()) }},
	} {
		t.Run(loss.name, func(t *testing.T) {
			tweak := func(c *Config) { c.SnapshotBytes, c.TrailingBytes = 64<<10, 1 }
			underLoad(t, 3, tweak, func(t *testing.T, c *testCluster, h *history, rng *rand.Rand) {
				n := c.leader()
				n.kill()
				deaths := 0
				for range 20 {
					if n.startAndDie(1+rng.IntN(150), func(d *disk.Mem) *disk.Mem { return loss.lose(d, rng) }) {
						deaths++
						continue
					}
					n.kill()
				}
				if deaths < 10 {
					t.Errorf("only %d of 20 starts were cut short", deaths)
				}
				n.start()
			})
		})
	}
}

// Row 24: a follower cuts off a conflicting tail, and crashes at each operation
// of its disk while it does, or right after. What was cut off and replaced does
// not come back.
func TestCrashWhileTailIsTruncated(t *testing.T) {
	for _, power := range []bool{false, true} {
		ended := false
		for at := 1; !ended; at++ {
			if at > 100 {
				t.Fatal("there is no end of operations")
			}
			synctest.Test(t, func(t *testing.T) { ended = crashWhileTruncating(t, at, power) })
		}
	}
}

// crashWhileTruncating crashes at one operation, and says whether there was none.
func crashWhileTruncating(t *testing.T, at int, power bool) (ended bool) {
	c, n, p2, p3, conf := alone(t, func(c *Config) { c.Election = time.Hour })
	defer c.stop()
	p2.append(t, n, 1, 0, 0, 2, conf, put("before"))
	p2.append(t, n, 1, 2, 1, 2, put("old3"), put("old4"), put("old5"))
	n.applied(2)
	disks := n.fs.Clone
	if fs := n.fs; power {
		disks = func() *disk.Mem { return fs.Crash(uint64(at)) }
	}
	label := func(op disk.Op) bool {
		return op.Label == raftlog.LabelHeader || op.Label == raftlog.LabelAppend
	}
	happened := n.crashAt(at, label, disks)
	resp, err := p3.tryAppend(n, 2, 2, 1, 2, put("new3"))
	synctest.Wait()
	replaced := err == nil && resp.Success
	select {
	case <-happened:
	default:
		ended = true
		if !replaced {
			t.Fatalf("the tail was not replaced: %v", err)
		}
		n.crash(n.now.Load(), disks, false)
	}
	n.stop()
	n.start()
	if replaced && n.lastIndex() != 3 {
		t.Fatalf("after operation %d the log ends at %d, not at the replaced entry", at, n.lastIndex())
	}
	p3.trans.CloseStreams()
	// The leader goes on from what it knows to be there.
	prev, prevTerm, entries := uint64(2), uint64(1), []string{"new3", "new4"}
	if replaced {
		prev, prevTerm, entries = 3, 2, []string{"new4"}
	}
	for _, e := range entries {
		if !p3.append(t, n, 2, prev, prevTerm, prev, put(e)).Success {
			t.Fatalf("after operation %d %s was refused", at, e)
		}
		prev, prevTerm = prev+1, 2
	}
	p3.append(t, n, 2, 4, 2, 4)
	if !n.applied(4) {
		t.Fatalf("after operation %d it did not go on", at)
	}
	for name, want := range map[string]bool{"before": true, "new3": true, "new4": true, "old3": false, "old4": false, "old5": false} {
		if n.hasTopic(name) != want {
			t.Fatalf("after operation %d entry %s is applied: %v", at, name, !want)
		}
	}
	return ended
}

// Kill during catch-up: a replica that has to fetch messages which the raft log
// no longer holds is killed in the middle, and so is who it fetches from. It
// goes on where it was.
func TestKillDuringCatchUp(t *testing.T) {
	inCluster(t, 3, func(c *Config) {
		c.SnapshotBytes, c.TrailingBytes, c.CatchUpRate = 128<<10, 1, 512<<10
	}, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		n := c.followers()[0]
		n.kill()
		var want []string
		for i := range 200 {
			body := fmt.Sprintf("%d-%08000d", i, i)
			c.deliver("T", 0, body)
			want = append(want, body)
		}
		c.wait("the log has forgotten", func() bool {
			first, err := c.leader().group().log.FirstIndex()
			return err == nil && first > 10
		})
		missing := func() (sum int64) {
			for _, r := range n.group().Store().Missing() {
				sum += r.End - r.Off
			}
			return sum
		}
		n.start()
		all := int64(0)
		c.wait("it misses most of it", func() bool { all = missing(); return all > 1<<20 })
		cut := func(what string, left int64, f func()) {
			c.wait("it has some more", func() bool { return missing() < left })
			if missing() == 0 {
				t.Fatal("the catch-up was over before " + what)
			}
			f()
		}
		cut("it was killed", all*4/5, func() { n.kill(); n.start() })
		if again := missing(); again > all*4/5 {
			t.Errorf("after kill -9 it misses %d of %d bytes: it began anew", again, all)
		}
		cut("it lost power", all*3/5, func() { n.powerLoss(7); n.start() })
		cut("its source was killed", all*2/5, func() {
			for _, o := range c.nodes {
				if o != n {
					o.kill()
					o.start()
				}
			}
		})
		c.wait("it misses nothing", func() bool { return n.group().Store().Complete() })
		c.checkEqual()
		equalBodies(t, n.id, n.bodies("T", 0), want)
	})
}
