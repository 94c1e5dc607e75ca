package broker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// trimNow decides at once about what may go, as if the disk were that full, in
// percent, and messages were kept that long.
func trimNow(b *Broker, usage float64, keep time.Duration) {
	r := retention{b: b, usage: usage, keep: keep}
	r.trim(context.Background())
}

// filled is a topic with messages over some segments of 16 MiB.
func filled(t *testing.T, c *testClient, topic string) (sent int) {
	t.Helper()
	c.topic(topic, 1)
	body := strings.Repeat("x", 1<<20)
	for sent < 50 {
		c.mustSend(message(topic, 0, remoting.PropUniqKey, fmt.Sprint(sent)), body)
		sent++
	}
	return sent
}

func (c *testClient) minOffset(topic string) int64 {
	c.t.Helper()
	var r remoting.OffsetResponse
	if err := r.Decode(c.must(remoting.GetMinOffset, &remoting.QueueRequest{Topic: topic})); err != nil {
		c.t.Fatal(err)
	}
	return r.Offset
}

// STORE-06, 07, 09, 11: what is old goes when it is time to or the disk fills up,
// what is young when it has filled up; and on all replicas the same.
func TestSTORE06And07And09And11Retention(t *testing.T) {
	t.Parallel()
	never := fmt.Sprint((time.Now().Hour() + 12) % 24)
	cl := startCluster(t, 3, func(c *Config) { c.DeleteWhen = never })
	b := cl.leader(t)
	c := dial(t, b)
	sent := filled(t, c, "T")
	size := b.group.State().Configuration().SegmentSize
	if segments := b.group.Store().End() / size; segments < 3 {
		t.Fatalf("only %d segments are full", segments)
	}

	trimNow(b, 80, time.Hour)
	if got := b.group.Store().Min(); got != 0 {
		t.Errorf("young segments went at 80 %%: the log begins at %d", got)
	}
	trimNow(b, 90, time.Hour)
	if got := b.group.Store().Min(); got != size {
		t.Errorf("at 90 %% one segment is to go: the log begins at %d", got)
	}
	first := c.minOffset("T")
	if p := c.pull(pullOf("T", 0, 0)); p.code != remoting.PullOffsetMoved || p.NextBeginOffset != first || first <= 0 {
		t.Errorf("code %d, next %d; the queue begins at %d", p.code, p.NextBeginOffset, first)
	}
	if p := c.pull(pullOf("T", 0, first)); p.code != remoting.Success || p.records[0].PhysicalOffset() < size {
		t.Errorf("what is left: code %d", p.code)
	}

	// A broker that keeps messages for no time at all.
	cl.caughtUp(t)
	trimNow(b, 10, 0) // not the hour
	if got := b.group.Store().Min(); got != size {
		t.Errorf("it was not the hour, and the log begins at %d", got)
	}
	trimNow(b, 80, 0)
	begin := b.group.Store().Min()
	if begin <= size || begin+size < b.group.Store().End()-2*size {
		t.Errorf("the log begins at %d of %d", begin, b.group.Store().End())
	}
	if b.group.Store().End()-begin <= 0 || len(c.all("T", 0)) == 0 || len(c.all("T", 0)) >= sent {
		t.Error("the newest segment is to stay")
	}
	cl.caughtUp(t)
	for id, b := range cl.brokers() {
		if got := b.group.Store().Min(); got != begin {
			t.Errorf("%s begins at %d, the leader at %d", id, got, begin)
		}
		if got := dial(t, b).minOffset("T"); got != c.minOffset("T") {
			t.Errorf("%s: the queue begins at %d", id, got)
		}
	}
}

// What waits for its time is appended again before its segment goes, unless it is
// due soon: then it is waited for.
func TestRetentionSparesWhatIsToBeDelivered(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, func(c *Config) { levels("1h")(c); smallSegments(c) })
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("D", 1)
	c.topic("T", 1)
	c.topic("U", 1)
	c.mustSend(message("D", 0, remoting.PropDelay, "1"), "later")
	c.fillSegments("T")
	trimNow(b, 90, time.Hour)
	if got := b.group.Store().Min(); got == 0 || waitingIn(b) != 1 {
		t.Errorf("the log begins at %d, and %d messages wait", got, waitingIn(b))
	}
	if got := b.group.State().Delivered(0); got != 1 {
		t.Errorf("%d messages of the level were moved", got)
	}
	begin := b.group.Store().Min()
	c.fillSegments("U")
	c.mustSend(timed("D", 0, time.Minute), "soon")
	at := b.group.Store().End()
	c.fillSegments("T")
	for range 20 {
		trimNow(b, 80, 0)
	}
	size := b.group.State().Configuration().SegmentSize
	if got := b.group.Store().Min(); got <= begin || got > at || got+size <= at {
		t.Errorf("the log begins at %d, and what is due soon lies before %d", got, at)
	}
}
