package remoting

import (
	"encoding/json"
	"fmt"
)

// Requests that only raftmq has. Their numbers are far from RocketMQ's.
const (
	RaftStatusRequest   int32 = 30001 // answered by a RaftStatus
	RaftTransferRequest int32 = 30002 // the leader gives leadership to the member named in field "to", or to the one best fit
	RaftSnapshotRequest int32 = 30003 // this replica takes a snapshot
	RaftDigestRequest   int32 = 30005 // the leader has all replicas take their digests, at one index; its RaftStatus has it then
	RaftScrubRequest    int32 = 30004 // this replica checks what is on its disk now, at field "bytesPerSec" if given; answered by its RaftScrub
	RaftTrustRequest    int32 = 30020 // this replica, which is suspect, takes part in elections as it is
)

// RaftStatus is how a replica of a raft group sees itself and the group.
type RaftStatus struct {
	Group        string       `json:"group"`
	Node         string       `json:"node"`
	ServerID     string       `json:"serverId"`
	State        string       `json:"state"` // Leader, Follower, Candidate, Shutdown
	Term         uint64       `json:"term"`
	Leader       string       `json:"leader"` // ServerID; "" if unknown
	CommitIndex  uint64       `json:"commitIndex"`
	AppliedIndex uint64       `json:"appliedIndex"`
	LastIndex    uint64       `json:"lastIndex"`
	Snapshot     uint64       `json:"snapshotIndex"` // of the newest
	CommitLogMin int64        `json:"commitLogMin"`
	CommitLogEnd int64        `json:"commitLogEnd"`
	Missing      int64        `json:"missingBytes"` // of the CommitLog, being fetched from peers
	Complete     bool         `json:"complete"`     // has all it should have
	Shortcuts    uint64       `json:"shortcuts"`    // elections it has stood in at once, as the leader's process was gone
	Failure      string       `json:"failure,omitempty"`
	Preferred    string       `json:"preferred,omitempty"`    // the node that is to lead
	Restrained   string       `json:"restrained,omitempty"`   // why this replica should not lead
	Handovers    int64        `json:"handovers"`              // since the start, given away by this replica
	LastHandover string       `json:"lastHandover,omitempty"` // to whom, and why
	Removed      string       `json:"removed,omitempty"`      // why it is no member of the group any more
	Fenced       string       `json:"fenced,omitempty"`       // since when and why it is kept away from its group
	Fences       int64        `json:"fences"`                 // how often it was, since the start
	DiskHung     string       `json:"diskHung,omitempty"`     // what on its disk does not end
	DiskSlow     bool         `json:"diskSlow"`               // too slow to lead, if another one is faster
	StoreTime    int64        `json:"storeTimeMs"`            // that entries take to be stored, of late
	NoRoom       string       `json:"noRoom,omitempty"`       // why it takes no messages for want of room
	ReadErrors   int64        `json:"readErrors"`             // pulls that could not be answered for an error of the disk
	Configured   int          `json:"configured"`             // replicas that its node's file names for the group
	Groups       []string     `json:"groups,omitempty"`       // that its node's file names
	Members      []RaftMember `json:"members"`
	// LeaderAddress is where clients reach the leader; "" also while it does not
	// serve yet.
	LeaderAddress string    `json:"leaderAddress"`
	Fetched       int64     `json:"fetchedBytes"` // since the start, of what was missing
	Scrub         RaftScrub `json:"scrub"`
	DigestIndex   uint64    `json:"digestIndex,omitempty"` // where digests were taken last: of the state, and of what the files must hold
	DigestState   string    `json:"digestState,omitempty"`
	DigestFiles   string    `json:"digestFiles,omitempty"`
	// Suspect: it lost power with entries unsynced, and does not vote until it has
	// what it acknowledged again.
	Suspect bool `json:"suspect,omitempty"`
	// PossibleLoss says why acknowledged messages may be lost, if they may.
	PossibleLoss string `json:"possibleLoss,omitempty"`
	// Incidents are the latest that the group has noted, the last one last.
	Incidents []RaftIncident `json:"incidents,omitempty"`
}

// RaftIncident is something that befell a group.
type RaftIncident struct {
	Time    int64  `json:"time"`    // ms
	Replica string `json:"replica"` // ServerID
	What    string `json:"what"`
}

// RaftMember is a member of a raft group.
type RaftMember struct {
	ServerID string `json:"serverId"`
	Address  string `json:"address"` // host:port of its peer port
	Voter    bool   `json:"voter"`
	Learner  bool   `json:"learner,omitempty"`  // stays without a vote until it is promoted
	Client   string `json:"client,omitempty"`   // where clients reach it
	BrokerID int64  `json:"brokerId,omitempty"` // while it does not lead
	// Already: it was a member before it was to be taken in, and nothing was changed.
	Already bool `json:"already,omitempty"`
}

// AppendBody appends the status.
func (s *RaftStatus) AppendBody(dst []byte) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("remoting: %v", err)) // strings and numbers
	}
	return append(dst, b...)
}

// DecodeBody reads it.
func (s *RaftStatus) DecodeBody(b []byte) error {
	if err := json.Unmarshal(b, s); err != nil {
		return fmt.Errorf("%w: raft status: %w", ErrBody, err)
	}
	return nil
}
