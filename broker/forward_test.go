package broker

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// dialAs is dial by a client written in some language.
func dialAs(t testing.TB, b *Broker, l remoting.Language) *testClient {
	t.Helper()
	return dialWith(t, b.addr.String(), remoting.ConnConfig{Language: l})
}

// await waits for a request of the broker.
func (c *testClient) await(code int32) *remoting.Command {
	c.t.Helper()
	timeout := time.After(callTimeout)
	for {
		select {
		case req := <-c.told:
			if req.Code == code {
				return req
			}
		case <-timeout:
			c.t.Fatalf("the broker has not sent request %d", code)
		}
	}
}

// asked makes a request whose answer depends on another client.
func (c *testClient) asked(code int32, h remoting.Header) <-chan *remoting.Command {
	c.t.Helper()
	answer := make(chan *remoting.Command, 1)
	err := c.conn.CallAsync(&remoting.Command{Code: code, Header: h}, 2*clientTimeout, func(resp *remoting.Command, err error) {
		if err != nil {
			resp = &remoting.Command{Code: -1, Remark: err.Error()}
		}
		answer <- resp
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

func TestADM08ConsumeMessageDirectly(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	tool, c := dial(t, cl.leader(t)), dial(t, cl.leader(t))
	c.topic("T", 1)
	id := c.mustSend(message("T", 0, remoting.PropKeys, "k"), "body").MsgID
	c.beat("client", consumer("g", "T", "*"))
	cl.caughtUp(t)
	follower := dial(t, cl.followers(t)[0]) // any replica does that the client has told of itself
	follower.beat("client", consumer("g", "T", "*"))
	for _, x := range []struct{ tool, client *testClient }{{tool, c}, {follower, follower}} {
		for _, clientID := range []string{"client", ""} {
			answer := x.tool.asked(remoting.ConsumeMessageDirectly, &remoting.ConsumeDirectlyRequest{ConsumerGroup: "g", ClientID: clientID, MsgID: id})
			req := x.client.await(remoting.ConsumeMessageDirectly)
			v, err := remoting.ParseRecord(req.Body)
			if err != nil || string(v.Body()) != "body" || v.OffsetMsgID() != id || req.Ext.Get("brokerName") != "broker-a" ||
				req.Ext.Get("consumerGroup") != "g" || req.Ext.Get("clientId") != "client" {
				t.Errorf("the client is given %v, %q, %v", req.Ext, req.Body, err)
			}
			result := remoting.ConsumeResult{AutoCommit: true, Result: remoting.ConsumeLater, Remark: "no", Spent: 5}
			req.Responder().Respond(&remoting.Command{Body: result.AppendBody(nil)})
			resp := <-answer
			var got remoting.ConsumeResult
			if err := got.DecodeBody(resp.Body); resp.Code != remoting.Success || err != nil || got != result {
				t.Errorf("the tool is told %d %s: %+v, %v", resp.Code, resp.Remark, got, err)
			}
		}
	}
	for _, tt := range []struct {
		h    remoting.ConsumeDirectlyRequest
		want int32
	}{
		{remoting.ConsumeDirectlyRequest{ConsumerGroup: "g", ClientID: "nobody", MsgID: id}, remoting.SystemError},
		{remoting.ConsumeDirectlyRequest{ConsumerGroup: "none", MsgID: id}, remoting.SystemError},
		{remoting.ConsumeDirectlyRequest{ConsumerGroup: "g", ClientID: "client", MsgID: "x"}, remoting.InvalidParameter},
		{remoting.ConsumeDirectlyRequest{ConsumerGroup: "g", ClientID: "client"}, remoting.InvalidParameter},
		{remoting.ConsumeDirectlyRequest{ConsumerGroup: "g", ClientID: "client", MsgID: strings.Repeat("F", 32)}, remoting.InvalidParameter},
		{remoting.ConsumeDirectlyRequest{ConsumerGroup: "g", ClientID: "client", MsgID: remoting.OffsetMsgID(cl.leader(t).addr, 1<<40)}, remoting.SystemError},
	} {
		_, err := tool.ask(remoting.ConsumeMessageDirectly, &tt.h)
		wantCode(t, err, tt.want)
	}
}

func TestRunningInfoOfAClient(t *testing.T) {
	t.Parallel()
	b := shared(t)
	tool, c, group := dial(t, b), dial(t, b), "g"+named(t)
	c.beat("client-"+group, consumer(group, "T", "*"))
	h := &remoting.RunningInfoRequest{ConsumerGroup: group, ClientID: "client-" + group, Stacks: true}
	answer := tool.asked(remoting.GetConsumerRunningInfo, h)
	req := c.await(remoting.GetConsumerRunningInfo)
	if req.Ext.Get("consumerGroup") != group || req.Ext.Get("clientId") != h.ClientID || req.Ext.Get("jstackEnable") != "true" {
		t.Errorf("asked with %v", req.Ext)
	}
	const body = `{"not looked at":{{}:1}}`
	req.Responder().Respond(&remoting.Command{Body: []byte(body)})
	if resp := <-answer; resp.Code != remoting.Success || string(resp.Body) != body {
		t.Errorf("%d %s: %s", resp.Code, resp.Remark, resp.Body)
	}
	// What the client refuses, it refuses.
	answer = tool.asked(remoting.GetConsumerRunningInfo, h)
	c.await(remoting.GetConsumerRunningInfo).Responder().Error(remoting.Errorf(remoting.RequestCodeNotSupported, "never heard of it"))
	if resp := <-answer; resp.Code != remoting.RequestCodeNotSupported || resp.Remark != "never heard of it" {
		t.Errorf("%d %s", resp.Code, resp.Remark)
	}
	_, err := tool.ask(remoting.GetConsumerRunningInfo, &remoting.RunningInfoRequest{ConsumerGroup: group, ClientID: "nobody"})
	wantCode(t, err, remoting.SystemError)

	// A client that breaks off while it is asked ends the wait.
	answer = tool.asked(remoting.GetConsumerRunningInfo, h)
	c.await(remoting.GetConsumerRunningInfo)
	c.conn.Fail(remoting.ErrClosed)
	if resp := <-answer; resp.Code != remoting.SystemError {
		t.Errorf("%d %s", resp.Code, resp.Remark)
	}
}

// Silent clients keep nobody waiting but those that ask them.
func TestClientThatDoesNotAnswer(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as a client may: 10 s")
	}
	t.Parallel()
	cl := startCluster(t, 1, func(cfg *Config) { cfg.MaxBlockingRequests = 2 })
	tool, c := dial(t, cl.leader(t)), dial(t, cl.leader(t))
	c.topic("T", 1)
	c.beat("client", consumer("g", "T", "*"))
	var answers []<-chan *remoting.Command
	for range 3 {
		answers = append(answers, tool.asked(remoting.GetConsumerRunningInfo, &remoting.RunningInfoRequest{ConsumerGroup: "g", ClientID: "client"}))
	}
	c.await(remoting.GetConsumerRunningInfo)
	c.await(remoting.GetConsumerRunningInfo)
	c.topic("U", 1) // waits for raft
	c.mustSend(message("U", 0), "m")
	var codes []int32
	for _, answer := range answers {
		codes = append(codes, (<-answer).Code)
	}
	slices.Sort(codes)
	if !slices.Equal(codes, []int32{remoting.SystemBusy, remoting.ConsumeMsgTimeout, remoting.ConsumeMsgTimeout}) {
		t.Errorf("codes %d", codes)
	}
}

func TestConsumerStatus(t *testing.T) {
	t.Parallel()
	b := shared(t)
	tool, group := dial(t, b), "g"+named(t)
	h := &remoting.ConsumerStatusRequest{Topic: "T", Group: group}
	_, err := tool.ask(remoting.InvokeBrokerToGetConsumerStatus, h)
	wantCode(t, err, remoting.ConsumerNotOnline)
	mq := remoting.MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: 1}
	clients := map[string]*testClient{}
	for _, id := range []string{"a", "b", "silent"} {
		clients[id] = dial(t, b)
		clients[id].beat(id, consumer(group, "T", "*"))
	}
	ask := func(id string, said ...string) (status remoting.ConsumerStatus, code int32) {
		t.Helper()
		h.ClientID = id
		answer := tool.asked(remoting.InvokeBrokerToGetConsumerStatus, h)
		for i, id := range said {
			req := clients[id].await(remoting.GetConsumerStatusFromClient)
			if req.Ext.Get("topic") != "T" || req.Ext.Get("group") != group {
				t.Errorf("asked with %v", req.Ext)
			}
			body := remoting.QueueOffsets{{MessageQueue: mq, Offset: int64(i)}}.AppendBody(nil)
			req.Responder().Respond(&remoting.Command{Body: body})
		}
		resp := <-answer
		if resp.Code == remoting.Success {
			if err := status.DecodeBody(resp.Body); err != nil {
				t.Error(err)
			}
		}
		return status, resp.Code
	}
	status, code := ask("", "a", "b")
	if code != remoting.Success || len(status) != 2 || status[0].ClientID != "a" || status[1].ClientID != "b" ||
		status[1].Offsets[0] != (remoting.QueueOffset{MessageQueue: mq, Offset: 1}) {
		t.Errorf("%d: %+v", code, status)
	}
	if status, code = ask("b", "b"); code != remoting.Success || len(status) != 1 || status[0].ClientID != "b" {
		t.Errorf("of one, %d: %+v", code, status)
	}
	if _, code = ask("silent"); code != remoting.SystemError {
		t.Errorf("of a silent one: %d", code)
	}
	if _, code = ask("nobody"); code != remoting.ConsumerNotOnline {
		t.Errorf("of nobody: %d", code)
	}
}
