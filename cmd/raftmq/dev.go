package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

func devCommand() *cli.Command {
	return &cli.Command{
		Name:  "dev",
		Usage: "run a cluster on this machine, one process a node",
		Description: "Makes a configuration and data directories below --dir, starts the nodes and prints who is\n" +
			"who. DIR/cluster.json says it to programs. Ctrl-C ends all of them. A node that is killed stays\n" +
			"down until its command, which is printed, is run again: that is how failover is tried. The same\n" +
			"--dir again continues with the same data.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "nodes", Value: 3, Usage: "`N` processes"},
			&cli.IntFlag{Name: "groups", Value: 3, Usage: "`N` broker groups, each with a replica on every node"},
			&cli.StringFlag{Name: "dir", Value: filepath.Join("data", "dev"), Usage: "`DIR` for everything"},
			&cli.StringSliceFlag{Name: "set", Usage: "`KEY=VALUE` of the nodes' configuration, as raftmq server's --set"},
		},
		Action: runDev,
	}
}

// devCluster is cluster.json.
type devCluster struct {
	Dir     string    `json:"dir"`
	Config  string    `json:"config"`
	Namesrv string    `json:"namesrv"`
	Nodes   []devNode `json:"nodes"`
}

type devNode struct {
	ID      string            `json:"id"`
	Pid     int               `json:"pid"`
	Peer    string            `json:"peer"`
	Namesrv string            `json:"namesrv"`
	Brokers map[string]string `json:"brokers"` // group: address for clients
	DataDir string            `json:"dataDir"`
	Log     string            `json:"log"`
	Command []string          `json:"command"` // starts it
}

func readCluster(file string) (*devCluster, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usage("%v", err)
	}
	c := new(devCluster)
	if err := json.Unmarshal(text, c); err != nil {
		return nil, usage("%s: %v", file, err)
	}
	return c, nil
}

// lockDir keeps a second raftmq dev from taking a running cluster's directory.
// The lock ends with the process.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, usage("--dir %s: %v", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, usage("--dir %s: %v", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close() // nothing was written
		return nil, usage("--dir %s: a raftmq dev runs there: end it, or give another --dir", dir)
	}
	return func() { f.Close() }, nil
}

func (d *devCluster) write() error {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(d.Dir, "cluster.json")
	if err := os.WriteFile(name+".tmp", append(text, '\n'), 0o640); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

// plan makes the cluster's configuration, or reads what an earlier run made.
func plan(dir string, nodes, groups int, set []string) (*devCluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if old, err := readCluster(filepath.Join(dir, "cluster.json")); err == nil {
		if len(old.Nodes) != nodes || len(old.Nodes[0].Brokers) != groups {
			return nil, usage("%s has a cluster of %d nodes and %d groups: give another --dir, or the same numbers", dir, len(old.Nodes), len(old.Nodes[0].Brokers))
		}
		old.command(self, set)
		return old, nil
	}
	ports, err := freePorts(nodes * (2 + groups))
	if err != nil {
		return nil, err
	}
	d := &devCluster{Dir: dir, Config: filepath.Join(dir, "cluster.yaml")}
	var names []string
	for i := range nodes {
		n := devNode{ID: fmt.Sprintf("n%d", i+1), Brokers: map[string]string{}}
		n.Peer, n.Namesrv, ports = ports[0], ports[1], ports[2:]
		for g := range groups {
			n.Brokers[groupName(g)], ports = ports[0], ports[1:]
		}
		n.DataDir = filepath.Join(dir, n.ID)
		n.Log = filepath.Join(dir, n.ID+".log")
		d.Nodes = append(d.Nodes, n)
		names = append(names, n.Namesrv)
	}
	d.Namesrv = strings.Join(names, ";")
	d.command(self, set)
	return d, os.WriteFile(d.Config, d.yaml(groups), 0o640)
}

func (d *devCluster) command(self string, set []string) {
	for i := range d.Nodes {
		n := &d.Nodes[i]
		n.Command = []string{self, "server", "--config", d.Config, "--node", n.ID, "--set", "storePathRootDir=" + n.DataDir}
		for _, kv := range set {
			n.Command = append(n.Command, "--set", kv)
		}
	}
}

// groupName is broker-a, broker-b and so on.
func groupName(i int) string { return "broker-" + string(rune('a'+i%26)) + strings.Repeat("x", i/26) }

// The ports of dev clusters. They are below those that systems give to outgoing
// connections: a node that is down would find its own taken by one.
const firstPort, lastPort = 15000, 30000

func freePorts(n int) ([]string, error) {
	var addrs []string
	for tries := 0; len(addrs) < n; tries++ {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort))
		// All are held until all are found, so that none is given out twice.
		l, err := net.Listen("tcp", addr)
		if err != nil {
			if tries > 100*n {
				return nil, fmt.Errorf("no %d free ports from %d to %d: %w", n, firstPort, lastPort, err)
			}
			continue
		}
		defer l.Close() // it accepted nothing
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

func (d *devCluster) yaml(groups int) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "# Made by raftmq dev. The sizes are small, so that a laptop's disk is enough.")
	fmt.Fprintln(&b, "brokerClusterName: DefaultCluster\nnodes:")
	for _, n := range d.Nodes {
		fmt.Fprintf(&b, "  %s: {peer: %q, namesrv: %q}\n", n.ID, n.Peer, n.Namesrv)
	}
	fmt.Fprintln(&b, "groups:")
	for g := range groups {
		fmt.Fprintf(&b, "  - brokerName: %s\n    replicas:\n", groupName(g))
		for _, n := range d.Nodes {
			fmt.Fprintf(&b, "      %s: %q\n", n.ID, n.Brokers[groupName(g)])
		}
	}
	fmt.Fprintln(&b, "mappedFileSizeCommitLog: 64MiB\nraftSegmentSize: 16MiB\nraftSnapshotBytes: 128MiB\nraftTrailingBytes: 32MiB\ndiskReserve: 64MiB")
	fmt.Fprintln(&b, "leaderBalanceDelay: 1s # leadership is spread at once")
	return b.Bytes()
}

// supervisor runs the nodes' processes.
type supervisor struct {
	d  *devCluster
	mu sync.Mutex
	// running are the nodes that are up, with a channel that is closed when they
	// are not.
	running map[string]*exec.Cmd
	ended   map[string]chan struct{}
	said    chan string
}

func runDev(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if n, g := c.Int("nodes"), c.Int("groups"); n < 1 || n > 9 || g < 1 || g > 26 {
		return usage("--nodes %d --groups %d: want 1 to 9 nodes and 1 to 26 groups", n, g)
	}
	unlock, err := lockDir(c.String("dir"))
	if err != nil {
		return err
	}
	defer unlock()
	d, err := plan(c.String("dir"), c.Int("nodes"), c.Int("groups"), c.StringSlice("set"))
	if err != nil {
		return err
	}
	s := &supervisor{d: d, running: map[string]*exec.Cmd{}, ended: map[string]chan struct{}{}, said: make(chan string, 100)}
	err = s.run(c)
	return errors.Join(err, s.stop(c))
}

func (s *supervisor) run(c *cli.Context) error {
	for i := range s.d.Nodes {
		if err := s.start(&s.d.Nodes[i]); err != nil {
			return err
		}
	}
	if err := s.d.write(); err != nil {
		return err
	}
	cl, err := client.New(client.Config{NameServers: s.d.Namesrv})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		cl.Close(ctx) // it only looked
	}()
	roles, err := s.awaitLeaders(c.Context, cl.Admin())
	if err != nil {
		return err
	}
	if err := s.spread(c.Context, cl.Admin(), roles); err != nil {
		fmt.Fprintln(c.App.Writer, "note:", err)
	}
	if roles, err = s.awaitLeaders(c.Context, cl.Admin()); err != nil {
		return err
	}
	t := newTable("node", "pid", "group", "role", "clients", "peers", "namesrv")
	for _, n := range s.d.Nodes {
		for g := range len(n.Brokers) {
			name := groupName(g)
			t.add(n.ID, n.Pid, name, roles[name+n.ID], n.Brokers[name], n.Peer, n.Namesrv)
		}
	}
	if err := t.text(c.App.Writer); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "\nexport RAFTMQ_NAMESRV='%s'\ncluster.json, logs and data: %s\nCtrl-C ends the cluster.\n", s.d.Namesrv, s.d.Dir)
	s.watch(c, cl.Admin(), roles)
	return nil
}

func (s *supervisor) start(n *devNode) error {
	log, err := os.OpenFile(n.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	cmd := exec.Command(n.Command[0], n.Command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C is for us, we end the nodes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	err = cmd.Start()
	if err = errors.Join(err, log.Close()); err != nil {
		return fmt.Errorf("%s: %w", n.ID, err)
	}
	n.Pid = cmd.Process.Pid
	ended := make(chan struct{})
	s.mu.Lock()
	s.running[n.ID], s.ended[n.ID] = cmd, ended
	s.mu.Unlock()
	go func() {
		err := cmd.Wait()
		s.mu.Lock()
		delete(s.running, n.ID)
		s.mu.Unlock()
		text := fmt.Sprintf("%s (pid %d) has ended: %v", n.ID, n.Pid, errText(err))
		if last := lastLine(n.Log); err != nil && last != "" && strings.HasPrefix(last, "raftmq: ") {
			text += ": " + strings.TrimPrefix(last, "raftmq: ")
		}
		close(ended)
		s.said <- text + "\nto start it again:\n  " + strings.Join(n.Command, " ")
	}()
	return nil
}

// lastLine is the last line of a log, in which a node that could not start says
// why; "" if it can't be read.
func lastLine(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	text = bytes.TrimSpace(text)
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}

func errText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// roles asks the name service who leads each group: by group and node.
func (s *supervisor) roles(ctx context.Context, a *client.Admin) (map[string]string, bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	info, err := a.ClusterInfo(ctx)
	if err != nil {
		return nil, false
	}
	out := map[string]string{}
	all := true
	for g := range len(s.d.Nodes[0].Brokers) {
		name := groupName(g)
		leader := info.Brokers[name].Addrs[0]
		found := false
		for _, n := range s.d.Nodes {
			role := "follower"
			if n.Brokers[name] == leader {
				role, found = "leader", true
			}
			out[name+n.ID] = role
		}
		all = all && found
	}
	return out, all
}

// startTimeout bounds the wait for leaders at the start.
const startTimeout = 60 * time.Second

func (s *supervisor) awaitLeaders(ctx context.Context, a *client.Admin) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if roles, all := s.roles(ctx, a); all {
			return roles, nil
		}
		select {
		case text := <-s.said:
			return nil, fmt.Errorf("%s\nlogs: %s", text, filepath.Join(s.d.Dir, "*.log"))
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("no leaders in %v: see the logs in %s", startTimeout, s.d.Dir)
		}
	}
}

// spread waits until each group is led by its preferred leader, so that no node
// idles.
func (s *supervisor) spread(ctx context.Context, a *client.Admin, roles map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, spreadTimeout)
	defer cancel()
	for g := range len(s.d.Nodes[0].Brokers) {
		name, home := groupName(g), s.d.Nodes[g%len(s.d.Nodes)]
		for now := roles; now[name+home.ID] != "leader"; now, _ = s.roles(ctx, a) {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%s does not lead %s yet", home.ID, name)
			}
		}
	}
	return nil
}

// spreadTimeout bounds what is done for the sake of evenness.
const spreadTimeout = 5 * time.Second

// watch says what happens, until the command is to end.
func (s *supervisor) watch(c *cli.Context, a *client.Admin, roles map[string]string) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case text := <-s.said:
			fmt.Fprintln(c.App.Writer, text)
		case <-tick.C:
			now, all := s.roles(c.Context, a)
			if !all {
				continue
			}
			for g := range len(s.d.Nodes[0].Brokers) {
				for _, n := range s.d.Nodes {
					key := groupName(g) + n.ID
					if now[key] == "leader" && roles[key] != "leader" {
						fmt.Fprintf(c.App.Writer, "%s leads %s\n", n.ID, groupName(g))
					}
				}
			}
			roles = now
		case <-c.Context.Done():
			return
		}
	}
}

// stop ends the nodes that this command has started.
func (s *supervisor) stop(c *cli.Context) error {
	s.mu.Lock()
	var waiting []chan struct{}
	for id, cmd := range s.running {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			fmt.Fprintf(c.App.Writer, "%s: %v\n", id, err)
		}
		waiting = append(waiting, s.ended[id])
	}
	s.mu.Unlock()
	late := time.After(stopTimeout + 5*time.Second)
	for _, ended := range waiting {
		select {
		case <-ended:
		case <-late:
			s.mu.Lock()
			for _, cmd := range s.running {
				cmd.Process.Kill() // it is gone already, or goes now
			}
			s.mu.Unlock()
			return fmt.Errorf("nodes did not end in %v and were killed: see the logs in %s", stopTimeout, s.d.Dir)
		}
	}
	return nil
}
