package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// unbalancedInterval is how soon the queues are shared again after a time when that did not work out.
const unbalancedInterval = time.Second

// retryTopicTime is how long after Start the retry topic may be missing: brokers make it when they hear of the group.
const retryTopicTime = 30 * time.Second

// rebalanceNow makes the queues be shared anew at once.
func (p *PushConsumer) rebalanceNow() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// rebalanceLoop shares the queues whenever something has changed, and now and then.
func (p *PushConsumer) rebalanceLoop() {
	for {
		wait := p.cfg.RebalanceInterval
		if !p.rebalance() {
			wait = min(wait, unbalancedInterval)
		}
		t := time.NewTimer(wait)
		select {
		case <-p.ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-p.kick:
			t.Stop()
		}
	}
}

// rebalance shares the queues of all topics. false: something did not work out.
func (p *PushConsumer) rebalance() bool {
	ok := true
	subs := p.subscriptions()
	for _, s := range subs {
		if p.ctx.Err() != nil {
			return true
		}
		if err := p.rebalanceTopic(s); err != nil {
			ok = false
			level := slog.LevelInfo
			if errors.Is(err, ErrNoRoute) || errors.Is(err, errLocked) {
				level = slog.LevelDebug // as every group begins, and as queues move
			}
			p.c.log.Log(p.ctx, level, "rebalance", "group", p.cfg.Group, "topic", s.topic, "error", err)
		}
	}
	// What is not subscribed to any more.
	var lost []*processQueue
	for _, q := range p.held() {
		if !slices.ContainsFunc(subs, func(s *subscription) bool { return s.topic == q.mq.Topic }) {
			lost = append(lost, q)
		}
	}
	p.release(lost)
	return ok
}

func (p *PushConsumer) rebalanceTopic(s *subscription) error {
	if mine, ok := p.assignment(s.topic); ok {
		return p.have(s.topic, mine)
	}
	t := p.c.topic(s.topic)
	ctx, cancel := context.WithTimeout(p.ctx, p.c.cfg.CallTimeout)
	r, err := p.c.routeOf(ctx, t, false)
	cancel()
	if errors.Is(err, ErrNoRoute) {
		if strings.HasPrefix(s.topic, remoting.RetryPrefix) && time.Since(p.started) < retryTopicTime {
			return err
		}
		return nil // the topic does not exist; routeChanged tells when it does
	}
	if err != nil {
		return err
	}
	mine := r.read // of Broadcasting
	if !p.cfg.Broadcasting {
		clients, err := p.clients(r)
		if err != nil {
			return err // what we have we keep
		}
		mine = p.allocate(r.read, clients)
	}
	return p.have(s.topic, mine)
}

// allocate returns what the Allocator gives us of queues.
func (p *PushConsumer) allocate(queues []MessageQueue, clients []string) []MessageQueue {
	mine := slices.Clone(p.cfg.Allocate(p.c.ID(), queues, clients))
	slices.SortFunc(mine, compareQueues)
	return slices.DeleteFunc(slices.Compact(mine), func(mq MessageQueue) bool { return !slices.Contains(queues, mq) })
}

// have makes mine the queues of a topic that are held.
func (p *PushConsumer) have(topic string, mine []MessageQueue) error {
	var lost []*processQueue
	for _, q := range p.held() {
		if q.mq.Topic == topic && !slices.Contains(mine, q.mq) {
			lost = append(lost, q)
		}
	}
	p.release(lost)
	return p.acquire(mine)
}

// clients returns the ids of the group's clients, sorted. A broker that does not know us has just started, or we have: it is told, and asked
// once more.
func (p *PushConsumer) clients(r *route) ([]string, error) {
	if len(r.data.Brokers) == 0 {
		return nil, fmt.Errorf("%w: the route has no broker", ErrNoRoute)
	}
	req := &remoting.Command{Code: remoting.GetConsumerListByGroup, Header: &remoting.ConsumerGroupRequest{ConsumerGroup: p.cfg.Group}}
	first := rand.IntN(len(r.data.Brokers))
	var err error
	for i := range r.data.Brokers {
		g := p.c.group(r.data.Brokers[(first+i)%len(r.data.Brokers)].BrokerName)
		var list remoting.ConsumerList
		if list, err = p.askClients(g, req); err == nil && !slices.Contains(list, p.c.ID()) {
			p.tellGroup(g)
			list, err = p.askClients(g, req)
		}
		if err == nil && len(list) == 0 {
			err = fmt.Errorf("broker %s knows no client of group %s", g.name, p.cfg.Group)
		}
		if err == nil {
			slices.Sort(list)
			return slices.Compact(list), nil
		}
	}
	return nil, err
}

// askClients returns what the group's leader says; nothing if it says "nobody".
func (p *PushConsumer) askClients(g *group, req *remoting.Command) (remoting.ConsumerList, error) {
	resp, err := p.c.callGroup(p.ctx, g, req)
	if errors.Is(err, &BrokerError{Code: remoting.SystemError}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("clients of group %s: %w", p.cfg.Group, err)
	}
	var list remoting.ConsumerList
	err = list.DecodeBody(resp.Body)
	return list, err
}

// tellGroup sends a heartbeat to the group's leader and waits for the answer.
func (p *PushConsumer) tellGroup(g *group) {
	if _, err := p.c.callGroup(p.ctx, g, &remoting.Command{Code: remoting.HeartBeat, Body: p.c.heartbeat()}); err != nil {
		p.c.log.Info("heartbeat", "broker", g.name, "error", err)
	}
}

// release gives up queues: what is consumed of them is committed, so that the client that gets them goes on there.
func (p *PushConsumer) release(lost []*processQueue) {
	if p.cfg.Ordered {
		for _, q := range lost {
			p.giveUp(q)
		}
		return
	}
	if len(lost) == 0 {
		return
	}
	p.mu.Lock()
	for _, q := range lost {
		delete(p.queues, q.mq)
	}
	p.mu.Unlock()
	for _, q := range lost {
		q.cancel()
	}
	if p.manual() {
		// What was not committed is the next client's.
	} else if err := p.commitAll(p.ctx, lost); err != nil {
		p.c.log.Warn("offsets of released queues were not committed", "group", p.cfg.Group, "error", err)
	}
	p.watchNow()
	for _, q := range lost {
		q.drop()
		p.c.log.Info("queue released", "group", p.cfg.Group, "topic", q.mq.Topic, "broker", q.mq.BrokerName, "queue", q.mq.QueueID)
	}
}

// startsAtOnce bounds how many queues are asked about at once.
const startsAtOnce = 16

// acquire begins with the queues that are not held yet. A queue whose offset cannot be found out is left for the next time: to begin anywhere
// else would skip messages or repeat them.
func (p *PushConsumer) acquire(mine []MessageQueue) error {
	var fresh []MessageQueue
	p.mu.Lock()
	for _, mq := range mine {
		if p.queues[mq] == nil {
			fresh = append(fresh, mq)
		}
	}
	p.mu.Unlock()
	if p.cfg.Ordered {
		return p.acquireInOrder(fresh)
	}
	return each(fresh, startsAtOnce, func(mq MessageQueue) error { return p.start(mq, time.Time{}) })
}

// start begins with a queue where the group has come to. If it is locked, the lock was asked for then.
func (p *PushConsumer) start(mq MessageQueue, locked time.Time) error {
	start, committed, err := p.startOffset(mq)
	if err != nil {
		return fmt.Errorf("where to begin with broker %s queue %d: %w", mq.BrokerName, mq.QueueID, err)
	}
	p.begin(mq, start, committed, nil, locked)
	return nil
}

// each calls f for each of list, n at once, and returns one of the errors.
func each[T any](list []T, n int, f func(T) error) error {
	if len(list) == 1 {
		return f(list[0])
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	tokens := make(chan struct{}, n)
	for _, v := range list {
		tokens <- struct{}{}
		wg.Go(func() {
			if err := f(v); err != nil {
				mu.Lock()
				first = err
				mu.Unlock()
			}
			<-tokens
		})
	}
	wg.Wait()
	return first
}

// begin holds a queue from an offset on, in place of the one that was held of it (nil: none), if that is so. If it is locked, the lock was
// asked for then.
func (p *PushConsumer) begin(mq MessageQueue, start, committed int64, old *processQueue, locked time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queues[mq] != old || p.state != pushRunning {
		return
	}
	if at, ok := p.seeks[mq]; ok {
		start = at
		delete(p.seeks, mq)
	}
	p.hold(mq, start, committed, locked)
}

// hold is begin without a question. The lock is held, and the consumer is running.
func (p *PushConsumer) hold(mq MessageQueue, start, committed int64, locked time.Time) {
	q := newProcessQueue(p.ctx, mq, start, committed, limits{p.cfg.MaxMessages, p.cfg.MaxBytes, p.cfg.MaxSpan})
	if p.cfg.Ordered {
		p.inOrder(q, locked)
	}
	p.queues[mq] = q
	p.loops.Go(func() { p.pullLoop(q) })
	p.watchNow()
	p.c.log.Info("queue acquired", "group", p.cfg.Group, "topic", mq.Topic, "broker", mq.BrokerName, "queue", mq.QueueID, "offset", start)
}

// startOffset returns where to begin with a queue, and what the broker has (-1: nothing).
func (p *PushConsumer) startOffset(mq MessageQueue) (start, committed int64, err error) {
	offset, err := p.store.committed(p.ctx, mq)
	if err == nil && offset >= 0 {
		return offset, offset, nil
	}
	if err != nil && !errors.Is(err, ErrNoOffset) {
		return 0, 0, err
	}
	retry := strings.HasPrefix(mq.Topic, remoting.RetryPrefix)
	switch {
	case p.cfg.From == FromFirst:
		offset, err = p.c.minOffset(p.ctx, mq)
	case p.cfg.From == FromTime && !retry:
		offset, err = p.c.offsetAt(p.ctx, mq, p.cfg.FromTime)
	case p.cfg.From == FromLast && retry:
		offset, err = 0, nil
	default:
		offset, err = p.c.maxOffset(p.ctx, mq)
	}
	return offset, -1, err
}
