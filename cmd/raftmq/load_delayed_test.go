package main

import (
	"context"
	"time"

	"github.com/raftmq/raftmq/client"
)

// kindQueues is how many queues of each group the topics of special traffic have.
const kindQueues = 2

// finishTime is how long what was sent may take to come to its end, behind the
// healing.
const finishTime = 60 * time.Second

// connect returns a client for the time of the load.
func (l *load) connect(cfg client.Config) *client.Client {
	l.t.Helper()
	cfg.NameServers = l.c.namesrvs()
	cl, err := client.New(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	l.connected = append(l.connected, cl)
	if len(l.connected) == 1 {
		l.t.Cleanup(l.disconnectAll)
	}
	return cl
}

func (l *load) disconnectAll() {
	for _, cl := range l.connected {
		l.disconnect(cl)
	}
	l.connected = nil
}

func (l *load) disconnect(cl *client.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := cl.Close(ctx); err != nil {
		l.t.Error(err)
	}
}

// await waits until a condition holds, and no longer than finishTime: whether it
// does is for the checks to say.
func await(ok func() bool) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(finishTime); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}

// all says whether every acked message of a topic is there, on the leaders.
func (l *load) all(topic string, ops []op) bool {
	byID, seen := map[string]op{}, map[string]bool{}
	for _, o := range ops {
		byID[o.id()] = o
	}
	for g := range l.c.groups {
		name := groupName(g)
		leader, _, err := l.c.leads(name)
		if err != nil {
			return false
		}
		messages, err := drain(l.c.brokers[name][leader], name, topic, kindQueues)
		if err != nil {
			return false
		}
		for _, s := range messages {
			seen[idOf(s.body)] = true
		}
	}
	return len(missing(byID, seen)) == 0
}

// delayedSenders is how many there are of each kind of delay.
const delayedSenders = 3

// delayed is messages that are to be seen later: by a level, after a time, at a
// time.
type delayed struct {
	l     *load
	topic string
	h     *history
	p     *client.Producer
}

func delayedTraffic(l *load) traffic {
	d := &delayed{l: l, topic: l.topic + "Delayed", h: newHistory()}
	l.makeTopic(d.topic, kindQueues)
	p, err := l.connect(client.Config{}).NewProducer(client.ProducerConfig{Group: "delayed", AttemptTimeout: attemptTimeout})
	if err != nil {
		l.t.Fatal(err)
	}
	d.p = p
	return d
}

func (d *delayed) history() *history { return d.h }

func (d *delayed) send(ctx context.Context) {
	done := make(chan struct{}, delayedSenders)
	for i := range delayedSenders {
		go func() {
			d.sender(ctx, 100+i)
			done <- struct{}{}
		}()
	}
	for range delayedSenders {
		<-done
	}
}

func (d *delayed) sender(ctx context.Context, id int) {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		m := &client.Message{Topic: d.topic}
		delay := time.Duration(1000+n%20*100) * time.Millisecond
		switch id % delayedSenders {
		case 0:
			m.DelayLevel, delay = 1, time.Second
		case 1:
			m.DeliverAfter = delay
		case 2:
			m.DeliverAt = time.Now().Truncate(time.Millisecond).Add(delay + time.Millisecond)
		}
		i, o := d.h.invoke(op{sender: id, n: n, kind: "delayed", delay: delay, moves: true})
		m.Body = []byte(o.body())
		sendCtx, cancel := context.WithTimeout(context.Background(), opTimeout)
		d.h.end(sendMessage(sendCtx, i, m, d.p.Send))
		cancel()
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
	}
}

func (d *delayed) finish() { await(func() bool { return d.l.all(d.topic, d.h.all()) }) }

func (d *delayed) check() []violation {
	return check(d.h.all(), d.l.drainAll(d.topic, kindQueues))
}
