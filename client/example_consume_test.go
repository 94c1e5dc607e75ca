package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/raftmq/raftmq/client"
)

// mustClient is how the examples below begin.
func mustClient() *client.Client {
	c, err := client.New(client.Config{NameServers: nameServers, ClientID: "host-1"})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// produce sends messages of a topic.
func produce(ctx context.Context, c *client.Client, cfg client.ProducerConfig, topic string, bodies ...string) {
	producer, err := c.NewProducer(cfg)
	if err != nil {
		log.Fatal(err)
	}
	for _, body := range bodies {
		if _, err := producer.Send(ctx, &client.Message{Topic: topic, Body: []byte(body)}); err != nil {
			log.Fatal(err)
		}
	}
}

// Poll gives messages to a caller who takes them when it likes. Calling it again says that those before are done with.
func ExamplePullConsumer_Poll() {
	ctx := context.Background()
	c := mustClient()
	defer c.Close(ctx)
	produce(ctx, c, client.ProducerConfig{}, "news", "rain", "wind", "sun")

	consumer, err := c.NewPullConsumer(client.PullConfig{Group: "reader", From: client.FromFirst})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Subscribe("news", "*"); err != nil { // shared with the other consumers of the group
		log.Fatal(err)
	}
	for n := 0; n < 3; {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		msgs, err := consumer.Poll(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			continue // nothing new
		}
		if err != nil {
			log.Fatal(err)
		}
		for _, m := range msgs {
			fmt.Println(string(m.Body))
		}
		n += len(msgs)
	}
	if err := consumer.CommitSync(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// rain
	// wind
	// sun
}

// Queues can be chosen, and where to read them.
func ExamplePullConsumer_Assign() {
	ctx := context.Background()
	c := mustClient()
	defer c.Close(ctx)
	oneQueue := func([]client.MessageQueue, *client.Message) int { return 0 }
	produce(ctx, c, client.ProducerConfig{Select: oneQueue}, "readings", "17 °C", "18 °C", "19 °C")

	consumer, err := c.NewPullConsumer(client.PullConfig{Group: "statistics", ManualCommit: true})
	if err != nil {
		log.Fatal(err)
	}
	queues, err := consumer.FetchQueues(ctx, "readings")
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Assign("*", queues...); err != nil {
		log.Fatal(err)
	}
	for _, q := range queues {
		if err := consumer.Seek(q, 1); err != nil { // or SeekToBegin, SeekToEnd, or what OffsetAt says
			log.Fatal(err)
		}
	}
	msgs, err := consumer.Poll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(msgs[0].Body))
	// Output: 18 °C
}

// Every client of a broadcasting group gets all messages. Its offsets are in a file of its own.
func ExamplePushConfig_broadcasting() {
	ctx := context.Background()
	c := mustClient()
	defer c.Close(ctx)
	produce(ctx, c, client.ProducerConfig{}, "prices", "3.20")

	dir, err := os.MkdirTemp("", "prices")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	consumer, err := c.NewPushConsumer(client.PushConfig{
		Group: "price-caches", Broadcasting: true, From: client.FromFirst, OffsetFile: filepath.Join(dir, "offsets.json"),
	})
	if err != nil {
		log.Fatal(err)
	}
	got := make(chan string)
	if err := consumer.Subscribe("prices", "*", func(ctx context.Context, msgs []*client.MessageExt) error {
		got <- string(msgs[0].Body)
		return nil
	}); err != nil {
		log.Fatal(err)
	}
	if err := consumer.Start(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-got)
	if err := consumer.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: 3.20
}

// A group that begins with what was sent in the last hour, and shares its queues so that few of them move when clients come and go.
func ExamplePushConfig() {
	cfg := client.PushConfig{
		Group: "alerts", From: client.FromTime, FromTime: time.Now().Add(-time.Hour), Allocate: client.AllocateConsistentHash,
	}
	fmt.Println(cfg.Group)
	// Output: alerts
}

// A user's own way to share queues: those of the brokers in Paris among the clients in Paris, as their ids say, and so on.
func ExampleAllocator() {
	near := func(self string, queues []client.MessageQueue, clients []string) []client.MessageQueue {
		room := func(name string) string { return name[:2] }
		var here []client.MessageQueue
		for _, q := range queues {
			if room(q.BrokerName) == room(self) {
				here = append(here, q)
			}
		}
		var neighbours []string
		for _, c := range clients {
			if room(c) == room(self) {
				neighbours = append(neighbours, c)
			}
		}
		return client.AllocateByCircle(self, here, neighbours)
	}
	queues := []client.MessageQueue{{BrokerName: "fr-1"}, {BrokerName: "fr-1", QueueID: 1}, {BrokerName: "us-1"}}
	fmt.Println(near("fr-app-2", queues, []string{"fr-app-1", "fr-app-2", "us-app-1"}))
	// Output: [{ fr-1 1}]
}

// A listener that consumed part of a batch says so, and when the rest is to come again.
func ExampleReconsumeError() {
	ctx := context.Background()
	c := mustClient()
	defer c.Close(ctx)
	produce(ctx, c, client.ProducerConfig{}, "letters", "a", "b", "c")

	consumer, err := c.NewPushConsumer(client.PushConfig{Group: "post", From: client.FromFirst, ConsumeBatch: 3, Workers: 1})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	if err := consumer.Subscribe("letters", "*", func(ctx context.Context, msgs []*client.MessageExt) error {
		for i, m := range msgs {
			if string(m.Body) == "c" && m.ReconsumeTimes == 0 {
				return &client.ReconsumeError{Consumed: i, DelayLevel: 1, Err: errors.New("nobody at home")} // again in a second
			}
			fmt.Println(string(m.Body), m.ReconsumeTimes)
			if m.ReconsumeTimes > 0 {
				close(done)
			}
		}
		return nil
	}); err != nil {
		log.Fatal(err)
	}
	if err := consumer.Start(ctx); err != nil {
		log.Fatal(err)
	}
	<-done
	// Output:
	// a 0
	// b 0
	// c 1
}

// Bodies of 4 KiB and more are compressed; consumers undo that.
func ExampleCompression() {
	ctx := context.Background()
	c := mustClient()
	defer c.Close(ctx)
	producer, err := c.NewProducer(client.ProducerConfig{Compression: client.Zstd})
	if err != nil {
		log.Fatal(err)
	}
	res, err := producer.Send(ctx, &client.Message{Topic: "archive", Body: make([]byte, 100_000)})
	if err != nil {
		log.Fatal(err)
	}
	consumer, err := c.NewPullConsumer(client.PullConfig{Group: "archivist"})
	if err != nil {
		log.Fatal(err)
	}
	pulled, err := consumer.Pull(ctx, client.PullRequest{Queue: res.Queue, Offset: res.QueueOffset})
	if err != nil {
		log.Fatal(err)
	}
	m := pulled.Messages[0]
	fmt.Println(len(m.Body), m.StoreSize < 1000)
	// Output: 100000 true
}

// span stands for the context of a trace, as a tracing library has it.
type span struct{}

// Interceptors carry a trace from the producer to the listener. With OpenTelemetry the first one starts a span and injects its context into
// propagation.MapCarrier(m.Properties), and ends the span with the outcome; the second one extracts it from there.
func ExampleConsumeInterceptor() {
	send := func(ctx context.Context, msgs []*client.Message) (context.Context, func(*client.SendResult, error)) {
		for _, m := range msgs {
			m.Properties["traceparent"], _ = ctx.Value(span{}).(string)
		}
		return ctx, func(res *client.SendResult, err error) { fmt.Println("sent, error:", err) }
	}
	consume := func(next client.Listener) client.Listener {
		return func(ctx context.Context, msgs []*client.MessageExt) error {
			return next(context.WithValue(ctx, span{}, msgs[0].Properties["traceparent"]), msgs)
		}
	}

	ctx := context.WithValue(context.Background(), span{}, "trace-42")
	c := mustClient()
	defer c.Close(ctx)
	produce(ctx, c, client.ProducerConfig{Interceptors: []client.SendInterceptor{send}}, "traced", "hello")
	consumer, err := c.NewPushConsumer(client.PushConfig{Group: "traced", From: client.FromFirst, Interceptors: []client.ConsumeInterceptor{consume}})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	if err := consumer.Subscribe("traced", "*", func(ctx context.Context, msgs []*client.MessageExt) error {
		fmt.Println(string(msgs[0].Body), "in", ctx.Value(span{}))
		close(done)
		return nil
	}); err != nil {
		log.Fatal(err)
	}
	if err := consumer.Start(ctx); err != nil {
		log.Fatal(err)
	}
	<-done
	// Output:
	// sent, error: <nil>
	// hello in trace-42
}
