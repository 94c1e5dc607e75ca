package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// mustPoll polls n messages and returns their bodies.
func mustPoll(t testing.TB, p *PullConsumer, n int) (bodies []string) {
	t.Helper()
	for len(bodies) < n {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		msgs, err := p.Poll(ctx)
		cancel()
		if err != nil {
			t.Fatalf("after %v: %v", bodies, err)
		}
		for _, m := range msgs {
			bodies = append(bodies, string(m.Body))
		}
	}
	return bodies
}

// nothing checks that there is nothing to poll for a while.
func nothing(t testing.TB, p *PullConsumer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if msgs, err := p.Poll(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%d messages, %v", len(msgs), err)
	}
}

func numbers(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

// TestPollAssigned: seek, pause, resume, commit, and what comes again after Close.
func TestPollAssigned(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		qs := queuesOf(2, "broker-a")
		g := c.groups[0]
		g.fill(qs[0], 100)
		p := c.puller(PullConfig{From: FromFirst, PollMax: 10})
		if _, err := p.Poll(t.Context()); !errors.Is(err, ErrConfig) {
			t.Error("before Assign:", err)
		}
		if err := p.Seek(qs[0], 3); !errors.Is(err, ErrNotAssigned) {
			t.Error(err)
		}
		if err := p.Assign("*", qs[0], qs[0]); err != nil {
			t.Fatal(err)
		}
		if err := p.Subscribe("T", "*"); !errors.Is(err, ErrConfig) {
			t.Error("Subscribe after Assign:", err)
		}
		if err := p.Seek(qs[0], 95); err != nil { // most likely not held yet
			t.Fatal(err)
		}
		if got := mustPoll(t, p, 5); !slices.Equal(got, numbers(95, 100)) {
			t.Errorf("after Seek: %v", got)
		}
		nothing(t, p)
		if err := p.SeekToBegin(t.Context(), qs[0]); err != nil {
			t.Fatal(err)
		}
		if got := mustPoll(t, p, 20); !slices.Equal(got, numbers(0, 20)) {
			t.Errorf("after SeekToBegin: %v", got)
		}
		// Of the second ten nobody knows yet what becomes of them.
		pass(5 * time.Second)
		if o, _ := g.offset("g", qs[0]); o != 10 {
			t.Errorf("committed %d, want 10", o)
		}
		if err := p.CommitSync(t.Context()); err != nil {
			t.Error(err)
		}
		if o, err := p.Committed(t.Context(), qs[0]); err != nil || o != 20 {
			t.Errorf("CommitSync committed %d, %v", o, err)
		}
		p.Pause(qs[0])
		nothing(t, p)
		p.Resume(qs[0])
		if got := mustPoll(t, p, 80); !slices.Equal(got, numbers(20, 100)) {
			t.Errorf("after Resume: %v", got)
		}
		if err := p.SeekToBegin(t.Context(), qs[0]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := p.SeekToEnd(t.Context(), qs[0]); err != nil {
			t.Fatal(err)
		}
		nothing(t, p)
		mustSendTo(t, c, qs[0], "new")
		if got := mustPoll(t, p, 1); got[0] != "new" {
			t.Errorf("after SeekToEnd: %v", got)
		}
		// Another queue in place of this one.
		g.fill(qs[1], 3)
		if err := p.Assign("*", qs[1]); err != nil {
			t.Fatal(err)
		}
		if got := mustPoll(t, p, 3); !slices.Equal(got, numbers(0, 3)) {
			t.Errorf("the other queue: %v", got)
		}
		if got := p.Assignment(); !slices.Equal(got, qs[1:]) {
			t.Errorf("assigned %v", got)
		}
		if err := p.Seek(qs[0], 3); !errors.Is(err, ErrNotAssigned) {
			t.Error(err)
		}
		// The last ones were polled, but the caller may not be done with them.
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if o, ok := g.offset("g", qs[1]); ok && o != 0 {
			t.Errorf("Close committed %d", o)
		}
		if _, err := p.Poll(t.Context()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		for _, err := range []error{p.Assign("*", qs[0]), p.Subscribe("T", "*"), p.CommitSync(t.Context()), p.WatchQueues("T", func(_, _ []MessageQueue) {})} {
			if !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}
	})
}

func mustSendTo(t testing.TB, c *cluster, mq MessageQueue, body string) {
	t.Helper()
	if _, err := c.producer(ProducerConfig{}).SendTo(context.Background(), mq, &Message{Topic: mq.Topic, Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

// TestPollManualCommit: nothing is committed but by CommitSync and Commit, so what comes after that comes again.
func TestPollManualCommit(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := queuesOf(1, "broker-a")[0]
		g := c.groups[0]
		g.fill(mq, 30)
		p := c.puller(PullConfig{From: FromFirst, PollMax: 10, ManualCommit: true})
		if err := p.Subscribe("T", "*"); err != nil {
			t.Fatal(err)
		}
		mustPoll(t, p, 20)
		pass(time.Minute)
		if o, ok := g.offset("g", mq); ok {
			t.Errorf("committed %d", o)
		}
		if err := p.CommitSync(t.Context()); err != nil {
			t.Error(err)
		}
		if o, _ := g.offset("g", mq); o != 20 {
			t.Errorf("committed %d, want 20", o)
		}
		if err := p.Commit(t.Context(), mq, 7); err != nil {
			t.Error(err)
		}
		if err := p.CommitSync(t.Context()); err != nil { // it knows that the broker has another one now
			t.Error(err)
		}
		if o, _ := g.offset("g", mq); o != 20 {
			t.Errorf("committed %d, want 20", o)
		}
		mustPoll(t, p, 10)
		nothing(t, p)
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if o, _ := g.offset("g", mq); o != 20 {
			t.Errorf("Close committed %d", o)
		}
		again := c.puller(PullConfig{})
		if err := again.Subscribe("T", "*"); err != nil {
			t.Fatal(err)
		}
		if got := mustPoll(t, again, 10); !slices.Equal(got, numbers(20, 30)) {
			t.Errorf("came again: %v", got)
		}
	})
}

// TestPollFlowControl: what is pulled ahead is bounded, whether the caller is slow or has paused.
func TestPollFlowControl(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := queuesOf(1, "broker-a")[0]
		c.groups[0].fill(mq, 1000)
		p := c.puller(PullConfig{From: FromFirst, MaxMessages: 64, PullBatch: 16, PollMax: 50})
		if err := p.Assign("", mq); err != nil {
			t.Fatal(err)
		}
		p.Pause(mq)
		r := c.groups[0].replicas[0]
		pass(time.Minute)
		if n := r.requests(remoting.PullMessage); n != 4 {
			t.Errorf("%d pulls for 64 messages", n)
		}
		p.Resume(mq)
		if got := mustPoll(t, p, 1000); !slices.Equal(got, numbers(0, 1000)) {
			t.Errorf("%d messages, not all in order", len(got))
		}
	})
}

// TestPollShared: the consumers of a group share the queues; who leaves hands over what it is done with, and the watchers hear of it.
func TestPollShared(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 4)
		qs := queuesOf(4, "broker-a")
		for _, mq := range qs {
			c.groups[0].fill(mq, 10)
		}
		var told journal
		a, b := c.puller(PullConfig{From: FromFirst}), c.puller(PullConfig{From: FromFirst})
		if err := a.WatchQueues("T", func(all, mine []MessageQueue) { told.add("%d of %d", len(mine), len(all)) }); err != nil {
			t.Fatal(err)
		}
		for _, p := range []*PullConsumer{a, b} {
			if err := p.Subscribe("T", "*"); err != nil {
				t.Fatal(err)
			}
		}
		pass(5 * time.Second)
		if x, y := a.Assignment(), b.Assignment(); len(x) != 2 || len(y) != 2 || slices.Equal(x, y) {
			t.Errorf("%v and %v", x, y)
		}
		mustPoll(t, a, 20)
		mustPoll(t, b, 20)
		if err := b.CommitSync(t.Context()); err != nil {
			t.Error(err)
		}
		mustSendTo(t, c, qs[0], "more")
		mustSendTo(t, c, qs[3], "more")
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		pass(25 * time.Second)
		if x := a.Assignment(); !slices.Equal(x, qs) {
			t.Errorf("alone: %v", x)
		}
		if got := mustPoll(t, a, 2); !slices.Equal(got, []string{"more", "more"}) {
			t.Errorf("got %v", got)
		}
		nothing(t, a)
		c.topic("T", 6)
		pass(time.Minute)
		told.mu.Lock()
		defer told.mu.Unlock()
		if n := len(told.lines); n < 3 || told.lines[n-1] != "6 of 6" || !slices.Contains(told.lines, "2 of 4") || !slices.Contains(told.lines, "4 of 4") {
			t.Errorf("told: %v", told.lines)
		}
	})
}

// TestPollEnds: Poll ends with its context and with Close, and takes nothing along then.
func TestPollEnds(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.puller(PullConfig{})
		if err := p.Subscribe("T", "A || B"); err != nil {
			t.Fatal(err)
		}
		nothing(t, p)
		got := make(chan error)
		go func() {
			_, err := p.Poll(context.Background())
			got <- err
		}()
		synctest.Wait()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-got; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	for _, cfg := range []PullConfig{{}, {Group: "g", PollMax: -1}, {Group: "g", MaxBytes: -1}, {Group: "g", From: 9}} {
		if _, err := testClient(t).NewPullConsumer(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	p, err := testClient(t).NewPullConsumer(PullConfig{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{p.Assign("*", MessageQueue{Topic: "T"}), p.Assign("*", MessageQueue{Topic: "T", BrokerName: "b", QueueID: -1}), p.Assign("||", queuesOf(1, "b")...),
		p.Assign("*", MessageQueue{BrokerName: "b"}), p.Subscribe("", "*"), p.Seek(MessageQueue{}, -1), p.WatchQueues("T", nil), p.WatchQueues("", func(_, _ []MessageQueue) {})} {
		if !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
	}
}
