package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// alone opens a group of one that has dir to itself, and waits until it leads.
func aloneIn(t *testing.T, dir, name string) *raftgroup.Group {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	leads := make(chan struct{}, 1)
	port := raftgroup.NewPort(raftgroup.PortConfig{Cluster: "c", Listener: ln})
	g, err := raftgroup.Open(raftgroup.Config{
		Cluster: "c", Name: name, Node: "n1", Dir: dir, Port: port,
		Peers:         []raftgroup.Peer{{Node: "n1", Address: ln.Addr().String()}},
		ClientAddress: netip.MustParseAddrPort("127.0.0.1:10911"),
		SegmentSize:   1 << 20, RaftSegmentSize: 1 << 20, MaxEntry: 256 << 10,
		Events: raftgroup.Events{Leadership: func(l raftgroup.Leadership) {
			if l.Self {
				select {
				case leads <- struct{}{}:
				default:
				}
			}
		}},
	})
	if err != nil {
		t.Fatal(errors.Join(err, port.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Close(), port.Close()); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-leads:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not lead itself", name)
	}
	return g
}

// putting is a send and its outcome.
type putting struct {
	body string
	done chan error
	res  fsm.Result
}

func (p *putting) AppendRecords(dst []byte) ([]byte, error) {
	host := netip.MustParseAddrPort("127.0.0.1:10911")
	return remoting.AppendRecord(dst, &remoting.Record{Topic: "T", Body: []byte(p.body), StoreHost: host, BornHost: host})
}

func (p *putting) Done(r fsm.Result, err error) {
	p.res = r
	p.done <- err
}

// put stores a message and says where.
func put(t *testing.T, g *raftgroup.Group, body string) fsm.Result {
	t.Helper()
	p := &putting{body: body, done: make(chan error, 1)}
	err := g.Append(raftgroup.Send{Count: 1, Size: len(body) + 200, Op: p})
	if err == nil {
		err = <-p.done
	}
	if err != nil || p.res.Status != fsm.Stored {
		t.Fatalf("%s: %+v, %v", g.Name(), p.res, err)
	}
	return p.res
}

// Row 47: a disk hangs while cold messages are read from it, and the garbage
// collector runs. A goroutine in a page fault can't be stopped: the collector, and
// with it everything else in the process, would wait for the disk. So the
// collector comes to its end, and another group goes on, before the disk answers.
func TestCollectorPassesAHungDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hung")
	d := newFaultDisk(t, dir)
	data := filepath.Join(dir, "data")
	hung, well := aloneIn(t, data, "hung"), aloneIn(t, filepath.Join(t.TempDir(), "data"), "well")
	for _, g := range []*raftgroup.Group{hung, well} {
		if _, err := g.Propose(context.Background(), fsm.PutTopic(remoting.NewTopicConfig("T"), true)); err != nil {
			t.Fatal(err)
		}
	}
	first := put(t, hung, "cold "+strings.Repeat("x", 10_000))
	for i := range 20 { // the last segment is hot
		put(t, hung, fmt.Sprint(i, strings.Repeat("y", 100_000)))
	}
	if err := hung.Snapshot(); err != nil { // nothing is dirty any more
		t.Fatal(err)
	}
	forget(t, filepath.Join(data, "store", "commitlog"))
	rule := d.add(&diskRule{path: "/commitlog/", ops: []diskOp{diskRead}, hang: make(chan struct{})})
	read := make(chan error, 1)
	go func() {
		b, err := hung.Store().Read(first.Physical, 10_000)
		if err == nil && !strings.Contains(string(b), "cold xxxx") {
			err = errors.New("it is another message")
		}
		read <- err
	}()
	for end := time.Now().Add(time.Minute); rule.hits.Load() == 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("nothing is read from the disk: it is not cold")
		}
	}
	went := make(chan struct{})
	go func() {
		defer close(went)
		for range 3 {
			runtime.GC()
			put(t, well, "goes on")
		}
	}()
	select {
	case <-went:
	case <-time.After(time.Minute):
		t.Error("the collector waits for the disk")
	}
	select {
	case err := <-read:
		t.Errorf("the disk did not hang: %v", err)
	default:
	}
	d.heal()
	if err := <-read; err != nil {
		t.Errorf("the message after all: %v", err)
	}
}

// forget drops what the kernel has in memory of the files in a directory.
func forget(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) < 2 {
		t.Fatalf("%d files in %s, %v", len(names), dir, err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err == nil {
			err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
