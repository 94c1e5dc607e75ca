package client

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// maxPullPause is the longest pause between rounds of pulls that fail.
const maxPullPause = time.Second

// pullLoop pulls from a queue until it is dropped.
func (p *PushConsumer) pullLoop(q *processQueue) {
	pl := puller{c: p.c, group: p.cfg.Group, mq: q.mq, g: p.c.group(q.mq.BrokerName), max: p.cfg.PullBatch, suspend: p.cfg.SuspendTime}
	pl.walk.g = pl.g
	for q.awaitRoom() {
		if pl.sub = p.subscription(q.mq.Topic); pl.sub == nil {
			pause(q.ctx, unbalancedInterval) // the next rebalance releases the queue, unless it is subscribed to again
			continue
		}
		q.mu.Lock()
		offset := q.next
		q.mu.Unlock()
		res, err := pl.pull(q.ctx, offset)
		switch {
		case q.ctx.Err() != nil:
			return
		case err != nil:
			p.pullFailed(&pl, err)
		case res.Status == PullOffsetMoved:
			p.moved(q, res.NextOffset)
			return
		default:
			if q.put(res.Messages, res.NextOffset) && len(res.Messages) > 0 {
				p.work.add(q)
			}
		}
	}
}

// pullFailed waits until it makes sense to pull again.
func (p *PushConsumer) pullFailed(pl *puller, err error) {
	p.c.log.Debug("pull", "group", p.cfg.Group, "topic", pl.mq.Topic, "broker", pl.mq.BrokerName, "queue", pl.mq.QueueID, "error", err)
	var refusal *BrokerError
	if errors.As(err, &refusal) {
		switch {
		case refusal.Code == remoting.SubscriptionNotExist || refusal.Code == remoting.SubscriptionNotLatest:
			p.c.beatNow()
		case !pl.passes(refusal.Code):
			p.c.log.Warn("pull refused", "group", p.cfg.Group, "topic", pl.mq.Topic, "broker", pl.mq.BrokerName, "queue", pl.mq.QueueID, "error", err)
			pause(p.ctx, jitter(maxPullPause)) // its error is for the loop to see
			return
		}
	}
	pl.turn(p.ctx, maxPullPause) // likewise
}

// moved begins anew with a queue whose leader says that our offset is not in it: messages were deleted before we came to them, or the
// group's offset was reset. What was pulled before is forgotten.
func (p *PushConsumer) moved(q *processQueue, to int64) {
	p.mu.Lock()
	if p.queues[q.mq] != q || p.state == pushClosing {
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.c.log.Warn("offset moved", "group", p.cfg.Group, "topic", q.mq.Topic, "broker", q.mq.BrokerName, "queue", q.mq.QueueID,
		"from", q.commitOffset(), "to", to)
	p.restart(q, to)
}

// restart drops a queue, with what is held of it, and begins with it anew at an offset.
func (p *PushConsumer) restart(q *processQueue, at int64) {
	q.drop()
	q.mu.Lock()
	committed := q.committed
	q.mu.Unlock()
	if !p.manual() {
		// Behind a commit that is under way, which would undo this one.
		select {
		case q.commit <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		err := p.store.commit(p.ctx, q.mq, at)
		if err == nil {
			err = p.store.save()
		}
		<-q.commit
		committed = at
		if err != nil {
			committed = -1
			p.c.log.Warn("commit", "group", p.cfg.Group, "topic", q.mq.Topic, "broker", q.mq.BrokerName, "queue", q.mq.QueueID, "error", err)
		}
	}
	if p.cfg.Ordered {
		p.giveUp(q) // and take it again, when its listener is done
		return
	}
	p.begin(q.mq, at, committed, q, time.Time{})
}

// consume is a worker: it takes messages and gives them to their listener.
func (p *PushConsumer) consume() {
	for {
		q := p.work.next(context.Background())
		if q == nil {
			return
		}
		if p.cfg.Ordered {
			p.consumeInOrder(q)
			continue
		}
		batch, more := q.take(p.cfg.ConsumeBatch)
		if more {
			p.work.add(q)
		}
		if len(batch) > 0 {
			p.consumeBatch(q, batch)
		}
	}
}

func (p *PushConsumer) consumeBatch(q *processQueue, batch []*task) {
	// A body that cannot be decompressed is a failure of its message alone.
	batch = slices.DeleteFunc(batch, func(t *task) bool {
		if t.msg.Err == nil {
			return false
		}
		p.unconsumedBy(q, []*task{t}, []*MessageExt{t.msg}, 0, t.msg.Err)
		return true
	})
	if len(batch) == 0 {
		return
	}
	msgs := make([]*MessageExt, len(batch))
	for i, t := range batch {
		msgs[i] = t.msg
	}
	err := p.listen(p.listening, slices.Clone(msgs))
	n, level := consumedOf(err, len(batch))
	for _, t := range batch[:n] {
		if q.done(t) {
			p.consumed.Add(1)
		}
	}
	if n < len(batch) {
		p.unconsumedBy(q, batch[n:], msgs[n:], level, err)
	}
}

// unconsumedBy gives back messages that were not consumed because of err.
func (p *PushConsumer) unconsumedBy(q *processQueue, batch []*task, msgs []*MessageExt, level int32, err error) {
	p.c.log.Warn("consume", "group", p.cfg.Group, "topic", msgs[0].Topic, "id", msgs[0].MsgID, "messages", len(msgs), "error", err)
	p.unconsumed.Add(int64(len(msgs)))
	for i, t := range batch {
		p.giveBack(q, t, msgs[i], level)
	}
}

// listen calls the listener of the messages' topic.
func (p *PushConsumer) listen(ctx context.Context, msgs []*MessageExt) (err error) {
	s := p.subscription(msgs[0].Topic)
	if s == nil || s.listener == nil {
		return fmt.Errorf("%w: %s", errNoListener, msgs[0].Topic)
	}
	for _, m := range msgs {
		if m.Err != nil {
			return m.Err
		}
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the listener panicked: %v\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ConsumeTimeout)
	defer cancel()
	return s.listener(ctx, msgs)
}
