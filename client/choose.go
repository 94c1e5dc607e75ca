package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// begin finds out where to send to.
func (s *send) begin(ctx context.Context, queue *MessageQueue) error {
	c := s.p.c
	s.topic, s.given = c.topic(s.header.Topic), queue != nil
	s.setDeadline(ctx)
	r := s.topic.route.Load()
	if r == nil {
		defer func() { s.begun = time.Now() }()
		ctx, cancel := context.WithDeadline(ctx, s.deadline)
		defer cancel()
		var err error
		if r, err = c.routeOf(ctx, s.topic, true); err != nil {
			return err
		}
	}
	if s.state.limbo {
		queue = &s.msgs[0].limbo.queue
		s.fixed = !s.p.cfg.LeaveInLimbo
	}
	if err := s.choose(r, queue); err != nil {
		return err
	}
	if s.p.cfg.InOrder {
		return s.takeTurn(ctx)
	}
	return nil
}

// choose chooses the queue: that of the caller, or what Select or the sharding key say, or the next one.
func (s *send) choose(r *route, queue *MessageQueue) error {
	if len(r.write) == 0 {
		return fmt.Errorf("%w: topic %s has no queue that can be written to", ErrNoRoute, s.header.Topic)
	}
	switch {
	case queue != nil:
		i, ok := slices.BinarySearchFunc(r.write, *queue, func(w writeQueue, q MessageQueue) int { return compareQueues(w.MessageQueue, q) })
		if !ok {
			return fmt.Errorf("%w: topic %s has no queue %d at broker %q that can be written to", ErrNoRoute, s.header.Topic, queue.QueueID, queue.BrokerName)
		}
		s.fixed = s.fixed || !s.state.limbo
		s.aim(r.write[i])
		return nil
	case s.p.cfg.Select != nil:
		if i := s.p.cfg.Select(r.queues(), s.msgs[0]); i >= len(r.write) {
			return fmt.Errorf("%w: Select returned %d for %d queues", ErrMessage, i, len(r.write))
		} else if i >= 0 {
			s.fixed = true
			s.aim(r.write[i])
			return nil
		}
	case s.msgs[0].ShardingKey != "":
		s.fixed = true
		s.aim(r.write[shard(s.msgs[0].ShardingKey, len(r.write))])
		return nil
	}
	s.fixed = s.p.cfg.InOrder
	s.aim(s.topic.next(r, nil))
	return nil
}

// shard returns the queue of a key, out of n: the one that Java's hash selector chooses.
func shard(key string, n int) int {
	i := int(remoting.TagHash(key)) % n
	return max(i, -i)
}

// next returns the next queue in turn, passing over groups that have no leader or have just failed, and those in not, unless there is no
// other.
func (t *topic) next(r *route, not []*group) writeQueue {
	n := uint32(len(r.write))
	turn := t.turn.Add(1)
	best, bestRank := r.write[turn%n], 3
	for i := range n {
		q := r.write[(turn+i)%n]
		rank := 0
		switch {
		case slices.Contains(not, q.g):
			rank = 2
		case q.g.avoided() || q.g.leader.Load() == nil:
			rank = 1
		}
		if rank == 0 {
			return q
		}
		if rank < bestRank {
			best, bestRank = q, rank
		}
	}
	return best
}

// aim makes q the queue to send to.
func (s *send) aim(q writeQueue) {
	s.queue = q
	s.header.QueueID, s.header.BrokerName = q.QueueID, q.BrokerName
	s.walk = walk{g: q.g, tried: s.walk.tried[:0]}
}

// elsewhere turns to another group.
func (s *send) elsewhere() {
	s.passed = append(s.passed, s.queue.g)
	if r := s.topic.route.Load(); r.groups > 1 {
		s.aim(s.topic.next(r, s.passed))
	} else {
		s.aim(s.queue)
	}
}

// takeTurn waits for the sends that are before this one in its queue. Its time begins after that.
func (s *send) takeTurn(ctx context.Context) error {
	turn := s.p.turn(s.queue.MessageQueue)
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for earlier sends to the queue: %w", ctx.Err())
	case <-s.p.dying:
		return ErrClosed
	}
	s.turn = turn
	s.begun = time.Now()
	s.setDeadline(ctx)
	return nil
}

// setDeadline gives the send its time, from begun on.
func (s *send) setDeadline(ctx context.Context) {
	s.deadline = s.begun.Add(s.p.cfg.Timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(s.deadline) {
		s.deadline = d
	}
}
