package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

func raftTrustCommand() *cli.Command {
	return &cli.Command{
		Name:  "trust",
		Usage: "let a replica vote that lost power with entries unsynced",
		Description: "With flushDiskType: ASYNC_FLUSH a replica that lost power does not vote until it has what it\n" +
			"acknowledged again. If a majority lost power, those replicas wait until every voter answers, as one of\n" +
			"them may hold what the others lost. Give this command to each of them if a voter will not come back:\n" +
			"what only that one holds is lost then. raft status says which replicas are suspect.",
		Flags: []cli.Flag{namesrvFlag, outputFlag,
			&cli.StringFlag{Name: "group", Aliases: []string{"g"}, Usage: "broker `GROUP`, has to be given"},
			&cli.StringFlag{Name: "node", Usage: "`NODE` whose replica it is, has to be given"}},
		Action: raftTrust,
	}
}

func raftTrust(c *cli.Context) error {
	for _, name := range []string{"group", "node"} {
		if c.String(name) == "" {
			return usage("--%s is missing; see %s --help", name, c.Command.HelpName)
		}
	}
	return withReplicas(c, func(ctx context.Context, a *client.Admin, all []replica) error {
		i := slices.IndexFunc(all, func(r replica) bool { return r.node == c.String("node") })
		if i < 0 {
			return fmt.Errorf("no replica of %s on node %s answers: see raftmq raft status", c.String("group"), c.String("node"))
		}
		if err := a.RaftTrust(ctx, all[i].addr); err != nil {
			return err
		}
		t := newTable("group", "node", "trusted")
		t.add(all[i].group, all[i].node, true)
		return t.print(c)
	})
}

// tellIncidents says what raft status has no column for.
func tellIncidents(s *client.RaftStatus) {
	if s.Suspect {
		fmt.Fprintf(os.Stderr, "%s of %s lost power with entries unsynced: it does not vote until it has what it acknowledged again\n", s.Node, s.Group)
	}
	if s.PossibleLoss != "" {
		fmt.Fprintf(os.Stderr, "%s of %s: acknowledged messages may be lost: %s\n", s.Node, s.Group, s.PossibleLoss)
	}
	if s.ServerID == s.Leader {
		for _, i := range s.Incidents {
			fmt.Fprintf(os.Stderr, "%s: %s: %s %s\n", s.Group, time.UnixMilli(i.Time).Format(time.RFC3339), i.Replica, i.What)
		}
	}
}
