package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// others are clients that do something else than send and read messages: they
// commit offsets, hold locks, delay messages and commit or roll back half ones.
// Each knows what must be true of what it did.
type others struct {
	cl *clients
	c  *testCluster

	mu      sync.Mutex
	offsets [2]int64          // sent, acknowledged; of a group that only ever goes on
	locks   map[uint64]string // who was granted a lock, by its renewal
	expect  map[string]*expectation
}

// expectation is how often a message is to be found where it goes to.
type expectation struct {
	least, most int
	due         int64 // log time before which it must not be there
}

const (
	topicDelayed = "D" // where delayed messages go
	topicHalf    = "X" // where half messages go
	delayQueue   = 2
)

// newOthers starts them; cl.end ends them.
func newOthers(cl *clients, seed uint64) *others {
	o := &others{cl: cl, c: cl.c, locks: map[uint64]string{}, expect: map[string]*expectation{}}
	o.c.propose(fsm.PutGroup(remoting.NewGroupConfig("G"), true))
	o.c.createTopic(topicDelayed, 1)
	o.c.createTopic(topicHalf, 1)
	o.c.createTopic(remoting.TopicSchedule, 18)
	o.c.createTopic(remoting.TopicHalf, 1)
	for i, client := range []func(*rand.Rand){o.committer, o.offsetReader, o.locker, o.locker, o.delayer, o.deliverer, o.halves} {
		rng := rand.New(rand.NewPCG(seed, 1<<33+uint64(i)))
		cl.running.Go(func() { client(rng) })
	}
	return o
}

func (o *others) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprintf("%d offsets, %d locks, %d messages that wait", o.offsets[1], len(o.locks), len(o.expect))
}

// leader is a leader's process, nil if there is none.
func (o *others) leader() (*testNode, *process) {
	if n := o.c.leading(); n != nil {
		return n, n.now.Load()
	}
	return nil, nil
}

// each calls f with a leader, once in a while, until the clients end.
func (o *others) each(rng *rand.Rand, pause time.Duration, f func(*testNode, *process)) {
	for o.cl.ctx.Err() == nil {
		if n, p := o.leader(); p != nil {
			f(n, p)
		}
		o.cl.pause(1 + time.Duration(rng.Int64N(int64(pause))))
	}
}

// told says whether what a process answered reached its client.
func told(p *process, err error) bool { return err == nil && !p.dead.Load() }

// committer commits one offset after another for one queue.
func (o *others) committer(rng *rand.Rand) {
	o.each(rng, 200*time.Millisecond, func(_ *testNode, p *process) {
		o.mu.Lock()
		o.offsets[0]++
		next := o.offsets[0]
		o.mu.Unlock()
		_, err := p.group.Propose(context.Background(), fsm.CommitOffsets([]fsm.Offset{{Group: "G", Topic: "T", Queue: 0, Offset: next}}))
		if told(p, err) {
			o.mu.Lock()
			o.offsets[1] = next
			o.mu.Unlock()
		}
	})
}

// offsetReader is S6: who asks the leader never hears an older offset than one
// that was acknowledged before.
func (o *others) offsetReader(rng *rand.Rand) {
	o.each(rng, 200*time.Millisecond, func(n *testNode, p *process) {
		o.mu.Lock()
		want := o.offsets[1]
		o.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := p.group.Barrier(ctx); err != nil {
			return
		}
		got, _ := p.group.State().CommittedOffset("G", "T", 0)
		if !p.dead.Load() && got < want {
			o.c.t.Errorf("S6: %s says offset %d, %d was acknowledged before", n.id, got, want)
		}
	})
}

// locker tries to get a lock, as somebody else each time.
func (o *others) locker(rng *rand.Rand) {
	o.each(rng, 500*time.Millisecond, func(n *testNode, p *process) {
		g := p.group
		seen, _ := g.State().QueueLock("G", "T", 0)
		me := fmt.Sprint("client-", rng.Uint32())
		_, err := g.Propose(context.Background(), fsm.Grant("G", me, []fsm.QueueLock{{Group: "G", Topic: "T", Lock: seen}}))
		if !told(p, err) {
			return
		}
		lock, ok := g.State().QueueLock("G", "T", 0)
		if !ok || p.dead.Load() {
			return
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if other, ok := o.locks[lock.Renewal]; ok && other != lock.Client {
			o.c.t.Errorf("S2: the lock of entry %d is %s's, and, at %s, %s's", lock.Renewal, other, n.id, lock.Client)
		}
		o.locks[lock.Renewal] = lock.Client
	})
}

// waiting is a record that waits in one topic to go to another.
func waiting(topic string, queue int32, body, real string) *waitingSend {
	return &waitingSend{testSend: newTestSend(topic, queue, "U"+body, body), real: real}
}

type waitingSend struct {
	*testSend
	real  string
	phys  int64 // where it waited
	delay int64
	meta  fsm.SendMeta
}

func (s *waitingSend) AppendRecords(dst []byte) ([]byte, error) {
	props := remoting.AppendProperty(nil, remoting.PropUniqKey, s.uniq)
	if s.real != "" {
		props = remoting.AppendProperty(props, remoting.PropRealTopic, s.real)
	}
	at := len(dst)
	dst, err := remoting.AppendRecord(dst, &remoting.Record{QueueID: s.queue, Topic: s.topic, Body: []byte(s.bodies[0]), Properties: props,
		StoreHost: netip.MustParseAddrPort("127.0.0.1:10911"), BornHost: netip.MustParseAddrPort("127.0.0.1:5")})
	if err == nil && s.meta.Waited {
		remoting.SetPhysicalOffset(dst[at:], s.phys)
	}
	return dst, err
}

// once gives a send to a leader, once.
func (s *waitingSend) once(p *process) (fsm.Result, error) {
	s.done, s.dead = make(chan struct{}), p.dead.Load
	s.meta.Delay = s.delay
	if err := p.group.Append(Send{SendMeta: s.meta, Count: 1, Size: len(s.bodies[0]) + 300, Op: s}); err != nil {
		return fsm.Result{}, err
	}
	<-s.done
	return s.res, s.err
}

// persist makes attempts until the outcome is known, or the clients end: then it
// may be either. Its key makes a repeat known.
func (o *others) persist(s *waitingSend, rng *rand.Rand) (res fsm.Result, known, possible bool) {
	for {
		if _, p := o.leader(); p != nil {
			var err error
			if res, err = s.once(p); err == nil {
				return res, true, true
			}
			possible = possible || errors.Is(err, ErrUnknown) || errors.Is(err, errKilled)
		}
		if o.cl.ctx.Err() != nil {
			return res, false, possible
		}
		o.cl.pause(time.Duration(10+rng.IntN(200)) * time.Millisecond)
	}
}

// put notes what to expect of a message.
func (o *others) put(body string, e expectation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expect[body] = &e
}

// delayer sends delayed messages. (S9)
func (o *others) delayer(rng *rand.Rand) {
	for i := 0; o.cl.ctx.Err() == nil; i++ {
		s := waiting(remoting.TopicSchedule, delayQueue, fmt.Sprint("delayed-", i), topicDelayed)
		s.delay = 1 + rng.Int64N(5000)
		s.meta.Key = fsm.SendKey(topicDelayed, 0, []byte(s.uniq))
		if res, known, possible := o.persist(s, rng); known && (res.Status == fsm.Stored || res.Status == fsm.Repeated) {
			o.put(s.bodies[0], expectation{1, 1, s.delay})
		} else if possible {
			o.put(s.bodies[0], expectation{0, 1, s.delay})
		}
		o.cl.pause(time.Duration(rng.IntN(300)) * time.Millisecond)
	}
}

// deliverer delivers what is due, as any leader does: also one that leads no more.
func (o *others) deliverer(rng *rand.Rand) {
	o.each(rng, 300*time.Millisecond, func(_ *testNode, p *process) {
		if err := o.deliverDue(p, rng); err != nil && o.cl.ctx.Err() == nil {
			o.cl.pause(100 * time.Millisecond)
		}
	})
}

// deliverDue has the first message delivered that is due, if there is one.
func (o *others) deliverDue(p *process, rng *rand.Rand) error {
	g := p.group
	q, from := o.schedule(g)
	if q == nil || from >= q.Max() {
		return nil
	}
	units, err := q.Units(from, 1+rng.IntN(4), nil)
	if err != nil {
		return err
	}
	d := fsm.NewDeliverCommand(netip.MustParseAddrPort("127.0.0.1:10911"), delayQueue, from)
	for _, u := range units {
		if u.Tag > g.LogTime() {
			break
		}
		rec, err := g.Store().Read(u.Phys, int(u.Size))
		if err != nil {
			return err
		}
		v, err := remoting.ParseRecord(rec)
		if err != nil {
			return err
		}
		// It says when it was due.
		s := waiting(topicDelayed, 0, fmt.Sprintf("%s@%d", v.Body(), u.Tag), "")
		s.meta.Waited, s.phys = true, u.Phys
		b, err := s.AppendRecords(d.Begin(fsm.SendMeta{Waited: true}))
		if err != nil {
			return err
		}
		d.End(b, 1)
	}
	if d.Sends() == 0 {
		return nil
	}
	_, err = g.Deliver(context.Background(), d.Bytes())
	return err
}

// schedule is the queue that delayed messages wait in, and up to where it was
// emptied.
func (o *others) schedule(g *Group) (*storage.Queue, int64) {
	return queueOf(g, remoting.TopicSchedule, delayQueue), g.State().Delivered(delayQueue)
}

func queueOf(g *Group, topic string, queue int32) *storage.Queue {
	t, ok := g.State().Topic(topic)
	if !ok {
		return nil
	}
	return g.Store().Queue(storage.QueueID{Topic: topic, Incarnation: t.Incarnation, Queue: queue})
}

// halves sends half messages, and commits or rolls back each, twice if it is not
// sure. (S8)
func (o *others) halves(rng *rand.Rand) {
	for i := 0; o.cl.ctx.Err() == nil; i++ {
		body := fmt.Sprint("half-", i)
		h := waiting(remoting.TopicHalf, 0, body, topicHalf)
		h.meta.Key = fsm.SendKey(topicHalf, 0, []byte(h.uniq))
		res, known, _ := o.persist(h, rng)
		o.put(body, expectation{0, 0, 0})
		if !known || res.Status != fsm.Stored && res.Status != fsm.Repeated {
			continue
		}
		o.cl.pause(time.Duration(rng.IntN(500)) * time.Millisecond)
		if rng.IntN(4) == 0 {
			continue // nobody ever decides
		}
		_, p := o.leader()
		if p == nil {
			continue
		}
		t, ok := p.group.State().Topic(remoting.TopicHalf)
		if !ok {
			continue
		}
		half := storage.QueueID{Topic: remoting.TopicHalf, Incarnation: t.Incarnation}
		o.settle(body, &fsm.Waiting{Queue: half, Offset: res.QueueOffset}, res.Physical, rng)
	}
}

// settle commits a half message, or rolls it back.
func (o *others) settle(body string, w *fsm.Waiting, phys int64, rng *rand.Rand) {
	s := waiting(topicHalf, 0, body, "")
	s.meta.Settles, s.meta.Waited, s.phys = w, true, phys
	commit := rng.IntN(3) > 0
	if commit {
		s.meta.Key = fsm.SendKey(topicHalf, 1, []byte(s.uniq))
	} else {
		s = waiting(topicHalf, 0, body, "")
		s.meta.Settles = w
	}
	if !commit {
		o.rollBack(s, rng)
		return
	}
	o.put(body, expectation{0, 1, 0})
	for range 1 + rng.IntN(2) {
		if res, known, _ := o.persist(s, rng); known && (res.Status == fsm.Stored || res.Status == fsm.Repeated) {
			o.put(body, expectation{1, 1, 0})
		}
	}
}

// rollBack settles a half message without a send.
func (o *others) rollBack(s *waitingSend, rng *rand.Rand) {
	for o.cl.ctx.Err() == nil {
		if _, p := o.leader(); p != nil {
			r := &nothing{testSend: newTestSend(s.topic, 0, "")}
			r.dead = p.dead.Load
			if err := p.group.Append(Send{SendMeta: s.meta, Op: r}); err == nil {
				if <-r.done; r.err == nil {
					return
				}
			}
		}
		o.cl.pause(time.Duration(10+rng.IntN(200)) * time.Millisecond)
	}
}

// nothing is a send without records.
type nothing struct{ *testSend }

func (nothing) AppendRecords(dst []byte) ([]byte, error) { return dst, nil }

// finish delivers what is not delivered yet, after the clients have ended.
func (o *others) finish() {
	o.c.t.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	// A clock that was an hour ahead has left the log's time there.
	for end := time.Now().Add(3 * time.Hour); ; time.Sleep(time.Second) {
		if _, p := o.leader(); p != nil {
			if q, from := o.schedule(p.group); q == nil || from >= q.Max() {
				return
			}
			for o.deliverDue(p, rng) == nil {
				if q, from := o.schedule(p.group); from >= q.Max() {
					break
				} else if u, err := q.Units(from, 1, nil); err != nil || u[0].Tag > p.group.LogTime() {
					break
				}
			}
		}
		if time.Now().After(end) {
			o.c.explain()
			o.c.t.Fatal("S9: delayed messages are not delivered")
		}
	}
}

// check compares what was done with what the replicas hold.
func (o *others) check() {
	o.c.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range o.c.nodes {
		if got, _ := n.group().State().CommittedOffset("G", "T", 0); got < o.offsets[1] || got > o.offsets[0] {
			o.c.t.Errorf("S6: %s has offset %d, acknowledged %d, sent up to %d", n.id, got, o.offsets[1], o.offsets[0])
		}
		seen := map[string]int{}
		for _, topic := range []string{topicDelayed, topicHalf} {
			log, err := n.queue(topic, 0)
			if err != nil {
				o.c.t.Errorf("%s: %s: %v", n.id, topic, err)
			}
			for _, m := range log.messages {
				body, due := m.body, int64(0)
				if i := slices.Index([]byte(body), '@'); i >= 0 {
					fmt.Sscan(body[i+1:], &due)
					body = body[:i]
				}
				seen[body]++
				if m.stored < due {
					o.c.t.Errorf("S9: %s has %q at %d, it was due at %d", n.id, body, m.stored, due)
				}
				if o.expect[body] == nil {
					o.c.t.Errorf("S3: %s has %q in %s, which nobody sent", n.id, body, topic)
				}
			}
		}
		for body, e := range o.expect {
			if got := seen[body]; got < e.least || got > e.most {
				o.c.t.Errorf("S8, S9: %s has %q %d times, not %d to %d", n.id, body, got, e.least, e.most)
			}
		}
	}
}
