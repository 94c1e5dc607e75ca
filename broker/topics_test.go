package broker

import (
	"slices"
	"testing"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// queuesOf waits until a node's name service has a topic's queues as wanted.
func (c *testCluster) queuesOf(t testing.TB, topic string, want remoting.QueueData) {
	t.Helper()
	want.BrokerName = "broker-a"
	for _, id := range c.ids() {
		eventually(t, "the route of "+topic+" at "+id, func() bool {
			d, err := c.route(t, id, topic)
			return err == nil && slices.Equal(d.Queues, []remoting.QueueData{want})
		})
	}
}

func (c *testClient) topicConfig(name string) (tc remoting.TopicConfig, err error) {
	c.t.Helper()
	resp, err := c.ask(remoting.GetTopicConfig, &remoting.TopicRequest{Topic: name})
	if err == nil {
		err = tc.DecodeBody(resp.Body)
	}
	return tc, err
}

func TestTOPIC01And06RouteAndPermission(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 8)
	cl.queuesOf(t, "T", remoting.QueueData{ReadQueueNums: 8, WriteQueueNums: 8, Perm: 6})
	eventually(t, "all replicas in the route", func() bool {
		d, err := cl.route(t, "n1", "T")
		return err == nil && len(d.Brokers) == 1 && d.Brokers[0].Addrs[0] == cl.leader(t).addr.String() && len(d.Brokers[0].Addrs) == 3
	})
	c.mustSend(message("T", 0), "m")
	for _, perm := range []int32{remoting.PermRead, remoting.PermWrite, 0} {
		c.topic("T", 8, func(tc *remoting.TopicConfig) { tc.Perm = perm })
		cl.queuesOf(t, "T", remoting.QueueData{ReadQueueNums: 8, WriteQueueNums: 8, Perm: perm})
		_, err := c.send(message("T", 0), "m")
		if perm&remoting.PermWrite == 0 {
			wantCode(t, err, remoting.NoPermission)
		} else if err != nil {
			t.Error(err)
		}
		if p := c.pull(pullOf("T", 0, 0)); perm&remoting.PermRead == 0 {
			wantCode(t, p.err, remoting.NoPermission)
		} else if p.err != nil {
			t.Error(p.err)
		}
	}

	// TOPIC-09: the configuration outlives its leader.
	c.topic("T", 3)
	c = dial(t, cl.transfer(t))
	if tc, err := c.topicConfig("T"); err != nil || tc.WriteQueueNums != 3 || tc.Perm != 6 {
		t.Errorf("%+v: %v", tc, err)
	}
	eventually(t, "the new leader in the route", func() bool {
		d, err := cl.route(t, "n1", "T")
		return err == nil && len(d.Brokers) == 1 && d.Brokers[0].Addrs[0] == cl.leader(t).addr.String()
	})
}

func TestTOPIC02NamesThatAreTaken(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	for _, name := range []string{remoting.TopicAutoCreate, remoting.TopicSchedule, "RMQ_SYS_TRANS_HALF_TOPIC", "rmq_sys_x", ""} {
		tc := ownTopic(name, 1)
		_, err := c.ask(remoting.UpdateAndCreateTopic, &tc)
		wantCode(t, err, remoting.InvalidParameter)
		if name != "" {
			_, err = c.ask(remoting.DeleteTopicInBroker, &remoting.TopicRequest{Topic: name})
			wantCode(t, err, remoting.InvalidParameter)
		}
	}
	for _, change := range []func(*remoting.TopicConfig){
		func(tc *remoting.TopicConfig) { tc.Perm = 64 },
		func(tc *remoting.TopicConfig) { tc.ReadQueueNums = -1 },
		func(tc *remoting.TopicConfig) { tc.WriteQueueNums = 1 << 30 },
		func(tc *remoting.TopicConfig) { tc.FilterType = "x" },
		func(tc *remoting.TopicConfig) { tc.Attributes = map[string]string{"+" + fsm.AttributeDedup: "maybe"} },
	} {
		tc := ownTopic(named(t), 1)
		change(&tc)
		_, err := c.ask(remoting.UpdateAndCreateTopic, &tc)
		wantCode(t, err, remoting.InvalidParameter)
	}
}

func TestTOPIC03AutoCreation(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	c := dial(t, cl.leader(t))
	cl.queuesOf(t, remoting.TopicAutoCreate, remoting.QueueData{ReadQueueNums: 8, WriteQueueNums: 8, Perm: 7})
	c.mustSend(message("New", 3), "m") // the client wants 4 queues
	tc, err := c.topicConfig("New")
	if err != nil || tc.ReadQueueNums != 4 || tc.WriteQueueNums != 4 || tc.Perm != 6 {
		t.Errorf("%+v: %v", tc, err)
	}
	cl.queuesOf(t, "New", remoting.QueueData{ReadQueueNums: 4, WriteQueueNums: 4, Perm: 6})
	h := message("Newer", 0)
	h.DefaultTopicQueueNums = 100
	c.mustSend(h, "m")
	if tc, err := c.topicConfig("Newer"); err != nil || tc.WriteQueueNums != 8 {
		t.Errorf("%+v: %v", tc, err)
	}
}

func TestTOPIC04And07AndSEND04AndOFF10WithoutAutoCreation(t *testing.T) {
	t.Parallel()
	off := false
	cl := startCluster(t, 1, func(c *Config) { c.AutoCreateTopicEnable = &off })
	c := dial(t, cl.leader(t))
	_, err := c.send(message("T", 0), "m")
	wantCode(t, err, remoting.TopicNotExist)
	c.topic("T", 1)
	c.mustSend(message("T", 0), "before")
	cl.queuesOf(t, "T", remoting.QueueData{ReadQueueNums: 1, WriteQueueNums: 1, Perm: 6})
	if _, err := cl.route(t, "n1", remoting.TopicAutoCreate); codeOf(err) != remoting.TopicNotExist {
		t.Errorf("the template's route: %v", err)
	}
	c.group("g")
	if err := c.commit("g", "T", 0, 1); err != nil {
		t.Fatal(err)
	}
	c.must(remoting.DeleteTopicInBroker, &remoting.TopicRequest{Topic: "T"})
	_, err = c.send(message("T", 0), "m")
	wantCode(t, err, remoting.TopicNotExist)
	wantCode(t, c.pull(pullOf("T", 0, 0)).err, remoting.TopicNotExist)
	eventually(t, "the route is gone", func() bool {
		_, err := cl.route(t, "n1", "T")
		return codeOf(err) == remoting.TopicNotExist
	})
	// Made again it is another topic.
	c.topic("T", 1)
	if r := c.mustSend(message("T", 0), "after"); r.QueueOffset != 0 {
		t.Errorf("its first message has offset %d", r.QueueOffset)
	}
	if got := bodiesOf(c.all("T", 0)); !slices.Equal(got, []string{"after"}) {
		t.Errorf("%q", got)
	}
	if got, err := c.offset("g", "T", 0); err != nil || got != 0 {
		t.Errorf("the group is at %d: %v", got, err)
	}
}

func TestTOPIC05FewerReadQueues(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 4)
	c.mustSend(message(topic, 3), "m")
	c.topic(topic, 2)
	if p := c.pull(pullOf(topic, 3, 0)); p.code == remoting.Success {
		t.Error("a queue that the topic has no more was read")
	}
	c.topic(topic, 4)
	if got := bodiesOf(c.all(topic, 3)); !slices.Equal(got, []string{"m"}) {
		t.Errorf("when it is back: %q", got)
	}
}

func TestTOPIC08RetryTopicOfAHeartbeat(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.beat("id", consumer(group, topic, "*"))
	if tc, err := c.topicConfig(remoting.RetryTopic(group)); err != nil || tc.WriteQueueNums != 1 || tc.Perm != 6 {
		t.Errorf("%+v: %v", tc, err)
	}
}

func TestAttributesOfATopic(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	with := func(changes map[string]string) func(*remoting.TopicConfig) {
		return func(tc *remoting.TopicConfig) { tc.Attributes = changes }
	}
	c.topic(topic, 1, with(map[string]string{"+" + fsm.AttributeDedup: "false", "+other": "1"}))
	c.topic(topic, 1, with(map[string]string{"-other": ""}))
	tc, err := c.topicConfig(topic)
	if err != nil || len(tc.Attributes) != 1 || tc.Attributes[fsm.AttributeDedup] != "false" {
		t.Errorf("%+v: %v", tc, err)
	}
}

func TestListOfTopicsIsTheSameOnAllReplicas(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	c := dial(t, cl.leader(t))
	c.topic("A", 1)
	c.topic("B", 2)
	cl.caughtUp(t)
	want := string(c.must(remoting.GetAllTopicConfig, nil).Body)
	var table remoting.TopicTable
	if err := table.DecodeBody([]byte(want)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"A", "B", remoting.TopicAutoCreate, remoting.TopicSchedule} {
		if !slices.ContainsFunc(table.Topics, func(tc remoting.TopicConfig) bool { return tc.Name == name }) {
			t.Errorf("%s is not listed", name)
		}
	}
	for _, b := range cl.followers(t) {
		if got := string(dial(t, b).must(remoting.GetAllTopicConfig, nil).Body); got != want {
			t.Errorf("on a follower:\n%s\non the leader:\n%s", got, want)
		}
	}
}
