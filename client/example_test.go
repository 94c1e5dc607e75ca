package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

// nameServers is where the examples' brokers are: as the user has it, "host:port;host:port".
var nameServers = client.ExampleServers()

func Example() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)

	producer, err := c.NewProducer(client.ProducerConfig{Group: "order-service"})
	if err != nil {
		log.Fatal(err)
	}
	res, err := producer.Send(ctx, &client.Message{Topic: "orders", Body: []byte("2 bicycles"), Keys: []string{"order-17"}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Status, res.Queue.Topic, res.QueueOffset)

	consumer, err := c.NewPushConsumer(client.PushConfig{Group: "warehouse", From: client.FromFirst})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	err = consumer.Subscribe("orders", "*", func(ctx context.Context, msgs []*client.MessageExt) error {
		for _, m := range msgs {
			fmt.Printf("%s: %s\n", m.Keys[0], m.Body)
		}
		close(done)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Start(ctx); err != nil {
		log.Fatal(err)
	}
	<-done
	// Output:
	// SEND_OK orders 0
	// order-17: 2 bicycles
}

// What to do when a send fails depends on what is known of the message.
func ExampleProducer_Send() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	producer, err := c.NewProducer(client.ProducerConfig{})
	if err != nil {
		log.Fatal(err)
	}

	m := &client.Message{Topic: "no-such-topic", Body: []byte("hello")}
	for {
		_, err := producer.Send(ctx, m)
		var refusal *client.BrokerError
		switch {
		case err == nil:
			fmt.Println("stored")
			return
		case errors.Is(err, client.ErrLimbo):
			continue // the same message: it is stored once, whatever became of it before
		case errors.Is(err, client.ErrNoRoute):
			fmt.Println("there is no such topic")
			return
		case errors.As(err, &refusal):
			fmt.Println("refused with code", refusal.Code)
			return
		default: // ErrNotSent: later, or elsewhere
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
		}
	}
	// With autoCreateTopicEnable, a broker's default, it is stored: the first send makes the topic. Here that is off.
	// Output: there is no such topic
}

// A reminder for tomorrow, taken back when nobody needs to be reminded any more.
func ExampleProducer_Recall() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	producer, err := c.NewProducer(client.ProducerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	res, err := producer.Send(ctx, &client.Message{Topic: "reminders", Body: []byte("pay order 7"), DeliverAfter: 24 * time.Hour})
	if err != nil {
		log.Fatal(err)
	}

	err = producer.Recall(ctx, "reminders", res.RecallHandle)
	var refusal *client.BrokerError
	switch {
	case err == nil: // it will not come
	case errors.As(err, &refusal) && refusal.Code == remoting.IllegalOperation:
		log.Print("too late: it has come")
	default:
		log.Fatal(err)
	}
}

// Messages of one customer stay in order: they go to one queue, one after the other.
func ExampleProducerConfig_inOrder() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	producer, err := c.NewProducer(client.ProducerConfig{InOrder: true})
	if err != nil {
		log.Fatal(err)
	}
	for _, step := range []string{"created", "paid", "delivered"} {
		m := &client.Message{Topic: "payments", ShardingKey: "customer-4", Body: []byte(step)}
		var res *client.SendResult
		for res == nil { // the next one must not overtake this one
			if res, err = producer.Send(ctx, m); err != nil {
				log.Print(err)
			}
		}
		fmt.Println(step, res.QueueOffset)
	}
	// Output:
	// created 0
	// paid 1
	// delivered 2
}

// A question and its answer. Any client of RocketMQ's can ask or answer.
func ExampleProducer_Request() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	producer, err := c.NewProducer(client.ProducerConfig{Group: "prices"})
	if err != nil {
		log.Fatal(err)
	}

	consumer, err := c.NewPushConsumer(client.PushConfig{Group: "price-desk"})
	if err != nil {
		log.Fatal(err)
	}
	err = consumer.Subscribe("price-questions", "*", func(ctx context.Context, msgs []*client.MessageExt) error {
		err := producer.Reply(ctx, msgs[0], &client.Message{Body: []byte("19.90")})
		if errors.Is(err, client.ErrNoReply) || errors.Is(err, client.ErrMessage) {
			return nil // nobody waits any more, or ever did: to be asked again is no use
		}
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer consumer.Close(ctx)

	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // how long to wait for the answer
	defer cancel()
	answer, err := producer.Request(ctx, &client.Message{Topic: "price-questions", Body: []byte("bicycle")})
	switch {
	case err == nil:
		fmt.Println(string(answer.Body))
	case errors.Is(err, client.ErrNoReply):
		log.Print("nobody has answered") // ask again, if it does no harm
	default:
		log.Fatal(err)
	}
}

func ExampleProducer_SendAsync() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	producer, err := c.NewProducer(client.ProducerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	stored := 0
	for i := range 1000 {
		producer.SendAsync(ctx, &client.Message{Topic: "invoices", Body: fmt.Append(nil, i)}, func(res *client.SendResult, err error) {
			if err != nil {
				log.Print(err)
				return
			}
			stored++ // callbacks are called one at a time
		})
	}
	if err := producer.Close(ctx); err != nil { // waits for the callbacks
		log.Fatal(err)
	}
	fmt.Println(stored)
	// Output: 1000
}

// A listener that returns an error, or panics, gets the message again later.
func ExamplePushConsumer() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	producer, err := c.NewProducer(client.ProducerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := producer.Send(ctx, &client.Message{Topic: "orders", Tags: "urgent", Body: []byte("1 umbrella")}); err != nil {
		log.Fatal(err)
	}

	consumer, err := c.NewPushConsumer(client.PushConfig{Group: "shipping", From: client.FromFirst, MaxReconsumeTimes: 3})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	err = consumer.Subscribe("orders", "urgent || express", func(ctx context.Context, msgs []*client.MessageExt) error {
		m := msgs[0]
		fmt.Printf("%s, %d failures so far\n", m.Body, m.ReconsumeTimes)
		if m.ReconsumeTimes == 0 {
			return errors.New("the courier is out")
		}
		close(done)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Start(ctx); err != nil {
		log.Fatal(err)
	}
	<-done
	if err := consumer.Close(ctx); err != nil { // commits the offsets
		log.Fatal(err)
	}
	// Output:
	// 1 umbrella, 0 failures so far
	// 1 umbrella, 1 failures so far
}

// Messages with one sharding key are consumed one after the other, each only when the one before it was.
func ExamplePushConfig_ordered() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	producer, err := c.NewProducer(client.ProducerConfig{InOrder: true})
	if err != nil {
		log.Fatal(err)
	}
	for _, step := range []string{"opened", "paid in", "closed"} {
		if _, err := producer.Send(ctx, &client.Message{Topic: "accounts", ShardingKey: "account-9", Body: []byte(step)}); err != nil {
			log.Fatal(err)
		}
	}

	consumer, err := c.NewPushConsumer(client.PushConfig{Group: "ledger", Ordered: true, From: client.FromFirst, RedoDelay: 10 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	err = consumer.Subscribe("accounts", "*", func(ctx context.Context, msgs []*client.MessageExt) error {
		m := msgs[0]
		fmt.Println(m.ShardingKey, string(m.Body))
		switch {
		case string(m.Body) == "paid in" && m.ReconsumeTimes == 0:
			return errors.New("the bank is closed") // holds up what comes after it
		case string(m.Body) == "closed":
			close(done)
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Start(ctx); err != nil {
		log.Fatal(err)
	}
	<-done
	// Output:
	// account-9 opened
	// account-9 paid in
	// account-9 paid in
	// account-9 closed
}

// Brokers need enablePropertyFilter for this: otherwise Start says that they do not have it.
func ExampleBySQL() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	consumer, err := c.NewPushConsumer(client.PushConfig{Group: "large-orders"})
	if err != nil {
		log.Fatal(err)
	}
	large := client.BySQL("price > 99.5 AND region IN ('eu', 'uk') AND discount IS NULL")
	err = consumer.Subscribe("orders", large, func(ctx context.Context, msgs []*client.MessageExt) error {
		fmt.Println(msgs[0].Properties["price"])
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Start(ctx); err != nil {
		log.Fatal(err) // the expression is wrong, or brokers do not select by SQL
	}
	defer consumer.Close(ctx)
}

func ExamplePullConsumer() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	producer, err := c.NewProducer(client.ProducerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	res, err := producer.SendBatch(ctx, []*client.Message{{Topic: "payments", Body: []byte("10")}, {Topic: "payments", Body: []byte("20")}})
	if err != nil {
		log.Fatal(err)
	}

	consumer, err := c.NewPullConsumer(client.PullConfig{Group: "audit"})
	if err != nil {
		log.Fatal(err)
	}
	pulled, err := consumer.Pull(ctx, client.PullRequest{Queue: res.Queue, Offset: res.QueueOffset})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range pulled.Messages {
		fmt.Println(string(m.Body))
	}
	if err := consumer.Commit(ctx, res.Queue, pulled.NextOffset); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 10
	// 20
}

func ExampleAdmin() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	info, err := c.Admin().ClusterInfo(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for name, b := range info.Brokers {
		fmt.Println(name, "has", len(b.Addrs), "replicas")
	}
	// Output: broker-a has 3 replicas
}

// An order is stored and announced, or neither: the message becomes visible only if the transaction commits. If this process ends in between,
// the broker asks any producer of the group.
func ExampleTransactionProducer_SendInTransaction() {
	ctx := context.Background()
	c, err := client.New(client.Config{NameServers: nameServers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)

	var stored sync.Map // stands for a database
	producer, err := c.NewTransactionProducer(client.TransactionConfig{
		ProducerConfig: client.ProducerConfig{Group: "shop"},
		Check: func(ctx context.Context, m *client.MessageExt) client.TransactionState {
			if _, ok := stored.Load(m.Keys[0]); ok {
				return client.TransactionCommitted
			}
			return client.TransactionRolledBack
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	m := &client.Message{Topic: "sold", Body: []byte("2 bicycles"), Keys: []string{"order-18"}}
	res, err := producer.SendInTransaction(ctx, m, func(ctx context.Context, half *client.SendResult) client.TransactionState {
		stored.Store("order-18", half.MsgID) // on an error: TransactionRolledBack, or TransactionUnknown if nobody knows
		return client.TransactionCommitted
	})
	if err != nil {
		log.Fatal(err) // the transaction was not run
	}
	fmt.Println(res.Status, res.State)
	// Output:
	// SEND_OK committed
}
