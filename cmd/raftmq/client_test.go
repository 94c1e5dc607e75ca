package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
)

// sharedClient is a client of the shared cluster.
func sharedClient(t *testing.T) *client.Client {
	t.Helper()
	namesrv := ""
	for _, e := range shared(t) {
		if v, ok := strings.CutPrefix(e, "RAFTMQ_NAMESRV="); ok {
			namesrv = v
		}
	}
	cl, err := client.New(client.Config{NameServers: namesrv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := cl.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return cl
}

// Our client and our broker together: a request and its reply; a consumer whose
// offsets are reset while it consumes, and that is given a message by a tool.
func TestADM08AndOFF08WithClients(t *testing.T) {
	asker, replier := sharedClient(t), sharedClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	admin := asker.Admin()
	topic := client.NewTopicConfig("Asked")
	topic.ReadQueueNums, topic.WriteQueueNums = 1, 1
	if err := admin.CreateTopic(ctx, topic); err != nil {
		t.Fatal(err)
	}
	ask, err := asker.NewProducer(client.ProducerConfig{Group: "askers"})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := replier.NewProducer(client.ProducerConfig{Group: "repliers"})
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := replier.NewPushConsumer(client.PushConfig{Group: "answering", From: client.FromFirst})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]int{}
	changed := make(chan struct{}, 1)
	times := func(body string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[body]
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("%s: not in time; consumed %v", what, seen)
			}
		}
	}
	err = consumer.Subscribe("Asked", "*", func(ctx context.Context, msgs []*client.MessageExt) error {
		for _, m := range msgs {
			mu.Lock()
			seen[string(m.Body)]++
			n := seen[string(m.Body)]
			mu.Unlock()
			select {
			case changed <- struct{}{}:
			default:
			}
			if n > 1 {
				continue // the one who asked has its reply
			}
			if err := reply.Reply(ctx, m, &client.Message{Body: append([]byte("re: "), m.Body...)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = consumer.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		body := fmt.Sprint("question ", i)
		got, err := ask.Request(ctx, &client.Message{Topic: "Asked", Body: []byte(body)})
		if err != nil || string(got.Body) != "re: "+body {
			t.Fatalf("%v, %v", got, err)
		}
	}

	// Everything comes again while the consumer is there.
	offsets, err := admin.ResetOffsets(ctx, "answering", "Asked", time.UnixMilli(0), true)
	if err != nil || len(offsets) != 1 || offsets[0].Offset != 0 {
		t.Fatalf("%v, %v", offsets, err)
	}
	await("after the reset", func() bool { return times("question 0") >= 2 && times("question 4") >= 2 })
	second, last := times("question 2"), times("question 4")
	if err := admin.ResetOffset(ctx, "answering", offsets[0].MessageQueue, 3); err != nil {
		t.Fatal(err)
	}
	await("after the second one", func() bool { return times("question 4") > last })
	if times("question 2") != second {
		t.Errorf("what lies before it has come again: %v", seen)
	}
	if err := admin.ResetOffset(ctx, "answering", offsets[0].MessageQueue, 7); err == nil {
		t.Error("an offset beyond the end is taken")
	}

	// By a tool, to one consumer.
	p, err := asker.NewPullConsumer(client.PullConfig{Group: "TOOLS_CONSUMER"})
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Pull(ctx, client.PullRequest{Queue: offsets[0].MessageQueue, Offset: 1, Max: 1, NoWait: true})
	if err != nil || len(res.Messages) != 1 {
		t.Fatalf("%v, %v", res, err)
	}
	first := times("question 1")
	direct, err := admin.ConsumeDirectly(ctx, "answering", replier.ID(), res.Messages[0].OffsetMsgID)
	if err != nil || direct.Result != "CR_SUCCESS" || times("question 1") != first+1 {
		t.Errorf("%+v, %v; consumed %v", direct, err, seen)
	}
	if _, err := admin.ConsumeDirectly(ctx, "answering", "nobody", res.Messages[0].OffsetMsgID); !errors.As(err, new(*client.BrokerError)) {
		t.Error(err)
	}
	info, err := admin.ConsumerRunningInfo(ctx, "answering", replier.ID())
	if err != nil || !strings.Contains(string(info), `"mqTable":{{"brokerName":"broker-a","queueId":0,"topic":`) {
		t.Errorf("%s, %v", info, err)
	}
	status, err := admin.ConsumerStatus(ctx, "answering", "Asked", "")
	if err != nil || len(status) != 1 || status[0].ClientID != replier.ID() || len(status[0].Offsets) != 1 || status[0].Offsets[0].Offset != 5 {
		t.Errorf("%+v, %v", status, err)
	}
}
