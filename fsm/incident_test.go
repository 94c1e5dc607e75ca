package fsm

import (
	"fmt"
	"testing"
)

// The latest incidents are kept, and not changed under who was given them.
func TestIncidents(t *testing.T) {
	r := newReplica(t)
	var first []Incident
	for i := range maxIncidents + 3 {
		r.feed(at(int64(1000+i), NoteIncident("n1-aa", fmt.Sprint("incident ", i))))
		if i == maxIncidents-1 {
			first = r.Incidents()
		}
	}
	if len(first) != maxIncidents || first[0].What != "incident 0" {
		t.Errorf("what was given out is now %+v", first)
	}
	got := r.Incidents()
	if len(got) != maxIncidents || got[0] != (Incident{1003, "n1-aa", "incident 3"}) || got[maxIncidents-1].What != fmt.Sprint("incident ", maxIncidents+2) {
		t.Errorf("%+v", got)
	}
}
