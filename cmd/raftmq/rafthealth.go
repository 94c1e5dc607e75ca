package main

import (
	"context"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// raftHealth says of each group what it stands, and of each replica what is wrong
// with it, and what to do.
func raftHealth(c *cli.Context) error {
	return withReplicas(c, func(ctx context.Context, a *client.Admin, all []replica) error {
		t := newTable("group", "node", "well", "tolerates", "problem", "todo")
		ill := false
		for _, group := range groupsOf(all) {
			q := quorumOf(group)
			problem, todo := q.diagnose()
			ill = ill || problem != ""
			t.add(group[0].group, "", problem == "", q.tolerates(), problem, todo)
			for _, r := range withDead(group) {
				problem, todo := diagnose(r, q)
				ill = ill || problem != ""
				t.add(r.group, r.node, problem == "", nil, problem, todo)
			}
		}
		if text := unknownGroups(c.String("group"), all); text != "" {
			ill = true
			fmt.Fprintln(os.Stderr, text)
		}
		if err := t.print(c); err != nil || !ill {
			return err
		}
		return &exitError{exitFailed, nil} // the table says it
	})
}

// quorum is what a group can do, as those of its replicas see it that answer.
type quorum struct {
	view     *client.RaftStatus
	answered map[string]bool // by ServerID
	led      bool
	voters   int
	fit      int // voters that answer and take part
	began    int // replicas that a node's file names, or members, whichever is more
}

func quorumOf(group []replica) quorum {
	view, answered := viewOf(group)
	q := quorum{view: view, answered: answered, led: answered[view.Leader], began: len(view.Members)}
	fit := map[string]bool{}
	for _, r := range group {
		if s := r.status; r.err == nil {
			fit[s.ServerID] = s.Failure == "" && s.Fenced == "" && s.DiskHung == "" && s.Removed == "" && !s.Suspect
			q.began = max(q.began, s.Configured)
		}
	}
	for _, m := range view.Members {
		if m.Voter {
			q.voters++
			if fit[m.ServerID] {
				q.fit++
			}
		}
	}
	return q
}

func (q *quorum) need() int { return q.voters/2 + 1 }

// lost says whether nobody leads and nobody can, as fewer than a majority answer.
func (q *quorum) lost() bool {
	live := 0
	for _, m := range q.view.Members {
		if m.Voter && q.answered[m.ServerID] {
			live++
		}
	}
	return !q.led && live < q.need() // no member is known where none answers
}

// tolerates is how many voters more may fail before the group stands still.
func (q *quorum) tolerates() int {
	if !q.led {
		return 0
	}
	return max(0, q.fit-q.need())
}

// bringBack is what to do about a group whose majority does not answer.
const bringBack = "bring back a majority: start the others, with their data; if that is lost for good, raftmq raft recover on one survivor (README: A majority is gone)"

// diagnose says what is wrong with the group as a whole, "" if nothing is, and what
// to do.
func (q *quorum) diagnose() (problem, todo string) {
	switch {
	case q.lost() && q.voters == 0:
		return "no replica answers", bringBack
	case q.lost():
		return fmt.Sprintf("no leader: %d of %d voters take part, %d are needed", q.fit, q.voters, q.need()), bringBack
	case !q.led:
		return "no leader", "an election takes a second; if it does not end, the nodes' logs say why"
	case q.tolerates() > 0 || q.began < 2:
		return "", ""
	case q.fit < q.voters:
		return fmt.Sprintf("the next loss stops the group: %d of %d voters take part, %d are needed", q.fit, q.voters, q.need()), "see the replicas"
	case q.voters < len(q.view.Members):
		return fmt.Sprintf("the next loss stops the group: it has %d of %d members' votes", q.voters, len(q.view.Members)), "wait for those that get their vote; raft promote learners"
	}
	if q.voters >= q.began {
		return fmt.Sprintf("the next loss stops the group: all of its %d voters are needed", q.voters), "take another one in with raft add-peer"
	}
	return fmt.Sprintf("the next loss stops the group: it has %d voters, and %d replicas in a node's file", q.voters, q.began),
		"take others in with raft add-peer; or, if it is to be so, take them out of the nodes' files"
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
func diagnose(r replica, q quorum) (problem, todo string) {
	switch {
	case r.err != nil && q.lost():
		return "unreachable: " + r.err.Error(), bringBack
	case r.err != nil && q.replaces(r.node) != "":
		return "unreachable: " + r.err.Error(), fmt.Sprintf("nothing: %s, its node's new self, is taking its place; it goes when that one votes", q.replaces(r.node))
	case r.err != nil:
		return "unreachable: " + r.err.Error(), "start the node; if its disk is lost start it with an empty one, and it comes back by itself; if it is gone for good, raft add-peer another and raft remove-peer it"
	}
	problem, todo = ailment(r.status, q.view)
	if q.lost() {
		if problem == "" {
			return "its group has no majority", bringBack
		}
		todo += "; " + bringBack
	}
	return problem, todo
}

// replaces is the replica that answers of a node of which another one does not.
func (q *quorum) replaces(node string) string {
	for id := range q.answered {
		if node != "" && nodeOf(id) == node {
			return id
		}
	}
	return ""
}

// ailment says what is wrong with a replica that answers.
func ailment(s *client.RaftStatus, view *client.RaftStatus) (problem, todo string) {
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
