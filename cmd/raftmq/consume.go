package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

func consumeCommand() *cli.Command {
	return &cli.Command{
		Name:  "consume",
		Usage: "consume messages as a member of a consumer group, and print them",
		Description: "A message counts as consumed when it was printed; the group goes on behind it next time.\n" +
			"When --idle ends it standard error says how many came; the exit code is 0, also if --count\n" +
			"asked for more.\n" +
			"With -o json each line is an object with the message's fields; a body that is no UTF-8 text is\n" +
			"its bodyBase64.",
		Flags: []cli.Flag{
			namesrvFlag,
			&cli.StringFlag{Name: "topic", Aliases: []string{"t"}, Required: true, Usage: "`TOPIC`"},
			&cli.StringFlag{Name: "group", Aliases: []string{"g"}, Required: true, Usage: "consumer `GROUP`"},
			&cli.StringFlag{Name: "tag", Usage: "only messages with a `TAG`, or one of them: A || B"},
			&cli.StringFlag{Name: "sql", Usage: "only messages whose properties fulfil a `CONDITION`, like \"price > 9.5 AND region IN ('eu', 'us')\"; brokers need enablePropertyFilter"},
			&cli.StringFlag{Name: "from", Value: "first", Usage: "`WHERE` a new group begins: first, last, a time like 2026-11-21T15:04:05Z, or 2h for two hours ago"},
			&cli.IntFlag{Name: "count", DefaultText: "no end", Usage: "end after `N` messages"},
			&cli.DurationFlag{Name: "idle", DefaultText: "wait for ever", Usage: "end when nothing came for this `TIME`"},
			bodyFlag,
		},
		Action: runConsume,
	}
}

// printer prints messages and knows when it is enough.
type printer struct {
	mu    sync.Mutex
	out   *bufio.Writer
	json  bool
	limit int
	n     int
	last  time.Time
	idle  bool // nothing came for long enough
	done  chan struct{}
	err   error // of printing: the consumer must stop, or it would ack what nobody saw
}

var errEnough = errors.New("enough was consumed")

// print prints messages. What comes when it is enough, or can't be printed, is
// held until the consumer closes: an error would have it sent back, and come
// again out of its order.
func (p *printer) print(ctx context.Context, msgs []*client.MessageExt) error {
	for _, m := range msgs {
		if !p.printed(m) {
			<-ctx.Done()
			return errEnough
		}
	}
	return nil
}

func (p *printer) printed(m *client.MessageExt) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full() {
		return false
	}
	if p.err = p.write(m); p.err == nil {
		p.n++
		p.last = time.Now()
	}
	if p.full() {
		close(p.done)
	}
	return p.err == nil
}

// full says whether no more is to be printed. The lock is held.
func (p *printer) full() bool { return p.err != nil || p.limit > 0 && p.n == p.limit }

func (p *printer) write(m *client.MessageExt) error {
	if !p.json {
		if _, err := p.out.Write(append(m.Body, '\n')); err != nil {
			return err
		}
		return p.out.Flush()
	}
	if err := json.NewEncoder(p.out).Encode(messageFields(m)); err != nil {
		return err
	}
	return p.out.Flush()
}

// messageFields are a message as JSON has it: the body in base64 if it is no text.
func messageFields(m *client.MessageExt) map[string]any {
	fields := map[string]any{
		"topic": m.Topic, "queue": m.Queue.QueueID, "broker": m.Queue.BrokerName, "offset": m.QueueOffset, "msgId": m.MsgID, "offsetMsgId": m.OffsetMsgID,
		"keys": append([]string{}, m.Keys...), "tag": m.Tags, "properties": m.Properties, "reconsumeTimes": m.ReconsumeTimes,
		"storeTime": m.StoreTime, "bornTime": m.BornTime,
	}
	if m.Properties == nil {
		fields["properties"] = struct{}{}
	}
	if utf8.Valid(m.Body) {
		fields["body"] = string(m.Body)
	} else {
		fields["bodyBase64"] = m.Body
	}
	return fields
}

func runConsume(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	from, at, err := consumeFrom(c)
	if err != nil {
		return err
	}
	if n, idle := c.Int("count"), c.Duration("idle"); n < 0 || idle < 0 {
		return usage("--count %d --idle %v: want none below 0", n, idle)
	}
	if c.IsSet("tag") && c.IsSet("sql") {
		return usage("--tag and --sql: want one of them; in --sql a tag is the property TAGS")
	}
	selector := client.ByTag(c.String("tag"))
	if c.IsSet("sql") {
		selector = client.BySQL(c.String("sql"))
	}
	p := &printer{
		out: bufio.NewWriter(os.Stdout), json: c.String("output") == "json",
		limit: c.Int("count"), done: make(chan struct{}), last: time.Now(),
	}
	err = withClient(c, func(ctx context.Context, cl *client.Client) error {
		consumer, err := cl.NewPushConsumer(client.PushConfig{Group: c.String("group"), From: from, FromTime: at, Workers: 1})
		if err != nil {
			return err
		}
		if err := consumer.Subscribe(c.String("topic"), selector, p.print); err != nil {
			return err
		}
		// A consumer waits for ever for its name server and its topic: what is
		// wrong now is better said now.
		switch _, err := cl.Admin().TopicRoute(ctx, c.String("topic")); {
		case errors.Is(err, client.ErrNoRoute):
			fmt.Fprintf(os.Stderr, "there is no topic %s yet: waiting for it; raftmq topic list shows those there are\n", c.String("topic"))
		case err != nil:
			return err
		default:
			if err := beginAt(ctx, cl, c.String("topic"), c.String("group"), from, at); err != nil {
				return err
			}
		}
		if err := consumer.Start(ctx); err != nil {
			return err
		}
		if !p.wait(ctx, c.Duration("idle")) {
			return nil
		}
		// Not waiting for the message that is held.
		now, cancelNow := context.WithCancel(ctx)
		cancelNow()
		if err := consumer.Close(now); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && p.n == 0 {
		return err
	}
	if err == nil && p.idle && p.limit > 0 {
		fmt.Fprintf(os.Stderr, "consumed %d of %d messages: nothing came for %v\n", p.n, p.limit, c.Duration("idle"))
	} else {
		fmt.Fprintf(os.Stderr, "consumed %d messages\n", p.n)
	}
	return errors.Join(err, p.err)
}

// wait waits until enough was printed, nothing came for a while, or the command
// is to end. It says whether it is the first.
func (p *printer) wait(ctx context.Context, idle time.Duration) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
			p.mu.Lock()
			p.idle = idle > 0 && !p.full() && time.Since(p.last) > idle
			quiet := p.idle
			p.mu.Unlock()
			if quiet {
				return false
			}
		}
	}
}
