package raftgroup

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// shortcutCase is a leader that some believe to be gone. Each condition of the
// shortcut has one that only it holds back: run without the condition, a replica
// stands that must not.
type shortcutCase struct {
	nodes int
	// off is the condition that is switched off on the second run, on this node only
	// or on all.
	off shortcutGuards
	on  string
	// fault makes it happen, and returns who must not stand.
	fault func(c *testCluster, leader *testNode, others []*testNode) []*testNode
	// deposes: the leader is alive, and must lead on.
	deposes bool
}

func (s shortcutCase) run(t *testing.T) {
	nodes := max(s.nodes, 3)
	for name, guard := range map[string]shortcutGuards{"with": {}, "without": s.off} {
		t.Run(name, func(t *testing.T) {
			tweak := func(cfg *Config) {
				if s.on == "" || s.on == cfg.Node {
					cfg.guard.shortcut = guard
				}
			}
			inCluster(t, nodes, tweak, func(t *testing.T, c *testCluster) {
				c.createTopic("T", 1)
				c.settle()
				leader := c.leader()
				g := leader.group()
				before := g.Leadership()
				never := s.fault(c, leader, c.followers())
				c.poll(2*g.cfg.Election, func() bool { return false })
				stood := 0
				for _, n := range never {
					stood += int(n.group().shortcut.taken.Load())
				}
				if wrong := stood > 0; wrong != (name == "without") {
					t.Errorf("%d elections were stood in that should not have been", stood)
				}
				if s.deposes {
					if led := g.Leadership() == before; led != (name == "with") {
						t.Errorf("the leader of term %d leads on: %v", before.Term, led)
					}
				}
				c.net.heal()
				for _, n := range c.nodes {
					if g := n.group(); g != nil {
						g.standing.lift("tried")
						if g.Err() == nil {
							continue
						}
						n.stop()
					}
					n.start()
				}
				c.createTopic("after", 1)
				c.checkEqual()
			})
		})
	}
}

// between breaks all connections between a node and others.
func between(a *testNode, others ...*testNode) func(from, to string) bool {
	return func(from, to string) bool {
		for _, o := range others {
			if from == a.addr && to == o.addr || from == o.addr && to == a.addr {
				return true
			}
		}
		return false
	}
}

// refuseBothWays has new connections between a node and others refused.
func (c *testCluster) refuseBothWays(a *testNode, others ...*testNode) {
	for _, o := range others {
		c.net.refuse(a.addr, o.addr, true)
		c.net.refuse(o.addr, a.addr, true)
	}
}

// Row 1: a leader whose process dies is followed at once, by the one with the
// longest log.
func TestShortcutAfterAKill(t *testing.T) {
	for name, guard := range map[string]shortcutGuards{"with": {}, "without": {off: true}} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, 3, func(cfg *Config) { cfg.guard.shortcut = guard }, func(t *testing.T, c *testCluster) {
				c.createTopic("T", 1)
				for range 5 {
					c.settle()
					killed := c.leader()
					election := killed.group().cfg.Election
					killed.kill()
					if soon := c.poll(election/2, func() bool { return c.leading() != nil }); soon != (name == "with") {
						t.Fatalf("somebody leads within half an election timeout: %v", soon)
					}
					stood := 0
					for _, n := range c.followers() {
						stood += int(n.group().shortcut.taken.Load())
					}
					stood += int(c.leader().group().shortcut.taken.Load())
					if name == "without" && stood > 0 {
						t.Errorf("%d elections were stood in at once", stood)
					}
					killed.start()
				}
				c.checkEqual()
			})
		})
	}
}

// A process that has answered idle connections of its followers, too, as one that
// was elected before has.
func TestShortcutWithConnectionsThatNobodyReads(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.settle()
		leader := c.leader()
		for _, n := range c.followers() {
			// What raft keeps of an election that this one has lost.
			l := n.group().life.Load()
			conn, err := l.layer.Dial(peerAddress(leader.group().id, leader.addr), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		election := leader.group().cfg.Election
		leader.kill()
		if !c.poll(election/2, func() bool { return c.leading() != nil }) {
			t.Error("nobody leads within half an election timeout")
		}
	})
}

// Row 45: one link refuses connections, the rest is healthy.
func TestShortcutNotOnOneLink(t *testing.T) {
	shortcutCase{off: shortcutGuards{noMajority: true, anyLog: true}, deposes: true,
		fault: func(c *testCluster, leader *testNode, others []*testNode) []*testNode {
			c.refuseBothWays(leader, others[1])
			c.net.sever(between(leader, others[1]))
			return others
		}}.run(t)
}

// Row 45: nobody can connect to the leader, whose connections live. One of them
// breaks, as each time raft changes how it replicates.
func TestShortcutNotOnAClosedListener(t *testing.T) {
	shortcutCase{off: shortcutGuards{anyConnections: true}, deposes: true,
		fault: func(c *testCluster, leader *testNode, others []*testNode) []*testNode {
			c.wait("heartbeats beside the log", func() bool {
				return len(connections(c, leader, others[0])) > 1 && len(connections(c, leader, others[1])) > 1
			})
			for _, o := range others {
				c.net.refuse(o.addr, leader.addr, true)
				connections(c, leader, o)[0].reset()
			}
			return others
		}}.run(t)
}

// connections are a's ends of those with b.
func connections(c *testCluster, a, b *testNode) (found []*memConn) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for conn := range c.net.conns {
		if conn.from == a.addr && conn.to == b.addr {
			found = append(found, conn)
		}
	}
	return found
}

// Row 11: a partition, also one that breaks connections, is no crash: a new
// connection gets no answer.
func TestShortcutNotOnAPartition(t *testing.T) {
	shortcutCase{off: shortcutGuards{anyError: true},
		fault: func(c *testCluster, leader *testNode, others []*testNode) []*testNode {
			c.net.isolate(leader.addr, c.addrs(), true)
			c.net.sever(between(leader, others...))
			return others
		}}.run(t)
}

// A machine that is off answers nothing.
func TestShortcutNotOnAPowerLoss(t *testing.T) {
	shortcutCase{off: shortcutGuards{anyError: true},
		fault: func(c *testCluster, leader *testNode, others []*testNode) []*testNode {
			leader.powerLoss(1)
			return others
		}}.run(t)
}

// A leader that has fenced itself, or whose replica has stopped: its node answers,
// and refuses who asks for this replica.
func TestShortcutNotOnAHelloThatIsRefused(t *testing.T) {
	shortcutCase{off: shortcutGuards{anyError: true},
		fault: func(c *testCluster, leader *testNode, others []*testNode) []*testNode {
			// Not by its failure, of which it would tell.
			g := leader.group()
			l := g.life.Load()
			g.direct(portGroup{})
			l.layer.fence(true)
			time.AfterFunc(time.Second, func() {
				l.layer.fence(false)
				g.direct(portGroup{serverID: string(g.id), serve: g.serve})
			})
			return others
		}}.run(t)
}

// A non-voter sees all that voters see.
func TestShortcutNotByANonVoter(t *testing.T) {
	shortcutCase{nodes: 4, off: shortcutGuards{anybody: true, anyLog: true}, on: "n4",
		fault: func(c *testCluster, leader *testNode, others []*testNode) []*testNode {
			n4 := c.nodes[3]
			if leader == n4 {
				c.wait("that another one leads", func() bool {
					return n4.group().TransferLeadership(context.Background(), "n1") == nil || c.leader() != n4
				})
				leader = c.leader()
			}
			if err := leader.group().raft().DemoteVoter(n4.group().id, 0, 0).Error(); err != nil {
				c.t.Fatal(err)
			}
			c.createTopic("known", 1)
			c.settle()
			for _, n := range c.nodes[:3] { // they see it, and leave it to n4
				n.group().standing.restrain("tried", noStand)
			}
			leader.kill()
			return []*testNode{n4}
		}}.run(t)
}

// A suspect, or a replica whose disk is fenced, neither votes nor stands; one that
// stands last lets others go.
func TestShortcutNotByOneThatMayNotStand(t *testing.T) {
	for reason, b := range map[string]bar{"suspect": noVote, "fenced": noVote, "restrained": noStand, "short of room": standLast} {
		t.Run(reason, func(t *testing.T) {
			shortcutCase{nodes: 5, off: shortcutGuards{anybody: true},
				fault: func(c *testCluster, leader *testNode, others []*testNode) []*testNode {
					barred := others[len(others)-1] // its ServerID is the highest
					barred.group().standing.restrain("tried", b)
					leader.kill()
					if !barred.group().cfg.guard.shortcut.anybody && !c.poll(150*time.Millisecond, func() bool { return c.leading() != nil }) {
						c.t.Error("nobody else was elected at once")
					}
					return []*testNode{barred}
				}}.run(t)
		})
	}
}

// lagging is the follower with the highest ServerID, which lacks the last entry when
// the leader is killed.
func lagging(c *testCluster, leader *testNode, others []*testNode) *testNode {
	behind := others[len(others)-1]
	c.net.cut(leader.addr, behind.addr, true)
	c.net.sever(between(leader, behind))
	c.createTopic("longer", 1)
	leader.kill()
	c.net.cut(leader.addr, behind.addr, false)
	return behind
}

// Of those who see it the one with the longest log goes, wherever its name is in
// the order; the rest leave it at that.
func TestShortcutByTheLongestLog(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.settle()
		leader, others := c.leader(), c.followers()
		behind := lagging(c, leader, others)
		if !c.poll(150*time.Millisecond, func() bool { return c.leading() == others[0] }) {
			t.Error("the one with the longest log was not elected at once")
		}
		if behind.group().shortcut.taken.Load() > 0 {
			t.Error("the other one stood, too")
		}
	})
	shortcutCase{off: shortcutGuards{anyLog: true},
		fault: func(c *testCluster, leader *testNode, others []*testNode) []*testNode {
			others[0].group().standing.restrain("tried", noStand)
			return []*testNode{lagging(c, leader, others)}
		}}.run(t)
}

// While the others are asked, somebody is elected.
func TestShortcutNotOnceTheLeaderHasChanged(t *testing.T) {
	for name, guard := range map[string]shortcutGuards{"with": {}, "without": {anyTerm: true, anyConnections: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reached, proceed := make(chan struct{}, 3), make(chan struct{})
				guard.before = func() {
					reached <- struct{}{}
					<-proceed
				}
				c := newTestCluster(t, 3, func(cfg *Config) { cfg.guard.shortcut = guard })
				for _, n := range c.nodes {
					n.start()
				}
				defer c.stop()
				c.createTopic("T", 1)
				c.settle()
				leader := c.leader()
				others := c.followers()
				leader.kill()
				<-reached // others[1] is about to stand
				if err := others[0].group().life.Load().trans.timeoutNow(); err != nil {
					t.Fatal(err)
				}
				c.wait("that another one leads", func() bool { return c.leading() == others[0] })
				before := others[0].group().Leadership()
				close(proceed)
				c.poll(time.Second, func() bool { return false })
				if led := others[0].group().Leadership() == before; led != (name == "with") {
					t.Errorf("the new leader leads on: %v", led)
				}
			})
		})
	}
}

// A follower that restarts is no sign of its leader's end, also while it can't
// connect to the leader and one of the leader's new connections breaks.
func TestShortcutNotOnARestartOfAFollower(t *testing.T) {
	shortcutCase{off: shortcutGuards{anyConnections: true, noMajority: true, anyLog: true}, deposes: true,
		fault: func(c *testCluster, leader *testNode, others []*testNode) []*testNode {
			for _, n := range others {
				for _, down := range []func(){n.stop, n.kill} {
					c.net.refuse(n.addr, leader.addr, true)
					down()
					n.start()
					c.poll(time.Second, func() bool { return len(connections(c, leader, n)) > 1 })
					if all := connections(c, leader, n); len(all) > 1 {
						all[0].reset()
					} else if leader.group().Leadership().Self {
						c.t.Fatalf("%s has %d connections with the leader", n.id, len(all))
					}
				}
			}
			return others
		}}.run(t)
}

// The kernel tells what becomes of a connection that nobody reads.
func TestHungUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if hungUp(ours) {
		t.Error("a connection that lives has ended")
	}
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	var b [1]byte
	if _, err := ours.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !hungUp(ours); {
		if time.Now().After(end) {
			t.Fatal("the end of a connection is not seen")
		}
	}
	ours.Close()
	if !hungUp(ours) {
		t.Error("a closed connection has not ended")
	}
}
