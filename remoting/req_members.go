package remoting

import (
	"encoding/json"
	"fmt"
)

// Requests that change who is a member of a raft group, for its leader. A replica
// that does not lead passes them on. Fields: "node", the member by its node or
// ServerID; "address", host:port of a peer port; "force" and "learner", booleans.
const (
	RaftAddPeerRequest      int32 = 30030 // the replica at "address" joins, without a vote; answered by a RaftMember
	RaftRemovePeerRequest   int32 = 30031 // "node" is a member no more
	RaftPromoteRequest      int32 = 30032 // "node" gets a vote
	RaftDemoteRequest       int32 = 30033 // "node" loses it, and stays
	RaftAutopilotRequest    int32 = 30034 // answered by a RaftAutopilot
	RaftSetAutopilotRequest int32 = 30035 // the body is a RaftAutopilotConfig; what is zero has its default
)

// RaftAutopilotConfig is what holds for changes of membership that nobody asked
// for. What is zero has its default.
type RaftAutopilotConfig struct {
	CleanupDead bool   `json:"cleanupDead"`         // dead members are taken out when they were replaced
	MinVoters   int    `json:"minVoters,omitempty"` // no dead voter is taken out if fewer remained
	Stable      int64  `json:"stableMs,omitempty"`  // how long a member is well before it gets a vote
	DeadAfter   int64  `json:"deadAfterMs,omitempty"`
	MaxTrailing uint64 `json:"maxTrailing,omitempty"` // entries that a member that is well may be behind
}

// RaftAutopilot is how a leader sees its members.
type RaftAutopilot struct {
	Config    RaftAutopilotConfig `json:"config"`
	Healthy   bool                `json:"healthy"`          // all members are well
	Tolerance int                 `json:"failureTolerance"` // how many voters may fail and writes go on
	Members   []RaftHealth        `json:"members"`
}

// RaftHealth is how a leader sees one member.
type RaftHealth struct {
	ServerID   string `json:"serverId"`
	Leader     bool   `json:"leader"`
	Voter      bool   `json:"voter"`
	Learner    bool   `json:"learner"` // stays without a vote
	Healthy    bool   `json:"healthy"`
	Since      int64  `json:"since"` // when that has changed last, ms
	Dead       bool   `json:"dead"`
	Superseded bool   `json:"superseded"` // its node has come back as another replica
	Applied    uint64 `json:"applied"`
	Complete   bool   `json:"complete"`
	Restrained string `json:"restrained,omitempty"` // what keeps it out of elections
}

// AppendBody appends it.
func (a *RaftAutopilot) AppendBody(dst []byte) []byte { return appendRaftJSON(dst, a) }

// DecodeBody reads it.
func (a *RaftAutopilot) DecodeBody(b []byte) error { return decodeRaftJSON(b, a) }

// AppendBody appends it.
func (c *RaftAutopilotConfig) AppendBody(dst []byte) []byte { return appendRaftJSON(dst, c) }

// DecodeBody reads it.
func (c *RaftAutopilotConfig) DecodeBody(b []byte) error { return decodeRaftJSON(b, c) }

// AppendBody appends the member.
func (m *RaftMember) AppendBody(dst []byte) []byte { return appendRaftJSON(dst, m) }

// DecodeBody reads it.
func (m *RaftMember) DecodeBody(b []byte) error { return decodeRaftJSON(b, m) }

func appendRaftJSON(dst []byte, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("remoting: %v", err)) // strings and numbers
	}
	return append(dst, b...)
}

func decodeRaftJSON(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %T: %w", ErrBody, v, err)
	}
	return nil
}
