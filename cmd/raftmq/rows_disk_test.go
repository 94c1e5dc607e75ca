package main

import (
	"testing"
	"time"
)

// startDiskChaos is a cluster whose nodes' disks can hang, be slow and fail.
func startDiskChaos(t *testing.T) *chaos {
	t.Helper()
	needsWorld(t)
	c := &chaos{rnd: seeded(t), tally: newTally(), disks: map[string]*faultDisk{}}
	c.cluster = newCluster(t, t.TempDir(), 3, 1)
	for _, id := range c.ids {
		c.disks[id] = newFaultDisk(t, c.dataDir(id))
	}
	c.run()
	t.Cleanup(func() {
		for _, d := range c.disks {
			d.heal()
		}
	})
	c.l = startLoad(t, c.cluster, "Chaos")
	return c
}

// Row 19: each sync of a follower's disk, or of the leader's, takes 200 ms.
func TestSlowDisks(t *testing.T) {
	t.Parallel()
	c := startDiskChaos(t)
	for range times(1, 5) {
		c.slowDisk(false)
		c.slowDisk(true)
	}
	c.end()
}

// Row 19: everything on the leader's disk hangs.
func TestHungDisk(t *testing.T) {
	t.Parallel()
	c := startDiskChaos(t)
	for range times(1, 5) {
		c.hangDisk(time.Duration(times(3, 60)) * time.Second)
	}
	c.end()
}

// Row 17 in real processes, whose disks fail for good: the replica stops, says
// so, and is right again when it is started on a disk that works.
func TestFailingDisks(t *testing.T) {
	t.Parallel()
	c := startDiskChaos(t)
	for range times(1, 5) {
		c.failDisk(diskSync, errDisk)
		c.failDisk(diskWrite, errDisk)
	}
	c.end()
}

// Rows 8 and 9 in real processes: every node loses its power at once, and one
// while another is paused. The file systems are real ones, cut off.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	needsWorld(t)
	c := &chaos{rnd: seeded(t), tally: newTally(), power: map[string]*powerDisk{}}
	c.cluster = newCluster(t, t.TempDir(), 3, 1)
	for _, id := range c.ids {
		c.power[id] = newPowerDisk(t, c.dataDir(id), 512)
	}
	c.run()
	c.l = startLoad(t, c.cluster, "Chaos")
	for range times(1, 10) {
		c.losePower(c.ids...)
		c.losePowerWhilePaused()
	}
	c.end()
}

// Row 18: the leader's disk is full, and another one leads; all disks are, and
// reads go on. Writes resume by themselves when there is room again.
func TestFullDisks(t *testing.T) {
	t.Parallel()
	needsWorld(t)
	c := &chaos{rnd: seeded(t), tally: newTally()}
	c.cluster = newCluster(t, t.TempDir(), 3, 1)
	for _, id := range c.ids {
		smallDisk(t, c.dataDir(id), "256m")
	}
	c.run()
	c.l = startLoad(t, c.cluster, "Chaos")
	for range times(1, 5) {
		leader, _ := c.leader("broker-a")
		c.fillDisks(leader)
		c.fillDisks(c.ids...)
	}
	c.end()
}
