package raftgroup

import "github.com/hashicorp/raft"

// passForgotten lets a request that begins before what is left of the log begin
// at the snapshot instead. What the snapshot has was committed, so whoever leads
// has it too, and need not prove that it is the same.
//
// hashicorp/raft would refuse the request, as it can't find the entry before it.
// The leader then goes further back and sends a snapshot, which is held already
// and answered, and the same request again, for ever and without a pause. A leader
// gets that far back by refusals of another kind: a follower whose disk is full
// for a while is sent one entry more each time.
func (t *transport) passForgotten(req *raft.AppendEntriesRequest) {
	if req.PrevLogEntry == 0 && len(req.Entries) == 0 {
		return
	}
	index, term := t.forgotten(req.PrevLogEntry)
	if index <= req.PrevLogEntry {
		return
	}
	n := min(index-req.PrevLogEntry, uint64(len(req.Entries)))
	req.Entries = req.Entries[n:]
	req.PrevLogEntry, req.PrevLogTerm = index, term
}

// forgotten is the newest snapshot's last entry, if the log has forgotten the
// entry at prev; else 0.
func (g *Group) forgotten(prev uint64) (index, term uint64) {
	first, err := g.log.FirstIndex()
	if err != nil || first > 0 && prev >= first {
		return 0, 0
	}
	meta, err := newest(g.snaps)
	if err != nil || meta == nil {
		return 0, 0
	}
	return meta.Index, meta.Term
}
