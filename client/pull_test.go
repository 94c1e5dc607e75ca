package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

func (c *cluster) puller(cfg PullConfig) *PullConsumer {
	c.t.Helper()
	setDefault(&cfg.Group, "g")
	p, err := c.client(Config{}).NewPullConsumer(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

func TestPull(t *testing.T) {
	bubble(t, 2, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		p := c.puller(PullConfig{})
		queues, err := p.FetchQueues(t.Context(), "T")
		if err != nil || len(queues) != 4 || queues[3] != (MessageQueue{Topic: "T", BrokerName: "broker-b", QueueID: 1}) {
			t.Fatalf("%v, %v", queues, err)
		}
		if _, err := p.FetchQueues(t.Context(), "U"); !errors.Is(err, ErrNoRoute) {
			t.Error(err)
		}
		mq := queues[0]
		c.groups[0].fill(mq, 100)
		res, err := p.Pull(t.Context(), PullRequest{Queue: mq})
		if err != nil || res.Status != PullFound || len(res.Messages) != 32 || res.NextOffset != 32 || res.MinOffset != 0 || res.MaxOffset != 100 {
			t.Fatalf("%+v, %v", res, err)
		}
		m := res.Messages[5]
		if string(m.Body) != "5" || m.QueueOffset != 5 || m.Queue != mq || m.MsgID != "Kbroker-a-0-5" || m.StoreTime.IsZero() || m.StoreSize == 0 {
			t.Errorf("%+v", m)
		}
		if res, err = p.Pull(t.Context(), PullRequest{Queue: mq, Offset: 90, Max: 5}); err != nil || len(res.Messages) != 5 || string(res.Messages[0].Body) != "90" {
			t.Errorf("%+v, %v", res, err)
		}
		for _, offset := range []int64{-1, 101} {
			res, err = p.Pull(t.Context(), PullRequest{Queue: mq, Offset: offset})
			if err != nil || res.Status != PullOffsetMoved || res.NextOffset != max(0, min(offset, 100)) {
				t.Errorf("offset %d: %+v, %v", offset, res, err)
			}
		}
		if res, err = p.Pull(t.Context(), PullRequest{Queue: mq, Selector: "nothing"}); err != nil || res.Status != PullNoMatch || res.NextOffset != 32 {
			t.Errorf("%+v, %v", res, err)
		}
		if _, err = p.Pull(t.Context(), PullRequest{Queue: mq, Selector: "||"}); !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
		if _, err = p.Pull(t.Context(), PullRequest{Queue: MessageQueue{Topic: "T", BrokerName: "nobody"}}); !errors.Is(err, ErrNoRoute) {
			t.Error(err)
		}

		begun := time.Now()
		if res, err = p.Pull(t.Context(), PullRequest{Queue: mq, Offset: 100, NoWait: true}); err != nil || res.Status != PullNoNew || time.Since(begun) > 0 {
			t.Errorf("%+v, %v after %v", res, err, time.Since(begun))
		}
		if res, err = p.Pull(t.Context(), PullRequest{Queue: mq, Offset: 100}); err != nil || res.Status != PullNoNew || time.Since(begun) != 20*time.Second {
			t.Errorf("%+v, %v after %v", res, err, time.Since(begun))
		}
		time.AfterFunc(3*time.Second, func() { c.groups[0].fill(mq, 1) })
		begun = time.Now()
		if res, err = p.Pull(t.Context(), PullRequest{Queue: mq, Offset: 100}); err != nil || len(res.Messages) != 1 || time.Since(begun) != 3*time.Second {
			t.Errorf("%+v, %v after %v", res, err, time.Since(begun))
		}
		// A deadline is told to the broker, which answers in time.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begun = time.Now()
		if res, err = p.Pull(ctx, PullRequest{Queue: mq, Offset: 101}); err != nil || res.Status != PullNoNew || time.Since(begun) != 4*time.Second {
			t.Errorf("%+v, %v after %v", res, err, time.Since(begun))
		}
		// What cannot pass is an error at once; what can is waited for.
		r := c.groups[0].replicas[0]
		r.next(remoting.PullMessage, answerWith(remoting.NoPermission))
		var b *BrokerError
		if _, err = p.Pull(t.Context(), PullRequest{Queue: mq}); !errors.As(err, &b) || b.Code != remoting.NoPermission {
			t.Error(err)
		}
		r.next(remoting.PullMessage, answerWith(remoting.SystemBusy), script{dropBefore: true}, answerWith(remoting.ServiceNotAvailable))
		if res, err = p.Pull(t.Context(), PullRequest{Queue: mq}); err != nil || len(res.Messages) != 32 {
			t.Errorf("%+v, %v", res, err)
		}
		go func() {
			time.Sleep(time.Second) // fake time
			if err := p.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		if _, err = p.Pull(t.Context(), PullRequest{Queue: mq, Offset: 101}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestOffsets(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		for _, r := range g.replicas {
			r.hint = true
		}
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		p := c.puller(PullConfig{})
		if _, err := p.Committed(t.Context(), mq); !errors.Is(err, ErrNoOffset) {
			t.Error(err)
		}
		g.replicas[0].next(remoting.QueryConsumerOffset, answerWith(remoting.SystemError))
		if _, err := p.Committed(t.Context(), mq); err == nil || errors.Is(err, ErrNoOffset) {
			t.Error("an error is not the same as no offset:", err)
		}
		g.elect(1, false)
		if err := p.Commit(t.Context(), mq, 42); err != nil {
			t.Error(err)
		}
		if o, err := p.Committed(t.Context(), mq); o != 42 || err != nil {
			t.Errorf("%d, %v", o, err)
		}
		if err := p.Commit(t.Context(), mq, -1); !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
		if at, err := p.EarliestStoreTime(t.Context(), mq); err != nil || !at.IsZero() {
			t.Errorf("%v, %v", at, err)
		}
		first := time.Now()
		g.fill(mq, 10)
		pass(time.Minute)
		then := time.Now()
		g.fill(mq, 10)
		if o, err := p.MinOffset(t.Context(), mq); o != 0 || err != nil {
			t.Errorf("%d, %v", o, err)
		}
		if o, err := p.MaxOffset(t.Context(), mq); o != 20 || err != nil {
			t.Errorf("%d, %v", o, err)
		}
		if o, err := p.OffsetAt(t.Context(), mq, then); o != 10 || err != nil {
			t.Errorf("%d, %v", o, err)
		}
		if at, err := p.EarliestStoreTime(t.Context(), mq); err != nil || !at.Equal(first.Truncate(time.Millisecond)) {
			t.Errorf("%v, %v; want %v", at, err, first)
		}
		g.elect(-1, false)
		begun := time.Now()
		if err := p.Commit(t.Context(), mq, 43); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 3*time.Second {
			t.Errorf("without a leader: %v after %v", err, time.Since(begun))
		}
	})
}

func TestINDEX03Query(t *testing.T) {
	bubble(t, 2, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		prod := c.producer(ProducerConfig{})
		var ids []string
		for i := range 4 {
			ids = append(ids, mustSend(t, prod, &Message{Topic: "T", Body: fmt.Append(nil, i), Keys: []string{"all", fmt.Sprintf("k%d", i)}}).MsgID)
			pass(time.Second)
		}
		p := c.puller(PullConfig{})
		list, err := p.QueryByKey(t.Context(), "T", "all", time.Time{}, time.Time{}, 0)
		if err != nil || len(list) != 4 {
			t.Fatalf("%d, %v", len(list), err)
		}
		for i, m := range list {
			if m.MsgID != ids[i] {
				t.Errorf("message %d is %s", i, m.Body)
			}
		}
		if list, err = p.QueryByKey(t.Context(), "T", "k", time.Time{}, time.Time{}, 0); err != nil || len(list) != 0 {
			t.Errorf("a part of a key finds %d, %v", len(list), err)
		}
		if list, err = p.QueryByID(t.Context(), "T", ids[2]); err != nil || len(list) != 1 || string(list[0].Body) != "2" {
			t.Errorf("%v, %v", list, err)
		}
		if list, err = p.QueryByID(t.Context(), "T", "nothing"); err != nil || len(list) != 0 {
			t.Errorf("%v, %v", list, err)
		}
		// The broker in the id is gone; the other replicas have the record at the same place. A client that has no route yet finds them.
		m := list
		if m, err = p.QueryByID(t.Context(), "T", ids[1]); err != nil || len(m) != 1 {
			t.Fatal(err)
		}
		p.Close(t.Context())
		for _, g := range c.groups {
			g.replicas[0].stop()
		}
		other := c.puller(PullConfig{Group: "h"})
		got, err := other.View(t.Context(), m[0].OffsetMsgID)
		if err != nil || got.MsgID != ids[1] {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err = other.View(t.Context(), remoting.OffsetMsgID(m[0].StoreHost, 1<<40)); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, err = other.View(t.Context(), "abc"); !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
		if _, err = other.View(t.Context(), "0A0000630000270F0000000000000000"); err == nil || errors.Is(err, ErrNotFound) {
			t.Error("a broker that nobody can reach:", err)
		}
	})
}
