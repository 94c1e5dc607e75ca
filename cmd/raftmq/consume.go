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
			"With -o json each line is an object with the message's fields; a body that is no UTF-8 text is\n" +
			"its bodyBase64.",
		Flags: []cli.Flag{
			namesrvFlag,
			&cli.StringFlag{Name: "topic", Aliases: []string{"t"}, Required: true, Usage: "`TOPIC`"},
			&cli.StringFlag{Name: "group", Aliases: []string{"g"}, Required: true, Usage: "consumer `GROUP`"},
			&cli.StringFlag{Name: "tag", Usage: "only messages with a `TAG`, or one of them: A || B"},
			&cli.StringFlag{Name: "from", Value: "first", Usage: "`WHERE` a new group begins: first, last, or a time like 2026-11-21T15:04:05Z"},
			&cli.IntFlag{Name: "count", DefaultText: "no end", Usage: "end after `N` messages"},
			&cli.DurationFlag{Name: "idle", DefaultText: "wait for ever", Usage: "end when nothing came for this `TIME`"},
			bodyFlag,
		},
		Action: runConsume,
	}
}

func consumeFrom(c *cli.Context) (client.ConsumeFrom, time.Time, error) {
	switch from := c.String("from"); from {
	case "first":
		return client.FromFirst, time.Time{}, nil
	case "last":
		return client.FromLast, time.Time{}, nil
	default:
		t, err := time.Parse(time.RFC3339, from)
		if err != nil {
			return 0, t, usage("--from %s: want first, last or a time like 2026-11-21T15:04:05Z", from)
		}
		return client.FromTime, t, nil
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
	done  chan struct{}
	err   error // of printing: the consumer must stop, or it would ack what nobody saw
}

var errEnough = errors.New("enough was consumed")

func (p *printer) print(_ context.Context, msgs []*client.MessageExt) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range msgs {
		if p.err != nil {
			return p.err
		}
		if p.limit > 0 && p.n == p.limit {
			return errEnough // it stays for the next run
		}
		if p.err = p.write(m); p.err != nil {
			close(p.done)
			return p.err
		}
		p.n++
		p.last = time.Now()
		if p.n == p.limit {
			close(p.done)
		}
	}
	return nil
}

func (p *printer) write(m *client.MessageExt) error {
	if !p.json {
		if _, err := p.out.Write(append(m.Body, '\n')); err != nil {
			return err
		}
		return p.out.Flush()
	}
	fields := map[string]any{
		"topic": m.Topic, "queue": m.Queue.QueueID, "broker": m.Queue.BrokerName, "offset": m.QueueOffset, "msgId": m.MsgID,
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
	if err := json.NewEncoder(p.out).Encode(fields); err != nil {
		return err
	}
	return p.out.Flush()
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
	p := &printer{
		out: bufio.NewWriter(os.Stdout), json: c.String("output") == "json",
		limit: c.Int("count"), done: make(chan struct{}), last: time.Now(),
	}
	err = withClient(c, func(ctx context.Context, cl *client.Client) error {
		consumer, err := cl.NewPushConsumer(client.PushConfig{Group: c.String("group"), From: from, FromTime: at, Workers: 1})
		if err != nil {
			return err
		}
		if err := consumer.Subscribe(c.String("topic"), c.String("tag"), p.print); err != nil {
			return err
		}
		// It is asked once, as a consumer waits for ever for its name server and
		// its topic.
		switch _, err := cl.Admin().TopicRoute(ctx, c.String("topic")); {
		case errors.Is(err, client.ErrNoRoute):
			fmt.Fprintf(os.Stderr, "there is no topic %s yet: waiting for it; raftmq topic list shows those there are\n", c.String("topic"))
		case err != nil:
			return err
		}
		starting, cancel := ctx, context.CancelFunc(func() {})
		if idle := c.Duration("idle"); idle > 0 {
			starting, cancel = context.WithTimeout(ctx, max(idle, adminTimeout))
		}
		defer cancel()
		if err := consumer.Start(starting); err != nil {
			return err
		}
		p.wait(ctx, c.Duration("idle"))
		return nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && p.n == 0 {
		return err
	}
	fmt.Fprintf(os.Stderr, "consumed %d messages\n", p.n)
	return errors.Join(err, p.err)
}

// wait waits until enough was printed, nothing came for a while, or the command
// is to end.
func (p *printer) wait(ctx context.Context, idle time.Duration) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			p.mu.Lock()
			quiet := time.Since(p.last)
			p.mu.Unlock()
			if idle > 0 && quiet > idle {
				return
			}
		}
	}
}
