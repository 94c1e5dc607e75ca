package raftgroup

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// contacts notes when each peer was last sent a request that it then answered as
// our follower.
//
// raft's own VerifyLeader takes any answer that arrives after the question for a
// yes, also one to a request sent before it: a leader that was stopped for a
// while finds such answers waiting, and would vouch for a state that others have
// moved on from. An answer proves only that the peer followed us some time after
// the request was sent.
type contacts struct {
	mu   sync.Mutex
	last map[raft.ServerID]contact
}

type contact struct {
	term uint64
	sent time.Time
}

func (c *contacts) note(id raft.ServerID, sent time.Time, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	if resp.Term != req.Term {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.last[id]; old.term > req.Term || old.term == req.Term && old.sent.After(sent) {
		return
	}
	if c.last == nil {
		c.last = map[raft.ServerID]contact{}
	}
	c.last[id] = contact{req.Term, sent}
}

// quorum says whether a majority of the voters, self being one of them or not,
// followed the leader of a term at some moment after since.
func (c *contacts) quorum(servers []raft.Server, self raft.ServerID, term uint64, since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	voters, follow := 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if last := c.last[s.ID]; s.ID == self || last.term == term && !last.sent.Before(since) {
			follow++
		}
	}
	return follow > voters/2
}
