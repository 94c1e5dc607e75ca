package raftgroup

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// lastIndex is the last entry in a node's log.
func (n *testNode) lastIndex() uint64 {
	n.c.t.Helper()
	last, err := n.group().log.LastIndex()
	if err != nil {
		n.c.t.Fatal(err)
	}
	return last
}

// An older copy of the stable store, put back: the replica has forgotten a vote
// it gave, and gives another one in the same term (row 43).
func TestGuardTermBehindTheLog(t *testing.T) {
	bothWays(t, guards{noTermCheck: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, p3, conf := alone(t, func(c *Config) { c.guard = g; c.Election = time.Hour })
		defer c.stop()
		p2.append(t, n, 1, 0, 0, 1, conf)
		old := n.stable.clone()
		if !p3.vote(t, n, 2, 1, 1) {
			t.Fatal("p3 did not get the vote of term 2")
		}
		p3.append(t, n, 2, 1, 1, 2, put("a"))
		n.kill()
		n.left.stable = old
		err := n.tryStart()
		if guarded {
			if !errors.Is(err, raftlog.ErrStaleTerm) {
				t.Fatalf("it opened: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		p2.trans.CloseStreams()
		if !p2.vote(t, n, 2, 2, 2) {
			t.Fatal("expected a second vote in term 2")
		}
	})
}

// A crash between the installation of a snapshot and the removal of the log
// before it: the log ends at 2, the snapshot at 4, and entry 5 would leave a gap
// for ever (fault 44).
func TestGuardSnapshotNewerThanLog(t *testing.T) {
	bothWays(t, guards{noReconcile: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, _, conf := alone(t, func(c *Config) { c.guard = g; c.Election = time.Hour })
		defer c.stop()
		p2.append(t, n, 1, 0, 0, 2, conf, put("a"))
		n.applied(2)
		snap := snapshotFrom(t, "a", "b", "c")
		happened := n.crashAt(1, func(op disk.Op) bool { return op.Label == raftlog.LabelHeader }, n.fs.Clone)
		if resp, err := p2.tryInstall(n, 1, 4, 1, conf, snap); err == nil && resp.Success {
			t.Fatal("it answered after it was killed")
		}
		<-happened
		n.stop()
		n.start()
		p2.trans.CloseStreams()
		if got := n.group().lastSnapshot(); got != 4 {
			t.Fatalf("the newest snapshot is of %d", got)
		}
		ok := p2.append(t, n, 1, 4, 1, 5, put("d")).Success
		if ok != guarded {
			t.Fatalf("the entry behind the snapshot was taken: %v", ok)
		}
		if guarded && (!n.applied(5) || !n.hasTopic("c") || !n.hasTopic("d")) {
			t.Fatal("it did not go on")
		}
	})
}

// A leader that has gone back further than this replica's log goes, as it does
// while it is refused for want of room: what the snapshot has is not asked for
// again.
func TestGuardForgottenEntries(t *testing.T) {
	bothWays(t, guards{noForgotten: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, _, conf := alone(t, func(c *Config) { c.guard = g; c.Election, c.TrailingBytes = time.Hour, 1 })
		defer c.stop()
		p2.append(t, n, 1, 0, 0, 4, conf, put("a"), put("b"), put("c"))
		n.applied(4)
		if err := n.group().Snapshot(); err != nil {
			t.Fatal(err)
		}
		p2.append(t, n, 1, 4, 1, 4, put("d"))
		ok := p2.append(t, n, 1, 1, 1, 5, put("a"), put("b"), put("c"), put("d"), put("e")).Success
		if ok != guarded {
			t.Fatalf("entries from before the snapshot on were taken: %v", ok)
		}
		if !guarded {
			return
		}
		// Also where it has nothing behind it, and where it begins with the first entry.
		if !p2.append(t, n, 1, 1, 1, 5, put("a")).Success || !p2.append(t, n, 1, 0, 0, 5, conf).Success {
			t.Fatal("what the snapshot has was refused")
		}
		p2.append(t, n, 1, 6, 1, 6)
		if !n.applied(6) || !n.hasTopic("d") || !n.hasTopic("e") || n.lastIndex() != 6 {
			t.Fatalf("it has not gone on: last index %d", n.lastIndex())
		}
	})
}

// Installing a snapshot that an uncommitted tail passes empties the log, while
// raft goes on believing in the tail: it refuses all that follows (issue 697).
func TestGuardSupervisor(t *testing.T) {
	bothWays(t, guards{noSupervisor: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, p3, conf := alone(t, func(c *Config) { c.guard = g; c.Election = time.Hour })
		defer c.stop()
		p2.append(t, n, 1, 0, 0, 2, conf, put("a"))
		n.applied(2)
		// p2 stored a long tail here that nobody else has.
		p2.append(t, n, 1, 2, 1, 2, put("x3"), put("x4"), put("x5"), put("x6"))
		// p3 leads term 2, and its snapshot of another entry 4 is all it has.
		snap := snapshotFrom(t, "a", "b", "c")
		if resp := p3.install(t, n, 2, 4, 2, conf, snap); !resp.Success {
			t.Fatal("the snapshot was not installed")
		}
		p3.append(t, n, 2, 4, 2, 4)
		ok := c.poll(10*time.Second, func() bool {
			p3.trans.CloseStreams() // the replica may have begun anew
			resp, err := p3.tryAppend(n, 2, 4, 2, 5, put("d"))
			return err == nil && resp.Success
		})
		if ok != guarded {
			t.Fatalf("what follows the snapshot was taken: %v, last index %d", ok, n.group().raft().LastIndex())
		}
		if guarded && (!n.applied(5) || !n.hasTopic("d") || n.hasTopic("x3")) {
			t.Fatal("it did not go on")
		}
	})
}

// After a failed sync a later one reports success and has written nothing: an
// entry acknowledged on its word is lost with the power.
func TestGuardPoison(t *testing.T) {
	bothWays(t, guards{}, func(t *testing.T, _ guards, guarded bool) {
		c, n, p2, _, conf := alone(t, func(c *Config) { c.Election = time.Hour })
		defer c.stop()
		p2.append(t, n, 1, 0, 0, 2, conf, put("a"))
		n.applied(2)
		var tries atomic.Int32
		n.fs.SetHook(func(op disk.Op) error {
			switch {
			case op.Label != raftlog.LabelAppend || op.Kind != disk.OpSync:
				return nil
			case !guarded || tries.Add(1) > 1:
				return disk.ErrPretend // what is tried again after the failure
			}
			return errInjected
		})
		acked := false
		for range 3 {
			resp, err := p2.tryAppend(n, 1, 2, 1, 2, put("b"))
			acked = acked || err == nil && resp.Success
			p2.trans.CloseStreams()
		}
		n.powerLoss(1) // of the unsynced, this one loses all
		n.start()
		lost := n.lastIndex() < 3
		if guarded && acked {
			t.Fatal("an entry was acknowledged after a sync had failed")
		}
		if !guarded && !(acked && lost) {
			t.Fatalf("expected an acknowledged entry to be lost: acknowledged %v, lost %v", acked, lost)
		}
	})
}

// E1: after a failed sync nothing more is acknowledged, though the disk works
// again, and the replica does not stand; started again, it goes on.
func TestFLUSH05PoisonOnStoreError(t *testing.T) {
	steps := map[string]func(disk.Op) bool{
		"write": func(op disk.Op) bool { return op.Label == raftlog.LabelAppend && op.Kind == disk.OpWrite },
		"sync":  func(op disk.Op) bool { return op.Label == raftlog.LabelAppend && op.Kind == disk.OpSync },
	}
	for name, match := range steps {
		t.Run("follower "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failed := make(chan error, 1)
				c, n, p2, p3, conf := alone(t, func(c *Config) { c.Events.Failed = func(err error) { failed <- err } })
				defer c.stop()
				p2.append(t, n, 1, 0, 0, 2, conf, put("a"))
				stood := make(chan struct{}, 100)
				for _, p := range []*fakePeer{p2, p3} {
					p.answers(func(rpc raft.RPC) { stood <- struct{}{}; agree(rpc) })
				}
				n.fs.SetHook((&onceHook{left: 1, match: match, done: func() {}}).see)
				resp, err := p2.tryAppend(n, 1, 2, 1, 2, put("b"))
				if err == nil && resp.Success {
					t.Fatal("an entry was acknowledged whose write or sync had failed")
				}
				if err := <-failed; !errors.Is(err, raftlog.ErrPoisoned) && !errors.Is(err, errInjected) {
					t.Fatalf("failed with %v", err)
				}
				// The disk works again; the same entry comes again.
				p2.trans.CloseStreams()
				if resp, err := p2.tryAppend(n, 1, 2, 1, 2, put("b")); err == nil && resp.Success {
					t.Fatal("acknowledged after a failure")
				}
				time.Sleep(10 * time.Second)
				if len(stood) > 0 {
					t.Fatal("it stood for election after a failure")
				}
				n.stop()
				n.start()
				p2.trans.CloseStreams()
				if !p2.append(t, n, 1, 2, 1, 3, put("b")).Success || !n.applied(3) || !n.hasTopic("b") {
					t.Fatal("started again, it did not go on")
				}
			})
		})
	}
	steps["apply"] = func(op disk.Op) bool { return op.Label == storage.LabelCommitLog && op.Kind == disk.OpWrite }
	for name, match := range steps {
		t.Run("leader "+name, func(t *testing.T) {
			inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
				c.createTopic("T", 1)
				c.deliver("T", 0, "before")
				n := c.leader()
				n.fs.SetHook((&onceHook{left: 1, match: match, done: func() {}}).see)
				_, err := n.send("T", 0, "during", "U")
				if !errors.Is(err, ErrUnknown) {
					t.Fatalf("the send ended with %v, not as unknown", err)
				}
				c.wait("the replica says that it has failed", func() bool { return n.group().Err() != nil })
				if _, err := n.send("T", 0, "after", "V"); !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrClosed) {
					t.Fatalf("a send afterwards ended with %v", err)
				}
				c.wait("another leader", func() bool { l := c.leading(); return l != nil && l != n })
				c.deliver("T", 0, "during") // under another key: not a repeat
				c.heal()
				c.checkEqual()
				got := n.bodies("T", 0)
				if len(got) < 2 || got[0] != "before" || got[len(got)-1] != "during" {
					t.Fatalf("it has %v", got)
				}
			})
		})
	}
}

// E1 for the stable store: what it could not keep is neither voted nor promised.
func TestPoisonOnStableStoreError(t *testing.T) {
	for _, key := range []string{"CurrentTerm", "LastVote"} {
		t.Run(key, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failed := make(chan error, 1)
				c, n, p2, p3, conf := alone(t, func(c *Config) {
					c.Election = time.Hour
					c.Events.Failed = func(err error) { failed <- err }
				})
				defer c.stop()
				p2.append(t, n, 1, 0, 0, 1, conf)
				n.stable.setHook(func(k string) error {
					if k == key {
						return errInjected
					}
					return nil
				})
				if granted, err := p3.tryVote(n, 2, 1, 1); granted && err == nil {
					t.Fatal("a vote was given that was not stored")
				}
				if err := <-failed; !errors.Is(err, errInjected) {
					t.Fatalf("failed with %v", err)
				}
				n.stable.setHook(nil)
				p3.trans.CloseStreams()
				if granted, err := p3.tryVote(n, 2, 1, 1); granted && err == nil {
					t.Fatal("it votes after a failure")
				}
				n.stop()
				n.start()
				p3.trans.CloseStreams()
				if !p3.vote(t, n, 2, 1, 1) {
					t.Fatal("started again, it does not vote")
				}
			})
		})
	}
}
