package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/raftmq/raftmq/client"
)

const (
	nodes = 3
	// healthyTimeout is how long replicas may take to be healthy again.
	healthyTimeout = time.Minute
	// stopTimeout is how long a node may take to end.
	stopTimeout = 45 * time.Second
	// behind is how many entries a healthy replica may have to apply yet.
	behind = 200
)

// cluster is a cluster of processes.
type cluster struct {
	dir   string
	nodes []*node
	net   *network // nil: all on the loopback interface
	names string
	cl    *client.Client // for questions
	topic string
}

// node is a node and its process.
type node struct {
	id            string
	peer, namesrv string
	brokers       []string // address of each group's replica
	args          []string
	log           string
	cmd           *exec.Cmd
	ended         chan error // gets the process's end
}

func groupName(i int) string { return "broker-" + string(rune('a'+i)) }

func startCluster(ctx context.Context, o options, partition bool) (_ *cluster, err error) {
	c := &cluster{dir: o.dir, topic: "Failover"}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	hosts := []string{"127.0.0.1", "127.0.0.1", "127.0.0.1"}
	if partition {
		if c.net, err = newNetwork(); err != nil {
			return c, err
		}
		hosts = c.net.hosts
	}
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return c, err
	}
	for i, host := range hosts {
		n := &node{id: fmt.Sprintf("n%d", i+1)}
		c.nodes = append(c.nodes, n)
		for _, addr := range []*string{&n.peer, &n.namesrv} {
			if *addr, err = c.port(host); err != nil {
				return c, err
			}
		}
		for range o.groups {
			addr, err := c.port(host)
			if err != nil {
				return c, err
			}
			n.brokers = append(n.brokers, addr)
		}
		n.log = filepath.Join(o.dir, n.id+".log")
		n.args = []string{binary, "server", "--config", filepath.Join(o.dir, "cluster.yaml"), "--node", n.id,
			"--set", "storePathRootDir=" + filepath.Join(o.dir, n.id),
			// A cycle is one fault, and none comes by itself.
			"--set", "leaderBalance=false"}
		c.names += n.namesrv + ";"
	}
	c.names = strings.TrimSuffix(c.names, ";")
	if err := os.MkdirAll(o.dir, 0o750); err != nil {
		return c, err
	}
	if err := os.WriteFile(filepath.Join(o.dir, "cluster.yaml"), c.yaml(), 0o640); err != nil {
		return c, err
	}
	for _, n := range c.nodes {
		if err := c.start(n); err != nil {
			return c, err
		}
	}
	if c.cl, err = client.New(client.Config{NameServers: c.names}); err != nil {
		return c, err
	}
	if err := c.healthy(ctx, o.groups); err != nil {
		return c, err
	}
	t := client.NewTopicConfig(c.topic)
	return c, until(ctx, healthyTimeout, "the topic is not made", func() error {
		if err := c.cl.Admin().CreateTopic(ctx, t); err != nil {
			return err
		}
		r, err := c.cl.Admin().TopicRoute(ctx, c.topic)
		if err == nil && len(r.Queues) != o.groups {
			err = fmt.Errorf("its route has %d groups", len(r.Queues))
		}
		return err
	})
}

// port is an address that is free. It is below those that systems give to outgoing
// connections: a node that is down would find its own taken by one.
func (c *cluster) port(host string) (string, error) {
	for range 1000 {
		addr := fmt.Sprintf("%s:%d", host, 15000+rand.IntN(15000))
		if c.taken(addr) {
			continue
		}
		if c.net != nil {
			return addr, nil // nobody else is there
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("no free port from 15000 to 29999")
}

// taken says whether a node has this address already.
func (c *cluster) taken(addr string) bool {
	for _, n := range c.nodes {
		if n.peer == addr || n.namesrv == addr || slices.Contains(n.brokers, addr) {
			return true
		}
	}
	return false
}

func (c *cluster) network() string {
	if c.net != nil {
		return "each node in a network namespace"
	}
	return "loopback"
}

func (c *cluster) yaml() []byte {
	var b strings.Builder
	fmt.Fprintln(&b, "brokerClusterName: DefaultCluster\nnodes:")
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "  %s: {peer: %q, namesrv: %q}\n", n.id, n.peer, n.namesrv)
	}
	fmt.Fprintln(&b, "groups:")
	for g := range c.nodes[0].brokers {
		fmt.Fprintf(&b, "  - brokerName: %s\n    replicas:\n", groupName(g))
		for _, n := range c.nodes {
			fmt.Fprintf(&b, "      %s: %q\n", n.id, n.brokers[g])
		}
	}
	fmt.Fprintln(&b, "mappedFileSizeCommitLog: 64MiB\nraftSegmentSize: 16MiB\nraftSnapshotBytes: 128MiB\nraftTrailingBytes: 32MiB\ndiskReserve: 64MiB")
	return []byte(b.String())
}

func (c *cluster) start(n *node) error {
	log, err := os.OpenFile(n.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	args := n.args
	if c.net != nil {
		args = append(c.net.within(n.id), args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return fmt.Errorf("%s: %w", n.id, err)
	}
	n.cmd, n.ended = cmd, make(chan error, 1)
	go func(ended chan<- error) { ended <- cmd.Wait() }(n.ended)
	return nil
}

func (n *node) signal(s syscall.Signal) error { return n.cmd.Process.Signal(s) }

// end waits for the process's end and says how it was.
func (n *node) end() error {
	select {
	case err := <-n.ended:
		n.cmd = nil
		return err
	case <-time.After(stopTimeout):
		return fmt.Errorf("%s has not ended in %v; see %s", n.id, stopTimeout, n.log)
	}
}

// healthy waits until every replica of every group is there, knows the one leader
// and has about all that it has.
func (c *cluster) healthy(ctx context.Context, groups int) error {
	return until(ctx, healthyTimeout, "the cluster is not healthy", func() error {
		for g := range groups {
			if _, err := c.leads(ctx, g); err != nil {
				return err
			}
		}
		return nil
	})
}

// leads is the node that leads a group of which all replicas are healthy.
func (c *cluster) leads(ctx context.Context, g int) (*node, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var leader *node
	var term, committed uint64
	for pass := range 2 { // the leader first: the others may be ahead of what it said
		for _, n := range c.nodes {
			s, err := c.cl.Admin().RaftStatus(ctx, n.brokers[g])
			switch {
			case err != nil:
				return nil, fmt.Errorf("%s, %s: %w", n.id, groupName(g), err)
			case s.Failure != "":
				return nil, fmt.Errorf("%s, %s has failed: %s", n.id, groupName(g), s.Failure)
			case pass == 0 && s.ServerID == s.Leader:
				leader, term, committed = n, s.Term, s.CommitIndex
			case pass == 1 && (s.Term != term || !s.Complete || s.AppliedIndex+behind < committed):
				return nil, fmt.Errorf("%s, %s: term %d, applied %d, complete %v; the leader has term %d, committed %d",
					n.id, groupName(g), s.Term, s.AppliedIndex, s.Complete, term, committed)
			}
		}
		if leader == nil {
			return nil, fmt.Errorf("nobody leads %s", groupName(g))
		}
	}
	return leader, nil
}

// spread gives each group's leadership to another node, so that a fault of one
// leader is no fault of another group's.
func (c *cluster) spread(ctx context.Context, groups int) error {
	if groups == 1 {
		return nil
	}
	return until(ctx, healthyTimeout, "the groups' leaders are not spread", func() error {
		for g := range groups {
			n, err := c.leads(ctx, g)
			if err != nil {
				return err
			}
			if home := c.nodes[g%nodes]; n != home {
				if err := c.cl.Admin().RaftTransfer(ctx, n.brokers[g], home.id); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// replaced waits until those who are left say that another node leads: else the
// fault was none.
func (c *cluster) replaced(ctx context.Context, g int, gone *node) error {
	return until(ctx, 10*time.Second, "the fault has not taken effect", func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		for _, n := range c.nodes {
			if n == gone {
				continue
			}
			s, err := c.cl.Admin().RaftStatus(ctx, n.brokers[g])
			if err != nil {
				return err
			}
			if s.LeaderAddress == "" || s.LeaderAddress == gone.brokers[g] {
				return fmt.Errorf("%s takes %q for the leader of %s", n.id, s.LeaderAddress, groupName(g))
			}
		}
		return nil
	})
}

// stop ends all processes.
func (c *cluster) stop() error {
	if c.cl != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		c.cl.Close(ctx) // it only asked
		cancel()
	}
	var err error
	for _, n := range c.nodes {
		if n.cmd != nil {
			n.signal(syscall.SIGKILL) // what it has is looked at no more
			n.end()                   // by the signal
		}
	}
	if c.net != nil {
		err = c.net.close()
	}
	return err
}

// until repeats what fails, until it succeeds or the time is over.
func until(ctx context.Context, limit time.Duration, what string, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}
