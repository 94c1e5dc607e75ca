package namesrv

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// table is who is registered with which topics. It knows no clock: whoever asks
// says what time it is. A Service's lock guards it, except where noted.
//
// Invariants:
//  1. A group in groups has a member; a member is in one group, under one id.
//  2. No two members of a group have the same address.
//  3. topics[t].groups are exactly the groups that have t in queues, sorted by
//     name; a topic in topics has a group.
//  4. brokers counts members, routes counts queues, over all groups.
//  5. epoch moves on whenever the answer to a route request may have changed for
//     more than one topic; a topic's cache is emptied when its own has.
type table struct {
	standIn    time.Duration
	options    Options
	maxBrokers int
	maxRoutes  int

	groups  map[string]*group // by broker name
	topics  map[string]*topic
	brokers int
	routes  int
	epoch   uint64
}

// group is the brokers that share a name: a master and its slaves, or the
// replicas of a raft group.
type group struct {
	name    string
	cluster string
	raft    string // id of the raft group; "" for RocketMQ's own brokers
	acting  bool   // RocketMQ: a slave may act as master
	members map[int64]*member
	queues  map[string]queue // by topic
	counter int64            // of the data version that queues are of

	leader     string    // address of the last id 0
	leaderless time.Time // since when there is no id 0; zero while there is one
	refused    string    // whom R3 refused last, to log each once
}

// member is a registered broker.
type member struct {
	id      int64
	addr    string
	haAddr  string
	version remoting.DataVersion
	lease   time.Duration
	expires time.Time
	owner   *remoting.Conn // last connection that registered or refreshed it; nil in direct calls
}

// queue is a topic's queues in one group.
type queue struct {
	read, write, perm, sysFlag int32
	wiped                      bool // an operator took W away, until the group's data version moves on
}

// topic is the groups that have a topic.
type topic struct {
	groups []*group
	// cached are the encoded routes, by style; see route.go. Readers store them
	// under the read lock.
	cached [2]atomic.Pointer[encodedRoute]
}

func newTable(standIn time.Duration, options Options) *table {
	return &table{standIn: standIn, options: options, maxBrokers: MaxBrokers, maxRoutes: MaxRoutes,
		groups: map[string]*group{}, topics: map[string]*topic{}}
}

func (m *member) alive(now time.Time) bool { return now.Before(m.expires) }

func (m *member) refresh(now time.Time, owner *remoting.Conn) {
	m.expires = now.Add(m.lease)
	m.owner = owner
}

func (g *group) alive(now time.Time) bool {
	for _, m := range g.members {
		if m.alive(now) {
			return true
		}
	}
	return false
}

// at returns the member with an address, nil if there is none.
func (g *group) at(addr string) *member {
	for _, m := range g.members {
		if m.addr == addr {
			return m
		}
	}
	return nil
}

// lowest returns the smallest id.
func (g *group) lowest() int64 { return slices.Min(slices.Collect(maps.Keys(g.members))) }

// addrs returns a copy of the addresses by id.
func (g *group) addrs() map[int64]string {
	addrs := make(map[int64]string, len(g.members))
	for id, m := range g.members {
		addrs[id] = m.addr
	}
	return addrs
}

func (g *group) data() remoting.BrokerData {
	return remoting.BrokerData{Cluster: g.cluster, BrokerName: g.name, Addrs: g.addrs(), EnableActingMaster: g.acting}
}

// remove unregisters a member, and the group with its last one.
func (t *table) remove(now time.Time, g *group, m *member) {
	delete(g.members, m.id)
	t.brokers--
	t.epoch++
	if m.id == masterID {
		g.leaderless = now
	}
	if len(g.members) == 0 {
		t.dropTopics(g, nil)
		delete(t.groups, g.name)
	}
}

// find returns a group's member with an address, nil if there is none.
func (t *table) find(name, addr string) (*group, *member) {
	g := t.groups[name]
	if g == nil {
		return nil, nil
	}
	return g, g.at(addr)
}

// unregister removes the broker with an address, whatever its id. It returns nil
// if there is none.
func (t *table) unregister(now time.Time, name, addr string) *member {
	g, m := t.find(name, addr)
	if m != nil {
		t.remove(now, g, m)
	}
	return m
}

// gone is a broker that was removed.
type gone struct {
	name string
	*member
}

// removeIf removes the members that match, and returns them.
func (t *table) removeIf(now time.Time, match func(*member) bool) []gone {
	var list []gone
	for _, g := range t.groups {
		for _, m := range g.members {
			if match(m) {
				list = append(list, gone{g.name, m})
				t.remove(now, g, m)
			}
		}
	}
	return list
}

// expire removes the brokers whose lease is over.
func (t *table) expire(now time.Time) []gone {
	return t.removeIf(now, func(m *member) bool { return !m.alive(now) })
}

// closed removes the brokers that a connection, now closed, registered.
func (t *table) closed(now time.Time, c *remoting.Conn) []gone {
	return t.removeIf(now, func(m *member) bool { return m.owner == c })
}

// setQueue gives a group's queues of a topic, and says whether there was room.
func (t *table) setQueue(g *group, name string, q queue) bool {
	old, ok := g.queues[name]
	if ok && old == q {
		return true
	}
	if !ok && t.routes >= t.maxRoutes {
		return false
	}
	tp := t.topics[name]
	if tp == nil {
		tp = &topic{}
		t.topics[name] = tp
	}
	if !ok {
		t.routes++
		at, _ := slices.BinarySearchFunc(tp.groups, g.name, func(g *group, name string) int { return cmp.Compare(g.name, name) })
		tp.groups = slices.Insert(tp.groups, at, g)
	}
	g.queues[name] = q
	tp.forget()
	return true
}

// dropQueue takes a topic from a group.
func (t *table) dropQueue(g *group, name string) {
	if _, ok := g.queues[name]; !ok {
		return
	}
	delete(g.queues, name)
	t.routes--
	tp := t.topics[name]
	tp.groups = slices.DeleteFunc(tp.groups, func(other *group) bool { return other == g })
	tp.forget()
	if len(tp.groups) == 0 {
		delete(t.topics, name)
	}
}

// dropTopics takes all topics from a group but those in keep.
func (t *table) dropTopics(g *group, keep map[string]bool) {
	for name := range g.queues {
		if !keep[name] {
			t.dropQueue(g, name)
		}
	}
}

func (tp *topic) forget() {
	for i := range tp.cached {
		tp.cached[i].Store(nil)
	}
}

// sortedGroups returns the groups by name.
func (t *table) sortedGroups() []*group {
	return slices.SortedFunc(maps.Values(t.groups), func(a, b *group) int { return strings.Compare(a.name, b.name) })
}
