package raftgroup

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Row 40: garbage on the raft port. The leader and the term stay, nobody's send
// fails, and what it costs is bounded.
func TestGarbageOnTheRaftPort(t *testing.T) {
	seed := testSeed(t)
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		rng := rand.New(rand.NewPCG(seed, 0))
		c.createTopic("T", 1)
		leader := c.leader()
		term := leader.group().raft().CurrentTerm()
		h := &history{}
		cl := newClients(c, h, 4, "T", 1, seed)
		c.wait("a load", func() bool { return h.count() >= floor })

		random := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			return b
		}
		head := func(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte(helloMagic+"\x01"), n) }
		// What follows a hello that is in order: raft's own encoding, broken.
		broken := [][]byte{
			random(3000),
			{0, 0x84, 0xa4, 'T', 'e', 'r', 'm'}, // a request that does not end
			append([]byte{0, 0x81, 0xa7}, "Entries\xdd\xff\xff\xff\xff"...), // 2^32-1 entries
			append([]byte{1, 0x81, 0xa9}, "Candidate\xc6\xff\xff\xff\xff"...),
			append([]byte{3, 0x81, 0xa4}, "Size\xd3\x7f\xff\xff\xff\xff\xff\xff\xff"...), // a snapshot of 2^63-1 bytes
			{200}, // no such request
		}
		garbage := [][]byte{
			nil, random(1), random(8), random(4000), []byte("GET / HTTP/1.1\r\n\r\n"),
			[]byte(helloMagic), []byte(helloMagic + "\x02\x00\x00\x00\x00"), head(0), head(maxHello + 1), head(1<<32 - 1),
			append(head(4), random(4)...), append(head(2), "{}"...), append(head(100), `{"kind":"raft"`...),
		}
		dial := c.net.dialer("stranger", func() bool { return true })
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var trying sync.WaitGroup
		var closed, waited atomic.Int32
		try := func(n *testNode, send []byte, greet, hangUp bool) error {
			conn, err := dial(t.Context(), n.addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(2 * helloTimeout)); err != nil {
				return err
			}
			if greet {
				if err := exchangeHello(conn, hello{Kind: streamRaft, Cluster: "test", Group: "broker-a", From: "x", To: n.group().ID()}); err != nil {
					return err
				}
			}
			if _, err := conn.Write(send); err != nil || hangUp {
				return nil
			}
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				waited.Add(1)
			} else {
				closed.Add(1)
			}
			return nil
		}
		for _, n := range c.nodes {
			for i, b := range slices.Concat(garbage, broken) {
				for _, hangUp := range []bool{true, false} {
					trying.Go(func() {
						if err := try(n, b, i >= len(garbage), hangUp); err != nil {
							t.Errorf("%s, garbage %d: %v", n.id, i, err)
						}
					})
				}
			}
		}
		trying.Wait()
		// And connections that say nothing: old ones give way, peers still get in.
		var silent []net.Conn
		for range 2 * maxStrangers {
			conn, err := dial(t.Context(), leader.addr)
			if err != nil {
				t.Fatal(err)
			}
			silent = append(silent, conn)
		}
		c.net.sever(func(from, to string) bool { return from != "stranger" && to != "stranger" })
		at := h.count()
		c.wait("sends after the peers had to connect again", func() bool { return h.count() >= at+floor })
		synctest.Wait()
		p := leader.now.Load().port
		p.mu.Lock()
		strangers := len(p.strangers)
		p.mu.Unlock()
		if strangers > maxStrangers {
			t.Errorf("%d connections without a hello are kept", strangers)
		}
		for _, conn := range silent {
			conn.Close()
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 1<<30 {
			t.Errorf("%d MiB were allocated meanwhile", grown>>20)
		}
		// Whatever is no hello is cut off in time, what is no request at once; a
		// request that does not end may wait for its rest.
		if closed.Load() < int32(3*(len(garbage)+1)) || waited.Load() > int32(3*(len(broken)-1)) {
			t.Errorf("%d connections were closed, %d were not", closed.Load(), waited.Load())
		}
		if now := leader.group().raft().CurrentTerm(); now != term || c.leading() != leader {
			t.Errorf("term %d became %d", term, now)
		}
		cl.end()
		for _, op := range h.ops {
			for _, a := range op.attempts {
				// The connections were broken on purpose, which delays; a send that
				// goes to a follower is refused.
				if a.kind == limbo {
					t.Errorf("a send at %s ended with %v", a.node, a.err)
				}
			}
		}
		cl.check()
	})
}

// Requests of a catch-up stream that can't be are answered with an error, and so
// many streams at once are let in, not more.
func TestHostileFetches(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		n := c.leader()
		dial := c.net.dialer("stranger", func() bool { return true })
		open := func() net.Conn {
			conn, err := dial(t.Context(), n.addr)
			if err != nil {
				t.Fatal(err)
			}
			if err := exchangeHello(conn, hello{Kind: streamFetch, Cluster: "test", Group: "broker-a", From: "x", To: n.group().ID()}); err != nil {
				t.Fatal(err)
			}
			return conn
		}
		f := &fetcher{c: open()}
		for _, r := range []struct {
			op     byte
			off, n int64
		}{{opData, -1, 10}, {opData, 0, -1}, {opData, 0, 0}, {opData, 0, maxFetch + 1}, {opData, 1 << 62, 100},
			{opSums, -1, 10}, {opSums, 0, -1}, {opSums, 0, 1<<63 - 1}, {'?', 0, 1}} {
			if _, err := f.ask(t.Context(), r.op, r.off, r.n); !errors.Is(err, ErrRefused) {
				t.Errorf("%q of %d bytes at %d: %v", r.op, r.n, r.off, err)
			}
		}
		conns := []net.Conn{f.c}
		for range maxFetchers + 4 {
			conns = append(conns, open())
		}
		synctest.Wait()
		if got := n.group().fetchers.Load(); got != maxFetchers {
			t.Errorf("%d streams are served, %d may be", got, maxFetchers)
		}
		for _, conn := range conns {
			conn.Close()
		}
		synctest.Wait()
		if got := n.group().fetchers.Load(); got != 0 {
			t.Errorf("%d streams are still counted", got)
		}
	})
}
