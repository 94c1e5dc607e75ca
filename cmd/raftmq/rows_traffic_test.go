package main

import (
	"context"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
)

// Rows 29, 30 and 31: leaders are killed while messages wait for their time, for
// the end of their transactions, or to be consumed again, and while consumers
// join, leave and are killed.
func TestTrafficOfAllKinds(t *testing.T) {
	t.Parallel()
	rnd := seeded(t)
	c := &chaos{cluster: startCluster(t, 3, 1), rnd: rnd, tally: newTally()}
	c.l = startLoad(t, c.cluster, "Kinds", delayedTraffic, transactionTraffic, retriedTraffic, func(l *load) traffic { return newMembers(l, 200*time.Millisecond) })
	for range times(2, 10) {
		c.killLeader()
	}
	c.end()
}

// Row 30: a producer dies between half messages and their resolution, and the
// leader then: another producer of the group is asked, and what it says holds.
func TestProducerDiesInTransaction(t *testing.T) {
	t.Parallel()
	const topic, messages = "Halves", 20
	c := startCluster(t, 3, 1)
	l := &load{t: t, c: c, topic: topic, h: newHistory()}
	l.client = l.connect(client.Config{})
	l.makeTopic(topic, kindQueues)
	producer := func(check func(*client.MessageExt) client.TransactionState) (*client.Client, *client.TransactionProducer) {
		cl, err := client.New(client.Config{NameServers: c.namesrvs()})
		if err != nil {
			t.Fatal(err)
		}
		p, err := cl.NewTransactionProducer(client.TransactionConfig{
			ProducerConfig: client.ProducerConfig{Group: "dying"},
			Check:          func(_ context.Context, m *client.MessageExt) client.TransactionState { return check(m) },
		})
		if err != nil {
			t.Fatal(err)
		}
		return cl, p
	}
	cl, p := producer(func(*client.MessageExt) client.TransactionState { return client.TransactionUnknown })
	for n := range messages {
		i, o := l.h.invoke(op{n: n, kind: "half", moves: true, hidden: n%2 == 1})
		r, err := p.SendInTransaction(t.Context(), &client.Message{Topic: topic, Body: []byte(o.body())},
			func(context.Context, *client.SendResult) client.TransactionState { return client.TransactionUnknown })
		if err != nil {
			t.Fatal(err)
		}
		l.h.end(i, acked, place{}, r.MsgID, nil)
	}
	l.disconnect(cl)
	leader, _ := c.leader("broker-a")
	c.kill(leader)
	hidden := map[string]bool{}
	for _, o := range l.h.all() {
		hidden[o.id()] = o.hidden
	}
	again, _ := producer(func(m *client.MessageExt) client.TransactionState {
		if hidden[idOf(string(m.Body))] {
			return client.TransactionRolledBack
		}
		return client.TransactionCommitted
	})
	await(func() bool { return l.all(topic, l.h.all()) })
	l.disconnect(again)
	c.start(leader)
	c.settled()
	report(t, check(l.h.all(), l.drainAll(topic, kindQueues)))
}
