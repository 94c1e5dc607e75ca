package main

import (
	"testing"
	"time"
)

// Row 5: SIGSTOP of the leader, then CONT. The old leader neither acks nor shows
// what is not committed: all that anybody was told is compared.
func TestPauseLeader(t *testing.T) {
	t.Parallel()
	c := startChaos(t)
	for range times(1, 5) {
		c.pauseLeader(time.Duration(times(3, 5+c.rnd.IntN(25))) * time.Second)
	}
	c.end()
}

// Row 6: SIGSTOP of a majority, and of all: nothing is acked, and then all goes
// on by itself.
func TestPauseMajority(t *testing.T) {
	t.Parallel()
	c := startChaos(t)
	for range times(1, 5) {
		c.pauseMost(2)
		c.pauseMost(3)
	}
	c.end()
}

// Rows 11 and 12: a node without a network; a leader that its peers cannot reach
// and clients can; no two nodes that reach each other; one link that is cut.
func TestPartitions(t *testing.T) {
	t.Parallel()
	c := startNetChaos(t, 3, 1)
	for range times(1, 5) {
		leader, _ := c.leader("broker-a")
		c.lose(leader)
		c.cutFromPeers()
		c.scatter()
		if long() {
			leader, _ = c.leader("broker-a")
			c.lose(c.pick(c.others(leader)))
			c.cutLink()
		}
	}
	c.end()
}

// Row 13: a node that is deaf, and one that is mute, the leader among them.
func TestOneWayLinks(t *testing.T) {
	t.Parallel()
	c := startNetChaos(t, 3, 1)
	for range times(1, 5) {
		for _, deaf := range []bool{true, false} {
			leader, _ := c.leader("broker-a")
			if long() || deaf {
				c.oneWay(leader, deaf)
				leader, _ = c.leader("broker-a")
			}
			if long() || !deaf {
				c.oneWay(c.pick(c.others(leader)), deaf)
			}
		}
	}
	c.end()
}

// Row 14: raft's packets come late, in spikes, not at all, twice and in another
// order.
func TestBadLinks(t *testing.T) {
	t.Parallel()
	c := startNetChaos(t, 3, 1)
	for range times(1, 5) {
		if long() {
			c.delays()
			c.spikes()
		}
		c.drops()
	}
	c.end()
}

// Row 23: a node comes back without its data.
func TestWipedNode(t *testing.T) {
	onlyLong(t, "TestWipedNodeComesBack")
	t.Parallel()
	c := startChaos(t)
	for range times(1, 5) {
		c.wipe()
	}
	c.end()
}

// Row 15: a follower catches up over 200 kbit/s and is killed meanwhile.
func TestSlowCatchUp(t *testing.T) {
	t.Parallel()
	c := startNetChaos(t, 3, 1)
	for range times(1, 5) {
		c.slowCatchUp()
	}
	c.end()
}

// Rows 16 and 45: connections are reset whatever is on them, or stay half open;
// one link refuses connections while the rest is healthy.
func TestResetsAndRefusals(t *testing.T) {
	t.Parallel()
	c := startNetChaos(t, 3, 1)
	for range times(1, 5) {
		c.refuse()
		leader, _ := c.leader("broker-a")
		c.resets(leader)
		if long() {
			c.resets(c.pick(c.ids))
		}
		c.halfOpen(c.pick(c.ids))
	}
	c.end()
}

// Row 27: leadership goes round every two seconds.
func TestTransfers(t *testing.T) {
	onlyLong(t, "TestTransfersFailNoSend")
	t.Parallel()
	c := startChaos(t)
	c.transfers(times(3, 30), times2(500*time.Millisecond, 2*time.Second))
	c.end()
}

// times2 is how long something lasts in the short and the long form.
func times2(short, longer time.Duration) time.Duration {
	if long() {
		return longer
	}
	return short
}
