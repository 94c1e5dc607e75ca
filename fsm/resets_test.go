package fsm

import (
	"testing"

	"github.com/raftmq/raftmq/remoting"
)

func TestCommitsArePassedOverUntilAResetHasEnded(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 2), false), PutGroup(remoting.NewGroupConfig("g"), true))
	commit := func(offset int64) []byte { return CommitOffsets([]Offset{{"g", "T", 0, offset}}) }
	want := func(what string, offset int64, pending bool) uint64 {
		t.Helper()
		if got, ok := r.CommittedOffset("g", "T", 0); !ok || got != offset {
			t.Errorf("%s: committed %d, %v; want %d", what, got, ok, offset)
		}
		reset, ok := r.PendingReset("g", "T", 0)
		if ok != pending || ok && reset.Offset != offset {
			t.Errorf("%s: pending %+v, %v; want %v", what, reset, ok, pending)
		}
		return reset.ID
	}
	r.feed(commit(7), ResetOffsets([]Offset{{"g", "T", 0, 3}, {"g", "T", -1, 3}, {"g", "T", 1, -3}, {"none", "T", 0, 3}, {"g", "none", 0, 3}}))
	first := want("reset", 3, true)
	if len(r.resets) != 1 {
		t.Errorf("resets %v", r.resets)
	}
	r.feed(commit(8), CommitOffsets([]Offset{{"g", "T", 1, 5}}))
	want("a commit of before", 3, true)
	if got, _ := r.CommittedOffset("g", "T", 1); got != 5 {
		t.Errorf("another queue is at %d, want 5", got)
	}

	// It is the same after a restore, and is ended by its own id only.
	restored(t, r)
	r.feed(commit(9), ResetOffsets([]Offset{{"g", "T", 0, 4}}))
	second := want("reset again", 4, true)
	if res := r.feed(EndReset("g", "T", 0, first)); res[0][0].Status != Stale || first == second {
		t.Errorf("the end of the first reset, %d, of the second's, %d: %v", first, second, res[0][0].Status)
	}
	want("the first one's end", 4, true)
	if res := r.feed(EndReset("g", "T", 0, second), EndReset("g", "T", 0, second)); res[0][0].Status != Stored || res[1][0].Status != Stale {
		t.Errorf("ended twice: %v, %v", res[0][0].Status, res[1][0].Status)
	}
	want("ended", 4, false)
	r.feed(commit(10))
	want("a commit after the end", 10, false)
}

func TestResetsGoWithTheirTopicAndGroup(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 1), false), PutTopic(testTopic("U", 1), false),
		PutGroup(remoting.NewGroupConfig("g"), true), PutGroup(remoting.NewGroupConfig("h"), true),
		ResetOffsets([]Offset{{"g", "T", 0, 1}, {"h", "T", 0, 1}, {"g", "U", 0, 1}}), DeleteTopic("T"))
	if _, ok := r.PendingReset("g", "U", 0); !ok || len(r.resets) != 1 {
		t.Errorf("without the topic: %v", r.resets)
	}
	r.feed(DeleteGroup("g", false))
	if len(r.resets) != 0 {
		t.Errorf("without the group: %v", r.resets)
	}
}
