package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// resending sends dead letters again and keeps count.
type resending struct {
	a        *client.Admin
	group    string
	force    bool
	progress *progress
	table    *table // of letters that are to be shown
	all      bool   // show only what went wrong
	sent     int64
	refused  int
}

func dlqResend(c *cli.Context) error {
	if c.NArg() == 0 {
		return usage("%s wants a GROUP, and flags before it; see %[1]s --help", c.Command.HelpName)
	}
	group, ids := c.Args().First(), c.Args().Tail()
	q, err := dlqQuery(c)
	switch all := c.Bool("all"); {
	case err != nil:
		return err
	case all == (len(ids) > 0):
		return usage("name the dead letters to send again, or say --all; raftmq dlq list %s shows them", group)
	case !all && (c.IsSet("from") || c.IsSet("to") || c.IsSet("key")):
		return usage("--from, --to and --key go with --all")
	case all && c.Bool("force"):
		return usage("--force is for dead letters that are named")
	case q.To.IsZero():
		q.To = time.Now() // what becomes dead again meanwhile is left
	}
	return withClient(c, func(ctx context.Context, cl *client.Client) error {
		r := &resending{
			a: cl.Admin(), group: group, force: c.Bool("force"), all: c.Bool("all"), progress: newProgress("sent again"),
			table: newTable("msg id", "topic", "outcome", "error"),
		}
		var err error
		if r.all {
			err = r.matching(ctx, q)
		} else {
			err = r.named(ctx, ids)
		}
		r.progress.done()
		fmt.Fprintf(os.Stderr, "sent %d dead letters of group %s again\n", r.sent, group)
		if !r.all || len(r.table.rows) > 0 || c.String("output") == "json" {
			err = errors.Join(err, r.table.print(c))
		}
		if err == nil && r.refused > 0 {
			return &exitError{exitFailed, nil} // the table says it
		}
		return err
	})
}

// matching sends again what a query finds and was not sent again before.
func (r *resending) matching(ctx context.Context, q client.DeadLetterQuery) error {
	var letters []*client.DeadLetter
	size := 0
	for l, err := range r.a.DeadLetters(ctx, r.group, q) {
		if err != nil {
			return err
		}
		if l.Handled {
			continue
		}
		letters, size = append(letters, l), size+l.StoreSize
		if len(letters) == resendChunk || size >= resendBytes {
			if err := r.send(ctx, letters); err != nil {
				return err
			}
			letters, size = nil, 0
		}
	}
	return r.send(ctx, letters)
}

// named sends again the letters with some ids. Of several with one id, as when a
// message has become dead again, those count that were not sent again; if there is
// none of these, the last.
func (r *resending) named(ctx context.Context, ids []string) error {
	for _, id := range ids {
		var last *client.DeadLetter
		var open []*client.DeadLetter
		for l, err := range r.a.DeadLetters(ctx, r.group, client.DeadLetterQuery{ID: id}) {
			if err != nil {
				return err
			}
			if last = l; !l.Handled {
				open = append(open, l)
			}
		}
		switch {
		case last == nil:
			r.refused++
			r.table.add(id, "", "not found", "raftmq dlq list "+r.group+" shows those there are")
			continue
		case len(open) == 0:
			open = append(open, last)
		}
		if err := r.send(ctx, open); err != nil {
			return err
		}
	}
	return nil
}

func (r *resending) send(ctx context.Context, letters []*client.DeadLetter) error {
	return r.a.ResendDeadLetters(ctx, r.group, letters, r.force, func(l client.Resent) {
		outcome, text := "sent again", ""
		switch {
		case l.Err == nil:
			r.sent++
			r.progress.show(r.sent, 0)
		case errors.Is(l.Err, client.ErrHandled):
			r.refused++
			outcome, text = "handled before", "--force sends it once more"
		default:
			r.refused++
			outcome, text = "failed", l.Err.Error()
		}
		if l.Err != nil || !r.all {
			r.table.add(l.MsgID, l.OriginTopic, outcome, text)
		}
	})
}
