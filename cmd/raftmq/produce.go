package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// maxLine bounds a line that is one message.
const maxLine = 4 << 20

func produceCommand() *cli.Command {
	return &cli.Command{
		Name:  "produce",
		Usage: "send messages: the lines of a file or of standard input, or generated ones",
		Description: "Each line is a message, without the line's end. Lines are sent to the topic's queues in turn;\n" +
			"with --shard all to one queue, in their order. A message that can't be stored ends the\n" +
			"command: exit code 3 says that it may be stored all the same.",
		Flags: []cli.Flag{
			namesrvFlag, outputFlag,
			&cli.StringFlag{Name: "topic", Aliases: []string{"t"}, Required: true, Usage: "`TOPIC`"},
			&cli.StringFlag{Name: "file", Aliases: []string{"F"}, Usage: "`FILE` of messages, - for standard input (the default)"},
			&cli.StringFlag{Name: "key", Usage: "`KEY` to find each message by; %d is its number"},
			&cli.StringFlag{Name: "tag", Usage: "`TAG` of each message"},
			&cli.StringSliceFlag{Name: "property", Usage: "`NAME=VALUE` of each message, for consumers and their --sql; more than once for more"},
			&cli.IntFlag{Name: "delay", DefaultText: "none", Usage: "deliver by the brokers' delay `LEVEL`: by default 1 is 1 s, 5 is 1 min, 18, the highest, 2 h"},
			&cli.DurationFlag{Name: "deliver-after", DefaultText: "at once", Usage: "deliver after this `TIME`, up to timerMaxDelaySec"},
			&cli.StringFlag{Name: "shard", Usage: "`KEY`: all messages to the queue that belongs to it, in order"},
			&cli.IntFlag{Name: "size", DefaultText: "none are generated", Usage: "generate messages of this many `BYTES`"},
			&cli.IntFlag{Name: "count", DefaultText: "all lines", Usage: "generate `N` messages, or send only the first N lines"},
			&cli.DurationFlag{Name: "timeout", Value: 10 * time.Second, Usage: "`TIME` for one message, with all its retries"},
		},
		Action: runProduce,
	}
}

// source gives the bodies to send, one after the other, and io.EOF.
func source(c *cli.Context) (next func() ([]byte, error), closer io.Closer, err error) {
	count := c.Int("count")
	if count < 0 {
		return nil, nil, usage("--count %d: want 1 or more", count)
	}
	if size := c.Int("size"); c.IsSet("size") {
		if size < 0 || size > maxLine || c.IsSet("file") || count == 0 {
			return nil, nil, usage("--size %d: want 0 to %d, with --count and without --file", size, maxLine)
		}
		body := make([]byte, size)
		for i := range body {
			body[i] = "raftmq "[i%7]
		}
		return func() ([]byte, error) {
			if count--; count < 0 {
				return nil, io.EOF
			}
			return body, nil
		}, io.NopCloser(nil), nil
	}
	var in io.ReadCloser = io.NopCloser(os.Stdin)
	if name := c.String("file"); name != "" && name != "-" {
		if in, err = os.Open(name); err != nil {
			return nil, nil, usage("%v", err)
		}
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine+2)
	n := 0
	return func() ([]byte, error) {
		if count > 0 && n == count {
			return nil, io.EOF
		}
		n++
		more := lines.Scan()
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong), len(lines.Bytes()) > maxLine:
			return nil, fmt.Errorf("line %d is longer than %d bytes, the limit of a message's body; nothing of it was sent", n, maxLine)
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", n, err)
		case !more:
			return nil, io.EOF
		}
		return append([]byte(nil), lines.Bytes()...), nil
	}, in, nil
}

// messageLike reads the flags that say what all messages have. Properties is
// only read by sends, so they can share it.
func messageLike(c *cli.Context) (m client.Message, err error) {
	m = client.Message{
		Topic: c.String("topic"), Tags: c.String("tag"), ShardingKey: c.String("shard"), Properties: map[string]string{},
		DelayLevel: c.Int("delay"), DeliverAfter: c.Duration("deliver-after"),
	}
	for _, p := range c.StringSlice("property") {
		name, value, ok := strings.Cut(p, "=")
		switch {
		case !ok || name == "" || value == "":
			return m, usage("--property %s: want NAME=VALUE", p)
		case client.IsSystemProperty(name):
			return m, usage("--property %s: %s is the system's own; there are --tag, --key, --delay and --deliver-after", p, name)
		}
		m.Properties[name] = value
	}
	switch {
	case c.IsSet("delay") && m.DelayLevel < 1:
		return m, usage("--delay %d: want a level, 1 or more", m.DelayLevel)
	case c.IsSet("deliver-after") && m.DeliverAfter <= 0:
		return m, usage("--deliver-after %v: want more than 0", m.DeliverAfter)
	case c.IsSet("delay") && c.IsSet("deliver-after"):
		return m, usage("--delay and --deliver-after: want one of them")
	}
	return m, nil
}

func runProduce(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if d := c.Duration("timeout"); d <= 0 {
		return usage("--timeout %v: want more than 0", d)
	}
	like, err := messageLike(c)
	if err != nil {
		return err
	}
	next, in, err := source(c)
	if err != nil {
		return err
	}
	defer in.Close() // it was only read
	return withClient(c, func(ctx context.Context, cl *client.Client) error {
		p, err := cl.NewProducer(client.ProducerConfig{Timeout: c.Duration("timeout"), InOrder: c.String("shard") != ""})
		if err != nil {
			return err
		}
		s := sender{like: like}
		err = s.run(ctx, c, p, next)
		if errors.Is(err, client.ErrNotSent) && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w (asked were the name servers %s)", err, c.String("namesrv"))
		}
		if s.stored == 0 && err != nil {
			return err
		}
		t := newTable("topic", "sent", "stored", "failed", "unknown", "seconds", "msg/s")
		elapsed := s.elapsed.Seconds()
		t.add(c.String("topic"), s.sent, s.stored, s.failed, s.unknown, elapsed, float64(s.stored)/max(elapsed, 0.001))
		return errors.Join(t.print(c), err)
	})
}

// sender sends what a source gives, and counts.
type sender struct {
	like                          client.Message // what all have
	mu                            sync.Mutex
	sent, stored, failed, unknown int64
	err                           error // the first, or the first whose outcome is unknown
	elapsed                       time.Duration
}

// body is what a source gave.
type body struct {
	data []byte
	err  error
}

func (s *sender) run(ctx context.Context, c *cli.Context, p *client.Producer, next func() ([]byte, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begun := time.Now()
	bar := newProgress("sent")
	defer bar.done()
	// Nobody waits for who reads: a terminal can't be kept from blocking it, and
	// the command has to end all the same.
	bodies := make(chan body, 1024)
	go func() {
		for {
			data, err := next()
			select {
			case bodies <- body{data, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	var under sync.WaitGroup
	var readErr error
	for readErr == nil && ctx.Err() == nil {
		select {
		case b := <-bodies:
			if readErr = b.err; readErr == nil {
				s.send(ctx, cancel, c, p, b.data, &under)
				bar.show(s.sent, int64(c.Int("count")))
			}
		case <-ctx.Done():
		}
	}
	if readErr == io.EOF {
		readErr = nil
	}
	under.Wait()
	s.elapsed = time.Since(begun)
	return errors.Join(readErr, s.err, c.Context.Err())
}

// send sends one message; the first that fails cancels the rest.
func (s *sender) send(ctx context.Context, cancel func(), c *cli.Context, p *client.Producer, data []byte, under *sync.WaitGroup) {
	m := s.like
	m.Body = data
	if key := c.String("key"); key != "" {
		m.Keys = []string{strings.ReplaceAll(key, "%d", fmt.Sprint(s.sent))}
	}
	s.sent++
	under.Add(1)
	p.SendAsync(ctx, &m, func(_ *client.SendResult, err error) {
		defer under.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case err == nil:
			s.stored++
			return
		case errors.Is(err, client.ErrLimbo):
			s.unknown++
			if s.unknown == 1 {
				s.err = err
			}
		default:
			s.failed++
		}
		if s.err == nil {
			s.err = err
		}
		cancel()
	})
}
