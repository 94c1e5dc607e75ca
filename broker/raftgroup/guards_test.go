package raftgroup

import (
	"bytes"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// Each test here runs twice: without one guard, to see the bad thing happen,
// and with it, to see that it does not.

func bothWays(t *testing.T, off guards, test func(t *testing.T, g guards, guarded bool)) {
	t.Run("without", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, off, false) }) })
	t.Run("with", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, guards{}, true) }) })
}

// put is an entry that creates a topic: it shows in the state.
func put(name string) *raft.Log {
	return &raft.Log{Type: raft.LogCommand, Data: fsm.PutTopic(remoting.NewTopicConfig(name), true)}
}

func (n *testNode) hasTopic(name string) bool {
	_, ok := n.group().State().Topic(name)
	return ok
}

// An empty AppendEntries with a newer commit index: the follower's tail is an
// old leader's, and it must not be taken for the new one's.
func TestGuardCommitClamp(t *testing.T) {
	bothWays(t, guards{noClamp: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, p3, conf := alone(t, func(c *Config) { c.guard = g; c.Election = time.Hour })
		defer c.stop()
		p2.append(t, n, 1, 0, 0, 2, conf, put("before"))
		p2.append(t, n, 1, 2, 1, 2, put("old"), put("older"))
		// p3 leads now, has other entries 3 and 4, and has committed them with
		// somebody else. This request proves only entries 1 and 2.
		p3.append(t, n, 2, 2, 1, 4)
		if n.applied(3); n.hasTopic("old") == guarded {
			t.Fatalf("a conflicting entry was applied: %v", n.hasTopic("old"))
		}
		if !guarded {
			return
		}
		p3.append(t, n, 2, 2, 1, 4, put("new"), put("newer"))
		if !n.applied(4) || !n.hasTopic("newer") || n.hasTopic("old") {
			t.Fatal("the new leader's entries are not what was applied")
		}
	})
}

// A snapshot that the follower is not behind, sent again after an answer was
// lost, must not empty its log, nor take its state back.
func TestGuardHeldSnapshot(t *testing.T) {
	bothWays(t, guards{noHeldSnapshot: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, _, conf := alone(t, func(c *Config) { c.guard = g; c.Election = time.Hour })
		defer c.stop()
		p2.append(t, n, 1, 0, 0, 2, conf, put("a"))
		n.applied(2)
		snap := snapshotOf(t, n)
		p2.append(t, n, 1, 2, 1, 5, put("b"), put("c"), put("d"))
		n.applied(5)
		resp := p2.install(t, n, 1, 2, 1, conf, snap)
		last, err := n.group().log.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		if !guarded {
			if last != 0 || n.hasTopic("d") {
				t.Fatalf("expected the log to be emptied and the state to go back: last index %d", last)
			}
			return
		}
		if !resp.Success || last != 5 || !n.hasTopic("d") {
			t.Fatalf("answered %v, last index %d, topic d %v", resp.Success, last, n.hasTopic("d"))
		}
		// From another term it is refused until raft knows that term.
		if resp := p2.install(t, n, 2, 2, 1, conf, snap); resp.Success {
			t.Fatal("answered in a term that raft has not seen")
		}
	})
}

// A snapshot's index is where a log may begin. What follows it must be taken,
// and replaced, though its entry is in the snapshot only.
func TestGuardEntryOfTheSnapshot(t *testing.T) {
	bothWays(t, guards{noSnapshotEntry: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, p3, conf := alone(t, func(c *Config) { c.guard = g; c.Election = time.Hour })
		defer c.stop()
		other := snapshotFrom(t, "a", "b")
		if resp := p2.install(t, n, 1, 3, 1, conf, other); !resp.Success {
			t.Fatal("the snapshot was not installed")
		}
		if !p2.append(t, n, 1, 3, 1, 3, put("old")).Success {
			t.Fatal("the entry behind the snapshot was refused")
		}
		// Another leader has another entry there, and no older log to go back to.
		ok := p3.append(t, n, 2, 3, 1, 4, put("new")).Success
		if ok != guarded {
			t.Fatalf("what follows the snapshot was taken: %v", ok)
		}
		if guarded && (!n.applied(4) || !n.hasTopic("new") || n.hasTopic("old")) {
			t.Fatal("not applied")
		}
	})
}

// blockingStable is a plain stable store that stops once, just before it writes
// a term.
type blockingStable struct {
	*memStable
	block   atomic.Bool
	entered chan uint64
	proceed chan struct{}
	mu      sync.Mutex
	terms   []uint64 // written, in order
}

func (s *blockingStable) SetUint64(key []byte, val uint64) error {
	if string(key) != keyCurrentTerm {
		return s.memStable.SetUint64(key, val)
	}
	if s.block.CompareAndSwap(true, false) {
		s.entered <- val
		<-s.proceed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.terms = append(s.terms, val)
	return s.memStable.SetUint64(key, val)
}

// A heartbeat that arrives while the main loop stands for election: handled
// beside it, it writes the old term after the main loop has written, and voted
// in, the new one (issue 695).
func TestGuardHeartbeatGate(t *testing.T) {
	bothWays(t, guards{noGate: true}, func(t *testing.T, g guards, guarded bool) {
		c := newTestCluster(t, 3, nil)
		defer c.stop()
		p2, p3 := newFakePeer(c, "n2"), newFakePeer(c, "n3")
		stands, vote := make(chan struct{}, 1), make(chan struct{})
		p2.answers(func(rpc raft.RPC) {
			if _, ok := rpc.Command.(*raft.RequestPreVoteRequest); ok {
				select {
				case stands <- struct{}{}:
				default:
				}
				<-vote
			}
			agree(rpc)
		})
		stable := &blockingStable{memStable: newMemStable(), entered: make(chan uint64), proceed: make(chan struct{})}
		r := newRawRaft(t, c, raft.NewInmemStore(), stable, 300*time.Millisecond, g)
		defer r.end()
		conf := peersOf(raft.Server{ID: r.id, Address: r.addr}, raft.Server{ID: p2.id, Address: p2.addr}, raft.Server{ID: p3.id, Address: p3.addr})
		p3.append(t, r, 5, 0, 0, 1, conf)

		// p3 falls silent; r asks whether it may stand in term 6.
		<-stands
		synctest.Wait() // its main loop waits for the answer
		// Then p3's heartbeat comes, late, and is about to write its term, 5.
		stable.block.Store(true)
		answered := make(chan error, 1)
		go func() {
			var resp raft.AppendEntriesResponse
			answered <- p3.trans.AppendEntries(r.id, r.addr, &raft.AppendEntriesRequest{RPCHeader: p3.header(), Term: 5}, &resp)
		}()
		if term := <-stable.entered; term != 5 {
			t.Fatalf("term %d is written", term)
		}
		// The answer to the question comes: it may.
		close(vote)
		synctest.Wait()
		close(stable.proceed)
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		stable.mu.Lock()
		defer stable.mu.Unlock()
		if forward := slices.IsSorted(stable.terms); forward != guarded {
			t.Fatalf("terms written: %v", stable.terms)
		}
	})
}

// raft writes a vote in two halves. After a crash between them a plain store
// pairs the new term with the old candidate, who then gets the vote whatever
// his log (row 43).
func TestGuardAtomicVote(t *testing.T) {
	bothWays(t, guards{}, func(t *testing.T, g guards, guarded bool) {
		c := newTestCluster(t, 3, nil)
		defer c.stop()
		p2, p3 := newFakePeer(c, "n2"), newFakePeer(c, "n3")
		disk, log := newMemStable(), raft.NewInmemStore()
		open := func(create bool) raft.StableStore {
			if !guarded {
				return disk
			}
			s, err := raftlog.NewStable(disk, create)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		r := newRawRaft(t, c, log, open(true), time.Hour, g)
		conf := peersOf(raft.Server{ID: r.id, Address: r.addr}, raft.Server{ID: p2.id, Address: p2.addr}, raft.Server{ID: p3.id, Address: p3.addr})
		p3.append(t, r, 1, 0, 0, 1, conf, &raft.Log{Data: []byte("acknowledged")})
		if !p3.vote(t, r, 2, 2, 1) {
			t.Fatal("p3, whose log is as long, did not get the vote of term 2")
		}
		// In term 3 p2 is to get it; the process dies when that is half written.
		half := disk.clone()
		disk.setHook(func(key string) error {
			switch key {
			case "LastVoteTerm", "LastVote":
				half = disk.clone()
				if key == "LastVoteTerm" {
					half.SetUint64([]byte(key), 3)
				}
			}
			return nil
		})
		if !p2.vote(t, r, 3, 2, 1) {
			t.Fatal("p2, whose log is as long, did not get the vote of term 3")
		}
		r.end()
		p3.trans.CloseStreams()

		// Back again, p3 asks, who has lost everything.
		disk = half
		r = newRawRaft(t, c, log, open(false), time.Hour, g)
		defer r.end()
		if granted := p3.vote(t, r, 3, 0, 0); granted == guarded {
			t.Fatalf("a candidate with an empty log got the vote: %v", granted)
		}
	})
}

// snapshotOf is a snapshot of a node's state as it is.
func snapshotOf(t *testing.T, n *testNode) []byte {
	t.Helper()
	synctest.Wait()
	s, err := n.group().state.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := s.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// snapshotFrom is a snapshot of a state with these topics, from entry 2 on.
func snapshotFrom(t *testing.T, topics ...string) []byte {
	t.Helper()
	other, n, p2, _, conf := alone(t, func(c *Config) { c.Election = time.Hour })
	defer other.stop()
	entries := []*raft.Log{conf}
	for _, name := range topics {
		entries = append(entries, put(name))
	}
	p2.append(t, n, 1, 0, 0, uint64(len(entries)), entries...)
	n.applied(uint64(len(entries)))
	return snapshotOf(t, n)
}

// install sends a snapshot to a node.
func (p *fakePeer) install(t *testing.T, to target, term, last, lastTerm uint64, conf *raft.Log, snap []byte) *raft.InstallSnapshotResponse {
	t.Helper()
	resp, err := p.tryInstall(to, term, last, lastTerm, conf, snap)
	if err != nil && resp.Success {
		t.Fatal(err)
	}
	return resp
}

func (p *fakePeer) tryInstall(to target, term, last, lastTerm uint64, conf *raft.Log, snap []byte) (*raft.InstallSnapshotResponse, error) {
	resp := new(raft.InstallSnapshotResponse)
	return resp, p.trans.InstallSnapshot(to.serverID(), to.peerAddress(), &raft.InstallSnapshotRequest{
		RPCHeader: p.header(), SnapshotVersion: 1, Term: term,
		LastLogIndex: last, LastLogTerm: lastTerm, Configuration: conf.Data, ConfigurationIndex: 1, Size: int64(len(snap)),
	}, resp, io.Reader(bytes.NewReader(snap)))
}
