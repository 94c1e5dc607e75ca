package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

var groupFlag = &cli.StringFlag{Name: "group", Aliases: []string{"g"}, Usage: "broker `GROUP`; without it all"}

func raftCommand() *cli.Command {
	flags := []cli.Flag{namesrvFlag, outputFlag, groupFlag}
	oneGroup := &cli.StringFlag{Name: "group", Aliases: []string{"g"}, Usage: "broker `GROUP`, has to be given"}
	return &cli.Command{
		Name:  "raft",
		Usage: "look at broker groups, move their leaders and change their members",
		Subcommands: append([]*cli.Command{
			{Name: "list-peers", Usage: "list the members of each group, and which of them can't be reached", Flags: flags, Action: raftListPeers},
			{Name: "status", Usage: "show how each replica is", Flags: flags, Action: raftStatus},
			{Name: "transfer-leader", Usage: "give leadership to another replica", Flags: []cli.Flag{namesrvFlag, outputFlag, oneGroup,
				&cli.StringFlag{Name: "to", Usage: "`NODE` or server id; without it the one best fit"}}, Action: raftTransfer},
			{Name: "snapshot", Usage: "have each replica take a snapshot", Flags: flags, Action: raftSnapshot},
			raftScrubCommand(),
			raftVerifyCommand(),
			raftTrustCommand(),
			raftRecoverCommand(),
			{Name: "health", Usage: "say what is wrong with each replica, and what to do; exits with 1 if anything is", Flags: flags, Action: raftHealth},
			raftAutopilotCommand(),
		}, raftMemberCommands()...),
	}
}

var errNoBroker = errors.New("the name server knows no broker: is a node up, and registered there? Its log says so")

// replica is one replica as the name server knows it and as it says itself.
type replica struct {
	group, addr string
	node        string // "" if not known
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
		if !slices.Contains(names, g) && len(names) > 0 {
			return nil, usage("there is no group %s at the name servers; there are %s", g, strings.Join(names, ", "))
		}
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
			if r.status, r.err = a.RaftStatus(ctx, addr); r.err == nil {
				r.node = r.status.Node
			}
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return nil, errNoBroker
	}
	return all, nil
}

// withReplicas runs f with the replicas that the command is about.
func withReplicas(c *cli.Context, f func(ctx context.Context, a *client.Admin, all []replica) error) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		all, err := replicas(ctx, c, a)
		if err != nil {
			return err
		}
		return f(ctx, a, all)
	})
}

func raftListPeers(c *cli.Context) error {
	return withReplicas(c, func(ctx context.Context, a *client.Admin, all []replica) error {
		t := newTable("group", "server id", "address", "role", "voter")
		for _, group := range groupsOf(all) {
			view, answered := viewOf(group)
			for _, m := range view.Members {
				role := "follower"
				switch {
				case !answered[m.ServerID]: // down, or not registered with the name server; raft status says more
					role = "unreachable"
				case m.ServerID == view.Leader:
					role = "leader"
				}
				t.add(group[0].group, m.ServerID, m.Address, role, m.Voter)
			}
		}
		if len(t.rows) == 0 {
			return errors.Join(errors.New("no replica answers"), all[0].err)
		}
		return t.print(c)
	})
}

func raftStatus(c *cli.Context) error {
	return withReplicas(c, func(ctx context.Context, a *client.Admin, all []replica) error {
		t := newTable("group", "node", "address", "state", "term", "commit", "applied", "last", "snapshot", "log end", "missing", "complete", "error")
		asJSON := c.String("output") == "json"
		if asJSON { // more than a line can show
			t.headings = append(t.headings, "scrub")
		}
		failed := false
		for _, group := range groupsOf(all) {
			led := false
			for _, r := range withDead(group) {
				if r.err != nil {
					failed = true
					t.add(r.group, r.node, r.addr, "unreachable", "", "", "", "", "", "", "", "", r.err.Error())
					continue
				}
				s := r.status
				cells := []any{r.group, r.node, r.addr, s.State, s.Term, s.CommitIndex, s.AppliedIndex, s.LastIndex, s.Snapshot, s.CommitLogEnd, s.Missing, s.Complete, trouble(s)}
				if asJSON {
					cells = append(cells, s.Scrub)
				}
				t.add(cells...)
				failed = failed || s.Failure != "" || s.DiskHung != ""
				tellIncidents(s)
				led = led || s.ServerID == s.Leader
			}
			if !led {
				failed = true
				fmt.Fprintf(os.Stderr, "%s has no leader\n", group[0].group)
			}
		}
		if text := unknownGroups(c.String("group"), all); text != "" {
			failed = true
			fmt.Fprintln(os.Stderr, text)
		}
		if err := t.print(c); err != nil || !failed {
			return err
		}
		return &exitError{exitFailed, nil} // the table says it
	})
}

// groupsOf splits replicas by their groups.
func groupsOf(all []replica) (groups [][]replica) {
	for i, r := range all {
		if i == 0 || r.group != all[i-1].group {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], r)
	}
	return groups
}

var errUnregistered = errors.New("not registered with the name server")

// withDead gives the replicas of a group that answer, and as unreachable those
// members they know that do not. Who of these has which address at the name
// server is known only if there is one: else each is named with its peer address
// and all that failed. If none answers, nobody knows the members.
func withDead(group []replica) []replica {
	var live, dead []replica
	var errs []string
	for _, r := range group {
		if r.err != nil {
			dead = append(dead, r)
			errs = append(errs, r.err.Error())
			continue
		}
		live = append(live, r)
	}
	view, answered := viewOf(group)
	failure := errUnregistered
	if len(errs) > 0 {
		failure = errors.New(strings.Join(errs, "; "))
	}
	var missing []replica
	for _, m := range view.Members {
		if !answered[m.ServerID] {
			missing = append(missing, replica{group: group[0].group, node: nodeOf(m.ServerID), addr: m.Address, err: failure})
		}
	}
	switch {
	case len(missing) == 0:
		missing = dead
	case len(missing) == 1 && len(dead) == 1:
		missing[0].addr = dead[0].addr
	}
	return append(live, missing...)
}

// allWithDead is withDead for all groups.
func allWithDead(all []replica) (full []replica) {
	for _, group := range groupsOf(all) {
		full = append(full, withDead(group)...)
	}
	return full
}

// unknownGroups says which groups there are, as the nodes' files have it, of which
// the name server knows none, as after a start; "" if there is none.
func unknownGroups(only string, all []replica) string {
	if only != "" {
		return "" // that one is known
	}
	known, missing := map[string]bool{}, map[string]bool{}
	for _, r := range all {
		known[r.group] = true
	}
	for _, r := range all {
		if r.err != nil {
			continue
		}
		for _, g := range r.status.Groups {
			if !known[g] {
				missing[g] = true
			}
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("the name server knows %d of %d groups, and no replica of %s: they have not registered, or are down",
		len(known), len(known)+len(missing), strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
}

// viewOf is how the leader of a group sees it, if that answers, or else another
// replica; and the ServerIDs of those that answer.
func viewOf(group []replica) (view *client.RaftStatus, answered map[string]bool) {
	view, answered = new(client.RaftStatus), map[string]bool{}
	for _, r := range group {
		if r.err != nil {
			continue
		}
		answered[r.status.ServerID] = true
		if len(view.Members) == 0 || r.status.ServerID == r.status.Leader {
			view = r.status
		}
	}
	return view, answered
}

// nodeOf is the node of a ServerID, whose incarnation follows the last hyphen.
func nodeOf(serverID string) string {
	if i := strings.LastIndexByte(serverID, '-'); i > 0 {
		return serverID[:i]
	}
	return serverID
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
		if to := c.String("to"); to != "" && (to == old.status.Node || to == old.status.ServerID) {
			fmt.Fprintf(os.Stderr, "%s leads %s already: there is nothing to do\n", to, old.group)
			t := newTable("group", "from", "to", "term")
			t.add(old.group, old.status.Leader, old.status.Leader, old.status.Term)
			return t.print(c)
		}
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
	return withReplicas(c, func(ctx context.Context, a *client.Admin, all []replica) error {
		t := newTable("group", "node", "snapshot", "was", "error")
		failed := false
		for _, r := range allWithDead(all) {
			if r.err != nil {
				t.add(r.group, r.node, "", "", "unreachable: "+r.err.Error())
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
