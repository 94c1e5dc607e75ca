package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
)

// Members of a group come and go one at a time, decided by its leader:
//
//	C1  A replica joins without a vote. It gets one when it is caught up and well,
//	    see pilot.
//	C2  No change is made after which the voters that follow the leader now were no
//	    majority, unless that is forced.
//	C3  A leader takes nothing from itself: it hands leadership over before, as
//	    hashicorp/raft would have it lead and count itself while it does not vote.
//	C4  A change whose outcome is unknown is looked at again, from raft's
//	    configuration, by whoever leads: see directory.

var (
	// ErrQuorum: the change would leave too few live voters. It can be forced.
	ErrQuorum = errors.New("the group would lose its quorum")
	// ErrMember: there is no such member, or who is at an address can't be one.
	ErrMember = errors.New("no such member")
	// ErrAlreadyMember: who is to be taken in is a member at that address, and
	// nothing was changed.
	ErrAlreadyMember = errors.New("it is a member already")
	// ErrHandedOver: leadership was given away first, and the next leader is to be
	// asked.
	ErrHandedOver = fmt.Errorf("%w any more: ask the next one", ErrNotLeader)
)

// changing is the right to change the membership at this replica, one at a time.
type changing chan struct{}

func (c changing) begin(ctx context.Context) error {
	select {
	case c <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c changing) end() { <-c }

// beginChange begins a change of membership, which only the leader makes.
func (g *Group) beginChange(ctx context.Context) error {
	if !g.Leadership().Self {
		return ErrNotLeader
	}
	return g.changing.begin(ctx)
}

// AddPeer takes in the replica at an address, host:port of its peer port, without
// a vote. With a node it has to be that one's. A learner stays without a vote
// until it is promoted. It may be a member already: then this changes its address,
// or is ErrAlreadyMember, with the member, if that is its address.
func (g *Group) AddPeer(ctx context.Context, address, node string, learner bool) (fsm.Member, error) {
	if err := g.beginChange(ctx); err != nil {
		return fsm.Member{}, err
	}
	defer g.changing.end()
	s, err := g.askNewcomer(ctx, address)
	if err != nil {
		return fsm.Member{}, err
	}
	if node != "" && nodeOf(s.ServerID) != node {
		return fsm.Member{}, fmt.Errorf("%w: at %s is %s, not node %s", ErrMember, address, s.ServerID, node)
	}
	m := fsm.Member{Node: nodeOf(s.ServerID), ServerID: s.ServerID, Peer: address, Client: s.ClientAddress, Learner: learner}
	old, ok := g.state.Member(m.Node)
	if ok = ok && old.ServerID == m.ServerID; ok {
		m.Learner = m.Learner || old.Learner
	}
	servers, err := g.servers()
	if err != nil {
		return m, err
	}
	for _, s := range servers {
		there := string(s.ID) == m.ServerID && s.Address == peerAddress(s.ID, address)
		if there && (s.Suffrage == raft.Voter || ok && old.Learner == m.Learner) {
			return m, ErrAlreadyMember
		}
	}
	return m, g.takeIn(ctx, m)
}

// askNewcomer asks who is at an address, and looks whether it may join.
func (g *Group) askNewcomer(ctx context.Context, address string) (replicaState, error) {
	s, err := g.ask(ctx, address)
	switch {
	case err != nil:
		return s, fmt.Errorf("%w: nobody at %s says that it has a replica of the group: is the node up, is this its peer port (not that for clients), and is the group among its groups? %w", ErrMember, address, err)
	case nodeOf(s.ServerID) == "":
		return s, fmt.Errorf("%w: %s says that it is %q", ErrMember, address, s.ServerID)
	case s.HasState && s.LogEnd.Index > 0 && s.GroupID != "" && s.GroupID != g.state.Configuration().GroupID:
		return s, fmt.Errorf("%w: %s at %s has the state of another group of that name (%s, this one is %s): empty its data directory first",
			ErrMember, s.ServerID, address, s.GroupID, g.state.Configuration().GroupID)
	}
	return s, nil
}

// takeIn makes a replica a member, without a vote if it has none yet.
func (g *Group) takeIn(ctx context.Context, m fsm.Member) error {
	id := raft.ServerID(m.ServerID)
	err := g.reconfigure(ctx, func(r *raft.Raft, index uint64) raft.IndexFuture {
		return r.AddNonvoter(id, peerAddress(id, m.Peer), index, enqueueTimeout)
	})
	if err != nil {
		return err
	}
	g.logger.Info("took a replica in", "member", m.ServerID, "address", m.Peer, "learner", m.Learner)
	_, err = g.apply(ctx, fsm.PutMember(m))
	return err
}

// RemovePeer takes a member out, named by its ServerID or its node.
func (g *Group) RemovePeer(ctx context.Context, name string, force bool) error {
	return g.changeMember(ctx, name, "removing", force, false, func(m raft.Server) error {
		if err := g.removeServer(ctx, m.ID); err != nil {
			return err
		}
		g.logger.Info("took a member out", "member", m.ID)
		_, err := g.apply(ctx, fsm.DropMember(string(m.ID)))
		return err
	})
}

// Promote gives a member a vote. It waits for nothing: see pilot for what does.
func (g *Group) Promote(ctx context.Context, name string, force bool) error {
	return g.changeMember(ctx, name, "promoting", force, true, func(m raft.Server) error {
		if err := g.markLearner(ctx, m, false); err != nil {
			return err
		}
		if m.Suffrage == raft.Voter {
			return nil
		}
		if err := g.mayVote(ctx, m); err != nil && !force {
			return err
		}
		return g.promote(ctx, m)
	})
}

// mayVote asks a member whether it is complete: one that is not would have a vote
// and could not serve.
func (g *Group) mayVote(ctx context.Context, m raft.Server) error {
	_, addr, err := splitAddress(m.Address)
	if err != nil {
		return err
	}
	s, err := g.ask(ctx, addr)
	switch {
	case err != nil:
		return fmt.Errorf("%s does not answer (--force does it anyway): %w", m.ID, err)
	case s.ServerID != string(m.ID):
		return fmt.Errorf("at %s is %s, not %s (--force does it anyway)", addr, s.ServerID, m.ID)
	case !s.Complete:
		return fmt.Errorf("%s has yet to fetch what it misses; it gets its vote by itself then (--force does it anyway)", m.ID)
	}
	return nil
}

func (g *Group) promote(ctx context.Context, m raft.Server) error {
	err := g.reconfigure(ctx, func(r *raft.Raft, index uint64) raft.IndexFuture {
		return r.AddVoter(m.ID, m.Address, index, enqueueTimeout)
	})
	if err == nil {
		g.logger.Info("a member votes from now on", "member", m.ID)
	}
	return err
}

// Demote takes a member's vote away; it stays a learner until it is promoted.
func (g *Group) Demote(ctx context.Context, name string, force bool) error {
	return g.changeMember(ctx, name, "demoting", force, false, func(m raft.Server) error {
		if err := g.markLearner(ctx, m, true); err != nil || m.Suffrage != raft.Voter {
			return err
		}
		err := g.reconfigure(ctx, func(r *raft.Raft, index uint64) raft.IndexFuture {
			return r.DemoteVoter(m.ID, index, enqueueTimeout)
		})
		if err == nil {
			g.logger.Info("a member votes no more", "member", m.ID)
		}
		return err
	})
}

// markLearner notes whether a member is to stay without a vote.
func (g *Group) markLearner(ctx context.Context, s raft.Server, learner bool) error {
	m, ok := g.state.Member(nodeOf(string(s.ID)))
	if !ok || m.ServerID != string(s.ID) {
		if !learner {
			return nil
		}
		return fmt.Errorf("%w: %s is not in the directory yet, try again in a moment", ErrMember, s.ID)
	}
	if m.Learner == learner {
		return nil
	}
	m.Learner = learner
	_, err := g.apply(ctx, fsm.PutMember(m))
	return err
}

// changeMember begins a change of one member, if the group stands it.
func (g *Group) changeMember(ctx context.Context, name, what string, force, gives bool, change func(raft.Server) error) error {
	if err := g.beginChange(ctx); err != nil {
		return err
	}
	defer g.changing.end()
	m, err := g.member(name)
	if err != nil {
		return err
	}
	if !gives {
		if err := g.notLast(m, what); err != nil {
			return err
		}
	}
	if gives != (m.Suffrage == raft.Voter) && !force {
		if err := g.keepsQuorum(m, what, gives); err != nil {
			return err
		}
	}
	if !gives && m.ID == g.id { // C3
		if err := g.makeWay(ctx, errors.New("an operator is "+what+" it")); err != nil {
			return fmt.Errorf("%s leads, and no other can: %w", m.ID, err)
		}
		return ErrHandedOver
	}
	return change(m)
}

// notLast refuses to take the last vote of a group, which nothing can force.
func (g *Group) notLast(m raft.Server, what string) error {
	servers, err := g.servers()
	if err != nil {
		return err
	}
	if m.Suffrage != raft.Voter || slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID != m.ID && s.Suffrage == raft.Voter }) {
		return nil
	}
	return fmt.Errorf("%w: %s %s would leave no voter: give another one a vote first (raft add-peer, raft promote)", ErrQuorum, what, m.ID)
}

// keepsQuorum is C2, for a member that gets a vote or loses it.
func (g *Group) keepsQuorum(m raft.Server, what string, gives bool) error {
	servers, err := g.servers()
	if err != nil {
		return err
	}
	var voters, live int
	var silent []string
	for _, s := range servers {
		if s.ID == m.ID && !gives || s.ID != m.ID && s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if g.follows(s.ID) {
			live++
		} else {
			silent = append(silent, string(s.ID))
		}
	}
	if need := voters/2 + 1; live < need {
		return fmt.Errorf("%w: %s %s leaves %d voters, of which %d are needed and %d answer (not %s); --force does it anyway",
			ErrQuorum, what, m.ID, voters, need, live, strings.Join(silent, ", "))
	}
	return nil
}

// followsWithin is how lately a live member has answered its leader.
const followsWithin = time.Second

// follows says whether a member has answered this leader lately, or is it.
func (g *Group) follows(id raft.ServerID) bool {
	l := g.life.Load()
	return id == g.id || l.trans.contacts.since(id, l.raft.CurrentTerm(), time.Now().Add(-max(followsWithin, 3*g.cfg.Election)))
}

// since says whether a peer has followed the leader of a term after a moment.
func (c *contacts) since(id raft.ServerID, term uint64, t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.last[id]
	return last.term == term && !last.sent.Before(t)
}

func (g *Group) removeServer(ctx context.Context, id raft.ServerID) error {
	return g.reconfigure(ctx, func(r *raft.Raft, index uint64) raft.IndexFuture {
		return r.RemoveServer(id, index, enqueueTimeout)
	})
}

// reconfigure changes raft's configuration, if it is still the one that was looked
// at.
func (g *Group) reconfigure(ctx context.Context, change func(r *raft.Raft, index uint64) raft.IndexFuture) error {
	ctx, cancel := context.WithTimeoutCause(ctx, max(g.cfg.SlaveTimeout, g.cfg.FlushTimeout), ErrQuorumTimeout)
	defer cancel()
	ctx, end := g.until(ctx)
	defer end()
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(stop) })()
	r := g.raft()
	config := r.GetConfiguration()
	if err := config.Error(); err != nil {
		return err
	}
	err := await(change(r, config.Index()), stop)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx))
		}
		return outcomeOfChange(err)
	}
	return nil
}

// outcomeOfChange maps an error of raft to a change of its configuration, which
// raft also refuses itself.
func outcomeOfChange(err error) error {
	if mapped := outcome(err); !errors.Is(mapped, ErrUnknown) || errors.Is(err, raft.ErrLeadershipLost) || errors.Is(err, raft.ErrRaftShutdown) {
		return mapped
	}
	return err
}

// nodeOf is the node of a ServerID: its incarnation follows the last hyphen.
func nodeOf(serverID string) string {
	if i := strings.LastIndexByte(serverID, '-'); i > 0 {
		return serverID[:i]
	}
	return ""
}
