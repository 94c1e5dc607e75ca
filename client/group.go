package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// Extension fields of raftmq: in answers, but for extRepeat.
const (
	// extLeader: where the broker group's leader is, "host:port".
	extLeader = "raftmqLeader"
	// extOutcome is "unknown" if a message may be stored yet; asking again under its UNIQ_KEY tells.
	extOutcome = "raftmqOutcome"
	// extRepeat says with a send that an earlier one under its UNIQ_KEY may have been stored, and that it is to be stored once: without it
	// a broker takes a send that comes soon after its predecessor's OK for one that is made twice on purpose.
	extRepeat = "raftmqRepeat"
)

// leaderTrust is how long a leader that we found by ourselves is believed in against a route that names another one all the time. A
// follower that forwards is such a leader: it works, but each request takes one way more.
const leaderTrust = 30 * time.Second

// group is a broker group: replicas of one set of queues, one of which leads.
type group struct {
	name     string
	replicas atomic.Pointer[replicas]
	leader   atomic.Pointer[peer] // whom to send to first; nil: nobody knows
	avoid    atomic.Int64         // producers with a choice avoid the group until then; Unix ns

	mu       sync.Mutex
	found    time.Time // when leader was found other than by a route
	failures int       // in a row
	topic    string    // one that has queues here, to ask the route of
	// silentTerm is the last term in which a replica was said to lead that answered nothing.
	silentTerm uint64
}

// replicas are the replicas of a group as the last route had them.
type replicas struct {
	list   []*peer // by id
	byID   map[int64]*peer
	master *peer // id 0; nil: the route names none
}

// group returns the broker group of a name, made if need be.
func (c *Client) group(name string) *group {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.groups[name]
	if g == nil {
		g = &group{name: name}
		g.replicas.Store(&replicas{})
		c.groups[name] = g
	}
	return g
}

func (c *Client) groupList() []*group {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.groups))
}

// learn takes in what a route says of the group. topic is the route's, "" if it is that of no topic.
func (c *Client) learn(b *remoting.BrokerData, topic string) *group {
	g := c.group(b.BrokerName)
	r := &replicas{byID: map[int64]*peer{}}
	for id, addr := range b.Addrs {
		r.byID[id] = c.peer(addr)
	}
	r.master = r.byID[0]
	for _, id := range slices.Sorted(maps.Keys(r.byID)) {
		r.list = append(r.list, r.byID[id])
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.replicas.Swap(r)
	if topic != "" {
		g.topic = topic
	}
	leader := g.leader.Load()
	switch {
	case r.master != nil && r.master != old.master,
		r.master != nil && r.master != leader && time.Since(g.found) > leaderTrust:
		// The name server has news; or it insists.
		if r.master != leader {
			c.log.Info("leader", "broker", g.name, "leader", r.master.addr, "from", "route")
			g.leader.Store(r.master)
		}
	case leader != nil && r.master == nil && !slices.Contains(r.list, leader):
		g.leader.Store(nil)
	}
	return g
}

// lead notes that p is the leader: it said so, another replica did, or it accepted a write.
func (g *group) lead(p *peer) {
	if g.leader.Load() == p {
		return
	}
	g.mu.Lock()
	g.leader.Store(p)
	g.found = time.Now()
	g.mu.Unlock()
	p.c.log.Info("leader", "broker", g.name, "leader", p.addr, "from", "replica")
}

// settled reports whether the route and what replicas say agree on who leads.
func (g *group) settled() bool {
	l := g.leader.Load()
	return l != nil && l == g.replicas.Load().master
}

// avoidances say for how long producers with a choice keep away from a group that has failed so many times in a row.
var avoidances = [...]time.Duration{50 * time.Millisecond, 200 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second}

// failed notes that the group could not be written to.
func (g *group) failed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.UnixNano() < g.avoid.Load() {
		return // those that were under way say the same thing
	}
	g.avoid.Store(now.Add(avoidances[min(g.failures, len(avoidances)-1)]).UnixNano())
	g.failures++
}

// worked notes that the group could be written to.
func (g *group) worked() {
	if g.avoid.Load() == 0 {
		return
	}
	g.mu.Lock()
	g.failures = 0
	g.avoid.Store(0)
	g.mu.Unlock()
}

// avoided reports whether producers with a choice should choose another group now.
func (g *group) avoided() bool {
	until := g.avoid.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// walk finds the replica that answers: the leader if one is known, then each of the others, once in a round. A round that ends without an
// answer is followed by a pause.
type walk struct {
	g         *group
	prefer    *peer // first of all, if set
	tried     []*peer
	rounds    int
	redirects int // in this round
}

// maxRedirects bounds how often replicas that contradict each other can send us round in one round.
const maxRedirects = 3

// next returns the next replica to try, nil if the round is over.
func (w *walk) next() *peer {
	best := w.prefer
	if best == nil || slices.Contains(w.tried, best) {
		best = w.g.leader.Load()
	}
	if best == nil || slices.Contains(w.tried, best) {
		best = nil
		for _, p := range w.g.replicas.Load().list {
			if !slices.Contains(w.tried, p) && (best == nil || best.down() && !p.down()) {
				best = p
			}
		}
	}
	return best
}

// over reports whether every replica was tried in this round.
func (w *walk) over() bool { return w.next() == nil }

// redirected notes that a replica has named p as the leader: it may be so by now, even if p did not know when it was tried.
func (w *walk) redirected(p *peer) {
	if w.redirects++; w.redirects <= maxRedirects {
		w.tried = slices.DeleteFunc(w.tried, func(t *peer) bool { return t == p })
	}
}

// try notes that p is being tried.
func (w *walk) try(p *peer) { w.tried = append(w.tried, p) }

// again begins a new round and returns how long to wait before it.
func (w *walk) again(limit time.Duration) time.Duration {
	w.tried = w.tried[:0]
	w.redirects = 0
	w.rounds++
	return jitter(min(minPause<<min(w.rounds-1, 10), limit))
}

// leaderIn returns the leader that an answer names, nil if it names none.
func (c *Client) leaderIn(resp *remoting.Command) *peer {
	for i := range resp.Ext {
		if resp.Ext[i].Key == extLeader && resp.Ext[i].Value != "" {
			return c.peer(resp.Ext[i].Value)
		}
	}
	return nil
}

// callGroup makes a call that may be repeated without harm, and that the leader answers; other replicas answer it if they can. It goes on until
// ctx ends or CallTimeout is over. An answer with a code other than Success is a *BrokerError.
func (c *Client) callGroup(ctx context.Context, g *group, req *remoting.Command) (*remoting.Command, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	w := walk{g: g}
	err := fmt.Errorf("%w: %s", errNoLeader, g.name)
	for {
		p := w.next()
		if p == nil {
			c.refreshGroup(g)
			if pauseErr := pause(ctx, w.again(maxPause)); pauseErr != nil {
				return nil, fmt.Errorf("%s to broker %s: %w: %w", remoting.RequestName(req.Code), g.name, pauseErr, err)
			}
			continue
		}
		w.try(p)
		var resp *remoting.Command
		if resp, err = p.call(ctx, req, c.cfg.CallTimeout/3, c.cfg.CallTimeout*2/3); err != nil {
			c.log.Debug("call", "request", remoting.RequestName(req.Code), "broker", g.name, "peer", p.addr, "error", err)
			continue
		}
		leader := c.leaderIn(resp)
		if leader != nil {
			g.lead(leader)
		}
		switch resp.Code {
		case remoting.ServiceNotAvailable, remoting.GoAway, remoting.SystemBusy:
			// Another replica may do, or this one in a moment.
			if err = resp.Err(); leader != nil {
				w.redirected(leader)
			}
		default:
			return resp, resp.Err()
		}
	}
}

// call makes one call over the peer's connection. It waits at most patience of ctx's time for the connection, and limit for the answer.
func (p *peer) call(ctx context.Context, req *remoting.Command, patience, limit time.Duration) (*remoting.Command, error) {
	conn, err := p.get(ctx, patience)
	if err != nil {
		return nil, err
	}
	resp, err := p.c.roundTrip(ctx, conn, req, limit, nil)
	if errors.Is(err, remoting.ErrTimeout) {
		p.suspect()
	}
	return resp, err
}

// compareQueues is the order of queues that all clients agree on.
func compareQueues(a, b MessageQueue) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.BrokerName, b.BrokerName), cmp.Compare(a.QueueID, b.QueueID))
}
