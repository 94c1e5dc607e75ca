package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/broker/verify"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "check the data directories of stopped nodes, and compare replicas",
		Description: "Reads everything: every checksum, every record, every queue entry against its record, and\n" +
			"whether the files say what the raft log says. Of several replicas of a group it says whether\n" +
			"their CommitLogs, queues and metadata are identical as of the last entry that all have\n" +
			"applied: the column common. A node that was killed has parts of its queues in no file, and what\n" +
			"it makes of them anew when it starts is not compared: to compare all, start it, let it catch up\n" +
			"and stop it. Exit code 1 if anything is wrong. A node that runs has its directory locked.",
		Flags: []cli.Flag{
			outputFlag,
			&cli.StringSliceFlag{Name: "dir", Aliases: []string{"d"}, Required: true, Usage: "data `DIR` of a node or of one replica; more than once to compare"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			bar := newProgress("")
			report, err := verify.Run(verify.Config{
				Dirs: c.StringSlice("dir"),
				Progress: func(what string, done, total int64) {
					bar.what = what
					bar.show(done, total)
				},
			})
			bar.done()
			if err != nil {
				return fmt.Errorf("%w\nverify reads the data directories of nodes that are stopped", err)
			}
			return printReport(c, report)
		},
	}
}

func printReport(c *cli.Context, report *verify.Report) error {
	t := newTable("group", "node", "messages", "log bytes", "snapshot", "applied", "common", "identical", "problems", "digest")
	for _, g := range report.Groups {
		for _, r := range g.Replicas {
			identical := any(g.Identical)
			if len(g.Replicas) < 2 {
				identical = "-"
			}
			digest := r.Digest
			if len(digest) > 12 && c.String("output") != "json" {
				digest = digest[:12]
			}
			t.add(g.Name, r.Node, r.Messages, r.LogBytes, r.Snapshot, r.Applied, g.Common, identical, len(r.Problems), digest)
		}
	}
	if err := t.print(c); err != nil {
		return err
	}
	for _, g := range report.Groups {
		for _, p := range g.Problems {
			fmt.Fprintf(os.Stderr, "group %s: %s\n", g.Name, p)
		}
		for _, r := range g.Replicas {
			for _, p := range r.Problems {
				fmt.Fprintf(os.Stderr, "%s: %s\n", r.Dir, p)
			}
		}
	}
	if !report.OK() {
		return &exitError{exitFailed, nil} // said above
	}
	return nil
}
