package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

// mostRetries is how often a message comes again before it is a dead letter.
const mostRetries = 2

// retried is messages on which their consumer fails: none, once or twice, or
// until they are dead letters.
type retried struct {
	l     *load
	topic string
	group string
	h     *history
	p     *client.Producer
	c     *client.PushConsumer

	mu   sync.Mutex
	done map[string]bool
	// first is with how many failures each stored message came first.
	first map[client.MessageQueue]map[int64]int
	// redone are the failures after which a message was not sent back, but consumed
	// again where it was: no broker could be reached.
	redone map[string][]int32
}

func retriedTraffic(l *load) traffic {
	r := &retried{l: l, topic: l.topic + "Retried", group: l.topic + "Failing", h: newHistory(), done: map[string]bool{},
		first: map[client.MessageQueue]map[int64]int{}, redone: map[string][]int32{}}
	l.makeTopic(r.topic, kindQueues)
	cl := l.connect(client.Config{})
	var err error
	if r.p, err = cl.NewProducer(client.ProducerConfig{Group: "retried", AttemptTimeout: attemptTimeout}); err != nil {
		l.t.Fatal(err)
	}
	r.c, err = cl.NewPushConsumer(client.PushConfig{
		Group: r.group, From: client.FromFirst, MaxReconsumeTimes: mostRetries, CommitInterval: time.Second, RedoDelay: time.Second,
	})
	if err == nil {
		err = r.c.Subscribe(r.topic, "*", r.consume)
	}
	if err == nil {
		err = r.c.Start(context.Background())
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// failuresOf is how often the consumer fails on an operation's message; beyond
// mostRetries it is a dead letter.
func failuresOf(o op) int { return o.n % (mostRetries + 2) }

var errWanted = errors.New("a failure that was wanted")

func (r *retried) consume(_ context.Context, msgs []*client.MessageExt) error {
	id := idOf(string(msgs[0].Body))
	var n int
	if _, err := fmt.Sscanf(id[strings.LastIndexByte(id, '-')+1:], "%d", &n); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := msgs[0]
	if r.first[m.Queue] == nil {
		r.first[m.Queue] = map[int64]int{}
	}
	if first, seen := r.first[m.Queue][m.QueueOffset]; !seen {
		r.first[m.Queue][m.QueueOffset] = m.ReconsumeTimes
	} else if m.ReconsumeTimes > first {
		r.redone[id] = append(r.redone[id], int32(m.ReconsumeTimes))
	}
	if m.ReconsumeTimes < failuresOf(op{n: n}) {
		return &client.ReconsumeError{DelayLevel: 1, Err: errWanted}
	}
	r.done[id] = true
	return nil
}

func (r *retried) history() *history { return r.h }

func (r *retried) send(ctx context.Context) {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		i, o := r.h.invoke(op{sender: 300, n: n, kind: "retried"})
		r.h.end(sendOp(i, r.topic, o, r.p.Send))
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
	}
}

// finish waits until every message was consumed, or is a dead letter.
func (r *retried) finish() {
	await(func() bool {
		dead, err := r.deadLetters()
		if err != nil {
			return false
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, o := range r.h.all() {
			if o.outcome == acked && !r.done[o.id()] && !dead[o.id()] {
				return false
			}
		}
		return true
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.c.Close(ctx); err != nil {
		r.l.t.Error(err)
	}
}

func (r *retried) deadLetters() (map[string]bool, error) {
	dead := map[string]bool{}
	for g := range r.l.c.groups {
		name := groupName(g)
		leader, _, err := r.l.c.leads(name)
		if err != nil {
			return nil, err
		}
		all, err := drain(r.l.c.brokers[name][leader], name, remoting.DLQTopic(r.group), 1)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			dead[idOf(s.body)] = true
		}
	}
	return dead, nil
}

func (r *retried) check() []violation {
	r.mu.Lock()
	defer r.mu.Unlock()
	ops := r.h.all()
	found := check(ops, r.l.drainAll(r.topic, kindQueues))
	retries, dead := r.l.drainAll(remoting.RetryTopic(r.group), 1), r.l.drainAll(remoting.DLQTopic(r.group), 1)
	return append(found, checkRetries(ops, r.done, r.redone, retries, dead)...)
}
