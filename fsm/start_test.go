package fsm

import (
	"slices"
	"testing"

	"github.com/raftmq/raftmq/remoting"
)

// T1, T2: the last starter's word holds, an operator's until the next start; who
// registers again changes nothing, nor who claims to come from the future.
func TestLastStarterSetsTheLimit(t *testing.T) {
	r := newReplica(t)
	at := func(now int64, command []byte) Status {
		t.Helper()
		Stamp(command, now)
		return slices.Concat(r.feed(command)...)[0].Status
	}
	operator := func(limit int32) []byte {
		g := remoting.NewGroupConfig("g")
		g.RetryMaxTimes = limit
		return PutGroup(g, false)
	}
	for i, step := range []struct {
		now     int64
		command []byte
		status  Status
		limit   int32
		told    bool
	}{
		{1000, PutGroup(remoting.NewGroupConfig("g"), true), Stored, 16, false},
		{2000, StartConsumer("g", 1900, 3), Stored, 3, true},
		{3000, StartConsumer("g", 2900, 20), Stored, 20, true},
		{4000, StartConsumer("g", 1900, 3), Stale, 20, true},                   // the first one's next heartbeat
		{4000, StartConsumer("g", 2900, 20), Stale, 20, true},                  // and the second one's
		{5000, StartConsumer("g", 5001+StartSkew, 9), Stale, 20, true},         // ahead of its time
		{5001, StartConsumer("g", 5001+StartSkew, 9), Stored, 9, true},         // which has come
		{6000, StartConsumer("g", 1<<62, 1), Stale, 9, true},                   // absurd
		{20000, StartConsumer("g", 19000, -1), Stale, 9, true},                 // no limit
		{20000, StartConsumer("none", 19000, 1), Stale, 9, true},               // no group
		{20000, operator(9), Stored, 9, true},                                  // something else was changed
		{30000, operator(5), Stored, 5, false},                                 // the limit was
		{30001, StartConsumer("g", 29999, 9), Stale, 5, false},                 // who ran by then
		{40000, StartConsumer("g", 35000, 0), Stored, 0, true},                 // who has started since
		{40001, PutGroup(remoting.NewGroupConfig("g"), true), Stored, 0, true}, // a heartbeat makes sure of the group
	} {
		if s := at(step.now, step.command); s != step.status {
			t.Errorf("step %d: status %d, want %d", i, s, step.status)
		}
		if g, _ := r.Group("g"); g.RetryMaxTimes != step.limit || r.LastStart("g").Told != step.told {
			t.Errorf("step %d: limit %d, %+v; want %d, told %v", i, g.RetryMaxTimes, r.LastStart("g"), step.limit, step.told)
		}
	}
	restored(t, r)
	if got := r.LastStart("g"); got != (Start{35000, true}) {
		t.Errorf("after a restore: %+v", got)
	}
	at(50000, DeleteGroup("g", false))
	if got := r.LastStart("g"); got != (Start{}) {
		t.Errorf("a deleted group's: %+v", got)
	}
	at(60000, operator(2)) // a new group, with a limit from the beginning
	if s := at(60001, StartConsumer("g", 59000, 7)); s != Stale {
		t.Errorf("an instance of before the group: status %d", s)
	}
}
