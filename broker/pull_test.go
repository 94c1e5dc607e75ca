package broker

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// trimmed is a cluster of one node whose topic T has lost its first segment: queue
// 0 begins at the offset returned.
func trimmed(t testing.TB) (c *testClient, first, end int64) {
	t.Helper()
	cl := startCluster(t, 1, func(c *Config) { c.MaxMessageSize, c.MappedFileSizeCommitLog = 128<<10, 1<<20 })
	b := cl.leader(t)
	c = dial(t, b)
	c.topic("T", 2)
	body := strings.Repeat("x", 100<<10)
	for range 25 {
		c.mustSend(message("T", 0), body)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if _, err := b.group.Trim(ctx, 1<<20); err != nil {
		t.Fatal(err)
	}
	first, err := b.queue("T", 0).Min()
	if err != nil || first <= 0 || first >= 25 {
		t.Fatalf("after the trim the queue begins at %d: %v", first, err)
	}
	return c, first, 25
}

func TestPULL01OffsetBelowTheQueue(t *testing.T) {
	t.Parallel()
	c, first, end := trimmed(t)
	for _, offset := range []int64{first - 1, 0, -1, math.MinInt64} { // row 38
		if p := c.pull(pullOf("T", 0, offset, held(time.Minute))); p.code != remoting.PullOffsetMoved || p.NextBeginOffset != first || p.MinOffset != first || p.MaxOffset != end {
			t.Errorf("at %d: %+v", offset, p)
		}
	}
	if p := c.pull(pullOf("T", 0, first)); p.code != remoting.Success || p.records[0].QueueOffset() != first {
		t.Errorf("at %d: %+v", first, p)
	}
}

func TestPULL02OffsetBeyondTheQueue(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 2)
	for range 3 {
		c.mustSend(message(topic, 0), "m")
	}
	for _, offset := range []int64{4, 3 + 1e9, math.MaxInt64} { // row 38
		if p := c.pull(pullOf(topic, 0, offset, held(time.Minute))); p.code != remoting.PullOffsetMoved || p.NextBeginOffset != 3 || p.MaxOffset != 3 {
			t.Errorf("at %d: %+v", offset, p)
		}
		// A queue that never had a message.
		if p := c.pull(pullOf(topic, 1, offset, held(time.Minute))); p.code != remoting.PullOffsetMoved || p.NextBeginOffset != 0 {
			t.Errorf("an empty queue at %d: %+v", offset, p)
		}
	}
}

func TestPULL03AtTheEndWithoutWaiting(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 2)
	c.mustSend(message(topic, 0), "m")
	if p := c.pull(pullOf(topic, 0, 1)); p.code != remoting.PullNotFound || p.NextBeginOffset != 1 || p.MaxOffset != 1 {
		t.Errorf("%+v", p)
	}
	if p := c.pull(pullOf(topic, 1, 0)); p.code != remoting.PullNotFound || p.NextBeginOffset != 0 {
		t.Errorf("an empty queue: %+v", p)
	}
	// Waiting, but for no time.
	if p := c.pull(pullOf(topic, 0, 1, held(0))); p.code != remoting.PullNotFound {
		t.Errorf("held for 0 ms: %+v", p)
	}
}

func TestPULL06SizeOfAnAnswer(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, func(c *Config) { c.AccessMessageInMemory = 256 << 10 })
	c := dial(t, cl.leader(t))
	c.topic("T", 3)
	for i := range 100 {
		c.mustSend(message("T", 0), fmt.Sprint(i))
	}
	if p := c.pull(pullOf("T", 0, 0, many(100))); p.code != remoting.Success || len(p.records) != 32 || p.NextBeginOffset != 32 {
		t.Errorf("near the end: %d messages, next %d", len(p.records), p.NextBeginOffset)
	}
	if p := c.pull(pullOf("T", 0, 90, many(5))); len(p.records) != 5 || p.NextBeginOffset != 95 {
		t.Errorf("asked for 5: %d messages, next %d", len(p.records), p.NextBeginOffset)
	}
	for _, n := range []int32{0, -1, math.MinInt32} { // the stock Go client's Poll asks for 0
		if p := c.pull(pullOf("T", 0, 90, many(n))); p.code != remoting.Success || len(p.records) != 1 || p.NextBeginOffset != 91 {
			t.Errorf("asked for %d: code %d, %d messages, next %d", n, p.code, len(p.records), p.NextBeginOffset)
		}
		if p := c.pull(pullOf("T", 0, 100, many(n))); p.code != remoting.PullNotFound || p.NextBeginOffset != 100 {
			t.Errorf("asked for %d at the end: code %d, next %d", n, p.code, p.NextBeginOffset)
		}
	}
	limited := c.pull(pullOf("T", 0, 0, func(h *remoting.PullRequest) { h.MaxMsgBytes = 1000 }))
	if limited.bytes > 1000 || len(limited.records) < 2 {
		t.Errorf("asked for 1000 bytes: %d messages of %d", len(limited.records), limited.bytes)
	}
	// Messages of 100 KiB: as many as 256 KiB hold.
	for range 4 {
		c.mustSend(message("T", 1), strings.Repeat("y", 100<<10))
	}
	if p := c.pull(pullOf("T", 1, 2)); len(p.records) != 2 || p.NextBeginOffset != 4 {
		t.Errorf("large ones: %d messages, next %d", len(p.records), p.NextBeginOffset)
	}
	// Far behind now: 8 messages and 64 KiB at most, but one at least.
	c.mustSend(message("T", 2), strings.Repeat("z", 1<<20))
	if p := c.pull(pullOf("T", 0, 0, many(100))); len(p.records) != 8 || p.NextBeginOffset != 8 || !slices.Equal(p.bodies(), []string{"0", "1", "2", "3", "4", "5", "6", "7"}) {
		t.Errorf("far behind: %q, next %d", p.bodies(), p.NextBeginOffset)
	}
	if p := c.pull(pullOf("T", 1, 0)); len(p.records) != 1 || p.NextBeginOffset != 1 {
		t.Errorf("far behind, large ones: %d messages, next %d", len(p.records), p.NextBeginOffset)
	}
	if p := c.pull(pullOf("T", 2, 0)); len(p.records) != 1 || len(p.records[0].Body()) != 1<<20 {
		t.Errorf("a message over all limits: %d came", len(p.records))
	}
}

func many(n int32) func(*remoting.PullRequest) {
	return func(h *remoting.PullRequest) { h.MaxMsgNums = n }
}

func TestPULL07AnswerFields(t *testing.T) {
	t.Parallel()
	c, first, end := trimmed(t)
	for what, p := range map[string]testPulled{
		"found":     c.pull(pullOf("T", 0, first)),
		"nothing":   c.pull(pullOf("T", 0, end)),
		"no match":  c.pull(pullOf("T", 0, first, tagged("nope"))),
		"too small": c.pull(pullOf("T", 0, 0)),
		"too large": c.pull(pullOf("T", 0, end+1)),
	} { // decodePulled has found all four
		if p.err != nil && p.code == remoting.SystemError || p.MinOffset != first || p.MaxOffset != end || p.SuggestBrokerID != 0 {
			t.Errorf("%s: %+v, %v", what, p.PullResponse, p.err)
		}
	}
}

func TestPULL08QueueBeyondTheTopic(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 4, func(tc *remoting.TopicConfig) { tc.ReadQueueNums = 2 })
	for _, queue := range []int32{-1, 2, math.MaxInt32} {
		wantCode(t, c.pull(pullOf(topic, queue, 0)).err, remoting.InvalidParameter)
	}
	wantCode(t, c.pull(pullOf("nobody_made_this", 0, 0)).err, remoting.TopicNotExist)
}

func registered(group string, version int64) func(*remoting.PullRequest) {
	return func(h *remoting.PullRequest) {
		h.ConsumerGroup, h.SubVersion = group, version
		h.SysFlag &^= remoting.PullSubscription
		h.Subscription, h.ExpressionType = "", ""
	}
}

func TestPULL09And10SubscriptionOfTheHeartbeat(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	for _, tag := range []string{"A", "B", "A"} {
		c.mustSend(message(topic, 0, remoting.PropTags, tag), tag)
	}
	wantCode(t, c.pull(pullOf(topic, 0, 0, registered(topic, 0))).err, remoting.SubscriptionNotExist)
	c.beat("c1", consumer(topic, topic, "A"))
	if p := c.pull(pullOf(topic, 0, 0, registered(topic, 0))); !slices.Equal(p.bodies(), []string{"A", "A"}) {
		t.Errorf("by the heartbeat's expression: %q, %v", p.bodies(), p.err)
	}
	wantCode(t, c.pull(pullOf(topic, 0, 0, registered(topic, 2))).err, remoting.SubscriptionNotLatest) // PULL-10
	c.topic(topic+"2", 1)
	wantCode(t, c.pull(pullOf(topic+"2", 0, 0, registered(topic, 0))).err, remoting.SubscriptionNotExist)
}

func TestPULL11FollowerServesWhatItHas(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, alone)
	leader := cl.leader(t)
	c := dial(t, leader)
	c.topic("T", 1)
	for i := range 3 {
		c.mustSend(message("T", 0), fmt.Sprint(i))
	}
	cl.followers(t)
	cl.caughtUp(t)
	for _, b := range cl.followers(t) {
		f := dial(t, b)
		if p := f.pull(pullOf("T", 0, 0, func(h *remoting.PullRequest) { h.ConsumerGroup = remoting.GroupTools })); !slices.Equal(p.bodies(), []string{"0", "1", "2"}) || p.SuggestBrokerID != 0 {
			t.Errorf("a follower: %q, %+v, %v", p.bodies(), p.PullResponse, p.err)
		}
		// It may be behind: only the leader calls an offset wrong.
		ahead := func(h *remoting.PullRequest) { h.ConsumerGroup = remoting.GroupTools }
		if p := f.pull(pullOf("T", 0, 5, ahead)); p.code != remoting.PullRetryImmediately || p.NextBeginOffset != 5 || p.SuggestBrokerID != 0 {
			t.Errorf("a follower, beyond its end: code %d, %+v", p.code, p.PullResponse)
		}
		waiting := f.pulling(pullOf("T", 0, 3, ahead, held(time.Minute)))
		c.mustSend(message("T", 0), "new")
		if p := <-waiting; !slices.Equal(p.bodies(), []string{"new"}) {
			t.Errorf("a pull held by a follower: %q, %v", p.bodies(), p.err)
		}
		if _, err := f.ask(remoting.ConsumerSendMsgBack, &remoting.SendBackRequest{Group: remoting.GroupTools, MaxReconsumeTimes: -1}); codeOf(err) != remoting.ServiceNotAvailable {
			t.Errorf("a follower takes a message back: %v", err)
		}
		c.call(&remoting.Command{Code: remoting.DeleteTopicInBroker, Header: &remoting.TopicRequest{Topic: "T"}})
		c.topic("T", 1)
		for i := range 3 {
			c.mustSend(message("T", 0), fmt.Sprint(i))
		}
		cl.caughtUp(t)
	}
}

func TestPULL11SlaveReadOff(t *testing.T) {
	t.Parallel()
	no := false
	cl := startCluster(t, 3, func(c *Config) { c.SlaveReadEnable = &no })
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	c.mustSend(message("T", 0), "m")
	for _, b := range cl.followers(t) {
		wantCode(t, dial(t, b).pull(pullOf("T", 0, 0)).err, remoting.SystemBusy)
	}
	if got := c.all("T", 0); len(got) != 1 {
		t.Errorf("the leader gives %d messages", len(got))
	}
}

func TestSlowConsumerIsSentToAFollower(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, func(c *Config) { c.AccessMessageInMemory = 64 << 10 })
	leader := cl.leader(t)
	c := dial(t, leader)
	c.topic("T", 1)
	for range 20 {
		c.mustSend(message("T", 0), strings.Repeat("x", 10<<10))
	}
	cl.caughtUp(t)
	tools := func(h *remoting.PullRequest) { h.ConsumerGroup = remoting.GroupTools }
	p := c.pull(pullOf("T", 0, 0, tools))
	var to *Broker
	for _, b := range cl.followers(t) {
		if b.slaveID() == p.SuggestBrokerID {
			to = b
		}
	}
	if to == nil {
		t.Fatalf("a leader suggests broker id %d for what is not in memory", p.SuggestBrokerID)
	}
	f := dial(t, to)
	if p := f.pull(pullOf("T", 0, 0, tools)); p.SuggestBrokerID != to.slaveID() || len(p.records) == 0 {
		t.Errorf("the follower suggests %d for what is not in memory, %v", p.SuggestBrokerID, p.err)
	}
	if p := f.pull(pullOf("T", 0, 19, tools)); p.SuggestBrokerID != 0 || len(p.records) == 0 {
		t.Errorf("the follower suggests %d at the end, %v", p.SuggestBrokerID, p.err)
	}
	if p := c.pull(pullOf("T", 0, 19, tools)); p.SuggestBrokerID != 0 {
		t.Errorf("the leader suggests %d at the end", p.SuggestBrokerID)
	}
}

func TestPULL12NothingMatches(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	props := make([]remoting.Properties, 1000)
	for i := range props {
		props[i] = properties(remoting.PropTags, "B")
	}
	if _, err := c.call(batchOf(t, topic, 0, props...)); err != nil {
		t.Fatal(err)
	}
	p := c.pull(pullOf(topic, 0, 0, tagged("A"), held(time.Minute)))
	if p.code != remoting.PullRetryImmediately || p.NextBeginOffset != 800 {
		t.Errorf("first pull: code %d, next %d", p.code, p.NextBeginOffset)
	}
	// The rest is less than that: it is told, too, and not held back.
	p = c.pull(pullOf(topic, 0, 800, tagged("A"), held(time.Minute)))
	if p.code != remoting.PullRetryImmediately || p.NextBeginOffset != 1000 {
		t.Errorf("second pull: code %d, next %d", p.code, p.NextBeginOffset)
	}
}

// Messages that lie apart, across segments, and behind others are read right.
func TestPullOfScatteredMessages(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, func(c *Config) {
		c.MaxMessageSize, c.MappedFileSizeCommitLog, c.AccessMessageInMemory = 64<<10, 512<<10, 64<<10
		c.TransferCountOnMessageInDisk, c.TransferBytesOnMessageInDisk = 32, 256<<10
	})
	c := dial(t, cl.leader(t))
	c.topic("T", 3)
	var want []string
	for i := range 300 {
		size := []int{10, 1000, 30_000}[i%3]
		body := fmt.Sprintf("%d %s", i, strings.Repeat("x", size))
		r := c.mustSend(message("T", int32(i*7%3)), body)
		if r.QueueID == 0 {
			want = append(want, body)
		}
	}
	if got := bodiesOf(c.all("T", 0)); !slices.Equal(got, want) {
		t.Errorf("%d messages came, %d were sent, or others", len(got), len(want))
	}
	restart := func() {
		cl.end(t, "n1")
		cl.mustStart(t, "n1")
		c = dial(t, cl.leader(t))
	}
	restart() // now nothing is mapped
	if got := bodiesOf(c.all("T", 0)); !slices.Equal(got, want) {
		t.Errorf("after a restart %d messages came, %d were sent, or others", len(got), len(want))
	}
}
