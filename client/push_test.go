package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// journal notes what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

// add notes a line and returns how many there are.
func (j *journal) add(format string, args ...any) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
	return len(j.lines)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, ", ")
}

// received notes what listeners got.
type received struct {
	mu   sync.Mutex
	msgs []*MessageExt
}

func (r *received) listen(_ context.Context, msgs []*MessageExt) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.msgs = append(r.msgs, msgs...)
	return nil
}

// times returns how often each body came.
func (r *received) times() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := map[string]int{}
	for _, m := range r.msgs {
		n[string(m.Body)]++
	}
	return n
}

// push starts a consumer of T in a client of its own.
func (c *cluster) push(cfg PushConfig, expression string, l Listener) *PushConsumer {
	c.t.Helper()
	setDefault(&cfg.Group, "g")
	p, err := c.client(Config{}).NewPushConsumer(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := p.Subscribe("T", expression, l); err != nil {
		c.t.Fatal(err)
	}
	if err := p.Start(context.Background()); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// queue returns the queue of a topic that p holds, if it is one.
func (p *PushConsumer) queue(topic string) *processQueue {
	for _, q := range p.held() {
		if q.mq.Topic == topic {
			return q
		}
	}
	return nil
}

// all checks that bodies "0" to n-1 came, each once.
func (r *received) all(t testing.TB, n int) {
	t.Helper()
	times := r.times()
	for i := range n {
		if times[fmt.Sprint(i)] != 1 {
			t.Errorf("message %d came %d times", i, times[fmt.Sprint(i)])
		}
	}
	if len(times) != n {
		t.Errorf("%d different messages, want %d", len(times), n)
	}
}

func TestPush(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		c.groups[0].fill(mq, 100)
		var r received
		p := c.push(PushConfig{From: FromFirst}, "*", r.listen)
		pass(time.Millisecond)
		r.all(t, 100)
		// What comes now is pushed at once, by the pull that waits for it.
		prod := c.producer(ProducerConfig{})
		begun := time.Now()
		mustSend(t, prod, &Message{Topic: "T", Body: []byte("100")})
		synctest.Wait()
		r.all(t, 101)
		if took := time.Since(begun); took > 0 {
			t.Errorf("it took %v", took)
		}
		if _, ok := c.groups[0].offset("g", mq); ok {
			t.Error("an offset was committed before its time")
		}
		pass(5 * time.Second)
		if o, _ := c.groups[0].offset("g", mq); o != 101 {
			t.Errorf("offset %d was committed, want 101", o)
		}
		mustSend(t, prod, &Message{Topic: "T", Body: []byte("101")})
		synctest.Wait()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if o, _ := c.groups[0].offset("g", mq); o != 102 {
			t.Errorf("Close committed %d, want 102", o)
		}
		// Another one goes on there.
		mustSend(t, prod, &Message{Topic: "T", Body: []byte("102")})
		c.push(PushConfig{From: FromFirst}, "*", r.listen)
		pass(time.Second)
		r.all(t, 103)
	})
}

// TestConsumeFrom: where a group without offsets begins.
func TestConsumeFrom(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		g := c.groups[0]
		g.mu.Lock()
		g.min[mq] = 1000 // what was before is deleted
		g.mu.Unlock()
		g.fill(mq, 10)
		pass(time.Hour)
		middle := time.Now()
		pass(time.Hour)
		g.fill(mq, 10)
		for _, row := range []struct {
			name string
			cfg  PushConfig
			want int64
		}{
			{"last", PushConfig{}, 1020}, {"first", PushConfig{From: FromFirst}, 1000},
			{"time", PushConfig{From: FromTime, FromTime: middle}, 1010}, {"half an hour ago", PushConfig{From: FromTime}, 1010},
		} {
			row.cfg.Group = strings.ReplaceAll(row.name, " ", "-")
			var first atomic.Int64
			first.Store(-1)
			row.cfg.Workers = 1
			p := c.push(row.cfg, "*", func(_ context.Context, msgs []*MessageExt) error {
				if m := msgs[0]; m.Queue.Topic == "T" {
					first.CompareAndSwap(-1, m.QueueOffset)
				}
				return nil
			})
			pass(100 * time.Millisecond)
			if row.name == "last" {
				first.Store(p.queue("T").commitOffset())
			}
			if first.Load() != row.want {
				t.Errorf("%s: begins at %d, want %d", row.name, first.Load(), row.want)
			}
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if o, ok := g.offset(row.cfg.Group, mq); !ok || row.name == "last" && o != 1020 {
				t.Errorf("%s: committed %d, %v", row.name, o, ok)
			}
		}
	})
}

// TestOffsetUnknown: as long as the group's offset cannot be found out the queue is not begun with.
func TestOffsetUnknown(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		c.groups[0].fill(mq, 10)
		c.groups[0].offsets[offsetKey("g", "T", 0)] = 4
		r0 := c.groups[0].replicas[0]
		r0.next(remoting.QueryConsumerOffset, slices.Repeat([]script{answerWith(remoting.SystemError)}, 6)...)
		var r received
		c.push(PushConfig{From: FromFirst}, "*", r.listen)
		pass(time.Minute)
		for i := range 10 {
			want := 0
			if i >= 4 {
				want = 1
			}
			if n := r.times()[fmt.Sprint(i)]; n != want {
				t.Errorf("message %d came %d times, want %d", i, n, want)
			}
		}
	})
}

// TestTags: brokers select by hash, so what they send is looked at again, and offsets pass over what is not wanted.
func TestTags(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{})
		if remoting.TagHash("AaAa") != remoting.TagHash("BBBB") {
			t.Fatal("these were to have one hash")
		}
		for _, tag := range []string{"AaAa", "BBBB", "C", "", "aaaa", "BBBB"} {
			mustSend(t, p, &Message{Topic: "T", Tags: tag, Body: []byte(tag)})
		}
		var r received
		push := c.push(PushConfig{From: FromFirst}, " AaAa ||C|| ", r.listen)
		pass(time.Second)
		if got := r.times(); fmt.Sprint(got) != "map[AaAa:1 C:1]" {
			t.Errorf("got %v", got)
		}
		if err := push.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if o, _ := c.groups[0].offset("g", MessageQueue{Topic: "T"}); o != 6 {
			t.Errorf("committed %d, want 6", o)
		}
	})
	for _, e := range []string{"||", " || "} {
		if _, err := parseSubscription("T", e); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", e, err)
		}
	}
	if s, err := parseSubscription("T", "b||a||b"); err != nil || s.expression != "a || b" {
		t.Errorf("%+v, %v", s, err)
	}
}

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

// TestListenerFails: errors and panics send a message back; it comes again with its own topic, and becomes a dead letter in the end.
func TestListenerFails(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{})
		id := mustSend(t, p, &Message{Topic: "T", Tags: "A", Body: []byte("bad"), Keys: []string{"k"}}).MsgID
		mustSend(t, p, &Message{Topic: "T", Tags: "A", Body: []byte("good")})
		var seen journal
		var r received
		push := c.push(PushConfig{From: FromFirst, MaxReconsumeTimes: 3}, "A", func(ctx context.Context, msgs []*MessageExt) error {
			m := msgs[0]
			if string(m.Body) == "good" {
				return r.listen(ctx, msgs)
			}
			if m.Topic != "T" || m.MsgID != id || m.Tags != "A" || fmt.Sprint(m.Keys) != "[k]" || len(m.Properties) != 0 {
				t.Errorf("got %+v", m)
			}
			seen.add("%d", m.ReconsumeTimes)
			if m.ReconsumeTimes == 1 {
				panic("listener")
			}
			return errors.New("listener")
		})
		pass(3 * time.Second) // for the retry topic to be found
		if got := seen.String(); got != "0, 1, 2, 3" {
			t.Errorf("reconsumeTimes seen: %v", got)
		}
		if n := r.times()["good"]; n != 1 {
			t.Errorf("the good one came %d times", n)
		}
		if n := len(c.groups[0].records(MessageQueue{Topic: remoting.DLQTopic("g"), BrokerName: "broker-a"})); n != 1 {
			t.Errorf("%d dead letters", n)
		}
		if err := push.Close(t.Context()); err != nil {
			t.Error(err)
		}
		for _, topic := range []string{"T", remoting.RetryTopic("g")} {
			want := map[string]int64{"T": 2, remoting.RetryTopic("g"): 3}[topic]
			if o, _ := c.groups[0].offset("g", MessageQueue{Topic: topic}); o != want {
				t.Errorf("%s: committed %d, want %d", topic, o, want)
			}
		}
	})
}

// TestSendBackFallback: if the broker does not take a message back, a copy is produced; if that fails too the listener gets it again, and
// its offset is not committed meanwhile.
func TestSendBackFallback(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{})
		id := mustSend(t, p, &Message{Topic: "T", Body: []byte("x"), Tags: "A", Properties: map[string]string{"p": "v"}}).MsgID
		r := c.groups[0].replicas[0]
		r.next(remoting.ConsumerSendMsgBack, answerWith(remoting.SystemError), answerWith(remoting.SystemError))
		r.next(remoting.SendMessageV2, answerWith(remoting.MessageIllegal))
		var seen journal
		c.push(PushConfig{From: FromFirst, RedoDelay: 7 * time.Second}, "*", func(_ context.Context, msgs []*MessageExt) error {
			m := msgs[0]
			if seen.add("%s %d %v", m.Queue.Topic, m.ReconsumeTimes, m.MsgID == id && m.Topic == "T" && m.Tags == "A" && m.Properties["p"] == "v") == 3 {
				return nil
			}
			return errors.New("listener")
		})
		pass(4 * time.Second)
		if got := seen.String(); got != "T 0 true" {
			t.Errorf("seen: %s", got)
		}
		pass(2 * time.Second)
		if o, _ := c.groups[0].offset("g", MessageQueue{Topic: "T"}); o != 0 {
			t.Errorf("committed %d before it was given back", o)
		}
		pass(5 * time.Second)
		if got := seen.String(); got != "T 0 true, T 1 true, %RETRY%g 2 true" {
			t.Errorf("seen: %s", got)
		}
		if o, _ := c.groups[0].offset("g", MessageQueue{Topic: "T"}); o != 1 {
			t.Errorf("committed %d", o)
		}
	})
}

// TestOverdue: a listener that takes too long does not hold up its queue for ever.
func TestOverdue(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		c.groups[0].fill(MessageQueue{Topic: "T", BrokerName: "broker-a"}, 3)
		var calls atomic.Int32
		p := c.push(PushConfig{From: FromFirst, ConsumeTimeout: time.Minute}, "*", func(ctx context.Context, msgs []*MessageExt) error {
			if calls.Add(1); string(msgs[0].Body) == "0" && msgs[0].ReconsumeTimes == 0 {
				<-ctx.Done()
				time.Sleep(10 * time.Second) // and does not look at once
			}
			return nil
		})
		pass(2 * time.Minute)
		if n := calls.Load(); n != 4 {
			t.Errorf("%d calls", n)
		}
		if n := c.groups[0].replicas[0].requests(remoting.ConsumerSendMsgBack); n != 1 {
			t.Errorf("sent back %d times", n)
		}
		if o, r := p.queue("T").commitOffset(), p.queue(remoting.RetryTopic("g")).commitOffset(); o != 3 || r != 1 {
			t.Errorf("offsets %d and %d, want 3 and 1", o, r)
		}
	})
}

// TestUndecodable: a message that cannot be decompressed does not reach the listener as it is, and is not lost.
func TestUndecodable(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		g.mu.Lock()
		g.put(&remoting.SendHeader{Topic: "T", SysFlag: remoting.SysFlagCompressed | 0x200}, []byte("zstd"), nil, 0)
		g.mu.Unlock()
		var r received
		c.push(PushConfig{From: FromFirst, MaxReconsumeTimes: NoRetries}, "*", r.listen)
		pass(time.Second)
		dead := g.records(MessageQueue{Topic: remoting.DLQTopic("g"), BrokerName: "broker-a"})
		if len(r.times()) != 0 || len(dead) != 1 || string(dead[0].Body()) != "zstd" || dead[0].SysFlag()&remoting.SysFlagCompressionType != 0x200 {
			t.Errorf("listener got %v; %d dead letters", r.times(), len(dead))
		}
	})
}

// TestOffsetMoved: when the leader says that an offset is outside of the queue the consumer goes where it says; a follower is not believed.
func TestOffsetMoved(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		g := c.groups[0]
		g.mu.Lock()
		g.min[mq] = 50
		g.offsets[offsetKey("g", "T", 0)] = 7
		g.mu.Unlock()
		g.fill(mq, 10)
		// The first pulls go to a follower, which is behind.
		moved := script{answer: &remoting.Command{Code: remoting.PullOffsetMoved, Header: &remoting.PullResponse{NextBeginOffset: 3, MaxOffset: 3}}}
		g.replicas[1].next(remoting.PullMessage, moved, moved)
		g.replicas[0].next(remoting.PullMessage, script{dropBefore: true})
		var r received
		p := c.push(PushConfig{}, "*", r.listen)
		pass(10 * time.Second)
		r.all(t, 10)
		if o, _ := g.offset("g", mq); o != 60 {
			t.Errorf("committed %d", o)
		}
		for _, commit := range g.commits {
			if commit.queue == mq && commit.offset < 50 {
				t.Errorf("committed %d, as the follower said", commit.offset)
			}
		}
		if q := p.Queues(); len(q) != 2 {
			t.Errorf("queues %v", q)
		}
	})
}

// TestSuggestedBroker: pulls go to the broker id that was suggested, and to another when that is gone.
func TestSuggestedBroker(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		g := c.groups[0]
		g.fill(mq, 1)
		g.replicas[0].next(remoting.PullMessage, script{answer: &remoting.Command{Code: remoting.PullRetryImmediately,
			Header: &remoting.PullResponse{SuggestBrokerID: 2}}})
		cl := c.client(Config{})
		p, err := cl.NewPullConsumer(PullConfig{Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		if res, err := p.Pull(t.Context(), PullRequest{Queue: mq}); err != nil || res.Status != PullNoMatch || res.NextOffset != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
		pulls := func() string {
			s := ""
			for _, r := range g.replicas {
				s += strconv.Itoa(r.requests(remoting.PullMessage))
			}
			return s
		}
		for i, want := range []string{"101", "201"} {
			// The second answer comes from replica 2 and suggests the leader again.
			if res, err := p.Pull(t.Context(), PullRequest{Queue: mq}); err != nil || len(res.Messages) != 1 {
				t.Fatalf("%+v, %v", res, err)
			}
			if got := pulls(); got != want {
				t.Errorf("pull %d: %s, want %s", i, got, want)
			}
		}
		// Without a leader any replica does.
		g.replicas[0].stop()
		synctest.Wait()
		if res, err := p.Pull(t.Context(), PullRequest{Queue: mq}); err != nil || len(res.Messages) != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
	})
}

// TestBrokerCrash: brokers crash and come back under a consumer, leaders move, and no message is skipped.
func TestBrokerCrash(t *testing.T) {
	bubble(t, 2, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		rng := seeded(t)
		for _, g := range c.groups {
			for _, r := range g.replicas {
				r.hint = true
			}
		}
		prod := c.producer(ProducerConfig{Timeout: 30 * time.Second})
		var r received
		var push *PushConsumer
		start := func() {
			push = c.push(PushConfig{From: FromFirst, CommitInterval: time.Second}, "*", func(ctx context.Context, msgs []*MessageExt) error {
				time.Sleep(time.Duration(len(msgs[0].Body)) * 10 * time.Millisecond) // fake time
				return r.listen(ctx, msgs)
			})
		}
		start()
		const n = 600
		down := map[*fakeReplica]bool{}
		for i := range n {
			if i%20 == 10 {
				g := c.groups[rng.IntN(2)]
				for d := range down {
					d.start()
				}
				clear(down)
				leader := rng.IntN(3)
				g.elect(leader, rng.IntN(2) == 0)
				victim := g.replicas[(leader+1)%3]
				victim.stop()
				down[victim] = true
			}
			if i%150 == 140 { // the consumer itself is gone and another one takes over
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				if err := push.Close(ctx); err != nil {
					t.Error(err)
				}
				cancel()
				start()
			}
			mustSend(t, prod, &Message{Topic: "T", Body: fmt.Append(nil, i)})
			time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		}
		pass(30 * time.Second)
		times := r.times()
		for i := range n {
			if times[fmt.Sprint(i)] == 0 {
				t.Errorf("message %d was skipped", i)
			}
		}
		again := 0
		for _, k := range times {
			again += k - 1
		}
		t.Logf("%d of %d came more than once", again, n)
	})
}

// TestAllocateAverage compares with RocketMQ's formula.
func TestAllocateAverage(t *testing.T) {
	for q := range 40 {
		var queues []MessageQueue
		for i := range q {
			queues = append(queues, MessageQueue{Topic: "T", BrokerName: "b", QueueID: int32(i)})
		}
		for c := 1; c < 12; c++ {
			var clients []string
			for i := range c {
				clients = append(clients, fmt.Sprintf("c%02d", i))
			}
			for i, self := range clients {
				m := q % c
				n := q / c
				if q <= c {
					n = 1
				} else if m > 0 && i < m {
					n++
				}
				from := i*n + m
				if m > 0 && i < m {
					from = i * n
				}
				var want []MessageQueue
				if k := min(n, q-from); k > 0 {
					want = queues[from : from+k]
				}
				if got := AllocateAverage(self, queues, clients); !slices.Equal(got, want) {
					t.Errorf("%d queues, client %d of %d: %v, want %v", q, i, c, got, want)
				}
			}
			if got := AllocateAverage("stranger", queues, clients); len(got) != 0 {
				t.Errorf("a client that is not in the list gets %v", got)
			}
		}
	}
}

// TestRebalance: 1 to 5 consumers come and go, and have the shares of the formula (REBAL-01: 8 queues; REBAL-02: 4).
func TestRebalance(t *testing.T) {
	for _, queues := range []int{8, 4} {
		t.Run(fmt.Sprintf("queues=%d", queues), func(t *testing.T) {
			bubble(t, 1, 3, func(t *testing.T, c *cluster) {
				c.topic("T", queues)
				var list []*PushConsumer
				var r received
				check := func() {
					t.Helper()
					pass(100 * time.Millisecond)
					ids := []string{}
					for _, p := range list {
						ids = append(ids, p.c.ID())
					}
					slices.Sort(ids)
					var all []MessageQueue
					for i := range queues {
						all = append(all, MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: int32(i)})
					}
					for _, p := range list {
						got := slices.DeleteFunc(p.Queues(), func(q MessageQueue) bool { return q.Topic != "T" })
						if want := AllocateAverage(p.c.ID(), all, ids); !slices.Equal(got, want) {
							t.Errorf("%d consumers, %s: %v, want %v", len(list), p.c.ID(), got, want)
						}
					}
				}
				for range 5 {
					list = append(list, c.push(PushConfig{}, "*", r.listen))
					check()
				}
				// One leaves, one crashes: the others share what it had at once.
				if err := list[2].Close(t.Context()); err != nil {
					t.Error(err)
				}
				list = slices.Delete(list, 2, 3)
				check()
				crashed := list[0]
				list = list[1:]
				for _, p := range crashed.c.peers {
					if conn := p.conn.Load(); conn != nil {
						c.net.(*pipes).hole(p.addr, true)
						conn.Fail(errors.New("crash"))
					}
				}
				check()
				for addr := range c.net.(*pipes).holes {
					c.net.(*pipes).hole(addr, false)
				}
				pass(30 * time.Second)
			})
		})
	}
}

// TestRebalanceUnderLoad: consumers come and go while messages flow; none is lost.
func TestRebalanceUnderLoad(t *testing.T) {
	bubble(t, 2, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 4)
		rng := seeded(t)
		prod := c.producer(ProducerConfig{})
		var r received
		var list []*PushConsumer
		const n = 400
		for i := range n {
			if i%25 == 0 {
				if len(list) > 0 && (len(list) == 4 || rng.IntN(2) == 0) {
					if err := list[0].Close(t.Context()); err != nil {
						t.Error(err)
					}
					list = list[1:]
				} else {
					list = append(list, c.push(PushConfig{From: FromFirst}, "*", r.listen))
				}
			}
			mustSend(t, prod, &Message{Topic: "T", Body: fmt.Append(nil, i)})
			pass(time.Duration(rng.IntN(50)) * time.Millisecond)
		}
		if len(list) == 0 {
			c.push(PushConfig{From: FromFirst}, "*", r.listen)
		}
		pass(time.Minute)
		times := r.times()
		for i := range n {
			if times[fmt.Sprint(i)] == 0 {
				t.Errorf("message %d was lost", i)
			}
		}
	})
}

// TestClientListErrors: without an answer the queues are kept; a broker that has forgotten the client is told; a list without the client
// means no queues.
func TestClientListErrors(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		var r received
		p := c.push(PushConfig{}, "*", r.listen)
		pass(2 * time.Second)
		r0 := c.groups[0].replicas[0]
		if n := len(p.Queues()); n != 3 {
			t.Fatalf("%d queues", n)
		}
		r0.next(remoting.GetConsumerListByGroup, slices.Repeat([]script{answerWith(remoting.SystemError)}, 4)...)
		p.rebalanceNow()
		synctest.Wait()
		if n := len(p.Queues()); n != 3 {
			t.Errorf("%d queues after errors", n)
		}
		c.groups[0].mu.Lock()
		r0.clients = map[string]map[string]*remoting.Conn{}
		beats := len(r0.beats)
		c.groups[0].mu.Unlock()
		pass(2 * time.Second)
		p.rebalanceNow()
		synctest.Wait()
		if n := len(p.Queues()); n != 3 || len(r0.beats) == beats {
			t.Errorf("%d queues after the broker has forgotten us, %d heartbeats", n, len(r0.beats)-beats)
		}
		others := remoting.ConsumerList{"somebody", "else"}
		r0.next(remoting.GetConsumerListByGroup, slices.Repeat([]script{{answer: &remoting.Command{Body: others.AppendBody(nil)}}}, 4)...)
		p.rebalanceNow()
		synctest.Wait()
		if n := len(p.Queues()); n != 0 {
			t.Errorf("%d queues, though the list does not have us", n)
		}
		pass(30 * time.Second)
		if n := len(p.Queues()); n != 3 {
			t.Errorf("%d queues in the end", n)
		}
	})
}

// TestSubscriptions: subscriptions come and go while the consumer runs, and brokers hear of them at once.
func TestSubscriptions(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		c.topic("U", 1)
		var r, u received
		p := c.push(PushConfig{From: FromFirst}, "*", r.listen)
		prod := c.producer(ProducerConfig{})
		mustSend(t, prod, &Message{Topic: "U", Body: []byte("0")})
		pass(time.Second)
		if err := p.Subscribe("U", "*", u.listen); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		u.all(t, 1)
		r0 := c.groups[0].replicas[0]
		last := func() string {
			c.groups[0].mu.Lock()
			defer c.groups[0].mu.Unlock()
			var topics []string
			for _, s := range r0.beats[len(r0.beats)-1].Consumers[0].Subscriptions {
				topics = append(topics, s.Topic)
			}
			return strings.Join(topics, " ")
		}
		if got := last(); got != "%RETRY%g T U" {
			t.Errorf("heartbeat tells of %s", got)
		}
		p.Unsubscribe("U")
		synctest.Wait()
		if got := last(); got != "%RETRY%g T" {
			t.Errorf("heartbeat tells of %s", got)
		}
		if o, _ := c.groups[0].offset("g", MessageQueue{Topic: "U"}); o != 1 {
			t.Errorf("committed %d when the queue was released", o)
		}
		mustSend(t, prod, &Message{Topic: "U", Body: []byte("1")})
		pass(time.Second)
		u.all(t, 1)
		p.Unsubscribe("T")
		if err := p.Subscribe("T", "*", r.listen); err != nil {
			t.Fatal(err)
		}
		if err := p.Subscribe("U", "*", u.listen); err != nil {
			t.Fatal(err)
		}
		mustSend(t, prod, &Message{Topic: "T", Body: []byte("0")})
		pass(2 * time.Second)
		u.all(t, 2)
		r.all(t, 1)
		// A topic that comes to be later.
		var v received
		if err := p.Subscribe("V", "*", v.listen); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		c.topic("V", 1)
		mustSend(t, prod, &Message{Topic: "V", Body: []byte("0")})
		pass(31 * time.Second)
		v.all(t, 1)
	})
}

func TestPushClose(t *testing.T) {
	t.Run("waits", func(t *testing.T) {
		bubble(t, 1, 1, func(t *testing.T, c *cluster) {
			c.topic("T", 1)
			c.groups[0].fill(MessageQueue{Topic: "T", BrokerName: "broker-a"}, 10)
			p := c.push(PushConfig{From: FromFirst, Workers: 2}, "*", func(ctx context.Context, _ []*MessageExt) error {
				time.Sleep(time.Second) // fake time
				return ctx.Err()
			})
			pass(100 * time.Millisecond)
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if o, _ := c.groups[0].offset("g", MessageQueue{Topic: "T"}); o != 2 {
				t.Errorf("committed %d, want the two that were running", o)
			}
			if n := len(c.groups[0].replicas[0].clients["g"]); n != 0 {
				t.Error("still registered")
			}
			if err := p.Close(t.Context()); err != nil {
				t.Error("again:", err)
			}
		})
	})
	t.Run("cancels", func(t *testing.T) {
		bubble(t, 1, 1, func(t *testing.T, c *cluster) {
			c.topic("T", 1)
			c.groups[0].fill(MessageQueue{Topic: "T", BrokerName: "broker-a"}, 10)
			p := c.push(PushConfig{From: FromFirst, Workers: 2}, "*", func(ctx context.Context, _ []*MessageExt) error {
				<-ctx.Done()
				return ctx.Err()
			})
			pass(100 * time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			if err := p.Close(ctx); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took != time.Second {
				t.Errorf("took %v", took)
			}
			if o, _ := c.groups[0].offset("g", MessageQueue{Topic: "T"}); o != 0 {
				t.Errorf("committed %d", o)
			}
		})
	})
	t.Run("gives up", func(t *testing.T) {
		bubble(t, 1, 1, func(t *testing.T, c *cluster) {
			c.topic("T", 1)
			c.groups[0].fill(MessageQueue{Topic: "T", BrokerName: "broker-a"}, 10)
			stuck := make(chan struct{})
			p := c.push(PushConfig{From: FromFirst}, "*", func(_ context.Context, msgs []*MessageExt) error {
				if msgs[0].QueueOffset == 5 {
					<-stuck
				}
				return nil
			})
			pass(100 * time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if o, _ := c.groups[0].offset("g", MessageQueue{Topic: "T"}); o != 5 {
				t.Errorf("committed %d", o)
			}
			close(stuck)
		})
	})
	t.Run("new", func(t *testing.T) {
		bubble(t, 1, 1, func(t *testing.T, c *cluster) {
			p, err := c.client(Config{}).NewPushConsumer(PushConfig{Group: "g"})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Start(t.Context()); !errors.Is(err, ErrConfig) {
				t.Error("started without a subscription:", err)
			}
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if err := p.Start(t.Context()); !errors.Is(err, ErrClosed) {
				t.Error("started after Close:", err)
			}
		})
	})
}

// TestConsumeBatch: listeners get as many messages of one topic as they may.
func TestConsumeBatch(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		c.groups[0].fill(MessageQueue{Topic: "T", BrokerName: "broker-a"}, 64)
		var r received
		var most atomic.Int64
		c.push(PushConfig{From: FromFirst, ConsumeBatch: 10, Workers: 1}, "*", func(ctx context.Context, msgs []*MessageExt) error {
			most.Store(max(most.Load(), int64(len(msgs))))
			return r.listen(ctx, msgs)
		})
		pass(time.Second)
		r.all(t, 64)
		if most.Load() != 10 {
			t.Errorf("the largest batch had %d messages", most.Load())
		}
	})
}
