package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/remoting"
)

// testCluster is a cluster of nodes in this process, on loopback ports.
type testCluster struct {
	t     testing.TB
	cfg   Config
	nodes map[string]*Node
	conns []*remoting.Conn
}

// freePorts finds ports that nobody uses now.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	var addrs []string
	var ls []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, l)
		addrs = append(addrs, l.Addr().String())
	}
	for _, l := range ls {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return addrs
}

func testLogger(t testing.TB) hclog.Logger {
	if os.Getenv("RAFTMQ_TEST_LOG") == "" {
		return hclog.NewNullLogger()
	}
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr, Name: t.Name()})
}

// startCluster starts a cluster of n nodes with one group.
func startCluster(t testing.TB, n int, tweak func(*Config)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, nodes: map[string]*Node{}}
	ports := freePorts(t, 3*n)
	c.cfg = Config{
		Nodes:                   map[string]NodeConfig{},
		Groups:                  []GroupConfig{{BrokerName: "broker-a", Replicas: map[string]string{}}},
		MappedFileSizeCommitLog: 16 << 20, RaftSegmentSize: 16 << 20, DiskReserve: 1 << 20,
	}
	for i := range n {
		id := fmt.Sprintf("n%d", i+1)
		c.cfg.Nodes[id] = NodeConfig{Peer: ports[3*i], Namesrv: ports[3*i+1]}
		c.cfg.Groups[0].Replicas[id] = ports[3*i+2]
	}
	if tweak != nil {
		tweak(&c.cfg)
	}
	root := t.TempDir()
	c.cfg.StorePathRootDir = root
	for id := range c.cfg.Nodes {
		c.start(id)
	}
	t.Cleanup(c.stop)
	return c
}

func (c *testCluster) start(id string) {
	c.t.Helper()
	cfg := c.cfg
	cfg.NodeID = id
	cfg.StorePathRootDir = filepath.Join(c.cfg.StorePathRootDir, id)
	n, err := Open(cfg, testLogger(c.t))
	if err != nil {
		c.t.Fatalf("%s: %v", id, err)
	}
	c.nodes[id] = n
}

func (c *testCluster) stop() {
	for _, conn := range c.conns {
		conn.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for id, n := range c.nodes {
		if err := n.Close(ctx); err != nil {
			c.t.Errorf("closing %s: %v", id, err)
		}
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in 20 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// leader waits for the group's leader.
func (c *testCluster) leader() *Broker {
	c.t.Helper()
	var b *Broker
	eventually(c.t, "a leader with its system topics", func() bool {
		for _, n := range c.nodes {
			for _, x := range n.brokers {
				if _, ok := x.group.State().Topic(remoting.TopicAutoCreate); ok && x.leads() {
					b = x
					return true
				}
			}
		}
		return false
	})
	return b
}

// dial connects to an address as a client.
func (c *testCluster) dial(addr string) *remoting.Conn {
	c.t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		c.t.Fatal(err)
	}
	conn := remoting.NewConn(nc, remoting.ConnConfig{}, remoting.HandlerFunc(func(_ *remoting.Conn, req *remoting.Command) {
		req.Responder().Respond(&remoting.Command{})
	}))
	c.conns = append(c.conns, conn)
	return conn
}

// call asks and returns the answer, or the error that its code is.
func call(t testing.TB, conn *remoting.Conn, req *remoting.Command) (*remoting.Command, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	resp, err := conn.Call(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp, resp.Err()
}

func mustCall(t testing.TB, conn *remoting.Conn, req *remoting.Command) *remoting.Command {
	t.Helper()
	resp, err := call(t, conn, req)
	if err != nil {
		t.Fatalf("request %d: %v", req.Code, err)
	}
	return resp
}

func wantCode(t testing.TB, err error, code int32) {
	t.Helper()
	var e *remoting.Error
	got := remoting.Success
	if errors.As(err, &e) {
		got = e.Code
	}
	if got != code {
		t.Errorf("answered with %v, want code %d", err, code)
	}
}

func createTopic(t testing.TB, conn *remoting.Conn, name string, queues int32) {
	t.Helper()
	topic := ownTopic(name, queues)
	mustCall(t, conn, &remoting.Command{Code: remoting.UpdateAndCreateTopic, Header: &topic})
}

// sendHeader is a valid one.
func sendHeader(topic string, queue int32, props ...string) *remoting.SendHeader {
	h := &remoting.SendHeader{ProducerGroup: "p", Topic: topic, DefaultTopic: remoting.TopicAutoCreate, DefaultTopicQueueNums: 4,
		QueueID: queue, BornTimestamp: time.Now().UnixMilli(), MaxReconsumeTimes: -1}
	var p remoting.Properties
	for i := 0; i+1 < len(props); i += 2 {
		p = remoting.AppendProperty(p, props[i], props[i+1])
	}
	h.Properties = string(p)
	return h
}

func send(t testing.TB, conn *remoting.Conn, h *remoting.SendHeader, body string) (remoting.SendResponse, error) {
	t.Helper()
	resp, err := call(t, conn, &remoting.Command{Code: remoting.SendMessageV2, Header: h, Body: []byte(body)})
	var r remoting.SendResponse
	if err == nil {
		if err := r.Decode(resp); err != nil {
			t.Fatal(err)
		}
	}
	return r, err
}

func pullRequest(topic string, queue int32, offset int64) *remoting.PullRequest {
	return &remoting.PullRequest{ConsumerGroup: "g", Topic: topic, QueueID: queue, QueueOffset: offset, MaxMsgNums: 32,
		SysFlag: remoting.PullSubscription, Subscription: "*"}
}

func pull(t testing.TB, conn *remoting.Conn, h *remoting.PullRequest) (code int32, r remoting.PullResponse, bodies []string) {
	t.Helper()
	resp, err := call(t, conn, &remoting.Command{Code: remoting.PullMessage, Header: h})
	code = resp.Code
	switch code {
	case remoting.Success, remoting.PullNotFound, remoting.PullRetryImmediately, remoting.PullOffsetMoved:
		if err := r.Decode(resp); err != nil {
			t.Fatal(err)
		}
	default:
		t.Logf("pull: %v", err)
	}
	records, err := remoting.DecodeRecords(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range records {
		bodies = append(bodies, string(v.Body()))
	}
	return code, r, bodies
}
