package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// consumeFrom reads --from.
func consumeFrom(c *cli.Context) (client.ConsumeFrom, time.Time, error) {
	switch from := c.String("from"); from {
	case "first":
		return client.FromFirst, time.Time{}, nil
	case "last":
		return client.FromLast, time.Time{}, nil
	default:
		t, err := timeFlag(c, "from")
		if err != nil {
			return 0, t, usage("--from %s: want first, last, a time like 2026-11-21T15:04:05Z, or 2h for two hours ago", from)
		}
		return client.FromTime, t, nil
	}
}

// beginAt commits where a group begins that does not exist yet, or has neither
// consumers nor an offset in the topic, as one that was just created. Left to
// themselves brokers have new groups begin young queues with their first
// message, whatever the consumer says: right for a service, and not what who
// types --from last means.
func beginAt(ctx context.Context, cl *client.Client, topic, group string, from client.ConsumeFrom, at time.Time) (err error) {
	if from == client.FromFirst {
		return nil
	}
	groups, err := cl.Admin().ListGroups(ctx)
	if err != nil {
		return err
	}
	exists := slices.ContainsFunc(groups, func(g client.GroupConfig) bool { return g.Name == group })
	if exists {
		if _, err := cl.Admin().Consumers(ctx, group); !errors.Is(err, client.ErrNotOnline) {
			return err
		}
	}
	p, err := cl.NewPullConsumer(client.PullConfig{Group: group})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close(ctx)) }()
	if !exists {
		if err := cl.Admin().CreateGroup(ctx, client.NewGroupConfig(group)); err != nil {
			return err
		}
	}
	queues, err := p.FetchQueues(ctx, topic)
	if err != nil {
		return err
	}
	for _, q := range queues {
		if _, err := cl.Admin().CommittedOffset(ctx, group, q); !errors.Is(err, client.ErrNoOffset) {
			return err // nil: the group has begun
		}
	}
	for _, q := range queues {
		var offset int64
		if from == client.FromLast {
			offset, err = p.MaxOffset(ctx, q)
		} else {
			offset, err = p.OffsetAt(ctx, q, at)
		}
		if err == nil {
			err = p.Commit(ctx, q, offset)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
