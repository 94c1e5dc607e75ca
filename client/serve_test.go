package client

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// ask sends a request to a client from a broker, over the client's connection.
func (r *fakeReplica) ask(t *testing.T, group string, req *remoting.Command) (*remoting.Command, error) {
	t.Helper()
	r.g.mu.Lock()
	var conn *remoting.Conn
	for _, conn = range r.clients[group] {
	}
	r.g.mu.Unlock()
	type answer struct {
		resp *remoting.Command
		err  error
	}
	ch := make(chan answer, 1)
	if err := conn.CallAsync(req, 10*time.Second, func(resp *remoting.Command, err error) { ch <- answer{resp, err} }); err != nil {
		t.Fatal(err)
	}
	a := <-ch
	return a.resp, a.err
}

// texts is a header of some fields.
type texts [][2]string

func (h texts) AppendFields(e *remoting.FieldEncoder) {
	for _, f := range h {
		e.String(f[0], f[1])
	}
}

// TestBrokerRequests: what brokers and tools ask of a consumer.
func TestBrokerRequests(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		g := c.groups[0]
		r0 := g.replicas[0]
		q0, q1 := MessageQueue{Topic: "T", BrokerName: "broker-a"}, MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: 1}
		g.fill(q0, 10)
		g.fill(q1, 20)
		var r received
		p := c.push(PushConfig{From: FromFirst}, "*", func(ctx context.Context, msgs []*MessageExt) error {
			switch string(msgs[0].Body) {
			case "fail":
				return errors.New("as asked")
			case "panic":
				panic("as asked")
			}
			return r.listen(ctx, msgs)
		})
		pass(10 * time.Second)
		group := [2]string{"consumerGroup", "g"}

		// 221: how far it is.
		resp, err := r0.ask(t, "g", &remoting.Command{Code: remoting.GetConsumerStatusFromClient, Header: texts{{"topic", "T"}, {"group", "g"}}})
		if err != nil || resp.Code != remoting.Success {
			t.Fatal(resp, err)
		}
		var offsets remoting.QueueOffsets
		if err := offsets.DecodeBody(resp.Body); err != nil || len(offsets) != 2 {
			t.Errorf("%s: %v", resp.Body, err)
		}
		for _, o := range offsets {
			if want := map[int32]int64{0: 10, 1: 20}[o.QueueID]; o.Offset != want || o.Topic != "T" || o.BrokerName != "broker-a" {
				t.Errorf("%+v", o)
			}
		}

		// 220: offsets set by a tool.
		reset := remoting.QueueOffsets{{MessageQueue: q0, Offset: 5}, {MessageQueue: q1, Offset: -1}, {MessageQueue: MessageQueue{Topic: "other"}, Offset: 3}}
		before := len(r.times())
		if err := func() error {
			g.mu.Lock()
			defer g.mu.Unlock()
			for _, conn := range r0.clients["g"] {
				return conn.Notify(&remoting.Command{Code: remoting.ResetConsumerClientOffset, Header: texts{{"topic", "T"}, {"group", "g"}}, Body: reset.AppendBody(nil)})
			}
			return errors.New("no client")
		}(); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		times := r.times()
		if len(times) != before || times["4"] != 2 || times["5"] != 3 || times["9"] != 3 || times["15"] != 1 {
			t.Errorf("after the reset: %v", times)
		}
		if o, _ := g.offset("g", q0); o != 5 && o != 10 {
			t.Errorf("committed %d", o)
		}

		// What was before the reset is over: a new message comes once, and nothing of it is committed any more.
		if _, err := c.producer(ProducerConfig{}).SendTo(t.Context(), q0, &Message{Topic: "T", Body: []byte("new")}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if n := r.times()["new"]; n != 1 {
			t.Errorf("a message after the reset came %d times", n)
		}

		// 307: what it is doing.
		resp, err = r0.ask(t, "g", &remoting.Command{Code: remoting.GetConsumerRunningInfo, Header: texts{group, {"clientId", p.c.ID()}}})
		if err != nil || resp.Code != remoting.Success {
			t.Fatal(resp, err)
		}
		// The keys of mqTable are objects, which is not JSON; with them quoted the rest is.
		body := string(resp.Body)
		if n := strings.Count(body, `{"brokerName":"broker-a","queueId":`); n != 3 {
			t.Errorf("%d queues in %s", n, body)
		}
		i := strings.Index(body, `"mqTable":{`)
		if i < 0 || !json.Valid([]byte(body[:i]+`"mqTable":{}}`)) {
			t.Errorf("body %s", body)
		}
		for _, want := range []string{`"PROP_CONSUME_TYPE":"CONSUME_PASSIVELY"`, `"droped":false`, `"commitOffset":20`, `"subString":"*"`} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s in %s", want, body)
			}
		}

		// 309: one message, now.
		for text, want := range map[string]string{"direct": "CR_SUCCESS", "fail": "CR_LATER", "panic": "CR_LATER"} {
			rec, err := remoting.AppendRecord(nil, &remoting.Record{Topic: "T", Body: []byte(text)})
			if err != nil {
				t.Fatal(err)
			}
			resp, err = r0.ask(t, "g", &remoting.Command{Code: remoting.ConsumeMessageDirectly, Header: texts{group, {"brokerName", "broker-a"}}, Body: rec})
			if err != nil || resp.Code != remoting.Success {
				t.Fatal(resp, err)
			}
			var result map[string]any
			if err := json.Unmarshal(resp.Body, &result); err != nil || result["consumeResult"] != want {
				t.Errorf("%s: %s, %v", text, resp.Body, err)
			}
		}
		if r.times()["direct"] != 1 {
			t.Error("the listener did not get it")
		}
		resp, err = r0.ask(t, "g", &remoting.Command{Code: remoting.ConsumeMessageDirectly, Header: texts{group}, Body: []byte("garbage")})
		if err != nil || resp.Code != remoting.InvalidParameter {
			t.Error(resp, err)
		}

		// What it does not know, or is for another group.
		for _, req := range []*remoting.Command{
			{Code: 9998, Header: texts{group}},
			{Code: remoting.GetConsumerRunningInfo, Header: texts{{"consumerGroup", "other"}}},
			{Code: 9999},
		} {
			if resp, err = r0.ask(t, "g", req); err != nil || resp.Code != remoting.RequestCodeNotSupported {
				t.Error(req.Code, resp, err)
			}
		}
		resp, err = r0.ask(t, "g", &remoting.Command{Code: remoting.ResetConsumerClientOffset, Header: texts{{"group", "g"}}, Body: []byte("{")})
		if err != nil || resp.Code == remoting.Success {
			t.Error(resp, err)
		}
	})
}
