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
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raftmq/raftmq/remoting"
)

// caller sends over one connection.
type caller struct {
	t    testing.TB
	conn *remoting.Conn
}

func newCaller(t testing.TB, addr string) *caller {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c := &caller{t, remoting.NewConn(nc, remoting.ConnConfig{}, nil)}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

func (c *caller) send(ctx context.Context, topic string, body []byte) error {
	resp, err := c.conn.Call(ctx, &remoting.Command{Code: remoting.SendMessage, Body: body, Header: &remoting.SendHeader{
		ProducerGroup: "p", Topic: topic, DefaultTopic: remoting.TopicAutoCreate, DefaultTopicQueueNums: 1, MaxReconsumeTimes: -1}})
	if err == nil {
		err = resp.Err()
	}
	return err
}

// stalls sends for a time, one message after the other, and returns the longest
// time that one took.
func (c *caller) stalls(topic string, d time.Duration) (n int, longest time.Duration) {
	c.t.Helper()
	body := make([]byte, 16<<10) // what the collector has to do with
	for end := time.Now().Add(d); time.Now().Before(end); n++ {
		begun := time.Now()
		if err := c.send(context.Background(), topic, body); err != nil {
			c.t.Fatalf("a send to another group: %v", err)
		}
		longest = max(longest, time.Since(begun))
	}
	return n, longest
}

// dropPages has the kernel forget the pages of a directory's files that are on the
// disk. Pages that somebody has mapped and looked into stay.
func dropPages(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Row 47: of two groups of a process, one is on a disk that hangs. Its clients wait
// for pages that are not in memory, its sends for the disk, and the collector runs
// all the time: the other group's sends go on as if nothing was.
func TestHungDiskStallsNobodyElse(t *testing.T) {
	onlyLong(t, "TestCollectorPassesAHungDisk")
	needsWorld(t)
	c := newCluster(t, t.TempDir(), 1, 2)
	c.prepare = func(_ string, cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "GOGC=5") }
	hung := filepath.Join(c.dataDir("n1"), "broker-b")
	disk := newFaultDisk(t, hung)
	c.run()
	c.leader("broker-a")
	c.leader("broker-b")
	a, b := newCaller(t, c.brokers["broker-a"]["n1"]), newCaller(t, c.brokers["broker-b"]["n1"])
	old := bytes.Repeat([]byte("x"), 64<<10)
	for range 64 {
		if err := b.send(t.Context(), "Old", old); err != nil {
			t.Fatal(err)
		}
	}
	_, before := a.stalls("New", 2*time.Second)
	dropPages(t, hung)
	rule := disk.add(&diskRule{hang: make(chan struct{})})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waiting := make(chan error, 16)
	for i := range cap(waiting) {
		go func() {
			if i%2 == 0 {
				waiting <- b.send(ctx, "Old", old)
				return
			}
			_, err := b.conn.Call(ctx, &remoting.Command{Code: remoting.PullMessage, Header: &remoting.PullRequest{
				ConsumerGroup: remoting.GroupTools, Topic: "Old", QueueOffset: int64(4 * i), MaxMsgNums: 8,
				SysFlag: remoting.PullSubscription, Subscription: "*"}})
			waiting <- err
		}()
	}
	n, longest := a.stalls("New", 5*time.Second)
	t.Logf("%d sends to the other group; the slowest took %v, and %v before", n, longest, before)
	if rule.hits.Load() == 0 {
		t.Error("nothing was done to the disk")
	}
	if longest > 100*time.Millisecond+2*before || n < 10 {
		t.Errorf("%d sends to the other group, the slowest took %v; before it was %v", n, longest, before)
	}
	// What does not need the disk is answered, also by the replica that is on it.
	begun := time.Now()
	s, err := c.status("broker-b", "n1")
	if err != nil || s.DiskHung == "" {
		t.Errorf("its status is %+v, %v", s, err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("its status took %v", took)
	}
	disk.heal()
	for range cap(waiting) {
		<-waiting // unknown, or in time: either is right
	}
	eventually(t, "a send to the disk that answers again", func() error { return b.send(t.Context(), "Old", old) })
}

// A node whose disk hangs ends when it is told to, with an error: not with the disk.
func TestNodeOnAHungDiskEnds(t *testing.T) {
	t.Parallel()
	needsWorld(t)
	c := newCluster(t, t.TempDir(), 1, 1)
	disk := newFaultDisk(t, c.dataDir("n1"))
	c.run()
	c.leader("broker-a")
	rule := disk.add(&diskRule{hang: make(chan struct{})})
	b := newCaller(t, c.brokers["broker-a"]["n1"])
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := b.send(ctx, "T", []byte("m")); err == nil {
		t.Error("a send is acknowledged")
	}
	(&chaos{cluster: c}).hit(rule)
	p := c.running["n1"]
	pid := p.cmd.Process
	if err := pid.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it stops", func() error { return c.says("n1", "stopping") })
	if err := pid.Signal(syscall.SIGTERM); err != nil { // at once
		t.Fatal(err)
	}
	eventually(t, "it says what it waits for", func() error { return c.says("n1", "the node is not closed") })
	disk.heal() // the kernel keeps a process that waits for FUSE
	<-p.ended
	if code := p.cmd.ProcessState.ExitCode(); code != exitFailed {
		t.Errorf("it ended with %d", code)
	}
	c.start("n1")
	c.ready()
}

// says is nil if a node's log has a text in it.
func (c *cluster) says(id, text string) error {
	log, err := os.ReadFile(c.log(id))
	if err == nil && !strings.Contains(string(log), text) {
		err = fmt.Errorf("%s does not say %q", id, text)
	}
	return err
}
