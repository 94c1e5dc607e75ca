package main

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// minDeadAfter is the shortest silence that brokers let count as death.
const minDeadAfter = 5 * time.Second

// raftAutopilotCommand is about changes of membership that nobody asks for.
func raftAutopilotCommand() *cli.Command {
	group := &cli.StringFlag{Name: "group", Aliases: []string{"g"}, Usage: "broker `GROUP`, has to be given"}
	flags := []cli.Flag{namesrvFlag, outputFlag, group}
	return &cli.Command{
		Name:  "autopilot",
		Usage: "how members get votes, and dead ones are taken out, by themselves",
		Subcommands: []*cli.Command{
			{Name: "state", Usage: "show how the leader sees its members", Flags: flags, Action: autopilotState},
			{Name: "get-config", Usage: "show what holds", Flags: flags, Action: autopilotConfig},
			{Name: "set-config", Usage: "change what holds; what is not given stays", Flags: append(flags[:len(flags):len(flags)],
				&cli.BoolFlag{Name: "cleanup-dead", Usage: "take dead members out that others have replaced; a new group does", DefaultText: "as it is"},
				&cli.IntFlag{Name: "min-voters", Usage: "take no dead voter out if fewer than `N` remained; 0: the default"},
				&cli.DurationFlag{Name: "stable", Usage: "a new member gets its vote when it has been well for `TIME`; 0: the default"},
				&cli.DurationFlag{Name: "dead-after", Usage: "a member that is silent for `TIME`, 5s at least, is dead; 0: the default"},
				&cli.Uint64Flag{Name: "max-trailing", Usage: "a member that is well may be `N` entries behind; 0: the default"},
			), Action: autopilotSetConfig},
		},
	}
}

func withAutopilot(c *cli.Context, f func(ctx context.Context, a *client.Admin, addr string, s *client.RaftAutopilot) error) error {
	if err := needFlags(c, "group"); err != nil {
		return err
	}
	return withLeader(c, func(ctx context.Context, a *client.Admin, addr string) error {
		s, err := a.RaftAutopilot(ctx, addr)
		if err != nil {
			return err
		}
		return f(ctx, a, addr, s)
	})
}

func autopilotState(c *cli.Context) error {
	return withAutopilot(c, func(_ context.Context, _ *client.Admin, _ string, s *client.RaftAutopilot) error {
		t := newTable("server id", "leader", "voter", "learner", "well", "since", "dead", "applied", "complete", "restrained")
		for _, m := range s.Members {
			t.add(m.ServerID, m.Leader, m.Voter, m.Learner, m.Healthy, time.UnixMilli(m.Since), m.Dead, m.Applied, m.Complete, m.Restrained)
		}
		return t.print(c)
	})
}

func autopilotConfig(c *cli.Context) error {
	return withAutopilot(c, func(_ context.Context, _ *client.Admin, _ string, s *client.RaftAutopilot) error {
		return printAutopilotConfig(c, s.Config)
	})
}

func printAutopilotConfig(c *cli.Context, s client.RaftAutopilotConfig) error {
	t := newTable("key", "value")
	t.add("cleanup-dead", s.CleanupDead)
	t.add("min-voters", s.MinVoters)
	t.add("stable", (time.Duration(s.Stable) * time.Millisecond).String())
	t.add("dead-after", (time.Duration(s.DeadAfter) * time.Millisecond).String())
	t.add("max-trailing", s.MaxTrailing)
	return t.print(c)
}

func autopilotSetConfig(c *cli.Context) error {
	for _, name := range []string{"stable", "dead-after"} {
		if c.Duration(name) < 0 {
			return usage("--%s %v: want 0 or more; see %s --help", name, c.Duration(name), c.Command.HelpName)
		}
	}
	if d := c.Duration("dead-after"); d > 0 && d < minDeadAfter {
		return usage("--dead-after %v: want 0 for the default, or %v at least, as an election is no death; see %s --help", d, minDeadAfter, c.Command.HelpName)
	}
	if d := c.Duration("stable"); d > 0 && d < time.Millisecond {
		return usage("--stable %v: want 0 for the default, or 1ms at least; see %s --help", d, c.Command.HelpName)
	}
	if c.Int("min-voters") < 0 {
		return usage("--min-voters %d: want 0 or more; see %s --help", c.Int("min-voters"), c.Command.HelpName)
	}
	return withAutopilot(c, func(ctx context.Context, a *client.Admin, addr string, s *client.RaftAutopilot) error {
		set := s.Config
		if c.IsSet("cleanup-dead") {
			set.CleanupDead = c.Bool("cleanup-dead")
		}
		if c.IsSet("min-voters") {
			set.MinVoters = c.Int("min-voters")
		}
		if c.IsSet("stable") {
			set.Stable = c.Duration("stable").Milliseconds()
		}
		if c.IsSet("dead-after") {
			set.DeadAfter = c.Duration("dead-after").Milliseconds()
		}
		if c.IsSet("max-trailing") {
			set.MaxTrailing = c.Uint64("max-trailing")
		}
		if err := a.RaftSetAutopilot(ctx, addr, set); err != nil {
			return err
		}
		now, err := a.RaftAutopilot(ctx, addr)
		if err != nil {
			return err
		}
		return printAutopilotConfig(c, now.Config)
	})
}
