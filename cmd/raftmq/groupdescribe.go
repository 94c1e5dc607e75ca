package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

func groupDescribeCommand() *cli.Command {
	return &cli.Command{
		Name: "describe", ArgsUsage: "GROUP", Usage: "show how far a group is, and who consumes",
		Description: "All queues of the topics in which the group has committed an offset, or that its consumers\n" +
			"subscribe to. A queue without a committed offset has - there (null in JSON), and its lag counts\n" +
			"from its first message.",
		Flags: []cli.Flag{
			namesrvFlag, outputFlag,
			&cli.StringFlag{Name: "topic", Aliases: []string{"t"}, Usage: "only in this `TOPIC`"},
		},
		Action: groupDescribe,
	}
}

func groupDescribe(c *cli.Context) error {
	name, err := oneArg(c, "GROUP")
	if err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		if err := knownGroup(ctx, a, name); err != nil {
			return err
		}
		online, err := a.Consumers(ctx, name)
		if errors.Is(err, client.ErrNotOnline) {
			online, err = &client.ConsumerConnections{}, nil
		}
		if err != nil {
			return err
		}
		queues, err := groupQueues(ctx, a, name, c.String("topic"), online)
		if err != nil {
			return err
		}
		t := newTable("group", "topic", "broker", "queue", "offset", "end", "lag", "last consumed")
		for _, q := range queues {
			var at time.Time
			if q.LastTimestamp > 0 {
				at = time.UnixMilli(q.LastTimestamp)
			}
			var offset any // - or null
			if q.committed {
				offset = q.ConsumerOffset
			}
			t.add(name, q.Topic, q.BrokerName, q.QueueID, offset, q.BrokerOffset, q.BrokerOffset-q.from, at)
		}
		consumers := newTable("client id", "address", "language")
		for _, m := range online.Connections {
			consumers.add(m.ClientID, m.ClientAddr, fmt.Sprint(m.Language))
		}
		if c.String("output") == "json" {
			return printJSON(c.App.Writer, map[string]any{"group": name, "queues": t.objects(), "consumers": consumers.objects()})
		}
		if err := t.print(c); err != nil {
			return err
		}
		if _, err = fmt.Fprintf(c.App.Writer, "\n%d consumers\n", len(consumers.rows)); err != nil || len(consumers.rows) == 0 {
			return err
		}
		return consumers.print(c)
	})
}

// groupQueue is how far a group is with a queue.
type groupQueue struct {
	client.QueueConsumeStats
	committed bool
	from      int64 // where the lag counts from
}

// groupQueues returns all queues of the topics that a group has to do with, or of
// one topic. Brokers tell of those topics only that they have an offset in, so
// each is asked for what others know.
func groupQueues(ctx context.Context, a *client.Admin, group, topic string, online *client.ConsumerConnections) ([]groupQueue, error) {
	topics := []string{topic}
	if topic == "" {
		stats, err := a.ConsumeStats(ctx, group, "")
		if err != nil {
			return nil, err
		}
		topics = nil
		for _, q := range stats.Queues {
			topics = append(topics, q.Topic)
		}
		for _, s := range online.Subscriptions {
			topics = append(topics, s.Topic)
		}
		slices.Sort(topics)
		topics = slices.Compact(topics)
	}
	var all []groupQueue
	for _, topic := range topics {
		stats, err := a.ConsumeStats(ctx, group, topic)
		if err != nil {
			return nil, err
		}
		var queues []groupQueue
		for _, q := range stats.Queues {
			queues = append(queues, groupQueue{QueueConsumeStats: q, committed: true, from: q.ConsumerOffset})
		}
		if err := markUncommitted(ctx, a, group, topic, queues); err != nil {
			return nil, err
		}
		all = append(all, queues...)
	}
	return all, nil
}

// markUncommitted finds which queues at offset 0 are so because nothing was
// committed, and has their lag count from their first message.
func markUncommitted(ctx context.Context, a *client.Admin, group, topic string, queues []groupQueue) error {
	if !slices.ContainsFunc(queues, func(q groupQueue) bool { return q.ConsumerOffset == 0 }) {
		return nil
	}
	stats, err := a.TopicStats(ctx, topic)
	if errors.Is(err, client.ErrNoRoute) {
		return nil // it is just being made, or deleted: nobody consumes it
	}
	if err != nil {
		return err
	}
	first := map[client.MessageQueue]int64{}
	for _, s := range stats.Queues {
		first[s.MessageQueue] = s.MinOffset
	}
	var asking sync.WaitGroup
	some := make(chan struct{}, 16)
	errs := make([]error, len(queues))
	for i := range queues {
		q := &queues[i]
		if q.ConsumerOffset > 0 {
			continue
		}
		some <- struct{}{}
		asking.Go(func() {
			defer func() { <-some }()
			_, err := a.CommittedOffset(ctx, group, q.MessageQueue)
			if errors.Is(err, client.ErrNoOffset) {
				q.committed = false
				q.from = min(first[q.MessageQueue], q.BrokerOffset) // what came since is no lag yet
				return
			}
			errs[i] = err
		})
	}
	asking.Wait()
	return errors.Join(errs...)
}
