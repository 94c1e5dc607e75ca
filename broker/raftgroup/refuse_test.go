package raftgroup

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

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
