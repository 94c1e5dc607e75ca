package broker

import (
	"slices"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/remoting"
)

// replyTo is a reply's header.
func replyTo(client, correlation string, props ...string) *remoting.SendHeader {
	h := message("DefaultCluster_REPLY_TOPIC", 0, append([]string{remoting.PropMessageType, "reply", remoting.PropReplyToClient, client,
		remoting.PropCorrelationID, correlation, remoting.PropTTL, "3000"}, props...)...)
	h.ProducerGroup = "repliers"
	return h
}

func (c *testClient) produces(id, group string) {
	c.t.Helper()
	h := remoting.Heartbeat{ClientID: id, Producers: []string{group}}
	if _, err := c.call(&remoting.Command{Code: remoting.HeartBeat, Body: h.AppendBody(nil)}); err != nil {
		c.t.Fatal(err)
	}
}

// A reply reaches the client that asked, whose address nobody knows, and its
// sender is told when it has.
func TestRequestReply(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	leader := cl.leader(t)
	requester, replier := dial(t, leader), dial(t, leader)
	requester.produces("requester", "p")
	requester.topic("T", 1)
	requester.mustSend(message("T", 0, remoting.PropCorrelationID, "c1", remoting.PropReplyToClient, "requester", remoting.PropTTL, "3000"), "question")
	// The replier learns from the message where the reply goes.
	question := replier.pull(pullOf("T", 0, 0)).records[0]
	if p := question.Properties(); remoting.ReplyTopic(p.Get(remoting.PropCluster)) != "DefaultCluster_REPLY_TOPIC" || p.Get(remoting.PropReplyToClient) != "requester" {
		t.Fatalf("the question has the properties %q", p)
	}
	for i, code := range []int32{remoting.SendReplyMessageV2, remoting.SendReplyMessage} {
		h := replyTo("requester", "c1", remoting.PropUniqKey, strings.Repeat("AB", 15)+string(rune('A'+i))+"0")
		cmd := &remoting.Command{Code: code, Header: h, Body: []byte("answer")}
		if code == remoting.SendReplyMessage {
			cmd.Header = h.LongNames()
		}
		answer := make(chan *remoting.Command, 1)
		if err := replier.conn.CallAsync(cmd, callTimeout, func(resp *remoting.Command, _ error) { answer <- resp }); err != nil {
			t.Fatal(err)
		}
		push := requester.await(remoting.PushReplyMessageToClient)
		var pushed remoting.ReplyRequest
		if err := pushed.Decode(push); err != nil {
			t.Fatal(err)
		}
		p := remoting.Properties(pushed.Properties)
		if string(push.Body) != "answer" || pushed.ProducerGroup != "repliers" || p.Get(remoting.PropCorrelationID) != "c1" ||
			p.Get(remoting.PropMessageType) != "reply" || p.Get(remoting.PropPushReplyTime) == "" || pushed.BornHost == "" || pushed.StoreTimestamp == 0 {
			t.Errorf("pushed %+v, %q", pushed, push.Body)
		}
		select {
		case resp := <-answer:
			t.Errorf("the replier is told %d %s before the reply has arrived", resp.Code, resp.Remark)
		default:
		}
		push.Responder().Respond(&remoting.Command{})
		resp := <-answer
		var r remoting.SendResponse
		if err := r.Decode(resp); err != nil || resp.Code != remoting.Success || r.QueueOffset != int64(i) || len(r.MsgID) != 32 {
			t.Errorf("the replier is told %d %s, %+v, %v", resp.Code, resp.Remark, r, err)
		}
	}
	if got := bodiesOf(replier.all("DefaultCluster_REPLY_TOPIC", 0)); !slices.Equal(got, []string{"answer", "answer"}) {
		t.Errorf("the reply topic has %q", got)
	}

	// What does not arrive is not stored, and its sender hears of it.
	send := func(c *testClient, h *remoting.SendHeader) error {
		_, err := c.call(&remoting.Command{Code: remoting.SendReplyMessageV2, Header: h, Body: []byte("lost")})
		return err
	}
	elsewhere := replyTo("requester", "c1")
	elsewhere.Topic = "T"
	batch := replyTo("requester", "c1")
	batch.Batch = true
	large := replyTo("requester", "c1", "x", strings.Repeat("x", 32767))
	for _, tt := range []struct {
		h    *remoting.SendHeader
		want int32
	}{
		{replyTo("nobody", "c1"), remoting.SystemError},
		{replyTo("", "c1"), remoting.MessageIllegal},
		{replyTo("requester", ""), remoting.MessageIllegal},
		{elsewhere, remoting.InvalidParameter},
		{batch, remoting.MessageIllegal},
		{replyTo("requester", "c1", remoting.PropDelay, "3"), remoting.MessageIllegal},
		{large, remoting.MessageIllegal},
	} {
		wantCode(t, send(replier, tt.h), tt.want)
	}
	wantCode(t, send(dial(t, cl.followers(t)[0]), replyTo("requester", "c1")), remoting.ServiceNotAvailable)
	requester.conn.Fail(remoting.ErrClosed)
	eventually(t, "the requester is forgotten", func() bool { return leader.clients.producing("requester") == nil })
	wantCode(t, send(replier, replyTo("requester", "c1")), remoting.SystemError)
	if got := len(replier.all("DefaultCluster_REPLY_TOPIC", 0)); got != 2 {
		t.Errorf("the reply topic has %d messages, want 2", got)
	}
}

func TestRepliesThatAreNotKept(t *testing.T) {
	t.Parallel()
	no := false
	cl := startCluster(t, 1, func(cfg *Config) { cfg.StoreReplyMessageEnable = &no })
	requester, replier := dial(t, cl.leader(t)), dial(t, cl.leader(t))
	requester.produces("requester", "p")
	answer := replier.asked(remoting.SendReplyMessageV2, replyTo("requester", "c"))
	requester.await(remoting.PushReplyMessageToClient).Responder().Respond(&remoting.Command{})
	var r remoting.SendResponse
	if resp := <-answer; resp.Code != remoting.Success || r.Decode(resp) != nil || r.MsgID != "0" || r.QueueOffset != 0 {
		t.Errorf("%d %s: %+v", resp.Code, resp.Remark, r)
	}
	if got := replier.all("DefaultCluster_REPLY_TOPIC", 0); len(got) != 0 {
		t.Errorf("%d replies are kept", len(got))
	}
	// A requester that refuses the reply has not got it.
	answer = replier.asked(remoting.SendReplyMessageV2, replyTo("requester", "c"))
	requester.await(remoting.PushReplyMessageToClient).Responder().Error(remoting.Errorf(remoting.SystemError, "too late"))
	if resp := <-answer; resp.Code != remoting.SystemError || !strings.Contains(resp.Remark, "too late") {
		t.Errorf("%d %s", resp.Code, resp.Remark)
	}
}

func TestADM04TraceTopic(t *testing.T) {
	t.Parallel()
	if _, ok := shared(t).group.State().Topic(remoting.TopicTrace); ok {
		t.Error("there is a trace topic though traceTopicEnable is off")
	}
	cl := startCluster(t, 1, func(cfg *Config) { cfg.TraceTopicEnable = true })
	c := dial(t, cl.leader(t))
	eventually(t, "the trace topic's route", func() bool {
		d, err := cl.route(t, "n1", remoting.TopicTrace)
		return err == nil && len(d.Queues) == 1 && d.Queues[0].WriteQueueNums == 1 && d.Queues[0].Perm == 6
	})
	c.mustSend(message(remoting.TopicTrace, 0, remoting.PropKeys, "id"), "Pub\x01...\x02")
	_, err := c.ask(remoting.DeleteTopicInBroker, &remoting.TopicRequest{Topic: remoting.TopicTrace})
	wantCode(t, err, remoting.InvalidParameter)
}
