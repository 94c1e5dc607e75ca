package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// polled is a batch that Poll has returned and that is not taken for consumed yet.
type polled struct {
	q     *processQueue
	batch []*task
}

// Subscribe makes Poll return the messages of a topic that are selected, of those queues that the group's
// Allocator gives to this consumer: the consumers of the group share them. It may be called again, for other topics, and for the same one:
// then it replaces. SQL that brokers refuse is an error of Poll. It excludes Assign.
func (p *PullConsumer) Subscribe(topic string, selector Selector) error {
	s, err := parseSubscription(topic, selector)
	if err != nil {
		return err
	}
	return p.hold(func(push *PushConsumer) error {
		if push.assigned != nil {
			return fmt.Errorf("%w: the consumer has been assigned queues; one that subscribes has its own group", ErrConfig)
		}
		push.subs[topic] = s
		return nil
	})
}

// Unsubscribe ends what Subscribe began.
func (p *PullConsumer) Unsubscribe(topic string) {
	p.push.Unsubscribe(topic)
}

// Assign makes Poll return the messages of these queues, of those that are selected, whoever else does; not those of queues assigned
// before. It begins with each where the group's offset is, or else where PullConfig.From says. It excludes Subscribe.
func (p *PullConsumer) Assign(selector Selector, queues ...MessageQueue) error {
	assigned, subs := map[string][]MessageQueue{}, map[string]*subscription{}
	for _, mq := range queues {
		if mq.BrokerName == "" || mq.QueueID < 0 {
			return fmt.Errorf("%w: there is no queue %+v", ErrConfig, mq)
		}
		s, err := parseSubscription(mq.Topic, selector)
		if err != nil {
			return err
		}
		subs[mq.Topic] = s
		if !slices.Contains(assigned[mq.Topic], mq) {
			assigned[mq.Topic] = append(assigned[mq.Topic], mq)
		}
	}
	return p.hold(func(push *PushConsumer) error {
		if push.assigned == nil && len(push.subs) > 0 {
			return fmt.Errorf("%w: the consumer subscribes to topics; one that is assigned queues has its own group", ErrConfig)
		}
		push.assigned, push.subs = assigned, subs
		for mq := range push.seeks {
			if !slices.Contains(assigned[mq.Topic], mq) {
				delete(push.seeks, mq)
			}
		}
		return nil
	})
}

// hold changes what is to be held, and begins to hold it.
func (p *PullConsumer) hold(change func(*PushConsumer) error) error {
	push := p.push
	push.mu.Lock()
	defer push.mu.Unlock()
	if push.state == pushClosing {
		return ErrClosed
	}
	if err := change(push); err != nil {
		return err
	}
	if push.state == pushNew {
		push.run()
	}
	p.c.beatNow()
	push.rebalanceNow()
	p.unchecked.Store(true)
	return nil
}

// checkSelectors has brokers look at what is subscribed to, once.
func (p *PullConsumer) checkSelectors(ctx context.Context) error {
	if !p.unchecked.CompareAndSwap(true, false) {
		return nil
	}
	err := p.push.checkSelectors(ctx, p.push.subscriptions())
	if err != nil {
		p.unchecked.Store(true)
	}
	return err
}

// Assignment returns the queues that Poll reads at the moment, sorted.
func (p *PullConsumer) Assignment() []MessageQueue { return p.push.Queues() }

// Poll returns the next messages: at least one, at most PollMax, of one queue, in their order. It waits until there are some, or ctx ends or the
// consumer is closed, which is an error. Behind the scenes messages are pulled ahead, within MaxMessages, MaxBytes and MaxSpan. One whose body
// cannot be decompressed is returned with its Err set.
//
// By calling it again the caller says that it is done with the messages it got before: from then on their offsets are committed every
// CommitInterval, unless ManualCommit is set. So one goroutine polls.
func (p *PullConsumer) Poll(ctx context.Context) ([]*MessageExt, error) {
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	p.push.mu.Lock()
	idle := p.push.state == pushNew
	p.push.mu.Unlock()
	if idle {
		return nil, fmt.Errorf("%w: Poll before Assign and Subscribe", ErrConfig)
	}
	if err := p.checkSelectors(ctx); err != nil {
		return nil, err
	}
	p.settle()
	for {
		q := p.push.work.next(ctx)
		if q == nil {
			return nil, fmt.Errorf("poll: %w", context.Cause(ctx))
		}
		if p.isPaused(q.mq) {
			continue // Resume brings it back
		}
		batch, more := q.take(p.cfg.PollMax)
		if more {
			p.push.work.add(q)
		}
		if len(batch) == 0 {
			continue
		}
		msgs := make([]*MessageExt, len(batch))
		for i, t := range batch {
			msgs[i] = t.msg
		}
		p.mu.Lock()
		p.polled = append(p.polled, polled{q, batch})
		p.mu.Unlock()
		return msgs, nil
	}
}

// settle notes that the caller is done with what it has polled.
func (p *PullConsumer) settle() {
	p.mu.Lock()
	list := p.polled
	p.polled = nil
	p.mu.Unlock()
	for _, b := range list {
		for _, t := range b.batch {
			b.q.done(t)
		}
	}
}

// CommitSync commits the offsets of all that Poll has returned: when it returns nil the brokers have stored them. It is how to commit with
// ManualCommit, and otherwise what to call before Close so that the last messages do not come again.
func (p *PullConsumer) CommitSync(ctx context.Context) error {
	_, err := p.offset(ctx, func(ctx context.Context) (int64, error) {
		p.settle()
		return 0, p.push.commitAll(ctx, p.push.held())
	})
	return err
}

// Seek makes Poll go on with a queue at an offset; what was pulled of it before is forgotten. It commits nothing by itself. An offset outside
// of the queue becomes the nearest one inside. ErrNotAssigned: the consumer does not have the queue (any more).
func (p *PullConsumer) Seek(queue MessageQueue, offset int64) error {
	if offset < 0 {
		return fmt.Errorf("%w: offset %d is negative", ErrConfig, offset)
	}
	return p.push.seek(queue, offset)
}

// SeekToBegin is Seek to the queue's first message.
func (p *PullConsumer) SeekToBegin(ctx context.Context, queue MessageQueue) error {
	offset, err := p.MinOffset(ctx, queue)
	if err != nil {
		return err
	}
	return p.Seek(queue, offset)
}

// SeekToEnd is Seek behind the queue's last message.
func (p *PullConsumer) SeekToEnd(ctx context.Context, queue MessageQueue) error {
	offset, err := p.MaxOffset(ctx, queue)
	if err != nil {
		return err
	}
	return p.Seek(queue, offset)
}

// seek begins anew with a queue, or notes where to begin with it.
func (p *PushConsumer) seek(mq MessageQueue, at int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.queues[mq]
	switch {
	case p.state == pushClosing:
		return ErrClosed
	case q == nil && !slices.Contains(p.assigned[mq.Topic], mq):
		return fmt.Errorf("%w: topic %s, broker %s, queue %d", ErrNotAssigned, mq.Topic, mq.BrokerName, mq.QueueID)
	case q == nil:
		p.seeks[mq] = at
		return nil
	}
	q.drop()
	q.mu.Lock()
	committed := q.committed
	q.mu.Unlock()
	p.hold(mq, at, committed, time.Time{})
	return nil
}

// Pause makes Poll return nothing of some queues until Resume. Messages are pulled ahead all the same, within the limits.
func (p *PullConsumer) Pause(queues ...MessageQueue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, mq := range queues {
		p.paused[mq] = true
	}
}

// Resume ends what Pause began.
func (p *PullConsumer) Resume(queues ...MessageQueue) {
	p.mu.Lock()
	for _, mq := range queues {
		delete(p.paused, mq)
	}
	p.mu.Unlock()
	for _, q := range p.push.held() {
		if slices.Contains(queues, q.mq) {
			p.push.work.add(q)
		}
	}
}

func (p *PullConsumer) isPaused(mq MessageQueue) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused[mq]
}

// noteCommit notes an offset that the caller has committed of a queue.
func (p *PushConsumer) noteCommit(mq MessageQueue, offset int64) {
	p.mu.Lock()
	q := p.queues[mq]
	p.mu.Unlock()
	if q != nil {
		q.mu.Lock()
		q.committed = offset
		q.mu.Unlock()
	}
}

// serve answers what brokers ask of a consumer that polls. What the caller of Pull does they cannot know.
func (p *PullConsumer) serve(req *remoting.Command) bool {
	switch req.Code {
	case remoting.NotifyConsumerIDsChanged, remoting.ResetConsumerClientOffset, remoting.GetConsumerStatusFromClient, remoting.GetConsumerRunningInfo:
		return p.push.serve(req)
	}
	return false
}

// closePolling ends what Assign or Subscribe began; false: nothing had.
func (p *PullConsumer) closePolling(ctx context.Context) (bool, error) {
	p.push.mu.Lock()
	begun := p.push.state == pushRunning
	p.push.mu.Unlock()
	return begun, p.push.Close(ctx)
}
