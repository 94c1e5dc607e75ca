package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/raftmq/raftmq/client"
)

const (
	// quietTime is how long nothing must come before what has not come counts as
	// lost.
	quietTime = 10 * time.Second
	// settleTime is how long we listen for doubles when everything has come.
	settleTime = time.Second
)

// consumption is what a consumer group was given.
type consumption struct {
	consumer *client.PushConsumer

	mu     sync.Mutex
	queues map[int32][]delivery
	n      int
	last   time.Time
}

func startConsumer(ctx context.Context, cl *client.Client) (*consumption, error) {
	consumer, err := cl.NewPushConsumer(client.PushConfig{Group: groupName, From: client.FromFirst, ConsumeBatch: 32})
	if err != nil {
		return nil, err
	}
	c := &consumption{consumer: consumer, queues: map[int32][]delivery{}, last: time.Now()}
	if err := consumer.Subscribe(topicName, "*", c.listen); err != nil {
		return nil, err
	}
	return c, consumer.Start(ctx)
}

func (c *consumption) listen(_ context.Context, msgs []*client.MessageExt) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range msgs {
		q := m.Queue.QueueID
		line, err := strconv.Atoi(m.Properties[lineProperty])
		if err != nil {
			line = -1 // not ours: compare counts it
		}
		c.queues[q] = append(c.queues[q], delivery{m.QueueOffset, line, bytes.Clone(m.Body)})
		c.n++
	}
	c.last = time.Now()
	return nil
}

// wait waits until as many messages have come as were sent and no more come, or
// until none has come for a while.
func (c *consumption) wait(ctx context.Context, want int) error {
	for {
		c.mu.Lock()
		n, quiet := c.n, time.Since(c.last)
		c.mu.Unlock()
		if n >= want && quiet > settleTime || quiet > quietTime {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("consumed %d of %d: %w", n, want, ctx.Err())
		}
	}
}

// compare compares what has come with the input.
func (c *consumption) compare(in *input, queues int) comparison {
	c.mu.Lock()
	defer c.mu.Unlock()
	for q := range int32(queues) {
		if _, ok := c.queues[q]; !ok {
			c.queues[q] = nil // one that got nothing counts too
		}
	}
	return compare(c.queues, in.lines)
}
