package raftgroup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// clients send and read on a cluster, and record what they are told.
type clients struct {
	c       *testCluster
	h       *history
	topic   string
	queues  int32
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

// newClients starts senders and one reader.
func newClients(c *testCluster, h *history, senders int, topic string, queues int32, seed uint64) *clients {
	cl := &clients{c: c, h: h, topic: topic, queues: queues}
	cl.ctx, cl.stop = context.WithCancel(context.Background())
	for i := range senders {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		cl.running.Go(func() { cl.sender(fmt.Sprintf("%s.%d", topic, i), rng) })
	}
	c.ends = append(c.ends, cl.end)
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	cl.running.Go(func() { cl.reader(rng) })
	return cl
}

// end stops the clients and waits for them.
func (cl *clients) end() {
	cl.stop()
	cl.running.Wait()
}

// pause waits a while, or until the end.
func (cl *clients) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-cl.ctx.Done():
	}
}

func (cl *clients) sender(name string, rng *rand.Rand) {
	for i := 0; cl.ctx.Err() == nil; i++ {
		var bodies []string
		for j := range 1 + rng.IntN(2)*rng.IntN(3) {
			bodies = append(bodies, fmt.Sprintf("%s-%d-%d%0*d", name, i, j, rng.IntN(2)*rng.IntN(3000), 0))
		}
		key := name + fmt.Sprint("-", i)
		if rng.IntN(8) == 0 {
			key = "" // not to be repeated
		}
		op := cl.h.begin(cl.topic, rng.Int32N(cl.queues), key, bodies...)
		cl.send(op, rng)
		cl.pause(time.Duration(rng.IntN(60)) * time.Millisecond)
	}
}

// send makes attempts, each at who seems to lead by then, until one succeeds.
func (cl *clients) send(op *operation, rng *rand.Rand) {
	for try := range 40 {
		n := cl.c.leading()
		if n == nil || rng.IntN(10) == 0 {
			n = cl.c.nodes[rng.IntN(len(cl.c.nodes))]
		}
		a := cl.h.invoke(op, n.id)
		res, err := n.sendAll(newTestSend(op.topic, op.queue, op.key, op.bodies...))
		cl.h.answer(a, res, err)
		if a.kind == acked || a.kind == limbo && op.key == "" || cl.ctx.Err() != nil {
			return
		}
		cl.pause(time.Duration(10+rng.IntN(20*(try+1))) * time.Millisecond)
	}
}

// reader reads anywhere, what it has not seen before and what it has.
func (cl *clients) reader(rng *rand.Rand) {
	for cl.ctx.Err() == nil {
		n := cl.c.nodes[rng.IntN(len(cl.c.nodes))]
		queue := rng.Int32N(cl.queues)
		if p := n.now.Load(); p != nil {
			cl.read(n, p, queue, rng)
		}
		cl.pause(time.Duration(rng.IntN(50)) * time.Millisecond)
	}
}

func (cl *clients) read(n *testNode, p *process, queue int32, rng *rand.Rand) {
	g := p.group
	t, ok := g.State().Topic(cl.topic)
	if !ok {
		return
	}
	q := g.Store().Queue(storage.QueueID{Topic: cl.topic, Incarnation: t.Incarnation, Queue: queue})
	if q == nil || q.Max() == 0 {
		return
	}
	from := max(0, q.Max()-1-rng.Int64N(50))
	units, err := q.Units(from, 8, nil)
	if err != nil {
		return // missing, trimmed or closed: that is no answer
	}
	for i, u := range units {
		rec, err := g.Store().Read(u.Phys, int(u.Size))
		if err != nil {
			return
		}
		v, err := remoting.ParseRecord(rec)
		if err != nil {
			cl.c.t.Errorf("%s served a damaged record: %v", n.id, err)
			return
		}
		body := string(v.Body())
		if !p.dead.Load() {
			cl.h.read(reading{n.id, queueName{cl.topic, queue}, from + int64(i), body})
		}
	}
}

// replicas is what every node holds.
func (cl *clients) replicas() map[string]replica {
	cl.c.t.Helper()
	out := map[string]replica{}
	for _, n := range cl.c.nodes {
		r := replica{}
		for queue := range cl.queues {
			log, err := n.queue(cl.topic, queue)
			if err != nil {
				cl.c.t.Errorf("%s: queue %d: %v", n.id, queue, err)
			}
			r[queueName{cl.topic, queue}] = log
		}
		out[n.id] = r
	}
	return out
}

// check heals the cluster and compares what it holds with the history.
func (cl *clients) check() {
	c := cl.c
	c.t.Helper()
	c.heal()
	c.checkEqual()
	bad := cl.h.check(cl.replicas(), true)
	for i, b := range bad[:min(20, len(bad))] {
		c.t.Error(b)
		if i < 3 {
			c.t.Log(cl.h.story(b, cl.replicas()))
		}
	}
}

// heal joins everything and starts who is down, or has stopped.
func (c *testCluster) heal() {
	c.t.Helper()
	c.net.heal()
	for _, n := range c.nodes {
		n.fs.SetHook(nil)
		n.stable.setHook(nil)
		if p := n.now.Load(); p != nil && (p.dead.Load() || p.group.Err() != nil) {
			n.stop()
		}
	}
	for _, n := range c.nodes {
		if n.now.Load() == nil {
			n.start()
		}
	}
	// It leads, and takes entries.
	c.propose(fsm.CommitOffsets(nil))
}

// others are the addresses of all nodes but these.
func (c *testCluster) others(not ...*testNode) (out []string) {
	for _, n := range c.nodes {
		if !slices.Contains(not, n) {
			out = append(out, n.addr)
		}
	}
	return out
}
