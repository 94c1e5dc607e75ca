package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// testCluster is a cluster of nodes in this process, on loopback ports.
type testCluster struct {
	cfg Config // of all nodes; StorePathRootDir has a directory for each

	mu    sync.Mutex
	nodes map[string]*Node
}

// givenPorts are those that tests have: of a node that is down they are free, and
// no other test's.
var givenPorts sync.Map

// freePorts are addresses on which nothing listens. They are below those that
// systems give to outgoing connections, which might take one of a node that is
// down.
func freePorts(n int) ([]string, error) {
	const first, last = 10_000, 15_000
	var addrs []string
	for tries := 0; len(addrs) < n; tries++ {
		addr := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			if tries > 100*n {
				return nil, err
			}
			continue
		}
		if err := l.Close(); err != nil {
			return nil, err
		}
		if _, taken := givenPorts.LoadOrStore(addr, true); !taken {
			addrs = append(addrs, addr)
		}
	}
	return addrs, nil
}

func testLogger() hclog.Logger {
	if os.Getenv("RAFTMQ_TEST_LOG") == "" {
		return hclog.NewNullLogger()
	}
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr})
}

// newCluster starts a cluster of n nodes with one group that has a replica on
// each.
func newCluster(root string, n int, tweak func(*Config)) (*testCluster, error) {
	ports, err := freePorts(3 * n)
	if err != nil {
		return nil, err
	}
	c := &testCluster{nodes: map[string]*Node{}}
	c.cfg = Config{
		listenFirst:             -1,
		Nodes:                   map[string]NodeConfig{},
		Groups:                  []GroupConfig{{BrokerName: "broker-a", Replicas: map[string]string{}}},
		StorePathRootDir:        root,
		MappedFileSizeCommitLog: 16 << 20, RaftSegmentSize: 16 << 20, DiskReserve: 1 << 20,
	}
	// One alone has nobody to wait for. Several in one process, beside other tests,
	// are slow to answer at times, and are not to lose their leader for that.
	c.cfg.ElectionTimeout = Duration(time.Second)
	if n == 1 {
		c.cfg.ElectionTimeout = Duration(50 * time.Millisecond)
	}
	for i := range n {
		id := fmt.Sprintf("n%d", i+1)
		c.cfg.Nodes[id] = NodeConfig{Peer: ports[3*i], Namesrv: ports[3*i+1]}
		c.cfg.Groups[0].Replicas[id] = ports[3*i+2]
	}
	// Who leads is the test's business, and nobody uses a node that it stops.
	no := false
	c.cfg.LeaderBalance, c.cfg.ShutdownDrainTimeout = &no, Duration(time.Millisecond)
	if tweak != nil {
		tweak(&c.cfg)
	}
	for _, id := range c.ids() {
		if err := c.start(id); err != nil {
			return nil, errors.Join(err, c.stop())
		}
	}
	return c, nil
}

// startCluster is newCluster for the time of a test.
func startCluster(t testing.TB, n int, tweak func(*Config)) *testCluster {
	t.Helper()
	c, err := newCluster(t.TempDir(), n, tweak)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *testCluster) ids() []string { return slices.Sorted(maps.Keys(c.cfg.Nodes)) }

func (c *testCluster) config(id string) Config {
	cfg := c.cfg
	cfg.NodeID = id
	cfg.StorePathRootDir = filepath.Join(c.cfg.StorePathRootDir, id)
	return cfg
}

func (c *testCluster) start(id string) error {
	n, err := Open(c.config(id), testLogger())
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[id] = n
	return nil
}

func (c *testCluster) mustStart(t testing.TB, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := c.start(id); err != nil {
			t.Fatal(err)
		}
	}
}

// end stops nodes, without handing over what they lead.
func (c *testCluster) end(t testing.TB, ids ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, id := range ids {
		c.mu.Lock()
		n := c.nodes[id]
		delete(c.nodes, id)
		c.mu.Unlock()
		if err := n.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("closing %s: %v", id, err)
		}
	}
}

func (c *testCluster) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var group sync.WaitGroup
	var all error
	for id, n := range c.nodes {
		group.Go(func() {
			if err := n.Close(ctx); err != nil {
				c.mu.Lock()
				all = errors.Join(all, fmt.Errorf("closing %s: %w", id, err))
				c.mu.Unlock()
			}
		})
	}
	group.Wait()
	return all
}

// brokers are the replicas that are up, by node.
func (c *testCluster) brokers() map[string]*Broker {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]*Broker{}
	for id, n := range c.nodes {
		for _, b := range n.brokers {
			all[id] = b
		}
	}
	return all
}

// leader waits for the group's leader.
func (c *testCluster) leader(t testing.TB) *Broker {
	t.Helper()
	var leader *Broker
	eventually(t, "a leader with its system topics", func() bool {
		for _, b := range c.brokers() {
			if b.leads() && b.leading.ready.Load() == b.group.Leadership().Term {
				leader = b
			}
		}
		return leader != nil
	})
	return leader
}

// followers waits until all others know the leader.
func (c *testCluster) followers(t testing.TB) []*Broker {
	t.Helper()
	leader := c.leader(t)
	var all []*Broker
	for _, b := range c.brokers() {
		if b != leader {
			eventually(t, "a follower that knows the leader", func() bool { return b.group.Leadership().Node == leader.cfg.NodeID })
			all = append(all, b)
		}
	}
	return all
}

// transfer moves leadership, and waits for the new leader.
func (c *testCluster) transfer(t testing.TB) *Broker {
	t.Helper()
	old := c.leader(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := old.group.TransferLeadership(ctx, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old leader's resignation", func() bool { return !old.leads() })
	return c.leader(t)
}

// caughtUp waits until all replicas have applied what the leader has.
func (c *testCluster) caughtUp(t testing.TB) {
	t.Helper()
	want := c.leader(t).group.Status().AppliedIndex
	for id, b := range c.brokers() {
		eventually(t, id+" has caught up", func() bool { return b.group.Status().AppliedIndex >= want })
	}
}

// eventually waits for a condition that nothing tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if err := until(what, ok); err != nil {
		t.Fatal(err)
	}
}

func until(what string, ok func() bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			return errors.New("not in 30 s: " + what)
		}
	}
	return nil
}

// named is a topic or group name of a test's own, another one in each run.
func named(t testing.TB) string {
	name := strings.Map(func(r rune) rune {
		if r == '/' || r > 127 || strings.ContainsRune(" .,:+", r) {
			return '_'
		}
		return r
	}, t.Name())
	return fmt.Sprint(name, "-", names.Add(1))
}

var names atomic.Int64
