package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

func TestOFF01CommitAndQuery(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 2)
	c.group(group)
	for _, offset := range []int64{7, 3, 0} { // a lower one is taken, too
		if err := c.commit(group, topic, 1, offset); err != nil {
			t.Fatal(err)
		}
		if got, err := c.offset(group, topic, 1); err != nil || got != offset {
			t.Errorf("committed %d, then it is %d: %v", offset, got, err)
		}
	}
	if err := c.commit(group, topic, 1, 5); err != nil {
		t.Fatal(err)
	}
	// Clients that know nothing of a queue commit -1: nothing changes.
	if err := c.commit(group, topic, 1, -1); err != nil {
		t.Errorf("commit of -1: %v", err)
	}
	if got, err := c.offset(group, topic, 1); err != nil || got != 5 {
		t.Errorf("after a commit of -1 it is %d: %v", got, err)
	}
	wantCode(t, c.commit("none"+group, topic, 1, 1), remoting.SubscriptionGroupNotExist)
	wantCode(t, c.commit(group, "none"+topic, 1, 1), remoting.TopicNotExist)
	wantCode(t, c.commit(group, topic, 2, 1), remoting.InvalidParameter)
}

func TestOFF02NeverCommitted(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.group(group)
	_, err := c.offset(group, topic, 0)
	wantCode(t, err, remoting.QueryNotFound) // empty: the client asks for the queue's end
	c.mustSend(message(topic, 0), "m")
	if got, err := c.offset(group, topic, 0); err != nil || got != 0 {
		t.Errorf("a young queue is at %d: %v", got, err)
	}
	_, err = c.ask(remoting.QueryConsumerOffset, &remoting.QueryConsumerOffsetRequest{ConsumerGroup: group, Topic: topic, NoZero: true})
	wantCode(t, err, remoting.QueryNotFound)
}

func TestOFF06CommitWithinAPull(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.group(group)
	c.mustSend(message(topic, 0), "m")
	c.pull(pullOf(topic, 0, 1, func(h *remoting.PullRequest) {
		h.ConsumerGroup = group
		h.SysFlag |= remoting.PullCommitOffset
		h.CommitOffset = 1
	}))
	if got, err := c.offset(group, topic, 0); err != nil || got != 1 {
		t.Errorf("the pull committed 1, it is %d: %v", got, err)
	}
}

// S6: what was answered SUCCESS is there after every change of the leader.
func TestOFF09OffsetsOverLeaderChanges(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, alone)
	c := dial(t, cl.leader(t))
	c.topic("T", 4)
	c.group("g")
	for round := range int64(4) {
		for queue := range int32(4) {
			if err := c.commit("g", "T", queue, 100*round+int64(queue)); err != nil {
				t.Fatal(err)
			}
		}
		old := cl.leader(t)
		wantCode(t, dial(t, cl.followers(t)[0]).commit("g", "T", 0, 1), remoting.ServiceNotAvailable)
		c = dial(t, cl.transfer(t))
		for queue := range int32(4) {
			if got, err := c.offset("g", "T", queue); err != nil || got != 100*round+int64(queue) {
				t.Errorf("round %d: queue %d is at %d: %v", round, queue, got, err)
			}
		}
		// An old leader does not answer from what it remembers.
		if !old.leads() {
			_, err := dial(t, old).offset("g", "T", 0)
			wantCode(t, err, remoting.ServiceNotAvailable)
		}
	}
}

func TestOffsetsCommittedOneWay(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.group(group)
	for i := range int64(50) {
		err := c.conn.Notify(&remoting.Command{Code: remoting.UpdateConsumerOffset,
			Header: &remoting.UpdateConsumerOffsetRequest{ConsumerGroup: group, Topic: topic, CommitOffset: i}})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the last of them", func() bool {
		got, err := c.offset(group, topic, 0)
		return err == nil && got == 49
	})
}

func TestConsumeStatsAndWhoConsumes(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 2)
	c.group(group)
	before := time.Now().UnixMilli()
	for i := range 5 {
		c.mustSend(message(topic, 1), fmt.Sprint(i))
	}
	if err := c.commit(group, topic, 1, 2); err != nil {
		t.Fatal(err)
	}
	var stats remoting.ConsumeStats
	if err := stats.DecodeBody(c.must(remoting.GetConsumeStats, &remoting.ConsumeStatsRequest{ConsumerGroup: group}).Body); err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, q := range stats.Queues {
		if q.Topic == topic && q.QueueID == 1 {
			seen = true
			if q.BrokerOffset != 5 || q.ConsumerOffset != 2 || q.LastTimestamp < before {
				t.Errorf("%+v", q)
			}
		}
	}
	if !seen {
		t.Errorf("queue 1 is not among %+v", stats.Queues)
	}
	var groups remoting.GroupList
	if err := groups.DecodeBody(c.must(remoting.QueryTopicConsumeByWho, &remoting.TopicRequest{Topic: topic}).Body); err != nil {
		t.Fatal(err)
	}
	if len(groups) != 1 || groups[0] != group {
		t.Errorf("consumed by %q", groups)
	}
}
