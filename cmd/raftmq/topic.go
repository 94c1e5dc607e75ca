package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

func topicCommand() *cli.Command {
	return &cli.Command{
		Name:  "topic",
		Usage: "create, list, describe and delete topics",
		Subcommands: []*cli.Command{
			{
				Name: "create", ArgsUsage: "TOPIC", Usage: "create a topic on all broker groups, or change it",
				Flags: []cli.Flag{
					namesrvFlag, outputFlag,
					&cli.IntFlag{Name: "queues", Aliases: []string{"q"}, Value: 8, Usage: "`N` queues on each broker group"},
					&cli.IntFlag{Name: "perm", Value: 6, Usage: "2 write, 4 read, 6 both"},
					&cli.StringSliceFlag{Name: "broker", Usage: "only on this broker `GROUP`; more than once for more"},
					&cli.StringSliceFlag{Name: "attribute", Usage: "`NAME=VALUE` to set, -NAME to remove"},
				},
				Action: topicCreate,
			},
			{Name: "list", Usage: "list the topics", Flags: []cli.Flag{
				namesrvFlag, outputFlag,
				&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "the system's own too"},
			}, Action: topicList},
			{Name: "describe", ArgsUsage: "TOPIC", Usage: "show a topic's queues", Flags: []cli.Flag{namesrvFlag, outputFlag}, Action: topicDescribe},
			{Name: "delete", ArgsUsage: "TOPIC", Usage: "delete a topic and its messages", Flags: []cli.Flag{namesrvFlag, outputFlag}, Action: topicDelete},
		},
	}
}

// oneArg is a command's only argument.
func oneArg(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", usage("%s wants one %s, and flags before it; see raftmq %s --help", c.Command.FullName(), what, c.Command.FullName())
	}
	return c.Args().First(), nil
}

func topicCreate(c *cli.Context) error {
	name, err := oneArg(c, "TOPIC")
	if err != nil {
		return err
	}
	t := client.NewTopicConfig(name)
	t.ReadQueueNums, t.WriteQueueNums = int32(c.Int("queues")), int32(c.Int("queues"))
	t.Perm = int32(c.Int("perm"))
	t.Attributes = map[string]string{}
	for _, a := range c.StringSlice("attribute") {
		key, value, ok := strings.Cut(a, "=")
		switch {
		case ok && key != "":
			t.Attributes["+"+key] = value
		case strings.HasPrefix(a, "-") && len(a) > 1:
			t.Attributes[a] = ""
		default:
			return usage("--attribute %s: want NAME=VALUE or -NAME", a)
		}
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		if err := a.CreateTopic(ctx, t, c.StringSlice("broker")...); err != nil {
			return err
		}
		route, err := awaitRoute(ctx, a, name)
		if err != nil {
			return err
		}
		return printRoute(c, name, route)
	})
}

// awaitRoute waits until the name server knows a topic that was just created.
func awaitRoute(ctx context.Context, a *client.Admin, name string) (*client.RouteData, error) {
	for {
		route, err := a.TopicRoute(ctx, name)
		if err == nil || !errors.Is(err, client.ErrNoRoute) {
			return route, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func printRoute(c *cli.Context, name string, route *client.RouteData) error {
	t := newTable("topic", "broker", "read queues", "write queues", "perm")
	for _, q := range route.Queues {
		t.add(name, q.BrokerName, q.ReadQueueNums, q.WriteQueueNums, permText(q.Perm))
	}
	return t.print(c)
}

func permText(perm int32) string {
	out := ""
	if perm&client.PermRead != 0 {
		out += "R"
	}
	if perm&client.PermWrite != 0 {
		out += "W"
	}
	if perm&client.PermInherit != 0 {
		out += "X"
	}
	return out
}

func topicList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		names, err := a.ListTopics(ctx)
		if err != nil {
			return err
		}
		info, err := a.ClusterInfo(ctx)
		if err != nil {
			return err
		}
		t := newTable("topic")
		for _, name := range names {
			if c.Bool("all") || !systemTopic(name, info) {
				t.add(name)
			}
		}
		return t.print(c)
	})
}

func systemTopic(name string, info *client.ClusterInfo) bool {
	if client.IsSystemTopic(name) || strings.HasSuffix(name, "_REPLY_TOPIC") {
		return true
	}
	_, broker := info.Brokers[name]
	_, cluster := info.Clusters[name]
	return broker || cluster
}

func topicDescribe(c *cli.Context) error {
	name, err := oneArg(c, "TOPIC")
	if err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		stats, err := a.TopicStats(ctx, name)
		if err != nil {
			return err
		}
		t := newTable("topic", "broker", "queue", "first", "next", "messages", "last stored")
		for _, q := range stats.Queues {
			var at time.Time
			if q.LastUpdateTimestamp > 0 {
				at = time.UnixMilli(q.LastUpdateTimestamp)
			}
			t.add(name, q.BrokerName, q.QueueID, q.MinOffset, q.MaxOffset, q.MaxOffset-q.MinOffset, at)
		}
		return t.print(c)
	})
}

func topicDelete(c *cli.Context) error {
	name, err := oneArg(c, "TOPIC")
	if err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		if _, err := a.TopicRoute(ctx, name); err != nil {
			return fmt.Errorf("topic %s: %w", name, err)
		}
		if err := a.DeleteTopic(ctx, name); err != nil {
			return err
		}
		t := newTable("topic", "deleted")
		t.add(name, true)
		return t.print(c)
	})
}
