package fsm

import "slices"

// Incident is something that befell a group and that its operators should find
// later: that a replica came back after a power loss, that a group was recovered
// by hand.
type Incident struct {
	Time    int64  `json:"time"`    // log time, ms
	Replica string `json:"replica"` // ServerID of the replica that it was about
	What    string `json:"what"`
}

// maxIncidents is how many are kept, the latest.
const maxIncidents = 16

// NoteIncident makes a command that notes an incident. Its time is the command's.
func NoteIncident(replica, what string) []byte {
	return appendString(appendString(header(nil, KindIncident), replica), what)
}

func (s *State) noteIncident(r *reader) (Status, error) {
	i := Incident{Time: s.logTime, Replica: r.string(), What: r.string()}
	if err := r.end(); err != nil {
		return 0, wrap(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.incidents) == maxIncidents {
		s.incidents = s.incidents[1:]
	}
	s.incidents = append(slices.Clip(s.incidents), i) // who was given them may still read them
	return Stored, nil
}

// Incidents returns the latest incidents, the last one last. They are not to be
// changed.
func (s *State) Incidents() []Incident {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.incidents
}

func (s *State) appendIncidents(b []byte) []byte {
	b = appendCount(b, len(s.incidents))
	for _, i := range s.incidents {
		b = appendString(appendString(appendI64(b, i.Time), i.Replica), i.What)
	}
	return b
}

func (s *State) readIncidents(r *reader) {
	for range r.count(8 + 4 + 4) {
		s.incidents = append(s.incidents, Incident{Time: r.i64(), Replica: r.string(), What: r.string()})
	}
}
