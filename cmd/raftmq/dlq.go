package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// resendChunk bounds the dead letters that are held in memory to be sent again,
// resendBytes what they have together, about.
const (
	resendChunk = 256
	resendBytes = 16 << 20
)

func dlqCommand() *cli.Command {
	span := func(more ...cli.Flag) []cli.Flag {
		return append([]cli.Flag{namesrvFlag,
			&cli.StringFlag{Name: "from", Usage: "only those that became dead at this `TIME` or later: 2026-11-21T15:04:05Z, or 2h for two hours ago"},
			&cli.StringFlag{Name: "to", Usage: "only those that became dead at this `TIME` or before"},
			&cli.StringFlag{Name: "key", Usage: "only those with this `KEY`, the newest 64 of each broker"},
		}, more...)
	}
	unhandled := &cli.BoolFlag{Name: "unhandled", Usage: "only those that were not sent again"}
	return &cli.Command{
		Name:  "dlq",
		Usage: "list, show, export and send again the messages that a consumer group has failed on too often",
		Subcommands: []*cli.Command{
			{Name: "list", ArgsUsage: "GROUP", Usage: "list a consumer group's dead letters, oldest first", Action: dlqList,
				Flags: span(outputFlag, unhandled, &cli.IntFlag{Name: "limit", Value: 100, Usage: "at most `N`; 0 for all"})},
			{Name: "show", ArgsUsage: "GROUP ID", Usage: "show a dead letter by its message id", Action: dlqShow, Flags: []cli.Flag{namesrvFlag, outputFlag}},
			{Name: "resend", ArgsUsage: "GROUP [ID...]", Usage: "give a consumer group dead letters again, and no other group",
				Action: dlqResend, Flags: span(outputFlag,
					&cli.BoolFlag{Name: "all", Usage: "all that were not sent again and are within --from, --to and --key"},
					&cli.BoolFlag{Name: "force", Usage: "also those named that were sent again before"})},
			{Name: "export", ArgsUsage: "GROUP", Usage: "write a consumer group's dead letters as JSON, one a line", Action: dlqExport,
				Flags: span(unhandled, &cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "to this `FILE`, which must not exist; else to standard output"})},
		},
	}
}

// dlqQuery reads --from, --to and --key.
func dlqQuery(c *cli.Context) (q client.DeadLetterQuery, err error) {
	q.Key = c.String("key")
	for name, t := range map[string]*time.Time{"from": &q.From, "to": &q.To} {
		text := c.String(name)
		if text == "" {
			continue
		}
		if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
			*t = time.Now().Add(-ago)
		} else if *t, err = time.Parse(time.RFC3339, text); err != nil {
			return q, usage("--%s %s: want a time like 2026-11-21T15:04:05Z, or 2h for two hours ago", name, text)
		}
	}
	if !q.From.IsZero() && !q.To.IsZero() && q.To.Before(q.From) {
		return q, usage("--to is before --from")
	}
	return q, nil
}

// withLetters calls f with each dead letter that is wanted, oldest first.
func withLetters(c *cli.Context, group string, q client.DeadLetterQuery, f func(l *client.DeadLetter) error) error {
	return withClient(c, func(ctx context.Context, cl *client.Client) error {
		for l, err := range cl.Admin().DeadLetters(ctx, group, q) {
			if err == nil && !(c.Bool("unhandled") && l.Handled) {
				err = f(l)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func dlqList(c *cli.Context) error {
	group, err := oneArg(c, "GROUP")
	if err != nil {
		return err
	}
	q, err := dlqQuery(c)
	if err != nil {
		return err
	}
	limit := c.Int("limit")
	if limit < 0 {
		return usage("--limit %d: want 0 or more", limit)
	}
	t := newTable("msg id", "topic", "tag", "keys", "tries", "dead since", "size", "handled", "broker")
	err = withLetters(c, group, q, func(l *client.DeadLetter) error {
		if limit > 0 && len(t.rows) == limit {
			return errEnough
		}
		t.add(l.MsgID, l.OriginTopic, l.Tags, listCell(l.Keys), l.ReconsumeTimes, l.StoreTime, len(l.Body), l.Handled, l.Queue.BrokerName)
		return nil
	})
	if errors.Is(err, errEnough) {
		fmt.Fprintf(os.Stderr, "there are more than %d: --limit, --from and --to say which are shown\n", limit)
		err = nil
	}
	if err != nil {
		return err
	}
	return t.print(c)
}

// letterFields are a dead letter as JSON has it.
func letterFields(l *client.DeadLetter) map[string]any {
	fields := messageFields(l.MessageExt)
	fields["topic"] = l.OriginTopic
	fields["deadLetterTopic"] = l.Topic
	fields["originMsgId"] = l.OriginMsgID
	fields["handled"] = l.Handled
	if l.Compressed { // the body is as it was sent
		fields["compressed"] = true
	}
	return fields
}

func dlqShow(c *cli.Context) error {
	if c.NArg() != 2 {
		return usage("%s wants a GROUP and an ID, and flags before them; see %[1]s --help", c.Command.HelpName)
	}
	group, id := c.Args().Get(0), c.Args().Get(1)
	t := newTable("field", "value")
	var found []map[string]any
	err := withLetters(c, group, client.DeadLetterQuery{ID: id}, func(l *client.DeadLetter) error {
		found = append(found, letterFields(l))
		body := string(l.Body)
		if _, text := found[len(found)-1]["body"]; !text {
			body = fmt.Sprintf("%d bytes that are no text; -o json has them in base64", len(l.Body))
		}
		for _, row := range [][2]any{
			{"msg id", l.MsgID}, {"offset msg id", l.OffsetMsgID}, {"origin msg id", l.OriginMsgID}, {"topic", l.OriginTopic},
			{"tag", l.Tags}, {"keys", strings.Join(l.Keys, " ")}, {"tries", l.ReconsumeTimes}, {"born", l.BornTime}, {"born host", l.BornHost},
			{"dead since", l.StoreTime}, {"broker", l.Queue.BrokerName}, {"handled", l.Handled}, {"properties", string(mustJSON(l.Properties))}, {"body", body},
		} {
			t.add(row[0], row[1])
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return fmt.Errorf("group %s has no dead letter %s: raftmq dlq list %[1]s shows those it has", group, id)
	case c.String("output") == "json":
		e := json.NewEncoder(c.App.Writer)
		e.SetIndent("", "  ")
		return e.Encode(found)
	}
	return t.print(c)
}

// mustJSON encodes properties.
func mustJSON(properties map[string]string) []byte {
	b, err := json.Marshal(properties)
	if err != nil {
		panic(err) // it is a map of strings
	}
	return b
}

func dlqExport(c *cli.Context) (err error) {
	group, err := oneArg(c, "GROUP")
	if err != nil {
		return err
	}
	q, err := dlqQuery(c)
	if err != nil {
		return err
	}
	var w io.Writer = os.Stdout
	if name := c.String("file"); name != "" {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		if err != nil {
			return &exitError{exitUsage, err}
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		w = f
	}
	out := bufio.NewWriter(w)
	p := newProgress("exported")
	var n int64
	err = withLetters(c, group, q, func(l *client.DeadLetter) error {
		n++
		p.show(n, 0)
		return json.NewEncoder(out).Encode(letterFields(l))
	})
	p.done()
	err = errors.Join(err, out.Flush())
	fmt.Fprintf(os.Stderr, "exported %d dead letters\n", n)
	return err
}
