package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// sentBack returns the delay levels that messages were sent back with, by body.
func (g *fakeGroup) sentBack(t testing.TB) map[string][]int32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	got := map[string][]int32{}
	for _, r := range g.replicas {
		for _, h := range r.backs {
			for _, q := range g.queues {
				for _, b := range q.records {
					v, err := remoting.ParseRecord(b)
					if err != nil {
						t.Fatal(err)
					}
					if v.PhysicalOffset() == h.Offset {
						got[string(v.Body())] = append(got[string(v.Body())], h.DelayLevel)
					}
				}
			}
		}
	}
	return got
}

// TestRETRY04And07PartOfABatch: what a listener says is consumed does not come again, the rest does, with the delay level it says.
func TestRETRY04And07PartOfABatch(t *testing.T) {
	for _, row := range []struct {
		err  error
		back []string
		want int32
	}{
		{nil, nil, 0},
		{errors.New("all"), []string{"0", "1", "2", "3", "4"}, 0},
		{&ReconsumeError{Consumed: 3, Err: errors.New("the last two")}, []string{"3", "4"}, 0},
		{fmt.Errorf("wrapped: %w", &ReconsumeError{Consumed: 4, DelayLevel: 4}), []string{"4"}, 4},
		{&ReconsumeError{DelayLevel: -1}, []string{"0", "1", "2", "3", "4"}, -1},
		{&ReconsumeError{Consumed: 5}, nil, 0},
		{&ReconsumeError{Consumed: 99, DelayLevel: 1}, nil, 0},
		{&ReconsumeError{Consumed: -3}, []string{"0", "1", "2", "3", "4"}, 0},
	} {
		t.Run(fmt.Sprint(row.err), func(t *testing.T) {
			bubble(t, 1, 1, func(t *testing.T, c *cluster) {
				c.topic("T", 1)
				mq := queuesOf(1, "broker-a")[0]
				c.groups[0].fill(mq, 5)
				var r received
				c.push(PushConfig{From: FromFirst, ConsumeBatch: 10, Workers: 1}, "*", func(ctx context.Context, msgs []*MessageExt) error {
					r.listen(ctx, msgs)
					if msgs[0].ReconsumeTimes == 0 {
						return row.err
					}
					return nil
				})
				pass(time.Minute)
				back := c.groups[0].sentBack(t)
				for i := range 5 {
					body := fmt.Sprint(i)
					want, times := []int32(nil), 1
					if slices.Contains(row.back, body) {
						want = []int32{row.want}
						times = 2
					}
					if !slices.Equal(back[body], want) {
						t.Errorf("message %s was sent back with levels %v, want %v", body, back[body], want)
					}
					if got := r.times()[body]; got != times && row.want >= 0 {
						t.Errorf("message %s came %d times, want %d", body, got, times)
					}
				}
				if o, _ := c.groups[0].offset("g", mq); o != 5 {
					t.Errorf("committed %d, want 5", o)
				}
			})
		})
	}
}

// TestRETRY02EveryFailure: an error, a panic and a listener that takes too long all bring a message again; once each, also when the slow
// listener fails in the end.
func TestRETRY02EveryFailure(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{})
		for _, body := range []string{"error", "panic", "slow", "slow and error"} {
			mustSend(t, p, &Message{Topic: "T", Body: []byte(body)})
		}
		var seen journal
		c.push(PushConfig{From: FromFirst}, "*", func(ctx context.Context, msgs []*MessageExt) error {
			m := msgs[0]
			seen.add("%s/%d", m.Body, m.ReconsumeTimes)
			if m.ReconsumeTimes > 0 {
				return nil
			}
			if strings.HasPrefix(string(m.Body), "slow") {
				begun := time.Now()
				<-ctx.Done() // and it does not mind
				if took := time.Since(begun); took != 15*time.Minute {
					t.Errorf("the context ended after %v", took)
				}
				pass(time.Hour)
			}
			switch string(m.Body) {
			case "panic":
				panic("listener")
			case "slow":
				return nil
			}
			return errors.New("listener")
		})
		pass(3 * time.Hour)
		seen.mu.Lock()
		got := slices.Sorted(slices.Values(seen.lines))
		seen.mu.Unlock()
		want := []string{"error/0", "error/1", "panic/0", "panic/1", "slow and error/0", "slow and error/1", "slow/0", "slow/1"}
		if !slices.Equal(got, want) {
			t.Errorf("consumed %v, want %v", got, want)
		}
		if back := c.groups[0].sentBack(t); fmt.Sprint(back["slow"], back["slow and error"]) != "[3] [3]" {
			t.Errorf("sent back: %v", back)
		}
	})
}

// TestDeadLetterFallback: also when no broker takes it back, "never again" makes a message a dead letter.
func TestDeadLetterFallback(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mustSend(t, c.producer(ProducerConfig{}), &Message{Topic: "T", Body: []byte("x")})
		r := c.groups[0].replicas[0]
		r.next(remoting.ConsumerSendMsgBack, answerWith(remoting.SystemError))
		c.push(PushConfig{From: FromFirst, MaxReconsumeTimes: 7}, "*", func(context.Context, []*MessageExt) error { return &ReconsumeError{DelayLevel: -1} })
		pass(500 * time.Millisecond)
		dead := c.groups[0].records(MessageQueue{Topic: remoting.DLQTopic("g"), BrokerName: "broker-a"})
		if len(dead) != 1 || dead[0].ReconsumeTimes() != 1 {
			t.Errorf("%d dead letters", len(dead))
		}
	})
}

// TestRETRY14OwnLimit: what a consumer was told goes out with its heartbeats and requests; one that was told nothing leaves it to the group.
func TestRETRY14OwnLimit(t *testing.T) {
	for limit, want := range map[int]int32{0: -1, 5: 5, NoRetries: 0} {
		bubble(t, 1, 1, func(t *testing.T, c *cluster) {
			c.topic("T", 1)
			mustSend(t, c.producer(ProducerConfig{}), &Message{Topic: "T", Body: []byte("x")})
			begun := time.Now().UnixMilli()
			c.push(PushConfig{From: FromFirst, MaxReconsumeTimes: limit}, "*", func(_ context.Context, msgs []*MessageExt) error {
				if msgs[0].ReconsumeTimes > 0 {
					return nil
				}
				return errors.New("once")
			})
			pass(time.Second)
			r := c.groups[0].replicas[0]
			r.g.mu.Lock()
			defer r.g.mu.Unlock()
			if len(r.backs) != 1 || r.backs[0].MaxReconsumeTimes != want {
				t.Errorf("limit %d: sent back with %+v", limit, r.backs)
			}
			for _, b := range r.beats {
				if len(b.Consumers) == 0 {
					continue
				}
				if d := b.Consumers[0]; limit == 0 && d.Started != 0 || limit != 0 && (d.Started != begun || d.MaxReconsumeTimes != want) {
					t.Errorf("limit %d: the heartbeat says %d since %d", limit, d.MaxReconsumeTimes, d.Started)
				}
			}
		})
	}
}

type traceKey struct{}

// TestInterceptors: what interceptors put into a message's properties comes with it, and they see every outcome once.
func TestInterceptors(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		var j journal
		send := func(name string) SendInterceptor {
			return func(ctx context.Context, msgs []*Message) (context.Context, func(*SendResult, error)) {
				j.add("%s begins %d", name, len(msgs))
				outer, _ := ctx.Value(traceKey{}).(string)
				for _, m := range msgs {
					m.Properties["trace"] = outer + name
				}
				return context.WithValue(ctx, traceKey{}, outer+name), func(res *SendResult, err error) {
					j.add("%s ends %v %v", name, res != nil, err != nil)
				}
			}
		}
		p := c.producer(ProducerConfig{Retries: NoRetries, Interceptors: []SendInterceptor{send("a"), send("b"),
			func(ctx context.Context, _ []*Message) (context.Context, func(*SendResult, error)) { return ctx, nil }}})
		own := map[string]string{"own": "1"}
		one := &Message{Topic: "T", Body: []byte("x"), Properties: own}
		check := func(what, want string) {
			t.Helper()
			if got := j.String(); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
			j.lines = nil
			if len(own) != 1 || one.Properties["trace"] != "" {
				t.Errorf("%s: the caller's properties are %v, %v", what, own, one.Properties)
			}
		}
		mustSend(t, p, one)
		check("Send", "a begins 1, b begins 1, b ends true false, a ends true false")
		if err := p.SendOneway(t.Context(), one); err != nil {
			t.Error(err)
		}
		check("SendOneway", "a begins 1, b begins 1, b ends false false, a ends false false")
		if _, err := p.SendBatch(t.Context(), []*Message{one, {Topic: "T", Body: []byte("y")}, one}); err != nil {
			t.Error(err)
		}
		check("SendBatch", "a begins 3, b begins 3, b ends true false, a ends true false")
		done := make(chan struct{})
		p.SendAsync(t.Context(), one, func(*SendResult, error) { close(done) })
		<-done
		check("SendAsync", "a begins 1, b begins 1, b ends true false, a ends true false")
		if _, err := p.Send(t.Context(), nil); kind(t, err) != ErrNotSent {
			t.Error(err)
		}
		check("nil", "a begins 0, b begins 0, b ends false true, a ends false true")
		c.groups[0].replicas[0].next(remoting.SendMessageV2, answerWith(remoting.MessageIllegal))
		if _, err := p.Send(t.Context(), one); kind(t, err) != ErrRejected {
			t.Error(err)
		}
		check("rejected", "a begins 1, b begins 1, b ends false true, a ends false true")

		var got received
		consume := func(name string) ConsumeInterceptor {
			return func(next Listener) Listener {
				return func(ctx context.Context, msgs []*MessageExt) error {
					outer, _ := ctx.Value(traceKey{}).(string)
					err := next(context.WithValue(ctx, traceKey{}, outer+name), msgs)
					j.add("%s: %v", name, err)
					return err
				}
			}
		}
		c.push(PushConfig{From: FromFirst, Workers: 1, Interceptors: []ConsumeInterceptor{consume("x"), consume("y")}}, "*", func(ctx context.Context, msgs []*MessageExt) error {
			got.listen(ctx, msgs)
			j.add("%v %s", ctx.Value(traceKey{}), msgs[0].Properties["trace"])
			if len(got.msgs) == 1 {
				return errors.New("no")
			}
			return nil
		})
		pass(100 * time.Millisecond)
		if s := j.String(); !strings.HasPrefix(s, "xy ab, y: no, x: no, xy ab, y: <nil>, x: <nil>, ") {
			t.Error(s)
		}
	})
}
