// Command demo shows what raftmq is for: three broker processes carry a file's
// lines from a producer to a consumer group while their leader is killed with
// -9 and started again. Then it compares what was consumed with the file, byte
// for byte, and the replicas with each other.
//
// It exits with 1 unless nothing was lost, doubled or out of order and the
// replicas are identical.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/raftmq/raftmq/client"
)

const (
	topicName = "Demo"
	groupName = "demo_consumers"

	// electionLimit is how long the group may be without a leader.
	electionLimit = 15 * time.Second
)

type options struct {
	binary string
	input  string
	lines  int
	queues int
	dir    string
}

func main() {
	var o options
	flag.StringVar(&o.binary, "raftmq", "bin/raftmq", "the raftmq `binary`")
	flag.StringVar(&o.input, "input", "", "the `file` whose lines are sent; default: the source of Go's standard library")
	flag.IntVar(&o.lines, "lines", 600_000, "send at most this many lines, 0: all")
	flag.IntVar(&o.queues, "queues", 64, "queues of the topic, each with a sender of its own")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the cluster, which stays; default: one that is removed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (ok bool, err error) {
	if flag.NArg() > 0 || o.lines < 0 || o.queues < 1 {
		return false, errors.New("unknown argument; see demo -h")
	}
	if _, err := os.Stat(filepath.Join(o.dir, "cluster")); o.dir != "" && err == nil {
		return false, fmt.Errorf("-dir %s has a cluster already: give an empty directory", o.dir)
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "raftmq-demo-"); err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	in, err := openInput(o)
	if err != nil {
		return false, err
	}
	fmt.Printf("input: %d lines, %.1f MB, of %s\n", len(in.lines), float64(len(in.text))/1e6, in.name)
	c, err := startCluster(ctx, o)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	fmt.Printf("cluster: 3 processes, one broker group with a replica on each; %s leads\n", c.leader)

	cl, err := client.New(client.Config{NameServers: c.Namesrv})
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, cl.Close(ctx))
	}()
	t := client.NewTopicConfig(topicName)
	t.ReadQueueNums, t.WriteQueueNums = int32(o.queues), int32(o.queues)
	if err := cl.Admin().CreateTopic(ctx, t); err != nil {
		return false, err
	}
	consumed, err := startConsumer(ctx, cl)
	if err != nil {
		return false, err
	}
	sent, err := produce(ctx, cl, in, o.queues, c.script(len(in.lines)))
	if err != nil {
		return false, err
	}
	fmt.Printf("acknowledged: %d lines in %.1f s; waiting for the consumer group\n", sent.acked, sent.elapsed.Seconds())
	if err := consumed.wait(ctx, sent.acked); err != nil {
		return false, err
	}
	found := consumed.compare(in, o.queues)
	closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := consumed.consumer.Close(closing); err != nil {
		return false, err
	}
	if err := c.stop(); err != nil {
		return false, err
	}
	identical, err := c.verify(o)
	if err != nil {
		return false, err
	}
	printTable(sent, found, identical)
	text, ok := verdict(sent, found, identical)
	fmt.Println("\n" + text)
	return ok, nil
}

func printTable(s *production, f comparison, identical bool) {
	yes := "no"
	if identical {
		yes = "yes"
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nsent\tacked\tconsumed\tlost\tduplicated\tout of order\tdamaged\tlongest send gap ms\tmsg/s\treplicas identical")
	fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t%s\n", s.sent, s.acked, f.consumed, f.lost, f.duplicated, f.disordered, f.damaged,
		s.gap.Milliseconds(), float64(s.acked)/s.elapsed.Seconds(), yes)
	w.Flush() // to the terminal
}

// cluster is the one that raftmq dev runs.
type cluster struct {
	Namesrv string `json:"namesrv"`
	Nodes   []node `json:"nodes"`

	dir     string
	leader  string
	dev     *exec.Cmd
	reading sync.WaitGroup // what dev prints
	revived *exec.Cmd
	stopped bool
}

type node struct {
	ID      string            `json:"id"`
	Pid     int               `json:"pid"`
	Brokers map[string]string `json:"brokers"`
	DataDir string            `json:"dataDir"`
	Log     string            `json:"log"`
	Command []string          `json:"command"`
}

func startCluster(ctx context.Context, o options) (*cluster, error) {
	c := &cluster{dir: filepath.Join(o.dir, "cluster")}
	c.dev = exec.Command(o.binary, "dev", "--nodes", "3", "--groups", "1", "--dir", c.dir)
	c.dev.Stderr = os.Stderr
	says, err := c.dev.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.dev.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.dev.Start(); err != nil {
		return nil, err
	}
	// Until dev says that the cluster is up, a node that ends is one that could not
	// start, and ends the others: the script may not begin before.
	up := make(chan bool, 1)
	c.reading.Go(func() {
		for lines := bufio.NewScanner(says); lines.Scan(); {
			if strings.Contains(lines.Text(), "Ctrl-C ends the cluster") {
				up <- true
			}
		}
		close(up)
	})
	select {
	case ok := <-up:
		if !ok {
			return nil, errors.Join(errors.New("raftmq dev has ended"), c.stop())
		}
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), c.stop())
	}
	if err := c.await(ctx); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// await waits until the cluster is described and has a leader.
func (c *cluster) await(ctx context.Context) error {
	return until(ctx, time.Minute, "the cluster has no leader", func() error {
		text, err := os.ReadFile(filepath.Join(c.dir, "cluster.json"))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, c); err != nil {
			return err
		}
		c.leader, err = c.leads(ctx)
		return err
	})
}

// awaitLeader waits for the end of an election.
func (c *cluster) awaitLeader(ctx context.Context) (id string, err error) {
	err = until(ctx, electionLimit, "the group has no leader", func() error {
		id, err = c.leads(ctx)
		return err
	})
	return id, err
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

// leads asks the name service who leads.
func (c *cluster) leads(ctx context.Context) (id string, err error) {
	err = c.ask(func(a *client.Admin) error {
		addrs, err := a.Replicas(ctx, "broker-a")
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			s, err := a.RaftStatus(ctx, addr)
			if err == nil && s.ServerID == s.Leader {
				id = s.Node
				return nil
			}
		}
		return errors.New("no replica leads")
	})
	return id, err
}

// ask asks the cluster with a client of its own.
func (c *cluster) ask(question func(*client.Admin) error) error {
	cl, err := client.New(client.Config{NameServers: c.Namesrv})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		cl.Close(ctx) // it only asked
	}()
	return question(cl.Admin())
}

func (c *cluster) node(id string) *node {
	for i := range c.Nodes {
		if c.Nodes[i].ID == id {
			return &c.Nodes[i]
		}
	}
	return nil
}

// script is what happens while the lines are sent: at 40 % the leader is killed,
// at 70 % it is started again.
func (c *cluster) script(lines int) []event {
	return []event{
		{at: lines * 4 / 10, do: func(ctx context.Context) error {
			id, err := c.awaitLeader(ctx)
			if err != nil {
				return err
			}
			c.leader = id
			n := c.node(id)
			fmt.Printf("after %d lines: kill -9 %d, which is %s, the leader\n", lines*4/10, n.Pid, n.ID)
			return syscall.Kill(n.Pid, syscall.SIGKILL)
		}},
		{at: lines * 7 / 10, do: func(ctx context.Context) error {
			now, err := c.awaitLeader(ctx)
			if err != nil {
				return err
			}
			n := c.node(c.leader)
			log, err := os.OpenFile(n.Log, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			c.revived = exec.Command(n.Command[0], n.Command[1:]...)
			c.revived.Stdout, c.revived.Stderr = log, log
			c.revived.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
			if err := errors.Join(c.revived.Start(), log.Close()); err != nil {
				return err
			}
			fmt.Printf("after %d lines: %s leads; %s is started again, pid %d\n", lines*7/10, now, n.ID, c.revived.Process.Pid)
			return until(ctx, electionLimit, n.ID+" does not come up; see "+n.Log, func() error {
				return c.ask(func(a *client.Admin) error {
					_, err := a.RaftStatus(ctx, n.Brokers["broker-a"])
					return err
				})
			})
		}},
	}
}

// stop ends all processes, gracefully.
func (c *cluster) stop() error {
	if c.stopped {
		return nil
	}
	c.stopped = true
	var err error
	if c.revived != nil {
		err = errors.Join(c.revived.Process.Signal(syscall.SIGTERM), c.revived.Wait())
	}
	if e := c.dev.Process.Signal(os.Interrupt); e != nil {
		return errors.Join(err, e)
	}
	c.reading.Wait()
	return errors.Join(err, c.dev.Wait())
}

// verify compares the replicas' directories.
func (c *cluster) verify(o options) (identical bool, err error) {
	args := []string{"verify"}
	for _, n := range c.Nodes {
		args = append(args, "--dir", n.DataDir)
	}
	fmt.Println("all nodes are stopped; raftmq verify of their data directories says:")
	cmd := exec.Command(o.binary, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return false, nil
	}
	return err == nil, err
}
