package raftgroup

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// partition cuts links of a cluster of five whose leader is first.
type partition struct {
	name string
	cut  func(net *memNet, n []*testNode)
	// deposed: the leader has no quorum any more.
	deposed bool
	// stays: the leader keeps it, and no term is begun.
	stays bool
}

// split cuts every link between two sets of nodes.
func split(net *memNet, a, b []*testNode) {
	for _, x := range a {
		for _, y := range b {
			net.cut(x.addr, y.addr, true)
			net.cut(y.addr, x.addr, true)
		}
	}
}

// partitions are those of rows 11 to 13, and 45.
var partitions = []partition{
	{"leader alone", func(net *memNet, n []*testNode) { split(net, n[:1], n[1:]) }, true, false},
	{"leader in the smaller half", func(net *memNet, n []*testNode) { split(net, n[:2], n[2:]) }, true, false},
	{"leader in the larger half", func(net *memNet, n []*testNode) { split(net, n[:3], n[3:]) }, false, true},
	{"follower alone", func(net *memNet, n []*testNode) { split(net, n[4:], n[:4]) }, false, true},
	{"bridge", func(net *memNet, n []*testNode) { split(net, n[:2], n[3:]) }, false, true},
	{"ring", func(net *memNet, n []*testNode) {
		// Each sees its two neighbours: every node is in another majority.
		for i := range n {
			split(net, n[i:i+1], []*testNode{n[(i+2)%5], n[(i+3)%5]})
		}
	}, false, true},
	{"mute leader", func(net *memNet, n []*testNode) {
		for _, o := range n[1:] {
			net.cut(n[0].addr, o.addr, true)
		}
	}, true, false},
	{"deaf leader", func(net *memNet, n []*testNode) {
		for _, o := range n[1:] {
			net.cut(o.addr, n[0].addr, true)
		}
	}, true, false},
	{"deaf follower", func(net *memNet, n []*testNode) {
		for _, o := range n[:4] {
			net.cut(o.addr, n[4].addr, true)
		}
	}, false, true},
	{"mute follower", func(net *memNet, n []*testNode) {
		for _, o := range n[:4] {
			net.cut(n[4].addr, o.addr, true)
		}
	}, false, true},
	{"one link", func(net *memNet, n []*testNode) { split(net, n[:1], n[4:]) }, false, true},
}

// A leader without a quorum stops acknowledging; one that has a quorum keeps it,
// and is not disturbed; a majority that sees itself goes on, and afterwards
// everything is as it should be.
func TestHA03Partitions(t *testing.T) {
	for _, p := range partitions {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			underLoad(t, 5, nil, func(t *testing.T, c *testCluster, h *history, rng *rand.Rand) {
				old := c.leader()
				nodes := slices.Concat([]*testNode{old}, c.followers())
				term := old.group().raft().CurrentTerm()
				p.cut(c.net, nodes)
				time.Sleep(2 * time.Second) // its lease is over
				begin, before := h.tick(), h.count()
				c.wait("sends meanwhile", func() bool { return h.count() > before+10 })
				time.Sleep(3 * time.Second)
				end := h.tick()
				if n := h.ackedAt(old.id, begin, end); p.deposed == (n > 0) {
					t.Errorf("S7: %s, which led, acknowledged %d sends", old.id, n)
				}
				now := c.leading()
				if now == nil {
					t.Fatal("nobody leads")
				}
				at := now.group().raft().CurrentTerm()
				if p.stays && (now != old || at != term) {
					t.Errorf("%s led in term %d, %s leads in term %d", old.id, term, now.id, at)
				}
				if at > term+5 {
					t.Errorf("%d elections in five seconds", at-term)
				}
			})
		})
	}
}

// tick is a moment of the history.
func (h *history) tick() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

// ackedAt is how many attempts at a node began and were acknowledged between two
// moments.
func (h *history) ackedAt(node string, begin, end int64) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range h.ops {
		for _, a := range op.attempts {
			if a.node == node && a.kind == acked && a.invoked > begin && a.answered < end {
				n++
			}
		}
	}
	return n
}
