package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// locks renews the locks of a PushConsumer's queues, also while Close waits for listeners.
type locks struct {
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	turns  map[string]chan struct{} // by broker: has one while locks there are renewed or given up; under the consumer's mu
}

// errLocked means that another client has not given up a queue yet.
var errLocked = errors.New("other clients of the group have locked queues that are ours now")

// needsLocks reports whether queues must be locked to be consumed.
func (p *PushConsumer) needsLocks() bool { return p.cfg.Ordered && !p.cfg.Broadcasting }

// startLocks begins to renew.
func (p *PushConsumer) startLocks() {
	p.locks.ctx, p.locks.cancel = context.WithCancel(context.Background())
	p.locks.done = make(chan struct{})
	go func() {
		defer close(p.locks.done)
		for wait := lockInterval; pause(p.locks.ctx, wait) == nil; {
			wait = lockInterval
			if !p.renewAll() {
				wait = unbalancedInterval
			}
		}
	}()
}

func (p *PushConsumer) endLocks() {
	if p.locks.cancel == nil {
		return
	}
	p.locks.cancel()
	<-p.locks.done
}

// owned returns the queues that are held, and those that are being given up.
func (p *PushConsumer) owned() []*processQueue {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.AppendSeq(slices.Collect(maps.Values(p.queues)), maps.Values(p.leaving))
}

// lockTurn waits until nobody else renews or gives up locks of a broker. The caller ends its turn by the function returned.
func (p *PushConsumer) lockTurn(broker string) func() {
	p.mu.Lock()
	turn := p.locks.turns[broker]
	if turn == nil {
		turn = make(chan struct{}, 1)
		p.locks.turns[broker] = turn
	}
	p.mu.Unlock()
	turn <- struct{}{} // whoever has it ends with CallTimeout
	return func() { <-turn }
}

// renewAll renews all locks. false: a broker has not answered.
func (p *PushConsumer) renewAll() bool {
	var brokers []string
	for _, q := range p.owned() {
		brokers = append(brokers, q.mq.BrokerName)
	}
	slices.Sort(brokers)
	err := each(slices.Compact(brokers), startsAtOnce, p.renew)
	if err != nil && p.locks.ctx.Err() == nil {
		p.c.log.Warn("locks were not renewed", "group", p.cfg.Group, "error", err)
	}
	return err == nil
}

// renew renews the locks of one broker.
func (p *PushConsumer) renew(broker string) error {
	defer p.lockTurn(broker)()
	var queues []MessageQueue
	held := map[MessageQueue]*processQueue{}
	for _, q := range p.owned() {
		if q.mq.BrokerName == broker && !q.lost() {
			queues, held[q.mq] = append(queues, q.mq), q
		}
	}
	if len(queues) == 0 {
		return nil
	}
	asked := time.Now()
	ours, err := p.lock(p.locks.ctx, broker, queues)
	if err != nil {
		return err
	}
	for mq, q := range held {
		if slices.Contains(ours, mq) {
			q.renewed(asked)
		} else {
			p.lose(q, "the broker says that it is not ours")
		}
	}
	return nil
}

// lock asks a broker for locks and returns those that we have then.
func (p *PushConsumer) lock(ctx context.Context, broker string, queues []MessageQueue) ([]MessageQueue, error) {
	r := remoting.LockRequest{ConsumerGroup: p.cfg.Group, ClientID: p.c.ID(), Queues: queues}
	resp, err := p.c.callGroup(ctx, p.c.group(broker), &remoting.Command{Code: remoting.LockBatchMQ, Body: r.AppendBody(nil)})
	if err != nil {
		return nil, fmt.Errorf("lock %d queues of broker %s: %w", len(queues), broker, err)
	}
	var ours remoting.LockResponse
	if err := ours.DecodeBody(resp.Body); err != nil {
		return nil, fmt.Errorf("lock %d queues of broker %s: %w", len(queues), broker, err)
	}
	return ours, nil
}

// unlock gives up the locks of queues of one broker, as far as we have them.
func (p *PushConsumer) unlock(ctx context.Context, broker string, queues []*processQueue) error {
	if !p.needsLocks() {
		return nil
	}
	defer p.lockTurn(broker)()
	r := remoting.LockRequest{ConsumerGroup: p.cfg.Group, ClientID: p.c.ID()}
	for _, q := range queues {
		r.Queues = append(r.Queues, q.mq)
	}
	_, err := p.c.callGroup(ctx, p.c.group(broker), &remoting.Command{Code: remoting.UnlockBatchMQ, Body: r.AppendBody(nil)})
	return err
}

// acquireInOrder locks queues and begins with those that are ours then.
func (p *PushConsumer) acquireInOrder(fresh []MessageQueue) error {
	byBroker := map[string][]MessageQueue{}
	p.mu.Lock()
	for _, mq := range fresh {
		if p.leaving[mq] == nil { // else leave tells
			byBroker[mq.BrokerName] = append(byBroker[mq.BrokerName], mq)
		}
	}
	p.mu.Unlock()
	return each(slices.Collect(maps.Values(byBroker)), startsAtOnce, func(queues []MessageQueue) error {
		var asked time.Time
		ours := queues
		if p.needsLocks() {
			asked = time.Now()
			var err error
			if ours, err = p.lock(p.ctx, queues[0].BrokerName, queues); err != nil {
				return err
			}
		}
		err := each(ours, startsAtOnce, func(mq MessageQueue) error {
			if !slices.Contains(queues, mq) {
				return nil
			}
			// Behind the lock: whoever had it may have committed until then.
			return p.start(mq, asked)
		})
		if err == nil && len(ours) < len(queues) {
			err = errLocked
		}
		return err
	})
}
