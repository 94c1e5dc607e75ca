package raftgroup

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// What is in goldenFile is the data directory of a replica, as the first release
// writes it: later ones must open it. Once there is a release it stays for ever,
// and a new format gets a file of its own; until then -update writes it anew.
var update = flag.Bool("update", false, "write "+goldenFile+" anew")

const goldenFile = "testdata/v1.tar.gz"

// golden opens a group of one on the machine's disk.
func golden(t *testing.T, dir string) *testNode {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := NewPort(PortConfig{Cluster: "golden", Listener: ln, Logger: testLogger()})
	leads := make(chan struct{}, 1)
	g, err := Open(Config{
		Events: Events{Leadership: func(l Leadership) {
			if l.Self {
				select {
				case leads <- struct{}{}:
				default:
				}
			}
		}},
		Cluster: "golden", Name: "broker-a", Node: "n1", Dir: dir, Port: port,
		Peers:         []Peer{{Node: "n1", Address: ln.Addr().String()}},
		ClientAddress: netip.MustParseAddrPort("127.0.0.1:10911"),
		SegmentSize:   64 << 10, RaftSegmentSize: 128 << 10, MaxEntry: 32 << 10, BatchBytes: 8 << 10,
		DedupSpan:     100 * 365 * 24 * time.Hour,
		SnapshotBytes: 1 << 30, TrailingBytes: 1, Logger: testLogger(), Storage: storage.Options{Reserve: 1},
	})
	if err != nil {
		port.Close()
		t.Fatal(err)
	}
	n := &testNode{id: "n1", c: &testCluster{t: t}}
	n.c.nodes = []*testNode{n}
	n.now.Store(&process{group: g, port: port})
	t.Cleanup(func() {
		if err := errors.Join(g.Close(), port.Close()); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-leads:
	case <-time.After(time.Minute):
		t.Fatal("it does not lead itself")
	}
	return n
}

// goldenBodies are the messages of queue 0, the last ones behind the snapshot.
func goldenBodies() (all []string) {
	for i := range 40 {
		all = append(all, fmt.Sprintf("message %d %s", i, strings.Repeat("x", 100*i)))
	}
	return all
}

// writeGolden makes a replica with each kind of file and of state: full segments,
// queues, an index, a snapshot and a raft log behind it.
func writeGolden(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	t.Run("write", func(t *testing.T) {
		n := golden(t, dir)
		n.c.createTopic("T", 2)
		n.c.createTopic(remoting.TopicSchedule, 18)
		n.c.propose(fsm.PutGroup(remoting.NewGroupConfig("G"), true))
		n.c.propose(fsm.CommitOffsets([]fsm.Offset{{Group: "G", Topic: "T", Queue: 0, Offset: 7}}))
		n.c.propose(fsm.Grant("G", "client", []fsm.QueueLock{{Group: "G", Topic: "T"}}))
		bodies := goldenBodies()
		for i, b := range bodies {
			n.c.deliver("T", 0, b)
			if i == len(bodies)-5 {
				if err := n.group().Snapshot(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	out, err := os.Create(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	zip := gzip.NewWriter(out)
	w := tar.NewWriter(zip)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), zip.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
}

func unpackGolden(t *testing.T, dir string) {
	t.Helper()
	in, err := os.Open(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	zip, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.FileInfo().IsDir() {
			err = os.MkdirAll(name, 0o750)
		} else if err = os.MkdirAll(filepath.Dir(name), 0o750); err == nil {
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(name, b, 0o640)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Row 42: the data directory of the first release opens with all that it holds,
// and goes on.
func TestGoldenDirectory(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	dir := filepath.Join(t.TempDir(), "data")
	unpackGolden(t, dir)
	want := goldenBodies()
	for _, when := range []string{"first", "again"} {
		t.Run(when, func(t *testing.T) {
			n := golden(t, dir)
			equalBodies(t, when, n.bodies("T", 0), want)
			s := n.group().State()
			if got, ok := s.CommittedOffset("G", "T", 0); !ok || got != 7 {
				t.Errorf("the committed offset is %d, %v", got, ok)
			}
			if lock, ok := s.QueueLock("G", "T", 0); !ok || lock.Client != "client" {
				t.Errorf("the lock is %+v, %v", lock, ok)
			}
			// A repeat is known, and what is new is stored.
			if res := n.c.deliver("T", 0, want[3]); res.Status != fsm.Repeated || res.QueueOffset != 3 {
				t.Errorf("a repeat: %+v", res)
			}
			want = append(want, when)
			n.c.deliver("T", 0, when)
			equalBodies(t, when, n.bodies("T", 0), want)
		})
	}
}
