package raftgroup

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// preferring has a cluster's nodes lead in this order.
func preferring(nodes ...string) func(*Config) {
	return func(c *Config) { c.Preference = nodes }
}

func (c *testCluster) node(id string) *testNode {
	for _, n := range c.nodes {
		if n.id == id {
			return n
		}
	}
	c.t.Fatalf("there is no node %s", id)
	return nil
}

// awaitLeader waits until a node leads, and says how long that took.
func (c *testCluster) awaitLeader(n *testNode) time.Duration {
	c.t.Helper()
	begin := time.Now()
	c.wait(n.id+" leads", func() bool { return c.leading() == n })
	return time.Since(begin)
}

// stays checks that a node leads, in one term, for a while.
func (c *testCluster) stays(n *testNode, d time.Duration) {
	c.t.Helper()
	term := n.group().Leadership().Term
	if c.poll(d, func() bool { return c.leading() != n || n.group().Leadership().Term != term }) {
		c.explain()
		c.t.Fatalf("%s has not stayed the leader for %v", n.id, d)
	}
}

func TestPreferredLeaderLeads(t *testing.T) {
	inCluster(t, 3, preferring("n2", "n3", "n1"), func(t *testing.T, c *testCluster) {
		n2 := c.node("n2")
		c.awaitLeader(n2)
		c.createTopic("T", 1)
		n2.kill()
		c.leader()
		time.Sleep(10 * time.Second)
		n2.start()
		if d := c.awaitLeader(n2); d < 10*time.Second || d > 25*time.Second {
			t.Errorf("it leads again %v after its start", d)
		}
		c.stays(n2, 30*time.Second)
		c.deliver("T", 0, "m")
		c.checkEqual()
	})
}

// One that is not fit does not lead, however preferred.
func TestPreferredLeaderHasToBeFit(t *testing.T) {
	inCluster(t, 3, preferring("n1"), func(t *testing.T, c *testCluster) {
		n1 := c.node("n1")
		n1.group().standing.restrain("tried", standLast)
		leader := c.leader()
		if leader == n1 {
			c.wait("another one leads", func() bool { l := c.leading(); return l != nil && l != n1 })
			leader = c.leading()
		}
		c.stays(leader, 40*time.Second)
		n1.group().standing.lift("tried")
		if d := c.awaitLeader(n1); d < 10*time.Second {
			t.Errorf("it leads %v after it has become fit", d)
		}
	})
}

// A preferred leader that does not keep leadership gets it back ever later.
func TestPreferredLeaderThatFlaps(t *testing.T) {
	inCluster(t, 2, preferring("n1"), func(t *testing.T, c *testCluster) {
		n1, n2 := c.node("n1"), c.node("n2")
		var before time.Duration
		for i := range 3 {
			c.awaitLeader(n1)
			n1.group().standing.restrain("tried", standLast)
			c.awaitLeader(n2)
			n1.group().standing.lift("tried")
			d := c.awaitLeader(n1)
			if i > 0 && d < before*3/2 {
				t.Errorf("after %d times it leads again in %v, before it was %v", i, d, before)
			}
			before = d
		}
	})
}

func TestOperatorsTransferStays(t *testing.T) {
	inCluster(t, 3, preferring("n1", "n2", "n3"), func(t *testing.T, c *testCluster) {
		n1, n3 := c.node("n1"), c.node("n3")
		c.awaitLeader(n1)
		if err := n1.group().TransferLeadership(t.Context(), "n3"); err != nil {
			t.Fatal(err)
		}
		c.awaitLeader(n3)
		c.stays(n3, 2*time.Minute)
		n3.kill() // that is over now
		c.leader()
		n3.start()
		c.awaitLeader(n1)
	})
}

// A leader that should not lead gives leadership to who is fit, and to nobody
// else.
func TestRestrainedLeaderHandsOver(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		leader := c.leader()
		others := c.followers()
		others[0].group().standing.restrain("also", standLast)
		leader.group().standing.restrain("tried", standLast)
		if d := c.awaitLeader(others[1]); d > time.Second {
			t.Errorf("it took %v", d)
		}
		if s := leader.group().Status(); s.Handovers != 1 || s.LastHandover == "" || s.Restrained == "" {
			t.Errorf("the one that left says %d handovers, %q, restrained %q", s.Handovers, s.LastHandover, s.Restrained)
		}
		// Now all are restrained.
		others[1].group().standing.restrain("tried", standLast)
		c.stays(others[1], 30*time.Second)
		leader.group().standing.lift("tried")
		if d := c.awaitLeader(leader); d > 2*handoverEvery {
			t.Errorf("it took %v", d)
		}
	})
}

func TestLeaveWhenNobodyIsFit(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		leader := c.leader()
		for _, n := range c.followers() {
			n.stop()
		}
		begin := time.Now()
		if err := leader.group().Leave(t.Context()); !errors.Is(err, errNobodyFit) && !errors.Is(err, ErrNotLeader) {
			t.Errorf("it has left: %v", err)
		}
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// Row 27: leadership moves every 2 s under load. Nothing is lost or out of order,
// and no send is in doubt: what is on its way is done first.
func TestHandoverEveryTwoSeconds(t *testing.T) {
	underLoad(t, 3, nil, func(t *testing.T, c *testCluster, h *history, rng *rand.Rand) {
		moved := 0
		for range 15 {
			leader := c.leader()
			if err := leader.group().TransferLeadership(t.Context(), ""); err != nil {
				t.Errorf("%s: %v", leader.id, err)
			}
			c.wait("another leader", func() bool { l := c.leading(); return l != nil && l != leader })
			moved++
			time.Sleep(2 * time.Second)
		}
		if moved != 15 {
			t.Errorf("leadership has moved %d times", moved)
		}
		for _, bad := range h.inDoubt() {
			t.Error(bad)
		}
	})
}

// inDoubt are the attempts that were neither acknowledged nor refused because the
// node did not lead.
func (h *history) inDoubt() (bad []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range h.ops {
		for _, a := range op.attempts {
			if a.kind == limbo || a.kind == refused && !errors.Is(a.err, ErrNotLeader) {
				bad = append(bad, fmt.Sprintf("%v at %s: %v", op.bodies, a.node, a.err))
			}
		}
	}
	return bad
}
