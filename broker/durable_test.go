package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage/disk"
)

// What a clean stop and a start, and a change of the leader, leave as it was.
func TestSTORE01AndTOPIC09NothingIsForgotten(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 3, func(tc *remoting.TopicConfig) { tc.Perm = remoting.PermRead | remoting.PermWrite; tc.ReadQueueNums = 5 })
	c.group("g", func(g *remoting.GroupConfig) { g.RetryMaxTimes = 7; g.ConsumeBroadcastEnable = false })
	var want []string
	for i := range 20 {
		body := fmt.Sprint(i)
		c.mustSend(message("T", 1), body)
		want = append(want, body)
	}
	if err := c.commit("g", "T", 1, 13); err != nil {
		t.Fatal(err)
	}
	topic, err := c.topicConfig("T")
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		b := cl.leader(t)
		c := dial(t, b)
		if got, err := c.topicConfig("T"); err != nil || fmt.Sprint(got) != fmt.Sprint(topic) {
			t.Errorf("%s the topic is %+v, %v", when, got, err)
		}
		if g, ok := b.group.State().Group("g"); !ok || g.RetryMaxTimes != 7 || g.ConsumeBroadcastEnable {
			t.Errorf("%s the group is %+v", when, g)
		}
		if got := bodiesOf(c.all("T", 1)); !slices.Equal(got, want) {
			t.Errorf("%s the messages are %q", when, got)
		}
		if got, err := c.offset("g", "T", 1); err != nil || got != 13 {
			t.Errorf("%s the group is at %d, %v", when, got, err)
		}
		// What comes next goes on where it was.
		body := "next " + when
		if r := c.mustSend(message("T", 1), body); r.QueueOffset != int64(len(want)) {
			t.Errorf("%s the next offset is %d", when, r.QueueOffset)
		}
		want = append(want, body)
	}
	cl.transfer(t)
	check("after a change of the leader")
	cl.end(t, cl.leader(t).cfg.NodeID)
	check("without the old leader")
	ids := cl.ids()
	for _, id := range ids {
		if _, up := cl.brokers()[id]; up {
			cl.end(t, id)
		}
	}
	cl.mustStart(t, ids...)
	check("after a stop of all")
}

func TestSTORE12SecondProcessOnADirectory(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	// Elsewhere on the network, so that only the directory is in its way.
	ports, err := freePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	cfg := cl.config("n1")
	cfg.Nodes = map[string]NodeConfig{"n1": {Peer: ports[0], Namesrv: ports[1]}}
	cfg.Groups = []GroupConfig{{BrokerName: "broker-a", Replicas: map[string]string{"n1": ports[2]}}}
	if n, err := Open(cfg, testLogger()); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("it starts: %v", err)
		if err == nil {
			n.Close(t.Context())
		}
	}
	c.mustSend(message("T", 0), "the first one goes on")
}

// Store times, which queues are searched by, do not go back when another replica
// leads.
func TestSEND17StoreTimesOverLeaderChanges(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	b := cl.leader(t)
	dial(t, b).topic("T", 1)
	for range 4 {
		c := dial(t, b)
		for range 5 {
			c.mustSend(message("T", 0), "m")
		}
		b = cl.transfer(t)
	}
	last := int64(0)
	records := dial(t, b).all("T", 0)
	for i, v := range records {
		if v.StoreTimestamp() < last {
			t.Errorf("message %d was stored at %d, the one before at %d", i, v.StoreTimestamp(), last)
		}
		last = v.StoreTimestamp()
	}
	if len(records) != 20 {
		t.Errorf("%d messages", len(records))
	}
}
