package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// orders checks what ordered listeners of all clients of a group get: of a queue one message at a time, and none before the one below it
// was consumed.
type orders struct {
	t  testing.TB
	mu sync.Mutex
	// by queue
	running map[MessageQueue]string
	next    map[MessageQueue]int64 // all below were consumed
	times   map[MessageQueue]int   // how many were consumed, repeats too
}

func newOrders(t testing.TB) *orders {
	return &orders{t: t, running: map[MessageQueue]string{}, next: map[MessageQueue]int64{}, times: map[MessageQueue]int{}}
}

// listener returns the listener of a client, which takes that long for a message.
func (o *orders) listener(client string, d time.Duration) Listener {
	return func(ctx context.Context, msgs []*MessageExt) error {
		mq := msgs[0].Queue
		o.mu.Lock()
		if other, ok := o.running[mq]; ok {
			o.t.Errorf("%s gets %d of queue %v while %s has it", client, msgs[0].QueueOffset, mq, other)
		}
		o.running[mq] = client
		for i, m := range msgs {
			if m.QueueOffset > o.next[mq]+int64(i) {
				o.t.Errorf("%s gets %d of queue %v, but only those below %d were consumed", client, m.QueueOffset, mq, o.next[mq])
			}
		}
		o.mu.Unlock()
		err := pause(ctx, d)
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.running, mq)
		if err == nil {
			o.next[mq] = max(o.next[mq], msgs[len(msgs)-1].QueueOffset+1)
			o.times[mq] += len(msgs)
		}
		return err
	}
}

func queueOf(id int) MessageQueue {
	return MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: int32(id)}
}

// locker returns who has locked queue 0 of T for g.
func (g *fakeGroup) locker() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.locks[offsetKey("g", "T", 0)].client
}

func TestORDER01OneAtATimeInOrder(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 3)
		for q := range 3 {
			c.groups[0].fill(queueOf(q), 100)
		}
		o := newOrders(t)
		begun := time.Now()
		c.push(PushConfig{Ordered: true, From: FromFirst, ConsumeBatch: 2}, "*", o.listener("one", 10*time.Millisecond))
		until(t, "all is consumed", func() bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.next[queueOf(0)] == 100 && o.next[queueOf(1)] == 100 && o.next[queueOf(2)] == 100
		})
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it took %v: the queues wait for each other", took)
		}
		if o.times[queueOf(0)] != 100 {
			t.Errorf("%d messages of 100 were consumed", o.times[queueOf(0)])
		}
	})
}

func TestORDER03RenewalKeepsTheLock(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		o := newOrders(t)
		// The one that the queue is not allocated to wants it all the same.
		first := func(_ string, queues []MessageQueue, _ []string) []MessageQueue { return queues }
		one := c.push(PushConfig{Ordered: true, Allocate: first}, "*", o.listener("one", time.Millisecond))
		pass(time.Second)
		two := c.push(PushConfig{Ordered: true, Allocate: first}, "*", o.listener("two", time.Millisecond))
		renewals := g.replicas[0].requests(remoting.LockBatchMQ)
		for range 60 {
			pass(10 * time.Second)
			if q := two.queue("T"); q != nil || g.locker() != one.c.ID() {
				t.Fatalf("a second client has %v", q)
			}
		}
		if n := g.replicas[0].requests(remoting.LockBatchMQ) - renewals; n < 30 {
			t.Errorf("%d lock requests in 10 min", n)
		}
		begun := time.Now()
		if err := one.Close(t.Context()); err != nil {
			t.Error(err)
		}
		until(t, "the second client has the queue", func() bool { return two.queue("T") != nil })
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("what Close has unlocked was taken after %v", took)
		}
	})
}

func TestORDER04FailureHoldsUpTheQueue(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		c.groups[0].fill(queueOf(0), 3)
		c.groups[0].fill(queueOf(1), 1)
		var j journal
		begun := time.Now()
		p := c.push(PushConfig{Ordered: true, From: FromFirst}, "*", func(_ context.Context, msgs []*MessageExt) error {
			m := msgs[0]
			j.add("%d/%d@%v+%d", m.Queue.QueueID, m.QueueOffset, time.Since(begun).Round(100*time.Millisecond), m.ReconsumeTimes)
			if m.Queue.QueueID == 0 && m.QueueOffset == 1 && m.ReconsumeTimes < 2 {
				return errors.New("not yet")
			}
			return nil
		})
		pass(10 * time.Second)
		var zero []string
		for _, l := range j.lines {
			if l[0] == '0' {
				zero = append(zero, l)
			}
		}
		if want := []string{"0/0@0s+0", "0/1@0s+0", "0/1@1s+1", "0/1@2s+2", "0/2@2s+0"}; !slices.Equal(zero, want) {
			t.Errorf("queue 0 was consumed as %v, want %v", zero, want)
		}
		if len(j.lines) != len(zero)+1 {
			t.Errorf("the other queue: %v", &j)
		}
		if n := c.groups[0].replicas[0].requests(remoting.ConsumerSendMsgBack); n != 0 {
			t.Errorf("%d messages were sent back", n)
		}
		if o, _ := c.groups[0].offset("g", queueOf(0)); o != 3 {
			t.Errorf("committed %d", o)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestORDER05LimitThenDeadLetter(t *testing.T) {
	for limit, deliveries := range map[int]int{NoRetries: 1, 2: 3} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			bubble(t, 1, 1, func(t *testing.T, c *cluster) {
				c.topic("T", 1)
				g := c.groups[0]
				g.fill(queueOf(0), 3)
				var j journal
				// The first attempts to be rid of it fail: it comes again until one does not.
				fail := script{answer: &remoting.Command{Code: remoting.SystemError, Remark: "script"}}
				g.replicas[0].next(remoting.ConsumerSendMsgBack, fail)
				g.replicas[0].next(remoting.SendMessageV2, script{answer: &remoting.Command{Code: remoting.MessageIllegal, Remark: "script"}})
				c.push(PushConfig{Ordered: true, From: FromFirst, MaxReconsumeTimes: limit}, "*", func(_ context.Context, msgs []*MessageExt) error {
					j.add("%d", msgs[0].QueueOffset)
					if msgs[0].QueueOffset == 1 {
						return errors.New("never")
					}
					return nil
				})
				pass(20 * time.Second)
				want := append(append([]string{"0"}, slices.Repeat([]string{"1"}, deliveries+1)...), "2")
				if !slices.Equal(j.lines, want) {
					t.Errorf("consumed %v, want %v", &j, want)
				}
				dead := g.records(MessageQueue{Topic: remoting.DLQTopic("g"), BrokerName: "broker-a"})
				if len(dead) != 1 || string(dead[0].Body()) != "1" {
					t.Errorf("%d dead letters", len(dead))
				}
				if o, _ := g.offset("g", queueOf(0)); o != 3 {
					t.Errorf("committed %d", o)
				}
			})
		})
	}
}

func TestORDER06RebalanceKeepsTheOrder(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		const queues, messages = 6, 400
		c.topic("T", queues)
		for q := range queues {
			c.groups[0].fill(queueOf(q), messages)
		}
		rng := seeded(t)
		o := newOrders(t)
		members := map[int]*PushConsumer{}
		for i := range 40 {
			switch {
			case len(members) < 2 || len(members) < 5 && rng.IntN(2) == 0:
				members[i] = c.push(PushConfig{Ordered: true, From: FromFirst}, "*", o.listener(fmt.Sprint(i), time.Duration(rng.IntN(300))*time.Millisecond))
			default:
				for k, p := range members {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(400))*time.Millisecond)
					if err := p.Close(ctx); err != nil {
						t.Error(err)
					}
					cancel()
					delete(members, k)
					break
				}
			}
			if rng.IntN(4) == 0 {
				c.groups[0].elect(rng.IntN(3), true)
			}
			pass(time.Duration(rng.IntN(4000)) * time.Millisecond)
		}
		left := func() (n int64) {
			o.mu.Lock()
			defer o.mu.Unlock()
			for q := range queues {
				n += messages - o.next[queueOf(q)]
			}
			return n
		}
		for i := 0; left() > 0; i++ {
			if pass(time.Second); i > 300 {
				t.Fatalf("%d messages are not consumed after 5 min", left())
			}
		}
	})
}

// A client whose locks are not renewed gives up its queues, and its listeners see it, long before another one can have them.
func TestORDER02And07LockThatIsNotRenewed(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		g.fill(queueOf(0), 10)
		want := func(_ string, queues []MessageQueue, _ []string) []MessageQueue { return queues }
		ended, taken := make(chan time.Time, 100), make(chan time.Time, 100)
		one := c.push(PushConfig{Ordered: true, From: FromFirst, Allocate: want}, "*", func(ctx context.Context, _ []*MessageExt) error {
			<-ctx.Done()
			ended <- time.Now()
			return ctx.Err()
		})
		pass(time.Second)
		c.push(PushConfig{Ordered: true, From: FromFirst, Allocate: want}, "*", func(context.Context, []*MessageExt) error {
			taken <- time.Now()
			return nil
		})
		pass(50 * time.Second)
		if len(ended) > 0 || len(taken) > 0 {
			t.Fatal("the lock was not kept")
		}
		g.mu.Lock()
		renewed := g.locks[offsetKey("g", "T", 0)].at
		g.replicas[0].always = func(req *remoting.Command) *script {
			var r remoting.LockRequest
			if req.Code == remoting.LockBatchMQ && r.DecodeBody(req.Body) == nil && r.ClientID == one.c.ID() || req.Code == remoting.UnlockBatchMQ {
				return &script{deaf: true}
			}
			return nil
		}
		g.mu.Unlock()
		pass(2 * time.Minute)
		if len(ended) == 0 || len(taken) == 0 {
			t.Fatalf("the listener's context ended %d times, and the other client got %d messages", len(ended), len(taken))
		}
		if d := (<-ended).Sub(renewed); d != lockTrust {
			t.Errorf("the listener's context ended %v after the last renewal, want %v", d, lockTrust)
		}
		if d := (<-taken).Sub(renewed); d < fakeLockTime || d > fakeLockTime+5*time.Second {
			t.Errorf("the other client began %v after the last renewal, want %v", d, fakeLockTime)
		}
		if q := one.queue("T"); q != nil {
			t.Error("the first client has the queue still")
		}
	})
}

// A leader that is away for a while, but not for too long, costs no lock: the next one has it.
func TestORDER07LeaderChangeKeepsTheLock(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		g.fill(queueOf(0), 100)
		o := newOrders(t)
		p := c.push(PushConfig{Ordered: true, From: FromFirst}, "*", o.listener("one", time.Second))
		pass(19 * time.Second)
		q := p.queue("T")
		for leader := range 3 {
			g.elect(-1, false)
			pass(6 * time.Second) // over the time of a renewal
			g.elect(leader, true)
			pass(14 * time.Second)
		}
		if p.queue("T") != q {
			t.Error("the queue was given up")
		}
	})
}

func TestResetWhileAListenerRuns(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		c.groups[0].fill(queueOf(0), 10)
		var j journal
		var mu sync.Mutex
		running := 0
		p := c.push(PushConfig{Ordered: true, From: FromFirst}, "*", func(ctx context.Context, msgs []*MessageExt) error {
			mu.Lock()
			if running++; running > 1 {
				t.Error("two listeners at once")
			}
			mu.Unlock()
			err := pause(ctx, 3*time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			j.add("%d", msgs[0].QueueOffset)
			return err
		})
		pass(4 * time.Second)
		p.restart(p.queue("T"), 7)
		pass(20 * time.Second)
		if want := []string{"0", "1", "7", "8", "9"}; !slices.Equal(j.lines, want) {
			t.Errorf("consumed %v, want %v", &j, want)
		}
	})
}

// A key stays with its queue while the broker that has it is away, and its sends fail: of a topic that name servers know as ordered also when
// they know the broker no more.
func TestORDER06KeyStaysWithItsQueue(t *testing.T) {
	bubble(t, 2, 1, func(t *testing.T, c *cluster) {
		for _, name := range []string{"T", "Ordered"} {
			c.topic(name, 2)
		}
		put := func(only string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.topics["Ordered"] = fakeTopic{queues: 2, perm: remoting.PermRead | remoting.PermWrite, only: only, order: "broker-a:2;broker-b:2"}
		}
		put("")
		p := c.producer(ProducerConfig{})
		keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		where := map[string]MessageQueue{}
		for _, topic := range []string{"T", "Ordered"} {
			for _, key := range keys {
				where[topic+key] = mustSend(t, p, &Message{Topic: topic, ShardingKey: key, Body: []byte(key)}).Queue
			}
		}
		c.groups[1].elect(-1, false)
		put("broker-a")
		pass(time.Minute) // routes are asked for anew
		failed := 0
		for _, topic := range []string{"T", "Ordered"} {
			for _, key := range keys {
				res, err := p.Send(t.Context(), &Message{Topic: topic, ShardingKey: key, Body: []byte(key)})
				switch away := where[topic+key].BrokerName == "broker-b"; {
				case away && (err == nil || errors.Is(err, ErrLimbo)):
					t.Errorf("%s of %s, whose broker is away: %v, %v", key, topic, res, err)
				case away:
					failed++
				case err != nil || res.Queue != where[topic+key]:
					t.Errorf("%s of %s went to %v before, now %v, %v", key, topic, where[topic+key], res, err)
				}
			}
		}
		// One that has never heard of the broker's addresses knows as much.
		if res, err := c.producer(ProducerConfig{}).Send(t.Context(), &Message{Topic: "Ordered", ShardingKey: "b"}); !errors.Is(err, ErrNotSent) {
			t.Errorf("a new producer: %v, %v", res, err)
		}
		if failed != len(keys) {
			t.Errorf("%d sends failed, want %d", failed, len(keys))
		}
		put("")
		c.groups[1].elect(0, true)
		pass(time.Minute)
		for name, mq := range where {
			topic, key := name[:len(name)-1], name[len(name)-1:]
			if got := mustSend(t, p, &Message{Topic: topic, ShardingKey: key, Body: []byte(key)}).Queue; got != mq {
				t.Errorf("%s went to %v before, now to %v", name, mq, got)
			}
		}
	})
}

func TestOrderedQueues(t *testing.T) {
	for conf, want := range map[string]int{"": 0, "a:2;b:3": 5, "a:2;": 2, "a:0": 0, "a": -1, ":3": -1, "a:-1": -1, "a:x": -1, "a:60000;b:60000": -1} {
		got, err := orderedQueues(conf, "T")
		if (err != nil) != (want < 0) || len(got) != max(want, 0) {
			t.Errorf("%q: %d queues, %v", conf, len(got), err)
		}
	}
}

func TestBroadcastingInOrder(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		c.groups[0].fill(queueOf(0), 20)
		for range 2 {
			o := newOrders(t)
			fails := 0
			listen := o.listener("one", time.Millisecond)
			c.push(PushConfig{Ordered: true, Broadcasting: true, OffsetFile: t.TempDir() + "/offsets.json", From: FromFirst, MaxReconsumeTimes: 1}, "*",
				func(ctx context.Context, msgs []*MessageExt) error {
					if msgs[0].QueueOffset == 19 {
						fails++
						return errors.New("never")
					}
					return listen(ctx, msgs)
				})
			pass(2 * time.Minute)
			if o.next[queueOf(0)] != 19 || fails != 2 {
				t.Errorf("consumed up to %d, %d failures", o.next[queueOf(0)], fails)
			}
		}
		if n := c.groups[0].replicas[0].requests(remoting.LockBatchMQ) + c.groups[0].replicas[0].requests(remoting.ConsumerSendMsgBack); n != 0 {
			t.Errorf("%d locks and messages sent back", n)
		}
	})
}
