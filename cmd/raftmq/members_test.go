package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
)

// withSpares starts the first nodes of a cluster, whose configuration names only
// those; args of the others name themselves, too, in files of their own.
func withSpares(t *testing.T, began, all int) (c *cluster, env []string) {
	t.Helper()
	c = newCluster(t, t.TempDir(), all, 1)
	c.set = []string{"promoteAfter=2s"}
	c.spares = map[string]string{}
	ids := c.ids
	for _, id := range ids[began:] {
		c.ids = append(slices.Clone(ids[:began]), id)
		c.spares[id] = c.config + "." + id
		if err := os.WriteFile(c.spares[id], []byte(c.yaml()), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	c.ids = ids[:began]
	c.write(c.yaml())
	env = []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}
	t.Cleanup(func() { c.ids = ids })
	c.run()
	return c, env
}

// waitMembers waits until the group has these members, all with a vote, and says
// that it is well.
func (c *cluster) waitMembers(env []string, want ...string) {
	c.t.Helper()
	eventually(c.t, "the members "+strings.Join(want, " "), func() error {
		leader, _, err := c.leads("broker-a")
		if err != nil {
			return err
		}
		s, err := c.status("broker-a", leader)
		if err != nil {
			return err
		}
		var got []string
		for _, m := range s.Members {
			name := nodeOf(m.ServerID)
			if !m.Voter {
				name = "!" + name
			}
			got = append(got, name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("the members are %v", got)
		}
		return nil
	})
	eventually(c.t, "that all is well", func() error {
		r := raftmqIn(c.t, env, nil, "raft", "health", "--group", "broker-a")
		if r.code != 0 {
			return errors.New(r.out + r.err)
		}
		return nil
	})
}

// Row 25: three nodes become five, and three others again, by command and under
// load, and no send fails. Who was removed says so, and is forgotten by the name
// servers.
func TestGrowAndShrink(t *testing.T) {
	t.Parallel()
	c, env := withSpares(t, 3, 5)
	s := startSenders(t, c, "Grow", 4)
	run := func(args string) result {
		return raftmqIn(t, env, nil, strings.Fields(args)...)
	}
	for _, id := range []string{"n4", "n5"} {
		s.more("sends before " + id + " joins")
		c.start(id)
		c.ids = append(slices.Clone(c.ids), id)
		eventually(t, id+" has joined", func() error {
			if r := run("raft add-peer --group broker-a --node " + id + " --address " + c.peer[id]); r.code != 0 {
				return errors.New(r.err)
			}
			return nil
		})
	}
	c.waitMembers(env, "n1", "n2", "n3", "n4", "n5")
	s.more("sends to five")
	leader, _ := c.leader("broker-a")
	follower := c.others(leader)[0]
	for _, id := range []string{follower, leader} {
		run("raft remove-peer --group broker-a --node "+id).want(t, 0, id)
		c.ids = c.others(id)
		s.more("sends after " + id + " was removed")
		eventually(t, id+" says that it was removed", func() error {
			st, err := c.status("broker-a", id)
			if err == nil && st.Removed == "" {
				err = errors.New("it does not say so")
			}
			return err
		})
		eventually(t, "that the name servers forget "+id, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			addrs, err := s.client.Admin().Replicas(ctx, "broker-a")
			if err == nil && slices.Contains(addrs, c.brokers["broker-a"][id]) {
				err = fmt.Errorf("they know %v", addrs)
			}
			return err
		})
	}
	c.waitMembers(env, c.ids...)
	// What would cost the quorum is refused, with the numbers.
	run("raft remove-peer --group broker-a --node n9").want(t, exitFailed, "no member")
	s.more("sends to three")
	s.end()
	c.signal(15, follower, leader)
}

// Rows 23 and 25: a node that lost its disk comes back by itself: with a vote, and
// in the place of its old self; its clients' sends do not fail.
func TestWipedNodeComesBack(t *testing.T) {
	t.Parallel()
	c, env := withSpares(t, 3, 3)
	s := startSenders(t, c, "Wiped", 4)
	s.more("sends before")
	leader, _ := c.leader("broker-a")
	id := c.others(leader)[0]
	old, err := c.status("broker-a", id)
	if err != nil {
		t.Fatal(err)
	}
	c.kill(id)
	if r := raftmqIn(t, env, nil, "raft", "health"); r.code != exitFailed || !strings.Contains(r.out, "unreachable") {
		t.Errorf("health with a node that is down: %+v", r)
	}
	raftmqIn(t, env, nil, "raft", "remove-peer", "--group", "broker-a", "--node", c.others(id)[0]).
		want(t, exitFailed, "leaves 2 voters, of which 2 are needed and 1 answer", "--force")
	if err := os.RemoveAll(c.dataDir(id)); err != nil {
		t.Fatal(err)
	}
	c.start(id)
	eventually(t, "that it has its place again", func() error {
		st, err := c.status("broker-a", id)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(st.Members, func(m client.RaftMember) bool { return m.ServerID == st.ServerID })
		if st.ServerID == old.ServerID || i < 0 || !st.Members[i].Voter || len(st.Members) != 3 {
			return fmt.Errorf("%s of %v", st.ServerID, st.Members)
		}
		return nil
	})
	c.waitMembers(env, "n1", "n2", "n3")
	s.more("sends after")
	s.end()
	c.settled()
}
