package main

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// errDisk is what a disk says that fails.
const errDisk = syscall.EIO

// diskMoves is how soon a leader that its disk holds up has to be another one.
const diskMoves = 10 * time.Second

// anotherLeads waits until others lead, without asking the node.
func (c *chaos) anotherLeads(than string, term uint64) {
	c.t.Helper()
	c.leave(than)
	begun := time.Now()
	if now, newTerm := c.leader("broker-a"); now == than || newTerm <= term {
		c.t.Fatalf("%s led in term %d, and %s leads in term %d", than, term, now, newTerm)
	}
	if took := time.Since(begun); took > diskMoves {
		c.t.Errorf("leadership left %s in %v", than, took)
	}
}

// hangDisk makes everything on the leader's disk hang: within diskMoves another
// one leads, and the fenced one says why it does not, while its disk still hangs.
// When the disk answers it is let in again.
func (c *chaos) hangDisk(d time.Duration) {
	c.t.Helper()
	c.begin("hung disk of the leader")
	leader, term := c.leader("broker-a")
	r := c.disks[leader].add(&diskRule{hang: make(chan struct{})})
	c.struck()
	end := time.After(d)
	c.hit(r)
	c.anotherLeads(leader, term)
	c.l.floor(floorAcks, "without the leader whose disk hangs")
	s, err := c.status("broker-a", leader)
	if err != nil || s.Fenced == "" || s.Leader == s.ServerID {
		c.t.Errorf("%s, whose disk hangs, says %+v, %v", leader, s, err)
	}
	<-end // how long the disk hangs
	c.heal()
	eventually(c.t, leader+" is let in again", func() error {
		s, err := c.status("broker-a", leader)
		if err == nil && (s.Fenced != "" || s.Failure != "") {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
}

// hit waits until a rule has applied to something.
func (c *chaos) hit(r *diskRule) {
	c.t.Helper()
	eventually(c.t, "a fault of a disk", func() error {
		if r.hits.Load() == 0 {
			return errors.New("nothing was done to the disk")
		}
		return nil
	})
}

// slowDisk makes each sync of a disk take 200 ms: the leader's, or a follower's,
// who holds nobody up.
func (c *chaos) slowDisk(leads bool) {
	c.t.Helper()
	leader, _ := c.leader("broker-a")
	id, kind := leader, "slow disk of the leader"
	if !leads {
		id, kind = c.pick(c.others(leader)), "slow disk of a follower"
	}
	c.begin(kind)
	r := c.disks[id].add(&diskRule{ops: []diskOp{diskSync}, slow: 200 * time.Millisecond})
	c.struck()
	c.hit(r)
	c.l.floor(floorAcks, "with a "+kind)
	if !leads {
		c.committedWithout(id)
	}
	c.heal()
}

// committedWithout waits until the leader of a group has committed what a follower
// does not hold yet: had it waited for that one, there would be no such moment.
func (c *chaos) committedWithout(follower string) {
	c.t.Helper()
	eventually(c.t, "an entry that was committed without "+follower, func() error {
		leader, _, err := c.leads("broker-a")
		if err != nil || leader == follower {
			return err
		}
		l, err := c.status("broker-a", leader)
		if err != nil {
			return err
		}
		f, err := c.status("broker-a", follower)
		if err == nil && f.LastIndex >= l.CommitIndex {
			err = fmt.Errorf("it holds %d of %d", f.LastIndex, l.CommitIndex)
		}
		return err
	})
}

// failDisk makes an operation of the leader's disk fail from now on: the replica
// stops for good, the others go on.
func (c *chaos) failDisk(op diskOp, err syscall.Errno) {
	c.t.Helper()
	c.begin(fmt.Sprintf("%s of the leader's disk fails", op))
	leader, term := c.leader("broker-a")
	r := c.disks[leader].add(&diskRule{ops: []diskOp{op}, err: err})
	c.struck()
	c.hit(r)
	c.anotherLeads(leader, term)
	eventually(c.t, "the replica says why it has stopped", func() error {
		s, err := c.status("broker-a", leader)
		if err == nil && s.Failure == "" {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	c.l.floor(floorAcks, "without the leader whose disk failed")
	c.kill(leader)
	c.heal()
}

// losePower cuts the power of nodes at once: what was not synced is lost.
func (c *chaos) losePower(ids ...string) {
	c.t.Helper()
	c.begin(fmt.Sprintf("power loss of %d of %d", len(ids), len(c.ids)))
	c.cutPower(ids...)
	c.heal()
}

func (c *chaos) cutPower(ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		c.power[id].cut()
	}
	c.struck()
	c.signal(syscall.SIGKILL, ids...) // they may have ended: their disks are gone
	for _, id := range ids {
		if d := c.disks[id]; d != nil { // above the one without power
			d.unmount()
		}
		c.power[id].restore()
		if d := c.disks[id]; d != nil {
			if err := d.mount(); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// losePowerWhilePaused cuts the power of a node while another one, which may have
// acked less, is paused.
func (c *chaos) losePowerWhilePaused() {
	c.t.Helper()
	c.begin("power loss while another is paused")
	leader, _ := c.leader("broker-a")
	paused := c.pick(c.others(leader))
	c.pause(paused)
	c.l.floor(floorAcks, "with one node paused")
	victim := c.pick(c.others(paused))
	c.cutPower(victim)
	c.start(victim)
	c.heal()
}

// fillDisks fills disks, and empties them again. Reads go on; with one full disk
// writes do, too, by a leader that has room.
func (c *chaos) fillDisks(ids ...string) {
	c.t.Helper()
	c.begin(fmt.Sprintf("%d of %d disks full", len(ids), len(c.ids)))
	var free []func()
	for _, id := range ids {
		free = append(free, c.fill(id))
	}
	c.struck()
	if len(ids) < len(c.ids) {
		eventually(c.t, "a leader that has room", func() error {
			leader, _, err := c.leads("broker-a")
			if err == nil && slices.Contains(ids, leader) {
				err = fmt.Errorf("%s leads, whose disk is full", leader)
			}
			return err
		})
		c.l.floor(floorAcks, "with one full disk")
	} else {
		c.noAcks("all disks are full")
	}
	for _, id := range ids {
		if _, err := drain(c.brokers["broker-a"][id], "broker-a", c.l.topic, loadQueues); err != nil {
			c.t.Errorf("reading from %s, whose disk is full: %v", id, err)
		}
	}
	if up := c.up(); len(up) != len(c.ids) {
		c.t.Errorf("only %v are up", up)
	}
	for _, f := range free {
		f()
	}
	c.heal()
}

// fill fills a node's disk.
func (c *chaos) fill(id string) (free func()) {
	c.t.Helper()
	if d := c.disks[id]; d != nil {
		d.fill(true)
		return func() { d.fill(false) }
	}
	return ballast(c.t, c.dataDir(id))
}
