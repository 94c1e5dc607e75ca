package client

import (
	"context"
	"slices"
	"time"
)

// Consuming in order: of each queue one worker at a time has messages, those with the lowest offsets, and nothing later is given to the
// listener before they are consumed. The clients of a group lock queues at their brokers, so that no two consume one at once; see locks.go.

// inOrder is what a processQueue of an ordered consumer has besides.
//
// Invariants:
//  1. Who has busy may take messages and finish them, nobody else.
//  2. Messages are taken only while the lock can be relied on, and owned ends with it, at the latest lockTrust after it was asked for. The
//     broker gives it to nobody for as long again, so a listener that heeds its context has stopped by then.
//  3. A queue that is given up is not begun with again before busy is free: see leave.
type inOrder struct {
	busy   chan struct{}      // has one while a worker has messages of the queue
	owned  context.Context    // ends when the lock can be relied on no more
	end    context.CancelFunc // of owned
	lost   bool               // the lock is another's, or nobody's; under the queue's mu, as what follows
	paused bool               // a timer goes on
	asked  time.Time          // when the lock was asked for that we have; zero: none is needed
	lapse  *time.Timer        // gives the queue up lockTrust later
}

// lockTrust is how long a lock is relied on after it was asked for, lockInterval how soon it is renewed.
const (
	lockTrust    = 30 * time.Second
	lockInterval = 20 * time.Second
)

// inOrder makes a queue one that is consumed in order. If it is locked, the lock was asked for then.
func (p *PushConsumer) inOrder(q *processQueue, locked time.Time) {
	q.order = &inOrder{busy: make(chan struct{}, 1)}
	q.order.owned, q.order.end = context.WithCancel(p.listening)
	q.order.lapse = time.AfterFunc(lockTrust, func() {
		if !q.trusted() {
			p.lose(q, "it was not renewed in time")
		}
	})
	if !locked.IsZero() {
		q.renewed(locked)
	}
}

// trusted reports whether the queue's lock can be relied on.
func (q *processQueue) trusted() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.trustedLocked()
}

func (q *processQueue) trustedLocked() bool {
	asked, now := q.order.asked, time.Now()
	// The monotonic clock of a machine that sleeps may stand still; the other one does not.
	return asked.IsZero() || now.Sub(asked) < lockTrust && now.Round(0).Sub(asked.Round(0)) < lockTrust
}

// disown notes that the lock is not ours any more.
func (q *processQueue) disown() {
	q.mu.Lock()
	q.order.lost = true
	q.mu.Unlock()
	q.order.end()
}

func (q *processQueue) lost() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.order.lost
}

// renewed notes that the lock that was asked for then is ours.
func (q *processQueue) renewed(asked time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.order.asked = asked
	q.order.lapse.Reset(time.Until(asked.Add(lockTrust)))
}

// due reports whether there is a message that may be consumed now.
func (q *processQueue) due() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.dropped && q.ctx.Err() == nil && !q.order.paused && len(q.waiting) > 0 && q.trustedLocked()
}

// consumeInOrder gives the next messages of q to their listener, unless another worker does.
func (p *PushConsumer) consumeInOrder(q *processQueue) {
	select {
	case q.order.busy <- struct{}{}:
	default:
		return // it looks for more when it is done
	}
	if q.due() {
		batch, _ := q.take(p.cfg.ConsumeBatch)
		if len(batch) > 0 {
			p.consumeBatchInOrder(q, batch)
		}
	}
	<-q.order.busy
	if q.due() {
		p.work.add(q)
	}
}

func (p *PushConsumer) consumeBatchInOrder(q *processQueue, batch []*task) {
	// What cannot be read fails, but alone.
	if i := slices.IndexFunc(batch, func(t *task) bool { return t.msg.Err != nil }); i >= 0 {
		q.putBack(batch[max(i, 1):])
		batch = batch[:max(i, 1)]
	}
	msgs := make([]*MessageExt, len(batch))
	for i, t := range batch {
		msgs[i] = t.msg
	}
	err := p.listen(q.order.owned, slices.Clone(msgs))
	n, level := consumedOf(err, len(batch))
	for _, t := range batch[:n] {
		if q.done(t) {
			p.consumed.Add(1)
		}
	}
	if batch, msgs = batch[n:], msgs[n:]; len(batch) == 0 {
		return
	}
	p.c.log.Warn("consume", "group", p.cfg.Group, "topic", msgs[0].Topic, "queue", q.mq.QueueID, "id", msgs[0].MsgID, "messages", len(msgs), "error", err)
	p.unconsumed.Add(int64(len(msgs)))
	var again []*task
	for i, t := range batch {
		if msgs[i].ReconsumeTimes < p.cfg.MaxReconsumeTimes && level >= 0 || !p.bury(q, msgs[i]) {
			again = append(again, t)
			continue
		}
		q.done(t)
	}
	if len(again) > 0 && q.suspend(again) {
		time.AfterFunc(p.cfg.RedoDelay, func() {
			q.mu.Lock()
			q.order.paused = false
			q.mu.Unlock()
			p.work.add(q)
		})
	}
}

// deadLevel is the delay level that asks for a message to be made a dead letter.
const deadLevel = -1

// bury makes a message a dead letter; with Broadcasting there are none, and it is skipped.
func (p *PushConsumer) bury(q *processQueue, m *MessageExt) bool {
	if q.lost() {
		return false // whoever has the queue now gets the message too
	}
	if p.cfg.Broadcasting {
		return true
	}
	ctx, cancel := context.WithTimeout(q.order.owned, 2*p.c.cfg.CallTimeout)
	defer cancel()
	if err := p.sendBack(ctx, m, deadLevel); err != nil {
		p.c.log.Warn("dead letter", "group", p.cfg.Group, "topic", m.Topic, "id", m.MsgID, "error", err)
		return false
	}
	return true
}

// suspend puts tasks back that have failed, and lets none be taken. false: the queue was dropped.
func (q *processQueue) suspend(batch []*task) bool {
	if !q.putBack(batch) {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range batch {
		again := *t.msg // the listener may have kept the other
		again.ReconsumeTimes++
		t.msg = &again
	}
	q.order.paused = true
	return true
}

// putBack puts tasks back, before all others. false: the queue was dropped.
func (q *processQueue) putBack(batch []*task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dropped {
		return false
	}
	for _, t := range batch {
		t.running = false
	}
	q.waiting = append(slices.Clone(batch), q.waiting...)
	return true
}

// lose gives up a queue whose lock we do not have any more. Nothing is committed: it may be another's.
func (p *PushConsumer) lose(q *processQueue, why string) {
	q.disown()
	q.drop()
	p.c.log.Warn("lock lost", "group", p.cfg.Group, "topic", q.mq.Topic, "broker", q.mq.BrokerName, "queue", q.mq.QueueID, "because", why)
	p.giveUp(q)
}

// giveUp lets go of a queue as soon as its listener is done.
func (p *PushConsumer) giveUp(q *processQueue) {
	q.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queues[q.mq] != q || p.state != pushRunning {
		return
	}
	delete(p.queues, q.mq)
	p.leaving[q.mq] = q
	p.loops.Go(func() { p.leave(q) })
}

// leave waits for the listener, commits what is consumed, and unlocks the queue for the client that it goes to.
func (p *PushConsumer) leave(q *processQueue) {
	select {
	case q.order.busy <- struct{}{}: // for ever
	case <-p.ctx.Done():
		return // Close does it
	}
	if err := p.commitQueue(p.ctx, q); err != nil && p.ctx.Err() == nil {
		p.c.log.Warn("the offset of a released queue was not committed", "group", p.cfg.Group, "topic", q.mq.Topic, "queue", q.mq.QueueID, "error", err)
	}
	if p.ctx.Err() == nil {
		q.drop()
	}
	err := p.unlock(p.ctx, q.mq.BrokerName, []*processQueue{q})
	if p.ctx.Err() != nil {
		<-q.order.busy
		return // likewise
	}
	q.disown()
	q.order.lapse.Stop()
	if err != nil {
		p.c.log.Warn("unlock", "group", p.cfg.Group, "topic", q.mq.Topic, "queue", q.mq.QueueID, "error", err)
		// It may be carried out yet, and must not undo a lock that we get after it.
		if pause(p.ctx, unlockLinger) != nil {
			return
		}
	}
	p.mu.Lock()
	delete(p.leaving, q.mq)
	p.mu.Unlock()
	p.c.log.Info("queue released", "group", p.cfg.Group, "topic", q.mq.Topic, "broker", q.mq.BrokerName, "queue", q.mq.QueueID)
	p.rebalanceNow() // it may be ours again
}

// unlockLinger is how long an unlock that was not answered may yet be carried out.
const unlockLinger = 5 * time.Second

// endInOrder commits and unlocks, for Close, the queues that no listener has any more.
func (p *PushConsumer) endInOrder(ctx context.Context) error {
	p.endLocks()
	var idle []*processQueue
	for _, q := range p.owned() {
		q.order.lapse.Stop()
		select {
		case q.order.busy <- struct{}{}:
			idle = append(idle, q)
		default: // its lock runs out
		}
	}
	err := p.commitAll(ctx, p.owned())
	byBroker := map[string][]*processQueue{}
	for _, q := range idle {
		q.drop()
		byBroker[q.mq.BrokerName] = append(byBroker[q.mq.BrokerName], q)
	}
	for broker, queues := range byBroker {
		if err := p.unlock(ctx, broker, queues); err != nil {
			p.c.log.Warn("unlock", "group", p.cfg.Group, "broker", broker, "error", err) // they run out
		}
	}
	for _, q := range p.owned() {
		q.disown()
	}
	return err
}
