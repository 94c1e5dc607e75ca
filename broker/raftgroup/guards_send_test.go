package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// raft's reader of a pipeline's answers stops at the first that failed, and its
// sender is stuck for ever in front of what nobody reads (issues 612, 666). The
// test plays raft.
func TestGuardPipelineDrain(t *testing.T) {
	bothWays(t, guards{noDrain: true}, func(t *testing.T, g guards, guarded bool) {
		c := newTestCluster(t, 3, nil)
		defer c.stop()
		p1, p2 := newFakePeer(c, "n1"), newFakePeer(c, "n2")
		var answered atomic.Int32
		p2.answers(func(rpc raft.RPC) {
			if answered.Add(1) == 1 {
				rpc.Respond(&raft.AppendEntriesResponse{Term: 1}, nil)
				return
			}
			agree(rpc)
		})
		trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: p1.layer, MaxPool: 1, MaxRPCsInFlight: 2, Timeout: rpcTimeout, Logger: c.logger,
		})
		defer trans.Close()
		inner, err := trans.AppendEntriesPipeline(p2.id, p2.addr)
		if err != nil {
			t.Fatal(err)
		}
		p := newPipeline(inner, func(raft.AppendFuture) {}, g)
		var playing sync.WaitGroup
		playing.Go(func() {
			if f := <-p.Consumer(); f.Response().Success {
				t.Error("the first answer is not the failed one")
			}
		})
		const requests = 10
		var sent atomic.Int32
		playing.Go(func() {
			for range requests {
				req := &raft.AppendEntriesRequest{RPCHeader: p1.header(), Term: 1}
				if _, err := p.AppendEntries(req, new(raft.AppendEntriesResponse)); err != nil {
					return
				}
				sent.Add(1)
			}
		})
		synctest.Wait()
		if stuck := sent.Load() < requests; stuck == guarded {
			t.Errorf("%d of %d requests were sent", sent.Load(), requests)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		playing.Wait()
	})
}

// leads is a node that leads a group of which the test plays the other two, who
// agree to everything so far.
func leads(t *testing.T, tweak func(*Config)) (c *testCluster, n *testNode, p2, p3 *fakePeer) {
	t.Helper()
	c, n, p2, p3, conf := alone(t, tweak)
	p2.answers(agree)
	p3.answers(agree)
	p2.append(t, n, 1, 0, 0, 1, conf)
	if c.leader() != n {
		t.Fatal("it does not lead")
	}
	return c, n, p2, p3
}

// follower is a peer that keeps a log's length, and tells what it is sent.
func follower(seen func(*raft.AppendEntriesRequest)) func(raft.RPC) {
	var last uint64
	return func(rpc raft.RPC) {
		req, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if !ok || req.PrevLogEntry == 0 && len(req.Entries) == 0 {
			agree(rpc)
			return
		}
		resp := &raft.AppendEntriesResponse{Term: req.Term, LastLog: last}
		if req.PrevLogEntry <= last {
			seen(req)
			last = req.PrevLogEntry + uint64(len(req.Entries))
			resp.Success, resp.LastLog = true, last
		}
		rpc.Respond(resp, nil)
	}
}

// raft bounds a request by its number of entries: 64 of 100 KiB are one of 6 MiB.
func TestGuardRequestBytes(t *testing.T) {
	bothWays(t, guards{noByteBound: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, p3 := leads(t, func(c *Config) {
			c.guard = g
			c.SegmentSize, c.RaftSegmentSize, c.MaxEntry, c.BatchBytes, c.SnapshotBytes = 16<<20, 2<<20, 512<<10, 1, 64<<20
		})
		defer c.stop()
		c.createTopic("T", 1)
		p2.answer.Store(nil) // it is not there
		body := strings.Repeat("x", 100<<10)
		for i := range 80 {
			if _, err := n.send("T", 0, fmt.Sprint(i, body), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		last := n.lastIndex()
		var largest, got atomic.Uint64
		p2.answers(follower(func(req *raft.AppendEntriesRequest) {
			size := uint64(0)
			for _, e := range req.Entries {
				size += uint64(len(e.Data))
			}
			largest.Store(max(largest.Load(), size))
			if len(req.Entries) > 0 && req.PrevLogEntry != got.Load() {
				t.Errorf("entries behind %d were sent, it has %d", req.PrevLogEntry, got.Load())
			}
			got.Store(req.PrevLogEntry + uint64(len(req.Entries)))
		}))
		c.wait("the peer has it all", func() bool { return got.Load() >= last })
		if (largest.Load() <= maxAppendBytes) != guarded {
			t.Fatalf("the largest request has %d bytes", largest.Load())
		}
		p3.answer.Store(nil)
	})
}

// raft gives a request and its answer one deadline, however large it is: over a
// slow link it never gets through. Deadlines move with progress.
func TestGuardMovingDeadlines(t *testing.T) {
	bothWays(t, guards{fixedDeadlines: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, _ := leads(t, func(c *Config) {
			c.guard, c.Election = g, 2*time.Second
			c.SegmentSize, c.RaftSegmentSize, c.MaxEntry, c.BatchBytes, c.SnapshotBytes = 16<<20, 2<<20, 512<<10, 1, 64<<20
		})
		defer c.stop()
		c.createTopic("T", 1)
		p2.answer.Store(nil)
		body := strings.Repeat("x", 100<<10)
		for i := range 10 {
			if _, err := n.send("T", 0, fmt.Sprint(i, body), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		last := n.lastIndex()
		var got atomic.Uint64
		p2.answers(follower(func(req *raft.AppendEntriesRequest) { got.Store(req.PrevLogEntry + uint64(len(req.Entries))) }))
		c.net.change("n1:7000", "n2:7000", func(l *memLink) { l.rate = 25000 }) // 1 MB: 40 s
		ok := c.poll(90*time.Second, func() bool { return got.Load() >= last })
		if ok != guarded {
			t.Fatalf("the peer has %d of %d entries: %v", got.Load(), last, ok)
		}
	})
}

// raft bounds what waits to be committed by nothing: while no quorum answers,
// every send accepted is memory. The bound is on bytes, and what has timed out
// gives them back.
func TestGuardPendingBytes(t *testing.T) {
	const bound, size, sends = 64 << 10, 1 << 10, 500
	bothWays(t, guards{}, func(t *testing.T, _ guards, guarded bool) {
		c, n, p2, p3 := leads(t, func(c *Config) {
			c.MaxPending, c.BatchBytes, c.MaxInflight = 1<<40, 8<<10, 4
			if guarded {
				c.MaxPending = bound
			}
		})
		defer c.stop()
		c.createTopic("T", 1)
		before := n.lastIndex()
		// The peers follow, and take no entries.
		for _, p := range []*fakePeer{p2, p3} {
			p.answers(func(rpc raft.RPC) {
				if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && len(req.Entries) > 0 {
					rpc.Respond(nil, errUnreachable)
					return
				}
				agree(rpc)
			})
		}
		var accepted []*testSend
		begin := time.Now()
		for i := range sends {
			s := newTestSend("T", 0, fmt.Sprint(i), strings.Repeat("x", size))
			switch err := n.group().Append(s.send()); {
			case err == nil:
				accepted = append(accepted, s)
			case !errors.Is(err, ErrBusy):
				t.Fatal(err)
			}
		}
		if full := len(accepted) < sends; full != guarded {
			t.Fatalf("%d of %d sends accepted", len(accepted), sends)
		}
		if guarded && (len(accepted)*size > bound || len(accepted)*size < bound/2) {
			t.Fatalf("%d bytes accepted, the bound is %d", len(accepted)*size, bound)
		}
		synctest.Wait()
		if with := n.lastIndex() - before; with > 4 {
			t.Fatalf("%d entries are with raft, at most 4 may be", with)
		}
		// None is held longer than its deadline, none is told that it was stored.
		for _, s := range accepted {
			<-s.done
			if !errors.Is(s.err, ErrUnknown) && !errors.Is(s.err, ErrBusy) {
				t.Fatalf("told %v, %v", s.res, s.err)
			}
		}
		if waited := time.Since(begin); waited > n.group().cfg.SlaveTimeout+time.Second {
			t.Fatalf("told after %v", waited)
		}
		p2.answers(agree)
		p3.answers(agree)
		c.deliver("T", 0, "afterwards")
	})
}

// forgotten is a future that raft will never answer (issue 498): what is put in
// its queue when it has stopped, which it lets half of the callers do.
func forgotten(t *testing.T) raft.ApplyFuture {
	t.Helper()
	c := newTestCluster(t, 3, nil)
	defer c.stop()
	r := newRawRaft(t, c, raft.NewInmemStore(), newMemStable(), time.Hour, guards{})
	r.end()
	for range 64 {
		f := r.ApplyLog(raft.Log{Data: []byte("x")}, 0)
		if reflect.TypeOf(f).Kind() == reflect.Pointer {
			return f
		}
	}
	t.Fatal("raft has answered 64 proposals after its end")
	return nil
}

type applyFunc func(raft.Log) raft.ApplyFuture

func (f applyFunc) ApplyLog(l raft.Log, _ time.Duration) raft.ApplyFuture { return f(l) }

func TestGuardFutureDeadline(t *testing.T) {
	bothWays(t, guards{}, func(t *testing.T, _ guards, guarded bool) {
		future := forgotten(t)
		if !guarded {
			release, done := make(chan struct{}), make(chan error, 1)
			go func() { done <- await(future, release) }()
			time.Sleep(time.Hour)
			if len(done) > 0 {
				t.Fatalf("raft answered: %v", <-done)
			}
			close(release)
			<-done
			return
		}
		p := newProposer(proposerConfig{
			room:       func() error { return nil },
			raft:       applyFunc(func(raft.Log) raft.ApplyFuture { return future }),
			now:        func() int64 { return 1 },
			pending:    func() (time.Time, bool) { return time.Time{}, false },
			settled:    func(int) {},
			batchBytes: 1 << 10, maxEntry: 1 << 20, maxBytes: 1 << 20, maxInflight: 1,
			slaveTimeout: 3 * time.Second, flushTimeout: 5 * time.Second,
		})
		begin := time.Now()
		s := newTestSend("T", 0, "k", "x")
		if err := p.propose(s.send()); err != nil {
			t.Fatal(err)
		}
		<-s.done
		if waited := time.Since(begin); s.err != ErrQuorumTimeout || waited != 3*time.Second {
			t.Fatalf("told %v after %v", s.err, waited)
		}
		p.close()
		if p.bytes != 0 || len(p.inflight) != 0 {
			t.Fatalf("%d bytes in %d batches are still on the books", p.bytes, len(p.inflight))
		}
		// And a closed group holds nobody either: a command with its own context.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		stop := make(chan struct{})
		defer context.AfterFunc(ctx, func() { close(stop) })()
		if _, err := results(forgotten(t), stop); !errors.Is(err, ErrUnknown) {
			t.Fatalf("told %v", err)
		}
	})
}

// An answer to a heartbeat sent before the question whether we still lead does
// not answer it: the peer may have moved on since.
func TestGuardStaleContact(t *testing.T) {
	bothWays(t, guards{noContacts: true}, func(t *testing.T, g guards, guarded bool) {
		c, n, p2, p3 := leads(t, func(c *Config) { c.guard = g })
		defer c.stop()
		beats := make(chan raft.RPC, 100)
		p2.answers(func(rpc raft.RPC) { beats <- rpc })
		p3.answers(func(raft.RPC) {})
		// A heartbeat is on its way; whatever p2 does after it, the answer to this
		// one says that it followed.
		var beat raft.RPC
		for beat.Command == nil {
			rpc := <-beats
			if req := rpc.Command.(*raft.AppendEntriesRequest); req.PrevLogEntry == 0 && len(req.Entries) == 0 {
				beat = rpc
			}
		}
		time.Sleep(10 * time.Millisecond) // the question comes later
		asked := make(chan error, 1)
		go func() { asked <- n.group().Barrier(t.Context()) }()
		synctest.Wait()
		agree(beat)
		if err := <-asked; (err == nil) == guarded {
			t.Fatalf("verified with %v", err)
		}
	})
}
