package raftgroup

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

const (
	pilotEvery = 2 * time.Second
	// contactThreshold is how long a member that is well may be silent.
	contactThreshold = 5 * time.Second

	defaultDeadAfter   = time.Minute
	defaultMaxTrailing = 256
	defaultMinVoters   = 3
)

// MaxAutopilotWait is the longest time that may be set.
const MaxAutopilotWait = 10 * 365 * 24 * time.Hour

// The kinds of node that raft-autopilot is told of.
const (
	kindVoter   autopilot.NodeType = autopilot.NodeVoter
	kindLearner autopilot.NodeType = "learner" // stays without a vote
)

// pilot changes the membership by itself while this replica leads: it gives
// members their votes and takes the dead out. raft-autopilot looks at the members
// and carries out; what may be done is decided here, more strictly than it would
// by itself:
//
//   - A member gets its vote when it has been well for the whole time asked for,
//     also of a leader that is new. raft-autopilot would take its word at once.
//     Well is who answers, has applied nearly all, misses no range of the CommitLog
//     and is kept out of elections by nothing.
//   - A dead voter is taken out when another has taken its place, and not because a
//     majority could be had without it: when its node has come back as another
//     incarnation, which votes; or, silent for long, out of an even number of
//     voters, as the last one is of no use then.
//   - raft's futures are waited for with a limit, see await.
type pilot struct {
	g       *Group
	ctx     context.Context
	inner   *autopilot.Autopilot
	running sync.WaitGroup // removals
}

// manage looks after the membership until ctx ends, which this replica's leading
// does.
func (g *Group) manage(ctx context.Context) {
	servers, err := g.servers()
	if err != nil {
		return // raft has stopped
	}
	g.said.begin(time.Now(), servers)
	p := &pilot{g: g, ctx: ctx}
	p.inner = autopilot.New(pilotRaft{p}, p, autopilot.WithPromoter(p), autopilot.WithLogger(g.logger),
		autopilot.WithUpdateInterval(pilotEvery), autopilot.WithReconcileInterval(pilotEvery))
	p.inner.Start(ctx) // it has asked all members when it returns
	p.running.Go(func() { g.keepDirectory(ctx) })
	g.pilot.Store(p)
	<-ctx.Done()
	g.pilot.CompareAndSwap(p, nil)
	<-p.inner.Stop()
	p.running.Wait()
}

// AutopilotConfig implements autopilot.ApplicationIntegration.
func (p *pilot) AutopilotConfig() *autopilot.Config {
	c := p.g.AutopilotConfig()
	return &autopilot.Config{
		CleanupDeadServers: !c.KeepDead, LastContactThreshold: contactThreshold, MaxTrailingLogs: c.MaxTrailing,
		MinQuorum: uint(c.MinVoters), ServerStabilizationTime: time.Duration(c.Stable) * time.Millisecond,
	}
}

// AutopilotConfig is what holds for changes of membership that nobody asked for,
// defaults included.
func (g *Group) AutopilotConfig() fsm.Autopilot {
	c := g.state.Autopilot()
	if c.MinVoters <= 0 {
		c.MinVoters = defaultMinVoters
	}
	if c.Stable <= 0 {
		c.Stable = g.cfg.PromoteAfter.Milliseconds()
	}
	if c.DeadAfter <= 0 {
		c.DeadAfter = defaultDeadAfter.Milliseconds()
	}
	// The log may hold what nobody refused when it was set.
	c.Stable, c.DeadAfter = min(c.Stable, MaxAutopilotWait.Milliseconds()), min(c.DeadAfter, MaxAutopilotWait.Milliseconds())
	if c.MaxTrailing == 0 {
		c.MaxTrailing = defaultMaxTrailing
	}
	return c
}

// NotifyState implements autopilot.ApplicationIntegration.
func (p *pilot) NotifyState(*autopilot.State) {}

// KnownServers implements autopilot.ApplicationIntegration: who raft knows, alive
// or not.
func (p *pilot) KnownServers() map[raft.ServerID]*autopilot.Server {
	servers, err := p.g.servers()
	if err != nil {
		return nil
	}
	known := map[raft.ServerID]*autopilot.Server{}
	for _, s := range servers {
		status, kind := autopilot.NodeAlive, kindVoter
		if p.dead(s.ID) {
			status = autopilot.NodeFailed
		}
		if m, ok := p.g.state.Member(nodeOf(string(s.ID))); ok && m.ServerID == string(s.ID) && m.Learner && s.Suffrage != raft.Voter {
			kind = kindLearner
		}
		known[s.ID] = &autopilot.Server{
			ID: s.ID, Name: nodeOf(string(s.ID)), Address: s.Address, NodeStatus: status, IsLeader: s.ID == p.g.id, NodeType: kind,
		}
	}
	return known
}

// dead says whether a member counts as dead: silent for long, or its place taken
// by its node's next incarnation.
func (p *pilot) dead(id raft.ServerID) bool {
	if id == p.g.id || p.g.follows(id) {
		return false
	}
	if p.superseded(id) {
		return true
	}
	a, ok := p.g.said.get(id)
	return ok && time.Since(a.at) > time.Duration(p.g.AutopilotConfig().DeadAfter)*time.Millisecond
}

// superseded says whether a member's node is another incarnation by now.
func (p *pilot) superseded(id raft.ServerID) bool {
	m, ok := p.g.state.Member(nodeOf(string(id)))
	return ok && m.ServerID != string(id)
}

// FetchServerStats implements autopilot.ApplicationIntegration: it asks all.
func (p *pilot) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	var asking sync.WaitGroup
	for id, s := range servers {
		asking.Go(func() {
			_, addr, err := splitAddress(s.Address)
			if err != nil {
				return // not of our making
			}
			r := replicaState{}
			if id == p.g.id {
				r = p.g.describe()
			} else if r, err = p.g.ask(ctx, addr); err != nil {
				return // it is silent, see said
			}
			p.g.said.note(id, time.Now(), r)
		})
	}
	asking.Wait()
	stats := map[raft.ServerID]*autopilot.ServerStats{}
	for id := range servers {
		a, ok := p.g.said.get(id)
		if !ok {
			p.g.said.note(id, time.Now(), replicaState{ServerID: string(id)}) // new: heard of now
		}
		s := &autopilot.ServerStats{LastContact: time.Since(a.at), LastTerm: a.LogEnd.Term, LastIndex: a.Applied}
		if !ok || !p.fit(id, a) {
			s.LastContact = -1 // not well
		}
		stats[id] = s
	}
	return stats
}

// fit says whether a member that answers may vote.
func (p *pilot) fit(id raft.ServerID, a answered) bool {
	return a.Complete && a.Restrained == "" && a.other == "" && (id == p.g.id || p.g.follows(id))
}

// RemoveFailedServer implements autopilot.ApplicationIntegration.
func (p *pilot) RemoveFailedServer(s *autopilot.Server) {
	p.running.Go(func() {
		if err := p.remove(s.ID); err != nil && p.ctx.Err() == nil {
			p.g.logger.Warn("a dead member can't be taken out now", "member", s.ID, "error", err)
		}
	})
}

func (p *pilot) remove(id raft.ServerID) error {
	g := p.g
	if err := g.beginChange(p.ctx); err != nil {
		return err
	}
	defer g.changing.end()
	servers, err := g.servers()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return s.ID == id })
	if i < 0 || !p.dead(id) || !p.replaced(servers[i], servers) {
		return nil // things have changed
	}
	if err := g.removeServer(p.ctx, id); err != nil {
		return err
	}
	g.logger.Info("took a dead member out: another has its place", "member", id)
	_, err = g.apply(p.ctx, fsm.DropMember(string(id)))
	return err
}

// replaced says whether a dead member may go: others have its place, and remain a
// majority.
func (p *pilot) replaced(dead raft.Server, servers []raft.Server) bool {
	var voters, well int
	successor := raft.Server{Suffrage: raft.Nonvoter}
	for _, s := range servers {
		if s.ID == dead.ID {
			continue
		}
		if nodeOf(string(s.ID)) == nodeOf(string(dead.ID)) && p.well(s.ID) {
			successor = s
		}
		if s.Suffrage == raft.Voter {
			voters++
			if p.well(s.ID) {
				well++
			}
		}
	}
	switch {
	case dead.Suffrage != raft.Voter:
		return successor.ID != "" || p.superseded(dead.ID)
	case well < voters/2+1:
		return false
	case p.superseded(dead.ID):
		return successor.Suffrage == raft.Voter
	}
	return voters%2 == 1 && voters >= p.g.AutopilotConfig().MinVoters
}

// well says whether a member has last been seen so.
func (p *pilot) well(id raft.ServerID) bool {
	a, ok := p.g.said.get(id)
	return ok && p.fit(id, a) && time.Since(a.at) < contactThreshold
}

// GetServerExt implements autopilot.Promoter.
func (p *pilot) GetServerExt(*autopilot.Config, *autopilot.ServerState) any { return nil }

// GetStateExt implements autopilot.Promoter.
func (p *pilot) GetStateExt(*autopilot.Config, *autopilot.State) any { return nil }

// GetNodeTypes implements autopilot.Promoter.
func (p *pilot) GetNodeTypes(_ *autopilot.Config, s *autopilot.State) map[raft.ServerID]autopilot.NodeType {
	types := map[raft.ServerID]autopilot.NodeType{}
	for id, server := range s.Servers {
		types[id] = server.Server.NodeType
	}
	return types
}

// IsPotentialVoter implements autopilot.Promoter.
func (p *pilot) IsPotentialVoter(t autopilot.NodeType) bool { return t == kindVoter }

// FilterFailedServerRemovals implements autopilot.Promoter.
func (p *pilot) FilterFailedServerRemovals(_ *autopilot.Config, _ *autopilot.State, failed *autopilot.FailedServers) *autopilot.FailedServers {
	servers, err := p.g.servers()
	if err != nil || !p.g.Leadership().Self {
		return &autopilot.FailedServers{}
	}
	may := func(s *autopilot.Server) bool {
		i := slices.IndexFunc(servers, func(m raft.Server) bool { return m.ID == s.ID })
		return i >= 0 && p.replaced(servers[i], servers)
	}
	filter := func(all []*autopilot.Server) (kept []*autopilot.Server) {
		for _, s := range all {
			if may(s) {
				kept = append(kept, s)
			}
		}
		return kept
	}
	// Nobody is stale: who raft knows is known.
	return &autopilot.FailedServers{FailedNonVoters: filter(failed.FailedNonVoters), FailedVoters: first(filter(failed.FailedVoters))}
}

// first is the first of several, alone: one change at a time.
func first[T any](all []T) []T { return all[:min(1, len(all))] }

// CalculatePromotionsAndDemotions implements autopilot.Promoter: one promotion at a
// time.
func (p *pilot) CalculatePromotionsAndDemotions(c *autopilot.Config, s *autopilot.State) (changes autopilot.RaftChanges) {
	if !p.g.Leadership().Self {
		return changes
	}
	for _, id := range sortedKeys(s.Servers) {
		server := s.Servers[id]
		if server.State != autopilot.RaftNonVoter || server.Server.NodeType != kindVoter || p.superseded(id) || !p.well(id) ||
			!server.Health.IsStable(time.Now(), c.ServerStabilizationTime) {
			continue
		}
		if p.g.keepsQuorum(raft.Server{ID: id}, "promoting", true) == nil {
			changes.Promotions = []raft.ServerID{id}
			return changes
		}
	}
	return changes
}

// pilotRaft is raft as raft-autopilot may use it.
type pilotRaft struct{ p *pilot }

// done is a future that is answered.
type done struct {
	err   error
	index uint64
}

func (d done) Error() error  { return d.err }
func (d done) Index() uint64 { return d.index }

var errNotPilots = errors.New("raftmq does this itself")

func (r pilotRaft) AddVoter(id raft.ServerID, addr raft.ServerAddress, _ uint64, _ time.Duration) raft.IndexFuture {
	g := r.p.g
	if err := g.beginChange(r.p.ctx); err != nil {
		return done{err: err}
	}
	defer g.changing.end()
	m := raft.Server{ID: id, Address: addr, Suffrage: raft.Nonvoter}
	if now, err := g.member(string(id)); err != nil || now.Suffrage == raft.Voter {
		return done{err: err} // it is gone, or has its vote
	}
	if err := g.keepsQuorum(m, "promoting", true); err != nil {
		return done{err: err}
	}
	return done{err: g.promote(r.p.ctx, m)}
}

func (pilotRaft) AddNonvoter(raft.ServerID, raft.ServerAddress, uint64, time.Duration) raft.IndexFuture {
	return done{err: errNotPilots}
}

func (pilotRaft) DemoteVoter(raft.ServerID, uint64, time.Duration) raft.IndexFuture {
	return done{err: errNotPilots}
}

func (pilotRaft) RemoveServer(raft.ServerID, uint64, time.Duration) raft.IndexFuture {
	return done{err: errNotPilots}
}

func (pilotRaft) LeadershipTransferToServer(raft.ServerID, raft.ServerAddress) raft.Future {
	return done{err: errNotPilots}
}

func (r pilotRaft) GetConfiguration() raft.ConfigurationFuture {
	return r.p.g.raft().GetConfiguration()
}
func (r pilotRaft) LastIndex() uint64     { return r.p.g.raft().LastIndex() }
func (r pilotRaft) State() raft.RaftState { return r.p.g.raft().State() }

func (r pilotRaft) Leader() raft.ServerAddress {
	addr, _ := r.p.g.raft().LeaderWithID()
	return addr
}

func (r pilotRaft) Stats() map[string]string {
	return map[string]string{"last_log_term": strconv.FormatUint(r.p.g.logEnd().Term, 10)}
}

// SetAutopilot changes what holds for changes of membership that nobody asked for.
func (g *Group) SetAutopilot(ctx context.Context, c fsm.Autopilot) error {
	_, err := g.Propose(ctx, fsm.PutAutopilot(c))
	return err
}

// Autopilot is how the leader sees its members; ErrNotLeader if this replica does
// not lead.
func (g *Group) Autopilot() (remoting.RaftAutopilot, error) {
	p := g.pilot.Load()
	if p == nil {
		return remoting.RaftAutopilot{}, ErrNotLeader
	}
	c := g.AutopilotConfig()
	out := remoting.RaftAutopilot{Config: remoting.RaftAutopilotConfig{
		CleanupDead: !c.KeepDead, MinVoters: c.MinVoters, Stable: c.Stable, DeadAfter: c.DeadAfter, MaxTrailing: c.MaxTrailing,
	}}
	state := p.inner.GetState()
	out.Healthy, out.Tolerance = state.Healthy, state.FailureTolerance
	for _, id := range sortedKeys(state.Servers) {
		s := state.Servers[id]
		m := remoting.RaftHealth{
			ServerID: string(id), Voter: s.HasVotingRights(), Leader: s.State == autopilot.RaftLeader, Learner: s.Server.NodeType == kindLearner,
			Healthy: s.Health.Healthy, Since: s.Health.StableSince.UnixMilli(), Dead: p.dead(id), Superseded: p.superseded(id),
		}
		if a, ok := g.said.get(id); ok {
			m.Applied, m.Complete, m.Restrained = a.Applied, a.Complete, a.Restrained
		}
		out.Members = append(out.Members, m)
	}
	return out, nil
}
