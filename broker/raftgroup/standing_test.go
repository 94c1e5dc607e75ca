package raftgroup

import (
	"testing"
	"time"
)

// restrained is a cluster whose leader is killed while a bar holds on each of
// the others.
func restrained(t *testing.T, bars [2]bar, test func(c *testCluster, others []*testNode)) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.waitDirectory(3) // the last of what the leader writes by itself
		c.settle()
		var others []*testNode
		leader := c.leader()
		for _, n := range c.nodes {
			if n != leader {
				others = append(others, n)
			}
		}
		for i, b := range bars {
			if b != 0 {
				others[i].group().standing.restrain("tried", b)
			}
		}
		c.settle() // else who lacks an entry can't be elected
		leader.kill()
		test(c, others)
	})
}

func TestStandingOfThoseWhoMayNotStand(t *testing.T) {
	restrained(t, [2]bar{noStand, noStand}, func(c *testCluster, others []*testNode) {
		if c.poll(20*time.Second, func() bool { return c.leading() != nil }) {
			t.Fatalf("%s leads and may not", c.leading().id)
		}
		others[1].group().standing.lift("tried")
		c.wait("that who may stand is elected", func() bool { return c.leading() == others[1] })
	})
}

func TestStandingOfThoseWhoMayNotVote(t *testing.T) {
	restrained(t, [2]bar{0, noVote}, func(c *testCluster, others []*testNode) {
		if c.poll(20*time.Second, func() bool { return c.leading() != nil }) {
			t.Fatalf("%s leads without a majority", c.leading().id)
		}
		others[1].group().standing.lift("tried")
		c.wait("a leader", func() bool { return c.leading() != nil })
	})
}

func TestStandingLast(t *testing.T) {
	restrained(t, [2]bar{standLast, 0}, func(c *testCluster, others []*testNode) {
		c.wait("a leader", func() bool { return c.leading() != nil })
		if c.leading() != others[1] {
			t.Errorf("%s leads, which was to stand last", c.leading().id)
		}
	})
	restrained(t, [2]bar{standLast, noStand}, func(c *testCluster, others []*testNode) {
		if c.poll(standLastAfter/2, func() bool { return c.leading() != nil }) {
			t.Errorf("%s leads already", c.leading().id)
		}
		c.wait("that the last one stands", func() bool { return c.leading() == others[0] })
	})
}

// A transfer to a replica that may not stand leaves leadership where it is.
func TestStandingRefusesTransfer(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		leader := c.leader()
		to := c.nodes[0]
		if to == leader {
			to = c.nodes[1]
		}
		to.group().standing.restrain("tried", noStand)
		if err := leader.group().TransferLeadership(t.Context(), to.id); err == nil {
			t.Error("leadership was transferred to a replica that may not stand")
		}
		c.wait("the old leader", func() bool { return c.leading() == leader })
	})
}
