package raftgroup

import (
	"cmp"
	"slices"
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
	last uint64 // its last entry, as far as is known
}

func (c *contacts) note(id raft.ServerID, sent time.Time, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	if resp.Term != req.Term {
		return
	}
	last := resp.LastLog
	if resp.Success {
		last = max(last, req.PrevLogEntry+uint64(len(req.Entries)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.last[id]
	if old.term == req.Term {
		last = max(last, old.last)
	}
	if old.term > req.Term {
		return
	}
	if old.term == req.Term && old.sent.After(sent) {
		sent = old.sent
	}
	if c.last == nil {
		c.last = map[raft.ServerID]contact{}
	}
	c.last[id] = contact{req.Term, sent, last}
}

// best are the other voters that have followed the leader of a term, the one with
// most of the log first.
func (c *contacts) best(servers []raft.Server, self raft.ServerID, term uint64) (voters []raft.Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range servers {
		if s.ID != self && s.Suffrage == raft.Voter && c.last[s.ID].term == term {
			voters = append(voters, s)
		}
	}
	slices.SortStableFunc(voters, func(a, b raft.Server) int { return cmp.Compare(c.last[b.ID].last, c.last[a.ID].last) })
	return voters
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
