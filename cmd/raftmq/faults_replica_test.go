package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/raftmq/raftmq/client"
)

// replaceMember removes a follower from its group and takes it in again, as a new
// replica.
func (c *chaos) replaceMember() {
	c.t.Helper()
	c.begin("member removed and added")
	env := []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}
	leader, _ := c.leader("broker-a")
	id := c.pick(c.others(leader))
	raftmqIn(c.t, env, nil, "raft", "remove-peer", "--group", "broker-a", "--node", id).want(c.t, 0, id)
	c.struck()
	c.leave(id)
	eventually(c.t, id+" says that it was removed", func() error {
		s, err := c.status("broker-a", id)
		if err == nil && s.Removed == "" {
			err = errors.New("it does not say so")
		}
		return err
	})
	c.l.floor(floorAcks, "with a member less")
	c.kill(id)
	if err := os.RemoveAll(filepath.Join(c.dataDir(id), "broker-a")); err != nil {
		c.t.Fatal(err)
	}
	c.start(id)
	eventually(c.t, id+" is a member again", func() error {
		leader, _, err := c.leads("broker-a")
		if err != nil {
			return err
		}
		s, err := c.status("broker-a", leader)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(s.Members, func(m client.RaftMember) bool { return nodeOf(m.ServerID) == id })
		if i < 0 {
			r := raftmqIn(c.t, env, nil, "raft", "add-peer", "--group", "broker-a", "--node", id, "--address", c.peer[id])
			return errors.New(r.out + r.err)
		}
		if !s.Members[i].Voter {
			return errors.New("it does not vote yet")
		}
		return nil
	})
	c.reach(id)
	c.heal()
}

// flip flips a bit in a node's CommitLog, while it runs or between two lives of
// it. It is mended: from another replica, or from the raft log at the start.
func (c *chaos) flip(id string, running bool) {
	c.t.Helper()
	c.begin(map[bool]string{true: "flipped bit, running", false: "flipped bit, stopped"}[running])
	s, err := c.status("broker-a", id)
	if err != nil {
		c.t.Fatal(err)
	}
	if !running {
		c.kill(id)
	}
	at := s.CommitLogMin + c.rnd.Int64N(s.CommitLogEnd-s.CommitLogMin)
	name, off := c.segmentAt(id, at)
	was, err := byteAt(name, off)
	if err != nil {
		c.t.Fatal(err)
	}
	flipBit(c.t, name, off)
	c.struck()
	if !running {
		c.start(id)
		c.healthy()
	}
	raftmqIn(c.t, []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}, nil, "raft", "scrub", "--group", "broker-a", "--rate", "100000000").want(c.t, 0, id)
	eventually(c.t, fmt.Sprintf("the bit at %d of %s is mended", off, name), func() error {
		if is, err := byteAt(name, off); err != nil || is != was {
			return fmt.Errorf("it is %x, was %x, %v", is, was, err)
		}
		s, err := c.status("broker-a", id)
		if err == nil && !s.Complete {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	c.heal()
}

func byteAt(name string, off int64) (byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	return b[0], errors.Join(err, f.Close())
}

// segmentAt is the file of a node's CommitLog that has a physical offset, and
// where in it.
func (c *chaos) segmentAt(id string, at int64) (name string, off int64) {
	c.t.Helper()
	names, err := filepath.Glob(filepath.Join(c.dataDir(id), "broker-a", "store", "commitlog", strings.Repeat("[0-9]", 20)))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, n := range names { // sorted
		var base int64
		if _, err := fmt.Sscanf(filepath.Base(n), "%d", &base); err != nil {
			c.t.Fatal(err)
		}
		if base <= at {
			name, off = n, at-base
		}
	}
	if name == "" {
		c.t.Fatalf("no segment of %s has %d: %q", id, at, names)
	}
	return name, off
}
