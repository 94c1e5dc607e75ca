package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

var groupFlag = &cli.StringFlag{Name: "group", Aliases: []string{"g"}, Usage: "broker `GROUP`; without it all"}

func raftCommand() *cli.Command {
	flags := []cli.Flag{namesrvFlag, outputFlag, groupFlag}
	return &cli.Command{
		Name:  "raft",
		Usage: "look at broker groups and move their leaders",
		Subcommands: []*cli.Command{
			{Name: "list-peers", Usage: "list the members of each group", Flags: flags, Action: raftListPeers},
			{Name: "status", Usage: "show how each replica is", Flags: flags, Action: raftStatus},
			{Name: "transfer-leader", Usage: "give leadership to another replica", Flags: append(slices.Clone(flags),
				&cli.StringFlag{Name: "to", Usage: "`NODE` or server id; without it the one best fit"}), Action: raftTransfer},
			{Name: "snapshot", Usage: "have each replica take a snapshot", Flags: flags, Action: raftSnapshot},
		},
	}
}

var errNoBroker = errors.New("the name server knows no broker: is a node up, and registered there? Its log says so")

// replica is one replica as the name server knows it and as it says itself.
type replica struct {
	group, addr string
	status      *client.RaftStatus
	err         error
}

// replicas asks all replicas of one group, or of all groups, how they are.
func replicas(ctx context.Context, c *cli.Context, a *client.Admin) ([]replica, error) {
	info, err := a.ClusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(info.Brokers))
	if g := c.String("group"); g != "" {
		names = []string{g}
	}
	var all []replica
	for _, name := range names {
		addrs, err := a.Replicas(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			r := replica{group: name, addr: addr}
			r.status, r.err = a.RaftStatus(ctx, addr)
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return nil, errNoBroker
	}
	return all, nil
}

func raftListPeers(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		all, err := replicas(ctx, c, a)
		if err != nil {
			return err
		}
		t := newTable("group", "server id", "address", "role", "voter")
		seen := map[string]bool{}
		for _, r := range all {
			if r.err != nil || seen[r.group] || len(r.status.Members) == 0 {
				continue
			}
			seen[r.group] = true
			for _, m := range r.status.Members {
				role := "follower"
				if m.ServerID == r.status.Leader {
					role = "leader"
				}
				t.add(r.group, m.ServerID, m.Address, role, m.Voter)
			}
		}
		if len(t.rows) == 0 {
			return errors.Join(errors.New("no replica answers"), all[0].err)
		}
		return t.print(c)
	})
}

func raftStatus(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		all, err := replicas(ctx, c, a)
		if err != nil {
			return err
		}
		t := newTable("group", "node", "address", "state", "term", "commit", "applied", "last", "snapshot", "log end", "missing", "complete", "error")
		failed := 0
		for _, r := range all {
			if r.err != nil {
				failed++
				t.add(r.group, "", r.addr, "unreachable", "", "", "", "", "", "", "", "", r.err.Error())
				continue
			}
			s := r.status
			t.add(r.group, s.Node, r.addr, s.State, s.Term, s.CommitIndex, s.AppliedIndex, s.LastIndex, s.Snapshot, s.CommitLogEnd, s.Missing, s.Complete, s.Failure)
			if s.Failure != "" {
				failed++
			}
		}
		if err := t.print(c); err != nil || failed == 0 {
			return err
		}
		return &exitError{exitFailed, nil} // the table says it
	})
}

func raftTransfer(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if c.String("group") == "" {
		return usage("--group is missing; see %s --help", c.Command.HelpName)
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		all, err := replicas(ctx, c, a)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(r replica) bool { return r.err == nil && r.status.ServerID == r.status.Leader })
		if i < 0 {
			return errors.New("no replica says that it leads: try again in a moment, see raftmq raft status")
		}
		old := all[i]
		if err := a.RaftTransfer(ctx, old.addr, c.String("to")); err != nil {
			return err
		}
		for {
			s, err := a.RaftStatus(ctx, old.addr)
			if err == nil && s.Leader != "" && s.Leader != old.status.Leader {
				t := newTable("group", "from", "to", "term")
				t.add(old.group, old.status.Leader, s.Leader, s.Term)
				return t.print(c)
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return errors.Join(errors.New("the leader was asked to go, and nobody has followed yet: see raftmq raft status"), err)
			}
		}
	})
}

func raftSnapshot(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		all, err := replicas(ctx, c, a)
		if err != nil {
			return err
		}
		t := newTable("group", "node", "snapshot", "was", "error")
		failed := false
		for _, r := range all {
			if r.err != nil {
				t.add(r.group, "", "", "", r.err.Error())
				failed = true
				continue
			}
			text := ""
			if err := a.RaftSnapshot(ctx, r.addr); err != nil {
				text, failed = err.Error(), true
			}
			now := r.status.Snapshot
			if s, err := a.RaftStatus(ctx, r.addr); err == nil {
				now = s.Snapshot
			}
			t.add(r.group, r.status.Node, now, r.status.Snapshot, text)
		}
		if err := t.print(c); err != nil || !failed {
			return err
		}
		return &exitError{exitFailed, nil} // the table says it
	})
}
