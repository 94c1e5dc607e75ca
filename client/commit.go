package client

import (
	"context"
	"errors"
	"time"
)

// commitsAtOnce bounds how many offsets are being committed at once.
const commitsAtOnce = 16

// commitLoop commits offsets, and sends back what a listener takes too long for.
func (p *PushConsumer) commitLoop() {
	ticker := time.NewTicker(p.cfg.CommitInterval)
	defer ticker.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-ticker.C:
		}
		held := p.held()
		if err := p.commitAll(p.ctx, held); err != nil && p.ctx.Err() == nil {
			p.c.log.Warn("commit", "group", p.cfg.Group, "error", err)
		}
		if p.pull != nil || p.cfg.Ordered {
			// What was polled may take as long as it likes, and in order nobody else may have it while a listener has.
			continue
		}
		for _, q := range held {
			if t, m := q.overdue(time.Now().Add(-p.cfg.ConsumeTimeout)); t != nil {
				p.c.log.Warn("the listener takes too long", "group", p.cfg.Group, "topic", m.Topic, "id", m.MsgID)
				p.loops.Go(func() { p.giveBack(q, t, m, overdueLevel) })
			}
		}
	}
}

// overdueLevel is the delay level of a message whose listener takes too long: 10 s.
const overdueLevel = 3

// commitAll commits the offsets of queues, those that have changed.
func (p *PushConsumer) commitAll(ctx context.Context, queues []*processQueue) error {
	err := each(queues, commitsAtOnce, func(q *processQueue) error { return p.commitQueue(ctx, q) })
	return errors.Join(err, p.store.save())
}

func (p *PushConsumer) commitQueue(ctx context.Context, q *processQueue) error {
	select {
	case q.commit <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-q.commit }()
	q.mu.Lock()
	offset := q.commitOffsetLocked()
	due := !q.dropped && offset != q.committed
	q.mu.Unlock()
	if !due {
		return nil
	}
	if err := p.store.commit(ctx, q.mq, offset); err != nil {
		return err
	}
	q.mu.Lock()
	q.committed = offset
	q.mu.Unlock()
	return nil
}
