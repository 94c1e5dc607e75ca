package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// starting is a consumer as raftmq's client says that it has started.
func starting(group, topic string, at time.Time, limit int32) remoting.ConsumerData {
	d := consumer(group, topic, "*")
	d.Started, d.MaxReconsumeTimes = at.UnixMilli(), limit
	return d
}

// sendBackAs sends a message back as a client of a release that knows its own
// limit.
func (c *testClient) sendBackAs(group string, v remoting.RecordView, own int32) {
	c.t.Helper()
	h := sendBackOf(group, v, 0)
	h.MaxReconsumeTimes = own
	if _, err := c.call(&remoting.Command{Code: remoting.ConsumerSendMsgBack, Header: h, Version: versionOwnRetryLimit}); err != nil {
		c.t.Fatal(err)
	}
}

// tried is a message that was consumed so many times.
func (c *testClient) tried(topic string, times int32) remoting.RecordView {
	c.t.Helper()
	h := message(topic, 0, remoting.PropUniqKey, fmt.Sprint("u", names.Add(1)))
	h.ReconsumeTimes = times
	r := c.mustSend(h, "m")
	return c.pull(pullOf(topic, 0, r.QueueOffset)).records[0]
}

func (c *testClient) groupConfig(group string) (g remoting.GroupConfig) {
	c.t.Helper()
	if err := g.DecodeBody(c.must(remoting.GetSubscriptionGroupConfig, &remoting.GroupRequest{Group: group}).Body); err != nil {
		c.t.Fatal(err)
	}
	return g
}

// The last instance that started says how often the group's messages come again,
// whatever others ask for; it is shown, survives the leader, and instances that
// register again with a new leader change nothing.
func TestRETRY14TheLastStarterSetsTheLimit(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	begin := time.Now().Add(-time.Hour)
	first, second := starting("g", "T", begin, 3), starting("g", "T", begin.Add(time.Minute), 1)
	dead := int64(0)
	want := func(what string, limit int32) {
		t.Helper()
		if g := c.groupConfig("g"); g.RetryMaxTimes != limit {
			t.Errorf("%s: the limit is shown as %d, want %d", what, g.RetryMaxTimes, limit)
		}
		for times := limit - 1; times <= limit; times++ {
			if times < 0 {
				continue
			}
			c.sendBackAs("g", c.tried("T", times), 16)
			if times == limit {
				dead++
			}
			if got := c.queueNumber(remoting.GetMaxOffset, remoting.DLQTopic("g"), 0); got != dead {
				t.Fatalf("%s: after %d tries %d are dead, want %d", what, times, got, dead)
			}
		}
	}
	c.topic(remoting.DLQTopic("g"), 1) // to be asked how many are there
	c.beat("a", first)
	want("the first one", 3)
	c.beat("b", second)
	want("the second one", 1)
	c.beat("a", first)
	want("the first one, heard of again", 1)
	c.beat("x", starting("g", "T", time.Now().Add(time.Hour), 9))
	want("one from the future", 1)
	wrong := starting("g", "T", begin.Add(time.Hour/2), -5)
	c.beat("y", wrong)
	wrong.MaxReconsumeTimes = 1<<31 - 1
	c.beat("y", wrong)
	want("one with an absurd limit", 1)

	c = dial(t, cl.transfer(t))
	c.beat("a", first)
	c.beat("b", second)
	want("after a change of the leader", 1)
	c.beat("c", starting("g", "T", begin.Add(2*time.Minute), 0))
	want("one that wants no retries", 0)

	// An operator's word holds until the next start.
	c.group("g", func(g *remoting.GroupConfig) { g.RetryMaxTimes = 2 })
	c.beat("c", starting("g", "T", begin.Add(2*time.Minute), 0))
	want("an operator", 2)
	c.beat("d", starting("g", "T", time.Now(), 5))
	want("one that started then", 5)
}

// What a stock client asks for counts if nobody has told; and no more than an
// operator allows.
func TestRETRY14StockClientsOwnLimits(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	dlq := remoting.DLQTopic(group)
	c.topic(dlq, 1)
	for i, x := range []struct {
		group, own, tries int32
		dead              bool
	}{
		{16, 20, 19, false}, {16, 20, 20, true}, {16, 3, 3, true}, {16, 3, 2, false}, {16, 0, 0, true},
		{5, 16, 4, false}, {5, 16, 5, true}, {5, 3, 3, true}, {5, 3, 2, false}, {20, 16, 16, true},
		{-1, 16, 15, false}, {-1, 16, 16, true}, {0, 16, 0, true},
	} {
		c.group(group, func(g *remoting.GroupConfig) { g.RetryMaxTimes = x.group })
		before := c.queueNumber(remoting.GetMaxOffset, dlq, 0)
		c.sendBackAs(group, c.tried(topic, x.tries), x.own)
		if dead := c.queueNumber(remoting.GetMaxOffset, dlq, 0) > before; dead != x.dead {
			t.Errorf("case %d, %+v: dead %v", i, x, dead)
		}
	}
	// The copy that an ordered consumer is done with is dead though others of the
	// group may try more often.
	c.beat("id", starting(group, topic, time.Now(), 30))
	h := message(remoting.RetryTopic(group), 0, remoting.PropUniqKey, "done", remoting.PropDelay, "1")
	h.ReconsumeTimes, h.MaxReconsumeTimes = 4, 3
	before := c.queueNumber(remoting.GetMaxOffset, dlq, 0)
	if _, err := c.call(&remoting.Command{Code: remoting.SendMessageV2, Header: h, Version: versionOwnRetryLimit}); err != nil {
		t.Fatal(err)
	}
	if got := c.queueNumber(remoting.GetMaxOffset, dlq, 0); got != before+1 {
		t.Errorf("%d dead, want %d", got, before+1)
	}
}

// RETRY-06: the waits between tries, and 2 h beyond the table, as far as the
// consumer wants. Each level is a queue of the schedule topic.
func TestRETRY01And06Table(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	c.topic(remoting.DLQTopic("g"), 1)
	table := []time.Duration{10 * time.Second, 30 * time.Second}
	for m := range 10 {
		table = append(table, time.Duration(m+1)*time.Minute)
	}
	table = append(table, 20*time.Minute, 30*time.Minute, time.Hour)
	waiting := map[int32]int{}
	for n := range int32(21) {
		v := c.tried("T", n)
		c.sendBackAs("g", v, 20)
		if n == 20 { // the 21st failure
			break
		}
		wait := 2 * time.Hour
		if int(n) < len(table) {
			wait = table[n]
		}
		level := min(n+3, 18) - 1
		all := c.all(remoting.TopicSchedule, level)
		if waiting[level]++; len(all) != waiting[level] {
			t.Fatalf("try %d: %d messages wait in level %d, want %d", n+1, len(all), level+1, waiting[level])
		}
		r := all[len(all)-1]
		if due := time.Duration(r.PreparedTransactionOffset()-r.StoreTimestamp()) * time.Millisecond; due != wait || r.ReconsumeTimes() != n+1 {
			t.Errorf("try %d comes after %v, want %v; %d times", n+1, due, wait, r.ReconsumeTimes())
		}
	}
	if got := c.arrived(remoting.DLQTopic("g"), 0, 1)[0]; got.ReconsumeTimes() != 21 {
		t.Errorf("dead after %d times", got.ReconsumeTimes())
	}
	// 17 failures with the limit that a client has which was told none.
	c.sendBackAs("g", c.tried("T", 15), 16)
	c.sendBackAs("g", c.tried("T", 16), 16)
	if got := c.arrived(remoting.DLQTopic("g"), 0, 2)[1]; got.ReconsumeTimes() != 17 { // DLQ-04
		t.Errorf("dead after %d times", got.ReconsumeTimes())
	}
}
