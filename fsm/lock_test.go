package fsm

import (
	"slices"
	"testing"

	"github.com/raftmq/raftmq/remoting"
)

// lockOf is the lock of a queue as its proposer knows it.
func lockOf(topic string, queue int32, seen uint64) []QueueLock {
	return []QueueLock{{Topic: topic, Queue: queue, Lock: Lock{Renewal: seen}}}
}

// holds checks who has locked queue 0 of T for g, and returns the renewal.
func (r *replica) holds(client string) uint64 {
	r.t.Helper()
	l, ok := r.QueueLock("g", "T", 0)
	if l.Client != client || ok != (client != "") {
		r.t.Errorf("the lock is %+v, %v, want it held by %q", l, ok, client)
	}
	return l.Renewal
}

func lockingReplica(t *testing.T) *replica {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 2), false), PutGroup(remoting.NewGroupConfig("g"), true), PutGroup(remoting.NewGroupConfig("h"), true))
	return r
}

func TestORDER02RenewalInTheLogWins(t *testing.T) {
	r := lockingReplica(t)
	r.feed(Grant("g", "c1", lockOf("T", 0, 0)))
	first := r.holds("c1")
	r.feed(Grant("g", "c2", lockOf("T", 0, 0)))
	if r.holds("c1") != first {
		t.Error("an attempt of another client has renewed the lock")
	}

	// The leader saw the lock expire, but a renewal is in the log before.
	r.feed(Grant("g", "c1", lockOf("T", 0, first)), Grant("g", "c2", lockOf("T", 0, first)), Unlock("g", lockOf("T", 0, first)))
	second := r.holds("c1")
	if second == first {
		t.Error("a renewal is not told from the one before")
	}
	r.feed(Grant("g", "c2", lockOf("T", 0, second)))
	third := r.holds("c2")
	// What the first holder still had on its way does nothing.
	r.feed(Grant("g", "c1", lockOf("T", 0, second)), Unlock("g", lockOf("T", 0, second)))
	r.holds("c2")
	r.feed(Unlock("g", lockOf("T", 0, third)))
	r.holds("")
	r.feed(Grant("g", "c1", lockOf("T", 0, third)))
	r.holds("c1")
}

func TestLocksGoWithTheirTopicAndTheirGroup(t *testing.T) {
	r := lockingReplica(t)
	lock := func() {
		r.feed(PutTopic(testTopic("T", 2), false), PutTopic(testTopic("U", 1), false), PutGroup(remoting.NewGroupConfig("g"), true),
			Grant("g", "c", lockOf("T", 0, 0)), Grant("g", "c", lockOf("T", 1, 0)), Grant("g", "c", lockOf("U", 0, 0)), Grant("h", "c", lockOf("T", 0, 0)))
	}
	all := func() (list []QueueLock) {
		r.QueueLocks(func(l QueueLock) {
			l.Lock = Lock{}
			list = append(list, l)
		})
		return list
	}
	lock()
	if want := []QueueLock{{Group: "g", Topic: "T", Queue: 0}, {Group: "g", Topic: "T", Queue: 1}, {Group: "h", Topic: "T", Queue: 0}, {Group: "g", Topic: "U", Queue: 0}}; !slices.Equal(all(), want) {
		t.Fatalf("locks %v, want %v", all(), want)
	}
	changes := r.LockChanges()
	r.feed(DeleteTopic("T"))
	if want := []QueueLock{{Group: "g", Topic: "U", Queue: 0}}; !slices.Equal(all(), want) || r.LockChanges() == changes {
		t.Errorf("after the topic's deletion %v, changes %d, before %d", all(), r.LockChanges(), changes)
	}
	r.feed(DeleteTopic("U"))
	lock()
	r.feed(DeleteGroup("g", false))
	if want := []QueueLock{{Group: "h", Topic: "T", Queue: 0}}; !slices.Equal(all(), want) {
		t.Errorf("after the group's deletion %v", all())
	}
	// What is not there is not locked.
	r.feed(Grant("g", "c", lockOf("T", 0, 0)), Grant("h", "c", lockOf("gone", 0, 0)), Grant("h", "c", lockOf("T", 2, 0)), Grant("h", "c", lockOf("T", -1, 0)))
	if got := all(); len(got) != 1 {
		t.Errorf("locks of what does not exist: %v", got)
	}
}
