package raftgroup

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

// recover recovers a node that is down.
func (n *testNode) recover(dry bool, peers ...Voter) (*RecoveryPlan, error) {
	fs := n.lastFS()
	return Recover(RecoverConfig{FS: fs, Dir: "data", Stable: n.stable, Peers: peers, Dry: dry})
}

func (n *testNode) recoverAgain(again bool) (*RecoveryPlan, error) {
	fs := n.lastFS()
	return Recover(RecoverConfig{FS: fs, Dir: "data", Stable: n.stable, Again: again})
}

// lastFS is the disk of a node that is down.
func (n *testNode) lastFS() disk.FS {
	if n.left != nil {
		n.fs, n.stable, n.left = n.left.fs, n.left.stable, nil
	}
	return n.fs
}

// survivor is a cluster of which one node is left, and is down, and what it holds.
func survivor(t *testing.T, test func(t *testing.T, c *testCluster, n *testNode, want []string)) {
	tweak := func(c *Config) { c.SnapshotBytes, c.TrailingBytes = 64<<10, 1 }
	inCluster(t, 3, tweak, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		var want []string
		for i := range 30 {
			body := fmt.Sprintf("%d-%04000d", i, 0)
			c.deliver("T", 0, body)
			want = append(want, body)
		}
		c.settle()
		n := c.nodes[1]
		for _, o := range c.nodes {
			o.kill()
		}
		test(t, c, n, want)
	})
}

// After a recovery the replica leads alone, with all its log holds. Its old peers,
// should they come back as they were, make a group of their own, which no message
// of the recovered one gets lost to, and whose term is lower.
func TestRecover(t *testing.T) {
	survivor(t, func(t *testing.T, c *testCluster, n *testNode, want []string) {
		dry, err := n.recover(true)
		if err != nil {
			t.Fatal(err)
		}
		n.start()
		was := n.group().ID()
		if c.poll(10*time.Second, func() bool { return c.leading() != nil }) {
			t.Fatal("it leads alone, after a dry run")
		}
		n.kill()
		plan, err := n.recover(false)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Last < dry.Last || len(plan.Before) != 3 || len(plan.Identity.Recovered.Members) != 1 {
			t.Errorf("%+v", plan)
		}
		n.start()
		c.wait("that it leads", func() bool { return c.leading() == n })
		if n.group().ID() == was || n.group().ID() != string(plan.Identity.ServerID()) {
			t.Errorf("it is %s, and was %s", n.group().ID(), was)
		}
		equalBodies(t, n.id, n.bodies("T", 0), want)
		c.deliver("T", 0, "after")
		want = append(want, "after")
		s := n.group().Status()
		if len(s.Members) != 1 || len(s.Incidents) != 1 || !strings.Contains(s.Incidents[0].What, "raft recover") {
			t.Errorf("status: %+v", s)
		}
		for _, o := range c.nodes {
			if o != n {
				o.start()
			}
		}
		if c.poll(30*time.Second, func() bool { return c.leading() != n }) {
			t.Fatal("its old peers have taken its leadership")
		}
		c.deliver("T", 0, "still")
		equalBodies(t, n.id, n.bodies("T", 0), append(want, "still"))
		if err := n.group().Snapshot(); err != nil {
			t.Fatal(err)
		}
		n.kill()
		n.start()
		c.wait("that it leads after a restart", func() bool { return c.leading() == n })
		if got := n.group().Status().Members; len(got) != 1 {
			t.Errorf("members after a restart: %v", got)
		}
	})
}

// A second recovery, also before the first one was ever started.
func TestRecoverAgain(t *testing.T) {
	survivor(t, func(t *testing.T, c *testCluster, n *testNode, want []string) {
		for round := range 2 {
			var plan *RecoveryPlan
			for again := range 2 {
				if round+again > 0 { // there is nothing new: only who insists
					before, err := ReadIdentity(n.lastFS(), "data")
					if err != nil {
						t.Fatal(err)
					}
					for _, dry := range []bool{true, false} {
						if _, err := n.recover(dry); !errors.Is(err, ErrRecovered) || !strings.Contains(err.Error(), string(before.ServerID())) {
							t.Errorf("round %d, again: %v", round, err)
						}
					}
					if after, err := ReadIdentity(n.fs, "data"); err != nil || after.ServerID() != before.ServerID() {
						t.Errorf("a refused recovery made it %s, it was %s: %v", after.ServerID(), before.ServerID(), err)
					}
				}
				var err error
				if plan, err = n.recoverAgain(round+again > 0); err != nil {
					t.Fatal(err)
				}
			}
			n.start()
			c.wait("that it leads", func() bool { return c.leading() == n })
			if id := n.group().ID(); id != string(plan.Identity.ServerID()) {
				t.Errorf("round %d: it is %s", round, id)
			}
			equalBodies(t, n.id, n.bodies("T", 0), want)
			n.kill()
		}
	})
}

// A crash at each operation of the recovery's disk, and of the start after it: the
// group is as it was, or recovered, and nothing is lost.
func TestRecoverIsCutShort(t *testing.T) {
	for _, power := range []bool{false, true} {
		survivor(t, func(t *testing.T, c *testCluster, n *testNode, want []string) {
			if _, err := n.recover(true); err != nil {
				t.Fatal(err)
			}
			before, stable := n.fs.Clone(), n.stable.clone()
			done := 0
			for at := 1; done == 0 || at <= 60; at++ {
				n.fs, n.stable, n.left = before.Clone(), stable.clone(), nil
				// The recovery is cut short at one operation, if it has so many.
				count := at
				n.fs.SetHook(func(disk.Op) error {
					if count--; count <= 0 {
						return errInjected
					}
					return nil
				})
				_, err := n.recover(false)
				n.fs.SetHook(nil)
				if err == nil {
					done++
				} else if !errors.Is(err, errInjected) {
					t.Fatal(err)
				}
				if power {
					n.fs = n.fs.Crash(uint64(at))
				}
				id, e := ReadIdentity(n.fs, "data")
				if e != nil {
					t.Fatalf("cut short at operation %d: %v", at, e)
				}
				if err == nil && id.Recovered == nil {
					t.Fatal("a recovery that was done is gone")
				}
				if id.Recovered == nil {
					continue // as it was
				}
				// Then a start is.
				n.startAndDie(at, func(d *disk.Mem) *disk.Mem {
					if power {
						return d.Crash(uint64(at))
					}
					return d.Clone()
				})
				if n.now.Load() != nil {
					n.kill()
				}
				n.start()
				c.wait("that it leads", func() bool { return c.leading() == n })
				if !slices.Equal(n.bodies("T", 0), want) {
					t.Fatalf("cut short at operation %d: it has %d messages of %d", at, len(n.bodies("T", 0)), len(want))
				}
				n.kill()
			}
		})
	}
}

// Together with new replicas that wait for a group.
func TestRecoverWithNewPeers(t *testing.T) {
	survivor(t, func(t *testing.T, c *testCluster, n *testNode, want []string) {
		var peers []Voter
		for _, o := range c.nodes {
			if o != n {
				old, err := ReadIdentity(o.left.fs, "data")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := n.recover(true, Voter{string(old.ServerID()), o.addr}); !errors.Is(err, ErrNoRecovery) {
					t.Errorf("an old member as a new one: %v", err)
				}
				o.wipe()
				o.start()
				peers = append(peers, Voter{o.group().ID(), o.addr})
			}
		}
		for _, bad := range [][]Voter{{{"", "x:1"}}, {{"n9-00", ""}}, {{"n9@00", "x:1"}}, {peers[0], peers[0]}, {{"n9-00", n.addr}}} {
			if _, err := n.recover(true, bad...); !errors.Is(err, ErrNoRecovery) {
				t.Errorf("peers %v: %v", bad, err)
			}
		}
		if _, err := n.recover(false, peers...); err != nil {
			t.Fatal(err)
		}
		n.start()
		c.deliver("T", 0, "after")
		c.checkEqual()
		for _, o := range c.nodes {
			equalBodies(t, o.id, o.bodies("T", 0), append(slices.Clone(want), "after"))
		}
	})
}

// A replica that runs, that never was a member, that is not there.
func TestRecoverRefuses(t *testing.T) {
	inCluster(t, 1, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		n := c.nodes[0]
		if _, err := Recover(RecoverConfig{FS: n.fs, Dir: "data", Stable: n.stable}); !errors.Is(err, disk.ErrLocked) {
			t.Errorf("while it runs: %v", err)
		}
		if _, err := Recover(RecoverConfig{FS: disk.NewMem(1), Dir: "data", Stable: n.stable}); err == nil {
			t.Error("a directory that is not there was recovered")
		}
	})
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		n := c.nodes[0]
		n.kill()
		n.wipe()
		n.start()
		n.kill()
		if _, err := n.recover(false); err == nil {
			t.Error("a replica that never was a member was recovered")
		}
	})
}
