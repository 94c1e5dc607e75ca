package main

import (
	"bytes"
	"context"
	"fmt"
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

// delivery is one message as it was given to the listener.
type delivery struct {
	offset int64
	body   []byte
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
		c.queues[q] = append(c.queues[q], delivery{m.QueueOffset, bytes.Clone(m.Body)})
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

// comparison is how what was consumed differs from the input.
type comparison struct {
	consumed, lost, duplicated, disordered int
}

// compare puts each queue's messages in the order of their offsets and walks
// along the queue's lines: a line that does not come is lost, a message that is
// no line, or came before, is a duplicate, one that comes before its turn is out
// of order.
func (c *consumption) compare(in *input, queues int) (out comparison) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out.consumed = c.n
	for q := range queues {
		stored := map[int64][]byte{}
		for _, d := range c.queues[int32(q)] {
			if _, twice := stored[d.offset]; twice {
				out.duplicated++
				continue
			}
			stored[d.offset] = d.body
		}
		want := (len(in.lines) - q + queues - 1) / queues
		out.lost += max(0, want-len(stored))
		out.duplicated += max(0, len(stored)-want)
		for i := range want {
			body, ok := stored[int64(i)]
			if ok && !bytes.Equal(body, in.lines[i*queues+q]) {
				out.disordered++
			}
		}
	}
	return out
}
