package fsm

import (
	"fmt"
	"maps"
	"slices"
)

// Member is a node that has a replica of the group, as the group's members agree
// on it. raft's configuration says who votes; this says how to reach whom, and
// what clients know each by.
//
//	M1  A node is a member once. A replica that was wiped and comes back takes the
//	    place of its old self.
//	M2  No two members have one BrokerID, and a member keeps its own for as long as
//	    its node is one. A new member gets the smallest that is free.
type Member struct {
	Node     string `json:"node"`
	ServerID string `json:"serverId"` // in raft's configuration
	Peer     string `json:"peer"`     // host:port of its peer port
	Client   string `json:"client"`   // host:port for clients; "" while unknown
	// Learner: an operator wants it to have no vote. Others get one by themselves.
	Learner bool `json:"learner,omitempty"`
	// BrokerID is what clients know it by while it does not lead, from 1 on. It is
	// given in apply.
	BrokerID int64 `json:"brokerId"`
}

// PutMember makes a node a member, or changes what is known of it. The BrokerID is
// not looked at.
func PutMember(m Member) []byte {
	m.BrokerID = 0
	return jsonCommand(KindPutMember, m)
}

// DropMember takes a member out, if it is of that ServerID.
func DropMember(serverID string) []byte {
	return appendString(header(nil, KindDropMember), serverID)
}

func (s *State) putMember(m Member) error {
	if m.Node == "" || m.ServerID == "" {
		return fmt.Errorf("%w: member %q of node %q", ErrCommand, m.ServerID, m.Node)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.BrokerID = s.members[m.Node].BrokerID; m.BrokerID == 0 {
		m.BrokerID = s.freeBrokerID()
	}
	s.setMembers(func(all map[string]Member) { all[m.Node] = m })
	return nil
}

func (s *State) freeBrokerID() int64 {
	taken := map[int64]bool{}
	for _, m := range s.members { // in any order
		taken[m.BrokerID] = true
	}
	id := int64(1)
	for taken[id] {
		id++
	}
	return id
}

func (s *State) dropMember(serverID string) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	// It may have been replaced since this was proposed. (F7)
	s.setMembers(func(all map[string]Member) {
		maps.DeleteFunc(all, func(_ string, m Member) bool { return m.ServerID == serverID })
	})
	return Stored
}

// setMembers changes the members. The lock is held.
func (s *State) setMembers(change func(map[string]Member)) {
	change(s.members)
	s.listMembers()
	s.memberChanges++
}

// listMembers makes the list that is handed out.
func (s *State) listMembers() {
	s.memberList = slices.Collect(func(yield func(Member) bool) {
		for _, node := range slices.Sorted(maps.Keys(s.members)) {
			if !yield(s.members[node]) {
				return
			}
		}
	})
}

// Members are the group's members, sorted by node; none while nothing was agreed
// on. The slice is not to be changed.
func (s *State) Members() []Member {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.memberList
}

// Member returns the member of a node.
func (s *State) Member(node string) (Member, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m, ok := s.members[node]
	return m, ok
}

func (s *State) appendMembers(b []byte) []byte {
	b = appendCount(b, len(s.memberList))
	for _, m := range s.memberList {
		b = appendJSON(b, m)
	}
	return appendJSON(b, s.autopilot)
}

func (s *State) readMembers(r *reader) {
	ids := map[int64]bool{}
	for range r.count(4) {
		var m Member
		r.json(&m)
		switch {
		case r.err != nil:
			return
		case m.Node == "" || m.ServerID == "" || m.BrokerID < 1 || s.members[m.Node].Node != "" || ids[m.BrokerID]:
			r.fail(fmt.Errorf("member %q of node %q with broker id %d", m.ServerID, m.Node, m.BrokerID))
			return
		}
		s.members[m.Node], ids[m.BrokerID] = m, true
	}
	s.listMembers()
	r.json(&s.autopilot)
}

// Autopilot is what the group's members agree on about changes of membership that
// nobody asked for. What is zero has the default that its user gives.
type Autopilot struct {
	// KeepDead: members that are dead are not taken out, though replaced.
	KeepDead bool `json:"keepDead,omitempty"`
	// MinVoters: no dead voter is taken out if fewer remained.
	MinVoters int `json:"minVoters,omitempty"`
	// Stable is how long a replica has to be well before it gets a vote, in ms.
	Stable int64 `json:"stable,omitempty"`
	// DeadAfter is how long a member has to be silent before it counts as dead, in
	// ms.
	DeadAfter int64 `json:"deadAfter,omitempty"`
	// MaxTrailing is how many entries a replica that is well may be behind.
	MaxTrailing uint64 `json:"maxTrailing,omitempty"`
}

// PutAutopilot sets it.
func PutAutopilot(a Autopilot) []byte { return jsonCommand(KindPutAutopilot, a) }

func (s *State) putAutopilot(a Autopilot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.autopilot = a
}

// Autopilot is what the members agree on.
func (s *State) Autopilot() Autopilot {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.autopilot
}
