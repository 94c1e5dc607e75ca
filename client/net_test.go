package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
)

// network is what the fakes listen on and the client dials: real sockets, or pipes within a test, which fake time can run over.
type network interface {
	listen(t testing.TB, name string) net.Listener
	dial(ctx context.Context, addr string) (net.Conn, error)
}

// sockets are real ones.
type sockets struct{}

func (sockets) listen(t testing.TB, name string) net.Listener {
	addr := "127.0.0.1:0"
	if _, port, err := net.SplitHostPort(name); err == nil && port != "0" {
		addr = name // a restart
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (sockets) dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// pipes are connections in memory. An address that nobody listens on refuses; a black hole does not answer at all.
type pipes struct {
	mu        sync.Mutex
	n         int
	listeners map[string]*pipeListener
	holes     map[string]bool
	dials     map[string]int
}

func newPipes() *pipes {
	return &pipes{listeners: map[string]*pipeListener{}, holes: map[string]bool{}, dials: map[string]int{}}
}

func (p *pipes) listen(t testing.TB, name string) net.Listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name == "" {
		p.n++
		name = fmt.Sprintf("10.0.0.%d:10911", p.n)
	}
	l := &pipeListener{p: p, addr: pipeAddr(name), conns: make(chan net.Conn), closed: make(chan struct{})}
	p.listeners[name] = l
	return l
}

// hole makes an address swallow dials, or not.
func (p *pipes) hole(addr string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holes[addr] = on
}

func (p *pipes) dialed(addr string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials[addr]
}

func (p *pipes) dial(ctx context.Context, addr string) (net.Conn, error) {
	p.mu.Lock()
	l, hole := p.listeners[addr], p.holes[addr]
	p.dials[addr]++
	p.mu.Unlock()
	if hole {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: pipeAddr(addr), Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	near.Close()
	far.Close()
	return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: pipeAddr(addr), Err: syscall.ECONNREFUSED}
}

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

type pipeListener struct {
	p      *pipes
	addr   pipeAddr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.p.mu.Lock()
		if l.p.listeners[string(l.addr)] == l {
			delete(l.p.listeners, string(l.addr))
		}
		l.p.mu.Unlock()
	})
	return nil
}

func (l *pipeListener) Addr() net.Addr { return l.addr }
