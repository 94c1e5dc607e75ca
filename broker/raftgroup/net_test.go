package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memNet is a network in memory. Its links can be cut, one direction at a time,
// slowed down and delayed, and its connections broken. What a link that is cut
// holds up arrives when it is joined again, as TCP would have it.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	dark      map[string]bool // addresses of machines that are off
	conns     map[*memConn]struct{}
	links     map[[2]string]*memLink // by from and to
}

// memLink is one direction between two nodes; guarded by memNet.mu.
type memLink struct {
	cut     bool
	refuse  bool // new connections
	delay   time.Duration
	rate    int           // bytes per second; 0: no bound
	busy    time.Time     // until then it carries what was written before
	changed chan struct{} // closed at the next change
}

func newMemNet() *memNet {
	return &memNet{listeners: map[string]*memListener{}, dark: map[string]bool{}, conns: map[*memConn]struct{}{}, links: map[[2]string]*memLink{}}
}

// link returns a link. The lock is held.
func (n *memNet) link(from, to string) *memLink {
	k := [2]string{from, to}
	if n.links[k] == nil {
		n.links[k] = &memLink{changed: make(chan struct{})}
	}
	return n.links[k]
}

// change changes a link and wakes those who wait for it.
func (n *memNet) change(from, to string, f func(*memLink)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	f(l)
	close(l.changed)
	l.changed = make(chan struct{})
}

// cut cuts a link, or joins it.
func (n *memNet) cut(from, to string, cut bool) {
	n.change(from, to, func(l *memLink) { l.cut = cut })
}

// isolate cuts a node off from others, in both directions, or joins it.
func (n *memNet) isolate(addr string, others []string, cut bool) {
	for _, o := range others {
		if o != addr {
			n.cut(addr, o, cut)
			n.cut(o, addr, cut)
		}
	}
}

// heal joins every link, at full speed.
func (n *memNet) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		l.cut, l.refuse, l.delay, l.rate = false, false, 0, 0
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// sever breaks the connections that pick says, as a reset does.
func (n *memNet) sever(pick func(from, to string) bool) (broken int) {
	n.mu.Lock()
	var conns []*memConn
	for c := range n.conns {
		if pick(c.from, c.to) {
			conns = append(conns, c)
		}
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.reset()
	}
	return len(conns)
}

// refuse has new connections over a link refused, or not any more.
func (n *memNet) refuse(from, to string, refuse bool) {
	n.change(from, to, func(l *memLink) { l.refuse = refuse })
}

// unplug ends all that a node has: nothing it does from now on reaches anybody.
// What it has written before may still arrive, as after kill -9, or it does not and
// the whole machine is off.
func (n *memNet) unplug(addr string, drop bool) {
	n.mu.Lock()
	delete(n.listeners, addr)
	n.dark[addr] = drop
	var conns []*memConn
	for c := range n.conns {
		if c.from == addr {
			conns = append(conns, c)
		}
	}
	n.mu.Unlock()
	for _, c := range conns {
		if drop {
			c.reset()
			continue
		}
		c.forget()
		c.out.set(func() { c.out.eof = true })
		c.in.set(func() { c.in.err = errReset })
	}
}

type memAddr string

func (a memAddr) Network() string { return "mem" }
func (a memAddr) String() string  { return string(a) }

type memListener struct {
	net    *memNet
	addr   string
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (n *memNet) listen(addr string) *memListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &memListener{net: n, addr: addr, accept: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[addr] = l
	n.dark[addr] = false
	return l
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		if l.net.listeners[l.addr] == l {
			delete(l.net.listeners, l.addr)
		}
	})
	return nil
}

func (l *memListener) Addr() net.Addr { return memAddr(l.addr) }

var (
	errUnreachable = errors.New("memnet: unreachable")
	errReset       = errors.New("memnet: connection reset")
	errRefused     = fmt.Errorf("memnet: %w", syscall.ECONNREFUSED)
)

// dialer connects as a node, for as long as plugged says that it is one.
func (n *memNet) dialer(from string, plugged func() bool) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, to string) (net.Conn, error) {
		for {
			n.mu.Lock()
			there, back := n.link(from, to), n.link(to, from)
			cut, c1, c2 := there.cut || back.cut, there.changed, back.changed
			l := n.listeners[to]
			if !plugged() || !cut && n.dark[to] {
				n.mu.Unlock()
				return nil, errUnreachable
			}
			if !cut && (l == nil || there.refuse) {
				n.mu.Unlock()
				return nil, errRefused
			}
			if !cut {
				mine, theirs := n.pair(from, to)
				n.mu.Unlock()
				select {
				case l.accept <- theirs:
					return mine, nil
				case <-l.closed:
				case <-ctx.Done():
				}
				mine.reset() // as what waits in a backlog is
				return nil, errUnreachable
			}
			n.mu.Unlock()
			select {
			case <-c1:
			case <-c2:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
}

// pair makes both ends of a connection. The lock is held.
func (n *memNet) pair(from, to string) (mine, theirs *memConn) {
	there, back := newMemPipe(n, from, to), newMemPipe(n, to, from)
	mine = &memConn{net: n, from: from, to: to, in: back, out: there}
	theirs = &memConn{net: n, from: to, to: from, in: there, out: back}
	n.conns[mine], n.conns[theirs] = struct{}{}, struct{}{}
	return mine, theirs
}

// memConn is one end of a connection.
type memConn struct {
	net      *memNet
	from, to string
	in, out  *memPipe
}

func (c *memConn) Read(p []byte) (int, error)         { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error)        { return c.out.write(p) }
func (c *memConn) LocalAddr() net.Addr                { return memAddr(c.from) }
func (c *memConn) RemoteAddr() net.Addr               { return memAddr(c.to) }
func (c *memConn) SetReadDeadline(t time.Time) error  { return c.in.set(func() { c.in.readBy = t }) }
func (c *memConn) SetWriteDeadline(t time.Time) error { return c.out.set(func() { c.out.writeBy = t }) }
func (c *memConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *memConn) hungUp() bool {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return c.in.err != nil || c.in.eof && len(c.in.chunks) == 0
}

func (c *memConn) forget() {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
}

// Close ends the connection: the peer reads what was written and then EOF.
func (c *memConn) Close() error {
	c.forget()
	c.out.set(func() { c.out.eof = true })
	return c.in.set(func() { c.in.err = net.ErrClosed })
}

// reset ends it at once, at both ends.
func (c *memConn) reset() {
	c.forget()
	for _, p := range []*memPipe{c.in, c.out} {
		p.set(func() {
			if p.err == nil {
				p.err = errReset
			}
		})
	}
}

// memPipe carries what is written at one end to the other.
type memPipe struct {
	net      *memNet
	from, to string

	mu              sync.Mutex
	chunks          []memChunk
	size            int
	eof             bool  // the writer has closed
	err             error // of both ends
	readBy, writeBy time.Time
	changed         chan struct{} // closed at the next change
}

type memChunk struct {
	at   time.Time // when it arrives
	data []byte
}

// memBuffer is what a pipe holds before writers wait.
const memBuffer = 128 << 10

func newMemPipe(n *memNet, from, to string) *memPipe {
	return &memPipe{net: n, from: from, to: to, changed: make(chan struct{})}
}

func (p *memPipe) set(f func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.wake()
	return nil
}

// wake tells who waits that something has changed. The lock is held.
func (p *memPipe) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// arrival is when bytes written now arrive.
func (p *memPipe) arrival(n int) time.Time {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	l := p.net.link(p.from, p.to)
	now := time.Now()
	if l.rate > 0 {
		if l.busy.Before(now) {
			l.busy = now
		}
		l.busy = l.busy.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
		now = l.busy
	}
	return now.Add(l.delay)
}

func (p *memPipe) state() (cut bool, changed <-chan struct{}) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	l := p.net.link(p.from, p.to)
	return l.cut, l.changed
}

func (p *memPipe) write(b []byte) (n int, err error) {
	for {
		p.mu.Lock()
		switch {
		case p.err != nil:
			err = p.err
		case p.eof:
			err = net.ErrClosed
		case !p.writeBy.IsZero() && !time.Now().Before(p.writeBy):
			err = os.ErrDeadlineExceeded
		case p.size < memBuffer:
			m := min(len(b), memBuffer-p.size)
			p.chunks = append(p.chunks, memChunk{p.arrival(m), append([]byte(nil), b[:m]...)})
			p.size += m
			n += m
			b = b[m:]
			p.wake()
		}
		changed, by := p.changed, p.writeBy
		p.mu.Unlock()
		if err != nil || len(b) == 0 {
			return n, err
		}
		pause(changed, nil, by)
	}
}

func (p *memPipe) read(b []byte) (n int, err error) {
	for {
		cut, link := p.state()
		p.mu.Lock()
		until := p.readBy
		switch {
		case p.err != nil:
			err = p.err
		case !p.readBy.IsZero() && !time.Now().Before(p.readBy):
			err = os.ErrDeadlineExceeded
		case cut:
		case len(p.chunks) > 0:
			c := &p.chunks[0]
			if time.Now().Before(c.at) {
				if until.IsZero() || c.at.Before(until) {
					until = c.at
				}
				break
			}
			n = copy(b, c.data)
			if c.data = c.data[n:]; len(c.data) == 0 {
				p.chunks = p.chunks[1:]
			}
			p.size -= n
			p.wake()
		case p.eof:
			err = io.EOF
		}
		changed := p.changed
		p.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		pause(changed, link, until)
	}
}

// pause waits for a change, at most until a time if that is not zero.
func pause(a, b <-chan struct{}, until time.Time) {
	var timeout <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-a:
	case <-b:
	case <-timeout:
	}
}
