package client

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// TestFlowControl: at each of the limits pulling stops, and goes on when there is room.
func TestFlowControl(t *testing.T) {
	for _, row := range []struct {
		name string
		cfg  PushConfig
		most int64 // pulled while nothing is consumed
	}{
		{"messages", PushConfig{MaxMessages: 10, PullBatch: 4}, 12},
		{"bytes", PushConfig{MaxBytes: 25, PullBatch: 1}, 18}, // 10 bodies of 1 byte, then of 2
		{"span", PushConfig{MaxSpan: 20, PullBatch: 5}, 25},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, 1, 1, func(t *testing.T, c *cluster) {
				c.topic("T", 1)
				c.groups[0].fill(MessageQueue{Topic: "T", BrokerName: "broker-a"}, 100)
				row.cfg.From, row.cfg.Workers = FromFirst, 3
				var r received
				hold := make(chan struct{})
				p := c.push(row.cfg, "*", func(ctx context.Context, msgs []*MessageExt) error {
					if row.name == "span" && msgs[0].QueueOffset > 0 {
						return r.listen(ctx, msgs) // the first holds up the others
					}
					<-hold
					return r.listen(ctx, msgs)
				})
				pass(time.Minute)
				if q := p.queue("T"); q.next > row.most || q.next < row.most-5 {
					t.Errorf("pulled to %d, want about %d", q.next, row.most)
				}
				if n := c.groups[0].replicas[0].requests(remoting.PullMessage); n > 30 {
					t.Errorf("%d pulls", n)
				}
				close(hold)
				pass(time.Second)
				r.all(t, 100)
			})
		})
	}
}

// TestCommitNeverPastUnfinished: whatever order messages are finished in, no offset is committed that is above an unfinished one, and it
// never goes back.
func TestCommitNeverPastUnfinished(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		rng := seeded(t)
		const n = 500
		c.topic("T", 1)
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		g := c.groups[0]
		g.fill(mq, n)
		delays := make([]time.Duration, n)
		for i := range delays {
			delays[i] = time.Duration(rng.IntN(3000)) * time.Millisecond
		}
		var mu sync.Mutex
		finished := map[int64]bool{}
		last := int64(0)
		r := g.replicas[0]
		r.always = func(req *remoting.Command) *script {
			if req.Code != remoting.UpdateConsumerOffset {
				return nil
			}
			var h remoting.UpdateConsumerOffsetRequest
			if err := h.Decode(req); err != nil || h.Topic != "T" {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			for o := range h.CommitOffset {
				if !finished[o] {
					t.Errorf("%d is committed, %d is not finished", h.CommitOffset, o)
				}
			}
			if h.CommitOffset < last {
				t.Errorf("%d is committed after %d", h.CommitOffset, last)
			}
			last = h.CommitOffset
			if rng.IntN(4) == 0 {
				return &script{deaf: true}
			}
			return nil
		}
		p := c.push(PushConfig{From: FromFirst, CommitInterval: 100 * time.Millisecond}, "*", func(_ context.Context, msgs []*MessageExt) error {
			o := msgs[0].QueueOffset
			time.Sleep(delays[o]) // fake time
			mu.Lock()
			finished[o] = true
			mu.Unlock()
			return nil
		})
		pass(20 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p.Close(ctx)          // with what is running, and a broker that is sometimes deaf: its error is of no interest
		pass(5 * time.Second) // for the listeners that were left behind
		mu.Lock()
		defer mu.Unlock()
		if last == 0 || len(finished) == n {
			t.Errorf("committed %d, %d of %d finished: the test says nothing", last, len(finished), n)
		}
	})
}

// TestProcessQueue is invariants 1 and 2 of processQueue, against a model, in random order.
func TestProcessQueue(t *testing.T) {
	rng := seeded(t)
	q := newProcessQueue(t.Context(), MessageQueue{Topic: "T"}, 100, -1, limits{50, 1 << 20, 200})
	next := int64(100)
	open := map[int64]*task{}
	for range 20000 {
		if rng.IntN(3) == 0 && !q.full() {
			var msgs []*MessageExt
			for range rng.IntN(5) {
				if rng.IntN(4) > 0 { // else the tag does not match
					msgs = append(msgs, &MessageExt{Message: Message{Body: []byte("x")}, QueueOffset: next})
				}
				next++
			}
			q.put(msgs, next)
		}
		batch, _ := q.take(rng.IntN(3))
		for _, b := range batch {
			open[b.offset] = b
		}
		for o, b := range open {
			if rng.IntN(2) == 0 {
				if rng.IntN(5) == 0 {
					q.redo(b)
				} else if !q.done(b) {
					t.Fatalf("%d was done before", o)
				} else if q.done(b) {
					t.Fatalf("%d is done twice", o)
				}
				delete(open, o)
			}
		}
		want := next
		for o := range open {
			want = min(want, o)
		}
		for _, w := range q.waiting {
			want = min(want, w.offset)
		}
		if got := q.commitOffset(); got != want {
			t.Fatalf("commit offset %d, want %d", got, want)
		}
		if q.count != len(open)+len(q.waiting) || q.bytes != int64(q.count) {
			t.Fatalf("count %d, bytes %d, want %d", q.count, q.bytes, len(open)+len(q.waiting))
		}
	}
	if next < 5000 {
		t.Errorf("only %d messages", next)
	}
	q.drop()
	if batch, _ := q.take(10); len(batch) != 0 || q.put([]*MessageExt{{QueueOffset: next}}, next+1) {
		t.Error("a dropped queue goes on")
	}
	for _, b := range open {
		if q.done(b) || q.redo(b) {
			t.Error("a dropped queue takes results")
		}
	}
}

// TestCommitDropped: nothing of a queue that was dropped is committed, whatever was finished meanwhile.
func TestCommitDropped(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		c.groups[0].fill(mq, 3)
		var r received
		p := c.push(PushConfig{From: FromFirst}, "*", r.listen)
		pass(time.Second)
		q := p.queue("T")
		q.drop()
		if err := p.commitQueue(t.Context(), q); err != nil || q.commitOffset() != 3 {
			t.Errorf("%v, offset %d", err, q.commitOffset())
		}
		if o, ok := c.groups[0].offset("g", mq); ok {
			t.Errorf("committed %d", o)
		}
	})
}
