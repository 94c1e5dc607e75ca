package broker

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

const (
	clientExpiry = 120 * time.Second // without a heartbeat
	clientScan   = 10 * time.Second

	// maxMemberships and maxJoined bound what the clients of one connection may
	// register: group memberships, and the bytes they keep in memory.
	maxMemberships = 4096
	maxJoined      = 4 << 20
)

// member is a client as a member of a producer or consumer group. A client that
// connects again replaces its old self.
type member struct {
	id       string
	s        *session
	language remoting.Language
	version  int32
	seen     time.Time
}

// membership names a member.
type membership struct {
	client, group string
	consumer      bool
}

func (m *member) connection() remoting.ClientConnection {
	return remoting.ClientConnection{ClientID: m.id, ClientAddr: m.s.addr.String(), Language: m.language, Version: m.version}
}

// consumerGroup is a group of consumers as their heartbeats describe it.
type consumerGroup struct {
	members       map[string]*member // by client id
	kind          string
	model         string
	from          string
	subscriptions map[string]*interest // by topic
}

// interest is what a group's heartbeats say about a topic. data is guarded by
// registry.mu.
type interest struct {
	data     remoting.Subscription
	replaced atomic.Bool // by one that wants other messages
}

// registry is who is connected. It is each replica's own: consumers send
// heartbeats to all replicas, producers to the leader.
//
//	R1  A client is in a group once, over the connection it was heard on last.
//	R2  What a session has joined names every member that is there over it, and
//	    perhaps some that have moved on to another session.
type registry struct {
	b         *Broker
	mu        sync.Mutex
	consumers map[string]*consumerGroup
	borrowed  map[string]*borrowedGroup
	producers map[string]map[string]*member
}

func newRegistry(b *Broker) *registry {
	return &registry{b: b, consumers: map[string]*consumerGroup{}, borrowed: map[string]*borrowedGroup{}, producers: map[string]map[string]*member{}}
}

// beat registers what a heartbeat says, or nothing if it says too much.
func (r *registry) beat(m member, h *remoting.Heartbeat) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	join := map[membership]int{}
	for _, name := range h.Producers {
		join[membership{m.id, name, false}] = len(m.id) + len(name)
	}
	for i := range h.Consumers {
		d := &h.Consumers[i]
		size := len(m.id) + len(d.Group)
		for _, sub := range d.Subscriptions {
			size += subscriptionSize(&sub)
		}
		join[membership{m.id, d.Group, true}] = size
	}
	count, bytes := len(m.s.joined), m.s.joinedSize
	for k, size := range join {
		old, ok := m.s.joined[k]
		if !ok {
			count++
		}
		bytes += size - old
	}
	if count > maxMemberships || bytes > maxJoined {
		return remoting.Errorf(remoting.InvalidParameter, "the clients of one connection may be in %d groups, with subscriptions of %d bytes; this would be %d, with %d",
			maxMemberships, maxJoined, count, bytes)
	}
	if m.s.joined == nil {
		m.s.joined = map[membership]int{}
	}
	maps.Copy(m.s.joined, join)
	m.s.joinedSize = bytes
	for _, name := range h.Producers {
		if r.producers[name] == nil {
			r.producers[name] = map[string]*member{}
		}
		r.producers[name][m.id] = &m
	}
	for i := range h.Consumers {
		r.consumer(&m, &h.Consumers[i])
	}
	return nil
}

func subscriptionSize(sub *remoting.Subscription) int {
	size := 64 + len(sub.Topic) + len(sub.Expression) + len(sub.ExpressionType)
	for _, tag := range sub.Tags {
		size += 16 + len(tag)
	}
	return size
}

func (r *registry) consumer(m *member, d *remoting.ConsumerData) {
	g := r.consumers[d.Group]
	if g == nil {
		g = &consumerGroup{members: map[string]*member{}, subscriptions: map[string]*interest{}}
		r.consumers[d.Group] = g
		r.giveBack(d.Group)
	}
	old := g.members[m.id]
	changed := old == nil || old.s != m.s
	g.members[m.id] = m
	g.kind, g.model, g.from = d.ConsumeType, d.MessageModel, d.ConsumeFromWhere
	// Topics that this heartbeat lacks are gone, and of those it has the newer
	// version stays.
	keep := map[string]bool{}
	for _, sub := range d.Subscriptions {
		keep[sub.Topic] = true
		have := g.subscriptions[sub.Topic]
		switch {
		case have == nil:
			g.subscriptions[sub.Topic] = &interest{data: sub}
			changed = true
		case sub.Version <= have.data.Version:
		case sub.Expression == have.data.Expression && sub.ExpressionType == have.data.ExpressionType && sub.ClassFilterMode == have.data.ClassFilterMode:
			have.data = sub // clients raise the version for other reasons, too
		default:
			g.subscriptions[sub.Topic] = &interest{data: sub}
			have.replaced.Store(true)
			r.b.holds.changed()
		}
	}
	for topic := range g.subscriptions {
		if !keep[topic] {
			delete(g.subscriptions, topic)
			changed = true
		}
	}
	if changed {
		r.notify(d.Group, g)
	}
}

// notify tells the members of a group that there are others now. The lock is
// held.
func (r *registry) notify(name string, g *consumerGroup) {
	if g.model == remoting.Broadcasting || !*r.b.cfg.NotifyConsumerIdsChanged {
		return
	}
	if c, ok := r.b.group.State().Group(name); ok && !c.NotifyConsumerIDsChange {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		err := g.members[id].s.conn.Notify(&remoting.Command{
			Code: remoting.NotifyConsumerIDsChanged, Header: &remoting.ConsumerGroupRequest{ConsumerGroup: name},
		})
		if err != nil {
			r.b.logger.Debug("a consumer was not told of a change in its group", "client", id, "error", err)
		}
	}
}

// leave removes a client from a group of each kind, if it is there over this
// session.
func (r *registry) leave(id, producerGroup, consumerGroup string, s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(s, membership{id, producerGroup, false})
	r.remove(s, membership{id, consumerGroup, true})
}

// disconnected removes every client of a connection.
func (r *registry) disconnected(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range s.joined {
		r.remove(s, k)
	}
}

// remove removes a member, if it is there over this session, and tells the group
// of a consumer. The lock is held.
func (r *registry) remove(s *session, k membership) {
	size, ok := s.joined[k]
	if !ok {
		return
	}
	delete(s.joined, k)
	s.joinedSize -= size
	if !k.consumer {
		if m := r.producers[k.group][k.client]; m != nil && m.s == s {
			if delete(r.producers[k.group], k.client); len(r.producers[k.group]) == 0 {
				delete(r.producers, k.group)
			}
		}
		return
	}
	g := r.consumers[k.group]
	if g == nil || g.members[k.client] == nil || g.members[k.client].s != s {
		return
	}
	if delete(g.members, k.client); len(g.members) == 0 {
		delete(r.consumers, k.group)
		return
	}
	r.notify(k.group, g)
}

// expire removes the clients that were not heard of for too long. Their groups
// are told, as when a connection breaks.
func (r *registry) expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var gone []membership
	var of []*session
	note := func(m *member, k membership) {
		if now.Sub(m.seen) > clientExpiry {
			gone, of = append(gone, k), append(of, m.s)
		}
	}
	for name, members := range r.producers {
		for _, m := range members {
			note(m, membership{m.id, name, false})
		}
	}
	for name, g := range r.consumers {
		for _, m := range g.members {
			note(m, membership{m.id, name, true})
		}
	}
	for i, k := range gone {
		r.remove(of[i], k)
	}
	for name, b := range r.borrowed {
		if now.After(b.until) {
			r.giveBack(name)
		}
	}
}

// run expires clients, until the broker is closed.
func (r *registry) run() {
	tick := time.NewTicker(clientScan)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			r.expire(now)
		case <-r.b.ctx.Done():
			return
		}
	}
}

// subscription is what a group's heartbeats say about a topic: nil for nothing. It
// is there twice, as data is a copy.
func (r *registry) subscription(group, topic string) (sub *interest, data remoting.Subscription, model string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.consumers[group]
	if g == nil {
		if b := r.borrowed[group]; b != nil {
			g = &b.consumerGroup
		}
	}
	if g == nil {
		return nil, data, ""
	}
	if sub = g.subscriptions[topic]; sub != nil {
		data = sub.data
	}
	return sub, data, g.model
}

// consumerIDs are the clients of a consumer group, each once, sorted.
func (r *registry) consumerIDs(group string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.consumers[group]; g != nil {
		return slices.Sorted(maps.Keys(g.members))
	}
	return nil
}

// consumersOf are the groups that have subscribed to a topic.
func (r *registry) consumersOf(topic string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for name, g := range r.consumers {
		if _, ok := g.subscriptions[topic]; ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// consumerConnections describes a consumer group.
func (r *registry) consumerConnections(group string) (c remoting.ConsumerConnections, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.consumers[group]
	if g == nil {
		return c, false
	}
	c.ConsumeType, c.MessageModel, c.ConsumeFromWhere = g.kind, g.model, g.from
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		c.Connections = append(c.Connections, g.members[id].connection())
	}
	for _, topic := range slices.Sorted(maps.Keys(g.subscriptions)) {
		c.Subscriptions = append(c.Subscriptions, g.subscriptions[topic].data)
	}
	return c, true
}

// produces says whether a producer of a group is there.
func (r *registry) produces(group string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.producers[group]) > 0
}

// tellProducer gives a request to any producer of a group, another one each time.
// It says whether one has taken it.
func (r *registry) tellProducer(group string, req *remoting.Command) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.producers[group] { // in no order
		err := m.s.conn.Notify(req)
		if err == nil {
			return true
		}
		r.b.logger.Debug("a producer takes no request", "client", m.id, "error", err)
	}
	return false
}

// producerConnections lists a producer group.
func (r *registry) producerConnections(group string) (list remoting.ProducerConnections) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(r.producers[group])) {
		list = append(list, r.producers[group][id].connection())
	}
	return list
}

// consuming is a client of a consumer group, nil if it is not there.
func (r *registry) consuming(group, id string) *member {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.consumers[group]; g != nil {
		return g.members[id]
	}
	return nil
}

// membersOf are the clients of a consumer group, sorted by id.
func (r *registry) membersOf(group string) (list []*member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.consumers[group]; g != nil {
		for _, id := range slices.Sorted(maps.Keys(g.members)) {
			list = append(list, g.members[id])
		}
	}
	return list
}

// producing is a client that produces, whatever its groups, nil if it is not there.
func (r *registry) producing(id string) *member {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, members := range r.producers { // any: they share a connection, mostly
		if m := members[id]; m != nil {
			return m
		}
	}
	return nil
}
