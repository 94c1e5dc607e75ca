package raftgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
)

const testSegment = 256 << 10

// testCluster is a group of replicas on one network.
type testCluster struct {
	t      testing.TB
	net    *memNet
	nodes  []*testNode
	logger hclog.Logger

	mu    sync.Mutex
	leads map[uint64]string // S7: who has led, by term
	ends  []func()          // of what else runs
}

// inCluster runs a test on a cluster of n nodes, in fake time.
func inCluster(t *testing.T, n int, tweak func(*Config), test func(*testing.T, *testCluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, n, tweak)
		for _, node := range c.nodes {
			node.start()
		}
		defer c.stop()
		test(t, c)
	})
}

func newTestCluster(t testing.TB, n int, tweak func(*Config)) *testCluster {
	c := &testCluster{t: t, net: newMemNet(), logger: testLogger(), leads: map[uint64]string{}}
	for i := range n {
		c.nodes = append(c.nodes, &testNode{
			c: c, id: fmt.Sprintf("n%d", i+1), addr: fmt.Sprintf("n%d:7000", i+1),
			fs: disk.NewMem(uint64(i)), stable: newMemStable(), tweak: tweak,
		})
	}
	return c
}

func (c *testCluster) stop() {
	for _, end := range c.ends {
		end()
	}
	for _, node := range c.nodes {
		node.stop()
	}
}

// testLogger logs if RAFTMQ_TEST_LOG is set.
func testLogger() hclog.Logger {
	if os.Getenv("RAFTMQ_TEST_LOG") == "" {
		return hclog.NewNullLogger()
	}
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr, TimeFormat: "05.000000"})
}

// led notes S7: one leader per term at most.
func (c *testCluster) led(l Leadership) {
	if !l.Self {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, ok := c.leads[l.Term]; ok && other != l.Node {
		c.t.Errorf("S7: %s and %s both led in term %d", other, l.Node, l.Term)
	}
	c.leads[l.Term] = l.Node
}

func (c *testCluster) addrs() []string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.addr)
	}
	return all
}

// poll waits, in fake time, until a condition holds.
func (c *testCluster) poll(limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// wait is poll that fails the test.
func (c *testCluster) wait(what string, ok func() bool) {
	c.t.Helper()
	if !c.poll(time.Minute, ok) {
		c.explain()
		c.t.Fatalf("not within a minute: %s", what)
	}
}

func (c *testCluster) explain() {
	c.t.Helper()
	for _, n := range c.nodes {
		g := n.group()
		if g == nil {
			c.t.Logf("%s is down", n.id)
			continue
		}
		s := g.Status()
		c.t.Logf("%s: %s term %d leader %s, applied %d committed %d last %d snapshot %d, missing %v complete %v, failed %v",
			n.id, s.State, s.Term, s.Leader, s.AppliedIndex, s.CommitIndex, s.LastIndex, s.Snapshot, g.Store().Missing(), s.Complete, g.Err())
	}
}

// leading is a node that leads and serves, of the highest term; nil if none does.
func (c *testCluster) leading() *testNode {
	var found *testNode
	var term uint64
	for _, n := range c.nodes {
		if g := n.group(); g != nil {
			if l := g.Leadership(); l.Self && (found == nil || l.Term > term) {
				found, term = n, l.Term
			}
		}
	}
	return found
}

// leader waits for a node that leads and serves.
func (c *testCluster) leader() *testNode {
	c.t.Helper()
	var found *testNode
	c.wait("a leader", func() bool {
		found = c.leading()
		return found != nil
	})
	return found
}

// followers are the nodes that are up and do not lead.
func (c *testCluster) followers() []*testNode {
	leader := c.leader()
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *testNode) bool { return n == leader || n.group() == nil })
}

// propose gives a command to whoever leads, until it is done.
func (c *testCluster) propose(command []byte) {
	c.t.Helper()
	c.wait("a command is applied", func() bool {
		g := c.leader().group()
		if g == nil {
			return false
		}
		_, err := g.Propose(context.Background(), slices.Clone(command))
		return err == nil
	})
}

func (c *testCluster) createTopic(name string, queues int32) {
	c.t.Helper()
	t := remoting.NewTopicConfig(name)
	t.ReadQueueNums, t.WriteQueueNums = queues, queues
	c.propose(fsm.PutTopic(t, true))
}

// deliver sends a message until it is stored, as a client does.
func (c *testCluster) deliver(topic string, queue int32, body string) fsm.Result {
	c.t.Helper()
	var res fsm.Result
	c.wait(body+" is stored", func() bool {
		var err error
		res, err = c.leader().send(topic, queue, body, "U"+body)
		return err == nil && (res.Status == fsm.Stored || res.Status == fsm.Repeated)
	})
	return res
}

// settle waits until all nodes that are up have applied the same entries and
// miss nothing.
func (c *testCluster) settle() {
	c.t.Helper()
	c.wait("the replicas are equal", func() bool {
		leader := c.leading()
		if leader == nil {
			return false
		}
		want, _ := leader.group().progress.get()
		if want != leader.group().raft().LastIndex() {
			return false
		}
		for _, n := range c.nodes {
			g := n.group()
			if g == nil {
				continue
			}
			if got, _ := g.progress.get(); got != want || !g.Store().Complete() {
				return false
			}
		}
		return true
	})
}

// checkEqual is S10: all replicas have the same state and the same bytes.
func (c *testCluster) checkEqual() {
	c.t.Helper()
	c.settle()
	synctest.Wait() // what is applied has been applied
	c.compareStates()
}

// compareStates compares what the replicas hold right now.
func (c *testCluster) compareStates() {
	c.t.Helper()
	var digest, manifest, first string
	for _, n := range c.nodes {
		if n.group() == nil {
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
	c.compareBytes()
}

// compareBytes compares the CommitLogs as they are on the disks.
func (c *testCluster) compareBytes() {
	c.t.Helper()
	const chunk = 64 << 10 // divides the segments
	var a *testNode
	for _, b := range c.nodes {
		if b.group() == nil {
			continue
		}
		if a == nil {
			a = b
		}
		sa, sb := a.group().Store(), b.group().Store()
		if sa.Min() != sb.Min() || sa.End() != sb.End() {
			c.t.Errorf("S10: the CommitLog is [%d, %d) on %s, [%d, %d) on %s", sa.Min(), sa.End(), a.id, sb.Min(), sb.End(), b.id)
			continue
		}
		for off := sa.Min(); off < sa.End(); off += chunk {
			n := int(min(chunk, sa.End()-off))
			da, errA := sa.Read(off, n)
			db, errB := sb.Read(off, n)
			if err := errors.Join(errA, errB); err != nil {
				c.t.Errorf("S10: reading %d on %s and %s: %v", off, a.id, b.id, err)
			} else if !bytes.Equal(da, db) {
				c.t.Errorf("S10: the CommitLogs of %s and %s differ in [%d, %d)", a.id, b.id, off, off+int64(n))
			}
		}
	}
}

// testSend is a send and its outcome.
type testSend struct {
	topic  string
	queue  int32
	bodies []string
	uniq   string
	dead   func() bool
	done   chan struct{}
	res    fsm.Result
	err    error
}

func newTestSend(topic string, queue int32, uniq string, bodies ...string) *testSend {
	return &testSend{topic: topic, queue: queue, uniq: uniq, bodies: bodies, done: make(chan struct{})}
}

func (s *testSend) AppendRecords(dst []byte) (_ []byte, err error) {
	var props remoting.Properties
	if s.uniq != "" {
		props = remoting.AppendProperty(props, remoting.PropUniqKey, s.uniq)
	}
	for _, body := range s.bodies {
		dst, err = remoting.AppendRecord(dst, &remoting.Record{QueueID: s.queue, Topic: s.topic, Body: []byte(body), Properties: props,
			StoreHost: netip.MustParseAddrPort("127.0.0.1:10911"), BornHost: netip.MustParseAddrPort("127.0.0.1:5")})
		if err != nil {
			return nil, err
		}
	}
	return dst, nil
}

func (s *testSend) Done(r fsm.Result, err error) {
	s.res, s.err = r, err
	if s.dead != nil && s.dead() {
		s.err = errKilled // nobody was told
	}
	close(s.done)
}

var errKilled = wrapped("the node was killed before it could answer")

func (s *testSend) send() Send {
	var key fsm.Key
	if s.uniq != "" {
		key = fsm.SendKey(s.topic, 0, []byte(s.uniq))
	}
	size := 0
	for _, b := range s.bodies {
		size += len(b) + 200
	}
	return Send{SendMeta: fsm.SendMeta{Key: key}, Count: len(s.bodies), Size: size, Op: s}
}

// testSeed gives the seed of a random test, and says it.
func testSeed(t testing.TB) uint64 {
	seed := rand.Uint64() >> 1
	if v := os.Getenv("RAFTMQ_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RAFTMQ_SEED=%d", seed)
	return seed
}

// long says whether to take the time it takes.
func long() bool { return os.Getenv("RAFTMQ_LONG") != "" }

// bodies reads a queue at a node.
func (n *testNode) bodies(topic string, queue int32) []string {
	n.c.t.Helper()
	log, err := n.queue(topic, queue)
	if err != nil {
		n.c.t.Fatalf("%s: %v", n.id, err)
	}
	var out []string
	for _, m := range log.messages {
		out = append(out, m.body)
	}
	return out
}

// queue reads a whole queue at a node.
func (n *testNode) queue(topic string, queue int32) (queueLog, error) {
	g := n.group()
	var out queueLog
	t, ok := g.State().Topic(topic)
	if !ok {
		return out, nil
	}
	q := g.Store().Queue(storage.QueueID{Topic: topic, Incarnation: t.Incarnation, Queue: queue})
	if q == nil {
		return out, nil
	}
	var err error
	if out.first, err = q.Min(); err != nil {
		return out, err
	}
	units, err := q.Units(out.first, int(q.Max()-out.first), nil)
	if err != nil {
		return out, err
	}
	for i, u := range units {
		rec, err := g.Store().Read(u.Phys, int(u.Size))
		if err != nil {
			return out, fmt.Errorf("unit %d: %w", out.first+int64(i), err)
		}
		v, err := remoting.ParseRecord(rec)
		if err != nil {
			return out, fmt.Errorf("unit %d: %w", out.first+int64(i), err)
		}
		out.messages = append(out.messages, queued{body: string(v.Body()), offset: v.QueueOffset(), phys: v.PhysicalOffset(), unit: u.Phys, stored: v.StoreTimestamp()})
	}
	return out, nil
}

func equalBodies(t *testing.T, who string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s has %d messages\n%s\nwant %d\n%s", who, len(got), strings.Join(got, " "), len(want), strings.Join(want, " "))
	}
}
