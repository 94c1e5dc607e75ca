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
func (c *cluster) push(cfg PushConfig, selector Selector, l Listener) *PushConsumer {
	c.t.Helper()
	setDefault(&cfg.Group, "g")
	p, err := c.client(Config{}).NewPushConsumer(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := p.Subscribe("T", selector, l); err != nil {
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

// TestFILT02ExactTags: brokers select by hash, so what they send is looked at again, and offsets pass over what is not wanted.
func TestFILT02ExactTags(t *testing.T) {
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
	for _, e := range []Selector{"||", " || ", ByTag("||"), BySQL(" ")} {
		if _, err := parseSubscription("T", e); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", e, err)
		}
	}
	if s, err := parseSubscription("T", "b||a||b"); err != nil || s.expression != "a || b" {
		t.Errorf("%+v, %v", s, err)
	}
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
