package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

const (
	// refreshGap is the least time between two questions about one topic that failures prompt.
	refreshGap = 100 * time.Millisecond
	// unsettledPoll is how often routes are asked for that are known to be about to change.
	unsettledPoll = time.Second
)

// route says where a topic's queues are. It never changes; a new one takes its place.
type route struct {
	data  remoting.RouteData
	write []writeQueue // sorted, as every producer must see one order
	read  []MessageQueue
	// groups is how many broker groups have a queue to write to.
	groups int
	// borrowed: the topic does not exist yet, and this is what the template topic promises for it.
	borrowed bool
}

// writeQueue is a queue and the group that has it.
type writeQueue struct {
	MessageQueue
	g *group
}

// queues returns the names of the queues to write to.
func (r *route) queues() []MessageQueue {
	list := make([]MessageQueue, len(r.write))
	for i := range r.write {
		list[i] = r.write[i].MessageQueue
	}
	return list
}

// topic is a topic that a producer or consumer of this client has to do with.
type topic struct {
	name  string
	route atomic.Pointer[route]
	turn  atomic.Uint32 // of the producers' round-robin

	mu       sync.Mutex
	fetch    *fetch // in progress
	fetched  time.Time
	produced bool // borrow the template topic's route while there is none
}

type fetch struct {
	borrow bool
	done   chan struct{}
	err    error
}

// topic returns the topic of a name; from then on its route is kept up to date.
func (c *Client) topic(name string) *topic {
	if t := (*c.topics.Load())[name]; t != nil {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.topics.Load()
	if t := old[name]; t != nil {
		return t
	}
	topics := maps.Clone(old)
	topics[name] = &topic{name: name}
	c.topics.Store(&topics)
	return topics[name]
}

// routeOf returns the topic's route, asking for it if it is not known. With produce, a topic that does not exist gets the route that it
// will have once a message creates it.
func (c *Client) routeOf(ctx context.Context, t *topic, produce bool) (*route, error) {
	for {
		if r := t.route.Load(); r != nil && (produce || !r.borrowed) {
			return r, nil
		}
		f := c.refresh(t, produce, 0)
		if f == nil {
			return nil, ErrClosed
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("route of topic %s: %w", t.name, ctx.Err())
		}
		switch {
		case f.err == nil && (produce || !t.route.Load().borrowed):
			return t.route.Load(), nil
		case f.err == nil:
			return nil, fmt.Errorf("%w: %s", ErrNoRoute, t.name)
		case errors.Is(f.err, ErrNoRoute) && (f.borrow || !produce):
			return nil, f.err
		case errors.Is(f.err, ErrNoRoute):
			continue // it was somebody's who did not want to borrow
		}
		if err := pause(ctx, maxPause); err != nil {
			return nil, fmt.Errorf("route of topic %s: %w: %w", t.name, err, f.err)
		}
	}
}

// refresh asks for the topic's route anew, unless that was done less than gap ago. It does not wait; nil means that nobody asks.
func (c *Client) refresh(t *topic, produce bool, gap time.Duration) *fetch {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.produced = t.produced || produce
	if t.fetch != nil {
		return t.fetch
	}
	if gap > 0 && time.Since(t.fetched) < gap {
		return nil
	}
	f := &fetch{borrow: t.produced, done: make(chan struct{})}
	t.fetch = f
	if !c.spawn(func() { c.fetch(t, f) }) {
		t.fetch = nil
		return nil
	}
	return f
}

// refreshGroup asks for a route that tells about the group.
func (c *Client) refreshGroup(g *group) {
	g.mu.Lock()
	name := g.topic
	g.mu.Unlock()
	if name != "" {
		c.refresh(c.topic(name), false, refreshGap)
	}
}

// peerLost is called when a connection has ended: the leader may be another one now.
func (c *Client) peerLost(p *peer) {
	for _, g := range c.groupList() {
		if g.leader.Load() == p || slices.Contains(g.replicas.Load().list, p) {
			c.refreshGroup(g)
		}
	}
}

// fetch asks for a topic's route.
func (c *Client) fetch(t *topic, f *fetch) {
	r, err := c.ask(c.ctx, t.name)
	if errors.Is(err, ErrNoRoute) {
		switch old := t.route.Load(); {
		case old != nil && !old.borrowed:
			// A deleted topic goes on to be used, as with every client: it may be about to be made again.
			r, err = old, nil
		case f.borrow:
			r, err = c.askTemplate(t.name, err)
		}
	}
	changed := false
	if err == nil {
		old := t.route.Swap(r)
		changed = old == nil || !reflect.DeepEqual(old.data, r.data)
	} else {
		c.log.Debug("route", "topic", t.name, "error", err)
	}
	t.mu.Lock()
	t.fetch, t.fetched = nil, time.Now()
	t.mu.Unlock()
	f.err = err
	close(f.done)
	if !changed {
		return
	}
	c.mu.Lock()
	consumers := slices.Collect(maps.Values(c.consumers))
	c.mu.Unlock()
	for _, m := range consumers {
		m.routeChanged(t.name)
	}
}

// ask gets the route of a topic from a name server.
func (c *Client) ask(ctx context.Context, name string) (*route, error) {
	req := &remoting.Command{Code: remoting.GetRouteInfoByTopic, Header: &remoting.RouteRequest{Topic: name, StandardJSON: true}}
	resp, err := c.servers.call(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("route of topic %s: %w", name, err)
	}
	if resp.Code == remoting.TopicNotExist {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoRoute, name, resp.Err())
	}
	if err := resp.Err(); err != nil {
		return nil, fmt.Errorf("route of topic %s: %w", name, err)
	}
	r := &route{}
	if err := r.data.DecodeBody(resp.Body); err != nil {
		return nil, fmt.Errorf("route of topic %s: %w", name, err)
	}
	c.resolve(r, name)
	return r, nil
}

// resolve finds groups and queues of r.data.
func (c *Client) resolve(r *route, name string) {
	groups := map[string]*group{}
	for i := range r.data.Brokers {
		b := &r.data.Brokers[i]
		groups[b.BrokerName] = c.learn(b, name)
	}
	for _, q := range r.data.Queues {
		g := groups[q.BrokerName]
		if g == nil {
			continue // no address: nobody to ask
		}
		if q.Perm&remoting.PermWrite != 0 {
			for id := range q.WriteQueueNums {
				r.write = append(r.write, writeQueue{MessageQueue{Topic: name, BrokerName: q.BrokerName, QueueID: id}, g})
			}
		}
		if q.Perm&remoting.PermRead != 0 {
			for id := range q.ReadQueueNums {
				r.read = append(r.read, MessageQueue{Topic: name, BrokerName: q.BrokerName, QueueID: id})
			}
		}
	}
	if ordered, err := orderedQueues(r.data.OrderTopicConf, name); err != nil {
		c.log.Warn("what name servers say of an ordered topic cannot be read", "topic", name, "error", err)
	} else if ordered != nil {
		r.write = r.write[:0]
		for _, q := range ordered {
			r.write = append(r.write, writeQueue{q, c.group(q.BrokerName)})
		}
	}
	slices.SortFunc(r.write, func(a, b writeQueue) int { return compareQueues(a.MessageQueue, b.MessageQueue) })
	for i, q := range r.write {
		if i == 0 || q.g != r.write[i-1].g {
			r.groups++
		}
	}
	slices.SortFunc(r.read, compareQueues)
}

// templateQueues is how many queues a topic gets that comes to be by a first message, if the template allows as many.
const templateQueues = 4

// askTemplate makes a route for a topic that does not exist from that of the template topic, which brokers have if they create topics by
// themselves.
func (c *Client) askTemplate(name string, unknown error) (*route, error) {
	t, err := c.ask(c.ctx, remoting.TopicAutoCreate)
	if errors.Is(err, ErrNoRoute) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	r := &route{data: t.data, borrowed: true}
	for i := range r.data.Queues {
		q := &r.data.Queues[i]
		n := min(templateQueues, q.ReadQueueNums)
		q.ReadQueueNums, q.WriteQueueNums = n, n
	}
	c.resolve(r, name)
	return r, nil
}

// pollRoutes keeps the routes up to date: all of them every RouteInterval, and those that must be about to change every second.
func (c *Client) pollRoutes() {
	ticker := time.NewTicker(min(unsettledPoll, c.cfg.RouteInterval))
	defer ticker.Stop()
	polled := time.Now()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-ticker.C:
		}
		if time.Since(polled) >= c.cfg.RouteInterval {
			polled = time.Now()
			for _, t := range *c.topics.Load() {
				if f := c.refresh(t, false, 0); f != nil {
					<-f.done // one after the other: the calls of a fetch end with c.ctx
				}
			}
			c.dropUnused()
			continue
		}
		c.reconnect()
		for _, t := range *c.topics.Load() {
			if r := t.route.Load(); r != nil && r.borrowed {
				c.refresh(t, false, unsettledPoll/2)
			}
		}
		for _, g := range c.groupList() {
			if !g.settled() && len(g.replicas.Load().list) > 1 {
				c.refreshGroup(g)
			}
		}
	}
}
