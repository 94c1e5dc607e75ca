package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A replica that hears of no leader asks the others whether it is a member: it may
// have been removed, or be a node that has lost its disk. The leader's answer is
// its word after it has made sure that it leads; it takes a node's new incarnation
// in by itself, without a vote.

// standingIn is what a leader says of who asks.
type standingIn struct {
	Member  bool   `json:"member"`        // it is one; from now on, if it was none
	Why     string `json:"why,omitempty"` // it is none
	Group   string `json:"groupId"`       // the leader's
	Term    uint64 `json:"term"`          // of the leader
	Node    string `json:"node"`          // the leader's
	Address string `json:"address"`       // the leader's, for clients
}

const (
	lostEvery = 250 * time.Millisecond
	// lostAfter is how long a replica hears of no leader before it asks.
	lostAfter = time.Second
	// barRemoved is the reason for what a removed replica may not do.
	barRemoved = "removed from the group"
)

// watchMembership finds out whether this replica is still a member.
func (g *Group) watchMembership() {
	tick := time.NewTicker(lostEvery)
	defer tick.Stop()
	said := ""
	var asked time.Time
	for {
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
		if g.Err() != nil {
			return
		}
		in := g.isMember()
		if alone := g.leaderless(); in && alone < lostAfter || !in && alone == 0 && g.raft().State() == raft.Leader {
			if said = ""; in {
				g.setRemoved("")
			}
			continue
		}
		if time.Since(asked) < lostAfter {
			continue
		}
		asked = time.Now()
		answer, err := g.askStanding(g.ctx)
		switch {
		case err != nil:
			g.logger.Debug("nobody says whether this replica is a member", "error", err)
			continue
		case answer.Member:
			g.setRemoved("")
			continue
		}
		g.followFrom(answer)
		if answer.Why != said {
			said = answer.Why
			g.logger.Warn("this replica is not a member of the group", "because", said, "leader", answer.Node)
		}
		if g.hasState() {
			g.setRemoved(answer.Why)
		}
	}
}

// isMember says whether raft's configuration, as far as this replica knows, has it.
func (g *Group) isMember() bool {
	servers, err := g.servers()
	return err == nil && slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == g.id })
}

// votes says whether this replica has a vote, as far as it knows.
func (g *Group) votes() bool {
	servers, err := g.servers()
	return err == nil && slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == g.id && s.Suffrage == raft.Voter })
}

// Removed is "", or why this replica is not a member of the group any more. It
// then neither votes nor serves; what it has stays on its disk.
func (g *Group) Removed() string {
	if why := g.removed.Load(); why != nil {
		return *why
	}
	return ""
}

func (g *Group) setRemoved(why string) {
	if why == g.Removed() {
		return
	}
	g.removed.Store(&why)
	if why == "" {
		g.standing.lift(barRemoved)
		g.logger.Info("this replica is a member of the group again")
	} else {
		g.standing.restrain(barRemoved, noVote)
	}
	if f := g.cfg.Events.Changed; f != nil {
		f()
	}
}

// followFrom notes who leads, of which raft does not tell a replica that is none
// of its own: so that this one can say so.
func (g *Group) followFrom(s standingIn) {
	g.lead(func() (Leadership, bool) {
		if l := *g.leadership.Load(); g.raft().State() == raft.Leader || l.Term > s.Term {
			return Leadership{}, false
		}
		return Leadership{Term: s.Term, Node: s.Node, Address: s.Address}, true
	})
}

// askStanding finds the leader and asks it.
func (g *Group) askStanding(ctx context.Context) (standingIn, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	type found struct {
		id, addr string
		err      error
	}
	addrs := g.known()
	answers := make(chan found, len(addrs))
	for _, addr := range addrs {
		asking.Go(func() {
			s, err := g.ask(ctx, addr)
			switch {
			case err != nil:
				answers <- found{err: err}
			case s.ServerID == s.Leader:
				answers <- found{id: s.ServerID, addr: addr}
			default:
				answers <- found{id: s.Leader, addr: s.LeaderPeer}
			}
		})
	}
	var tried []string
	err := errors.New("no peer is known that could be asked")
	for range addrs {
		f := <-answers
		switch {
		case f.err != nil:
			err = f.err
			continue
		case f.id == "" || f.addr == "" || f.id == string(g.id) || slices.Contains(tried, f.id):
			continue
		}
		tried = append(tried, f.id)
		var s standingIn
		if s, err = g.askLeader(ctx, f.id, f.addr); err == nil {
			if err = g.heeds(s); err == nil {
				return s, nil
			}
		}
	}
	return standingIn{}, err
}

// heeds is nil, or says why the word of this leader means nothing here: another
// group of this name may live on after a recovery by hand, or have been made anew.
func (g *Group) heeds(s standingIn) error {
	own := g.state.Configuration().GroupID
	switch term := g.raft().CurrentTerm(); {
	case own != "" && s.Group != own:
		return fmt.Errorf("%s leads another group of this name (%s, this replica is of %s)", s.Node, s.Group, own)
	case s.Term < term:
		return fmt.Errorf("%s leads in term %d, this replica is in term %d", s.Node, s.Term, term)
	}
	return nil
}

// known are the addresses of the peers that this replica has heard of.
func (g *Group) known() []string {
	var all []string
	add := func(node, addr string) {
		if node != g.cfg.Node && addr != "" && !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	for _, m := range g.state.Members() {
		add(m.Node, m.Peer)
	}
	if servers, err := g.servers(); err == nil {
		for _, s := range servers {
			if _, addr, err := splitAddress(s.Address); err == nil {
				add(nodeOf(string(s.ID)), addr)
			}
		}
	}
	for _, p := range g.cfg.Peers {
		add(p.Node, p.Address)
	}
	return all
}

func (g *Group) askLeader(ctx context.Context, id, addr string) (s standingIn, err error) {
	err = g.question(ctx, addr, hello{Kind: streamJoin, Group: g.cfg.Name, From: string(g.id), To: id}, askTimeout, &s)
	return s, err
}

// answerJoin answers a replica that asks whether it is a member. If this one can't
// say, as it does not lead, it says nothing.
func (g *Group) answerJoin(from string, c net.Conn) {
	ctx, cancel := context.WithTimeout(g.ctx, askTimeout)
	defer cancel()
	s, err := g.standingOf(ctx, from)
	if err != nil {
		g.logger.Debug("a replica that asks whether it is a member was not answered", "replica", from, "error", err)
		c.Close() // it is told nothing, and asks again
		return
	}
	g.answer(c, s)
}

// standingOf says whether a replica is a member, and makes it one if it is a new
// incarnation of a member's node.
func (g *Group) standingOf(ctx context.Context, from string) (standingIn, error) {
	if err := g.beginChange(ctx); err != nil {
		return standingIn{}, err
	}
	defer g.changing.end()
	if err := g.Barrier(ctx); err != nil {
		return standingIn{}, err
	}
	l := g.Leadership()
	s := standingIn{Group: g.state.Configuration().GroupID, Term: l.Term, Node: l.Node, Address: l.Address}
	servers, err := g.servers()
	if err != nil {
		return s, err
	}
	if s.Member = slices.ContainsFunc(servers, func(m raft.Server) bool { return string(m.ID) == from }); s.Member {
		return s, nil
	}
	m, ok := g.state.Member(nodeOf(from))
	if !ok {
		s.Why = fmt.Sprintf("%s is not among the members; raftmq raft add-peer takes it in", nodeOf(from))
		return s, nil
	}
	if g.follows(raft.ServerID(m.ServerID)) {
		s.Why = fmt.Sprintf("%s is the member of node %s, and alive: are there two nodes of that name?", m.ServerID, m.Node)
		return s, nil
	}
	// Who comes back to a member's place has to be found there.
	there, err := g.askNewcomer(ctx, m.Peer)
	switch {
	case err == nil && there.ServerID != from:
		err = fmt.Errorf("%w: at %s is %s", ErrMember, m.Peer, there.ServerID)
	case err == nil:
		g.logger.Warn("a node has come back without its data", "node", m.Node, "was", m.ServerID, "is", from)
		m.ServerID, m.Client = from, there.ClientAddress
		if err = g.takeIn(ctx, m); err == nil {
			s.Member = true
			return s, nil
		}
	}
	if errors.Is(err, ErrMember) {
		s.Why = err.Error()
		return s, nil
	}
	return s, err
}
