package main

import (
	"testing"

	"github.com/raftmq/raftmq/client"
)

// TestMembersCheckerCatches seeds what members look for.
func TestMembersCheckerCatches(t *testing.T) {
	queue := client.MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: 1}
	// sound is a group whose consumers got all of three messages, one of them after
	// it had joined behind the first.
	sound := func() (m *members, late *member, got func(*member, int)) {
		m = &members{
			l: &load{t: t, topic: "T", h: newHistory()}, group: "G",
			consumed: map[string]bool{}, committed: map[client.MessageQueue]int64{}, comings: [3]int{2, 0, 0},
		}
		for n := range 3 {
			i, _ := m.l.h.invoke(op{n: n})
			m.l.h.end(i, acked, place{"broker-a", 1, int64(n)}, "K", nil)
		}
		got = func(mb *member, n int) {
			err := mb.consume(t.Context(), []*client.MessageExt{{
				Message: client.Message{Topic: "T", Body: []byte(op{n: n}.body())}, Queue: queue, QueueOffset: int64(n),
			}})
			if err != nil && !mb.dead.Load() {
				t.Error(err)
			}
		}
		early := &member{of: m, name: "early"}
		late = &member{of: m, name: "late", from: map[client.MessageQueue]int64{queue: 1}}
		got(early, 0)
		m.saw(queue, 1)
		got(early, 1)
		got(late, 1) // again: the first died with it
		m.saw(queue, 1)
		m.saw(queue, 2)
		return m, late, got
	}
	m, late, got := sound()
	got(late, 2)
	m.saw(queue, 3)
	if found := m.check(); len(found) > 0 {
		t.Fatalf("a sound history: %v", found)
	}
	for name, c := range map[string]struct {
		kind string
		seed func(m *members, late *member, got func(*member, int))
	}{
		"never consumed":          {skipped, func(*members, *member, func(*member, int)) {}},
		"consumed by the dead":    {skipped, func(_ *members, late *member, got func(*member, int)) { late.dead.Store(true); got(late, 2) }},
		"an offset goes back":     {backwards, func(m *members, _ *member, _ func(*member, int)) { m.saw(queue, 1) }},
		"consumed when committed": {backwards, func(_ *members, late *member, got func(*member, int)) { got(late, 0) }},
	} {
		t.Run(name, func(t *testing.T) {
			m, late, got := sound()
			c.seed(m, late, got)
			wantKind(t, m.check(), c.kind)
		})
	}
}
