package raftgroup

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
)

// testNode is a node of a cluster in memory and fake time.
type testNode struct {
	c      *testCluster
	id     string
	addr   string
	fs     *disk.Mem
	stable *memStable
	tweak  func(*Config)
	now    atomic.Pointer[process] // nil while it is down
	last   atomic.Pointer[process] // the one started last, from when its start began
	left   *remains                // what a crash has left, for the next start
	boots  int                     // power losses
	skew   atomic.Int64            // of its clock, ns
	// published is called when messages can be read, before anybody is told.
	published atomic.Value // of func()
}

// process is one start of a node.
type process struct {
	group *Group
	port  *Port
	// dead: it was killed. What it says and writes from then on nobody hears.
	dead atomic.Bool
}

// remains are the disks after a crash.
type remains struct {
	fs     *disk.Mem
	stable *memStable
}

func (n *testNode) group() *Group {
	if p := n.now.Load(); p != nil {
		return p.group
	}
	return nil
}

func (n *testNode) config() Config {
	var peers []Peer
	for _, p := range n.c.nodes {
		peers = append(peers, Peer{Node: p.id, Address: p.addr})
	}
	port, err := strconv.Atoi(n.id[1:])
	if err != nil {
		n.c.t.Fatal(err)
	}
	cfg := Config{
		Cluster: "test", Name: "broker-a", Node: n.id, Peers: peers,
		ClientAddress: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(10000+port)),
		Dir:           "data", FS: n.fs, Stable: n.stable,
		SegmentSize: testSegment, RaftSegmentSize: 1 << 20, MaxEntry: 128 << 10, BatchBytes: 32 << 10,
		SnapshotBytes: 512 << 10, TrailingBytes: 64 << 10,
		Logger:  n.c.logger.With("node", n.id),
		Now:     func() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) },
		Storage: storage.Options{Reserve: 1},
		BootID:  fmt.Sprint("boot-", n.boots),
		Events: Events{Leadership: n.c.led, Appended: func([]*storage.Queue) {
			if f, ok := n.published.Load().(func()); ok {
				f()
			}
		}},
	}
	if n.tweak != nil {
		n.tweak(&cfg)
	}
	return cfg
}

func (n *testNode) start() {
	n.c.t.Helper()
	if err := n.tryStart(); err != nil {
		n.c.t.Fatalf("%s: %v", n.id, err)
	}
}

func (n *testNode) tryStart() error {
	if n.left != nil {
		n.fs, n.stable, n.left = n.left.fs, n.left.stable, nil
	}
	p := &process{}
	n.last.Store(p)
	cfg := n.config()
	p.port = NewPort(PortConfig{
		Cluster: cfg.Cluster, Listener: n.c.net.listen(n.addr), Logger: cfg.Logger,
		Dial:           n.c.net.dialer(n.addr, func() bool { return !p.dead.Load() }),
		fixedDeadlines: cfg.guard.fixedDeadlines,
	})
	cfg.Port = p.port
	var err error
	if p.group, err = Open(cfg); err != nil {
		p.port.Close()
		return err
	}
	n.now.Store(p)
	return nil
}

// stop stops a node in good order, or what is left of one that was killed.
func (n *testNode) stop() {
	n.c.t.Helper()
	p := n.now.Swap(nil)
	if p == nil {
		return
	}
	// One that was killed, or has failed, may fail to close, too.
	if err := p.group.Close(); err != nil && !p.dead.Load() && p.group.Err() == nil {
		n.c.t.Errorf("%s: closing: %v", n.id, err)
	}
	if err := p.port.Close(); err != nil {
		n.c.t.Errorf("%s: closing the port: %v", n.id, err)
	}
	if p.dead.Load() {
		n.fs.SetHook(nil)
		n.stable.setHook(nil)
	}
}

// crash ends a node as it is: nothing it does from now on reaches anybody, or a
// disk. It may be called from anywhere, a hook of the disk too; stop clears up.
func (n *testNode) crash(p *process, disks func() *disk.Mem, drop bool) {
	if p == nil || !p.dead.CompareAndSwap(false, true) {
		return
	}
	n.c.net.unplug(n.addr, drop)
	n.left = &remains{fs: disks(), stable: n.stable.clone()}
}

// kill stops a node as kill -9 does.
func (n *testNode) kill() {
	n.crash(n.now.Load(), n.fs.Clone, false)
	n.stop()
}

// powerLoss stops a node and loses what it had not synced.
func (n *testNode) powerLoss(seed uint64) {
	n.crashPower(seed)
	n.stop()
}

// crashPower is powerLoss without the clearing up.
func (n *testNode) crashPower(seed uint64) {
	n.boots++
	n.crash(n.now.Load(), func() *disk.Mem { return n.fs.Crash(seed) }, true)
}

// startAndDie starts a node that is killed just before the n-th operation on its
// disk, which may be while it opens. It says whether that happened within a
// second.
func (n *testNode) startAndDie(count int, lose func(*disk.Mem) *disk.Mem) bool {
	n.c.t.Helper()
	if n.left != nil {
		n.fs, n.stable, n.left = n.left.fs, n.left.stable, nil
	}
	fs := n.fs
	happened := n.crashAt(count, func(disk.Op) bool { return true }, func() *disk.Mem { return lose(fs) })
	err := n.tryStart()
	select {
	case <-happened:
		n.stop()
		fs.SetHook(nil)
		return true
	case <-time.After(time.Second):
	}
	fs.SetHook(nil)
	if err != nil {
		n.c.t.Fatalf("%s does not open: %v", n.id, err)
	}
	return false
}

// crashAt kills the node just before the n-th operation on its disk from now on
// that match says; it does no other afterwards. The channel is closed when that
// has happened.
func (n *testNode) crashAt(count int, match func(disk.Op) bool, disks func() *disk.Mem) <-chan struct{} {
	happened := make(chan struct{})
	var dead bool
	var mu sync.Mutex
	n.fs.SetHook(func(op disk.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if count > 0 && match(op) {
			if count--; count == 0 {
				n.crash(n.last.Load(), disks, false)
				dead = true
				close(happened)
			}
		}
		if dead {
			return errInjected
		}
		return nil
	})
	return happened
}

// send proposes a message at a node and waits for the outcome.
func (n *testNode) send(topic string, queue int32, body, uniq string) (fsm.Result, error) {
	return n.sendAll(newTestSend(topic, queue, uniq, body))
}

func (n *testNode) sendAll(s *testSend) (fsm.Result, error) {
	p := n.now.Load()
	if p == nil {
		return fsm.Result{}, ErrClosed
	}
	s.dead = p.dead.Load
	if err := p.group.Append(s.send()); err != nil {
		return fsm.Result{}, err
	}
	<-s.done
	return s.res, s.err
}

// describe is only for when nothing is being applied.
func (n *testNode) describe() (digest, manifest string) {
	g := n.group()
	d := g.state.Digest()
	m, err := g.store.Pin().AppendBinary(nil)
	if err != nil {
		n.c.t.Fatal(err)
	}
	return string(d[:]), string(m)
}

// onceHook fails one operation, the left-th that match says.
type onceHook struct {
	mu    sync.Mutex
	left  int
	match func(disk.Op) bool
	done  func()
}

var errInjected = errors.New("injected: input/output error")

func (h *onceHook) see(op disk.Op) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left == 0 || !h.match(op) {
		return nil
	}
	if h.left--; h.left > 0 {
		return nil
	}
	h.done()
	return errInjected
}
