package fsm

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// memberText is a member as the test below writes it.
func memberText(m Member) string {
	return fmt.Sprint(m.Node, " ", m.ServerID, " ", m.Client, " ", m.BrokerID)
}

// M1, M2: a node is a member once and keeps its broker id while it is one; a new
// one gets the smallest that is free.
func TestMembersKeepTheirBrokerIDs(t *testing.T) {
	r := newReplica(t)
	put := func(node, incarnation, client string) []byte {
		return PutMember(Member{Node: node, ServerID: node + "-" + incarnation, Peer: node + ":7", Client: client, BrokerID: 9})
	}
	for i, step := range []struct {
		command []byte
		want    []string
	}{
		{put("n1", "a", ""), []string{"n1 n1-a  1"}},
		{put("n3", "a", "c3"), []string{"n1 n1-a  1", "n3 n3-a c3 2"}},
		{put("n2", "a", "c2"), []string{"n1 n1-a  1", "n2 n2-a c2 3", "n3 n3-a c3 2"}},
		{put("n1", "a", "c1"), []string{"n1 n1-a c1 1", "n2 n2-a c2 3", "n3 n3-a c3 2"}},
		{put("n3", "b", "c3"), []string{"n1 n1-a c1 1", "n2 n2-a c2 3", "n3 n3-b c3 2"}}, // came back wiped
		{DropMember("n3-a"), []string{"n1 n1-a c1 1", "n2 n2-a c2 3", "n3 n3-b c3 2"}},   // its old self
		{DropMember("n1-a"), []string{"n2 n2-a c2 3", "n3 n3-b c3 2"}},
		{put("n4", "a", "c4"), []string{"n2 n2-a c2 3", "n3 n3-b c3 2", "n4 n4-a c4 1"}},
		{put("n1", "a", "c1"), []string{"n1 n1-a c1 4", "n2 n2-a c2 3", "n3 n3-b c3 2", "n4 n4-a c4 1"}},
	} {
		before := r.TableChanges()
		handed := r.Members()
		kept := slices.Clone(handed)
		r.feed(step.command)
		var got []string
		for _, m := range r.Members() {
			got = append(got, memberText(m))
		}
		if !slices.Equal(got, step.want) {
			t.Fatalf("step %d: %q, want %q", i, got, step.want)
		}
		if !slices.Equal(handed, kept) || r.TableChanges() == before {
			t.Errorf("step %d: the list handed out before was changed, or nobody is told", i)
		}
	}
	r.feed(PutAutopilot(Autopilot{MinVoters: 5}))
	members := r.Members()
	restored(t, r)
	if !slices.Equal(r.Members(), members) || r.Autopilot().MinVoters != 5 {
		t.Errorf("after a restore: %v, %+v", r.Members(), r.Autopilot())
	}
	if _, err := r.Apply([]Entry{{Index: r.Applied() + 1, Data: PutMember(Member{Node: "n9"})}}); err == nil {
		t.Error("a member without a ServerID was taken")
	}
}

// Members that break M1 or M2 are none that a snapshot can have.
func TestSnapshotWithWrongMembers(t *testing.T) {
	list := func(members ...Member) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(members)))
		for _, m := range members {
			b = appendJSON(b, m)
		}
		return appendJSON(b, Autopilot{})
	}
	a, b := Member{Node: "n1", ServerID: "n1-a", BrokerID: 1}, Member{Node: "n2", ServerID: "n2-a", BrokerID: 2}
	twice, same, none := a, b, b
	twice.BrokerID, same.BrokerID, none.BrokerID = 3, 1, 0
	for _, x := range []struct {
		bytes []byte
		ok    bool
	}{{list(a, b), true}, {list(a, twice), false}, {list(a, same), false}, {list(none), false}, {list(a)[:9], false}} {
		s, r := New(nullStore{}, testSegment), reader{b: x.bytes}
		s.readMembers(&r)
		if ok := r.end() == nil; ok != x.ok {
			t.Errorf("%q: read %v, want %v", x.bytes, ok, x.ok)
		}
	}
}
