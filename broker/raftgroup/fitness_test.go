package raftgroup

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

// slowDown makes every sync of a node's raft log take longer.
func (n *testNode) slowDown(by time.Duration) {
	n.fs.SetHook(func(op disk.Op) error {
		if logSync(op) || op.Label == labelProbe && op.Kind == disk.OpSync {
			time.Sleep(by)
		}
		return nil
	})
}

// load sends, one after the other and wherever the leader is, for some time. It
// returns how many were acknowledged, and the longest time one took.
func (c *testCluster) load(d time.Duration) (acked int, slowest time.Duration) {
	var mu sync.Mutex
	var all sync.WaitGroup
	end := time.Now().Add(d)
	for s := range 4 {
		all.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				leader := c.leading()
				if leader == nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				begin := time.Now()
				_, err := leader.send("T", 0, "m", fmt.Sprint(s, " ", begin.UnixNano()))
				took := time.Since(begin)
				mu.Lock()
				if err == nil {
					acked++
					slowest = max(slowest, took)
				}
				mu.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	all.Wait()
	return acked, slowest
}

func (c *testCluster) term() uint64 { return c.leader().group().Leadership().Term }

// oneSegment has a log that needs no second segment, and no snapshot: a goroutine
// that waits for a lock until another one's sync has slept stops fake time.
func oneSegment(c *Config) { c.RaftSegmentSize, c.SnapshotBytes = 8<<20, 1<<30 }

// Row 19: a follower whose syncs take 200 ms does not hold the others up, however
// far it falls behind, and does not make the leader keep what it has yet to get.
func TestSlowFollower(t *testing.T) {
	inCluster(t, 3, oneSegment, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.settle()
		leader, slow := c.leader(), c.followers()[0]
		term := c.term()
		slow.slowDown(200 * time.Millisecond)
		acked, slowest := c.load(10 * time.Second)
		t.Logf("%d acknowledged, the slowest after %v", acked, slowest)
		if acked < 500 || slowest >= 100*time.Millisecond {
			t.Errorf("%d acknowledged, the slowest after %v", acked, slowest)
		}
		if l := c.leader(); l != leader || c.term() != term {
			t.Errorf("%s leads in term %d, it was %s in term %d", l.id, c.term(), leader.id, term)
		}
		if s := slow.group().Status(); !s.DiskSlow || s.Restrained == "" || s.Fences != 0 {
			t.Errorf("it says of itself %+v", s)
		}
		slow.slowDown(0)
		c.checkEqual()
	})
}

// Row 19: a leader whose syncs take long hands over, once, to one whose do not; and
// may lead again when they do not any more.
func TestSlowLeader(t *testing.T) {
	inCluster(t, 3, oneSegment, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.settle()
		old, term := c.leader(), c.term()
		old.slowDown(300 * time.Millisecond)
		begin := time.Now()
		var all sync.WaitGroup
		all.Go(func() { c.load(20 * time.Second) })
		c.wait("another leader", func() bool { l := c.leading(); return l != nil && l != old })
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		all.Wait()
		if l := c.leader(); l == old || c.term() > term+2 {
			t.Errorf("after 20 s %s leads in term %d, it was %s in %d", l.id, c.term(), old.id, term)
		}
		g := old.group()
		if s := g.Status(); s.Handovers != 1 || s.LastHandover == "" || !s.DiskSlow || s.Restrained == "" {
			t.Errorf("it says of itself %+v", s)
		}
		// Nobody sends: only probes tell that it is slow still.
		time.Sleep(20 * time.Second)
		if !g.Status().DiskSlow {
			t.Error("it is not slow any more, without having been tried")
		}
		old.slowDown(0)
		c.wait("it is fast again", func() bool { return !g.Status().DiskSlow && g.standing.restrained() == nil })
		c.checkEqual()
	})
}

// When all disks are slow, nothing is better elsewhere: the leader stays.
func TestAllSlow(t *testing.T) {
	inCluster(t, 3, oneSegment, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.settle()
		leader, term := c.leader(), c.term()
		for _, n := range c.nodes {
			n.slowDown(300 * time.Millisecond)
		}
		c.load(10 * time.Second)
		if l := c.leader(); l != leader || c.term() != term {
			t.Errorf("%s leads in term %d, it was %s in term %d", l.id, c.term(), leader.id, term)
		}
		if s := leader.group().Status(); !s.DiskSlow || s.Restrained != "" {
			t.Errorf("the leader says of itself %+v", s)
		}
	})
}

// reserveBytes is what these tests keep free of a disk.
const reserveBytes = 64 << 10

// fillUp leaves a disk so many bytes.
func (n *testNode) fillUp(t *testing.T, free int64) {
	t.Helper()
	n.fs.SetCapacity(1 << 50)
	u, err := n.fs.Usage("")
	if err != nil {
		t.Fatal(err)
	}
	n.fs.SetCapacity(int64(u.Total-u.Free) + free)
}

// Row 18: a leader without room hands over to a replica that has some, and none to
// one that has not.
func TestFullDiskOfTheLeader(t *testing.T) {
	inCluster(t, 5, func(c *Config) { c.Storage.Reserve = reserveBytes }, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.deliver("T", 0, "before")
		c.settle()
		first, full := c.leader(), c.followers()[0]
		// Of the others one has no room either: it is not the next.
		full.fillUp(t, reserveBytes/2)
		first.fillUp(t, reserveBytes-1)
		c.wait("another leader", func() bool { l := c.leading(); return l != nil && l != first })
		if l := c.leader(); l == full {
			t.Errorf("%s leads, whose disk is full", l.id)
		}
		c.deliver("T", 0, "elsewhere")
		if got := first.bodies("T", 0); got[0] != "before" {
			t.Errorf("can be read: %q", got)
		}
		if s := first.group().Status(); s.NoRoom == "" || s.Handovers != 1 || s.Restrained == "" {
			t.Errorf("it says of itself %+v", s)
		}
		for _, n := range c.nodes {
			n.fs.SetCapacity(0)
		}
		c.wait("there is room again", func() bool { return first.group().standing.restrained() == nil && first.group().Status().NoRoom == "" })
		c.deliver("T", 0, "after")
		c.checkEqual()
	})
}

// Row 18: all disks are full: sends are refused, definitely, and the leader stays;
// when there is room it goes on by itself.
func TestFullDisksOfAll(t *testing.T) {
	inCluster(t, 3, func(c *Config) { c.Storage.Reserve = reserveBytes }, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.deliver("T", 0, "before")
		c.settle()
		leader, term := c.leader(), c.term()
		for _, n := range c.nodes {
			n.fillUp(t, reserveBytes-1)
		}
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
			if _, err := leader.send("T", 0, "m", "U"); err != ErrNoRoom {
				t.Fatalf("a send ends with %v", err)
			}
		}
		if l := c.leader(); l != leader || c.term() != term {
			t.Errorf("%s leads in term %d, it was %s in term %d", l.id, c.term(), leader.id, term)
		}
		for _, n := range c.nodes {
			n.fs.SetCapacity(0)
		}
		c.deliver("T", 0, "after")
		c.checkEqual()
	})
}
