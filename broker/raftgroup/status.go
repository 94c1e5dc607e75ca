package raftgroup

import (
	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/remoting"
)

// Status is how this replica sees itself and the group.
func (g *Group) Status() remoting.RaftStatus {
	_, leader := g.knownLeader()
	applied, _ := g.progress.get()
	s := remoting.RaftStatus{
		Group: g.cfg.Name, Node: g.cfg.Node, ServerID: string(g.id),
		State: g.raft().State().String(), Term: g.raft().CurrentTerm(), Leader: string(leader),
		CommitIndex: g.raft().CommitIndex(), AppliedIndex: applied, LastIndex: g.raft().LastIndex(), Snapshot: g.lastSnapshot(),
		CommitLogMin: g.store.Min(), CommitLogEnd: g.store.End(), Complete: g.store.Complete(),
		Shortcuts: g.shortcut.taken.Load(),
	}
	s.Suspect, s.PossibleLoss = g.suspicion.get()
	for _, i := range g.state.Incidents() {
		s.Incidents = append(s.Incidents, remoting.RaftIncident{Time: i.Time, Replica: i.Replica, What: i.What})
	}
	if l := g.Leadership(); l.Term == s.Term {
		s.LeaderAddress = l.Address
	}
	for _, r := range g.store.Missing() {
		s.Missing += r.End - r.Off
	}
	d := g.state.Digests()
	s.DigestIndex, s.DigestState, s.DigestFiles = d.Index, d.State, d.Files
	s.Fetched, s.Scrub = g.fetched.Load(), g.scrubStatus()
	s.Handovers, s.LastHandover = g.handover.status()
	if len(g.cfg.Preference) > 0 {
		s.Preferred = g.cfg.Preference[0]
	}
	if err := g.standing.restrained(); err != nil {
		s.Restrained = err.Error()
	}
	s.Removed = g.Removed()
	f := g.fitness.get()
	s.Fenced, s.Fences, s.DiskSlow, s.NoRoom, s.StoreTime = g.Fenced(), g.fence.count.Load(), f.slow, f.noRoom, f.average.Milliseconds()
	if h := g.fence.hung.Load(); h != nil {
		s.DiskHung = h.String()
	}
	if err := g.Err(); err != nil {
		s.Failure = err.Error()
	}
	servers, err := g.servers()
	if err != nil {
		return s // raft has stopped: what is known is above
	}
	for _, m := range servers {
		_, addr, err := splitAddress(m.Address)
		if err != nil {
			addr = string(m.Address)
		}
		member := remoting.RaftMember{ServerID: string(m.ID), Address: addr, Voter: m.Suffrage == raft.Voter}
		if d, ok := g.state.Member(nodeOf(string(m.ID))); ok && d.ServerID == string(m.ID) {
			member.Learner, member.Client, member.BrokerID = d.Learner && !member.Voter, d.Client, d.BrokerID
		}
		s.Members = append(s.Members, member)
	}
	return s
}
