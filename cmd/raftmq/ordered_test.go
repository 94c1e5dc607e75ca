package main

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
)

// ordered checks what the ordered consumers of a group get: of a queue one
// message at a time, and none before the one below it was consumed.
type ordered struct {
	t       testing.TB
	mu      sync.Mutex
	running map[client.MessageQueue]string
	next    map[client.MessageQueue]int64
}

func (o *ordered) listener(name string) client.Listener {
	return func(ctx context.Context, msgs []*client.MessageExt) error {
		m := msgs[0]
		o.mu.Lock()
		if other, ok := o.running[m.Queue]; ok {
			o.t.Errorf("%s gets %d of %v while %s has the queue", name, m.QueueOffset, m.Queue, other)
		}
		o.running[m.Queue] = name
		if m.QueueOffset > o.next[m.Queue] {
			o.t.Errorf("%s gets %d of %v, but only those below %d were consumed", name, m.QueueOffset, m.Queue, o.next[m.Queue])
		}
		o.mu.Unlock()
		var err error
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			err = ctx.Err()
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.running, m.Queue)
		if err == nil {
			o.next[m.Queue] = max(o.next[m.Queue], m.QueueOffset+1)
		}
		return err
	}
}

// TestORDER06And07LeadersDie has clients of a group consume in order while they
// come and go, and leaders are killed.
func TestORDER06And07LeadersDie(t *testing.T) {
	t.Parallel()
	const topic, group, queues, messages = "Ordered", "ordered", 4, 250
	c := startCluster(t, 3, 1)
	connect := func() *client.Client {
		cl, err := client.New(client.Config{NameServers: c.namesrvs()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := cl.Close(ctx); err != nil {
				t.Error(err)
			}
		})
		return cl
	}
	cl := connect()
	eventually(t, "the topic", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		cfg := client.NewTopicConfig(topic)
		cfg.ReadQueueNums, cfg.WriteQueueNums = queues, queues
		_, err := createTopic(ctx, cl.Admin(), cfg, nil)
		return err
	})
	o := &ordered{t: t, running: map[client.MessageQueue]string{}, next: map[client.MessageQueue]int64{}}
	consume := func(name string) *client.PushConsumer {
		p, err := connect().NewPushConsumer(client.PushConfig{Group: group, Ordered: true, From: client.FromFirst})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Subscribe(topic, "*", o.listener(name)); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	one := consume("one")
	consume("two")
	p, err := cl.NewProducer(client.ProducerConfig{InOrder: true, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var senders sync.WaitGroup
	for q := range queues {
		senders.Go(func() {
			queue := client.MessageQueue{Topic: topic, BrokerName: groupName(0), QueueID: int32(q)}
			for i := range messages {
				if _, err := p.SendTo(t.Context(), queue, &client.Message{Topic: topic, Body: fmt.Append(nil, i)}); err != nil {
					t.Errorf("send %d to queue %d: %v", i, q, err)
					return
				}
			}
		})
	}
	consumed := func() (n int64) {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, next := range o.next {
			n += next
		}
		return n
	}
	reach := func(want int64) {
		t.Helper()
		eventually(t, fmt.Sprint(want, " messages are consumed"), func() error {
			if n := consumed(); n < want {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
	}
	all := int64(queues * messages)
	reach(all / 5)
	first, _ := c.leader(groupName(0))
	c.kill(first)
	consume("three")
	reach(all * 2 / 5)
	c.start(first)
	if err := one.Close(t.Context()); err != nil {
		t.Error(err)
	}
	reach(all * 3 / 5)
	second, _ := c.leader(groupName(0))
	c.kill(second)
	reach(all * 4 / 5)
	c.start(second)
	senders.Wait()
	reach(all)
}
