package broker

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// seconds is a context for what takes as long as elections do.
func seconds(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	t.Cleanup(cancel)
	return ctx
}

func sendBackCommand(h *remoting.SendBackRequest) *remoting.Command {
	req := &remoting.Command{Code: remoting.ConsumerSendMsgBack}
	for _, f := range []struct{ name, value string }{
		{"offset", fmt.Sprint(h.Offset)}, {"group", h.Group}, {"delayLevel", fmt.Sprint(h.DelayLevel)},
	} {
		req.Ext.Add(f.name, f.value)
	}
	return req
}

// A leader that no quorum answers does not know what becomes of a message that is
// sent back. It finds out: from itself when it leads again, or from who does.
func TestRETRY13UnknownOutcomeIsAskedAfter(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, slowToStepDown)
	leader := cl.leader(t)
	c := dial(t, leader)
	c.topic("T", 1)
	c.beat("id", consumer("g", "T", "*"))
	c.mustSend(message("T", 0, remoting.PropUniqKey, "u"), "m")
	v := c.all("T", 0)[0]
	cl.caughtUp(t)
	down := othersDown(t, cl, leader)
	// When time is up before that, it is not called a success.
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := leader.sendBack(short, nil, sendBackCommand(sendBackOf("g", v, 0))); err == nil {
		t.Error("sent back without a quorum")
	}
	began := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		close(began)
		_, err := leader.sendBack(seconds(t), nil, sendBackCommand(sendBackOf("g", v, 0)))
		done <- err
	}()
	<-began
	eventually(t, "the leader's resignation", func() bool { return !leader.leads() })
	cl.mustStart(t, down...)
	if err := <-done; err != nil {
		t.Errorf("sent back: %v", err)
	}
	c = dial(t, cl.leader(t))
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", v, 0)) // once more, as by a client
	if got := c.all(remoting.TopicSchedule, 2); len(got) != 1 {
		t.Errorf("it comes again %d times", len(got))
	}
}

// Messages are sent back while leaders change. Who sends them back repeats only
// what was refused; each comes again, once, or is dead, once.
func TestRETRY13NoneIsLostOrDoubledOverFailover(t *testing.T) {
	t.Parallel()
	const n = 200
	cl := startCluster(t, 3, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	c.beat("id", consumer("g", "T", "*"))
	for i := range n {
		c.mustSend(message("T", 0, remoting.PropUniqKey, fmt.Sprint(i)), fmt.Sprint(i))
	}
	sent := c.all("T", 0)
	cl.caughtUp(t)
	conns := map[*Broker]*testClient{}
	for _, b := range cl.brokers() {
		conns[b] = dial(t, b)
	}
	work := make(chan remoting.RecordView)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for v := range work {
				h := sendBackOf("g", v, int32(1-2*(v.QueueOffset()%2))) // every other one is dead
				for {
					var b *Broker
					err := until("a leader", func() bool {
						b = someLeader(cl)
						return b != nil
					})
					if err != nil {
						t.Error(err)
						break
					}
					if _, err = conns[b].ask(remoting.ConsumerSendMsgBack, h); err == nil {
						break
					}
					if codeOf(err) != remoting.ServiceNotAvailable {
						t.Errorf("sent back: %v", err)
						break
					}
				}
			}
		})
	}
	for i, v := range sent {
		if i%100 == 50 {
			cl.transfer(t)
		}
		work <- v
	}
	close(work)
	group.Wait()
	c = dial(t, cl.leader(t))
	times := map[string]int{}
	for _, v := range append(c.arrived(remoting.RetryTopic("g"), 0, n/2), c.arrived(remoting.DLQTopic("g"), 0, n/2)...) {
		times[string(v.Body())]++
	}
	for i := range n {
		if got := times[fmt.Sprint(i)]; got != 1 {
			t.Errorf("message %d came again %d times", i, got)
		}
	}
}

// someLeader is a replica that takes itself for the leader, if there is one.
func someLeader(cl *testCluster) *Broker {
	for _, b := range cl.brokers() {
		if b.leads() {
			return b
		}
	}
	return nil
}

// RETRY-10, RETRY-12, DLQ-05: the copy is the group's alone and comes whatever tag
// it has; a dead letter comes to nobody who has not asked for the topic.
func TestRETRY10And12CopiesAreOfTheirGroup(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("1s 1s 1s 1s"))
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	retry := func(group string) remoting.Subscription {
		return remoting.Subscription{Topic: remoting.RetryTopic(group), Expression: "*", ExpressionType: remoting.ExpressionTag, Version: 1}
	}
	one, other := consumer("one", "T", "a"), consumer("other", "T", "*")
	one.Subscriptions = append(one.Subscriptions, retry("one"))
	other.Subscriptions = append(other.Subscriptions, retry("other"))
	c.beat("1", one)
	c.beat("2", other)
	registered := func(group string) func(h *remoting.PullRequest) {
		return func(h *remoting.PullRequest) {
			h.ConsumerGroup, h.SysFlag, h.Subscription, h.SubVersion = group, 0, "", 1
		}
	}
	c.mustSend(message("T", 0, remoting.PropUniqKey, "u1", remoting.PropTags, "b"), "passed over")
	c.mustSend(message("T", 0, remoting.PropUniqKey, "u2", remoting.PropTags, "b"), "dead")
	sent := c.all("T", 0)
	if p := c.pull(pullOf("T", 0, 0, registered("one"))); len(p.records) != 0 {
		t.Errorf("the tag a matches %q", p.bodies())
	}
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("one", sent[0], 1))
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("one", sent[1], -1))
	c.arrived(remoting.RetryTopic("one"), 0, 1)
	if p := c.pull(pullOf(remoting.RetryTopic("one"), 0, 0, registered("one"))); len(p.records) != 1 {
		t.Errorf("the copy with tag b did not come: code %d", p.code)
	}
	if p := c.pull(pullOf(remoting.RetryTopic("other"), 0, 0, registered("other"))); len(p.records) != 0 {
		t.Errorf("another group has %q", p.bodies())
	}
	if p := c.pull(pullOf(remoting.RetryTopic("one"), 0, 0, registered("other"))); p.code != remoting.SubscriptionNotExist {
		t.Errorf("another group's pull of the copy: code %d", p.code)
	}
	if p := c.pull(pullOf("T", 0, 2, registered("other"))); len(p.records) != 0 {
		t.Errorf("another group gets again %q", p.bodies())
	}
}

// In broadcasting nothing comes again: there is no topic that it could be in.
func TestRETRY11Broadcasting(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	d := consumer(group, topic, "*")
	d.MessageModel = remoting.Broadcasting
	c.beat("id", d)
	if g := c.groupConfig(group); g.Name != group {
		t.Errorf("the group: %+v", g)
	}
	if _, err := c.topicConfig(remoting.RetryTopic(group)); codeOf(err) != remoting.TopicNotExist {
		t.Errorf("the retry topic: %v", err)
	}
	d.Started, d.MaxReconsumeTimes = time.Now().UnixMilli(), 3
	c.beat("id", d)
	if g := c.groupConfig(group); g.RetryMaxTimes != remoting.DefaultRetryMaxTimes {
		t.Errorf("a limit of %d of nothing", g.RetryMaxTimes)
	}
	d.MessageModel = remoting.Clustering
	c.beat("id", d)
	if _, err := c.topicConfig(remoting.RetryTopic(group)); err != nil {
		t.Errorf("the retry topic of a clustering group: %v", err)
	}
}

// What waits for a time or for its producer's word can't be had early by sending it
// back.
func TestWhatWaitsIsNotSentBack(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(never, never, 1)).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	for what, h := range map[string]*remoting.SendHeader{
		"half":    halfOf("T", 0),
		"timed":   timed("T", 0, time.Hour),
		"delayed": message("T", 0, remoting.PropDelay, "18"),
	} {
		_, phys, err := remoting.ParseOffsetMsgID(c.mustSend(h, what).MsgID)
		if err != nil {
			t.Fatal(err)
		}
		for _, level := range []int32{-1, 0, 1} {
			_, err = c.ask(remoting.ConsumerSendMsgBack, &remoting.SendBackRequest{Group: "g", Offset: phys, DelayLevel: level, MaxReconsumeTimes: -1})
			wantCode(t, err, remoting.NoPermission)
		}
	}
	for _, topic := range []string{remoting.RetryTopic("g"), remoting.DLQTopic("g")} {
		if _, ok := b.group.State().Topic(topic); ok {
			t.Errorf("%s was made", topic)
		}
	}
}
