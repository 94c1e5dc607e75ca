package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// Row 32: connections come and go, thousands do nothing, and there are no
// descriptors left: nobody else notices, and all is given back.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	c := startChaos(t)
	leader, _ := c.leader("broker-a")
	addr := c.brokers["broker-a"][leader]
	c.l.floor(floorAcks, "before the connections")
	before := c.holdings(leader)
	for range times(200, 5000) {
		if conn, err := dialTCP(addr); err != nil {
			t.Fatal(err)
		} else if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.l.floor(floorAcks, "behind connections that came and went")

	idle := dialMany(t, addr, times(500, 5000))
	eventually(t, "the connections", func() error {
		if n := c.holdings(leader).sockets; n < before.sockets+len(idle) {
			return fmt.Errorf("%d sockets", n)
		}
		return nil
	})
	c.l.floor(floorAcks, "with idle connections")
	closeAll(idle)
	c.heldAgain(map[string]holdings{leader: before})

	// Those that would take the descriptors that files need are turned away.
	c.limitFiles(leader, 160)
	idle = dialMany(t, addr, 300)
	eventually(t, "connections are turned away", func() error {
		text, err := os.ReadFile(c.log(leader))
		if err == nil && !strings.Contains(string(text), "descriptorsLeft=false") {
			err = errors.New("the log does not say so")
		}
		return err
	})
	c.l.floor(8*floorAcks, "without descriptors")
	for _, id := range c.ids {
		if s, err := c.status("broker-a", id); id != leader && err != nil || s.Failure != "" {
			t.Errorf("%s: %+v, %v", id, s, err)
		}
	}
	closeAll(idle)
	c.limitFiles(leader, 1024)
	c.heal()
	c.end()
}

func dialMany(t *testing.T, addr string, n int) (conns []net.Conn) {
	t.Helper()
	for range n {
		conn, err := dialTCP(addr)
		if err != nil {
			t.Fatalf("connection %d: %v", len(conns), err)
		}
		t.Cleanup(func() { conn.Close() }) // most are closed
		conns = append(conns, conn)
	}
	return conns
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close() // the other side may have
	}
}

// Row 16, its last part: a client that asks for messages and reads nothing costs
// the broker no more than its share.
func TestReaderThatNeverReads(t *testing.T) {
	t.Parallel()
	c := startChaos(t)
	c.l.floor(4*floorAcks, "before the pulls")
	leader, _ := c.leader("broker-a")
	before := c.holdings(leader)
	conn, err := dialTCP(c.brokers["broker-a"][leader])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	req := &remoting.Command{Code: remoting.PullMessage, Header: &remoting.PullRequest{
		ConsumerGroup: remoting.GroupTools, Topic: c.l.topic, QueueOffset: 0, MaxMsgNums: 32, SysFlag: remoting.PullSubscription, Subscription: "*",
	}}
	asked := 0
	for ; ; asked++ {
		req.Opaque = int32(asked)
		frame, err := remoting.AppendFrame(nil, req)
		if err == nil {
			err = conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(frame); err != nil {
			t.Logf("after %d pulls: %v", asked, err) // closed, or nobody reads them any more
			break
		}
		if asked == 1_000_000 {
			t.Fatal("the broker has taken a million pulls whose answers nobody reads")
		}
	}
	c.l.floor(floorAcks, "beside a client that does not read")
	if is := c.holdings(leader); is.rss > before.rss+200<<20 {
		t.Errorf("%s held %v, and holds %v for a client that does not read", leader, before, is)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	c.heldAgain(map[string]holdings{leader: before})
	c.end()
}

// Row 33, its second part: nodes with one processor each, beside busy loops: no
// election storm.
func TestBusyProcessors(t *testing.T) {
	t.Parallel()
	c := &chaos{rnd: seeded(t), tally: newTally()}
	c.cluster = newCluster(t, t.TempDir(), 3, 1)
	c.prepare = func(_ string, cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "GOMAXPROCS=1") }
	c.run()
	c.l = startLoad(t, c.cluster, "Chaos")
	c.l.floor(floorAcks, "before the busy loops")
	_, term := c.leader("broker-a")
	for range 4 {
		loop := exec.Command("sh", "-c", "while :; do :; done")
		loop.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := loop.Start(); err != nil {
			t.Fatal(err)
		}
		stop := func() {
			loop.Process.Kill() // once more is no harm
			loop.Wait()         // it was killed
		}
		defer stop()
	}
	c.l.floor(times(4, 40)*floorAcks, "beside busy loops")
	c.steady(term, 10)
	c.end()
}
