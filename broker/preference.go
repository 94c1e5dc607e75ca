package broker

import (
	"maps"
	"slices"
)

// preference are the nodes of a group in the order in which they are to lead it
// (leaderBalance). Groups begin with different nodes, so that three on three nodes
// are led by one each, and those that begin with one node go on with different
// ones, so that its work is shared when it is away.
func (c *Config) preference(g *GroupConfig) []string {
	nodes := slices.Sorted(maps.Keys(g.Replicas))
	i := slices.IndexFunc(c.Groups, func(o GroupConfig) bool { return o.BrokerName == g.BrokerName })
	first := i % len(nodes)
	if g.PreferredLeader != "" {
		first = slices.Index(nodes, g.PreferredLeader)
	}
	order := rotate(nodes, first)
	if len(order) > 2 {
		copy(order[1:], rotate(order[1:], i/len(nodes)%(len(order)-1)))
	}
	return order
}

// rotate returns a list that begins with its n-th and goes on with the first
// behind the last.
func rotate(list []string, n int) []string {
	return slices.Concat(list[n:], list[:n])
}
