package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// raftMemberCommands change who is a member of a group.
func raftMemberCommands() []*cli.Command {
	group := &cli.StringFlag{Name: "group", Aliases: []string{"g"}, Usage: "broker `GROUP`, has to be given"}
	node := &cli.StringFlag{Name: "node", Usage: "`NODE` or server id of the member, has to be given"}
	force := &cli.BoolFlag{Name: "force", Usage: "also if the members that are alive are no majority afterwards: then nothing can be written"}
	member := func(name, text, what string, change func(a *client.Admin) func(ctx context.Context, addr, node string, force bool) error) *cli.Command {
		return &cli.Command{Name: name, Usage: text, Flags: []cli.Flag{namesrvFlag, outputFlag, group, node, force}, Action: func(c *cli.Context) error {
			return raftChange(c, what, change)
		}}
	}
	return []*cli.Command{
		{
			Name: "add-peer", Usage: "take a replica into a group",
			Description: "The node has to run, with itself among nodes and in the group's replicas in its configuration; the\n" +
				"files of the others need not name it. It joins without a vote, fetches what there is, and gets a vote\n" +
				"by itself when it is caught up and has been well for promoteAfter.",
			Flags: []cli.Flag{namesrvFlag, outputFlag, group,
				&cli.StringFlag{Name: "address", Usage: "`HOST:PORT` of the node's peer port, has to be given"},
				&cli.StringFlag{Name: "node", Usage: "`NODE` that has to be there"},
				&cli.BoolFlag{Name: "learner", Usage: "it stays without a vote until raft promote"}},
			Action: raftAddPeer,
		},
		member("remove-peer", "take a replica out of a group; if it leads, it hands over before", "removed",
			func(a *client.Admin) func(context.Context, string, string, bool) error { return a.RaftRemovePeer }),
		member("promote", "give a member a vote now", "promoted",
			func(a *client.Admin) func(context.Context, string, string, bool) error { return a.RaftPromote }),
		member("demote", "take a member's vote away; it stays a learner until raft promote", "demoted",
			func(a *client.Admin) func(context.Context, string, string, bool) error { return a.RaftDemote }),
	}
}

// needFlags refuses a command that lacks one of these flags.
func needFlags(c *cli.Context, names ...string) error {
	if err := noArgs(c); err != nil {
		return err
	}
	for _, name := range names {
		if c.String(name) == "" {
			return usage("--%s is missing; see %s --help", name, c.Command.HelpName)
		}
	}
	return nil
}

// withLeader runs f with the address of a group's leader, or, if none says that it
// leads, of a replica that answers: it passes on to the one that will.
func withLeader(c *cli.Context, f func(ctx context.Context, a *client.Admin, addr string) error) error {
	return withReplicas(c, func(ctx context.Context, a *client.Admin, all []replica) error {
		addr, errs := "", []error{errors.New("no replica of " + c.String("group") + " answers")}
		for _, r := range all {
			switch {
			case r.err != nil:
				errs = append(errs, r.err)
			case addr == "" || r.status.ServerID == r.status.Leader:
				addr = r.addr
			}
		}
		if addr == "" {
			return errors.Join(errs...)
		}
		return f(ctx, a, addr)
	})
}

func raftAddPeer(c *cli.Context) error {
	if err := needFlags(c, "group", "address"); err != nil {
		return err
	}
	if host, port, err := net.SplitHostPort(c.String("address")); err != nil || host == "" || !isPort(port) {
		return usage("--address %s: want HOST:PORT of the node's peer port; see %s --help", c.String("address"), c.Command.HelpName)
	}
	return withLeader(c, func(ctx context.Context, a *client.Admin, addr string) error {
		m, err := a.RaftAddPeer(ctx, addr, c.String("address"), c.String("node"), c.Bool("learner"))
		if err != nil {
			return err
		}
		switch {
		case m.Already:
			fmt.Fprintf(os.Stderr, "%s is a member already, and nothing was changed: see raftmq raft list-peers\n", m.ServerID)
			t := newTable("group", "member", "address")
			t.add(c.String("group"), m.ServerID, m.Address)
			return t.print(c)
		case !c.Bool("learner"):
			fmt.Fprintf(os.Stderr, "%s has joined without a vote, and gets one when it is caught up: see raftmq raft health\n", m.ServerID)
		}
		t := newTable("group", "added", "address")
		t.add(c.String("group"), m.ServerID, m.Address)
		return t.print(c)
	})
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

func raftChange(c *cli.Context, what string, change func(a *client.Admin) func(ctx context.Context, addr, node string, force bool) error) error {
	if err := needFlags(c, "group", "node"); err != nil {
		return err
	}
	return withLeader(c, func(ctx context.Context, a *client.Admin, addr string) error {
		if err := change(a)(ctx, addr, c.String("node"), c.Bool("force")); err != nil {
			return err
		}
		t := newTable("group", what)
		t.add(c.String("group"), c.String("node"))
		return t.print(c)
	})
}
