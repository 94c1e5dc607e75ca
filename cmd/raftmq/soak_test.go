package main

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// someFault is one that a round of TestChaos may draw.
type someFault struct {
	name string
	do   func()
}

// allFaults are those that this machine can do.
func (c *chaos) allFaults() []someFault {
	all := []someFault{
		{"kill the leader", c.killLeader},
		{"kill the leader twice", func() { c.killLeader(); c.killLeader() }},
		{"kill a follower", c.killFollower},
		{"kill a majority", func() { c.killMajority(2) }},
		{"kill all", func() { c.killMajority(3) }},
		{"kill one in recovery", func() { c.killRecovering(1+c.rnd.IntN(5), c.pick(c.ids)) }},
		{"kill all in recovery", func() { c.killRecovering(1+c.rnd.IntN(5), c.ids...) }},
		{"pause the leader", func() { c.pauseLeader(time.Duration(5+c.rnd.IntN(10)) * time.Second) }},
		{"pause a majority", func() { c.pauseMost(2) }},
		{"pause all", func() { c.pauseMost(3) }},
		{"transfer leadership", func() { c.transfers(1+c.rnd.IntN(4), 2*time.Second) }},
		{"restart one after the other", c.restart},
		{"wipe a node", c.wipe},
		{"remove a member and add it", c.replaceMember},
		{"flip a bit", func() { c.flip(c.pick(c.ids), c.rnd.IntN(2) == 0) }},
	}
	if c.net != nil {
		all = append(all, []someFault{
			{"lose a host", func() { c.lose(c.pick(c.ids)) }},
			{"lose the leader's host", func() { leader, _ := c.leader("broker-a"); c.lose(leader) }},
			{"cut the leader from its peers", c.cutFromPeers},
			{"cut all links", c.scatter},
			{"cut a link", c.cutLink},
			{"deaf or mute", func() { c.oneWay(c.pick(c.ids), c.rnd.IntN(2) == 0) }},
			{"delays", c.delays},
			{"spikes", c.spikes},
			{"drops", c.drops},
			{"a link that refuses", c.refuse},
			{"resets", func() { c.resets(c.pick(c.ids)) }},
			{"half-open connections", func() { c.halfOpen(c.pick(c.ids)) }},
			{"slow catch-up", c.slowCatchUp},
		}...)
	}
	if c.disks != nil {
		all = append(all, []someFault{
			{"a follower's disk is slow", func() { c.slowDisk(false) }},
			{"the leader's disk is slow", func() { c.slowDisk(true) }},
			{"syncs of the leader's disk fail", func() { c.failDisk(diskSync, errDisk) }},
			{"writes to the leader's disk fail", func() { c.failDisk(diskWrite, errDisk) }},
			{"the leader's disk hangs", func() { c.hangDisk(time.Duration(3+c.rnd.IntN(10)) * time.Second) }},
			{"the leader's disk is full", func() { leader, _ := c.leader("broker-a"); c.fillDisks(leader) }},
			{"all disks are full", func() { c.fillDisks(c.ids...) }},
		}...)
	}
	if c.power != nil {
		all = append(all, []someFault{
			{"power loss of one", func() { c.losePower(c.pick(c.ids)) }},
			{"power loss while another is paused", c.losePowerWhilePaused},
		}...)
		if !c.async { // which says that it loses messages then
			all = append(all, someFault{"power loss of all", func() { c.losePower(c.ids...) }})
		}
	}
	return all
}

// startAll is a cluster to which all faults can be done that this machine can do.
func startAll(t *testing.T) *chaos {
	t.Helper()
	const groups = 2
	c := &chaos{rnd: seeded(t), tally: newTally()}
	if inWorld() {
		n := newNetwork(t, c.rnd.Uint64(), nodeIDs(3)...)
		c.cluster = newClusterOn(t, n, t.TempDir(), 3, groups)
		c.power, c.disks = map[string]*powerDisk{}, map[string]*faultDisk{}
		for _, id := range c.ids {
			below := filepath.Join(c.dir, "below-"+id)
			c.power[id] = newPowerDisk(t, below, 16<<10)
			c.disks[id] = newFaultDiskOn(t, c.dataDir(id), below)
		}
	} else {
		t.Log("no links are cut and no disks fail: that needs root, and leave to make namespaces")
		c.cluster = newCluster(t, t.TempDir(), 3, groups)
	}
	c.set = []string{"promoteAfter=2s"}
	if c.async = c.rnd.IntN(3) == 0; c.async {
		c.set = append(c.set, "flushDiskType=ASYNC_FLUSH")
	}
	t.Logf("ASYNC_FLUSH: %v", c.async)
	c.run()
	return c
}

// TestChaos draws faults in rounds, a quarter of them quiet, with topics of its
// own each, under traffic of all kinds. Every fourth round ends with all nodes
// stopped and their files verified; at the end all topics are compared once more,
// and what the nodes hold with what they held at the beginning.
func TestChaos(t *testing.T) {
	d := chaosDuration(t)
	if d == 0 {
		t.Skip("make chaos runs it; so does RAFTMQ_LONG=1")
	}
	c := startAll(t)
	defer func() { c.tally.log(t) }()
	faults := c.allFaults()
	var loads []*load
	var idle map[string]holdings
	for round, begun := 0, time.Now(); time.Since(begun) < d; round++ {
		c.l = startLoad(t, c.cluster, fmt.Sprintf("Chaos%d", round), delayedTraffic, transactionTraffic, retriedTraffic, memberTraffic)
		loads = append(loads, c.l)
		c.l.floor(floorAcks, "in the round")
		var drawn []string
		if round > 0 && c.rnd.IntN(4) > 0 {
			for range 2 + c.rnd.IntN(4) {
				f := faults[c.rnd.IntN(len(faults))]
				drawn = append(drawn, f.name)
				t.Logf("round %d, %v: %s", round, time.Since(begun).Round(time.Second), f.name)
				f.do()
			}
		} else {
			t.Logf("round %d: quiet", round)
			c.l.floor(4*floorAcks, "in a quiet round")
			c.tally.quiet()
		}
		c.l.check()
		c.l.count(c.tally)
		if t.Failed() {
			t.Fatalf("that was round %d, with %q", round, drawn)
		}
		if round%4 == 3 {
			c.stop()
			c.verify()
			c.start(c.ids...)
			c.healthy()
		}
		if idle == nil {
			idle = c.allHoldings()
		}
	}
	c.settled()
	for _, l := range loads {
		report(t, check(l.h.all(), l.drainAll(l.topic, loadQueues)))
	}
	c.heldAgain(idle)
	c.stop()
	c.verify()
}
