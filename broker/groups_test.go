package broker

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/remoting"
)

// ids asks for the members of a consumer group; nil if there is none.
func (c *testClient) ids(group string) []string {
	c.t.Helper()
	resp, err := c.ask(remoting.GetConsumerListByGroup, &remoting.ConsumerGroupRequest{ConsumerGroup: group})
	if err != nil {
		wantCode(c.t, err, remoting.SystemError)
		return nil
	}
	var list remoting.ConsumerList
	if err := list.DecodeBody(resp.Body); err != nil {
		c.t.Fatal(err)
	}
	return list
}

// isTold waits until the broker says that a group has other members now.
func (c *testClient) isTold(group string) {
	c.t.Helper()
	timeout := time.After(callTimeout)
	for {
		select {
		case req := <-c.told:
			var h remoting.ConsumerGroupRequest
			if req.Code != remoting.NotifyConsumerIDsChanged {
				continue
			}
			if err := h.Decode(req); err != nil {
				c.t.Fatal(err)
			}
			if h.ConsumerGroup == group {
				return
			}
		case <-timeout:
			c.t.Fatalf("not told of a change in %s", group)
		}
	}
}

func TestGROUP01UnknownGroup(t *testing.T) {
	t.Parallel()
	off := false
	cl := startCluster(t, 1, func(c *Config) { c.AutoCreateSubscriptionGroup = &off })
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	c.mustSend(message("T", 0), "m")
	wantCode(t, c.pull(pullOf("T", 0, 0)).err, remoting.SubscriptionGroupNotExist)
	_, err := c.ask(remoting.ConsumerSendMsgBack, &remoting.SendBackRequest{Group: "g", MaxReconsumeTimes: -1})
	wantCode(t, err, remoting.SubscriptionGroupNotExist)
	c.beat("id", consumer("g", "T", "*"))
	if ids := c.ids("g"); ids != nil {
		t.Errorf("registered: %q", ids)
	}
	c.group("g")
	c.beat("id", consumer("g", "T", "*"))
	if ids := c.ids("g"); !slices.Equal(ids, []string{"id"}) {
		t.Errorf("registered: %q", ids)
	}
}

func TestGROUP02ConsumeEnable(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.mustSend(message(topic, 0), "m")
	from := func(h *remoting.PullRequest) { h.ConsumerGroup = group }
	c.group(group, func(g *remoting.GroupConfig) { g.ConsumeEnable = false })
	wantCode(t, c.pull(pullOf(topic, 0, 0, from)).err, remoting.NoPermission)
	c.group(group)
	if p := c.pull(pullOf(topic, 0, 0, from)); p.err != nil || len(p.records) != 1 {
		t.Errorf("%d messages: %v", len(p.records), p.err)
	}
}

func TestGROUP03BroadcastingNotEnabled(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.mustSend(message(topic, 0), "m")
	c.group(group, func(g *remoting.GroupConfig) { g.ConsumeBroadcastEnable = false })
	broadcasting := consumer(group, topic, "*")
	broadcasting.MessageModel = remoting.Broadcasting
	c.beat("one", broadcasting)
	wantCode(t, c.pull(pullOf(topic, 0, 0, registered(group, 0))).err, remoting.NoPermission)
	c.group(group)
	if p := c.pull(pullOf(topic, 0, 0, registered(group, 0))); p.err != nil || len(p.records) != 1 {
		t.Errorf("%d messages: %v", len(p.records), p.err)
	}
}

func TestGROUP04Names(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	c.mustSend(message(topic, 0), "m")
	for _, bad := range []string{"", "a b", "a/b", "../x", strings.Repeat("g", 256)} {
		g := remoting.NewGroupConfig(bad)
		_, err := c.call(&remoting.Command{Code: remoting.UpdateAndCreateSubscriptionGroup, Body: g.AppendBody(nil)})
		wantCode(t, err, remoting.InvalidParameter)
	}
	long := (named(t) + strings.Repeat("g", 120))[:120]
	c.beat("id", consumer(long, topic, "*"))
	v := c.all(topic, 0)[0]
	for _, level := range []int32{1, -1} {
		c.must(remoting.ConsumerSendMsgBack, &remoting.SendBackRequest{Group: long, Offset: v.PhysicalOffset(), DelayLevel: level, MaxReconsumeTimes: -1})
	}
	if dead := c.all(remoting.DLQTopic(long), 0); len(dead) != 1 {
		t.Errorf("%d dead letters", len(dead))
	}
	eventually(t, "the retry", func() bool { return len(c.all(remoting.RetryTopic(long), 0)) == 1 })
}

func TestGROUP05DeleteGroup(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	for _, clean := range []bool{false, true} {
		c.group(group)
		if err := c.commit(group, topic, 0, 3); err != nil {
			t.Fatal(err)
		}
		c.must(remoting.DeleteSubscriptionGroup, &remoting.DeleteGroupRequest{Group: group, CleanOffset: clean})
		_, err := c.ask(remoting.GetSubscriptionGroupConfig, &remoting.GroupRequest{Group: group})
		wantCode(t, err, remoting.SubscriptionGroupNotExist)
		c.group(group)
		got, err := c.offset(group, topic, 0)
		if clean {
			wantCode(t, err, remoting.QueryNotFound)
		} else if got != 3 || err != nil {
			t.Errorf("the offset is %d: %v", got, err)
		}
	}
}

func TestGROUP06And07MembersAndWhoIsTold(t *testing.T) {
	t.Parallel()
	b := shared(t)
	topic, group := named(t), "g"+named(t)
	one, two, three := dial(t, b), dial(t, b), dial(t, b)
	one.topic(topic, 4)
	one.beat("one", consumer(group, topic, "*"))
	one.isTold(group)
	two.beat("two", consumer(group, topic, "*"))
	one.isTold(group)
	two.isTold(group) // the newcomer, too
	if ids := one.ids(group); !slices.Equal(ids, []string{"one", "two"}) {
		t.Errorf("%q", ids)
	}
	// Once more changes nothing, and tells nobody.
	two.beat("two", consumer(group, topic, "*"))
	if len(one.told)+len(two.told) > 0 {
		t.Error("told of no change")
	}
	// The same client over another connection is there once.
	three.beat("two", consumer(group, topic, "*"))
	one.isTold(group)
	if ids := one.ids(group); !slices.Equal(ids, []string{"one", "two"}) {
		t.Errorf("%q", ids)
	}
	two.conn.Close() // its old self takes nobody along
	three.must(remoting.UnregisterClient, &remoting.UnregisterClientRequest{ClientID: "two", ConsumerGroup: group})
	one.isTold(group)
	if ids := one.ids(group); !slices.Equal(ids, []string{"one"}) {
		t.Errorf("after two has left: %q", ids)
	}
	three.beat("three", consumer(group, topic, "*"))
	one.isTold(group)
	three.conn.Close()
	one.isTold(group)
	if ids := one.ids(group); !slices.Equal(ids, []string{"one"}) {
		t.Errorf("after the connection of three broke: %q", ids)
	}
	resp := one.must(remoting.GetConsumerConnectionList, &remoting.ConsumerGroupRequest{ConsumerGroup: group})
	var conns remoting.ConsumerConnections
	if err := conns.DecodeBody(resp.Body); err != nil || len(conns.Connections) != 1 || conns.Connections[0].ClientID != "one" || conns.MessageModel != remoting.Clustering {
		t.Errorf("%+v: %v", conns, err)
	}
}

func TestClientsThatAreSilentAreForgotten(t *testing.T) {
	t.Parallel()
	b := shared(t)
	topic, group := named(t), "g"+named(t)
	one, two := dial(t, b), dial(t, b)
	one.topic(topic, 1)
	two.beat("two", consumer(group, topic, "*"))
	heard := time.Now()
	b.clients.expire(heard.Add(clientExpiry - time.Minute))
	if ids := one.ids(group); !slices.Equal(ids, []string{"two"}) {
		t.Errorf("%q within the time", ids)
	}
	b.clients.mu.Lock()
	b.clients.consumers[group].members["two"].seen = heard.Add(-2 * clientExpiry)
	b.clients.mu.Unlock()
	b.clients.expire(time.Now())
	if ids := one.ids(group); ids != nil {
		t.Errorf("%q after it", ids)
	}
}

func TestProducersOfAGroup(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	group := named(t)
	h := remoting.Heartbeat{ClientID: "id", Producers: []string{group}}
	if _, err := c.call(&remoting.Command{Code: remoting.HeartBeat, Body: h.AppendBody(nil), Language: remoting.LanguageJava, Version: 401}); err != nil {
		t.Fatal(err)
	}
	var list remoting.ProducerConnections
	resp := c.must(remoting.GetProducerConnectionList, &remoting.ProducerGroupRequest{ProducerGroup: group})
	if err := list.DecodeBody(resp.Body); err != nil || len(list) != 1 || list[0].ClientID != "id" || list[0].Version != 401 || list[0].Language != remoting.LanguageJava {
		t.Errorf("%+v: %v", list, err)
	}
	c.must(remoting.UnregisterClient, &remoting.UnregisterClientRequest{ClientID: "id", ProducerGroup: group})
	_, err := c.ask(remoting.GetProducerConnectionList, &remoting.ProducerGroupRequest{ProducerGroup: group})
	wantCode(t, err, remoting.SystemError)
}

// Times that can't be added up are refused, and what is set stays as it is.
func TestAutopilotTimesAreBounded(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	limit := raftgroup.MaxAutopilotWait.Milliseconds()
	for _, bad := range []remoting.RaftAutopilotConfig{{Stable: limit + 1}, {DeadAfter: limit + 1}, {Stable: math.MaxInt64}, {DeadAfter: math.MaxInt64}, {Stable: -1}} {
		_, err := c.call(&remoting.Command{Code: remoting.RaftSetAutopilotRequest, Body: bad.AppendBody(nil)})
		wantCode(t, err, remoting.InvalidParameter)
	}
}
