package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

// What health says of a group and its replicas: how many losses it stands, what to do
// when there is no majority, and that a node's new self takes the old one's place.
func TestDiagnoses(t *testing.T) {
	type member struct {
		id         string
		voter, up  bool
		configured int
		tweak      func(*client.RaftStatus)
	}
	up := func(id string) member { return member{id: id, voter: true, up: true, configured: 3} }
	down := func(id string) member { return member{id: id, voter: true} }
	suspect := up("n3-a")
	suspect.tweak = func(s *client.RaftStatus) { s.Suspect = true }
	alone := up("n1-a")
	alone.configured = 1
	joined := up("n3-b")
	joined.voter = false
	two := func(id string) member { return member{id: id, voter: true, up: true, configured: 2} }
	for name, c := range map[string]struct {
		leader  string
		members []member
		want    []string // the group: tolerates, and parts of its text; then a part of the text of each that is ill
	}{
		"all well":              {"n1-a", []member{up("n1-a"), up("n2-a"), up("n3-a")}, []string{"1", ""}},
		"five, two down":        {"n1-a", []member{up("n1-a"), up("n2-a"), up("n3-a"), down("n4-a"), down("n5-a")}, []string{"0", "3 of 5 voters take part", "start the node", "start the node"}},
		"one is suspect":        {"n1-a", []member{up("n1-a"), up("n2-a"), suspect}, []string{"0", "2 of 3 voters take part", "raft trust"}},
		"made with one":         {"n1-a", []member{alone}, []string{"0", ""}},
		"one is left of three":  {"n1-a", []member{up("n1-a")}, []string{"0", "1 voters, and 3 replicas in a node's file"}},
		"two are left":          {"n1-a", []member{up("n1-a"), up("n2-a")}, []string{"0", "2 voters, and 3 replicas"}},
		"made with two":         {"n1-a", []member{two("n1-a"), two("n2-a")}, []string{"0", "all of its 2 voters are needed"}},
		"its majority is lost":  {"n2-a", []member{up("n1-a"), down("n2-a"), down("n3-a")}, []string{"0", "1 of 3 voters take part", bringBack, bringBack, bringBack}},
		"an election":           {"", []member{up("n1-a"), up("n2-a"), down("n3-a")}, []string{"0", "no leader", "start the node"}},
		"a wiped node is back":  {"n1-a", []member{up("n1-a"), up("n2-a"), down("n3-a"), joined}, []string{"0", "2 of 3 voters take part", "no vote yet", "n3-b, its node's new self"}},
		"nobody answers at all": {"", []member{down("n1-a")}, []string{"0", "no replica answers", bringBack}},
	} {
		t.Run(name, func(t *testing.T) {
			var members []remoting.RaftMember
			for _, m := range c.members {
				members = append(members, remoting.RaftMember{ServerID: m.id, Voter: m.voter, Address: m.id})
			}
			var group []replica
			for _, m := range c.members {
				r := replica{group: "g", addr: m.id, err: errors.New("refused")}
				if m.up {
					r = replica{group: "g", addr: m.id, node: nodeOf(m.id), status: &client.RaftStatus{ServerID: m.id, Leader: c.leader, Members: members, Configured: m.configured, Complete: true}}
					if m.tweak != nil {
						m.tweak(r.status)
					}
				}
				group = append(group, r)
			}
			q := quorumOf(group)
			problem, todo := q.diagnose()
			if got := fmt.Sprint(q.tolerates()); got != c.want[0] {
				t.Errorf("it tolerates %s, want %s", got, c.want[0])
			}
			if (problem == "") != (c.want[1] == "") || !strings.Contains(problem, c.want[1]) || (problem == "") != (todo == "") {
				t.Errorf("the group: %q, %q, want %q", problem, todo, c.want[1])
			}
			var got []string
			for _, r := range withDead(group) {
				if problem, todo := diagnose(r, q); problem != "" {
					got = append(got, problem+": "+todo)
				}
			}
			if want := c.want[2:]; len(got) != len(want) {
				t.Fatalf("ill are %q, want %q", got, want)
			}
			for i, want := range c.want[2:] {
				if !strings.Contains(got[i], want) {
					t.Errorf("%q, want %q", got[i], want)
				}
			}
		})
	}
}

// Groups that the nodes' files have and the name server does not are told.
func TestUnknownGroups(t *testing.T) {
	answers := replica{group: "b", status: &client.RaftStatus{Groups: []string{"a", "b", "c"}}}
	if got := unknownGroups("", []replica{answers, {group: "d", err: errUnregistered}}); !strings.Contains(got, "2 of 4 groups") || !strings.Contains(got, "a, c") {
		t.Error(got)
	}
	if got := unknownGroups("b", []replica{answers}); got != "" {
		t.Error(got)
	}
}
