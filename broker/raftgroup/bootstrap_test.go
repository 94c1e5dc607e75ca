package raftgroup

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

// wipe gives a node an empty disk.
func (n *testNode) wipe() {
	n.fs, n.stable, n.left = disk.NewMem(99), newMemStable(), nil
}

// members are the ServerIDs that a node knows as members.
func (n *testNode) members() (ids []string) {
	servers, err := n.group().servers()
	if err != nil {
		n.c.t.Fatal(err)
	}
	for _, s := range servers {
		ids = append(ids, string(s.ID))
	}
	return ids
}

// The group is made when every initial peer has said that it has no state, not
// before.
func TestBootstrapNeedsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		defer c.stop()
		// The first by name is the one who makes it.
		c.nodes[0].start()
		c.nodes[1].start()
		time.Sleep(time.Minute)
		for _, n := range c.nodes[:2] {
			if n.group().hasState() || len(n.members()) > 0 {
				t.Fatalf("%s has made the group without n3", n.id)
			}
		}
		c.nodes[2].start()
		c.leader()
		for _, n := range c.nodes {
			c.wait(n.id+" knows the members", func() bool { return len(n.members()) == 3 })
		}
	})
}

// Nodes that disagree about who the members are make no group.
func TestBootstrapNeedsAgreement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		defer c.stop()
		c.nodes[2].tweak = func(cfg *Config) { cfg.Peers = append(cfg.Peers, Peer{"n4", "n4:7000"}) }
		for _, n := range c.nodes {
			n.start()
		}
		time.Sleep(time.Minute)
		for _, n := range c.nodes {
			if n.group().hasState() {
				t.Fatalf("%s has state", n.id)
			}
		}
	})
}

// A new data directory never bootstraps a group that exists, whoever of the group
// is there, and does not count as the member that had its place: it is taken in
// without a vote, by a leader that has its quorum without it (row 23).
func TestWipedNodeNeverVotesAsItsOldSelf(t *testing.T) {
	for wiped := range 3 {
		t.Run(fmt.Sprint("n", wiped+1), func(t *testing.T) {
			inCluster(t, 3, func(c *Config) { c.PromoteAfter = 24 * time.Hour }, func(t *testing.T, c *testCluster) {
				c.createTopic("T", 1)
				c.waitDirectory(3)
				c.deliver("T", 0, "kept")
				c.settle()
				n := c.nodes[wiped]
				old := n.group().ID()
				n.kill()
				n.wipe()
				n.start()
				out := func(when string) {
					t.Helper()
					if n.group().votes() || n.group().ID() == old {
						t.Fatalf("%s, %s, back with an empty directory, has a vote", when, n.id)
					}
				}
				time.Sleep(30 * time.Second)
				out("with the others there")
				if !n.group().isMember() {
					t.Fatalf("%s was not taken in", n.id)
				}
				c.deliver("T", 0, "goes on")
				others := []*testNode{c.nodes[(wiped+1)%3], c.nodes[(wiped+2)%3]}
				others[0].kill()
				time.Sleep(30 * time.Second)
				out("with one other there")
				if l := c.leading(); l != nil {
					t.Fatalf("%s leads with the vote of a wiped node", l.id)
				}
				others[1].kill()
				time.Sleep(30 * time.Second)
				out("alone")
				others[0].start()
				others[1].start()
				c.deliver("T", 0, "goes on still")
				equalBodies(t, "the leader", c.leader().bodies("T", 0), []string{"kept", "goes on", "goes on still"})
				out("in the end")
			})
		})
	}
}

// A majority that has lost its disks makes no new group beside the old one.
func TestWipedMajorityMakesNoGroup(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.settle()
		for _, n := range c.nodes[:2] {
			n.kill()
			n.wipe()
			n.start()
		}
		time.Sleep(time.Minute)
		for _, n := range c.nodes[:2] {
			if n.group().hasState() {
				t.Fatalf("%s has state", n.id)
			}
		}
		if l := c.leading(); l != nil {
			t.Fatalf("%s leads", l.id)
		}
	})
}
