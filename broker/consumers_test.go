package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

// ours returns a client of this repository's own.
func (c *testCluster) ours(t testing.TB, cfg client.Config) *client.Client {
	t.Helper()
	for _, id := range c.ids() {
		cfg.NameServers += c.cfg.Nodes[id].Namesrv + ";"
	}
	cl, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		cl.Close(ctx) // tests that mind close their consumers themselves
	})
	return cl
}

// inbox notes what a listener gets.
type inbox struct {
	mu   sync.Mutex
	msgs []*client.MessageExt
	fail func(*client.MessageExt) error
}

func (b *inbox) listen(_ context.Context, msgs []*client.MessageExt) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.msgs = append(b.msgs, msgs...)
	if b.fail != nil {
		return b.fail(msgs[0])
	}
	return nil
}

func (b *inbox) all() []*client.MessageExt {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.msgs)
}

// bodies returns how often each body came.
func (b *inbox) bodies() map[string]int {
	n := map[string]int{}
	for _, m := range b.all() {
		n[string(m.Body)]++
	}
	return n
}

// consume starts a push consumer.
func consume(t testing.TB, cl *client.Client, topic string, cfg client.PushConfig, l client.Listener) *client.PushConsumer {
	t.Helper()
	p, err := cl.NewPushConsumer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Subscribe(topic, "*", l); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// own returns the queues of a topic that a consumer has.
func own(p *client.PushConsumer, topic string) []client.MessageQueue {
	return slices.DeleteFunc(p.Queues(), func(q client.MessageQueue) bool { return q.Topic != topic })
}

func mustProduce(t testing.TB, p *client.Producer, m *client.Message) *client.SendResult {
	t.Helper()
	res, err := p.Send(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// The topic's first messages are deleted, so it is an old one.
func TestOFF03And04And05WhereAGroupBegins(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("1s 1s 1s"))
	b := cl.leader(t)
	c := dial(t, b)
	sent := filled(t, c, "T")
	trimNow(b, 90, time.Hour)
	begin := c.minOffset("T")
	if begin == 0 || begin >= int64(sent)-5 {
		t.Fatalf("of %d messages those from %d on are there", sent, begin)
	}
	records := c.all("T", 0)
	middle := records[len(records)/2].StoreTimestamp()
	want := begin + int64(slices.IndexFunc(records, func(v remoting.RecordView) bool { return v.StoreTimestamp() >= middle }))
	// What came back of group "last" and "first" before they began.
	for _, group := range []string{"last", "first"} {
		c.beat("x", consumer(group, "T", "*"))
		c.must(remoting.ConsumerSendMsgBack, sendBackOf(group, records[0], 1))
		c.arrived(remoting.RetryTopic(group), 0, 1)
		c.must(remoting.UnregisterClient, &remoting.UnregisterClientRequest{ClientID: "x", ConsumerGroup: group})
	}

	for _, row := range []struct {
		group string
		cfg   client.PushConfig
		first int64 // offset
	}{
		{"last", client.PushConfig{}, int64(sent)}, {"first", client.PushConfig{From: client.FromFirst}, begin},
		{"time", client.PushConfig{From: client.FromTime, FromTime: time.UnixMilli(middle)}, want},
	} {
		row.cfg.Group, row.cfg.Workers = row.group, 1
		var got inbox
		p := consume(t, cl.ours(t, client.Config{}), "T", row.cfg, got.listen)
		eventually(t, "the queue is held", func() bool { return len(own(p, "T")) == 1 })
		c.mustSend(message("T", 0), "new")
		sent++
		eventually(t, "the newest message", func() bool { return got.bodies()["new"] > 0 })
		if row.group != "time" { // OFF-05
			eventually(t, "what was sent back before", func() bool {
				return slices.ContainsFunc(got.all(), func(m *client.MessageExt) bool {
					return m.Queue.Topic == remoting.RetryTopic(row.group) && m.Topic == "T"
				})
			})
		}
		var offsets []int64
		for _, m := range got.all() {
			if m.Queue.Topic == "T" {
				offsets = append(offsets, m.QueueOffset)
			}
		}
		if len(offsets) == 0 || offsets[0] != row.first {
			t.Errorf("%s: begins with %v, want %d", row.group, offsets, row.first)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}

		// OFF-04: the other beginning means nothing now.
		c.mustSend(message("T", 0), "while away")
		sent++
		again := client.PushConfig{Group: row.group, From: client.FromFirst}
		if row.cfg.From == client.FromFirst {
			again.From = client.FromLast
		}
		var rest inbox
		p = consume(t, cl.ours(t, client.Config{}), "T", again, rest.listen)
		eventually(t, "what came meanwhile", func() bool { return len(rest.all()) > 0 })
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if n := rest.bodies(); len(n) != 1 || n["while away"] != 1 {
			t.Errorf("%s, again: %d messages", row.group, len(rest.all()))
		}
	}
}

// crashable is a client's way to the network, which can be cut.
type crashable struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (n *crashable) dial(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut {
		return nil, errors.New("the machine is gone")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err == nil {
		n.conns = append(n.conns, conn)
	}
	return conn, err
}

func (n *crashable) crash() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = true
	for _, c := range n.conns {
		c.Close() // as the kernel of a process that is gone does
	}
}

// Clients come and crash while messages are sent: none is lost, and each group gets all of them.
func TestREBAL03And04And06ClientsComeAndGo(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic, group := named(t), named(t)
	c.topic(topic, 8)
	producer, err := common.c.ours(t, client.Config{}).NewProducer(client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	send := func() {
		t.Helper()
		for range 50 {
			mustProduce(t, producer, &client.Message{Topic: topic, Body: fmt.Append(nil, sent)})
			sent++
		}
	}
	var one, other inbox
	join := func(cfg client.Config, group string, l client.Listener) *client.PushConsumer {
		return consume(t, common.c.ours(t, cfg), topic, client.PushConfig{Group: group, From: client.FromFirst}, l)
	}
	join(client.Config{}, group+"-other", other.listen)
	var network crashable
	shares := func(want ...int) func(ps ...*client.PushConsumer) {
		return func(ps ...*client.PushConsumer) {
			t.Helper()
			eventually(t, fmt.Sprintf("shares of %v", want), func() bool {
				var got []int
				for _, p := range ps {
					got = append(got, len(own(p, topic)))
				}
				slices.Sort(got)
				return slices.Equal(got, want)
			})
		}
	}
	first := join(client.Config{}, group, one.listen)
	shares(8)(first)
	send()
	second := join(client.Config{Dial: network.dial}, group, one.listen)
	send() // REBAL-04
	shares(4, 4)(first, second)
	third := join(client.Config{}, group, one.listen)
	send()
	shares(2, 3, 3)(first, second, third)
	begun := time.Now()
	network.crash() // REBAL-03
	send()
	shares(4, 4)(first, third)
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("the queues moved after %v", took)
	}
	send()
	for name, got := range map[string]*inbox{"the group": &one, "the other": &other} { // REBAL-06
		eventually(t, name+" has all messages", func() bool { return len(got.bodies()) >= sent })
	}
	for body, n := range other.bodies() {
		if n != 1 {
			t.Errorf("message %s came %d times to the group in which nothing changed", body, n)
		}
	}
}

func TestREBAL05AndRETRY11BroadcastingReachesAll(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic, group, dir := named(t), named(t), t.TempDir()
	c.topic(topic, 4)
	var got [3]inbox
	for i := range got {
		got[i].fail = func(m *client.MessageExt) error {
			if string(m.Body) == "7" {
				return errors.New("listener")
			}
			return nil
		}
		consume(t, common.c.ours(t, client.Config{}), topic, client.PushConfig{
			Group: group, From: client.FromFirst, Broadcasting: true, OffsetFile: filepath.Join(dir, fmt.Sprint(i), "offsets.json"), CommitInterval: 10 * time.Millisecond,
		}, got[i].listen)
	}
	producer, err := common.c.ours(t, client.Config{}).NewProducer(client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		mustProduce(t, producer, &client.Message{Topic: topic, Body: fmt.Append(nil, i)})
	}
	for i := range got {
		eventually(t, "all messages", func() bool { return len(got[i].all()) >= 40 })
		if n := got[i].bodies(); len(n) != 40 || n["7"] != 1 {
			t.Errorf("client %d: %v", i, n)
		}
	}
	_, err = c.ask(remoting.PullMessage, pullOf(remoting.RetryTopic(group), 0, 0))
	wantCode(t, err, remoting.TopicNotExist)
	for q := range int32(4) {
		// A young queue is answered with 0 although nothing was committed.
		if o, err := c.offset(group, topic, q); err == nil && o != 0 {
			t.Errorf("the broker has offset %d of a broadcasting group", o)
		}
	}
}

// Each compression of our client, through a real broker: as sent, flag intact.
func TestSEND14EachCompression(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	eventually(t, "a route", func() bool {
		_, err := common.c.route(t, common.c.ids()[0], topic)
		return err == nil
	})
	cl := common.c.ours(t, client.Config{})
	body := bytes.Repeat([]byte("so many words, so little said; "), 10_000)
	for _, kind := range []client.Compression{client.Zlib, client.LZ4, client.Zstd} {
		p, err := cl.NewProducer(client.ProducerConfig{Compression: kind})
		if err != nil {
			t.Fatal(err)
		}
		mustProduce(t, p, &client.Message{Topic: topic, Body: body, Flag: 5})
	}
	for i, v := range c.all(topic, 0) {
		if want := []int32{1, 0x101, 0x201}[i]; v.SysFlag() != want || v.Flag() != 5 || len(v.Body()) > len(body)/10 {
			t.Errorf("stored: sysFlag %#x, want %#x; flag %d, %d bytes", v.SysFlag(), want, v.Flag(), len(v.Body()))
		}
	}
	puller, err := cl.NewPullConsumer(client.PullConfig{Group: named(t), From: client.FromFirst})
	if err != nil {
		t.Fatal(err)
	}
	if err := puller.Subscribe(topic, "*"); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 3; {
		ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
		msgs, err := puller.Poll(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			if n++; !bytes.Equal(m.Body, body) || m.Err != nil || m.Flag != 5 {
				t.Errorf("message %d: %d bytes, flag %d, %v", n, len(m.Body), m.Flag, m.Err)
			}
		}
	}
}

// Our client tells its limit, and what it does not set stays the group's: also for a part of a batch.
func TestRETRY14And07OurClientsLimit(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("1s 1s 1s 1s"))
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	for i := range 4 {
		c.mustSend(message("T", 0), fmt.Sprint(i))
	}
	var got inbox
	cfg := client.PushConfig{Group: "g", From: client.FromFirst, ConsumeBatch: 4, MaxReconsumeTimes: 1}
	first := consume(t, cl.ours(t, client.Config{}), "T", cfg, func(ctx context.Context, msgs []*client.MessageExt) error {
		got.listen(ctx, msgs)
		return &client.ReconsumeError{Consumed: len(msgs) - 1, Err: errors.New("the last one")}
	})
	eventually(t, "a dead letter", func() bool {
		return c.pull(pullOf(remoting.DLQTopic("g"), 0, 0)).code == remoting.Success
	})
	if n := c.groupConfig("g").RetryMaxTimes; n != 1 {
		t.Errorf("the group's limit is %d", n)
	}
	if n := got.bodies(); n["3"] != 2 || n["0"] != 1 || n["1"] != 1 || n["2"] != 1 {
		t.Errorf("came: %v", n)
	}
	if dead := bodiesOf(c.all(remoting.DLQTopic("g"), 0)); !slices.Equal(dead, []string{"3"}) {
		t.Errorf("dead: %v", dead)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Error(err)
	}
	// One that sets none does not change it.
	cfg.MaxReconsumeTimes = 0
	second := consume(t, cl.ours(t, client.Config{}), "T", cfg, got.listen)
	eventually(t, "the second one has the queue", func() bool { return len(own(second, "T")) == 1 })
	if n := c.groupConfig("g").RetryMaxTimes; n != 1 {
		t.Errorf("the limit became %d", n)
	}
}
