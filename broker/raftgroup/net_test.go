package raftgroup

import (
	"context"
	"errors"
	"net"
	"sync"
)

// memNet is a network in memory. Links can be cut, in one direction or both.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	conns     map[*memConn]struct{}
	cut       map[[2]string]bool // from, to: what is written does not arrive
}

func newMemNet() *memNet {
	return &memNet{listeners: map[string]*memListener{}, conns: map[*memConn]struct{}{}, cut: map[[2]string]bool{}}
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

var errUnreachable = errors.New("memnet: unreachable")

// memConn is one end of a connection.
type memConn struct {
	net.Conn
	net      *memNet
	from, to string
}

func (c *memConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

func (c *memConn) RemoteAddr() net.Addr { return memAddr(c.to) }

// dialer connects as a node.
func (n *memNet) dialer(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, to string) (net.Conn, error) {
		n.mu.Lock()
		l := n.listeners[to]
		cut := n.cut[[2]string{from, to}] || n.cut[[2]string{to, from}]
		n.mu.Unlock()
		if cut {
			<-ctx.Done()
			return nil, errUnreachable
		}
		if l == nil {
			return nil, errUnreachable
		}
		a, b := net.Pipe()
		mine, theirs := &memConn{Conn: a, net: n, from: from, to: to}, &memConn{Conn: b, net: n, from: to, to: from}
		n.mu.Lock()
		n.conns[mine], n.conns[theirs] = struct{}{}, struct{}{}
		n.mu.Unlock()
		select {
		case l.accept <- theirs:
			return mine, nil
		case <-l.closed:
		case <-ctx.Done():
		}
		mine.Close()
		theirs.Close()
		return nil, errUnreachable
	}
}

// isolate cuts a node off from all others, or joins it again. Connections it has
// are broken.
func (n *memNet) isolate(addr string, others []string, cut bool) {
	n.mu.Lock()
	var broken []*memConn
	for _, o := range others {
		if o != addr {
			n.cut[[2]string{addr, o}], n.cut[[2]string{o, addr}] = cut, cut
		}
	}
	for c := range n.conns {
		if c.from == addr || c.to == addr {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, c := range broken {
		c.Close()
	}
}
