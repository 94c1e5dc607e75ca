package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// TestGate: with many coming and going while it is shut, idle is closed once, when the last one in has left.
func TestGate(t *testing.T) {
	for range 200 {
		g := newGate()
		var in atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					if !g.enter() {
						continue // and come again, to disturb
					}
					in.Add(1)
					in.Add(-1)
					g.leave()
				}
			})
		}
		if !g.shut() {
			t.Fatal("it was shut already")
		}
		<-g.idle
		if n := in.Load(); n != 0 {
			t.Fatalf("%d are in, and it is idle", n)
		}
		wg.Wait()
		if g.shut() || g.enter() {
			t.Fatal("it is open again")
		}
	}
	g := newGate()
	g.enter()
	g.shut()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	g.leave()
	if err := g.wait(ctx); err != nil {
		t.Error("idle, and the context has ended:", err)
	}
}

func TestTexts(t *testing.T) {
	if s := fmt.Sprint(SendOK, FlushDiskTimeout, FlushSlaveTimeout, SlaveNotAvailable, SendStatus(9), SendStatus(-1)); s != "SEND_OK FLUSH_DISK_TIMEOUT FLUSH_SLAVE_TIMEOUT SLAVE_NOT_AVAILABLE UNKNOWN UNKNOWN" {
		t.Error(s)
	}
	if s := fmt.Sprint(PullFound, PullNoNew, PullNoMatch, PullOffsetMoved, PullStatus(9)); s != "FOUND NO_NEW_MSG NO_MATCHED_MSG OFFSET_ILLEGAL UNKNOWN" {
		t.Error(s)
	}
	err := error(&SendError{Kind: ErrRejected, Queue: MessageQueue{Topic: "T", BrokerName: "b", QueueID: 3}, Attempts: 2,
		Err: remoting.Errorf(remoting.SystemBusy, "too much")})
	for _, part := range []string{"rejected", "topic T", "broker b", "queue 3", "2 attempts", "SYSTEM_BUSY", "too much"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("no %q in %q", part, err)
		}
	}
	if s := notSent(ErrClosed).Error(); s != "send: not sent: closed" {
		t.Error(s)
	}
	for i, name := range verdictNames {
		if verdict(i).String() != name || name == "" {
			t.Error(i, name)
		}
	}
	for i, name := range stepNames {
		if step(i).String() != name || name == "" {
			t.Error(i, name)
		}
	}
}

// TestProperties: what a record carries is told apart: the user's properties, those with fields, and those of RocketMQ.
func TestProperties(t *testing.T) {
	cl := testClient(t)
	var p remoting.Properties
	for _, f := range [][2]string{{"TAGS", "a"}, {"KEYS", "x  y"}, {"UNIQ_KEY", "id"}, {"DELAY", "3"}, {"mine", "1"}, {"CLUSTER", "c"}, {"TIMER_OUT_MS", "5"},
		{"RETRY_TOPIC", "original"}, {"TRACE_ON", "true"}} {
		p = remoting.AppendProperty(p, f[0], f[1])
	}
	for _, topic := range []string{"%RETRY%g", "T"} {
		b, err := remoting.AppendRecord(nil, &remoting.Record{Topic: topic, Properties: p, ReconsumeTimes: 2})
		if err != nil {
			t.Fatal(err)
		}
		list, err := cl.decodeMessages(b, "b")
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		m := list[0]
		want := map[string]string{"%RETRY%g": "original", "T": "T"}[topic]
		if m.Topic != want || m.Queue.Topic != topic || m.Tags != "a" || !slices.Equal(m.Keys, []string{"x", "y"}) || m.MsgID != "id" ||
			fmt.Sprint(m.Properties) != "map[mine:1]" || m.DelayLevel != 0 || m.Property("CLUSTER") != "c" || m.Property("none") != "" || m.ReconsumeTimes != 2 {
			t.Errorf("%+v", m)
		}
		if string(m.RawProperties()) != string(p) {
			t.Error("raw properties")
		}
	}
	if _, err := cl.decodeMessages([]byte("garbage"), "b"); !errors.Is(err, remoting.ErrRecord) {
		t.Error(err)
	}
}

// TestWalk: the preferred one, then the leader, then each of the others, those that cannot be reached last; every round again.
func TestWalk(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		cl := c.client(Config{})
		var ps []*peer
		for i := range 4 {
			ps = append(ps, cl.peer(fmt.Sprintf("h:%d", i)))
		}
		ps[1].err = errors.New("down")
		g := &group{name: "b"}
		g.replicas.Store(&replicas{list: ps, byID: map[int64]*peer{0: ps[0]}, master: ps[0]})
		g.leader.Store(ps[2])
		w := walk{g: g, prefer: ps[3]}
		for round := range 3 {
			var order []string
			for p := w.next(); p != nil; p = w.next() {
				w.try(p)
				order = append(order, p.addr)
			}
			if got := strings.Join(order, " "); got != "h:3 h:2 h:0 h:1" {
				t.Errorf("round %d: %s", round, got)
			}
			if d := w.again(maxPause); d < minPause/2 || d > min(minPause<<round, maxPause) {
				t.Errorf("round %d: pause %v", round, d)
			}
		}
	})
}

// TestRedial: an address that refuses is dialed at once by one of many, and left alone for a tenth of the time it has been refusing.
func TestRedial(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		cl := c.client(Config{})
		p := cl.peer("10.9.9.9:1")
		dialed := func() int { return c.net.(*pipes).dialed(p.addr) }
		for range 100 {
			go p.get(t.Context(), 0) // an error, as below
		}
		synctest.Wait()
		if n := dialed(); n != 1 {
			t.Errorf("100 callers dialed %d times", n)
		}
		if _, err := p.get(t.Context(), 0); err == nil || dialed() != 1 {
			t.Errorf("%v, %d dials", err, dialed())
		}
		begun := time.Now()
		for time.Since(begun) < time.Minute {
			if _, err := p.get(t.Context(), 0); err == nil {
				t.Fatal("connected to nobody")
			}
			pass(time.Millisecond)
		}
		if n := dialed(); n > int(time.Minute/(maxRedial/2))+60 {
			t.Errorf("%d dials in a minute", n)
		}
		l := c.net.listen(t, p.addr)
		defer l.Close()
		accepted := make(chan struct{})
		go func() {
			defer close(accepted)
			nc, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			<-t.Context().Done()
			nc.Close()
		}()
		pass(maxRedial)
		if _, err := p.get(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if err := cl.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// testClient returns a client of nobody.
func testClient(t testing.TB) *Client {
	t.Helper()
	c, err := New(Config{NameServers: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) }) // it has nothing that could fail
	return c
}
