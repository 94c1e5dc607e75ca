package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// scrubPoll is how often it is looked whether a pass has ended.
const scrubPoll = 200 * time.Millisecond

var scrubRateFlag = &cli.Int64Flag{Name: "rate", Usage: "read so many `BYTES` a second; without it scrubBytesPerSec"}

func raftScrubCommand() *cli.Command {
	return &cli.Command{
		Name:  "scrub",
		Usage: "have each replica search its disk for damage now",
		Description: "Each replica reads all its files, beside its work, and compares them with their checksums. What is\n" +
			"damaged is mended: from memory, from other files, from other replicas. The numbers are those since the\n" +
			"replica was started. It goes on if this command is interrupted; raft status --output json has the outcome.",
		Flags: []cli.Flag{namesrvFlag, outputFlag, groupFlag, scrubRateFlag,
			&cli.BoolFlag{Name: "no-wait", Usage: "begin, and show what was found before"}},
		Action: raftScrub,
	}
}

func raftVerifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "check that replicas that run hold the same, and hold it undamaged",
		Description: "It is raft scrub, and then each group takes digests of all it has applied, at one index on all its\n" +
			"replicas, which have to agree. Sends go on meanwhile. raftmq verify does it for data directories of\n" +
			"nodes that are stopped, and also replays the raft log.",
		Flags: []cli.Flag{namesrvFlag, outputFlag, groupFlag, scrubRateFlag,
			&cli.BoolFlag{Name: "no-scrub", Usage: "compare digests only"}},
		Action: raftVerify,
	}
}

// withAllReplicas is withReplicas without a bound on the time.
func withAllReplicas(c *cli.Context, f func(ctx context.Context, a *client.Admin, all []replica) error) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if c.IsSet("rate") && c.Int64("rate") < 1 {
		return usage("--rate %d: want bytes a second, 1 or more; see %s --help", c.Int64("rate"), c.Command.HelpName)
	}
	return withClient(c, func(ctx context.Context, cl *client.Client) error {
		find, cancel := context.WithTimeout(ctx, adminTimeout)
		all, err := replicas(find, c, cl.Admin())
		cancel()
		if err != nil {
			return err
		}
		return f(ctx, cl.Admin(), allWithDead(all))
	})
}

// scrubAll has all replicas search their disks, and waits for them.
func scrubAll(ctx context.Context, a *client.Admin, all []replica, rate int64, wait bool) {
	asked := make([]int64, len(all))
	for i := range all {
		if r := &all[i]; r.err == nil {
			var s *client.RaftScrub
			if s, r.err = a.RaftScrub(ctx, r.addr, rate); r.err == nil {
				asked[i], r.status.Scrub = s.Asked, *s
			}
		}
	}
	for i := range all {
		for r := &all[i]; wait && r.err == nil && r.status.Scrub.Answered < asked[i] && r.status.Failure == ""; {
			if r.err = pause(ctx, scrubPoll); r.err == nil {
				var s *client.RaftStatus
				if s, r.err = a.RaftStatus(ctx, r.addr); r.err == nil {
					r.status = s
				}
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// problem is what is wrong with a replica after a search, nil if nothing is.
func (r *replica) problem() error {
	switch s := r.status; {
	case s == nil:
		return fmt.Errorf("unreachable: %w", r.err)
	case r.err != nil:
		return r.err
	case s.Failure != "":
		return errors.New(s.Failure)
	case s.Scrub.Error != "":
		return errors.New(s.Scrub.Error)
	case !s.Complete && s.Missing == 0:
		return errors.New("what was damaged is being mended")
	case !s.Complete:
		return fmt.Errorf("%d bytes are missing, and being fetched", s.Missing)
	}
	return nil
}

// countsText is what a map of numbers by kind says, in order.
func countsText(m map[string]int64) string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", kind, m[kind]))
	}
	return strings.Join(parts, ", ")
}

func problemText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func raftScrub(c *cli.Context) error {
	return withAllReplicas(c, func(ctx context.Context, a *client.Admin, all []replica) error {
		scrubAll(ctx, a, all, c.Int64("rate"), !c.Bool("no-wait"))
		t := newTable("group", "node", "passes", "bytes read", "running", "found", "repaired", "error")
		failed := false
		for _, r := range all {
			err := r.problem()
			failed = failed || err != nil
			if r.status == nil {
				t.add(r.group, r.node, "", "", "", "", "", problemText(err))
				continue
			}
			s := r.status.Scrub
			t.add(r.group, r.node, s.Passes, s.Bytes, s.Running, countsText(s.Found), countsText(s.Repaired), problemText(err))
		}
		if err := t.print(c); err != nil || !failed {
			return err
		}
		return &exitError{exitFailed, nil} // the table says it
	})
}

func raftVerify(c *cli.Context) error {
	return withAllReplicas(c, func(ctx context.Context, a *client.Admin, all []replica) error {
		if !c.Bool("no-scrub") {
			scrubAll(ctx, a, all, c.Int64("rate"), true)
		}
		t := newTable("group", "node", "index", "identical", "found", "repaired", "state", "files", "error")
		failed := false
		for _, group := range groupsOf(all) {
			want, err := takeDigests(ctx, a, group)
			for i := range group {
				r := &group[i]
				problem := r.problem()
				if problem == nil {
					problem = err
				}
				identical := false
				if problem == nil {
					identical = r.status.DigestState == want.DigestState && r.status.DigestFiles == want.DigestFiles
					if r.status.DigestIndex != want.DigestIndex {
						problem = fmt.Errorf("it has not taken digests at %d", want.DigestIndex)
					}
				}
				failed = failed || !identical || problem != nil
				if r.status == nil {
					t.add(r.group, r.node, "", false, "", "", "", "", problemText(problem))
					continue
				}
				s := r.status
				t.add(r.group, r.node, s.DigestIndex, identical && problem == nil, countsText(s.Scrub.Found), countsText(s.Scrub.Repaired),
					short(s.DigestState), short(s.DigestFiles), problemText(problem))
			}
		}
		if err := t.print(c); err != nil || !failed {
			return err
		}
		return &exitError{exitFailed, nil} // the table says it
	})
}

func short(digest string) string { return digest[:min(16, len(digest))] }

// takeDigests has the replicas of a group take digests, and waits until all that
// answer have. It returns the leader's status.
func takeDigests(ctx context.Context, a *client.Admin, group []replica) (*client.RaftStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	look := func() {
		for i := range group {
			if r := &group[i]; r.err == nil {
				if s, err := a.RaftStatus(ctx, r.addr); err == nil {
					r.status = s
				} else {
					r.err = err
				}
			}
		}
	}
	look()
	i := slices.IndexFunc(group, func(r replica) bool { return r.err == nil && r.status.ServerID == r.status.Leader })
	if i < 0 {
		return nil, errors.New("no replica says that it leads: try again in a moment, see raftmq raft status")
	}
	if err := a.RaftDigest(ctx, group[i].addr); err != nil {
		return nil, err
	}
	for {
		look()
		if group[i].err != nil {
			return nil, group[i].err
		}
		want := group[i].status
		late := slices.ContainsFunc(group, func(r replica) bool {
			return r.err == nil && r.status.Failure == "" && r.status.DigestIndex != want.DigestIndex
		})
		if !late || pause(ctx, scrubPoll) != nil {
			return want, nil
		}
	}
}
