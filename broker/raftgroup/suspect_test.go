package raftgroup

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/storage/raftlog"
)

func asyncFlush(c *Config) { c.Flush = raftlog.AsyncFlush }

// seeds is how many are tried.
func seeds(n uint64) uint64 {
	if long() {
		return 20 * n
	}
	return n
}

func (n *testNode) suspect() bool {
	is, _ := n.group().suspicion.get()
	return is
}

// lostOnOne has a message acknowledged by two of three replicas, of which the one
// that follows loses power at once and the leader is killed. The third, which has
// not seen the message, is there. seed decides what the power loss takes.
func lostOnOne(t *testing.T, seed uint64, tweak func(*Config), then func(t *testing.T, c *testCluster, leader, suspect, other *testNode)) {
	inCluster(t, 3, tweak, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.settle()
		leader := c.leader()
		suspect, other := c.followers()[0], c.followers()[1]
		time.Sleep(time.Second) // all so far is synced
		c.net.isolate(other.addr, c.others(other), true)
		if _, err := leader.send("T", 0, "acknowledged", "U"); err != nil {
			t.Fatal(err)
		}
		// Nor does it get it later, from the network.
		c.net.sever(func(from, to string) bool { return from == other.addr || to == other.addr })
		suspect.powerLoss(seed)
		leader.kill()
		suspect.start()
		c.net.heal()
		then(t, c, leader, suspect, other)
	})
}

// Row 10: with ASYNC_FLUSH one node loses power, and what it had acknowledged
// with it. It does not help to elect a replica that has not got that either.
func TestHA06SuspectDoesNotVote(t *testing.T) {
	for seed := range seeds(5) {
		lostOnOne(t, seed, asyncFlush, func(t *testing.T, c *testCluster, leader, suspect, other *testNode) {
			if !suspect.suspect() {
				t.Fatal("it is not suspect")
			}
			if c.poll(20*time.Second, func() bool { return c.leading() != nil }) {
				t.Fatalf("seed %d: %s leads with the vote of a suspect", seed, c.leading().id)
			}
			leader.start()
			c.wait("a leader, and that nobody is suspect", func() bool { return c.leading() != nil && !suspect.suspect() })
			c.checkEqual()
			for _, n := range c.nodes {
				equalBodies(t, fmt.Sprint("seed ", seed, ": ", n.id), n.bodies("T", 0), []string{"acknowledged"})
			}
			// It votes again: its vote is needed now.
			leader.kill()
			c.wait("a leader without the old one", func() bool { return c.leading() != nil })
		})
	}
}

// Without the rule the message is lost: the test above can fail.
func TestGuardSuspects(t *testing.T) {
	lost := 0
	for seed := range seeds(5) {
		tweak := func(c *Config) { asyncFlush(c); c.guard.noSuspects = true }
		lostOnOne(t, seed, tweak, func(t *testing.T, c *testCluster, leader, suspect, other *testNode) {
			c.wait("that the suspect votes", func() bool { return c.leading() != nil })
			leader.start()
			c.checkEqual()
			if len(c.leader().bodies("T", 0)) == 0 {
				lost++
			}
		})
	}
	if lost == 0 {
		t.Error("nothing was lost without the rule: the test shows nothing")
	}
}

// The mark outlives restarts, in either mode, until the replica has rejoined.
func TestSuspectStaysSoUntilItHasRejoined(t *testing.T) {
	lostOnOne(t, 3, asyncFlush, func(t *testing.T, c *testCluster, leader, suspect, other *testNode) {
		for i := range 3 {
			suspect.kill()
			suspect.start()
			if !suspect.suspect() {
				t.Fatalf("after restart %d it is not suspect", i)
			}
		}
		suspect.stop()
		suspect.start()
		if !suspect.suspect() || suspect.group().Status().Suspect != true {
			t.Fatal("after a clean stop it is not suspect")
		}
		leader.start()
		c.wait("that it is not suspect", func() bool { return !suspect.suspect() })
		c.settle()
		incidents := other.group().Status().Incidents
		if len(incidents) != 1 || incidents[0].Replica != suspect.group().ID() || strings.Contains(incidents[0].What, "lost;") {
			t.Errorf("incidents: %+v", incidents)
		}
		suspect.kill()
		suspect.start()
		if suspect.suspect() {
			t.Error("after kill -9 it is suspect again")
		}
	})
}

// A majority has lost power. While one voter is away the suspects wait: it may
// have what they lost. With all there, that one's log is the one that counts.
func TestSuspectMajorityWaitsForEveryVoter(t *testing.T) {
	for seed := range seeds(3) {
		inCluster(t, 3, asyncFlush, func(t *testing.T, c *testCluster) {
			c.createTopic("T", 1)
			c.settle()
			leader, others := c.leader(), c.followers()
			time.Sleep(time.Second)
			if _, err := leader.send("T", 0, "acknowledged", "U"); err != nil {
				t.Fatal(err)
			}
			c.settle()
			leader.kill() // it has the message, whatever the others have
			for i, n := range others {
				n.powerLoss(seed + uint64(i))
				n.start()
			}
			if c.poll(20*time.Second, func() bool { return c.leading() != nil }) {
				t.Fatalf("seed %d: %s leads while a voter is away", seed, c.leading().id)
			}
			leader.start()
			c.wait("that nobody is suspect", func() bool { return !others[0].suspect() && !others[1].suspect() })
			c.checkEqual()
			for _, n := range c.nodes {
				equalBodies(t, fmt.Sprint("seed ", seed, ": ", n.id), n.bodies("T", 0), []string{"acknowledged"})
			}
			told := 0
			for _, i := range leader.group().Status().Incidents {
				if strings.Contains(i.What, "2 of 3 voters had lost power") {
					told++
				}
			}
			if told == 0 {
				t.Errorf("the possible loss is not noted: %+v", leader.group().Status().Incidents)
			}
		})
	}
}

// All have lost power: they go on by themselves, with what the furthest log has.
func TestSuspectsEverywhereGoOn(t *testing.T) {
	for seed := range seeds(3) {
		inCluster(t, 3, asyncFlush, func(t *testing.T, c *testCluster) {
			c.createTopic("T", 1)
			c.settle()
			time.Sleep(time.Second)
			for i := range 5 {
				c.deliver("T", 0, fmt.Sprint("m", i))
			}
			for i, n := range c.nodes {
				n.crashPower(seed*3 + uint64(i))
			}
			for _, n := range c.nodes {
				n.stop()
			}
			var furthest logEnd
			for _, n := range c.nodes {
				n.start()
				if end := n.group().logEnd(); end.reaches(furthest) {
					furthest = end
				}
			}
			c.deliver("T", 0, "after")
			if now := c.leader().group().logEnd(); now.Index <= furthest.Index {
				t.Errorf("seed %d: the log ends at %d, one reached %d", seed, now.Index, furthest.Index)
			}
			c.wait("that nobody is suspect", func() bool {
				return !c.nodes[0].suspect() && !c.nodes[1].suspect() && !c.nodes[2].suspect()
			})
			c.checkEqual()
		})
	}
}

// An operator may let suspects vote, when a voter is gone for good.
func TestSuspectTrustedByAnOperator(t *testing.T) {
	lostOnOne(t, 1, asyncFlush, func(t *testing.T, c *testCluster, leader, suspect, other *testNode) {
		if err := other.group().Trust(); err != ErrNotSuspect {
			t.Errorf("trusting one that is not suspect: %v", err)
		}
		if err := suspect.group().Trust(); err != nil {
			t.Fatal(err)
		}
		c.wait("a leader", func() bool { return c.leading() != nil })
		c.wait("that it is not suspect", func() bool { return !suspect.suspect() })
		if s := suspect.group().Status(); s.PossibleLoss == "" {
			t.Error("the possible loss is not shown")
		}
	})
}

// Rows 9 and 10 at random, under load: again and again one node loses power, while
// another is paused for a while, or killed. Nothing acknowledged is lost.
func TestPowerLossOfOneWhileAnotherIsAway(t *testing.T) {
	for _, mode := range []struct {
		name  string
		tweak func(*Config)
	}{{"ASYNC_FLUSH", asyncFlush}, {"SYNC_FLUSH", nil}} {
		t.Run(mode.name, func(t *testing.T) {
			underLoad(t, 3, mode.tweak, func(t *testing.T, c *testCluster, h *history, rng *rand.Rand) {
				for range seeds(8) {
					before := h.count()
					c.wait("sends between power losses", func() bool { return h.count() > before+5 })
					order := rng.Perm(3)
					victim, away := c.nodes[order[0]], c.nodes[order[1]]
					pause := rng.IntN(2) == 0
					if pause {
						c.net.isolate(away.addr, c.others(away), true)
						time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
					}
					victim.powerLoss(rng.Uint64())
					if !pause {
						away.kill()
					}
					time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
					victim.start()
					time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
					if pause {
						c.net.heal()
					} else {
						away.start()
					}
					// Another may lose power only when this one has what it lost.
					c.wait("that it has rejoined", func() bool { return !victim.suspect() })
				}
			})
		})
	}
}

// Alone it has nobody to wait for, and says what may have happened.
func TestSuspectAlone(t *testing.T) {
	inCluster(t, 1, asyncFlush, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		n := c.nodes[0]
		time.Sleep(time.Second)
		n.powerLoss(1)
		n.start()
		c.wait("that it is not suspect", func() bool { return !n.suspect() })
		s := n.group().Status()
		if s.PossibleLoss == "" || len(s.Incidents) != 1 || !strings.Contains(s.Incidents[0].What, "may be lost") {
			t.Errorf("%+v", s)
		}
	})
}
