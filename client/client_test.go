package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

func TestConfig(t *testing.T) {
	for _, cfg := range []Config{{}, {NameServers: ";"}, {NameServers: "host"}, {NameServers: "h:1;x"}, {NameServers: "h:1", CallTimeout: -1}} {
		if _, err := New(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		cl := c.client(Config{})
		if id := cl.ID(); !strings.Contains(id, "@") || !strings.Contains(id, "#") {
			t.Errorf("id %q", id)
		}
		for _, cfg := range []ProducerConfig{{Group: "a b"}, {Timeout: -1}, {CompressLevel: 10}, {MaxInFlight: -1}} {
			if _, err := cl.NewProducer(cfg); !errors.Is(err, ErrConfig) {
				t.Errorf("%+v: %v", cfg, err)
			}
		}
		for _, cfg := range []PushConfig{{}, {Group: "a/b"}, {Group: "g", Workers: -1}, {Group: "g", From: 7}} {
			if _, err := cl.NewPushConsumer(cfg); !errors.Is(err, ErrConfig) {
				t.Errorf("%+v: %v", cfg, err)
			}
		}
		if _, err := cl.NewPullConsumer(PullConfig{}); !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
		if _, err := cl.NewPullConsumer(PullConfig{Group: "g"}); err != nil {
			t.Error(err)
		}
		if _, err := cl.NewPullConsumer(PullConfig{Group: "g"}); !errors.Is(err, ErrConfig) {
			t.Error("two consumers of one group in one client:", err)
		}
	})
}

// TestHeartbeats: a client that only produces tells leaders, one that consumes tells all replicas; at once when it connects, then every 30 s;
// and it says goodbye.
func TestHeartbeats(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		beats := func() string {
			g.mu.Lock()
			defer g.mu.Unlock()
			var n []int
			for _, r := range g.replicas {
				n = append(n, len(r.beats))
			}
			return fmt.Sprint(n)
		}
		cl := c.client(Config{})
		p, err := cl.NewProducer(ProducerConfig{Group: "pg"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // there is nobody to tell yet
		mustSend(t, p, &Message{Topic: "T"})
		synctest.Wait()
		if got := beats(); got != "[1 0 0]" {
			t.Errorf("heartbeats after the first send: %s", got)
		}
		g.mu.Lock()
		first := g.replicas[0].seen[0]
		g.mu.Unlock()
		if first != remoting.HeartBeat {
			t.Errorf("the first request was %s", remoting.RequestName(first))
		}
		pass(61 * time.Second)
		if got := beats(); got != "[3 0 0]" {
			t.Errorf("heartbeats after a minute: %s", got)
		}
		push, err := cl.NewPushConsumer(PushConfig{Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		if err := push.Subscribe("T", "A || B", func(context.Context, []*MessageExt) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if err := push.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, r := range g.replicas {
			g.mu.Lock()
			b := r.beats[len(r.beats)-1]
			g.mu.Unlock()
			if b.ClientID != cl.ID() || fmt.Sprint(b.Producers) != "[pg]" || len(b.Consumers) != 1 {
				t.Fatalf("replica %d heard %+v", r.id, b)
			}
			d := b.Consumers[0]
			if d.Group != "g" || d.ConsumeType != remoting.ConsumePassively || d.MessageModel != remoting.Clustering ||
				d.ConsumeFromWhere != remoting.ConsumeFromLastOffset || len(d.Subscriptions) != 2 || d.Subscriptions[1].Expression != "A || B" {
				t.Errorf("replica %d heard %+v", r.id, d)
			}
		}
		// A broker that comes back soon is told soon, one that was away for long by the next heartbeat.
		for _, away := range []time.Duration{10 * time.Second, 90 * time.Second} {
			g.replicas[2].stop()
			pass(away)
			g.replicas[2].start()
			g.mu.Lock()
			g.replicas[2].beats = nil
			g.mu.Unlock()
			dials := c.net.(*pipes).dialed(g.replicas[2].addr)
			if away < 30*time.Second {
				pass(time.Second)
			} else {
				pass(30 * time.Second)
			}
			g.mu.Lock()
			n := len(g.replicas[2].beats)
			g.mu.Unlock()
			if n == 0 {
				t.Errorf("a replica that came back after %v was not told", away)
			}
			if dials > 50 {
				t.Errorf("it was dialed %d times", dials)
			}
		}
		if err := cl.Close(t.Context()); err != nil {
			t.Error(err)
		}
		for _, r := range g.replicas {
			want := 1 // consumer
			if r.id == 0 {
				want = 2
			}
			if n := r.requests(remoting.UnregisterClient); n != want {
				t.Errorf("replica %d: %d goodbyes, want %d", r.id, n, want)
			}
		}
	})
}

// TestLanguage: what requests say of the client, in both encodings.
func TestLanguage(t *testing.T) {
	for _, jsonHeaders := range []bool{false, true} {
		bubble(t, 1, 1, func(t *testing.T, c *cluster) {
			c.topic("T", 1)
			want := remoting.Binary
			if jsonHeaders {
				want = remoting.JSON
			}
			c.groups[0].replicas[0].always = func(req *remoting.Command) *script {
				if req.Language != remoting.LanguageGo || req.Version != remoting.Version || req.Serialize != want {
					t.Errorf("language %v, version %d, encoding %d", req.Language, req.Version, req.Serialize)
				}
				return nil
			}
			p, err := c.client(Config{JSONHeaders: jsonHeaders}).NewProducer(ProducerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			mustSend(t, p, &Message{Topic: "T", Properties: map[string]string{"name": "wert \"ü\""}})
			if c.groups[0].replicas[0].requests(remoting.SendMessageV2) != 1 {
				t.Error("not sent")
			}
		})
	}
}

// TestRoutes: routes are polled every 30 s, and at once when a connection is lost; topics and leaders follow.
func TestRoutes(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		p := c.producer(ProducerConfig{})
		mustSend(t, p, &Message{Topic: "T"})
		count := func() int {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.routes
		}
		if n := count(); n != 1 {
			t.Errorf("%d questions", n)
		}
		pass(29 * time.Second)
		if n := count(); n != 1 {
			t.Errorf("%d questions after 29 s", n)
		}
		c.topic("T", 4)
		g.elect(1, true)
		pass(2 * time.Second)
		queues, err := p.Queues(t.Context(), "T")
		if err != nil || len(queues) != 4 {
			t.Errorf("%v, %v", queues, err)
		}
		if l := p.c.group("broker-a").leader.Load(); l.addr != g.replicas[1].addr {
			t.Errorf("leader %s after the poll", l.addr)
		}
		n := count()
		mustSend(t, p, &Message{Topic: "T"})
		g.replicas[1].stop()
		synctest.Wait()
		if count() != n+1 {
			t.Errorf("%d questions after a connection was lost, want %d", count(), n+1)
		}
		// With senders that keep failing it is asked ten times a second at most.
		n = count()
		for range 8 {
			go p.Send(context.Background(), &Message{Topic: "T"}) // their outcome is of no interest
		}
		pass(3 * time.Second)
		if d := count() - n; d > 31 {
			t.Errorf("%d questions in 3 s", d)
		}
	})
}

// TestLeaderTrust: a leader that answers is believed in against a route that has not changed, but not for ever; a changed route counts.
func TestLeaderTrust(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		for _, r := range g.replicas {
			r.hint = true
		}
		p := c.producer(ProducerConfig{})
		mustSend(t, p, &Message{Topic: "T"})
		leader := func() string { return p.c.group("broker-a").leader.Load().addr }
		g.elect(1, false)
		mustSend(t, p, &Message{Topic: "T"})
		pass(10 * time.Second)
		if leader() != g.replicas[1].addr {
			t.Error("the route undid what the replicas said")
		}
		g.elect(2, true)
		pass(2 * time.Second) // while route and replicas disagree it is asked every second
		if leader() != g.replicas[2].addr {
			t.Error("a changed route was not believed")
		}
		g.elect(1, false)
		mustSend(t, p, &Message{Topic: "T"})
		pass(leaderTrust + 2*time.Second)
		if leader() != g.replicas[2].addr {
			t.Error("a route that insists was not believed")
		}
		if res := mustSend(t, p, &Message{Topic: "T"}); res.Attempts != 2 {
			t.Errorf("%d attempts", res.Attempts)
		}
	})
}

// TestNameServers: one that cannot be reached is passed over, and one that does not know a topic is not believed alone.
func TestNameServers(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		empty := &fakeServer{c: c, handler: func(_ *remoting.Conn, req *remoting.Command) {
			req.Responder().Error(remoting.Errorf(remoting.TopicNotExist, "I have just started"))
		}}
		empty.start()
		defer empty.stop()
		for range 8 { // the first one asked is chosen at random
			cl, err := New(Config{NameServers: "10.9.9.9:9876;" + empty.addr + ", " + c.ns.addr, Dial: c.net.dial})
			if err != nil {
				t.Fatal(err)
			}
			p, err := cl.NewProducer(ProducerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			mustSend(t, p, &Message{Topic: "T"})
			if err := cl.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestUnusedPeers: the connection to an address that is in no route any more is closed after a while.
// TestHA10NoNameServer ends all name servers for hours: clients go on with the
// routes they know.
func TestHA10NoNameServer(t *testing.T) {
	bubble(t, 2, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p, err := c.client(Config{}).NewProducer(ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		mustSend(t, p, &Message{Topic: "T"})
		c.ns.stop()
		for range 20 {
			time.Sleep(10 * time.Minute) // fake
			mustSend(t, p, &Message{Topic: "T"})
		}
		c.ns.start()
	})
}

func TestUnusedPeers(t *testing.T) {
	bubble(t, 1, 2, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		p := c.producer(ProducerConfig{})
		mustSend(t, p, &Message{Topic: "T"})
		old := g.replicas[0]
		defer old.stop()
		g.mu.Lock()
		g.replicas = g.replicas[1:]
		g.leader, g.routed = 0, 0
		g.mu.Unlock()
		pass(40 * time.Second)
		mustSend(t, p, &Message{Topic: "T"})
		pass(2 * time.Minute)
		p.c.mu.Lock()
		_, known := p.c.peers[old.addr]
		p.c.mu.Unlock()
		if known {
			t.Error("the old address is still known")
		}
		synctest.Wait()
		old.mu.Lock()
		defer old.mu.Unlock()
		if n := len(old.srv.Conns()); n != 0 {
			t.Errorf("%d connections to the old address", n)
		}
	})
}

// TestHalfOpen: a peer that says nothing any more is noticed by the heartbeat, and who waits for it goes on elsewhere.
func TestHalfOpen(t *testing.T) {
	bubble(t, 1, 2, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		g := c.groups[0]
		p, err := c.client(Config{}).NewPullConsumer(PullConfig{Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Pull(t.Context(), PullRequest{Queue: mq, NoWait: true}); err != nil {
			t.Fatal(err)
		}
		g.mu.Lock()
		g.replicas[0].always = func(*remoting.Command) *script { return &script{deaf: true} }
		g.mu.Unlock()
		c.net.(*pipes).hole(g.replicas[0].addr, true)
		begun := time.Now()
		time.AfterFunc(10*time.Second, func() { g.fill(mq, 1) })
		res, err := p.Pull(t.Context(), PullRequest{Queue: mq})
		if err != nil || len(res.Messages) != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
		if took := time.Since(begun); took > 35*time.Second {
			t.Errorf("noticed after %v", took)
		}
	})
}

func TestAdmin(t *testing.T) {
	bubble(t, 2, 3, func(t *testing.T, c *cluster) {
		for _, r := range c.groups[0].replicas {
			r.hint = true
		}
		c.groups[0].elect(2, false) // the route is wrong
		a := c.client(Config{}).Admin()
		info, err := a.ClusterInfo(t.Context())
		if err != nil || len(info.Brokers) != 2 || len(info.Clusters["DefaultCluster"]) != 2 {
			t.Errorf("%+v, %v", info, err)
		}
		cfg := remoting.NewTopicConfig("T")
		cfg.WriteQueueNums, cfg.ReadQueueNums = 3, 3
		if err := a.CreateTopic(t.Context(), cfg); err != nil {
			t.Error(err)
		}
		if n := c.groups[0].replicas[2].requests(remoting.UpdateAndCreateTopic); n != 1 {
			t.Errorf("the leader got %d requests", n)
		}
		if err := a.CreateTopic(t.Context(), cfg, "broker-x"); !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
		if err := a.CreateTopic(t.Context(), remoting.NewTopicConfig("a/b")); !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
		topics, err := a.ListTopics(t.Context())
		if err != nil || !slices.Contains(topics, "T") {
			t.Errorf("%v, %v", topics, err)
		}
		if _, err := a.TopicRoute(t.Context(), "U"); !errors.Is(err, ErrNoRoute) {
			t.Error(err)
		}
		c.groups[0].fill(MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: 1}, 5)
		c.groups[1].fill(MessageQueue{Topic: "T", BrokerName: "broker-b", QueueID: 2}, 7)
		stats, err := a.TopicStats(t.Context(), "T")
		if err != nil || len(stats.Queues) != 2 || stats.Queues[0].MaxOffset != 5 || stats.Queues[1].MaxOffset != 7 {
			t.Errorf("%+v, %v", stats, err)
		}

		table := remoting.GroupTable{Groups: []remoting.GroupConfig{remoting.NewGroupConfig("g2"), remoting.NewGroupConfig("g1")}}
		tables := script{answer: &remoting.Command{Body: table.AppendBody(nil)}}
		offsets := remoting.ConsumeStats{Queues: []remoting.QueueConsumeStats{{MessageQueue: MessageQueue{Topic: "T", BrokerName: "b"}, BrokerOffset: 9}}}
		clients := remoting.ConsumerConnections{Connections: []remoting.ClientConnection{{ClientID: "id"}}}
		for i, g := range c.groups {
			r := g.replicas[g.leader]
			for _, r := range g.replicas { // any may be asked
				r.next(remoting.GetAllSubscriptionGroupConfig, tables)
				r.next(remoting.GetConsumeStats, script{answer: &remoting.Command{Body: offsets.AppendBody(nil)}})
				r.next(remoting.UpdateAndCreateSubscriptionGroup, script{answer: &remoting.Command{}})
				r.next(remoting.DeleteSubscriptionGroup, script{answer: &remoting.Command{}})
				r.next(remoting.DeleteTopicInBroker, script{answer: &remoting.Command{}})
				kv := remoting.KVTable{"brokerName": g.name}
				r.next(remoting.GetBrokerRuntimeInfo, script{answer: &remoting.Command{Body: kv.AppendBody(nil)}})
				if i == 0 {
					r.next(remoting.GetConsumerConnectionList, answerWith(remoting.ConsumerNotOnline))
				}
			}
			if i == 1 {
				r.next(remoting.GetConsumerConnectionList, script{answer: &remoting.Command{Body: clients.AppendBody(nil)}}, answerWith(remoting.ConsumerNotOnline))
			}
		}
		groups, err := a.ListGroups(t.Context())
		if err != nil || len(groups) != 2 || groups[0].Name != "g1" {
			t.Errorf("%+v, %v", groups, err)
		}
		progress, err := a.ConsumeStats(t.Context(), "g1", "")
		if err != nil || len(progress.Queues) != 2 || progress.Queues[0].BrokerOffset != 9 {
			t.Errorf("%+v, %v", progress, err)
		}
		list, err := a.Consumers(t.Context(), "g1")
		if err != nil || len(list.Connections) != 1 {
			t.Errorf("%+v, %v", list, err)
		}
		for _, r := range c.groups[0].replicas {
			r.next(remoting.GetConsumerConnectionList, answerWith(remoting.ConsumerNotOnline))
		}
		if _, err = a.Consumers(t.Context(), "g1"); !errors.Is(err, &BrokerError{Code: remoting.ConsumerNotOnline}) {
			t.Error(err)
		}
		if err := a.CreateGroup(t.Context(), remoting.NewGroupConfig("g3")); err != nil {
			t.Error(err)
		}
		if err := a.DeleteGroup(t.Context(), "g3", true); err != nil {
			t.Error(err)
		}
		if err := a.DeleteTopic(t.Context(), "T"); err != nil {
			t.Error(err)
		}
		kv, err := a.RuntimeInfo(t.Context(), "broker-b")
		if err != nil || kv["brokerName"] != "broker-b" {
			t.Errorf("%v, %v", kv, err)
		}
		if _, err := a.RuntimeInfo(t.Context(), "broker-x"); !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
		// An unknown request is an error of the broker's.
		var b *BrokerError
		if err := a.DeleteTopic(t.Context(), "T"); !errors.As(err, &b) || b.Code != remoting.RequestCodeNotSupported {
			t.Error(err)
		}
	})
}
