package raftgroup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
)

const testSegment = 256 << 10

// testNode is a node of a cluster in memory and fake time.
type testNode struct {
	c      *testCluster
	id     string
	addr   string
	fs     *disk.Mem
	stable *raft.InmemStore
	port   *Port
	group  *Group // nil while it is down
	tweak  func(*Config)
}

// testCluster is a group of replicas on one network.
type testCluster struct {
	t      testing.TB
	net    *memNet
	nodes  []*testNode
	logger hclog.Logger
}

// inCluster runs a test on a cluster of n nodes, in fake time.
func inCluster(t *testing.T, n int, tweak func(*Config), test func(*testing.T, *testCluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := &testCluster{t: t, net: newMemNet(), logger: hclog.NewNullLogger()}
		if os.Getenv("RAFTMQ_TEST_LOG") != "" {
			c.logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr})
		}
		for i := range n {
			c.nodes = append(c.nodes, &testNode{
				c: c, id: fmt.Sprintf("n%d", i+1), addr: fmt.Sprintf("n%d:7000", i+1),
				fs: disk.NewMem(uint64(i)), stable: raft.NewInmemStore(), tweak: tweak,
			})
		}
		for _, node := range c.nodes {
			node.start()
		}
		defer func() {
			for _, node := range c.nodes {
				node.stop()
			}
		}()
		test(t, c)
	})
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
		Storage: storage.Options{Reserve: 1},
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
	n.port = NewPort(PortConfig{Cluster: "test", Listener: n.c.net.listen(n.addr), Dial: n.c.net.dialer(n.addr), Logger: n.c.logger})
	cfg := n.config()
	cfg.Port = n.port
	g, err := Open(cfg)
	if err != nil {
		n.port.Close()
		return err
	}
	n.group = g
	return nil
}

func (n *testNode) stop() {
	n.c.t.Helper()
	if n.group == nil {
		return
	}
	if err := n.group.Close(); err != nil {
		n.c.t.Errorf("%s: closing: %v", n.id, err)
	}
	if err := n.port.Close(); err != nil {
		n.c.t.Errorf("%s: closing the port: %v", n.id, err)
	}
	n.group = nil
}

// kill stops a node as kill -9 would: what it does while it is closed is not on
// the disk that it comes back with.
func (n *testNode) kill() {
	fs := n.fs.Clone()
	n.stop()
	n.fs = fs
}

// powerLoss stops a node and loses what it had not synced.
func (n *testNode) powerLoss(seed uint64) {
	fs := n.fs.Crash(seed)
	n.stop()
	n.fs = fs
}

func (c *testCluster) addrs() []string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.addr)
	}
	return all
}

// leader waits for a node that leads and serves.
func (c *testCluster) leader() *testNode {
	c.t.Helper()
	for range 600 {
		var found *testNode
		for _, n := range c.nodes {
			if n.group != nil && n.group.Leadership().Self && (found == nil || n.group.Leadership().Term > found.group.Leadership().Term) {
				found = n
			}
		}
		if found != nil {
			return found
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatal("no leader in 30 s")
	return nil
}

func (c *testCluster) followers() []*testNode {
	leader := c.leader()
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *testNode) bool { return n == leader || n.group == nil })
}

// propose gives a command to whoever leads, until it is done.
func (c *testCluster) propose(command []byte) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		_, err := c.leader().group.Propose(ctx, command)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			c.t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *testCluster) createTopic(name string, queues int32) {
	c.t.Helper()
	t := remoting.NewTopicConfig(name)
	t.ReadQueueNums, t.WriteQueueNums = queues, queues
	c.propose(fsm.PutTopic(t, true))
}

// testSend is a send and its outcome.
type testSend struct {
	topic  string
	queue  int32
	body   []byte
	uniq   string
	repeat bool
	done   chan struct{}
	res    fsm.Result
	err    error
}

func (s *testSend) AppendRecords(dst []byte) ([]byte, error) {
	var props remoting.Properties
	if s.uniq != "" {
		props = remoting.AppendProperty(props, remoting.PropUniqKey, s.uniq)
	}
	return remoting.AppendRecord(dst, &remoting.Record{QueueID: s.queue, Topic: s.topic, Body: s.body, Properties: props,
		StoreHost: netip.MustParseAddrPort("127.0.0.1:10911"), BornHost: netip.MustParseAddrPort("127.0.0.1:5")})
}

func (s *testSend) Done(r fsm.Result, err error) {
	s.res, s.err = r, err
	close(s.done)
}

// send proposes a message at a node and waits for the outcome.
func (n *testNode) send(topic string, queue int32, body, uniq string) (fsm.Result, error) {
	s := &testSend{topic: topic, queue: queue, body: []byte(body), uniq: uniq, done: make(chan struct{})}
	var key fsm.Key
	if uniq != "" {
		key = fsm.SendKey(topic, 0, []byte(uniq))
	}
	if n.group == nil {
		return fsm.Result{}, ErrClosed
	}
	if err := n.group.Append(Send{SendMeta: fsm.SendMeta{Key: key}, Count: 1, Size: len(body) + 200, Op: s}); err != nil {
		return fsm.Result{}, err
	}
	<-s.done
	return s.res, s.err
}

// deliver sends a message until it is stored, as a client does.
func (c *testCluster) deliver(topic string, queue int32, body string) fsm.Result {
	c.t.Helper()
	for range 1000 {
		res, err := c.leader().send(topic, queue, body, "U"+body)
		if err == nil && (res.Status == fsm.Stored || res.Status == fsm.Repeated) {
			return res
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatalf("%s was never stored", body)
	return fsm.Result{}
}

// bodies reads a queue at a node.
func (n *testNode) bodies(topic string, queue int32) []string {
	n.c.t.Helper()
	t, ok := n.group.State().Topic(topic)
	if !ok {
		return nil
	}
	q := n.group.Store().Queue(storage.QueueID{Topic: topic, Incarnation: t.Incarnation, Queue: queue})
	if q == nil {
		return nil
	}
	units, err := q.Units(0, int(q.Max()), nil)
	if err != nil {
		n.c.t.Fatalf("%s: %v", n.id, err)
	}
	var out []string
	for i, u := range units {
		rec, err := n.group.Store().Read(u.Phys, int(u.Size))
		if err != nil {
			n.c.t.Fatalf("%s: %v", n.id, err)
		}
		v, err := remoting.ParseRecord(rec)
		if err != nil {
			n.c.t.Fatalf("%s: %v", n.id, err)
		}
		if v.QueueOffset() != int64(i) || v.PhysicalOffset() != u.Phys {
			n.c.t.Errorf("%s: unit %d has the record of offset %d at %d", n.id, i, v.QueueOffset(), v.PhysicalOffset())
		}
		out = append(out, string(v.Body()))
	}
	return out
}

// settle waits until all nodes that are up have applied the same entries and
// miss nothing.
func (c *testCluster) settle() {
	c.t.Helper()
	for range 1200 {
		leader := c.leader()
		want, _ := leader.group.progress.get()
		same := want == leader.group.raft.LastIndex()
		for _, n := range c.nodes {
			if n.group == nil {
				continue
			}
			got, _ := n.group.progress.get()
			same = same && got == want && n.group.Store().Complete()
		}
		if same {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, n := range c.nodes {
		if n.group != nil {
			got, _ := n.group.progress.get()
			c.t.Logf("%s: applied %d of %d, missing %v, complete %v, failed %v", n.id, got, n.group.raft.LastIndex(), n.group.Store().Missing(), n.group.Store().Complete(), n.group.Err())
		}
	}
	c.t.Fatal("the replicas do not become equal in a minute")
}

// checkEqual is S10: all replicas have the same state and the same bytes.
func (c *testCluster) checkEqual() {
	c.t.Helper()
	c.settle()
	var digest, manifest, first string
	for _, n := range c.nodes {
		if n.group == nil {
			continue
		}
		d, m := n.describe()
		if first == "" {
			digest, manifest, first = d, m, n.id
			continue
		}
		if d != digest {
			c.t.Errorf("S10: %s and %s have different states", first, n.id)
		}
		if m != manifest {
			c.t.Errorf("S10: %s and %s have different files", first, n.id)
		}
	}
}

// describe is only for when nothing is being applied.
func (n *testNode) describe() (digest, manifest string) {
	d := n.group.state.Digest()
	m, err := n.group.store.Pin().AppendBinary(nil)
	if err != nil {
		n.c.t.Fatal(err)
	}
	return string(d[:]), string(m)
}

func testSeed(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	if v := os.Getenv("RAFTMQ_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RAFTMQ_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
