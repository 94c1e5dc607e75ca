package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// TestAsync: each callback is called once, with the outcome, whatever happens to connections meanwhile.
func TestAsync(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 4)
		g := c.groups[0]
		for _, r := range g.replicas {
			r.hint = true
		}
		p := c.producer(ProducerConfig{MaxInFlight: 100})
		const n = 2000
		var calls [n]atomic.Int32
		var failures atomic.Int32
		var all sync.WaitGroup
		all.Add(n)
		for i := range n {
			if i == n/2 {
				g.elect(1, false)
				go g.replicas[0].stop()
			}
			m := &Message{Topic: "T", Body: fmt.Append(nil, i)}
			if i%100 == 99 {
				m.Tags = "a||b"
			}
			p.SendAsync(t.Context(), m, func(res *SendResult, err error) {
				defer all.Done()
				calls[i].Add(1)
				if (err == nil) != (m.Tags == "") || (err == nil) == (res == nil) {
					failures.Add(1)
					t.Errorf("message %d: %+v, %v", i, res, err)
				}
			})
		}
		all.Wait()
		for i := range calls {
			if calls[i].Load() != 1 {
				t.Errorf("callback %d was called %d times", i, calls[i].Load())
			}
		}
		if stored, _ := g.count(); stored != n-n/100 {
			t.Errorf("%d stored, want %d", stored, n-n/100)
		}
	})
}

// TestAsyncOrder: messages that one goroutine sends to one queue are stored in that order.
func TestAsyncOrder(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{})
		queue := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		mustSend(t, p, &Message{Topic: "T", Body: []byte("-1")})
		for i := range 1000 {
			p.SendAsyncTo(t.Context(), queue, &Message{Topic: "T", Body: fmt.Append(nil, i)}, func(_ *SendResult, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		for i, rec := range c.groups[0].records(queue) {
			if string(rec.Body()) != fmt.Sprint(i-1) {
				t.Fatalf("record %d is message %s", i, rec.Body())
			}
		}
	})
}

// TestAsyncBounded: no more than MaxInFlight are under way; waiting for room ends with the context.
func TestAsyncBounded(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{MaxInFlight: 3, Timeout: 10 * time.Second})
		mustSend(t, p, &Message{Topic: "T"})
		c.groups[0].replicas[0].next(remoting.SendMessageV2, slices.Repeat([]script{{delay: time.Second}}, 3)...)
		var done atomic.Int32
		begun := time.Now()
		for range 4 {
			p.SendAsync(t.Context(), &Message{Topic: "T"}, func(_ *SendResult, err error) {
				if err != nil {
					t.Error(err)
				}
				done.Add(1)
			})
		}
		if took := time.Since(begun); took != time.Second {
			t.Errorf("the fourth waited %v, want 1 s", took)
		}
		synctest.Wait()
		if done.Load() != 4 {
			t.Errorf("%d callbacks", done.Load())
		}
		c.groups[0].replicas[0].next(remoting.SendMessageV2, slices.Repeat([]script{{delay: time.Second}}, 3)...)
		for range 3 {
			p.SendAsync(t.Context(), &Message{Topic: "T"}, func(*SendResult, error) {})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		late := make(chan error)
		p.SendAsync(ctx, &Message{Topic: "T"}, func(_ *SendResult, err error) { late <- err })
		if err := <-late; kind(t, err) != ErrNotSent || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestInOrder: with many senders and a leader that keeps dying, each queue has its messages in the order of the calls, none twice, none
// missing, and one request in flight.
func TestInOrder(t *testing.T) {
	for _, async := range []bool{false, true} {
		t.Run(fmt.Sprintf("async=%v", async), func(t *testing.T) {
			bubble(t, 1, 3, func(t *testing.T, c *cluster) {
				const queues, each = 4, 60
				c.topic("T", queues)
				g := c.groups[0]
				rng := seeded(t)
				var inFlight [queues]atomic.Int32
				for _, r := range g.replicas {
					r.hint = true
					r.always = func(req *remoting.Command) *script {
						if req.Code != remoting.SendMessageV2 {
							return nil
						}
						var h remoting.SendHeader
						if err := h.Decode(req); err != nil {
							t.Error(err)
						}
						switch rng.IntN(12) { // under the group's lock
						case 0:
							return &script{dropBefore: true}
						case 1:
							return &script{dropAfter: true}
						case 2:
							next := rng.IntN(3)
							return &script{dropAfter: true, then: func() { g.elect(next, false) }}
						case 3:
							return &script{delay: time.Duration(rng.IntN(20)) * time.Millisecond}
						case 4:
							return &script{silent: true}
						}
						return nil
					}
				}
				p := c.producer(ProducerConfig{InOrder: true})
				var wg sync.WaitGroup
				for q := range queues {
					wg.Go(func() {
						mq := MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: int32(q)}
						for i := range each {
							m := &Message{Topic: "T", Body: fmt.Append(nil, i)}
							for {
								var err error
								if async {
									done := make(chan error, 1)
									p.SendAsyncTo(context.Background(), mq, m, func(_ *SendResult, err error) { done <- err })
									err = <-done
								} else {
									if inFlight[q].Add(1) != 1 {
										t.Error("two senders of one queue")
									}
									_, err = p.SendTo(context.Background(), mq, m)
									inFlight[q].Add(-1)
								}
								if err == nil {
									break
								}
								kind(t, err)
							}
						}
					})
				}
				wg.Wait()
				for q := range queues {
					list := g.records(MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: int32(q)})
					if len(list) != each {
						t.Errorf("queue %d has %d messages, want %d", q, len(list), each)
					}
					for i, rec := range list {
						if string(rec.Body()) != fmt.Sprint(i) {
							t.Fatalf("queue %d: message %d is %s", q, i, rec.Body())
						}
					}
				}
			})
		})
	}
}

// TestInOrderTurns: the sends of a queue take turns in the order in which they came, and one that waits can give up.
func TestInOrderTurns(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		p := c.producer(ProducerConfig{InOrder: true})
		q0, q1 := MessageQueue{Topic: "T", BrokerName: "broker-a"}, MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: 1}
		r := c.groups[0].replicas[0]
		if _, err := p.SendTo(t.Context(), q1, &Message{Topic: "T"}); err != nil {
			t.Fatal(err)
		}
		r.next(remoting.SendMessageV2, script{delay: time.Second})
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if _, err := p.SendTo(t.Context(), q0, &Message{Topic: "T", Body: fmt.Append(nil, i)}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if n := r.requests(remoting.SendMessageV2); n != 2 {
			t.Errorf("%d requests are out, want 1 of each queue", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := p.SendTo(ctx, q0, &Message{Topic: "T"}); kind(t, err) != ErrNotSent {
			t.Error(err)
		}
		if _, err := p.SendTo(t.Context(), q1, &Message{Topic: "T"}); err != nil {
			t.Error("another queue:", err)
		}
		wg.Wait()
		for i, rec := range c.groups[0].records(q0) {
			if string(rec.Body()) != fmt.Sprint(i) {
				t.Fatalf("message %d is %s", i, rec.Body())
			}
		}
	})
}

// TestProducerClose: what is under way finishes, or ends with what is known of it; what comes later is not sent.
func TestProducerClose(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		t.Run(fmt.Sprintf("graceful=%v", graceful), func(t *testing.T) {
			bubble(t, 1, 1, func(t *testing.T, c *cluster) {
				c.topic("T", 1)
				p := c.producer(ProducerConfig{Timeout: 10 * time.Second})
				mustSend(t, p, &Message{Topic: "T"})
				c.groups[0].replicas[0].next(remoting.SendMessageV2, slices.Repeat([]script{{delay: time.Second}}, 4)...)
				var wg sync.WaitGroup
				check := func(_ *SendResult, err error) {
					if graceful && err != nil || !graceful && (kind(t, err) != ErrLimbo || !errors.Is(err, ErrClosed)) {
						t.Error(err)
					}
				}
				for range 2 {
					wg.Go(func() { check(p.Send(context.Background(), &Message{Topic: "T"})) })
				}
				synctest.Wait()
				limit := 2 * time.Second
				if !graceful {
					limit = 100 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				err := p.Close(ctx)
				if graceful != (err == nil) {
					t.Error(err)
				}
				wg.Wait()
				if _, err := p.Send(t.Context(), &Message{Topic: "T"}); kind(t, err) != ErrNotSent || !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
				late := make(chan error)
				p.SendAsync(t.Context(), &Message{Topic: "T"}, func(_ *SendResult, err error) { late <- err })
				if err := <-late; kind(t, err) != ErrNotSent || !errors.Is(err, ErrClosed) {
					t.Error("SendAsync after Close:", err)
				}
				if err := p.Close(t.Context()); err != nil {
					t.Error("closed again:", err)
				}
			})
		})
	}
}

// TestCloseBusy: Close ends everything while everything is busy, on real sockets, and nothing is left (TestMain looks for goroutines).
func TestCloseBusy(t *testing.T) {
	c := newCluster(t, sockets{}, 2, 3)
	c.topic("T", 4)
	for _, g := range c.groups {
		for _, r := range g.replicas {
			r.hint = true
		}
	}
	cl := c.client(Config{})
	p, err := cl.NewProducer(ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	push, err := cl.NewPushConsumer(PushConfig{Group: "g", From: FromFirst})
	if err != nil {
		t.Fatal(err)
	}
	var consumed atomic.Int64
	if err := push.Subscribe("T", "*", func(context.Context, []*MessageExt) error {
		consumed.Add(1)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := push.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pull, err := cl.NewPullConsumer(PullConfig{Group: "g2"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var sent atomic.Int64
	for range 32 {
		wg.Go(func() {
			for {
				_, err := p.Send(context.Background(), &Message{Topic: "T", Body: make([]byte, 100)})
				if err != nil {
					kind(t, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	wg.Go(func() {
		for {
			closed := make(chan bool)
			p.SendAsync(context.Background(), &Message{Topic: "T"}, func(_ *SendResult, err error) { closed <- errors.Is(err, ErrClosed) })
			if <-closed {
				return
			}
		}
	})
	for i := range 4 {
		wg.Go(func() {
			mq := MessageQueue{Topic: "T", BrokerName: "broker-b", QueueID: int32(i)}
			offset := int64(0)
			for {
				res, err := pull.Pull(context.Background(), PullRequest{Queue: mq, Offset: offset})
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
				offset = res.NextOffset
			}
		})
	}
	until(t, "traffic", func() bool { return sent.Load() > 500 && consumed.Load() > 100 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := cl.Close(ctx); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := cl.NewProducer(ProducerConfig{}); !errors.Is(err, ErrClosed) {
		t.Error("NewProducer after Close:", err)
	}
	if _, err := pull.MaxOffset(t.Context(), MessageQueue{Topic: "T", BrokerName: "broker-a"}); !errors.Is(err, ErrClosed) {
		t.Error("MaxOffset after Close:", err)
	}
	if err := push.Subscribe("U", "*", func(context.Context, []*MessageExt) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Error("Subscribe after Close:", err)
	}
}

// TestManySenders is for the race detector: senders, a moving leader, and connections that break.
func TestManySenders(t *testing.T) {
	c := newCluster(t, sockets{}, 2, 3)
	c.topic("T", 2)
	for _, g := range c.groups {
		for _, r := range g.replicas {
			r.hint = true
		}
	}
	p := c.producer(ProducerConfig{})
	var wg sync.WaitGroup
	const senders, each = 64, 30
	var unknown atomic.Int64
	for range senders {
		wg.Go(func() {
			for range each {
				m := &Message{Topic: "T", Body: make([]byte, 10)}
				for {
					_, err := p.Send(context.Background(), m)
					if err == nil {
						break
					}
					if kind(t, err) == ErrLimbo {
						unknown.Add(1)
					}
				}
			}
		})
	}
	stop := make(chan struct{})
	var moves sync.WaitGroup
	moves.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			g := c.groups[i%2]
			g.elect(i/2%3, i%3 == 0)
			g.replicas[(i/2+1)%3].stop()
			g.replicas[(i/2+1)%3].start()
		}
	})
	wg.Wait()
	close(stop)
	moves.Wait()
	a, _ := c.groups[0].count()
	b, _ := c.groups[1].count()
	if a+b != senders*each {
		t.Errorf("%d stored, want %d (%d outcomes were unknown)", a+b, senders*each, unknown.Load())
	}
}
