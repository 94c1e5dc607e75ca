package broker

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

const (
	clientExpiry = 120 * time.Second // without a heartbeat
	clientScan   = 10 * time.Second
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

func (m *member) connection() remoting.ClientConnection {
	return remoting.ClientConnection{ClientID: m.id, ClientAddr: m.s.addr.String(), Language: m.language, Version: m.version}
}

// consumerGroup is a group of consumers as their heartbeats describe it.
type consumerGroup struct {
	members       map[string]*member // by client id
	kind          string
	model         string
	from          string
	subscriptions map[string]remoting.Subscription // by topic
}

// registry is who is connected. It is each replica's own: consumers send
// heartbeats to all replicas, producers to the leader.
type registry struct {
	b         *Broker
	mu        sync.Mutex
	consumers map[string]*consumerGroup
	producers map[string]map[string]*member
}

func newRegistry(b *Broker) *registry {
	return &registry{b: b, consumers: map[string]*consumerGroup{}, producers: map[string]map[string]*member{}}
}

// beat registers what a heartbeat says.
func (r *registry) beat(m member, h *remoting.Heartbeat) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range h.Producers {
		if r.producers[name] == nil {
			r.producers[name] = map[string]*member{}
		}
		r.producers[name][m.id] = &m
	}
	for i := range h.Consumers {
		if d := &h.Consumers[i]; d.Known() {
			r.consumer(&m, d)
		}
	}
}

func (r *registry) consumer(m *member, d *remoting.ConsumerData) {
	g := r.consumers[d.Group]
	if g == nil {
		g = &consumerGroup{members: map[string]*member{}, subscriptions: map[string]remoting.Subscription{}}
		r.consumers[d.Group] = g
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
		have, ok := g.subscriptions[sub.Topic]
		if !ok || sub.Version > have.Version {
			g.subscriptions[sub.Topic] = sub
		}
		changed = changed || !ok
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
// connection (or any, if s is nil).
func (r *registry) leave(id, producerGroup, consumerGroup string, s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaveProducers(producerGroup, func(m *member) bool { return m.id == id && (s == nil || m.s == s) })
	r.leaveConsumers(consumerGroup, func(m *member) bool { return m.id == id && (s == nil || m.s == s) }, true)
}

func (r *registry) leaveProducers(name string, gone func(*member) bool) {
	maps.DeleteFunc(r.producers[name], func(_ string, m *member) bool { return gone(m) })
	if len(r.producers[name]) == 0 {
		delete(r.producers, name)
	}
}

func (r *registry) leaveConsumers(name string, gone func(*member) bool, tell bool) {
	g := r.consumers[name]
	if g == nil {
		return
	}
	before := len(g.members)
	maps.DeleteFunc(g.members, func(_ string, m *member) bool { return gone(m) })
	switch {
	case len(g.members) == 0:
		delete(r.consumers, name)
	case len(g.members) < before && tell:
		r.notify(name, g)
	}
}

// disconnected removes every client of a connection.
func (r *registry) disconnected(s *session) { r.sweep(func(m *member) bool { return m.s == s }, true) }

func (r *registry) sweep(gone func(*member) bool, tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Collect(maps.Keys(r.producers)) {
		r.leaveProducers(name, gone)
	}
	for _, name := range slices.Collect(maps.Keys(r.consumers)) {
		r.leaveConsumers(name, gone, tell)
	}
}

// run removes clients that do not send heartbeats any more. Their groups are
// told, as when a connection breaks.
func (r *registry) run() {
	tick := time.NewTicker(clientScan)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			now := time.Now()
			r.sweep(func(m *member) bool { return now.Sub(m.seen) > clientExpiry }, true)
		case <-r.b.ctx.Done():
			return
		}
	}
}

// subscription is what a group's heartbeats say about a topic.
func (r *registry) subscription(group, topic string) (sub remoting.Subscription, model string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.consumers[group]
	if g == nil {
		return sub, "", false
	}
	sub, ok = g.subscriptions[topic]
	return sub, g.model, ok
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
		c.Subscriptions = append(c.Subscriptions, g.subscriptions[topic])
	}
	return c, true
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

// retryGroup is the group whose retry topic this is, "" for other topics.
func retryGroup(topic string) string {
	g, _ := strings.CutPrefix(topic, remoting.RetryPrefix)
	if g == topic {
		return ""
	}
	return g
}
