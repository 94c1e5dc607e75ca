package main

import (
	"bufio"
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// maxFound bounds what message query prints.
const maxFound = 10_000

func messageCommand() *cli.Command {
	return &cli.Command{
		Name:  "message",
		Usage: "find stored messages",
		Subcommands: []*cli.Command{
			{
				Name: "query", ArgsUsage: "TOPIC", Usage: "find messages of a topic by key, id or time",
				Description: "With neither --key nor --id all messages that were stored in the span of time, which --from begins.\n" +
					"With -o json messages have the same fields as from raftmq consume.",
				Flags: []cli.Flag{
					namesrvFlag, outputFlag,
					&cli.StringFlag{Name: "key", Usage: "one of the message's `KEY`s"},
					&cli.StringFlag{Name: "id", Usage: "`ID` that the producer gave the message"},
					&cli.StringFlag{Name: "from", Usage: "stored at this `TIME` or later: 2026-11-21T15:04:05Z, or 2h for two hours ago"},
					&cli.StringFlag{Name: "to", Usage: "stored before this `TIME`"},
					&cli.IntFlag{Name: "limit", Value: 32, Usage: "at most `N` messages"},
				},
				Action: messageQuery,
			},
			{Name: "view", ArgsUsage: "ID", Usage: "show the message at an offset message id, whole", Flags: []cli.Flag{namesrvFlag, outputFlag}, Action: messageView},
		},
	}
}

// bodyCell is a body in a table: the begin of it as text. In JSON messages are
// messageFields, not tables.
type bodyCell []byte

const shownBody = 60

func (b bodyCell) String() string {
	text := strconv.Quote(string(b[:min(len(b), shownBody)]))
	if len(b) > shownBody {
		text += "..."
	}
	return text
}

func messageQuery(c *cli.Context) error {
	topic, err := oneArg(c, "TOPIC")
	if err != nil {
		return err
	}
	from, err := timeFlag(c, "from")
	if err != nil {
		return err
	}
	to, err := timeFlag(c, "to")
	if err != nil {
		return err
	}
	key, id, limit := c.String("key"), c.String("id"), c.Int("limit")
	switch {
	case limit < 1 || limit > maxFound:
		return usage("--limit %d: want 1 to %d", limit, maxFound)
	case key != "" && id != "":
		return usage("--key and --id: want one of them")
	case key == "" && id == "" && from.IsZero():
		return usage("--key, --id or --from is missing; see %s --help", c.Command.HelpName)
	}
	return withPuller(c, func(ctx context.Context, p *client.PullConsumer) error {
		var found []*client.MessageExt
		var err error
		switch {
		case key != "":
			found, err = p.QueryByKey(ctx, topic, key, from, to, min(limit, 64)) // brokers say no more
		case id != "":
			found, err = p.QueryByID(ctx, topic, id)
		default:
			found, err = storedIn(ctx, p, topic, from, to, limit)
		}
		if err != nil {
			return err
		}
		found = found[:min(len(found), limit)]
		if c.String("output") == "json" {
			rows := make([]map[string]any, 0, len(found))
			for _, m := range found {
				rows = append(rows, messageFields(m))
			}
			return printJSON(c.App.Writer, rows)
		}
		t := newTable("msg id", "offset msg id", "broker", "queue", "offset", "stored", "tag", "keys", "body")
		for _, m := range found {
			t.add(m.MsgID, m.OffsetMsgID, m.Queue.BrokerName, m.Queue.QueueID, m.QueueOffset, m.StoreTime, m.Tags, listCell(m.Keys), bodyCell(m.Body))
		}
		return t.print(c)
	})
}

// storedIn reads the messages that were stored in a span of time, queue by queue.
func storedIn(ctx context.Context, p *client.PullConsumer, topic string, from, to time.Time, limit int) (found []*client.MessageExt, err error) {
	queues, err := p.FetchQueues(ctx, topic)
	if err != nil {
		return nil, err
	}
	for _, q := range queues {
		offset, err := p.OffsetAt(ctx, q, from)
		if err != nil {
			return nil, err
		}
		for past := false; !past && len(found) < limit; {
			res, err := p.Pull(ctx, client.PullRequest{Queue: q, Offset: offset, NoWait: true})
			if err != nil {
				return nil, err
			}
			for _, m := range res.Messages {
				if past = !to.IsZero() && !m.StoreTime.Before(to); past {
					break
				}
				found = append(found, m)
			}
			past = past || res.Status == client.PullNoNew || res.NextOffset <= offset
			offset = res.NextOffset
		}
	}
	return found, nil
}

func messageView(c *cli.Context) error {
	id, err := oneArg(c, "ID")
	if err != nil {
		return err
	}
	return withPuller(c, func(ctx context.Context, p *client.PullConsumer) error {
		m, err := p.View(ctx, id)
		if errors.Is(err, client.ErrConfig) {
			return usage("%s is no offset message id; the id that a producer gave is found by raftmq message query --id", id)
		}
		if err != nil {
			return err
		}
		if c.String("output") == "json" {
			return (&printer{out: bufio.NewWriter(c.App.Writer), json: true}).write(m)
		}
		t := newTable("field", "value")
		t.add("topic", m.Topic)
		t.add("msg id", m.MsgID)
		t.add("broker, queue, offset", m.Queue.BrokerName+", "+strconv.Itoa(int(m.Queue.QueueID))+", "+strconv.FormatInt(m.QueueOffset, 10))
		t.add("stored", m.StoreTime)
		t.add("born", m.BornTime)
		t.add("born host", m.BornHost.String())
		t.add("tag", m.Tags)
		t.add("keys", listCell(m.Keys))
		t.add("reconsume times", m.ReconsumeTimes)
		for name, value := range m.RawProperties().All() {
			t.add("property "+string(name), strconv.Quote(string(value)))
		}
		t.add("body", bodyCell(m.Body))
		return t.print(c)
	})
}

// withPuller runs f with a consumer that commits nothing.
func withPuller(c *cli.Context, f func(ctx context.Context, p *client.PullConsumer) error) error {
	return withClient(c, func(ctx context.Context, cl *client.Client) (err error) {
		ctx, cancel := context.WithTimeout(ctx, adminTimeout)
		defer cancel()
		p, err := cl.NewPullConsumer(client.PullConfig{Group: client.GroupTools})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.Close(ctx)) }()
		return f(ctx, p)
	})
}
