package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
)

// withSpares runs a test on a cluster of which the first nodes make the group, and
// the others are not started yet: their configuration names them beside those.
func withSpares(t *testing.T, began, all int, tweak func(*Config), test func(*testing.T, *testCluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, all, nil)
		for i, n := range c.nodes {
			n.tweak = func(cfg *Config) {
				cfg.Peers = slices.Clone(cfg.Peers[:began])
				if i >= began {
					cfg.Peers = append(cfg.Peers, Peer{Node: n.id, Address: n.addr})
				}
				if tweak != nil {
					tweak(cfg)
				}
			}
		}
		for _, n := range c.nodes[:began] {
			n.start()
		}
		defer c.stop()
		test(t, c)
	})
}

// loaded is withSpares while clients send and read. No send may fail while only the
// membership changes; in the end all who are members then hold everything.
func loaded(t *testing.T, began, all int, mayFail bool, test func(*testing.T, *testCluster, *history, *rand.Rand)) {
	seed := testSeed(t)
	withSpares(t, began, all, func(c *Config) { c.DedupSpan = time.Hour }, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 2)
		h := &history{}
		cl := newClients(c, h, 4, "T", 2, seed)
		c.wait("a load", func() bool { return h.count() >= floor })
		test(t, c, h, rand.New(rand.NewPCG(seed, 1)))
		c.net.heal()
		before := h.count()
		c.wait("a load afterwards", func() bool { return h.count() >= before+floor })
		cl.end()
		if failed := h.failed(); len(failed) > 0 && !mayFail {
			t.Errorf("%d of %d sends have failed, the first %s", len(failed), h.count()+len(failed), failed[0])
		}
		c.keepMembers()
		cl.check()
	})
}

// failed are the sends that were given up: not the last one of each sender, which
// the end may have cut short.
func (h *history) failed() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := map[string]*operation{}
	sender := func(op *operation) string { name, _, _ := strings.Cut(op.bodies[0], "-"); return name }
	for _, op := range h.ops {
		last[sender(op)] = op
	}
	for _, op := range h.ops {
		if op.ack() == nil && last[sender(op)] != op {
			a := op.attempts[len(op.attempts)-1]
			out = append(out, fmt.Sprintf("%.20s, key %q: %v", op.bodies[0], op.key, a.err))
		}
	}
	return out
}

// keepMembers stops the nodes that are not members.
func (c *testCluster) keepMembers() {
	c.t.Helper()
	ids := c.leader().members()
	c.nodes = slices.DeleteFunc(slices.Clone(c.nodes), func(n *testNode) bool {
		g := n.group()
		out := g == nil && !slices.ContainsFunc(ids, func(id string) bool { return isNode(id, n.id) }) || g != nil && !slices.Contains(ids, g.ID())
		if out {
			n.stop()
		}
		return out
	})
}

// change asks whoever leads to change the membership, until one has.
func (c *testCluster) change(what string, f func(ctx context.Context, g *Group) error) {
	c.t.Helper()
	var last error
	c.wait(what, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		last = f(ctx, c.leader().group())
		if last != nil && !errors.Is(last, ErrNotLeader) && !errors.Is(last, ErrUnknown) && !errors.Is(last, ErrBusy) {
			c.t.Fatalf("%s: %v", what, last)
		}
		return last == nil
	})
}

func (c *testCluster) add(n *testNode) {
	c.t.Helper()
	c.change("add "+n.id, func(ctx context.Context, g *Group) error {
		_, err := g.AddPeer(ctx, n.addr, n.id, false)
		if errors.Is(err, ErrAlreadyMember) {
			return nil // what was tried before, with an unknown outcome, has come about
		}
		return err
	})
}

func (c *testCluster) remove(n *testNode) {
	c.t.Helper()
	c.change("remove "+n.id, func(ctx context.Context, g *Group) error {
		if _, err := g.member(n.id); err != nil {
			return nil // it was done, and nobody could say so
		}
		return g.RemovePeer(ctx, n.id, false)
	})
}

// voters are the nodes that vote, as the leader knows; with ! before those that do
// not.
func (c *testCluster) voters() string {
	var out []string
	servers, err := c.leader().group().servers()
	if err != nil {
		return err.Error()
	}
	for _, s := range servers {
		name := nodeOf(string(s.ID))
		if s.Suffrage != raft.Voter {
			name = "!" + name
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (c *testCluster) waitVoters(want string) {
	c.t.Helper()
	last := ""
	if !c.poll(2*time.Minute, func() bool { last = c.voters(); return last == want }) {
		c.explain()
		c.t.Fatalf("the members are %s, want %s", last, want)
	}
}

// Row 25: three nodes become five, and three again: a follower is removed and the
// leader itself, and no send fails. C1: who joins votes only when it was well for
// long enough. C3: a leader that is removed has handed over before.
func TestGrowAndShrinkUnderLoad(t *testing.T) {
	loaded(t, 3, 5, false, func(t *testing.T, c *testCluster, h *history, _ *rand.Rand) {
		for _, n := range c.nodes[3:] {
			n.start()
			c.add(n)
		}
		if v := c.voters(); v != "!n4 !n5 n1 n2 n3" {
			t.Fatalf("right after they joined the members are %s", v)
		}
		joined := time.Now()
		c.waitVoters("n1 n2 n3 n4 n5")
		if since := time.Since(joined); since < 10*time.Second {
			t.Errorf("both have votes after %v", since)
		}
		leader := c.leader()
		follower := c.followers()[0]
		c.remove(follower)
		term := leader.group().Leadership().Term
		c.remove(leader)
		if l := c.leader(); l == leader || l.group().Leadership().Term <= term {
			t.Errorf("%s leads in term %d after %s, which led in term %d, was removed", l.id, l.group().Leadership().Term, leader.id, term)
		}
		for _, n := range []*testNode{follower, leader} {
			c.wait(n.id+" knows that it was removed, and who leads", func() bool {
				l := n.group().Leadership()
				return n.group().Removed() != "" && n.group().standing.mayVote() != nil && l.Node == c.leader().id && !l.Self
			})
		}
		if n := len(strings.Fields(c.voters())); n != 3 {
			t.Errorf("%d members remain: %s", n, c.voters())
		}
		// It says so after a restart, too, and disturbs nobody.
		term = c.leader().group().Leadership().Term
		leader.stop()
		leader.start()
		c.wait("that it says so again", func() bool { return leader.group().Removed() != "" })
		time.Sleep(10 * time.Second)
		if now := c.leader().group().Leadership().Term; now != term {
			t.Errorf("a removed replica was started and term %d became %d", term, now)
		}
		// It may come back with what it has.
		c.add(leader)
		c.wait("that it is a member again", func() bool { return leader.group().Removed() == "" })
		c.remove(leader)
	})
}

// Rows 23 and 25: a node that comes back without its data to its address is taken
// in by itself, votes when it is well, and then takes the place of its old self.
func TestWipedNodeReplacesItself(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprint("leads ", leads), func(t *testing.T) {
			loaded(t, 3, 3, true, func(t *testing.T, c *testCluster, h *history, _ *rand.Rand) {
				c.waitDirectory(3)
				n := c.leader()
				if !leads {
					n = c.followers()[0]
				}
				old := n.group().ID()
				was, _ := n.group().State().Member(n.id)
				n.kill()
				n.wipe()
				n.start()
				if n.group().ID() == old {
					t.Fatal("it is the same incarnation")
				}
				c.wait("that it has the place of its old self", func() bool {
					servers := c.leader().members()
					return !slices.Contains(servers, old) && slices.Contains(servers, n.group().ID())
				})
				if v := c.voters(); v != "n1 n2 n3" {
					t.Errorf("the members are %s", v)
				}
				c.wait("the directory", func() bool {
					m, _ := c.leader().group().State().Member(n.id)
					return m.ServerID == n.group().ID() && m.BrokerID == was.BrokerID
				})
			})
		})
	}
}

// waitDirectory waits until all members are in the directory, with their addresses.
func (c *testCluster) waitDirectory(n int) {
	c.t.Helper()
	c.wait("the directory of members", func() bool {
		all := c.leader().group().State().Members()
		return len(all) == n && !slices.ContainsFunc(all, func(m fsm.Member) bool { return m.Client == "" })
	})
}

// The nodes a group begins with have broker ids in the order of their names; a new
// one gets the smallest that is free.
func TestDirectoryOfMembers(t *testing.T) {
	withSpares(t, 3, 4, nil, func(t *testing.T, c *testCluster) {
		c.waitDirectory(3)
		look := func() (out []string) {
			for _, m := range c.leader().group().State().Members() {
				out = append(out, fmt.Sprint(m.Node, " ", m.BrokerID, " ", m.Client))
			}
			return out
		}
		want := []string{"n1 1 127.0.0.1:10001", "n2 2 127.0.0.1:10002", "n3 3 127.0.0.1:10003"}
		if got := look(); !slices.Equal(got, want) {
			t.Fatalf("members %q, want %q", got, want)
		}
		c.remove(c.nodes[1])
		c.nodes[3].start()
		c.add(c.nodes[3])
		c.waitDirectory(3)
		want = []string{want[0], want[2], "n4 2 127.0.0.1:10004"}
		if got := look(); !slices.Equal(got, want) {
			t.Fatalf("members %q, want %q", got, want)
		}
		c.waitVoters("n1 n3 n4")
	})
}

// C2: what would leave fewer live voters than a majority is refused, with the
// numbers, unless it is forced.
func TestQuorumIsNotGivenAway(t *testing.T) {
	withSpares(t, 3, 4, nil, func(t *testing.T, c *testCluster) {
		leader := c.leader()
		dead := c.followers()[0]
		live := c.followers()[1]
		dead.kill()
		time.Sleep(2 * time.Second)
		g := leader.group()
		for what, f := range map[string]func(force bool) error{
			"removing":  func(force bool) error { return g.RemovePeer(t.Context(), live.id, force) },
			"demoting":  func(force bool) error { return g.Demote(t.Context(), live.id, force) },
			"removing ": func(force bool) error { return g.RemovePeer(t.Context(), leader.id, force) },
		} {
			err := f(false)
			if !errors.Is(err, ErrQuorum) || !strings.Contains(err.Error(), "leaves 2 voters, of which 2 are needed and 1 answer") {
				t.Errorf("%s with one of three dead: %v", what, err)
			}
		}
		// The dead one is no loss.
		if err := g.RemovePeer(t.Context(), dead.id, false); err != nil {
			t.Errorf("removing the dead one: %v", err)
		}
		// Of two both are needed; forced, one goes, and the other is a group.
		if err := g.RemovePeer(t.Context(), live.id, false); err != nil {
			t.Errorf("removing one of two that are alive: %v", err)
		}
		if v := c.voters(); v != leader.id {
			t.Errorf("the members are %s", v)
		}
		if err := g.RemovePeer(t.Context(), leader.id, true); err == nil || errors.Is(err, ErrHandedOver) {
			t.Errorf("removing the last one: %v", err)
		}
		if err := g.RemovePeer(t.Context(), "n9", false); !errors.Is(err, ErrMember) {
			t.Errorf("removing nobody: %v", err)
		}
		c.createTopic("T", 1)
		c.deliver("T", 0, "goes on")
	})
}

// The last vote of a group stays, whoever insists.
func TestLastVoterStays(t *testing.T) {
	inCluster(t, 1, nil, func(t *testing.T, c *testCluster) {
		c.waitDirectory(1)
		g := c.leader().group()
		for _, force := range []bool{false, true} {
			for what, err := range map[string]error{"removing": g.RemovePeer(t.Context(), "n1", force), "demoting": g.Demote(t.Context(), "n1", force)} {
				if !errors.Is(err, ErrQuorum) || !strings.Contains(err.Error(), what+" "+g.ID()+" would leave no voter") {
					t.Errorf("%s it: %v", what, err)
				}
			}
		}
		c.createTopic("T", 1)
	})
}

// An operator's learner stays one; a demoted leader has handed over; who has no
// vote is never made leader, whoever tells it to stand.
func TestLearners(t *testing.T) {
	withSpares(t, 3, 4, nil, func(t *testing.T, c *testCluster) {
		c.waitDirectory(3)
		old := c.leader()
		c.change("demote", func(ctx context.Context, g *Group) error { return g.Demote(ctx, old.id, false) })
		if c.leader() == old {
			t.Fatal("it leads without a vote")
		}
		c.nodes[3].start()
		c.change("add a learner", func(ctx context.Context, g *Group) error {
			_, err := g.AddPeer(ctx, c.nodes[3].addr, "", true)
			return err
		})
		c.settle()
		members := c.voters()
		for _, n := range c.nodes {
			if m, err := c.leader().group().AddPeer(t.Context(), n.addr, n.id, n != c.leader()); !errors.Is(err, ErrAlreadyMember) || nodeOf(m.ServerID) != n.id {
				t.Errorf("taking %s in again: %+v, %v", n.id, m, err)
			}
		}
		if v := c.voters(); v != members {
			t.Errorf("the members are %s, and were %s", v, members)
		}
		time.Sleep(time.Minute)
		if v := c.voters(); !strings.Contains(v, "!"+old.id) || !strings.Contains(v, "!n4") {
			t.Fatalf("the members are %s", v)
		}
		leader := c.leader()
		if err := leader.group().TransferLeadership(t.Context(), "n4"); err == nil {
			t.Error("leadership was given to one without a vote")
		}
		// As a peer that errs would: TimeoutNow makes a candidate of anybody.
		id := c.nodes[3].group().id
		l := leader.group().life.Load()
		if err := l.trans.TimeoutNow(id, peerAddress(id, "n4:7000"), &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3}}, &raft.TimeoutNowResponse{}); err == nil {
			t.Error("one without a vote was told to stand, and agreed")
		}
		time.Sleep(5 * time.Second)
		if c.leader() != leader || leader.group().raft().CurrentTerm() != leader.group().Leadership().Term {
			t.Error("there was an election")
		}
		c.change("promote", func(ctx context.Context, g *Group) error { return g.Promote(ctx, "n4", false) })
		c.change("promote", func(ctx context.Context, g *Group) error { return g.Promote(ctx, old.id, false) })
		c.waitVoters("n1 n2 n3 n4")
	})
}

// Who has no vote vouches for nobody: a leader that only a learner answers finds out
// that it may not lead any more, and does not ask without a pause meanwhile.
func TestGuardVerifyAsksVoters(t *testing.T) {
	withSpares(t, 3, 4, nil, func(t *testing.T, c *testCluster) {
		c.waitDirectory(3)
		c.nodes[3].start()
		c.change("add a learner", func(ctx context.Context, g *Group) error {
			_, err := g.AddPeer(ctx, c.nodes[3].addr, "n4", true)
			return err
		})
		c.settle()
		leader := c.leader()
		for _, n := range c.nodes[:3] {
			if n != leader {
				c.net.isolate(n.addr, []string{leader.addr}, true)
			}
		}
		begin := time.Now()
		if err := leader.group().Barrier(t.Context()); err == nil {
			t.Error("it is sure to lead, and no voter answers")
		}
		if took := time.Since(begin); took > verifyTimeout {
			t.Errorf("that took %v", took)
		}
		c.net.heal()
	})
}

// The dead are taken out when others have their place, not before.
func TestDeadMembersGoWhenReplaced(t *testing.T) {
	withSpares(t, 3, 4, nil, func(t *testing.T, c *testCluster) {
		dead := c.followers()[0]
		dead.kill()
		time.Sleep(2 * time.Minute)
		if v := c.voters(); v != "n1 n2 n3" {
			t.Fatalf("without a replacement the members are %s", v)
		}
		c.nodes[3].start()
		c.add(c.nodes[3])
		c.waitVoters(strings.Join(slices.DeleteFunc([]string{"n1", "n2", "n3", "n4"}, func(n string) bool { return n == dead.id }), " "))
		// Back, it is told, and stays out.
		dead.start()
		c.wait("that it knows", func() bool { return dead.group().Removed() != "" })
	})
	// keepDead: never.
	withSpares(t, 3, 4, nil, func(t *testing.T, c *testCluster) {
		c.change("keep the dead", func(ctx context.Context, g *Group) error {
			return g.SetAutopilot(ctx, fsm.Autopilot{KeepDead: true, Stable: 1000})
		})
		c.nodes[3].start()
		c.add(c.nodes[3])
		c.waitVoters("n1 n2 n3 n4")
		c.followers()[0].kill()
		time.Sleep(2 * time.Minute)
		if v := c.voters(); v != "n1 n2 n3 n4" {
			t.Fatalf("the members are %s", v)
		}
	})
}

// Who is of another group, or another node than was meant, does not join.
func TestStrangersDoNotJoin(t *testing.T) {
	withSpares(t, 3, 5, nil, func(t *testing.T, c *testCluster) {
		// n4 is a group by itself, of the same name.
		c.nodes[3].tweak = func(cfg *Config) { cfg.Peers, cfg.Events = []Peer{{Node: "n4", Address: "n4:7000"}}, Events{} }
		c.nodes[3].start()
		c.wait("the other group", func() bool { return c.nodes[3].group().Leadership().Self })
		leader := c.nodes[0].group()
		c.wait("who leads", func() bool {
			for _, n := range c.nodes[:3] {
				if n.group().Leadership().Self {
					leader = n.group()
					return true
				}
			}
			return false
		})
		if _, err := leader.AddPeer(t.Context(), "n4:7000", "", false); !errors.Is(err, ErrMember) {
			t.Errorf("a member of another group: %v", err)
		}
		c.nodes[4].start()
		if _, err := leader.AddPeer(t.Context(), "n5:7000", "n7", false); !errors.Is(err, ErrMember) {
			t.Errorf("another node than was meant: %v", err)
		}
		if _, err := leader.AddPeer(t.Context(), "n9:7000", "", false); !errors.Is(err, ErrMember) {
			t.Errorf("nobody there: %v", err)
		}
		// Nobody asked for n5: it is told what to do, and is not taken in.
		time.Sleep(20 * time.Second)
		if g := c.nodes[4].group(); g.hasState() || g.isMember() {
			t.Error("n5 was taken in")
		}
		c.nodes[3].stop()
	})
}

// Row 26: members change, are cut off and killed at the same time. S1, S7 hold, and
// the group goes on.
func TestMembershipPartitionAndKill(t *testing.T) {
	rounds := 8
	if long() {
		rounds = 60
	}
	loaded(t, 3, 5, true, func(t *testing.T, c *testCluster, h *history, rng *rand.Rand) {
		seen := map[string]int{}
		for range rounds {
			n := c.nodes[rng.IntN(len(c.nodes))]
			if n.now.Load() == nil {
				n.start()
			}
			change := c.drawChange(n, rng)
			done := make(chan error, 1)
			go func() { done <- change() }()
			victim := c.nodes[rng.IntN(len(c.nodes))]
			time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
			switch rng.IntN(4) {
			case 0:
				seen["kill"]++
				victim.kill()
			case 1:
				seen["isolation"]++
				c.net.isolate(victim.addr, c.addrs(), true)
			case 2:
				seen["kill of who changes"]++
				n.kill()
			}
			time.Sleep(time.Duration(rng.IntN(8000)) * time.Millisecond)
			c.net.heal()
			if err := <-done; err == nil {
				seen["change"]++
			}
			wiped := false
			for _, n := range c.nodes {
				if n.now.Load() == nil && rng.IntN(3) > 0 {
					if rng.IntN(6) == 0 && c.leading() != nil {
						seen["wipe"]++
						wiped = true
						n.wipe()
					}
					n.start()
				}
			}
			for _, n := range c.nodes {
				if n.now.Load() == nil {
					n.start()
				}
			}
			before := h.count()
			c.wait("the group goes on", func() bool { return h.count() > before })
			// No second fault before a node that lost its disk has its place again.
			if wiped {
				c.poll(20*time.Second, func() bool { return !strings.Contains(c.voters(), "!") })
			}
		}
		t.Log(seen)
		if seen["change"] == 0 {
			t.Error("no change was made")
		}
	})
}

// drawChange is a change of the membership that concerns a node.
func (c *testCluster) drawChange(n *testNode, rng *rand.Rand) func() error {
	kind := rng.IntN(4)
	return func() error {
		l := c.leading()
		if l == nil {
			return ErrNotLeader
		}
		g := l.group()
		if g == nil {
			return ErrClosed
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := g.member(n.id)
		switch {
		case err != nil:
			_, err = g.AddPeer(ctx, n.addr, n.id, false)
			return err
		case kind == 0:
			return g.Demote(ctx, n.id, false)
		case kind == 1:
			return g.Promote(ctx, n.id, false)
		}
		return g.RemovePeer(ctx, n.id, false)
	}
}

// A log may hold times for the autopilot that nobody refused: they end somewhere.
func TestAutopilotTimesOfALog(t *testing.T) {
	inCluster(t, 1, nil, func(t *testing.T, c *testCluster) {
		huge := fsm.Autopilot{Stable: math.MaxInt64, DeadAfter: math.MaxInt64/1_000_000 + 1}
		if err := c.leader().group().SetAutopilot(t.Context(), huge); err != nil {
			t.Fatal(err)
		}
		a := c.leader().group().AutopilotConfig()
		for _, ms := range []int64{a.Stable, a.DeadAfter} {
			if d := time.Duration(ms) * time.Millisecond; d != MaxAutopilotWait {
				t.Errorf("%d ms are %v", ms, d)
			}
		}
	})
}
