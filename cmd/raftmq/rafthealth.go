package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// raftHealth says of each replica what is wrong with it, and what to do.
func raftHealth(c *cli.Context) error {
	return withReplicas(c, func(ctx context.Context, a *client.Admin, all []replica) error {
		t := newTable("group", "node", "well", "problem", "todo")
		ill := false
		for _, group := range groupsOf(all) {
			view, answered := viewOf(group)
			led := answered[view.Leader]
			if !led {
				ill = true
				t.add(group[0].group, "", false, "no leader", groupTodo(view, answered))
			}
			for _, r := range withDead(group) {
				problem, todo := diagnose(r, view)
				ill = ill || problem != ""
				t.add(r.group, r.node, problem == "", problem, todo)
			}
		}
		if err := t.print(c); err != nil || !ill {
			return err
		}
		return &exitError{exitFailed, nil} // the table says it
	})
}

// groupTodo is what to do about a group that nobody leads.
func groupTodo(view *client.RaftStatus, answered map[string]bool) string {
	var voters, live int
	for _, m := range view.Members {
		if m.Voter {
			voters++
			if answered[m.ServerID] {
				live++
			}
		}
	}
	if need := voters/2 + 1; voters > 0 && live < need {
		return fmt.Sprintf("%d of %d voters answer, %d are needed: start the others; if their disks are lost, see Grow, shrink, replace in the README", live, voters, need)
	}
	return "an election takes a second; if it does not end, the nodes' logs say why"
}

// trouble is why a replica is of no use to its group, if it is of none.
func trouble(s *client.RaftStatus) string {
	switch {
	case s.Failure != "":
		return s.Failure
	case s.Fenced != "":
		return "fenced: " + s.Fenced
	case s.DiskHung != "":
		return "the disk hangs: " + s.DiskHung
	}
	return s.NoRoom
}

// farBehind is how many entries a replica may be behind without a word.
const farBehind = 1000

// diagnose says what is wrong with a replica as its leader's view has it, "" if
// nothing is, and what to do.
func diagnose(r replica, view *client.RaftStatus) (problem, todo string) {
	if r.err != nil {
		return "unreachable: " + r.err.Error(), "start the node; if its disk is lost start it with an empty one, and it comes back by itself; if it is gone for good, raft add-peer another and raft remove-peer it"
	}
	s := r.status
	member := false
	voter, learner := false, false
	for _, m := range view.Members {
		if m.ServerID == s.ServerID {
			member, voter, learner = true, m.Voter, m.Learner
		}
	}
	switch {
	case s.Failure != "":
		return "stopped: " + s.Failure, "mend what the error names, then restart the node"
	case s.Fenced != "":
		return "fenced, its disk hangs: " + s.Fenced, "look after the disk, or replace the node; it is let in again by itself when the disk answers"
	case s.DiskHung != "":
		return "its disk hangs: " + s.DiskHung, "look after the disk"
	case s.Removed != "":
		return "no member: " + s.Removed, "stop the node, or take it in again with raft add-peer"
	case !member:
		return "no member", "take it in with raft add-peer"
	case s.Suspect:
		return "lost power with entries unsynced, and does not vote yet", "nothing while the others answer; else raft trust"
	case s.NoRoom != "":
		return "no room on its disk: " + s.NoRoom, "make room, or let messages go sooner (fileReservedTime)"
	case s.DiskSlow:
		return fmt.Sprintf("its disk is slow: an entry took %d ms of late", s.StoreTime), "look after the disk; the group leads elsewhere if that is faster"
	case s.Restrained != "":
		return s.Restrained, "it ends by itself when its cause does"
	case !s.Complete:
		return fmt.Sprintf("fetches %d bytes that it misses", s.Missing), "nothing: it goes on by itself"
	case s.AppliedIndex+farBehind < view.CommitIndex:
		return fmt.Sprintf("%d entries behind", view.CommitIndex-s.AppliedIndex), "nothing if the number falls; else look at its disk and its link"
	case !voter && !learner:
		return "has no vote yet", "nothing: it gets one when it has been well for promoteAfter"
	}
	return "", ""
}
