package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// wipe gives a node an empty disk.
func (n *testNode) wipe() {
	n.fs, n.stable, n.left = disk.NewMem(99), newMemStable(), nil
}

// members are the ServerIDs that a node knows as members.
func (n *testNode) members() (ids []string) {
	servers, err := n.group().servers()
	if err != nil {
		n.c.t.Fatal(err)
	}
	for _, s := range servers {
		ids = append(ids, string(s.ID))
	}
	return ids
}

// The group is made when every initial peer has said that it has no state, not
// before.
func TestBootstrapNeedsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		defer c.stop()
		// The first by name is the one who makes it.
		c.nodes[0].start()
		c.nodes[1].start()
		time.Sleep(time.Minute)
		for _, n := range c.nodes[:2] {
			if n.group().hasState() || len(n.members()) > 0 {
				t.Fatalf("%s has made the group without n3", n.id)
			}
		}
		c.nodes[2].start()
		c.leader()
		for _, n := range c.nodes {
			c.wait(n.id+" knows the members", func() bool { return len(n.members()) == 3 })
		}
	})
}

// Nodes that disagree about who the members are make no group.
func TestBootstrapNeedsAgreement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		defer c.stop()
		c.nodes[2].tweak = func(cfg *Config) { cfg.Peers = append(cfg.Peers, Peer{"n4", "n4:7000"}) }
		for _, n := range c.nodes {
			n.start()
		}
		time.Sleep(time.Minute)
		for _, n := range c.nodes {
			if n.group().hasState() {
				t.Fatalf("%s has state", n.id)
			}
		}
	})
}

// A new data directory never bootstraps a group that exists, whoever of the group
// is there, and does not count as the member that had its place (fault 23).
func TestWipedNodeStaysOut(t *testing.T) {
	for wiped := range 3 {
		t.Run(fmt.Sprint("n", wiped+1), func(t *testing.T) {
			inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
				c.createTopic("T", 1)
				c.deliver("T", 0, "kept")
				c.settle()
				n := c.nodes[wiped]
				old := n.group().ID()
				n.kill()
				n.wipe()
				n.start()
				out := func(when string) {
					t.Helper()
					if n.group().hasState() || len(n.members()) > 0 || n.group().ID() == old {
						t.Fatalf("%s, %s, back with an empty directory, has state or is a member", when, n.id)
					}
				}
				time.Sleep(30 * time.Second)
				out("with the others there")
				c.deliver("T", 0, "goes on")
				others := []*testNode{c.nodes[(wiped+1)%3], c.nodes[(wiped+2)%3]}
				others[0].kill()
				time.Sleep(30 * time.Second)
				out("with one other there")
				if l := c.leading(); l != nil {
					t.Fatalf("%s leads with the vote of a wiped node", l.id)
				}
				others[1].kill()
				time.Sleep(30 * time.Second)
				out("alone")
				others[0].start()
				others[1].start()
				c.deliver("T", 0, "goes on still")
				equalBodies(t, "the leader", c.leader().bodies("T", 0), []string{"kept", "goes on", "goes on still"})
				out("in the end")
			})
		})
	}
}

// A majority that has lost its disks makes no new group beside the old one.
func TestWipedMajorityMakesNoGroup(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.settle()
		for _, n := range c.nodes[:2] {
			n.kill()
			n.wipe()
			n.start()
		}
		time.Sleep(time.Minute)
		for _, n := range c.nodes[:2] {
			if n.group().hasState() {
				t.Fatalf("%s has state", n.id)
			}
		}
		if l := c.leading(); l != nil {
			t.Fatalf("%s leads", l.id)
		}
	})
}

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
		f := &fetcher{c: open(), rate: -1}
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

// Row 22: what is missing, foreign or older is refused with the file's name, or
// repaired from the others: never a silent empty start.
func TestDamagedDirectory(t *testing.T) {
	const log, store = "data/raft/log", "data/store"
	remove := func(name string) func(*testing.T, *testNode) {
		return func(t *testing.T, n *testNode) {
			if err := n.left.fs.RemoveAll("test", name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, d := range []struct {
		name   string
		damage func(*testing.T, *testNode)
		want   string // of the refusal; empty: it opens, and is repaired
	}{
		{"no identity", remove(path.Join("data", IdentityFile)), IdentityFile},
		{"identity not JSON", func(t *testing.T, n *testNode) { overwrite(t, n.left.fs, path.Join("data", IdentityFile), "{") }, IdentityFile},
		{"identity of another node", editIdentity("\"n1\"", "\"n2\""), "node"},
		{"identity of another cluster", editIdentity("\"test\"", "\"prod\""), "cluster"},
		{"identity of another group", editIdentity("\"broker-a\"", "\"broker-b\""), "group"},
		{"identity of a later release", editIdentity("\"version\": 1", "\"version\": 7"), "version 7"},
		{"no raft log", remove(log), "log"},
		{"no stable store", func(_ *testing.T, n *testNode) { n.left.stable = newMemStable() }, "stable"},
		{"no snapshots", remove("data/raft/snapshots"), "snapshot"},
		{"no store", remove(store), ""},
		{"no CommitLog", remove(store + "/commitlog"), ""},
		{"no queues", remove(store + "/consumequeue"), ""},
		{"no checkpoint", remove(store + "/checkpoint"), ""},
	} {
		t.Run(d.name, func(t *testing.T) {
			tweak := func(c *Config) { c.SnapshotBytes, c.TrailingBytes = 64<<10, 1 }
			inCluster(t, 3, tweak, func(t *testing.T, c *testCluster) {
				c.createTopic("T", 1)
				var want []string
				for i := range 60 {
					body := fmt.Sprintf("%d-%04000d", i, 0)
					c.deliver("T", 0, body)
					want = append(want, body)
				}
				n := c.nodes[0]
				c.wait("a snapshot", func() bool { return n.group().lastSnapshot() > 0 })
				c.settle()
				n.kill()
				d.damage(t, n)
				before := n.left
				err := n.tryStart()
				if d.want != "" {
					if err == nil || !strings.Contains(err.Error(), d.want) {
						t.Fatalf("it does not say what is wrong with %s: %v", d.want, err)
					}
					// Asked again it says so again.
					n.left = &remains{fs: before.fs.Clone(), stable: before.stable.clone()}
					if again := n.tryStart(); again == nil {
						t.Fatal("it opens when it is started again")
					}
					return
				}
				if err != nil {
					t.Fatalf("it does not open: %v", err)
				}
				c.deliver("T", 0, "after")
				// What is missing is noticed when it is read, and put right then.
				c.wait("its queue can be read", func() bool { _, err := n.queue("T", 0); return err == nil })
				c.wait("it misses nothing", func() bool { return n.group().Store().Complete() })
				c.checkEqual()
				equalBodies(t, n.id, n.bodies("T", 0), append(want, "after"))
			})
		})
	}
}

func overwrite(t *testing.T, fs disk.FS, name, text string) {
	t.Helper()
	f, err := fs.OpenFile("test", name, os.O_RDWR|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func editIdentity(old, new string) func(*testing.T, *testNode) {
	return func(t *testing.T, n *testNode) {
		t.Helper()
		name := path.Join("data", IdentityFile)
		f, err := n.left.fs.OpenFile("test", name, os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(io.NewSectionReader(f, 0, maxIdentity))
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(b), old, new, 1)
		if text == string(b) {
			t.Fatalf("%s is not in %s", old, b)
		}
		overwrite(t, n.left.fs, name, text)
	}
}

// Row 22, an older copy put back: of the stable store, if there was an election
// since, it is refused. Of the log and the store it can't be told from a replica
// that was away; what it lacks it gets from the others.
func TestOlderCopy(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.deliver("T", 0, "1")
		c.settle()
		n := c.followers()[0]
		files, stable := n.fs.Clone(), n.stable.clone()
		l := c.leader()
		l.kill()
		c.deliver("T", 0, "2")
		l.start()
		c.settle()
		n.kill()
		now := n.left
		n.left = &remains{fs: now.fs.Clone(), stable: stable}
		if err := n.tryStart(); !errors.Is(err, raftlog.ErrStaleTerm) {
			t.Fatalf("with an older stable store: %v", err)
		}
		n.left = &remains{fs: files, stable: now.stable}
		n.start()
		c.deliver("T", 0, "3")
		c.checkEqual()
		equalBodies(t, n.id, n.bodies("T", 0), []string{"1", "2", "3"})
	})
}

// Row 41: a configuration that can't be is refused, by the name of what is wrong.
func TestConfigIsRefused(t *testing.T) {
	right := func() Config {
		return Config{
			Cluster: "c", Name: "g", Node: "n1", Dir: "data", FS: disk.NewMem(1), Stable: newMemStable(),
			Peers:         []Peer{{"n1", "n1:7000"}},
			ClientAddress: netip.MustParseAddrPort("127.0.0.1:10911"),
		}
	}
	for _, bad := range []struct {
		want   string
		change func(*Config)
	}{
		{"cluster", func(c *Config) { c.Cluster = "" }},
		{"group", func(c *Config) { c.Name = "" }},
		{"node", func(c *Config) { c.Node = "" }},
		{"directory", func(c *Config) { c.Dir = "" }},
		{"client address", func(c *Config) { c.ClientAddress = netip.AddrPort{} }},
		{"not among its peers", func(c *Config) { c.Node = "n7" }},
		{"named twice", func(c *Config) { c.Peers = append(c.Peers, c.Peers[0]) }},
		{"incomplete", func(c *Config) { c.Peers = append(c.Peers, Peer{Node: "n2"}) }},
		{"segments of at least", func(c *Config) { c.MaxEntry = 40 << 20 }},
		{"CommitLog segments", func(c *Config) { c.SegmentSize = 4 << 20 }},
	} {
		c := right()
		bad.change(&c)
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: got %v", bad.want, err)
		}
	}
	c := right()
	if err := c.validate(); err != nil {
		t.Errorf("a right one is refused: %v", err)
	}
}
