package main

import (
	"context"
	"sync"
	"time"

	"github.com/raftmq/raftmq/client"
)

const transactionSenders = 3

// transactions is messages whose transactions commit, roll back, or have no
// result until the broker asks. What the broker asks is answered by what the
// sender knows.
type transactions struct {
	l     *load
	topic string
	h     *history
	p     *client.TransactionProducer

	mu     sync.Mutex
	states map[string]client.TransactionState // what came of each, once it is known
	asked  int
}

func transactionTraffic(l *load) traffic {
	x := &transactions{l: l, topic: l.topic + "Transactions", h: newHistory(), states: map[string]client.TransactionState{}}
	l.makeTopic(x.topic, kindQueues)
	p, err := l.connect(client.Config{}).NewTransactionProducer(client.TransactionConfig{
		ProducerConfig: client.ProducerConfig{Group: x.topic, AttemptTimeout: attemptTimeout},
		Check: func(_ context.Context, m *client.MessageExt) client.TransactionState {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.asked++
			return x.states[idOf(string(m.Body))] // unknown while the sender tries
		},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	x.p = p
	return x
}

func (x *transactions) history() *history { return x.h }

func (x *transactions) send(ctx context.Context) {
	var senders sync.WaitGroup
	for i := range transactionSenders {
		senders.Go(func() { x.sender(ctx, 200+i) })
	}
	senders.Wait()
}

// sender runs one transaction after the other.
func (x *transactions) sender(ctx context.Context, id int) {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		state, kind := client.TransactionCommitted, "transaction, committed"
		if n%3 == 1 {
			state, kind = client.TransactionRolledBack, "transaction, rolled back"
		}
		unresolved := n%4 == 3
		if unresolved {
			kind += " when asked"
		}
		i, o := x.h.invoke(op{sender: id, n: n, kind: kind, moves: true, hidden: state == client.TransactionRolledBack})
		began := false
		m := &client.Message{Topic: x.topic, Body: []byte(o.body())}
		opCtx, cancel := context.WithTimeout(context.Background(), opTimeout)
		i, out, at, key, err := sendMessage(opCtx, i, m, func(ctx context.Context, m *client.Message) (*client.SendResult, error) {
			r, err := x.p.SendInTransaction(ctx, m, func(context.Context, *client.SendResult) client.TransactionState {
				began = true
				x.resolve(o, state)
				if unresolved {
					return client.TransactionUnknown
				}
				return state
			})
			if err != nil {
				return nil, err
			}
			return r.SendResult, nil
		})
		cancel()
		if !began {
			x.h.hide(i)
			x.resolve(o, client.TransactionRolledBack)
		}
		x.h.end(i, out, at, key, err)
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
	}
}

func (x *transactions) resolve(o op, state client.TransactionState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.states[o.id()] = state
}

func (x *transactions) finish() { await(func() bool { return x.l.all(x.topic, x.h.all()) }) }

func (x *transactions) check() []violation {
	x.mu.Lock()
	x.l.t.Logf("brokers asked about %d transactions", x.asked)
	x.mu.Unlock()
	return check(x.h.all(), x.l.drainAll(x.topic, kindQueues))
}
