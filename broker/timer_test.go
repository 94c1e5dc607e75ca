package broker

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// testClock is the clock of a cluster's nodes: the machine's, that a test may put
// forward.
type testClock struct{ ahead atomic.Int64 }

func (c *testClock) now() time.Time {
	// Without the monotonic reading, so that what was put forward has passed.
	return time.Now().Round(0).Add(time.Duration(c.ahead.Load()))
}

func (c *testClock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

func (c *testClock) set(cfg *Config) { cfg.now = c.now }

// timed is a message that is due after a time.
func timed(topic string, queue int32, after time.Duration, props ...string) *remoting.SendHeader {
	return message(topic, queue, append(props, remoting.PropTimerDelayMs, strconv.FormatInt(after.Milliseconds(), 10))...)
}

// waitingIn is how many messages wait in the timer topic.
func waitingIn(b *Broker) (n int64) {
	topic, _ := b.group.State().Topic(remoting.TopicTimer)
	for id := range topic.Config.WriteQueueNums {
		q := b.queue(remoting.TopicTimer, id)
		if q == nil {
			continue
		}
		for at := b.group.State().Unsettled(q.ID(), 0); at < q.Max(); at = b.group.State().Unsettled(q.ID(), at+1) {
			n++
		}
	}
	return n
}

// sendAll sends that many messages together, each with its number as its body.
func (c *testClient) sendAll(n int, h func(i int) *remoting.SendHeader) {
	c.t.Helper()
	failed := make(chan error, n)
	for i := range n {
		req := &remoting.Command{Code: remoting.SendMessageV2, Header: h(i), Body: []byte(strconv.Itoa(i))}
		done := func(resp *remoting.Command, err error) {
			if err == nil && !remoting.ResponseInfoOf(resp.Code).Stored {
				err = resp.Err()
			}
			failed <- err
		}
		err := c.conn.CallAsync(req, callTimeout, done)
		for ; errors.Is(err, remoting.ErrFull); err = c.conn.CallAsync(req, callTimeout, done) {
			runtime.Gosched()
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	for range n {
		if err := <-failed; err != nil {
			c.t.Fatal(err)
		}
	}
}

// smallSegments makes segments small.
func smallSegments(c *Config) { c.MaxMessageSize, c.MappedFileSizeCommitLog = 64<<10, 1<<20 }

// fillSegments fills some small segments.
func (c *testClient) fillSegments(topic string) {
	c.t.Helper()
	for range 3 * 16 {
		c.mustSend(message(topic, 0), strings.Repeat("x", 64<<10))
	}
}

func recallOf(topic, handle string) *remoting.RecallMessageRequest {
	return &remoting.RecallMessageRequest{ProducerGroup: "p", Topic: topic, RecallHandle: handle}
}

func TestTIMER01NotBeforeItIsDue(t *testing.T) {
	t.Parallel()
	var clock testClock
	cl := startCluster(t, 1, clock.set)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 2)
	before := b.group.LogTime()
	r := c.mustSend(message("T", 1, remoting.PropTimerDelaySec, "10", remoting.PropKeys, "k", remoting.PropTags, "a", "own", "x"), "later")
	if r.QueueID != 1 || r.RecallHandle == "" {
		t.Errorf("answered with queue %d, recall handle %q", r.QueueID, r.RecallHandle)
	}
	clock.forward(9500 * time.Millisecond)
	if got := c.all("T", 1); len(got) != 0 && b.group.LogTime() < before+10_000 {
		t.Errorf("it came after %d ms", b.group.LogTime()-before)
	}
	v := c.arrived("T", 1, 1)[0]
	if took := v.StoreTimestamp() - before; took < 10_000 || took > 12_000 {
		t.Errorf("it came after %d ms", took)
	}
	p := v.Properties()
	if string(v.Body()) != "later" || p.Get(remoting.PropKeys) != "k" || p.Get(remoting.PropTags) != "a" || p.Get("own") != "x" ||
		p.Get(remoting.PropRealTopic) != "" || v.PreparedTransactionOffset() != 0 {
		t.Errorf("properties %q, prepared %d", p, v.PreparedTransactionOffset())
	}
	// A timer that is due in an instant goes to a bucket that is open already.
	sent := b.group.LogTime()
	c.mustSend(timed("T", 0, 50*time.Millisecond), "soon")
	if v := c.arrived("T", 0, 1)[0]; v.StoreTimestamp() < sent+50 || v.StoreTimestamp() > sent+2000 {
		t.Errorf("it came after %d ms", v.StoreTimestamp()-sent)
	}
	eventually(t, "all is settled", func() bool { return waitingIn(b) == 0 })
}

func TestTIMER02And03And04TimesThatAreAskedFor(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	now := b.group.LogTime()
	const horizon = 3 * 24 * 60 * 60
	for i, props := range [][]string{
		{remoting.PropTimerDeliverMs, fmt.Sprint(now - 1)},
		{remoting.PropTimerDeliverMs, "0"},
		{remoting.PropTimerDeliverMs, "-9223372036854775808"},
		{remoting.PropTimerDelaySec, "0"},
		{remoting.PropTimerDelayMs, "-5"},
		// Seconds go before milliseconds, and these before a time.
		{remoting.PropTimerDeliverMs, "never", remoting.PropTimerDelayMs, "1000000", remoting.PropTimerDelaySec, "-1"},
	} {
		r := c.mustSend(message(topic, 0, props...), fmt.Sprint(i))
		if r.RecallHandle != "" || r.QueueOffset != int64(i) || len(c.all(topic, 0)) != i+1 {
			t.Errorf("%q: not at once: %+v", props, r)
		}
	}
	n := len(c.all(topic, 0))
	for _, props := range [][]string{
		{remoting.PropTimerDelaySec, fmt.Sprint(horizon + 1)},
		{remoting.PropTimerDelayMs, fmt.Sprint(horizon*1000 + 1)},
		{remoting.PropTimerDeliverMs, fmt.Sprint(now + horizon*1000 + 60_000)},
		{remoting.PropTimerDelaySec, "9223372036854775807"},
		{remoting.PropTimerDelaySec, "9223372036854776"},
		{remoting.PropTimerDeliverMs, "9223372036854775807"},
		{remoting.PropTimerDelaySec, "99999999999999999999999"},
		{remoting.PropTimerDelaySec, "ten"},
		{remoting.PropTimerDelayMs, "1e3"},
		{remoting.PropTimerDeliverMs, "0x10"},
		{remoting.PropTimerDelaySec, "1.5"},
	} {
		_, err := c.send(message(topic, 0, props...), "m")
		wantCode(t, err, remoting.MessageIllegal)
	}
	for _, props := range [][]string{
		{remoting.PropTimerDelaySec, fmt.Sprint(horizon)},
		{remoting.PropTimerDelayMs, fmt.Sprint(horizon * 1000)},
		{remoting.PropTimerDeliverMs, fmt.Sprint(now + horizon*1000)},
		// What a client says of where messages are for counts for nothing.
		{remoting.PropTimerDelaySec, "60", remoting.PropRealTopic, remoting.TopicHalf, remoting.PropRealQueueID, "-1"},
	} {
		if r := c.mustSend(message(topic, 0, props...), "m"); r.RecallHandle == "" {
			t.Errorf("%q: not to wait: %+v", props, r)
		}
	}
	// TIMER-04
	r := c.mustSend(message(topic, 0, remoting.PropTimerDelaySec, "3600", remoting.PropDelay, "1"), "level")
	if r.RecallHandle != "" {
		t.Error("a level can't be recalled")
	}
	v := c.arrived(topic, 0, n+1)[n]
	if string(v.Body()) != "level" || v.Properties().Get(remoting.PropTimerDelaySec) != "" {
		t.Errorf("%q with %q", v.Body(), v.Properties())
	}
}

func TestTIMER03NotInABatch(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	_, err := c.call(batchOf(t, topic, 0, nil, properties(remoting.PropTimerDelaySec, "1")))
	wantCode(t, err, remoting.MessageIllegal)
	if got := c.all(topic, 0); len(got) != 0 {
		t.Errorf("stored: %q", bodiesOf(got))
	}
}

// TIMER-05: over the retention time, again and again: what waits is appended anew
// before its segment goes.
func TestTIMER05LongerThanTheLogIsKept(t *testing.T) {
	t.Parallel()
	var clock testClock
	cl := startCluster(t, 3, func(c *Config) {
		clock.set(c)
		c.TimerMaxDelaySec = 40 * 24 * 60 * 60
		c.MessageDelayLevel = "1s 30d"
		smallSegments(c)
	})
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("D", 2)
	c.topic("T", 1)
	fill := func() { c.fillSegments("T") }
	const day = 24 * time.Hour
	due := map[string]time.Duration{"2.5 days": 60 * time.Hour, "40 days": 40 * day, "recalled": 39 * day, "of a topic that goes": 38 * day}
	start, handle := b.group.LogTime(), ""
	c.topic("gone", 1)
	for body, after := range due {
		topic := "D"
		if body == "of a topic that goes" {
			topic = "gone"
		}
		r := c.mustSend(timed(topic, 0, after, remoting.PropUniqKey, body), body)
		if body == "recalled" {
			handle = r.RecallHandle
		}
	}
	c.mustSend(message("D", 1, remoting.PropDelay, "2"), "30 days") // a level of that length, too
	c.must(remoting.DeleteTopicInBroker, &remoting.TopicRequest{Topic: "gone"})
	pass := func(d time.Duration) {
		t.Helper()
		fill()
		clock.forward(d)
		old := b.group.Store().End()
		fill()
		eventually(t, "what is old is gone", func() bool {
			trimNow(b, 80, 72*time.Hour)
			return b.group.Store().Min() > old-int64(b.cfg.MappedFileSizeCommitLog)
		})
	}
	fill()
	clock.forward(59 * time.Hour)
	if got := len(c.all("D", 0)); got != 0 {
		t.Fatalf("%d messages came early", got)
	}
	clock.forward(time.Hour)
	v := c.arrived("D", 0, 1)[0]
	if string(v.Body()) != "2.5 days" || v.StoreTimestamp() < start+due["2.5 days"].Milliseconds() {
		t.Errorf("%q came after %d ms", v.Body(), v.StoreTimestamp()-start)
	}
	pass(10 * day)
	if got := waitingIn(b); got != 3 { // with the level, and without what was for the topic that is gone
		t.Errorf("%d messages wait", got)
	}
	b = cl.transfer(t)
	c = dial(t, b)
	pass(10 * day)
	if got := len(c.all("D", 0)) + len(c.all("D", 1)); got > 1 {
		t.Errorf("%d messages came early", got-1)
	}
	pass(10 * day)
	if v := c.arrived("D", 1, 1)[0]; string(v.Body()) != "30 days" {
		t.Errorf("%q", v.Body())
	}
	pass(6 * day)
	c.must(remoting.RecallMessage, recallOf("D", handle))
	eventually(t, "only one waits", func() bool { return waitingIn(b) == 1 })
	clock.forward(2 * day)
	eventually(t, "all is settled", func() bool { return waitingIn(b) == 0 })
	cl.caughtUp(t)
	for id, b := range cl.brokers() {
		got := bodiesOf(dial(t, b).all("D", 0))
		if n := len(got); n == 0 || got[n-1] != "40 days" || slices.Index(got, "40 days") != n-1 {
			t.Errorf("%s has %q", id, got)
		}
	}
}

// TIMER-06: many in the same second.
func TestTIMER06ManyInOneSecond(t *testing.T) {
	t.Parallel()
	const n = 10_000
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 4)
	due := b.group.LogTime() + 4000
	c.sendAll(n, func(i int) *remoting.SendHeader {
		return message("T", int32(i%4), remoting.PropTimerDeliverMs, fmt.Sprint(due+int64(i%1000)), remoting.PropUniqKey, fmt.Sprint(i))
	})
	eventually(t, "all is settled", func() bool { return b.group.LogTime() > due+1000 && waitingIn(b) == 0 })
	seen := map[string]bool{}
	for queue := range int32(4) {
		for _, v := range c.all("T", queue) {
			if body := string(v.Body()); seen[body] {
				t.Errorf("%q came twice", body)
			} else {
				seen[body] = true
			}
			if at := v.Properties().Get(remoting.PropTimerDeliverMs); fmt.Sprint(v.StoreTimestamp()) < at {
				t.Errorf("%q, due at %s, came at %d", v.Body(), at, v.StoreTimestamp())
			}
		}
	}
	if len(seen) != n {
		t.Errorf("%d of %d came", len(seen), n)
	}
}

// A half message with a time is due that long after its commit; one that could
// never be committed is refused at once.
func TestTIMER01TransactionIsTimedAfterItsCommit(t *testing.T) {
	t.Parallel()
	var clock testClock
	cl := startCluster(t, 1, clock.set)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	_, err := c.send(halfOf("T", 0, remoting.PropTimerDelaySec, "soon"), "m")
	wantCode(t, err, remoting.MessageIllegal)
	half := c.mustSend(halfOf("T", 0, remoting.PropTimerDelaySec, "60"), "m")
	if half.RecallHandle != "" {
		t.Error("a half message is not recalled, but rolled back")
	}
	clock.forward(time.Minute)
	committed := b.group.LogTime()
	if err := c.end(half, remoting.TransactionCommitted); err != nil {
		t.Fatal(err)
	}
	if got := c.all("T", 0); len(got) != 0 || waitingIn(b) != 1 {
		t.Errorf("%d came, %d wait", len(got), waitingIn(b))
	}
	clock.forward(time.Minute)
	if v := c.arrived("T", 0, 1)[0]; v.StoreTimestamp() < committed+minuteMs {
		t.Errorf("it came after %d ms", v.StoreTimestamp()-committed)
	}
}

// What was accepted goes its way although less is accepted now.
func TestMaxMessageSizeIsMadeLess(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, checking(never, never, 1))
	c := dial(t, cl.leader(t))
	c.topic("T", 4)
	c.group("g")
	large := strings.Repeat("x", 2<<20)
	c.mustSend(timed("T", 0, 2*time.Second), large)
	c.mustSend(message("T", 1, remoting.PropDelay, "1"), large)
	half := c.mustSend(halfOf("T", 2), large)
	c.mustSend(message("T", 3), large)
	cl.end(t, "n1")
	cl.cfg.MaxMessageSize = 64 << 10
	cl.mustStart(t, "n1")
	c = dial(t, cl.leader(t))
	_, err := c.send(message("T", 3), large)
	wantCode(t, err, remoting.MessageIllegal)
	if err := c.end(half, remoting.TransactionCommitted); err != nil {
		t.Error(err)
	}
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", c.all("T", 3)[0], 1))
	for queue := range int32(4) {
		c.arrived("T", queue, 1)
	}
	c.arrived(remoting.RetryTopic("g"), 0, 1)
}
