package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/client"
)

// members is consumers of one group on the load's own topic, that join, leave and
// are killed all the time, and somebody who reads the group's offsets.
type members struct {
	l     *load
	group string
	admin *client.Admin
	turn  time.Duration // how often somebody comes or goes

	mu        sync.Mutex
	consumed  map[string]bool
	committed map[client.MessageQueue]int64 // the highest that was read
	found     []violation
	comings   [3]int // joined, left, killed

	live   []*member
	all    []*member
	reader sync.WaitGroup
	stop   context.CancelFunc
}

// member is one of them. Killed, it has no connections any more, gets none, and
// what its listener sees is consumed by nobody.
type member struct {
	of       *members
	name     string
	cl       *client.Client
	consumer *client.PushConsumer
	dead     atomic.Bool
	from     map[client.MessageQueue]int64 // committed when it joined

	mu    sync.Mutex
	conns []net.Conn
}

var errKilled = errors.New("this consumer was killed")

func memberTraffic(l *load) traffic { return newMembers(l, 2*time.Second) }

func newMembers(l *load, turn time.Duration) *members {
	m := &members{
		l: l, group: l.topic + "Members", admin: l.connect(client.Config{}).Admin(), turn: turn,
		consumed: map[string]bool{}, committed: map[client.MessageQueue]int64{},
	}
	m.join(0)
	m.join(0)
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	l.t.Cleanup(func() {
		stop()
		m.reader.Wait()
		m.disconnect()
	})
	m.reader.Go(func() { m.read(ctx) })
	return m
}

func (m *members) history() *history { return nil }

// join starts a member.
func (m *members) join(n int) {
	mb := &member{of: m, name: fmt.Sprintf("member %d", n)}
	m.mu.Lock()
	mb.from = maps.Clone(m.committed)
	m.comings[0]++
	m.mu.Unlock()
	var err error
	if mb.cl, err = client.New(client.Config{NameServers: m.l.c.namesrvs(), Dial: mb.dial}); err != nil {
		m.l.t.Error(err)
		return
	}
	m.all = append(m.all, mb)
	c, err := mb.cl.NewPushConsumer(client.PushConfig{
		Group: m.group, From: client.FromFirst, CommitInterval: 500 * time.Millisecond, RebalanceInterval: 2 * time.Second, SuspendTime: time.Second,
	})
	if err == nil {
		err = c.Subscribe(m.l.topic, "*", mb.consume)
	}
	if err != nil {
		m.l.t.Error(err)
		return
	}
	mb.consumer = c
	// It goes on without the routes it waits for.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := c.Start(ctx); err != nil && ctx.Err() == nil {
		m.l.t.Error(err)
	}
	m.live = append(m.live, mb)
}

func (mb *member) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	mb.mu.Lock()
	defer mb.mu.Unlock()
	if mb.dead.Load() {
		return nil, errors.Join(errKilled, c.Close())
	}
	mb.conns = append(mb.conns, c)
	return c, nil
}

// kill is what brokers see of a process that is killed.
func (mb *member) kill() {
	mb.mu.Lock()
	defer mb.mu.Unlock()
	mb.dead.Store(true)
	for _, c := range mb.conns {
		c.Close() // some are closed
	}
}

func (mb *member) consume(_ context.Context, msgs []*client.MessageExt) error {
	m := mb.of
	m.mu.Lock()
	defer m.mu.Unlock()
	if mb.dead.Load() {
		return errKilled
	}
	for _, msg := range msgs {
		if from := mb.from[msg.Queue]; msg.QueueOffset < from && msg.Topic == m.l.topic && msg.ReconsumeTimes == 0 {
			m.found = append(m.found, violation{backwards, fmt.Sprintf("%s got %d of %v, whose committed offset was %d before it joined",
				mb.name, msg.QueueOffset, msg.Queue, from)})
		}
		m.consumed[idOf(string(msg.Body))] = true
	}
	return nil
}

// send has members join, leave and be killed.
func (m *members) send(ctx context.Context) {
	tick := time.NewTicker(m.turn)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		switch {
		case len(m.live) < 2 || n%3 == 1:
			m.join(n)
		case n%3 == 2:
			m.leave(m.live[0])
			m.live = m.live[1:]
		default:
			m.live[0].kill()
			m.live = m.live[1:]
			m.mu.Lock()
			m.comings[2]++
			m.mu.Unlock()
		}
	}
}

func (m *members) leave(mb *member) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// With no leader its offsets are not committed, and what it has comes again.
	if err := mb.consumer.Close(ctx); err != nil {
		m.l.t.Logf("%s left: %v", mb.name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.comings[1]++
}

// read reads the committed offsets, over and over: none ever goes back.
func (m *members) read(ctx context.Context) {
	for ctx.Err() == nil {
		for g := range m.l.c.groups {
			for q := range int32(loadQueues) {
				queue := client.MessageQueue{Topic: m.l.topic, BrokerName: groupName(g), QueueID: q}
				one, cancel := context.WithTimeout(ctx, 2*time.Second)
				at, err := m.admin.CommittedOffset(one, m.group, queue)
				cancel()
				if err == nil {
					m.saw(queue, at)
				}
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (m *members) saw(queue client.MessageQueue, at int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if was := m.committed[queue]; at < was {
		m.found = append(m.found, violation{backwards, fmt.Sprintf("the committed offset of %v was %d and is %d", queue, was, at)})
	}
	m.committed[queue] = max(at, m.committed[queue])
}

// finish waits until every message was consumed by somebody.
func (m *members) finish() {
	await(func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.missed()) == 0
	})
	m.stop()
	m.reader.Wait()
	for _, mb := range m.live {
		m.leave(mb)
	}
	m.live = nil
	m.disconnect()
}

// disconnect ends the members' clients: no connection of theirs is left.
func (m *members) disconnect() {
	for _, mb := range m.all {
		mb.kill() // those that left and those that were killed are beyond that
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		mb.cl.Close(ctx) // it cannot commit
		cancel()
	}
	m.all = nil
}

// missed are the acked messages that nobody has consumed. The lock is held.
func (m *members) missed() (ops []op) {
	byID := map[string]op{}
	for _, o := range m.l.h.all() {
		byID[o.id()] = o
	}
	for _, id := range missing(byID, m.consumed) {
		ops = append(ops, byID[id])
	}
	return ops
}

func (m *members) check() (found []violation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found = slices.Clone(m.found)
	for _, o := range m.missed() {
		found = append(found, violation{skipped, o.String()})
	}
	m.l.t.Logf("%s: %d joined, %d left, %d were killed; %d messages consumed, offsets of %d queues read",
		m.group, m.comings[0], m.comings[1], m.comings[2], len(m.consumed), len(m.committed))
	if m.comings[0] == 0 || len(m.committed) == 0 {
		m.l.t.Errorf("%s: nobody joined, or no offset was read", m.group)
	}
	return found
}
