package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

func groupCommand() *cli.Command {
	topic := &cli.StringFlag{Name: "topic", Aliases: []string{"t"}, Required: true, Usage: "`TOPIC`"}
	anyTopic := &cli.StringFlag{Name: "topic", Aliases: []string{"t"}, Usage: "only in this `TOPIC`"}
	return &cli.Command{
		Name:  "group",
		Usage: "create, list, describe and delete consumer groups; set their offsets",
		Subcommands: []*cli.Command{
			groupCreateCommand(),
			{Name: "list", Usage: "list the consumer groups", Flags: []cli.Flag{
				namesrvFlag, outputFlag,
				&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "the system's own too"},
			}, Action: groupList},
			groupDescribeCommand(),
			{
				Name: "reset-offset", ArgsUsage: "GROUP", Usage: "set where a group goes on",
				Description: "In all queues of a topic by time, or in one queue to an offset. The group's consumers may be there\n" +
					"or not; what they hold of before they forget. Stock clients pause for 10 s when they are told.",
				Flags: []cli.Flag{
					namesrvFlag, outputFlag, topic,
					&cli.StringFlag{Name: "to", Usage: "`WHERE`: first, last, a time like 2026-11-21T15:04:05Z, or 2h for two hours ago"},
					&cli.BoolFlag{Name: "only-back", Usage: "skip nothing: leave the queues alone that would go forward"},
					&cli.StringFlag{Name: "broker", Usage: "broker `GROUP` of the one queue"},
					&cli.IntFlag{Name: "queue", Value: -1, DefaultText: "all", Usage: "`N` of the one queue"},
					&cli.Int64Flag{Name: "offset", Value: -1, DefaultText: "none", Usage: "`OFFSET` in the one queue"},
				},
				Action: groupReset,
			},
			{Name: "skip", ArgsUsage: "GROUP", Usage: "go on with the next message: skip what has accumulated", Flags: []cli.Flag{namesrvFlag, outputFlag, topic}, Action: groupSkip},
			{
				Name: "clone-offset", ArgsUsage: "GROUP", Usage: "give a group the offsets of another one",
				Flags:  []cli.Flag{namesrvFlag, outputFlag, anyTopic, &cli.StringFlag{Name: "from", Required: true, Usage: "the other `GROUP`"}},
				Action: groupClone,
			},
			{Name: "delete", ArgsUsage: "GROUP", Usage: "delete a group and its offsets", Flags: []cli.Flag{
				namesrvFlag, outputFlag,
				&cli.BoolFlag{Name: "keep-offsets", Usage: "a group of that name that is made later goes on where this one was"},
			}, Action: groupDelete},
		},
	}
}

func groupList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		groups, err := a.ListGroups(ctx)
		if err != nil {
			return err
		}
		if !c.Bool("all") {
			groups = slices.DeleteFunc(groups, func(g client.GroupConfig) bool { return client.IsSystemGroup(g.Name) })
		}
		return printGroups(c, groups...)
	})
}

// knownGroup says whether there is a group.
func knownGroup(ctx context.Context, a *client.Admin, name string) error {
	groups, err := a.ListGroups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if g.Name == name {
			return nil
		}
	}
	return fmt.Errorf("%w: %s", client.ErrNoGroup, name)
}

// timeFlag reads a flag that holds a time, or says how long ago it was.
func timeFlag(c *cli.Context, flag string) (time.Time, error) {
	text := c.String(flag)
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return time.Now().Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UnixMilli() < 0 {
		return t, usage("--%s %s: want a time like 2026-11-21T15:04:05Z, or 2h for two hours ago", flag, text)
	}
	return t, nil
}

func groupReset(c *cli.Context) error {
	name, err := oneArg(c, "GROUP")
	if err != nil {
		return err
	}
	if c.IsSet("offset") || c.IsSet("queue") || c.IsSet("broker") {
		return groupResetQueue(c, name)
	}
	var at time.Time
	switch to := c.String("to"); to {
	case "":
		return usage("--to is missing, or --broker, --queue and --offset; see %s --help", c.Command.HelpName)
	case "last":
	case "first":
		at = time.UnixMilli(0)
	default:
		if at, err = timeFlag(c, "to"); err != nil {
			return usage("--to %s: want first, last, a time like 2026-11-21T15:04:05Z, or 2h for two hours ago", to)
		}
	}
	return resetTo(c, name, at, !c.Bool("only-back"))
}

// resetTo resets a group in a topic, to its end if at is zero.
func resetTo(c *cli.Context, group string, at time.Time, force bool) error {
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		offsets, err := a.ResetOffsets(ctx, group, c.String("topic"), at, force)
		if err != nil {
			return err
		}
		t := newTable("group", "topic", "broker", "queue", "offset")
		for _, o := range offsets {
			t.add(group, o.Topic, o.BrokerName, o.QueueID, o.Offset)
		}
		return t.print(c)
	})
}

func groupResetQueue(c *cli.Context, group string) error {
	broker, queue, offset := c.String("broker"), c.Int("queue"), c.Int64("offset")
	if broker == "" || queue < 0 || offset < 0 || c.IsSet("to") {
		return usage("want --broker, --queue and --offset of one queue, none below 0, or else --to; see %s --help", c.Command.HelpName)
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		mq := client.MessageQueue{Topic: c.String("topic"), BrokerName: broker, QueueID: int32(queue)}
		if err := a.ResetOffset(ctx, group, mq, offset); err != nil {
			return err
		}
		t := newTable("group", "topic", "broker", "queue", "offset")
		t.add(group, mq.Topic, mq.BrokerName, mq.QueueID, offset)
		return t.print(c)
	})
}

func groupSkip(c *cli.Context) error {
	name, err := oneArg(c, "GROUP")
	if err != nil {
		return err
	}
	return resetTo(c, name, time.Time{}, true)
}

func groupClone(c *cli.Context) error {
	name, err := oneArg(c, "GROUP")
	if err != nil {
		return err
	}
	if name == c.String("from") {
		return usage("--from %s is the same group", name)
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		if err := a.CloneOffsets(ctx, c.String("from"), name, c.String("topic")); err != nil {
			return err
		}
		stats, err := a.ConsumeStats(ctx, name, c.String("topic"))
		if err != nil {
			return err
		}
		t := newTable("group", "topic", "broker", "queue", "offset")
		for _, q := range stats.Queues {
			t.add(name, q.Topic, q.BrokerName, q.QueueID, q.ConsumerOffset)
		}
		return t.print(c)
	})
}

func groupDelete(c *cli.Context) error {
	name, err := oneArg(c, "GROUP")
	if err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		if err := knownGroup(ctx, a, name); err != nil {
			return err
		}
		if err := a.DeleteGroup(ctx, name, !c.Bool("keep-offsets")); err != nil {
			return err
		}
		t := newTable("group", "deleted")
		t.add(name, true)
		return t.print(c)
	})
}

// groupStep says what to do about an error of a consumer group.
func groupStep(err error) string {
	switch {
	case errors.Is(err, client.ErrNoGroup):
		return "\nraftmq group list shows the groups there are; raftmq group create makes one, and so does its first consumer."
	case errors.Is(err, client.ErrNotOnline):
		return "\nThe group has no consumer now: start one, or switch useServerSideResetOffset on, which needs none."
	case errors.Is(err, client.ErrNotFound) && !strings.Contains(err.Error(), "raftmq "):
		return "\nAn id that a producer gave is found by raftmq message query --id; messages are kept for fileReservedTime."
	}
	return ""
}
