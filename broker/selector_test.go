package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

// newClient is our client library, of a cluster.
func (c *testCluster) newClient(t testing.TB) *client.Client {
	t.Helper()
	cl, err := client.New(client.Config{NameServers: c.cfg.Nodes["n1"].Namesrv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		if err := cl.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return cl
}

// FILT-06 and FILT-08 with our client: what it subscribes to by SQL it gets, and
// what brokers refuse keeps it from starting.
func TestFILT06And08OurClientSelectsBySQL(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, func(c *Config) { c.EnablePropertyFilter = true })
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c := cl.newClient(t)
	dial(t, cl.leader(t)).topic("T", 4)
	start := func(selector client.Selector, l client.Listener) (*client.PushConsumer, error) {
		consumer, err := c.NewPushConsumer(client.PushConfig{Group: named(t), From: client.FromFirst})
		if err != nil {
			t.Fatal(err)
		}
		if err := consumer.Subscribe("T", selector, l); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
			defer cancel()
			if err := consumer.Close(ctx); err != nil {
				t.Error(err)
			}
		})
		return consumer, consumer.Start(ctx)
	}
	got := make(chan string, 100)
	listen := func(_ context.Context, msgs []*client.MessageExt) error {
		for _, m := range msgs {
			got <- string(m.Body)
		}
		return nil
	}
	eventually(t, "a client knows the topic", func() bool {
		_, err := c.Admin().TopicRoute(ctx, "T")
		return err == nil
	})
	if _, err := start(client.BySQL("price > 9 AND region IN ('eu', 'us') OR TAGS = 'AaAa'"), listen); err != nil {
		t.Fatal(err)
	}
	producer, err := c.NewProducer(client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 40 {
		m := &client.Message{Topic: "T", Body: []byte(fmt.Sprint(i)), Properties: map[string]string{"price": fmt.Sprint(i % 20), "region": []string{"eu", "asia"}[i%2]}}
		if i%10 == 1 {
			m.Tags = []string{"AaAa", "BBBB"}[i%20/10] // equal hashes
		}
		if i%20 > 9 && i%2 == 0 || i%20 == 1 {
			want = append(want, string(m.Body))
		}
		if _, err := producer.Send(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	var bodies []string
	for len(bodies) < len(want) {
		select {
		case b := <-got:
			bodies = append(bodies, b)
		case <-ctx.Done():
			t.Fatalf("only %q came, want %q", bodies, want)
		}
	}
	if slices.Sort(bodies); !slices.Equal(bodies, slices.Sorted(slices.Values(want))) {
		t.Errorf("%q came, want %q", bodies, want)
	}

	for _, expression := range []string{"price > 'x'", "price = NULL", "price BETWEEN 5 AND 1"} {
		_, err := start(client.BySQL(expression), listen)
		var refusal *client.BrokerError
		if !errors.As(err, &refusal) || refusal.Code != remoting.SubscriptionParseFailed || !strings.Contains(err.Error(), "at character") {
			t.Errorf("%s: Start says %v", expression, err)
		}
	}
	pulling, err := c.NewPullConsumer(client.PullConfig{Group: "pulling"})
	if err != nil {
		t.Fatal(err)
	}
	defer pulling.Close(ctx)
	queues, err := pulling.FetchQueues(ctx, "T")
	if err != nil {
		t.Fatal(err)
	}
	polling, err := c.NewPullConsumer(client.PullConfig{Group: "polling", From: client.FromFirst})
	if err != nil {
		t.Fatal(err)
	}
	defer polling.Close(ctx)
	var refusal *client.BrokerError
	if err := polling.Assign(client.BySQL("price ="), queues...); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := polling.Poll(ctx); !errors.As(err, &refusal) || refusal.Code != remoting.SubscriptionParseFailed {
			t.Errorf("Poll by bad SQL says %v", err)
		}
	}
	if err := polling.Assign(client.BySQL("price = 19"), queues...); err != nil {
		t.Fatal(err)
	}
	if msgs, err := polling.Poll(ctx); err != nil || string(msgs[0].Body) != "19" && string(msgs[0].Body) != "39" {
		t.Errorf("Poll by SQL: %v, %v", msgs, err)
	}
	n := 0
	for _, q := range queues {
		for at := int64(0); ; {
			res, err := pulling.Pull(ctx, client.PullRequest{Queue: q, Offset: at, Selector: client.BySQL("price = 19"), NoWait: true})
			if err != nil {
				t.Fatal(err)
			}
			if n += len(res.Messages); res.Status == client.PullNoNew {
				break
			}
			at = res.NextOffset
		}
		if _, err := pulling.Pull(ctx, client.PullRequest{Queue: q, Selector: client.BySQL("price ="), NoWait: true}); err == nil {
			t.Error("a pull by bad SQL is answered")
		}
	}
	if n != 2 {
		t.Errorf("%d messages of price 19, want 2", n)
	}
}

// Where SQL is off the client says so at its start.
func TestFILT06OurClientWhereSQLIsOff(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c := cl.newClient(t)
	dial(t, cl.leader(t)).topic("T", 1)
	consumer, err := c.NewPushConsumer(client.PushConfig{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close(ctx)
	if err := consumer.Subscribe("T", client.BySQL("a = 1"), func(context.Context, []*client.MessageExt) error { return nil }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a client knows the topic", func() bool {
		_, err := c.Admin().TopicRoute(ctx, "T")
		return err == nil
	})
	var refusal *client.BrokerError
	if err := consumer.Start(ctx); !errors.As(err, &refusal) || refusal.Code != remoting.SystemError || !strings.Contains(err.Error(), "enablePropertyFilter") {
		t.Errorf("Start says %v", err)
	}
	// It may be started with tags then.
	if err := consumer.Subscribe("T", "A", func(context.Context, []*client.MessageExt) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := consumer.Start(ctx); err != nil {
		t.Error(err)
	}
}
