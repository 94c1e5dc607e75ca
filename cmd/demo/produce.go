package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/client"
)

// lineTimeout is how long a sender tries to get one line stored.
const lineTimeout = 60 * time.Second

// event is something that is done when so many lines were acknowledged.
type event struct {
	at int
	do func(context.Context) error
}

// production is what came of sending.
type production struct {
	sent, acked int
	elapsed     time.Duration
	gap         time.Duration // the longest time without any acknowledgement
}

// lineProperty says which line a message is: lines can be equal.
const lineProperty = "line"

// produce sends line i to queue i % queues. Each queue has one sender, which
// sends its next line when the last one was acknowledged, and repeats what
// failed or timed out.
func produce(ctx context.Context, cl *client.Client, in *input, queues int, script []event) (*production, error) {
	p, err := cl.NewProducer(client.ProducerConfig{InOrder: true})
	if err != nil {
		return nil, err
	}
	targets, err := awaitQueues(ctx, p, queues)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &production{}
	var acked atomic.Int64
	clock := newGapClock()
	var group sync.WaitGroup
	for q := range queues {
		group.Go(func() {
			for line := q; line < len(in.lines) && ctx.Err() == nil; line += queues {
				if err := sendLine(ctx, p, targets[q], line, in.lines[line]); err != nil {
					cancel(fmt.Errorf("line %d: %w", line+1, err))
					return
				}
				acked.Add(1)
				clock.tick()
			}
		})
	}
	group.Go(func() {
		for _, e := range script {
			for int(acked.Load()) < e.at && ctx.Err() == nil {
				time.Sleep(5 * time.Millisecond)
			}
			if ctx.Err() != nil {
				return
			}
			if err := e.do(ctx); err != nil {
				cancel(err)
				return
			}
		}
	})
	group.Wait()
	s.elapsed, s.gap = clock.read()
	s.sent, s.acked = len(in.lines), int(acked.Load())
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return s, p.Close(ctx)
}

// sendLine sends a line until it is stored. A message whose outcome is not known
// is the same message when it is sent again: it is not stored twice.
func sendLine(ctx context.Context, p *client.Producer, queue client.MessageQueue, line int, body []byte) error {
	m := &client.Message{Topic: topicName, Body: body, Properties: map[string]string{lineProperty: strconv.Itoa(line)}}
	deadline := time.Now().Add(lineTimeout)
	for {
		_, err := p.SendTo(ctx, queue, m)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}

// awaitQueues waits until the topic's queues are in its route.
func awaitQueues(ctx context.Context, p *client.Producer, n int) ([]client.MessageQueue, error) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		queues, err := p.Queues(ctx, topicName)
		if err == nil && len(queues) == n {
			return queues, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("the topic has %d queues, not %d", len(queues), n), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// gapClock measures the longest time between two ticks.
type gapClock struct {
	mu    sync.Mutex
	begun time.Time
	last  time.Time
	gap   time.Duration
}

func newGapClock() *gapClock {
	now := time.Now()
	return &gapClock{begun: now, last: now}
}

func (c *gapClock) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.gap = max(c.gap, now.Sub(c.last))
	c.last = now
}

func (c *gapClock) read() (elapsed, gap time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.Sub(c.begun), c.gap
}
