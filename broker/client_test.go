package broker

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// callTimeout is long: what has to be quick says so itself.
const callTimeout = 20 * time.Second

// testClient is a client that says just what a test tells it to.
type testClient struct {
	t    testing.TB
	conn *remoting.Conn
	told chan *remoting.Command // by the broker, one-way
}

// dial connects to a replica.
func dial(t testing.TB, b *Broker) *testClient { return dialTo(t, b.addr.String()) }

func dialTo(t testing.TB, addr string) *testClient {
	t.Helper()
	return dialWith(t, addr, remoting.ConnConfig{})
}

func dialWith(t testing.TB, addr string, cfg remoting.ConnConfig) *testClient {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &testClient{t: t, told: make(chan *remoting.Command, 1024)}
	c.conn = remoting.NewConn(nc, cfg, remoting.HandlerFunc(func(_ *remoting.Conn, req *remoting.Command) {
		select {
		case c.told <- req.Clone():
		default:
			t.Errorf("more than %d requests from the broker", cap(c.told))
		}
	}))
	t.Cleanup(func() { c.conn.Close() }) // its error is always nil
	return c
}

// call asks, and returns the answer, and as an error what its code says.
func (c *testClient) call(req *remoting.Command) (*remoting.Command, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	resp, err := c.conn.Call(ctx, req)
	if err != nil {
		c.t.Fatalf("request %d was not answered: %v", req.Code, err)
	}
	return resp, resp.Err()
}

func (c *testClient) ask(code int32, h remoting.Header) (*remoting.Command, error) {
	c.t.Helper()
	return c.call(&remoting.Command{Code: code, Header: h})
}

func (c *testClient) must(code int32, h remoting.Header) *remoting.Command {
	c.t.Helper()
	resp, err := c.ask(code, h)
	if err != nil {
		c.t.Fatalf("request %d: %v", code, err)
	}
	return resp
}

// wantCode checks what an error of a call is.
func wantCode(t testing.TB, err error, want int32) {
	t.Helper()
	if got := codeOf(err); got != want {
		t.Errorf("answered with %v, want code %d", err, want)
	}
}

func codeOf(err error) int32 {
	var e *remoting.Error
	switch {
	case err == nil:
		return remoting.Success
	case errors.As(err, &e):
		return e.Code
	}
	return -1
}

// topic makes a topic, or changes one.
func (c *testClient) topic(name string, queues int32, change ...func(*remoting.TopicConfig)) {
	c.t.Helper()
	topic := ownTopic(name, queues)
	for _, f := range change {
		f(&topic)
	}
	c.must(remoting.UpdateAndCreateTopic, &topic)
}

func (c *testClient) group(name string, change ...func(*remoting.GroupConfig)) {
	c.t.Helper()
	g := remoting.NewGroupConfig(name)
	for _, f := range change {
		f(&g)
	}
	if _, err := c.call(&remoting.Command{Code: remoting.UpdateAndCreateSubscriptionGroup, Body: g.AppendBody(nil)}); err != nil {
		c.t.Fatal(err)
	}
}

// message is a valid header of a send.
func message(topic string, queue int32, props ...string) *remoting.SendHeader {
	h := &remoting.SendHeader{ProducerGroup: "p", Topic: topic, DefaultTopic: remoting.TopicAutoCreate, DefaultTopicQueueNums: 4,
		QueueID: queue, BornTimestamp: time.Now().UnixMilli(), MaxReconsumeTimes: -1}
	h.Properties = string(properties(props...))
	return h
}

func properties(props ...string) (p remoting.Properties) {
	for i := 0; i+1 < len(props); i += 2 {
		p = remoting.AppendProperty(p, props[i], props[i+1])
	}
	return p
}

// send sends. The response is that of an answer that means "stored" to clients.
func (c *testClient) send(h *remoting.SendHeader, body string) (r remoting.SendResponse, err error) {
	c.t.Helper()
	resp, err := c.call(&remoting.Command{Code: remoting.SendMessageV2, Header: h, Body: []byte(body)})
	if remoting.ResponseInfoOf(resp.Code).Stored {
		if err := r.Decode(resp); err != nil {
			c.t.Fatal(err)
		}
	}
	return r, err
}

func (c *testClient) mustSend(h *remoting.SendHeader, body string) remoting.SendResponse {
	c.t.Helper()
	r, err := c.send(h, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// pulled is the answer to a pull.
type testPulled struct {
	code int32
	remoting.PullResponse
	records []remoting.RecordView
	bytes   int
	err     error
}

func (p *testPulled) bodies() (all []string) {
	for _, v := range p.records {
		all = append(all, string(v.Body()))
	}
	return all
}

// pullOf is a valid pull that does not wait.
func pullOf(topic string, queue int32, offset int64, change ...func(*remoting.PullRequest)) *remoting.PullRequest {
	h := &remoting.PullRequest{ConsumerGroup: "g", Topic: topic, QueueID: queue, QueueOffset: offset, MaxMsgNums: 32,
		SysFlag: remoting.PullSubscription, Subscription: "*"}
	for _, f := range change {
		f(h)
	}
	return h
}

// waiting lets a pull be held.
func held(d time.Duration) func(*remoting.PullRequest) {
	return func(h *remoting.PullRequest) {
		h.SysFlag |= remoting.PullSuspend
		h.SuspendTimeoutMillis = d.Milliseconds()
	}
}

func tagged(expression string) func(*remoting.PullRequest) {
	return func(h *remoting.PullRequest) { h.Subscription = expression }
}

func decodePulled(t testing.TB, resp *remoting.Command) (p testPulled) {
	t.Helper()
	p.code, p.err, p.bytes = resp.Code, resp.Err(), len(resp.Body)
	switch p.code {
	case remoting.Success, remoting.PullNotFound, remoting.PullRetryImmediately, remoting.PullOffsetMoved:
		// All four fields are wanted on all four codes.
		if err := p.PullResponse.Decode(resp); err != nil {
			t.Error(err)
		}
	}
	var err error
	if p.records, err = remoting.DecodeRecords(resp.Body); err != nil {
		t.Error(err)
	}
	return p
}

func (c *testClient) pull(h *remoting.PullRequest) testPulled {
	c.t.Helper()
	resp, _ := c.ask(remoting.PullMessage, h)
	return decodePulled(c.t, resp)
}

// pulling pulls without waiting for the answer.
func (c *testClient) pulling(h *remoting.PullRequest) <-chan testPulled {
	c.t.Helper()
	answer := make(chan testPulled, 1)
	err := c.conn.CallAsync(&remoting.Command{Code: remoting.PullMessage, Header: h}, callTimeout, func(resp *remoting.Command, err error) {
		if err != nil {
			answer <- testPulled{err: err, code: -1}
			return
		}
		answer <- decodePulled(c.t, resp)
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// all pulls a queue from its begin to its end.
func (c *testClient) all(topic string, queue int32) (records []remoting.RecordView) {
	c.t.Helper()
	for at := int64(0); ; {
		p := c.pull(pullOf(topic, queue, at, func(h *remoting.PullRequest) { h.ConsumerGroup = remoting.GroupTools }))
		switch p.code {
		case remoting.Success, remoting.PullRetryImmediately:
			records = append(records, p.records...)
		case remoting.PullOffsetMoved:
			if p.NextBeginOffset <= at { // beyond an empty queue
				return records
			}
		case remoting.PullNotFound:
			return records
		default:
			c.t.Fatalf("queue %d of %s at %d: %v", queue, topic, at, p.err)
		}
		at = p.NextBeginOffset
	}
}

func bodiesOf(records []remoting.RecordView) (all []string) {
	for _, v := range records {
		all = append(all, string(v.Body()))
	}
	return all
}

// consumer is a consumer group in a heartbeat.
func consumer(group, topic, expression string) remoting.ConsumerData {
	return remoting.ConsumerData{
		Group: group, ConsumeType: remoting.ConsumePassively, MessageModel: remoting.Clustering, ConsumeFromWhere: remoting.ConsumeFromLastOffset,
		Subscriptions: []remoting.Subscription{{Topic: topic, Expression: expression, ExpressionType: remoting.ExpressionTag, Version: 1}},
	}
}

// beat sends a heartbeat.
func (c *testClient) beat(id string, consumers ...remoting.ConsumerData) *remoting.Command {
	c.t.Helper()
	h := remoting.Heartbeat{ClientID: id, Consumers: consumers}
	resp, err := c.call(&remoting.Command{Code: remoting.HeartBeat, Body: h.AppendBody(nil)})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

// offset asks for a consumer offset.
func (c *testClient) offset(group, topic string, queue int32) (int64, error) {
	c.t.Helper()
	resp, err := c.ask(remoting.QueryConsumerOffset, &remoting.QueryConsumerOffsetRequest{ConsumerGroup: group, Topic: topic, QueueID: queue})
	var r remoting.OffsetResponse
	if err == nil {
		err = r.Decode(resp)
	}
	return r.Offset, err
}

func (c *testClient) commit(group, topic string, queue int32, offset int64) error {
	c.t.Helper()
	_, err := c.ask(remoting.UpdateConsumerOffset, &remoting.UpdateConsumerOffsetRequest{ConsumerGroup: group, Topic: topic, QueueID: queue, CommitOffset: offset})
	return err
}

// route asks a node's name service.
func (c *testCluster) route(t testing.TB, id, topic string) (d remoting.RouteData, err error) {
	t.Helper()
	client := dialTo(t, c.cfg.Nodes[id].Namesrv)
	defer client.conn.Close()
	resp, err := client.ask(remoting.GetRouteInfoByTopic, &remoting.RouteRequest{Topic: topic, StandardJSON: true})
	if err == nil {
		err = d.DecodeBody(resp.Body)
	}
	return d, err
}
