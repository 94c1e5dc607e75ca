package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/broker/verify"
)

func raftRecoverCommand() *cli.Command {
	return &cli.Command{
		Name:  "recover",
		Usage: "make a stopped replica the only member of its group, whose majority is lost",
		Description: "For when a majority of a group's replicas will never come back. Run it on the machine of one survivor,\n" +
			"the one whose last term is highest or, of several, whose last is, while that node is stopped: --dry shows\n" +
			"both. It reads the whole data directory first,\n" +
			"and refuses a damaged one. All entries of its log count as committed then; what only the others held is\n" +
			"lost. The replica gets a new server id, so its old peers can't reach it any more. They must come back with\n" +
			"empty directories, as new replicas, by raft add-peer. --peers names such replicas that run already, to be\n" +
			"members at once, as a JSON file: [{\"serverId\": \"n2-0123456789\", \"address\": \"host:port\"}].",
		Flags: []cli.Flag{
			outputFlag,
			&cli.StringFlag{Name: "dir", Aliases: []string{"d"}, Usage: "data `DIR` of the node, or of the replica"},
			&cli.StringFlag{Name: "config", Usage: "the node's YAML `FILE`, instead of --dir", EnvVars: []string{"RAFTMQ_CONFIG"}},
			&cli.StringFlag{Name: "node", Usage: "`ID` of the node in the configuration", EnvVars: []string{"RAFTMQ_NODE_ID"}},
			&cli.StringSliceFlag{Name: "set", Usage: "`KEY=VALUE` over the configuration, as of raftmq server"},
			&cli.StringFlag{Name: "group", Aliases: []string{"g"}, Usage: "broker `GROUP`, has to be given"},
			&cli.StringFlag{Name: "peers", Usage: "`FILE` with further members"},
			&cli.BoolFlag{Name: "again", Usage: "also if it was recovered before, and has no other member yet"},
			&cli.BoolFlag{Name: "dry", Usage: "say what would be done, and change nothing"},
		},
		Action: raftRecover,
	}
}

func raftRecover(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	group := c.String("group")
	rc := raftgroup.RecoverConfig{Dry: c.Bool("dry"), Again: c.Bool("again")}
	switch {
	case group == "":
		return usage("--group is missing; see %s --help", c.Command.HelpName)
	case (c.String("dir") == "") == (c.String("config") == ""):
		return usage("want one of --dir and --config; see %s --help", c.Command.HelpName)
	case c.String("config") != "":
		cfg, err := serverConfig(c)
		if err != nil {
			return err
		}
		node, ok := cfg.Nodes[cfg.NodeID]
		if !ok {
			return usage("--node %q is not among the nodes of %s", cfg.NodeID, c.String("config"))
		}
		rc.Dir = filepath.Join(cfg.DataDir(), group)
		rc.Address = node.Peer
	default:
		rc.Dir = c.String("dir")
		if _, err := os.Stat(filepath.Join(rc.Dir, raftgroup.IdentityFile)); errors.Is(err, os.ErrNotExist) {
			rc.Dir = filepath.Join(rc.Dir, group)
		}
	}
	if name := c.String("peers"); name != "" {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &rc.Peers); err != nil {
			return fmt.Errorf("%s: %w: see %s --help", name, err, c.Command.HelpName)
		}
	}
	found, err := soundReplica(rc.Dir, group)
	if err != nil {
		return err
	}
	plan, err := raftgroup.Recover(rc)
	if errors.Is(err, raftgroup.ErrRecovered) {
		return fmt.Errorf("%w. If that is not to be, --again gives it a new server id once more", err)
	}
	if err != nil {
		return err
	}
	return printRecovery(c, found, plan)
}

// damagedSurvivor is what can be done with a replica that is damaged.
const damagedSurvivor = "\nIf there is another survivor, recover that one. Else start this node, alone, have raftmq raft scrub mend it, stop it and\n" +
	"try again: queues, index, block sums and checkpoints are mended without other replicas. The CommitLog is not, and a node\n" +
	"whose raft log, snapshot or vote is damaged may refuse to start"

// soundReplica verifies the directory of a replica.
func soundReplica(dir, group string) (*verify.Replica, error) {
	bar := newProgress("")
	report, err := verify.Run(verify.Config{Dirs: []string{dir}, Progress: func(what string, done, total int64) {
		bar.what = what
		bar.show(done, total)
	}})
	bar.done()
	if err != nil {
		return nil, fmt.Errorf("%w\nrecover needs the data directory of a node that is stopped", err)
	}
	if len(report.Groups) != 1 || len(report.Groups[0].Replicas) != 1 || report.Groups[0].Name != group {
		return nil, fmt.Errorf("%s is not the directory of one replica of %s", dir, group)
	}
	r := &report.Groups[0].Replicas[0]
	if len(r.Problems) > 0 {
		return nil, fmt.Errorf("%s is damaged, and nothing was changed: %s%s", dir, strings.Join(r.Problems, "; "), damagedSurvivor)
	}
	return r, nil
}

func printRecovery(c *cli.Context, found *verify.Replica, plan *raftgroup.RecoveryPlan) error {
	rec := plan.Identity.Recovered
	var before, after []string
	for _, s := range plan.Before {
		before = append(before, string(s.ID))
	}
	for _, m := range rec.Members {
		after = append(after, m.ServerID)
	}
	t := newTable("group", "node", "snapshot", "applied", "last term", "last", "tail", "term", "before", "after", "done")
	t.add(plan.Identity.Group, plan.Identity.Node, plan.Snapshot, found.Applied, plan.LastTerm, plan.Last, plan.Last-min(plan.Last, found.Applied), rec.Term,
		strings.Join(before, " "), strings.Join(after, " "), !c.Bool("dry"))
	if err := t.print(c); err != nil {
		return err
	}
	if c.Bool("dry") {
		fmt.Fprintln(os.Stderr, "nothing was changed; server ids are made anew when it is done")
		return nil
	}
	fmt.Fprintf(os.Stderr, "start the node: the group goes on from it. Empty the directories of the group %s on all other nodes before they start again, and take each in with raftmq raft add-peer\n", plan.Identity.Group)
	return nil
}
