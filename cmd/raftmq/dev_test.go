package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// background is a command that goes on while a test looks at what it prints.
type background struct {
	t   testing.TB
	cmd *exec.Cmd
	out *output
}

// output is both outputs of a command, readable while it writes.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func startCommand(t testing.TB, env []string, in io.Reader, args ...string) *background {
	t.Helper()
	cmd, _, _ := command(env, in, args...)
	// What it starts in turn must not outlive it: dev ends its nodes on SIGTERM.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	b := &background{t: t, cmd: cmd, out: new(output)}
	cmd.Stdout, cmd.Stderr = b.out, b.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Signal(syscall.SIGTERM) // it is gone already, or goes now
			waitFor(t, cmd)
		}
	})
	return b
}

// await waits until the command has printed a text.
func (b *background) await(text string) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("%q of %v", text, b.cmd.Args[1:]), func() error {
		if out := b.out.String(); !strings.Contains(out, text) {
			return errors.New(out)
		}
		return nil
	})
}

// interrupt is Ctrl-C.
func (b *background) interrupt(code int) {
	b.t.Helper()
	if err := b.cmd.Process.Signal(os.Interrupt); err != nil {
		b.t.Fatal(err)
	}
	waitFor(b.t, b.cmd)
	if got := b.cmd.ProcessState.ExitCode(); got != code {
		b.t.Errorf("exit code %d, want %d\n%s", got, code, b.out)
	}
}

func gone(pid int) error {
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("process %d is there: %v", pid, err)
	}
	return nil
}

// A dev cluster: described in cluster.json, survives a killed leader, starts the
// killed node again by the printed command, is one at a time in its directory,
// ends with Ctrl-C and goes on with its data.
func TestDev(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dev")
	args := []string{"dev", "--nodes", "3", "--groups", "3", "--dir", dir}
	dev := startCommand(t, nil, nil, args...)
	dev.await("Ctrl-C ends the cluster")
	text, err := os.ReadFile(filepath.Join(dir, "cluster.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d devCluster
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Nodes) != 3 || len(d.Nodes[0].Brokers) != 3 || d.Dir != dir {
		t.Fatalf("%s", text)
	}
	dev.await("export RAFTMQ_NAMESRV='" + d.Namesrv + "'")
	for _, n := range d.Nodes {
		dev.await(fmt.Sprintf("%s    %d", n.ID, n.Pid))
	}
	env := []string{"RAFTMQ_NAMESRV=" + d.Namesrv}
	raftmqIn(t, env, nil, "produce", "--topic", "Dev", "--size", "100", "--count", "90").want(t, 0)
	if rows := raftmqIn(t, env, nil, "raft", "status", "-o", "json").rows(t); len(rows) != 9 {
		t.Errorf("%d replicas: %v", len(rows), rows)
	}
	raftmq(t, args...).want(t, exitUsage, dir, "a raftmq dev runs there", "another --dir")

	// A node of the three is killed; dev says how to start it again.
	victim := d.Nodes[1]
	if err := syscall.Kill(victim.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	dev.await(fmt.Sprintf("%s (pid %d) has ended: signal: killed", victim.ID, victim.Pid))
	dev.await(strings.Join(victim.Command, " "))
	raftmqIn(t, env, nil, "produce", "--topic", "Dev", "--size", "100", "--count", "10").want(t, 0)
	again := startCommand(t, nil, nil, victim.Command[1:]...)
	again.await("the node is up")
	eventually(t, "nine replicas that are complete", func() error {
		r := raftmqIn(t, env, nil, "raft", "status", "-o", "json")
		if n := strings.Count(r.out, `"complete": true`); r.code != 0 || n != 9 {
			return fmt.Errorf("%d, %d: %s", r.code, n, r.err)
		}
		return nil
	})
	again.interrupt(0)
	dev.interrupt(0)
	for _, n := range d.Nodes {
		if err := gone(n.Pid); err != nil {
			t.Error(err)
		}
	}
	raftmq(t, "verify", "--dir", d.Nodes[0].DataDir, "--dir", d.Nodes[1].DataDir, "--dir", d.Nodes[2].DataDir).want(t, 0, "broker-c", "yes")

	raftmq(t, "dev", "--nodes", "1", "--groups", "3", "--dir", dir).want(t, exitUsage, "3 nodes and 3 groups", "--dir")
	dev = startCommand(t, nil, nil, args...)
	dev.await("Ctrl-C ends the cluster")
	raftmqIn(t, env, nil, "consume", "--topic", "Dev", "--group", "g", "--count", "100").want(t, 0, "consumed 100 messages")
	dev.interrupt(0)
}

// A node that can't start ends dev, which says why.
func TestDevBadConfiguration(t *testing.T) {
	r := raftmq(t, "dev", "--nodes", "1", "--groups", "1", "--dir", filepath.Join(t.TempDir(), "dev"), "--set", "electionTimeout=soon")
	r.want(t, exitFailed, "n1 (pid", "electionTimeout", "300ms", "*.log")
}

// A name service of its own: nodes register with it, clients ask it.
func TestNamesrvAlone(t *testing.T) {
	free := ownPort(t)
	names := startCommand(t, nil, nil, "namesrv", "--listen", free, "--wait-for-service", "100ms")
	names.await("the name service is up")
	c := newCluster(t, t.TempDir(), 1, 1)
	t.Cleanup(c.killAll)
	c.set = []string{"namesrvAddr=" + free}
	c.start("n1")
	c.healthy()
	env := []string{"RAFTMQ_NAMESRV=" + free}
	eventually(t, "a topic made by way of it", func() error {
		if r := raftmqIn(t, env, nil, "topic", "create", "Named"); r.code != 0 {
			return errors.New(r.err)
		}
		return nil
	})
	raftmqIn(t, env, strings.NewReader("hello\n"), "produce", "--topic", "Named").want(t, 0)
	raftmqIn(t, env, nil, "consume", "--topic", "Named", "--group", "g", "--count", "1").want(t, 0, "hello")
	raftmq(t, "namesrv", "--listen", free).want(t, exitFailed, free, "address already in use")
	names.interrupt(0)
}

// verify finds damage, and refuses a directory that is in use.
func TestVerifyCommand(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, 1)
	env := []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}
	raftmqIn(t, env, strings.NewReader(lines(2000)), "produce", "--topic", "Verified").want(t, 0)
	raftmq(t, "verify", "--dir", c.dataDir("n1")).want(t, exitFailed, "locked by another process", "nodes that are stopped")
	raftmqIn(t, env, nil, "raft", "snapshot").want(t, 0)
	c.stop()
	if n := raftmq(t, "verify", "-o", "json", "--dir", c.dataDir("n1")).field(t, "messages"); n < 2000 {
		t.Errorf("%v messages were verified", n)
	}
	raftmq(t, "verify", "--dir", t.TempDir()).want(t, exitFailed, "no replica's data directory", "replica.json")

	segments, err := filepath.Glob(filepath.Join(c.dataDir("n1"), "broker-a", "store", "commitlog", "0*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("%v, %v", segments, err)
	}
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], 5000)
	b[0] ^= 1
	if _, e := f.WriteAt(b[:], 5000); errors.Join(err, e, f.Close()) != nil {
		t.Fatal(err, e)
	}
	raftmq(t, "verify", "--dir", c.dataDir("n1")).want(t, exitFailed, filepath.Base(segments[0]))
}

// Rows 16, 34, 35, 40 on a real process: whatever is written to any of its ports
// costs that connection only. What each bad frame does is tested in broker.
func TestGarbageOnEachPort(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, 1)
	leader, term := c.leader("broker-a")
	garbage := map[string]string{
		"text":              "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"length 0":          "\x00\x00\x00\x00",
		"negative length":   "\xff\xff\xff\xff\x00\x00\x00\x00",
		"2^31-1":            "\x7f\xff\xff\xff\x00\x00\x00\x00",
		"header over frame": "\x00\x00\x00\x10\x00\x00\xff\xff{\"code\":10}",
		"unknown serialize": "\x00\x00\x00\x08\x07\x00\x00\x04abcd",
		"deep JSON":         "\x00\x01\x00\x04\x00\x01\x00\x00" + strings.Repeat("[", 1<<16),
		"cut frame":         "\x00\x00\x10\x00\x00\x00\x00\x20{",
		"peer magic only":   "RMQP\x01\xff\xff\xff\xff",
		"peer hello":        "RMQP\x01\x00\x00\x00\x02{}",
		"nothing":           "",
	}
	for _, addr := range []string{c.brokers["broker-a"][leader], c.namesrv[leader], c.peer[leader]} {
		for name, text := range garbage {
			for range 20 {
				if err := pour(addr, text); err != nil {
					t.Fatalf("%s: %s: %v", addr, name, err)
				}
			}
		}
	}
	if now, newTerm := c.leader("broker-a"); now != leader || newTerm != term {
		t.Errorf("%s led in term %d, then %s in term %d", leader, term, now, newTerm)
	}
	if up := c.up(); len(up) != 3 {
		t.Fatalf("up are %v", up)
	}
	env := []string{"RAFTMQ_NAMESRV=" + c.namesrv[leader]}
	raftmqIn(t, env, strings.NewReader("hello\n"), "produce", "--topic", "Garbage", "--timeout", "5s").want(t, 0)
	raftmqIn(t, env, nil, "consume", "--topic", "Garbage", "--group", "g", "--count", "1").want(t, 0, "hello")
	c.healthy()
	c.stop()
	c.verify()
}

// pour writes bytes to an address and breaks the connection off.
func pour(addr, text string) error {
	nc, err := dialTCP(addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	// It may be closed by the other side while we write: that is its right.
	if _, err := io.WriteString(nc, text); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	return nc.SetLinger(0) // a reset, not an end
}
