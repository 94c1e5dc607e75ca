package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// maxRetries is more often than anything can come again.
const maxRetries = 1 << 20

func groupCreateCommand() *cli.Command {
	return &cli.Command{
		Name: "create", ArgsUsage: "GROUP", Usage: "create a consumer group on all broker groups, or change it",
		Description: "What no flag names stays as it is; in a new group it is the default. A consumer that starts\n" +
			"later and says how often its messages come again overrules --retry-max, as raftmq's Go client does.",
		Flags: []cli.Flag{
			namesrvFlag, outputFlag,
			&cli.IntFlag{Name: "retry-max", DefaultText: "16", Usage: "a message comes again `N` times before it is a dead letter; 0: it is one at once"},
			&cli.IntFlag{Name: "retry-queues", DefaultText: "1", Usage: "`N` queues for messages that come again, on each broker group; counts until its first consumer has come"},
			&cli.StringFlag{Name: "consume", DefaultText: "on", Usage: "`on or off`: off refuses the group's consumers messages"},
			&cli.StringFlag{Name: "broadcast", DefaultText: "on", Usage: "`on or off`: off refuses messages to those that broadcast"},
		},
		Action: groupCreate,
	}
}

// groupChanges reads the flags of group create: what they change of a group.
func groupChanges(c *cli.Context) (change func(*client.GroupConfig), err error) {
	retries, queues := c.Int("retry-max"), c.Int("retry-queues")
	if retries < 0 || retries > maxRetries {
		return nil, usage("--retry-max %d: want 0 to %d", retries, maxRetries)
	}
	if c.IsSet("retry-queues") && queues < 1 || queues > maxQueues {
		return nil, usage("--retry-queues %d: want 1 to %d", queues, maxQueues)
	}
	for _, flag := range []string{"consume", "broadcast"} {
		if v := c.String(flag); c.IsSet(flag) && v != "on" && v != "off" {
			return nil, usage("--%s %s: want on or off", flag, v)
		}
	}
	return func(g *client.GroupConfig) {
		if c.IsSet("retry-max") {
			g.RetryMaxTimes = int32(retries)
		}
		if c.IsSet("retry-queues") {
			g.RetryQueueNums = int32(queues)
		}
		if c.IsSet("consume") {
			g.ConsumeEnable = c.String("consume") == "on"
		}
		if c.IsSet("broadcast") {
			g.ConsumeBroadcastEnable = c.String("broadcast") == "on"
		}
	}, nil
}

func groupCreate(c *cli.Context) error {
	name, err := oneArg(c, "GROUP")
	if err != nil {
		return err
	}
	if client.IsSystemGroup(name) {
		return usage("%s is one of the system's own groups", name)
	}
	change, err := groupChanges(c)
	if err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		groups, err := a.ListGroups(ctx)
		if err != nil {
			return err
		}
		g := client.NewGroupConfig(name)
		if i := slices.IndexFunc(groups, func(g client.GroupConfig) bool { return g.Name == name }); i >= 0 {
			g = groups[i]
		}
		change(&g)
		switch err := a.CreateGroup(ctx, g); {
		case errors.Is(err, client.ErrConfig):
			return err
		case err != nil:
			return fmt.Errorf("some broker groups may have it and others not, the same command again makes them equal: %w", err)
		}
		return printGroups(c, g)
	})
}

// printGroups prints what is configured of groups.
func printGroups(c *cli.Context, groups ...client.GroupConfig) error {
	t := newTable("group", "consume", "broadcast", "max retries", "retry queues")
	for _, g := range groups {
		t.add(g.Name, g.ConsumeEnable, g.ConsumeBroadcastEnable, g.RetryMaxTimes, g.RetryQueueNums)
	}
	return t.print(c)
}
