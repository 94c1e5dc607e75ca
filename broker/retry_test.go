package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// levels makes delay levels short.
func levels(text string) func(*Config) {
	return func(c *Config) { c.MessageDelayLevel = text }
}

func sendBackOf(group string, v remoting.RecordView, level int32) *remoting.SendBackRequest {
	return &remoting.SendBackRequest{Group: group, Offset: v.PhysicalOffset(), DelayLevel: level, OriginMsgID: v.OffsetMsgID(), OriginTopic: v.Topic(), MaxReconsumeTimes: -1}
}

// arrived waits for a number of messages in a queue.
func (c *testClient) arrived(topic string, queue int32, n int) (records []remoting.RecordView) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%d messages in queue %d of %s", n, queue, topic), func() bool {
		records = c.all(topic, queue)
		return len(records) >= n
	})
	if len(records) != n {
		c.t.Fatalf("%d messages in queue %d of %s, want %d", len(records), queue, topic, n)
	}
	return records
}

func TestRETRY03CopyKeepsTheMessage(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("1s 1s 1s 1s"))
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	c.beat("id", consumer("g", "T", "*"))
	c.mustSend(message("T", 0, remoting.PropUniqKey, "u", remoting.PropKeys, "k", remoting.PropTags, "tag", "own", "x"), "body")
	origin := c.all("T", 0)[0]
	v := origin
	for times := int32(1); times <= 3; times++ {
		c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", v, 0))
		// Asked again, as after a lost answer: it comes once.
		c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", v, 0))
		v = c.arrived(remoting.RetryTopic("g"), 0, int(times))[times-1]
		p := v.Properties()
		if string(v.Body()) != "body" || v.ReconsumeTimes() != times || v.BornTimestamp() != origin.BornTimestamp() || v.OffsetMsgID() == origin.OffsetMsgID() ||
			p.Get(remoting.PropUniqKey) != "u" || p.Get(remoting.PropKeys) != "k" || p.Get(remoting.PropTags) != "tag" || p.Get("own") != "x" ||
			p.Get(remoting.PropRetryTopic) != "T" || p.Get(remoting.PropOriginMessageID) != origin.OffsetMsgID() {
			t.Errorf("try %d: %d times, properties %q", times, v.ReconsumeTimes(), p)
		}
	}
	if got := c.all("T", 0); len(got) != 1 { // RETRY-10: other groups see nothing of it
		t.Errorf("%d messages in the topic itself", len(got))
	}
}

func TestRETRY04And05DeadLetters(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("1s 1s 1s 1s"))
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	c.group("g", func(g *remoting.GroupConfig) { g.RetryMaxTimes = 1 })
	c.mustSend(message("T", 0, remoting.PropUniqKey, "a"), "at once")
	c.mustSend(message("T", 0, remoting.PropUniqKey, "b"), "after one retry")
	c.mustSend(message("T", 0, remoting.PropUniqKey, "c"), "the client wants none")
	sent := c.all("T", 0)
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", sent[0], -1))
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", sent[1], 0))
	again := c.arrived(remoting.RetryTopic("g"), 0, 1)[0]
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", again, 0))
	own := sendBackOf("g", sent[2], 0)
	own.MaxReconsumeTimes = 0
	if _, err := c.call(&remoting.Command{Code: remoting.ConsumerSendMsgBack, Header: own, Version: versionOwnRetryLimit}); err != nil {
		t.Fatal(err)
	}
	dead := c.arrived(remoting.DLQTopic("g"), 0, 3)
	if got := bodiesOf(dead); !slices.Equal(got, []string{"at once", "after one retry", "the client wants none"}) {
		t.Errorf("dead: %q", got)
	}
	if dead[1].ReconsumeTimes() != 2 || dead[1].Properties().Get(remoting.PropRetryTopic) != "T" {
		t.Errorf("%d times, properties %q", dead[1].ReconsumeTimes(), dead[1].Properties())
	}
}

func TestRETRY08And09(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.group(group)
	c.mustSend(message(topic, 0), "m")
	v := c.all(topic, 0)[0]
	for _, offset := range []int64{-1, v.PhysicalOffset() + 4, 1 << 40} {
		h := sendBackOf(group, v, 0)
		h.Offset = offset
		_, err := c.ask(remoting.ConsumerSendMsgBack, h)
		wantCode(t, err, remoting.SystemError)
	}
	c.group(group, func(g *remoting.GroupConfig) { g.RetryQueueNums = 0 })
	c.must(remoting.ConsumerSendMsgBack, sendBackOf(group, v, 0))
	if _, err := c.topicConfig(remoting.RetryTopic(group)); codeOf(err) != remoting.TopicNotExist {
		t.Errorf("the retry topic of a group that wants none: %v", err)
	}
}

// A consumer that can't send a message back sends the copy itself.
func TestSendToARetryTopic(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("1s 1s 1s 1s"))
	c := dial(t, cl.leader(t))
	c.group("g", func(g *remoting.GroupConfig) { g.RetryMaxTimes = 2 })
	for times := int32(1); times <= 3; times++ {
		h := message(remoting.RetryTopic("g"), 0, remoting.PropUniqKey, fmt.Sprint(times), remoting.PropDelay, "1")
		h.ReconsumeTimes = times
		c.mustSend(h, fmt.Sprint(times))
	}
	if got := bodiesOf(c.arrived(remoting.RetryTopic("g"), 0, 2)); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("again: %q", got)
	}
	if got := bodiesOf(c.arrived(remoting.DLQTopic("g"), 0, 1)); !slices.Equal(got, []string{"3"}) {
		t.Errorf("dead: %q", got)
	}
}

func TestDELAY01And03NotBeforeItIsDue(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 2)
	sent := time.Now()
	r := c.mustSend(message(topic, 1, remoting.PropDelay, "1", remoting.PropKeys, "k", remoting.PropTags, "a"), "later")
	for _, level := range []string{"0", "-1"} { // DELAY-02
		c.mustSend(message(topic, 1, remoting.PropDelay, level), "now")
	}
	if r.QueueID != 1 { // the one it is for, as in RocketMQ
		t.Errorf("answered with queue %d", r.QueueID)
	}
	if got := bodiesOf(c.all(topic, 1)); !slices.Equal(got, []string{"now", "now"}) {
		t.Errorf("at once: %q", got)
	}
	v := c.arrived(topic, 1, 3)[2]
	if took := time.Since(sent); took < time.Second {
		t.Errorf("it came after %v", took)
	}
	p := v.Properties()
	if string(v.Body()) != "later" || p.Get(remoting.PropKeys) != "k" || p.Get(remoting.PropTags) != "a" || v.BornTimestamp() > sent.Add(time.Second).UnixMilli() {
		t.Errorf("properties %q, born %v", p, v.BornTimestamp())
	}
}

func TestDELAY02LevelBeyondTheLast(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("1h 1s"))
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	c.mustSend(message("T", 0, remoting.PropDelay, "99"), "m")
	if got := c.all(remoting.TopicSchedule, 1); len(got) != 1 {
		t.Errorf("%d messages wait in the last level", len(got))
	}
	c.arrived("T", 0, 1)
}

// DELAY-04, DELAY-05, S9: restarts and changes of the leader before the messages
// are due.
func TestDELAY05OverLeaderChanges(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, levels("2s"))
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		c.mustSend(message("T", 0, remoting.PropUniqKey, fmt.Sprint(i), remoting.PropDelay, "1"), fmt.Sprint(i))
	}
	cl.transfer(t)
	old := cl.leader(t).cfg.NodeID
	cl.end(t, old)
	got := bodiesOf(dial(t, cl.leader(t)).arrived("T", 0, 20))
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	cl.mustStart(t, old)
	cl.transfer(t)
	cl.caughtUp(t)
	for id, b := range cl.brokers() {
		if got := bodiesOf(dial(t, b).all("T", 0)); !slices.Equal(got, want) {
			t.Errorf("%s has %q", id, got)
		}
	}
}

// Two stored messages with one UNIQ_KEY, a Message object that was sent twice, and
// one in another topic: each comes again.
func TestRetriesOfMessagesWithOneUniqKey(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("1s 1s 1s 1s"))
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	c.topic("U", 1)
	c.beat("id", consumer("g", "T", "*"))
	c.mustSend(message("T", 0, remoting.PropUniqKey, "u"), "first")
	c.mustSend(message("T", 0, remoting.PropUniqKey, "u"), "second")
	c.mustSend(message("U", 0, remoting.PropUniqKey, "u"), "other topic")
	for _, v := range append(c.all("T", 0), c.all("U", 0)...) {
		c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", v, 0))
		c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", v, 0)) // asked again
		// The client's own copy, as when the answer was lost.
		h := message(remoting.RetryTopic("g"), 0, remoting.PropUniqKey, "u", remoting.PropOriginMessageID, v.OffsetMsgID(), remoting.PropDelay, "1")
		h.ReconsumeTimes = 1
		c.mustSend(h, string(v.Body()))
	}
	got := bodiesOf(c.arrived(remoting.RetryTopic("g"), 0, 3))
	slices.Sort(got)
	if !slices.Equal(got, []string{"first", "other topic", "second"}) {
		t.Errorf("came again: %q", got)
	}
	// A Java client's own copies do not say of which message they are.
	for _, body := range []string{"java 1", "java 2"} {
		h := message(remoting.RetryTopic("g"), 0, remoting.PropUniqKey, "u", remoting.PropOriginMessageID, "u", remoting.PropDelay, "1")
		h.ReconsumeTimes = 1
		dial(t, cl.leader(t)).mustSend(h, body)
	}
	if got := bodiesOf(c.arrived(remoting.RetryTopic("g"), 0, 5)); !slices.Equal(got[3:], []string{"java 1", "java 2"}) {
		t.Errorf("came again: %q", got)
	}
}

func TestAbsurdReconsumeTimes(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.group(group)
	for _, times := range []int32{-1, maxReconsumeTimes + 1, 1<<31 - 1} {
		h := message(topic, 0)
		h.ReconsumeTimes = times
		_, err := c.send(h, "m")
		wantCode(t, err, remoting.InvalidParameter)
	}
	h := message(topic, 0)
	h.ReconsumeTimes = maxReconsumeTimes
	c.mustSend(h, "m")
	// For as long as a client likes: it is dead, and stays so.
	v := c.all(topic, 0)[0]
	for i := range 3 {
		c.must(remoting.ConsumerSendMsgBack, sendBackOf(group, v, int32(i)))
		v = c.arrived(remoting.DLQTopic(group), 0, i+1)[i]
	}
	// Levels that are none count for the nearest, in the record, too.
	b := shared(t)
	r, delay := v.Record(), int64(0)
	for _, level := range []int{-1 << 31, -1, 0} {
		if b.schedule(&r, nil, level, &delay); delay != 1000 || r.QueueID != 0 {
			t.Errorf("level %d: %d ms, queue %d", level, delay, r.QueueID)
		}
	}
}
