package client

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// asked is a cluster with a topic that somebody asks in, and its reply topic.
func (c *cluster) asked() {
	c.topic("Questions", 1)
	c.topic("DefaultCluster_REPLY_TOPIC", 1)
}

// replier consumes questions and answers them with f's message; nil: not at all. It tells what came of each answer.
func (c *cluster) replier(f func(*MessageExt) *Message) <-chan error {
	c.t.Helper()
	replied := make(chan error, 16)
	cl := c.client(Config{ClientID: "replier"})
	p, err := cl.NewProducer(ProducerConfig{Group: "repliers"})
	if err != nil {
		c.t.Fatal(err)
	}
	consumer, err := cl.NewPushConsumer(PushConfig{Group: "g", From: FromFirst})
	if err != nil {
		c.t.Fatal(err)
	}
	err = consumer.Subscribe("Questions", "*", func(ctx context.Context, msgs []*MessageExt) error {
		for _, m := range msgs {
			m.raw = remoting.AppendProperty(m.raw, remoting.PropCluster, "DefaultCluster") // brokers do
			if r := f(m); r != nil {
				replied <- p.Reply(ctx, m, r)
			}
		}
		return nil
	})
	if err == nil {
		err = consumer.Start(context.Background())
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return replied
}

func TestRequestAndReply(t *testing.T) {
	bubble(t, 2, 3, func(t *testing.T, c *cluster) {
		c.asked()
		var requests atomic.Int64
		replied := c.replier(func(m *MessageExt) *Message {
			requests.Add(1)
			if string(m.Body) == "silence" {
				return nil
			}
			return &Message{Body: []byte(strings.Repeat(string(m.Body), 5000)), Tags: "t", Properties: map[string]string{"of": m.MsgID}}
		})
		p, err := c.client(Config{ClientID: "asker"}).NewProducer(ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		m := &Message{Topic: "Questions", Body: []byte("hi"), Properties: map[string]string{"mine": "1"}}
		for range 3 { // each is a message of its own, and m stays as it is
			reply, err := p.Request(context.Background(), m)
			if err = errors.Join(err, <-replied); err != nil {
				t.Fatal(err)
			}
			// It was compressed on its way.
			if string(reply.Body) != strings.Repeat("hi", 5000) || reply.Tags != "t" || reply.Properties["of"] == "" || len(reply.Properties) != 1 {
				t.Errorf("%.20q, %q, %v", reply.Body, reply.Tags, reply.Properties)
			}
			if m.Properties["mine"] != "1" || len(m.Properties) != 1 || m.limbo.id != "" {
				t.Errorf("the message is changed: %+v", m)
			}
		}
		// Every leader has heard of who asks, but once.
		for _, g := range c.groups {
			g.mu.Lock()
			if g.replicas[0].asking["asker"] == nil || len(g.replicas[0].beats) > 6 {
				t.Errorf("%s has had %d heartbeats, and knows %v", g.name, len(g.replicas[0].beats), g.replicas[0].asking)
			}
			g.mu.Unlock()
		}

		begun := time.Now()
		_, err = p.Request(context.Background(), &Message{Topic: "Questions", Body: []byte("silence")})
		if took := time.Since(begun); !errors.Is(err, ErrNoReply) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrLimbo) || took != 3*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		if _, err := p.Request(ctx, &Message{Topic: "Questions", Body: []byte("silence")}); !errors.Is(err, ErrNoReply) {
			t.Error(err)
		}
		if _, err := p.Request(context.Background(), &Message{Topic: "no such/name"}); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrMessage) {
			t.Error(err)
		}
		if got := requests.Load(); got != 5 {
			t.Errorf("%d requests were consumed, want 5", got)
		}
		if n := len(p.c.requests.waiting); n != 0 {
			t.Errorf("%d requests still wait", n)
		}
	})
}

// The leader changes while a consumer thinks: the requester is known to the next one in time.
func TestRequestOverALeaderChange(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.asked()
		g := c.groups[0]
		replied := c.replier(func(*MessageExt) *Message {
			g.elect(1, false)
			for _, r := range g.replicas {
				r.hint = true
			}
			g.replicas[0].stop()
			return &Message{Body: []byte("yes")}
		})
		p, err := c.client(Config{}).NewProducer(ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		reply, err := p.Request(context.Background(), &Message{Topic: "Questions", Body: []byte("?")})
		if err = errors.Join(err, <-replied); err != nil || string(reply.Body) != "yes" {
			t.Errorf("%v, %v", reply, err)
		}
	})
}

func TestRequestWhenTheProducerCloses(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.asked()
		p, err := c.client(Config{}).NewProducer(ProducerConfig{Timeout: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := p.Request(context.Background(), &Message{Topic: "Questions", Body: []byte("?")})
			ended <- err
		}()
		pass(time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, ErrNoReply) || !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if _, err := p.Request(context.Background(), &Message{Topic: "Questions"}); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestReplyThatCannotBe(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.asked()
		p, err := c.client(Config{}).NewProducer(ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		mq := MessageQueue{Topic: "Questions", BrokerName: "broker-a"}
		request := func(props ...string) *MessageExt {
			m := &MessageExt{MsgID: "id", Queue: mq}
			for i := 0; i+1 < len(props); i += 2 {
				m.raw = remoting.AppendProperty(m.raw, props[i], props[i+1])
			}
			return m
		}
		full := []string{remoting.PropCorrelationID, "c", remoting.PropReplyToClient, "nobody", remoting.PropCluster, "DefaultCluster", remoting.PropTTL, "700"}
		ctx := context.Background()
		for _, m := range []*MessageExt{request(), request(full[:4]...), request(full[2:]...)} {
			if err := p.Reply(ctx, m, &Message{}); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrMessage) {
				t.Error(err)
			}
		}
		if err := p.Reply(ctx, request(full...), nil); !errors.Is(err, ErrMessage) {
			t.Error(err)
		}
		begun := time.Now()
		if err := p.Reply(ctx, request(full...), &Message{Body: []byte("x")}); !errors.Is(err, ErrNoReply) || time.Since(begun) != 700*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		c.groups[0].replicas[0].next(remoting.SendReplyMessageV2, script{answer: &remoting.Command{Code: remoting.MessageIllegal, Remark: "too long"}})
		if err := p.Reply(ctx, request(full...), &Message{Body: []byte("x")}); !errors.Is(err, ErrRejected) {
			t.Error(err)
		}
	})
}

// What comes as a reply and is none, costs nothing.
func TestRepliesThatNobodyWaitsFor(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.asked()
		p, err := c.client(Config{ClientID: "asker"}).NewProducer(ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Send(context.Background(), &Message{Topic: "Questions", Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		g := c.groups[0]
		g.mu.Lock()
		conn := g.replicas[0].asking["asker"]
		g.mu.Unlock()
		push := func(h remoting.Header, body string) error {
			resp, err := conn.Call(context.Background(), &remoting.Command{Code: remoting.PushReplyMessageToClient, Header: h, Body: []byte(body)})
			if err != nil {
				t.Fatal(err)
			}
			return resp.Err()
		}
		if err := push(&remoting.ReplyRequest{Topic: "R", Properties: remoting.PropCorrelationID + "\x01late\x02"}, "x"); err != nil {
			t.Error(err)
		}
		if err := push(&remoting.ReplyRequest{Topic: "R", SysFlag: remoting.SysFlagCompressed, Properties: "\x01\x02\x01", BornHost: "rubbish"}, "no zlib"); err != nil {
			t.Error(err)
		}
		if err := push(&remoting.TopicRequest{Topic: "R"}, ""); err == nil {
			t.Error("a header without fields is taken")
		}
		if err := push(&remoting.ReplyRequest{Topic: strings.Repeat("R", 1<<17)}, ""); err == nil {
			t.Error("a topic of 128 KiB is taken")
		}
	})
}
