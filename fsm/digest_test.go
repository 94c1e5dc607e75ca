package fsm

import "testing"

// Digests are taken at the index of the command, in the middle of a batch, too,
// and are those of what was applied before it.
func TestDigests(t *testing.T) {
	a, b := newReplica(t), newReplica(t)
	for _, r := range []*replica{a, b} {
		r.feed(at(1000, NoteIncident("n1-aa", "one")), at(1001, TakeDigests()))
	}
	if a.Digests() != b.Digests() || a.Digests().Index == 0 || a.Digests().State == "" {
		t.Fatalf("%+v and %+v", a.Digests(), b.Digests())
	}
	before := a.Digests()
	a.feed(at(1002, NoteIncident("n1-aa", "two")))
	if a.Digests() != before {
		t.Error("digests change without a command")
	}
	b.feed(at(1002, NoteIncident("n1-aa", "another")))
	for _, r := range []*replica{a, b} {
		r.feed(at(1003, TakeDigests()))
	}
	if a.Digests().State == b.Digests().State || a.Digests().Files != b.Digests().Files {
		t.Errorf("states that differ have %+v and %+v", a.Digests(), b.Digests())
	}
}
