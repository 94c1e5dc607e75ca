package broker

import (
	"cmp"
	"maps"
	"slices"

	"github.com/raftmq/raftmq/fsm"
)

// Who has a replica of the group is what its members have agreed on; before this
// replica knows that, what its configuration says.

// configuredMembers are the members that a configuration names.
func configuredMembers(g *GroupConfig) (all []fsm.Member) {
	for i, node := range slices.Sorted(maps.Keys(g.Replicas)) {
		all = append(all, fsm.Member{Node: node, Client: g.Replicas[node], BrokerID: int64(i) + 1})
	}
	return all
}

// members are the members of the group, sorted by node.
func (b *Broker) members() []fsm.Member {
	if b.group != nil {
		if all := b.group.State().Members(); len(all) > 0 {
			return all
		}
	}
	return b.configured
}

// replicas is how many members the group has.
func (b *Broker) replicas() int { return len(b.members()) }

// others are where clients reach the other members.
func (b *Broker) others() (addrs []string) {
	for _, m := range b.members() {
		addr := m.Client
		if addr == "" { // it has not said so yet
			addr = memberOf(b.configured, m.Node).Client
		}
		if m.Node != b.cfg.NodeID && addr != "" {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// slaveID is the broker id of this replica while it does not lead.
func (b *Broker) slaveID() int64 {
	return cmp.Or(memberOf(b.members(), b.cfg.NodeID), memberOf(b.configured, b.cfg.NodeID)).BrokerID
}

// memberOf is the member of a node, zero if there is none.
func memberOf(all []fsm.Member, node string) fsm.Member {
	if i := slices.IndexFunc(all, func(m fsm.Member) bool { return m.Node == node }); i >= 0 {
		return all[i]
	}
	return fsm.Member{}
}

// listed says whether the group's members know this replica as one of them: not
// while it joins, and not when it was removed.
func (b *Broker) listed() bool {
	return b.group.Removed() == "" && memberOf(b.members(), b.cfg.NodeID) != fsm.Member{}
}

// anotherReplica is the broker id of a replica that is not this one, which leads:
// the one wanted, if there is such a one. 0 if there is no other.
func (b *Broker) anotherReplica(want int64) int64 {
	return anotherOf(b.members(), b.slaveID(), want)
}

func anotherOf(members []fsm.Member, self, want int64) int64 {
	var others []int64
	for _, m := range members {
		if m.BrokerID != self {
			others = append(others, m.BrokerID)
		}
	}
	if len(others) == 0 {
		return 0
	}
	if slices.Contains(others, want) {
		return want
	}
	slices.Sort(others)
	// The next one after this one, so that leaders do not all send to the same.
	if i := slices.IndexFunc(others, func(id int64) bool { return id > self }); i >= 0 {
		return others[i]
	}
	return others[0]
}
