package raftgroup

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
)

// directoryEvery is how often a leader compares the directory of members with
// raft's configuration.
const directoryEvery = time.Second

// keepDirectory keeps the directory of members, while this replica leads, what
// raft's configuration says: a leader may go between the change of one and that of
// the other, and what a member says of itself may change with its next start.
func (g *Group) keepDirectory(ctx context.Context) {
	tick := time.NewTicker(directoryEvery)
	defer tick.Stop()
	for {
		if err := g.syncDirectory(ctx); err != nil && ctx.Err() == nil {
			g.logger.Warn("the directory of members can't be kept now", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (g *Group) syncDirectory(ctx context.Context) error {
	if err := g.changing.begin(ctx); err != nil {
		return err
	}
	defer g.changing.end()
	servers, err := g.servers()
	if err != nil {
		return err
	}
	current := g.newest(servers)
	for _, m := range g.state.Members() {
		if _, ok := current[m.Node]; !ok {
			if _, err := g.apply(ctx, fsm.DropMember(m.ServerID)); err != nil {
				return err
			}
		}
	}
	// In the order of their names: so the nodes that a group begins with have the
	// broker ids that their places in the configuration give them.
	for _, node := range sortedKeys(current) {
		s := current[node]
		_, addr, err := splitAddress(s.Address)
		if err != nil {
			return err
		}
		old, _ := g.state.Member(node)
		m := old
		m.Node, m.ServerID, m.Peer = node, string(s.ID), addr
		if said := g.said.client(s.ID); said != "" {
			m.Client = said
		}
		if m == old {
			continue
		}
		if _, err := g.apply(ctx, fsm.PutMember(m)); err != nil {
			return err
		}
	}
	return nil
}

// newest are the newest incarnations of the nodes in a configuration: raft adds
// servers at its end.
func (g *Group) newest(servers []raft.Server) map[string]raft.Server {
	all := map[string]raft.Server{}
	for _, s := range servers {
		if node := nodeOf(string(s.ID)); node != "" {
			all[node] = s
		}
	}
	return all
}

// said is what members have answered this replica, and when, while it led.
type said struct {
	mu  sync.Mutex
	all map[raft.ServerID]answered
}

type answered struct {
	replicaState
	at time.Time
	// other is who else answered at the member's address the last time.
	other string
}

func (s *said) get(id raft.ServerID) (answered, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.all[id]
	return a, ok
}

// client is where clients reach a member, as it says itself.
func (s *said) client(id raft.ServerID) string {
	a, _ := s.get(id)
	return a.ClientAddress
}

// note keeps an answer from a member's address.
func (s *said) note(id raft.ServerID, now time.Time, r replicaState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[raft.ServerID]answered{}
	}
	a := s.all[id]
	if r.ServerID == string(id) {
		a = answered{replicaState: r, at: now}
	} else {
		a.other = r.ServerID
	}
	s.all[id] = a
}

// begin forgets what was said, and counts every member as heard of now.
func (s *said) begin(now time.Time, servers []raft.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = map[raft.ServerID]answered{}
	for _, m := range servers {
		s.all[m.ID] = answered{at: now}
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
