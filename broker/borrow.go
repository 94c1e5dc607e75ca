package broker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// borrowedFor is for how long another replica's word on a group's subscriptions
// counts: longer than stock consumers are silent (30 s).
const borrowedFor = 60 * time.Second

// borrowedGroup is a group of consumers as another replica knows it. Stock
// consumers send no heartbeat to a replica that comes back until they have to
// anyway, but pull from it.
type borrowedGroup struct {
	consumerGroup
	until time.Time
}

var errSubscriptionMissing = errors.New("")

// borrowSubscription asks the other replicas what the pull's group has subscribed
// to, and begins again.
func (op *pullOp) borrowSubscription(ctx context.Context) {
	b := op.b
	for _, addr := range b.others() {
		c, err := b.consumersAt(ctx, addr, op.h.ConsumerGroup)
		if err == nil && slices.ContainsFunc(c.Subscriptions, func(s remoting.Subscription) bool { return s.Topic == op.h.Topic }) {
			b.clients.borrow(op.h.ConsumerGroup, &c)
			break
		}
	}
	if err := op.check(); err != nil {
		op.refuse(err)
		return
	}
	op.begin()
}

// consumersElsewhere are the clients of a consumer group that other replicas know.
func (b *Broker) consumersElsewhere(ctx context.Context, group string) (ids []string) {
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, addr := range b.others() {
		asked.Go(func() {
			c, err := b.consumersAt(ctx, addr, group)
			if err != nil {
				return // it knows none, or is down
			}
			mu.Lock()
			defer mu.Unlock()
			for _, m := range c.Connections {
				ids = append(ids, m.ClientID)
			}
		})
	}
	asked.Wait()
	return ids
}

// consumersAt is a consumer group as another replica knows it.
func (b *Broker) consumersAt(ctx context.Context, addr, group string) (c remoting.ConsumerConnections, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := b.links.get(ctx, addr)
	if err != nil {
		return c, err
	}
	resp, err := conn.Call(ctx, &remoting.Command{Code: remoting.GetConsumerConnectionList, Header: &remoting.ConsumerGroupRequest{ConsumerGroup: group}})
	if err == nil {
		err = resp.Err()
	}
	if err == nil {
		err = c.DecodeBody(resp.Body)
	}
	return c, err
}

// borrow notes what another replica knows of a group, unless it is known here.
func (r *registry) borrow(group string, c *remoting.ConsumerConnections) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.consumers[group] != nil {
		return
	}
	r.giveBack(group)
	g := &borrowedGroup{
		consumerGroup: consumerGroup{kind: c.ConsumeType, model: c.MessageModel, from: c.ConsumeFromWhere, subscriptions: map[string]*interest{}},
		until:         time.Now().Add(borrowedFor),
	}
	for _, sub := range c.Subscriptions {
		g.subscriptions[sub.Topic] = &interest{data: sub}
	}
	r.borrowed[group] = g
}

// giveBack forgets what was borrowed of a group: the pulls that go by it look
// again. The lock is held.
func (r *registry) giveBack(group string) {
	g := r.borrowed[group]
	if g == nil {
		return
	}
	delete(r.borrowed, group)
	for _, sub := range g.subscriptions { // in any order
		sub.replaced.Store(true)
	}
	r.b.holds.changed()
}
