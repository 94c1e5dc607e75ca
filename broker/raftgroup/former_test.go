package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// leaders are the nodes that lead, each in its own view.
func (c *testCluster) leaders() (ids []string) {
	for _, n := range c.nodes {
		if g := n.group(); g != nil && g.Leadership().Self {
			ids = append(ids, n.id)
		}
	}
	return ids
}

// grown is a group that has got members which the configuration of those who made
// it does not name.
func grown(t *testing.T, began, all int, tweak func(*Config), test func(t *testing.T, c *testCluster)) {
	withSpares(t, began, all, tweak, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		for _, n := range c.nodes[began:] {
			n.start()
			c.add(n)
		}
		c.waitVoters("n1 n2 n3 n4 n5"[:3*all-1])
		c.deliver("T", 0, "acknowledged")
		c.settle()
		test(t, c)
	})
}

func wipe(nodes ...*testNode) {
	for _, n := range nodes {
		n.kill()
		n.wipe()
	}
	for _, n := range nodes {
		n.start()
	}
}

// Those who made a group have lost their disks, and no file names its other
// members: these look for them, so no group is made anew. Row 23.
func TestWipedFoundersMakeNoGroup(t *testing.T) {
	t.Run("one", func(t *testing.T) {
		grown(t, 1, 3, nil, func(t *testing.T, c *testCluster) {
			wipe(c.nodes[0])
			c.wait("a leader of the rest", func() bool { return c.leading() != nil })
			if c.poll(30*time.Second, func() bool { return len(c.leaders()) > 1 }) {
				t.Fatalf("%v lead", c.leaders())
			}
			equalBodies(t, "the leader", c.leading().bodies("T", 0), []string{"acknowledged"})
		})
	})
	t.Run("all, a majority", func(t *testing.T) {
		grown(t, 3, 5, nil, func(t *testing.T, c *testCluster) {
			wipe(c.nodes[:3]...)
			if c.poll(30*time.Second, func() bool { return len(c.leaders()) > 0 }) {
				t.Fatalf("%v lead a new group", c.leaders())
			}
			for _, n := range c.nodes[3:] {
				if why := n.group().Removed(); why != "" {
					t.Errorf("%s was told that it is no member: %s", n.id, why)
				}
			}
		})
	})
}

// Where nobody is there to look for them, the configuration says that it exists.
func TestGroupThatExistsIsNotMade(t *testing.T) {
	exists := false
	grown(t, 1, 3, func(cfg *Config) { cfg.Exists = exists }, func(t *testing.T, c *testCluster) {
		exists = true
		for _, n := range c.nodes[1:] {
			n.kill()
		}
		wipe(c.nodes[0])
		if c.poll(30*time.Second, func() bool { return len(c.leaders()) > 0 }) {
			t.Fatal("it was made anew")
		}
	})
}

// Two survivors that were both recovered are two groups: neither takes the other
// in, and nothing of one looks like an entry of the other.
func TestRecoveredTwiceAreTwoGroups(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.deliver("T", 0, "common")
		c.settle()
		for _, n := range c.nodes {
			n.kill()
		}
		a, b := c.nodes[0], c.nodes[1]
		for _, n := range []*testNode{a, b} {
			if _, err := n.recover(false); err != nil {
				t.Fatal(err)
			}
			n.start()
		}
		c.wait("that both lead", func() bool { return a.group().Leadership().Self && b.group().Leadership().Self })
		if x, y := a.group().State().Configuration().GroupID, b.group().State().Configuration().GroupID; x == y {
			t.Errorf("both are group %s", x)
		}
		if x, y := a.group().Leadership().Term, b.group().Leadership().Term; x == y {
			t.Errorf("both lead in term %d", x)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if _, err := a.group().AddPeer(ctx, b.addr, b.id, false); !errors.Is(err, ErrMember) {
			t.Errorf("taken in with another history: %v", err)
		}
	})
}

// The old members of a group that was recovered come back as they were, and are a
// majority of theirs. They do not tell a member of the new one that it is none.
func TestOldGroupTakesNobodyOut(t *testing.T) {
	withSpares(t, 3, 5, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.settle()
		n1, n5 := c.nodes[0], c.nodes[4]
		for _, n := range c.nodes[:3] {
			n.kill()
		}
		if _, err := n1.recover(false); err != nil {
			t.Fatal(err)
		}
		n1.start()
		c.wait("n1", func() bool { return n1.group().Leadership().Self })
		for _, n := range c.nodes[3:] {
			n.start()
			c.add(n)
		}
		c.waitVoters("n1 n4 n5")
		c.deliver("T", 0, "by the recovered group")
		c.nodes[1].start()
		c.nodes[2].start()
		c.wait("that the old ones lead theirs", func() bool { return len(c.leaders()) == 2 })
		n1.kill()
		n5.kill()
		time.Sleep(5 * time.Second)
		n5.start()
		c.wait("a leader of the recovered group", func() bool {
			return c.nodes[3].group().Leadership().Self || n5.group().Leadership().Self
		})
		for _, n := range c.nodes[3:] {
			equalBodies(t, n.id, n.bodies("T", 0), []string{"by the recovered group"})
			if why := n.group().Removed(); why != "" {
				t.Error(fmt.Sprint(n.id, " was told that it is no member: ", why))
			}
		}
	})
}
