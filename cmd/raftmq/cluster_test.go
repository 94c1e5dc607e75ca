package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// process is a node that runs.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been reaped
}

// cluster is a cluster of processes, configured by hand as a user would.
type cluster struct {
	t      testing.TB
	dir    string
	config string // file
	groups int
	ids    []string

	peer, namesrv map[string]string
	brokers       map[string]map[string]string   // group: node: address
	set           []string                       // of every node
	spares        map[string]string              // nodes with files of their own
	net           *network                       // nil: this machine's
	prepare       func(id string, cmd *exec.Cmd) // before a node starts; or nil

	mu      sync.Mutex
	running map[string]*process
	paused  map[string]bool // by SIGSTOP
	away    map[string]bool // up, but not to be asked, for a fault keeps them from their peers
}

// newCluster writes the configuration of a cluster. Nothing runs yet.
func newCluster(t testing.TB, dir string, nodes, groups int) *cluster {
	t.Helper()
	return newClusterOn(t, nil, dir, nodes, groups)
}

// newClusterOn is newCluster on a network of its own, if there is one.
func newClusterOn(t testing.TB, n *network, dir string, nodes, groups int) *cluster {
	t.Helper()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	c := &cluster{
		t: t, dir: dir, net: n, config: filepath.Join(dir, "cluster.yaml"), groups: groups,
		peer: map[string]string{}, namesrv: map[string]string{}, brokers: map[string]map[string]string{}, running: map[string]*process{},
		paused: map[string]bool{}, away: map[string]bool{},
	}
	take := func(string, int) string { return ownPort(t) }
	if n != nil {
		take = func(id string, port int) string { return n.ports[id].addr(port) }
	}
	c.ids = nodeIDs(nodes)
	for _, id := range c.ids {
		c.peer[id], c.namesrv[id] = take(id, 7000), take(id, 9876)
		for g := range groups {
			if c.brokers[groupName(g)] == nil {
				c.brokers[groupName(g)] = map[string]string{}
			}
			c.brokers[groupName(g)][id] = take(id, 10911+10*g)
		}
	}
	c.write(c.yaml())
	return c
}

// given are the ports that tests have: those of a node that is down are free, and
// no other test's.
var given sync.Map

func ownPort(t testing.TB) string {
	t.Helper()
	for {
		ports, err := freePorts(1)
		if err != nil {
			t.Fatal(err)
		}
		if _, taken := given.LoadOrStore(ports[0], true); !taken {
			return ports[0]
		}
	}
}

func nodeIDs(nodes int) (ids []string) {
	for i := range nodes {
		ids = append(ids, fmt.Sprintf("n%d", i+1))
	}
	return ids
}

func (c *cluster) yaml() string {
	var b strings.Builder
	fmt.Fprintln(&b, "brokerClusterName: TestCluster\nnodes:")
	for _, id := range c.ids {
		fmt.Fprintf(&b, "  %s: {peer: %q, namesrv: %q}\n", id, c.peer[id], c.namesrv[id])
	}
	fmt.Fprintln(&b, "groups:")
	for g := range c.groups {
		fmt.Fprintf(&b, "  - brokerName: %s\n    replicas:\n", groupName(g))
		for _, id := range c.ids {
			fmt.Fprintf(&b, "      %s: %q\n", id, c.brokers[groupName(g)][id])
		}
	}
	fmt.Fprintln(&b, "mappedFileSizeCommitLog: 16MiB\nraftSegmentSize: 16MiB\nraftSnapshotBytes: 4MiB\nraftTrailingBytes: 1MiB\ndiskReserve: 1MiB\ntransactionTimeOut: 1s\ntransactionCheckInterval: 1s\ntransactionCheckMax: 1000")
	return b.String()
}

func (c *cluster) write(yaml string) {
	c.t.Helper()
	if err := os.WriteFile(c.config, []byte(yaml), 0o640); err != nil {
		c.t.Fatal(err)
	}
}

// startCluster starts a cluster for the time of a test.
func startCluster(t testing.TB, nodes, groups int) *cluster {
	t.Helper()
	return newCluster(t, t.TempDir(), nodes, groups).run()
}

// run starts a cluster for the time of its test.
func (c *cluster) run() *cluster {
	c.t.Helper()
	c.t.Cleanup(func() {
		c.killAll()
		c.checkLogs()
		for _, id := range c.ids {
			if c.t.Failed() {
				c.t.Logf("the end of %s's log:\n%s%s", id, grave(c.log(id)), tail(c.log(id)))
			}
		}
	})
	c.start(c.ids...)
	c.ready()
	return c
}

func (c *cluster) dataDir(id string) string { return filepath.Join(c.dir, id) }
func (c *cluster) log(id string) string     { return filepath.Join(c.dir, id+".log") }

// args are what starts a node.
func (c *cluster) args(id string) []string {
	config := c.config
	if own := c.spares[id]; own != "" {
		config = own
	}
	args := []string{"server", "--config", config, "--node", id, "--set", "storePathRootDir=" + c.dataDir(id)}
	for _, kv := range c.set {
		args = append(args, "--set", kv)
	}
	return args
}

// start starts nodes, and does not wait for them.
func (c *cluster) start(ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		log, err := os.OpenFile(c.log(id), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
		if err != nil {
			c.t.Fatal(err)
		}
		cmd, _, _ := command(nil, nil, c.args(id)...)
		cmd.Stdout, cmd.Stderr = log, log
		if c.prepare != nil {
			c.prepare(id, cmd)
		}
		start := cmd.Start
		if c.net != nil {
			start = func() error { return c.net.start(id, cmd) }
		}
		if err := errors.Join(start(), log.Close()); err != nil {
			c.t.Fatal(err)
		}
		p := &process{cmd: cmd, ended: make(chan struct{})}
		go func() {
			cmd.Wait() // how it ended is in its ProcessState
			close(p.ended)
		}()
		c.mu.Lock()
		c.running[id] = p
		c.mu.Unlock()
	}
}

// up are the nodes that run.
func (c *cluster) up() (ids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.ids {
		if c.running[id] != nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// present are the nodes that run and can be asked.
func (c *cluster) present() []string {
	return slices.DeleteFunc(c.up(), func(id string) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.away[id] || c.paused[id]
	})
}

// leave says that nodes are not to be asked until reach.
func (c *cluster) leave(ids ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		c.away[id] = true
	}
}

func (c *cluster) reach(ids ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		delete(c.away, id)
	}
}

// signal ends nodes by a signal, all at the same time, and returns how they
// ended.
func (c *cluster) signal(sig syscall.Signal, ids ...string) map[string]*os.ProcessState {
	c.t.Helper()
	c.mu.Lock()
	ending := map[string]*process{}
	for _, id := range ids {
		if p := c.running[id]; p != nil {
			ending[id] = p
			delete(c.running, id)
			delete(c.paused, id)
		}
	}
	c.mu.Unlock()
	for _, p := range ending {
		p.cmd.Process.Signal(sig) // it may have ended
	}
	states := map[string]*os.ProcessState{}
	for id, p := range ending {
		select {
		case <-p.ended:
			states[id] = p.cmd.ProcessState
		case <-time.After(commandTimeout):
			p.cmd.Process.Kill() // it is gone already, or goes now
			<-p.ended
			c.t.Errorf("%s has not ended in %v", id, commandTimeout)
		}
	}
	return states
}

// kill is kill -9, seen to have happened: the node was up and the signal is what
// ended it.
func (c *cluster) kill(ids ...string) {
	c.t.Helper()
	states := c.signal(syscall.SIGKILL, ids...)
	for _, id := range ids {
		s, ok := states[id]
		if !ok {
			c.t.Fatalf("%s was to be killed, but was not up", id)
		}
		if ws := s.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
			c.t.Fatalf("%s was to be killed, but ended by itself: %v\n%s", id, s, tail(c.log(id)))
		}
	}
}

// stop ends all nodes gracefully.
func (c *cluster) stop() {
	c.t.Helper()
	for id, s := range c.signal(syscall.SIGTERM, c.ids...) {
		if s.ExitCode() != 0 {
			c.t.Errorf("%s: %v\n%s", id, s, tail(c.log(id)))
		}
	}
}

// killAll leaves nothing behind.
func (c *cluster) killAll() { c.signal(syscall.SIGKILL, c.ids...) }

// checkLogs looks for what a node never must say.
func (c *cluster) checkLogs() {
	c.t.Helper()
	for _, id := range c.ids {
		text, err := os.ReadFile(c.log(id))
		if err != nil {
			c.t.Error(err)
			continue
		}
		for _, bad := range []string{"WARNING: DATA RACE", "panic:", "fatal error:"} {
			if i := bytes.Index(text, []byte(bad)); i >= 0 {
				c.t.Errorf("log of %s: %s", id, text[i:min(i+4000, len(text))])
			}
		}
	}
}

// grave are the lines of a log that say why a replica stopped.
func grave(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "this replica has stopped") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// tail is the end of a log.
func tail(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

func (c *cluster) namesrvs() string {
	var all []string
	for _, id := range c.ids {
		all = append(all, c.namesrv[id])
	}
	return strings.Join(all, ";")
}

func dialTCP(addr string) (*net.TCPConn, error) {
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return nc.(*net.TCPConn), nil
}

// ask asks whoever is at an address.
func ask(addr string, req *remoting.Command) (*remoting.Command, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	nc, err := dialTCP(addr)
	if err != nil {
		return nil, err
	}
	conn := remoting.NewConn(nc, remoting.ConnConfig{}, nil)
	defer conn.Close() // its error is always nil
	resp, err := conn.Call(ctx, req)
	if err == nil {
		err = resp.Err()
	}
	return resp, err
}

func (c *cluster) status(group, id string) (s remoting.RaftStatus, err error) {
	resp, err := ask(c.brokers[group][id], &remoting.Command{Code: remoting.RaftStatusRequest})
	if err != nil {
		return s, err
	}
	return s, s.DecodeBody(resp.Body)
}

// leads returns the node that leads a group, and its term: the nodes that run
// agree on it.
func (c *cluster) leads(group string) (leader string, term uint64, err error) {
	var says []remoting.RaftStatus
	for _, id := range c.present() {
		s, err := c.status(group, id)
		if err != nil {
			return "", 0, err
		}
		if s.ServerID == s.Leader {
			leader, term = id, s.Term
		}
		says = append(says, s)
	}
	for _, s := range says {
		if leader == "" || s.Term != term || !strings.HasPrefix(s.Leader, leader+"-") {
			return "", 0, fmt.Errorf("%s says that %q leads in term %d", s.Node, s.Leader, s.Term)
		}
	}
	return leader, term, nil
}

// leader waits for a group's leader.
func (c *cluster) leader(group string) (id string, term uint64) {
	c.t.Helper()
	eventually(c.t, "a leader of "+group, func() (err error) {
		id, term, err = c.leads(group)
		return err
	})
	return id, term
}

// healthy waits until every node has all that its groups have.
func (c *cluster) healthy() {
	c.t.Helper()
	for g := range c.groups {
		eventually(c.t, "all replicas of "+groupName(g), func() error { return c.caughtUp(groupName(g)) })
	}
}

// ready is healthy for users: each name service knows of each group that topics
// can be made there by sending to them.
func (c *cluster) ready() {
	c.t.Helper()
	c.healthy()
	for _, id := range c.ids {
		eventually(c.t, "a route to TBW102 at "+id, func() error {
			resp, err := ask(c.namesrv[id], &remoting.Command{Code: remoting.GetRouteInfoByTopic, Header: &remoting.RouteRequest{Topic: remoting.TopicAutoCreate}})
			if err != nil {
				return err
			}
			var route remoting.RouteData
			if err := route.DecodeBody(resp.Body); err != nil || len(route.Queues) != c.groups {
				return fmt.Errorf("%d groups, %v", len(route.Queues), err)
			}
			return nil
		})
	}
}

func (c *cluster) caughtUp(group string) error {
	leader, _, err := c.leads(group)
	if err != nil {
		return err
	}
	want, err := c.status(group, leader)
	if err != nil {
		return err
	}
	if len(want.Members) != len(c.ids) {
		return fmt.Errorf("it has %d members", len(want.Members))
	}
	for _, id := range c.ids {
		s, err := c.status(group, id)
		if err != nil {
			return err
		}
		if s.AppliedIndex < want.AppliedIndex || s.AppliedIndex < s.CommitIndex || !s.Complete || s.Failure != "" {
			return fmt.Errorf("%s has applied %d of %d: %+v", id, s.AppliedIndex, want.AppliedIndex, s)
		}
	}
	return nil
}

// settled waits until no replica has anything that is not applied everywhere:
// then nothing changes any more without a send.
func (c *cluster) settled() {
	c.t.Helper()
	for g := range c.groups {
		eventually(c.t, "equal logs of "+groupName(g), func() error {
			if err := c.caughtUp(groupName(g)); err != nil {
				return err
			}
			var first remoting.RaftStatus
			for i, id := range c.ids {
				s, err := c.status(groupName(g), id)
				if err != nil {
					return err
				}
				if i == 0 {
					first = s
				}
				if s.LastIndex != s.AppliedIndex || s.LastIndex != first.LastIndex || s.Term != first.Term {
					return fmt.Errorf("%s has %+v, %s %+v", id, s, first.Node, first)
				}
			}
			return nil
		})
	}
}

// verify runs raftmq verify over all nodes, which are stopped.
func (c *cluster) verify() {
	c.t.Helper()
	args := []string{"verify"}
	for _, id := range c.ids {
		args = append(args, "--dir", c.dataDir(id))
	}
	raftmq(c.t, args...).want(c.t, 0)
}

func (c *cluster) others(id string) []string {
	return slices.DeleteFunc(slices.Clone(c.ids), func(o string) bool { return o == id })
}

// common is a cluster of one node that tests share which need no other. Each has
// topics and groups of its own.
var common commonCluster

type commonCluster struct {
	once sync.Once
	dir  string
	c    *cluster
}

// shared returns the common cluster, as RAFTMQ_NAMESRV has it.
func shared(t testing.TB) (env []string) {
	t.Helper()
	common.once.Do(func() {
		common.c = newCluster(t, common.dir, 1, 1)
		common.c.start("n1")
		common.c.ready()
	})
	if common.c == nil || len(common.c.up()) == 0 {
		t.Fatal("the common cluster is not up")
	}
	return []string{"RAFTMQ_NAMESRV=" + common.c.namesrvs()}
}

func (s *commonCluster) stop() {
	if s.c != nil {
		s.c.killAll()
	}
}
