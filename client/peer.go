package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

const (
	minPause = 5 * time.Millisecond
	maxPause = 50 * time.Millisecond
	// maxRedial is the longest that an address is left alone after failures; see peer.failed.
	maxRedial = 250 * time.Millisecond
	// peerUnused is how long an address that no route names any more keeps its connection.
	peerUnused = time.Minute
)

// peer is an address and the connection to it, if there is one.
type peer struct {
	c    *Client
	addr string
	conn atomic.Pointer[remoting.Conn] // nil: not connected

	probing atomic.Bool

	// See silence.go.
	waiting atomic.Int32  // sends that wait for an answer
	answers atomic.Uint32 // of sends
	watched atomic.Bool
	asked   atomic.Bool // who leads

	mu        sync.Mutex
	closed    bool
	dial      *dial     // in progress
	err       error     // why the last dial failed
	failing   time.Time // since when dials fail; zero: they do not
	redial    time.Time // not before
	requested time.Time // when it was last looked up
}

type dial struct {
	done chan struct{}
	conn *remoting.Conn
	err  error
}

// peer returns the peer of an address, made if need be.
func (c *Client) peer(addr string) *peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[addr]
	if p == nil {
		p = &peer{c: c, addr: addr, closed: c.closed}
		c.peers[addr] = p
	}
	p.requested = time.Now()
	return p
}

// get returns the connection, making it if need be, which many callers at once do together. It waits no longer than ctx and patience (0:
// no limit of its own); the dial itself goes on. After a failure the address is left alone for a moment: then get returns the last error.
func (p *peer) get(ctx context.Context, patience time.Duration) (*remoting.Conn, error) {
	if conn := p.conn.Load(); conn != nil {
		return conn, nil
	}
	p.mu.Lock()
	if conn := p.conn.Load(); conn != nil {
		p.mu.Unlock()
		return conn, nil
	}
	d := p.dial
	if d == nil {
		if p.closed {
			p.mu.Unlock()
			return nil, ErrClosed
		}
		if p.err != nil && time.Now().Before(p.redial) {
			err := p.err
			p.mu.Unlock()
			return nil, err
		}
		d = &dial{done: make(chan struct{})}
		p.dial = d
		p.mu.Unlock()
		if !p.c.spawn(func() { p.connect(d) }) {
			p.settle(d, ErrClosed)
		}
	} else {
		p.mu.Unlock()
	}
	var late <-chan time.Time
	if patience > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-late:
		return nil, fmt.Errorf("connect to %s: no answer in %v", p.addr, patience)
	}
}

// connect carries out a dial.
func (p *peer) connect(d *dial) {
	c := p.c
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.DialTimeout)
	defer cancel()
	nc, err := c.cfg.Dial(ctx, p.addr)
	if err != nil {
		p.settle(d, fmt.Errorf("connect to %s: %w", p.addr, err))
		return
	}
	cfg := remoting.ConnConfig{Language: remoting.LanguageGo, Serialize: remoting.Binary, OnClose: p.lost}
	if c.cfg.JSONHeaders {
		cfg.Serialize = remoting.JSON
	}
	c.wg.Add(1) // until lost: Close waits for what a connection still has to say
	d.conn = remoting.NewConn(nc, cfg, remoting.HandlerFunc(c.serve))
	// Before anybody else can use the connection, so that the broker knows the client when it reads the first request.
	c.greet(p, d.conn)
	p.settle(d, nil)
}

// settle ends a dial.
func (p *peer) settle(d *dial, err error) {
	p.mu.Lock()
	p.dial = nil
	if err == nil && p.closed {
		d.conn.Fail(ErrClosed)
		d.conn, err = nil, ErrClosed
	}
	if d.err = err; err == nil {
		p.conn.Store(d.conn)
		if d.conn.Err() != nil { // lost has been called already, or will be
			p.conn.CompareAndSwap(d.conn, nil)
		}
		p.err, p.failing = nil, time.Time{}
	} else {
		p.failed(err)
	}
	p.mu.Unlock()
	close(d.done)
}

// failed notes a failed dial. An address is left alone for a tenth of the time that it has been failing: whoever waits for it to come back
// waits at most that much longer, and one that is gone for good is asked now and then only. The lock is held.
func (p *peer) failed(err error) {
	now := time.Now()
	if p.err == nil {
		p.c.log.Info("connect", "peer", p.addr, "error", err)
	}
	if p.err = err; p.failing.IsZero() {
		p.failing = now
	}
	p.redial = now.Add(jitter(min(max(now.Sub(p.failing)/10, minPause), maxRedial)))
}

// jitter returns between half of d and d, so that those who failed together do not come back together.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// lost is called when the connection has ended.
func (p *peer) lost(conn *remoting.Conn, err error) {
	defer p.c.wg.Done()
	p.mu.Lock()
	p.conn.CompareAndSwap(conn, nil)
	closed := p.closed
	p.mu.Unlock()
	if !closed {
		p.c.log.Info("connection lost", "peer", p.addr, "error", err)
		p.c.peerLost(p)
	}
}

// down reports whether the peer is known not to be reachable at this moment.
func (p *peer) down() bool {
	if p.conn.Load() != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err != nil
}

// failingFor returns since when dials have been failing; 0 if the last one did not.
func (p *peer) failingFor() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failing.IsZero() {
		return 0
	}
	return time.Since(p.failing)
}

// suspect is called when a request was not answered in time. The peer may be slow, or may have died without a word: a heartbeat tells, and
// closes the connection if that is not answered either, so that everybody else stops waiting too.
func (p *peer) suspect() {
	conn := p.conn.Load()
	if conn == nil || !p.probing.CompareAndSwap(false, true) {
		return
	}
	p.c.heartbeatTo(p, conn, func() { p.probing.Store(false) })
}

// close closes the connection for good and waits for it.
func (p *peer) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	if conn := p.conn.Swap(nil); conn != nil {
		conn.Close() // always nil
	}
}

// dropUnused closes the connections to addresses that no route names any more and nobody has asked for lately.
func (c *Client) dropUnused() {
	used := map[*peer]bool{}
	for _, g := range c.groupList() {
		if l := g.leader.Load(); l != nil {
			used[l] = true
		}
		for _, p := range g.replicas.Load().list {
			used[p] = true
		}
	}
	for _, p := range c.servers.peers {
		used[p] = true
	}
	now := time.Now()
	var unused []*peer
	c.mu.Lock()
	for addr, p := range c.peers {
		if !used[p] && now.Sub(p.requested) > peerUnused {
			delete(c.peers, addr)
			unused = append(unused, p)
		}
	}
	c.mu.Unlock()
	for _, p := range unused {
		p.close()
	}
}
