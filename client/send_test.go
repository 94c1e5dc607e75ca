package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

func answerWith(code int32, ext ...string) script {
	c := &remoting.Command{Code: code, Remark: "script"}
	for i := 0; i < len(ext); i += 2 {
		c.Ext.Add(ext[i], ext[i+1])
	}
	return script{answer: c}
}

func storedWith(code int32, ext ...string) script {
	s := answerWith(code, ext...)
	s.store = true
	s.answer.Header = &remoting.SendResponse{MsgID: "id", QueueID: 0, QueueOffset: -1}
	return s
}

func TestSend(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		p := c.producer(ProducerConfig{Group: "pg"})
		m := &Message{Topic: "T", Body: []byte("hello"), Tags: "A", Keys: []string{"k1", "k2"}, Properties: map[string]string{"p": "v"}, Flag: 7, ShardingKey: "s"}
		res := mustSend(t, p, m)
		if res.Status != SendOK || len(res.MsgID) != 32 || res.QueueOffset != 0 || res.Attempts != 1 || res.Queue.BrokerName != "broker-a" || res.OffsetMsgID == "" {
			t.Errorf("result %+v", res)
		}
		list := c.groups[0].records(res.Queue)
		if len(list) != 1 {
			t.Fatalf("%d records in %v", len(list), res.Queue)
		}
		var got MessageExt
		decodeMessage(&got, list[0], "broker-a")
		if got.Topic != "T" || string(got.Body) != "hello" || got.Tags != "A" || fmt.Sprint(got.Keys) != "[k1 k2]" || got.Properties["p"] != "v" ||
			len(got.Properties) != 1 || got.Flag != 7 || got.ShardingKey != "s" || got.MsgID != res.MsgID {
			t.Errorf("stored %+v", got)
		}
		if m.limbo.id != "" || m.Properties[remoting.PropUniqKey] != "" {
			t.Error("the message was changed")
		}
	})
}

// TestSendOutcomes: what the caller is told, for each answer, without retries.
func TestSendOutcomes(t *testing.T) {
	for _, row := range []struct {
		name   string
		s      script
		kind   error
		status SendStatus
		stored int
	}{
		{"ok", script{}, nil, SendOK, 1},
		{"flush disk timeout", storedWith(remoting.FlushDiskTimeout), nil, FlushDiskTimeout, 1},
		{"flush slave timeout", storedWith(remoting.FlushSlaveTimeout), nil, FlushSlaveTimeout, 1},
		{"slave not available", storedWith(remoting.SlaveNotAvailable), nil, SlaveNotAvailable, 1},
		{"busy", answerWith(remoting.SystemBusy), ErrRejected, 0, 0},
		{"flow control", answerWith(remoting.FlowControl), ErrRejected, 0, 0},
		{"not leading", answerWith(remoting.ServiceNotAvailable), ErrRejected, 0, 0},
		{"going away", answerWith(remoting.GoAway), ErrRejected, 0, 0},
		{"failed", answerWith(remoting.SystemError), ErrRejected, 0, 0},
		{"no permission", answerWith(remoting.NoPermission), ErrRejected, 0, 0},
		{"no topic", answerWith(remoting.TopicNotExist), ErrRejected, 0, 0},
		{"illegal", answerWith(remoting.MessageIllegal), ErrRejected, 0, 0},
		{"parameter", answerWith(remoting.InvalidParameter), ErrRejected, 0, 0},
		{"closed before", script{dropBefore: true}, ErrLimbo, 0, 0},
		{"closed after", script{dropAfter: true}, ErrLimbo, 0, 1},
		{"silent", script{silent: true}, ErrLimbo, 0, 1},
		{"deaf", script{deaf: true}, ErrLimbo, 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, 1, 1, func(t *testing.T, c *cluster) {
				c.topic("T", 1)
				p := c.producer(ProducerConfig{Retries: NoRetries})
				g := c.groups[0]
				g.replicas[0].next(remoting.SendMessageV2, row.s)
				res, err := p.Send(t.Context(), &Message{Topic: "T"})
				if row.kind == nil {
					if err != nil || res.Status != row.status {
						t.Errorf("%+v, %v; want %v", res, err, row.status)
					}
				} else if err == nil || kind(t, err) != row.kind {
					t.Errorf("%v, want %v", err, row.kind)
				}
				var e *SendError
				if errors.As(err, &e) && (e.Attempts != 1 || e.Queue.Topic != "T") {
					t.Errorf("%+v", e)
				}
				if row.kind == ErrRejected {
					var b *BrokerError
					if !errors.As(err, &b) || b.Code != row.s.answer.Code || b.Remark != "script" {
						t.Errorf("no broker error in %v", err)
					}
				}
				if stored, _ := g.count(); stored != row.stored {
					t.Errorf("%d stored, want %d", stored, row.stored)
				}
			})
		})
	}
}

// TestSendInvalid: what cannot be sent is not sent.
func TestSendInvalid(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{MaxMessageSize: 100})
		for name, m := range map[string]*Message{
			"nil":                nil,
			"no topic":           {},
			"bad topic":          {Topic: "a b"},
			"long body":          {Topic: "T", Body: make([]byte, 101)},
			"separator":          {Topic: "T", Properties: map[string]string{"a": "\x01"}},
			"empty value":        {Topic: "T", Properties: map[string]string{"a": ""}},
			"bad id":             {Topic: "T", Properties: map[string]string{remoting.PropUniqKey: "\x02"}},
			"key with space":     {Topic: "T", Keys: []string{"a b"}},
			"key with space too": {Topic: "T", Keys: []string{"x", "a b"}},
			"two tags":           {Topic: "T", Tags: "a||b"},
			"delayed twice":      {Topic: "T", DelayLevel: 1, DeliverAfter: time.Second},
			"delayed by less":    {Topic: "T", DeliverAfter: -1},
			"many properties":    {Topic: "T", Properties: map[string]string{"a": strings.Repeat("x", 32500)}},
		} {
			_, err := p.Send(t.Context(), m)
			if err == nil || kind(t, err) != ErrNotSent || !errors.Is(err, ErrMessage) {
				t.Errorf("%s: %v", name, err)
			}
			if err := p.SendOneway(t.Context(), m); !errors.Is(err, ErrMessage) {
				t.Errorf("%s oneway: %v", name, err)
			}
		}
		for name, ms := range map[string][]*Message{
			"empty":      {},
			"two topics": {{Topic: "T"}, {Topic: "U"}},
			"two shards": {{Topic: "T", ShardingKey: "a"}, {Topic: "T"}},
			"delayed":    {{Topic: "T"}, {Topic: "T", DelayLevel: 1}},
			"timed":      {{Topic: "T"}, {Topic: "T", DeliverAfter: time.Second}},
			"too long":   {{Topic: "T", Body: make([]byte, 60)}, {Topic: "T"}},
			"one is bad": {{Topic: "T"}, {Topic: "T", Tags: "\x01"}},
		} {
			if _, err := p.SendBatch(t.Context(), ms); err == nil || kind(t, err) != ErrNotSent || !errors.Is(err, ErrMessage) {
				t.Errorf("batch %s: %v", name, err)
			}
		}
		if n := c.groups[0].replicas[0].requests(remoting.SendMessageV2); n != 0 {
			t.Errorf("%d requests were sent", n)
		}
		mustSend(t, p, &Message{Topic: "T", Body: make([]byte, 100)})
	})
}

// TestSendAgain: a Message sent twice on purpose is stored twice; one in limbo is asked about, whatever else the caller says.
func TestSendAgain(t *testing.T) {
	bubble(t, 2, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{Retries: NoRetries})
		m := &Message{Topic: "T", Body: []byte("x")}
		first, second := mustSend(t, p, m), mustSend(t, p, m)
		if first.MsgID == second.MsgID {
			t.Error("two sends have one id")
		}
		a, b := MessageQueue{Topic: "T", BrokerName: "broker-a"}, MessageQueue{Topic: "T", BrokerName: "broker-b"}
		c.groups[0].replicas[0].next(remoting.SendMessageV2, script{dropAfter: true})
		_, err := p.SendTo(t.Context(), a, m)
		if kind(t, err) != ErrLimbo {
			t.Fatal(err)
		}
		again, err := p.SendTo(t.Context(), b, m)
		if err != nil || again.Queue != a {
			t.Errorf("sent again to b: %+v, %v; want it found in a", again, err)
		}
		if _, repeats := c.groups[0].count(); repeats != 1 {
			t.Errorf("%d repeats, want 1", repeats)
		}
		third := mustSend(t, p, m)
		if third.MsgID == again.MsgID {
			t.Error("a send after the outcome was known has the old id")
		}
		// An id of the user's own is kept.
		m = &Message{Topic: "T", Properties: map[string]string{remoting.PropUniqKey: "mine"}}
		if res := mustSend(t, p, m); res.MsgID != "mine" {
			t.Errorf("id %s", res.MsgID)
		}
		// Also a refusal leaves what is in limbo there.
		m = &Message{Topic: "T"}
		c.groups[0].replicas[0].next(remoting.SendMessageV2, script{dropBefore: true}, answerWith(remoting.MessageIllegal))
		for i := range 2 {
			if _, err := p.SendTo(t.Context(), a, m); kind(t, err) != ErrLimbo {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
}

func TestSendTimeouts(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{})
		mustSend(t, p, &Message{Topic: "T"})
		r := c.groups[0].replicas[0]

		r.next(remoting.SendMessageV2, script{deaf: true})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begun := time.Now()
		_, err := p.Send(ctx, &Message{Topic: "T"})
		if kind(t, err) != ErrLimbo || !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(begun))
		}

		r.next(remoting.SendMessageV2, script{deaf: true})
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err = p.Send(ctx, &Message{Topic: "T"}); kind(t, err) != ErrLimbo || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, err = p.Send(ctx, &Message{Topic: "T"}); kind(t, err) != ErrNotSent || !errors.Is(err, context.Canceled) {
			t.Error("with a context that has ended:", err)
		}

		r.stop()
		begun = time.Now()
		if _, err = p.Send(t.Context(), &Message{Topic: "T"}); kind(t, err) != ErrNotSent || time.Since(begun) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		n := c.net.(*pipes).dialed(r.addr)
		if n > 300 {
			t.Errorf("%d dials in 3 s", n)
		}
	})
}

func TestNoRoute(t *testing.T) {
	bubble(t, 2, 1, func(t *testing.T, c *cluster) {
		p := c.producer(ProducerConfig{})
		_, err := p.Send(t.Context(), &Message{Topic: "T"})
		if kind(t, err) != ErrNotSent || !errors.Is(err, ErrNoRoute) {
			t.Error(err)
		}
		// A topic that the template topic will make.
		c.topic(remoting.TopicAutoCreate, 8)
		queues, err := p.Queues(t.Context(), "T")
		if err != nil || len(queues) != 2*templateQueues || queues[0].Topic != "T" {
			t.Errorf("%v, %v", queues, err)
		}
		mustSend(t, p, &Message{Topic: "T"})
		// The broker has made it now: its real route is found soon.
		c.topic("T", 1)
		pass(3 * time.Second)
		if queues, err = p.Queues(t.Context(), "T"); err != nil || len(queues) != 2 {
			t.Errorf("%v, %v", queues, err)
		}
		// A topic that is gone goes on to be used.
		c.mu.Lock()
		delete(c.topics, "T")
		c.mu.Unlock()
		pass(time.Minute)
		mustSend(t, p, &Message{Topic: "T"})

		c.mu.Lock()
		c.topics["R"] = fakeTopic{queues: 1, perm: remoting.PermRead}
		c.mu.Unlock()
		if _, err = p.Send(t.Context(), &Message{Topic: "R"}); kind(t, err) != ErrNotSent || !errors.Is(err, ErrNoRoute) {
			t.Error("a topic that cannot be written to:", err)
		}
		if _, err = p.SendTo(t.Context(), MessageQueue{Topic: "T", BrokerName: "nobody"}, &Message{Topic: "T"}); kind(t, err) != ErrNotSent || !errors.Is(err, ErrNoRoute) {
			t.Error("a queue that does not exist:", err)
		}
		c.ns.stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err = p.Send(ctx, &Message{Topic: "X"}); kind(t, err) != ErrNotSent || !errors.Is(err, context.DeadlineExceeded) {
			t.Error("without a name server:", err)
		}
		mustSend(t, p, &Message{Topic: "T"})
	})
}

// TestNewTopic sends by the template topic's route, of 4 queues, to a topic that was made with one meanwhile.
func TestNewTopic(t *testing.T) {
	bubble(t, 2, 1, func(t *testing.T, c *cluster) {
		c.topic(remoting.TopicAutoCreate, 8)
		p := c.producer(ProducerConfig{})
		if queues, err := p.Queues(t.Context(), "T"); err != nil || len(queues) != 2*templateQueues {
			t.Fatalf("%v, %v", queues, err)
		}
		c.topic("T", 1)
		c.mu.Lock()
		c.nsDown["T"] = true // nor does the name server know yet
		c.mu.Unlock()
		c.later(time.Second, func() {
			c.mu.Lock()
			delete(c.nsDown, "T")
			c.mu.Unlock()
		})
		for n := range 8 {
			if r := mustSend(t, p, &Message{Topic: "T"}); r.Queue.QueueID != 0 {
				t.Errorf("send %d went to %v", n, r.Queue)
			}
		}
		// A queue that the caller names is no guess.
		if _, err := p.SendTo(t.Context(), MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: 3}, &Message{Topic: "T"}); err == nil {
			t.Error("a queue that does not exist took a message")
		}
	})
}

// TestQueueChoice: round-robin over groups and queues, past groups that fail; Select and sharding keys.
func TestQueueChoice(t *testing.T) {
	bubble(t, 3, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		cl := c.client(Config{})
		p, err := cl.NewProducer(ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[MessageQueue]int{}
		for range 60 {
			seen[mustSend(t, p, &Message{Topic: "T"}).Queue]++
		}
		for q, n := range seen {
			if n != 10 {
				t.Errorf("%v got %d of 60", q, n)
			}
		}
		if len(seen) != 6 {
			t.Errorf("%d queues of 6 used", len(seen))
		}
		c.groups[1].replicas[0].stop()
		synctest.Wait()
		attempts := 0
		for range 60 {
			res := mustSend(t, p, &Message{Topic: "T"})
			attempts += res.Attempts
			if res.Queue.BrokerName == "broker-b" {
				t.Fatal("sent to a group that is down")
			}
		}
		// It is avoided at once and tried again now and then.
		if n := cl.group("broker-b").failures; n != 1 || attempts != 60 {
			t.Errorf("the group that is down was tried %d times, %d attempts", n, attempts)
		}
		c.groups[1].replicas[0].start()
		pass(time.Minute)
		seen = map[MessageQueue]int{}
		for range 60 {
			seen[mustSend(t, p, &Message{Topic: "T"}).Queue]++
		}
		if len(seen) != 6 {
			t.Errorf("%d queues of 6 used after the group came back", len(seen))
		}

		first := mustSend(t, p, &Message{Topic: "T", ShardingKey: "customer-1"}).Queue
		for range 10 {
			if q := mustSend(t, p, &Message{Topic: "T", ShardingKey: "customer-1"}).Queue; q != first {
				t.Errorf("one key in %v and %v", q, first)
			}
		}
		last := MessageQueue{}
		sel, err := cl.NewProducer(ProducerConfig{Select: func(queues []MessageQueue, m *Message) int {
			last = queues[len(queues)-1]
			return len(queues) - 1
		}})
		if err != nil {
			t.Fatal(err)
		}
		if q := mustSend(t, sel, &Message{Topic: "T", ShardingKey: "customer-1"}).Queue; q != last {
			t.Errorf("selected %v, sent to %v", last, q)
		}
	})
}

func TestShard(t *testing.T) {
	// Java: Math.abs("polygenelubricants".hashCode() % n); that hash is the least int.
	for _, row := range []struct {
		key  string
		n, i int
	}{{"a", 4, 1}, {"abcdefghij", 10, 9}, {"polygenelubricants", 7, 2}, {"polygenelubricants", 4, 0}, {"x", 1, 0}} {
		if got := shard(row.key, row.n); got != row.i {
			t.Errorf("shard(%q, %d) = %d, want %d", row.key, row.n, got, row.i)
		}
	}
}

func TestBatch(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{Retries: NoRetries})
		queue := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		var ms []*Message
		for i := range 10 {
			ms = append(ms, &Message{Topic: "T", Body: fmt.Append(nil, i), Tags: "A", Flag: int32(i)})
		}
		res, err := p.SendBatch(t.Context(), ms)
		if err != nil || len(strings.Split(res.MsgID, ",")) != 10 || res.QueueOffset != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
		ids := map[string]bool{}
		for i, rec := range c.groups[0].records(queue) {
			var m MessageExt
			decodeMessage(&m, rec, "broker-a")
			if string(m.Body) != fmt.Sprint(i) || m.Flag != int32(i) || m.Tags != "A" || m.QueueOffset != int64(i) {
				t.Errorf("record %d: %+v", i, m)
			}
			ids[m.MsgID] = true
		}
		if len(ids) != 10 {
			t.Errorf("%d ids", len(ids))
		}
		// In limbo only the same batch can be asked about.
		c.groups[0].replicas[0].next(remoting.SendBatchMessage, script{dropAfter: true})
		if _, err = p.SendBatch(t.Context(), ms); kind(t, err) != ErrLimbo {
			t.Fatal(err)
		}
		if _, err = p.Send(t.Context(), ms[3]); kind(t, err) != ErrLimbo || !errors.Is(err, ErrMessage) {
			t.Errorf("one of a batch in limbo: %v", err)
		}
		if _, err = p.SendBatch(t.Context(), ms[1:]); kind(t, err) != ErrLimbo || !errors.Is(err, ErrMessage) {
			t.Errorf("a part of a batch in limbo: %v", err)
		}
		if res, err = p.SendBatchTo(t.Context(), queue, ms); err != nil || res.QueueOffset != 10 {
			t.Errorf("%+v, %v", res, err)
		}
		if stored, repeats := c.groups[0].count(); stored != 20 || repeats != 1 {
			t.Errorf("%d stored, %d repeats", stored, repeats)
		}
		if _, err = p.SendBatch(t.Context(), ms[:1]); err != nil {
			t.Errorf("a batch of one: %v", err)
		}
	})
}

func TestOneway(t *testing.T) {
	bubble(t, 2, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{})
		for range 10 {
			if err := p.SendOneway(t.Context(), &Message{Topic: "T"}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		a, _ := c.groups[0].count()
		b, _ := c.groups[1].count()
		if a != 5 || b != 5 {
			t.Errorf("%d and %d stored", a, b)
		}
		c.groups[0].replicas[0].stop()
		synctest.Wait()
		for range 10 {
			if err := p.SendOneway(t.Context(), &Message{Topic: "T"}); err != nil {
				t.Fatal(err)
			}
		}
		c.groups[1].replicas[0].stop()
		synctest.Wait()
		if err := p.SendOneway(t.Context(), &Message{Topic: "T"}); kind(t, err) != ErrNotSent {
			t.Error(err)
		}
	})
}
