package namesrv

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// wire is a network in memory: it works in a synctest bubble.
type wire struct {
	mu        sync.Mutex
	listeners map[string]*wireListener
}

func newWire() *wire { return &wire{listeners: map[string]*wireListener{}} }

var errRefused = errors.New("connection refused")

// dial is a RegistrarConfig.Dial.
func (w *wire) dial(ctx context.Context, addr string) (net.Conn, error) {
	w.mu.Lock()
	l := w.listeners[addr]
	w.mu.Unlock()
	if l == nil {
		return nil, errRefused
	}
	here, there := net.Pipe()
	select {
	case l.accept <- there:
		return here, nil
	case <-l.closed:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *wire) listen(addr string) net.Listener {
	l := &wireListener{w: w, addr: addr, accept: make(chan net.Conn), closed: make(chan struct{})}
	w.mu.Lock()
	w.listeners[addr] = l
	w.mu.Unlock()
	return l
}

type wireListener struct {
	w      *wire
	addr   string
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *wireListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *wireListener) Close() error {
	l.once.Do(func() {
		l.w.mu.Lock()
		if l.w.listeners[l.addr] == l {
			delete(l.w.listeners, l.addr)
		}
		l.w.mu.Unlock()
		close(l.closed)
	})
	return nil
}

func (l *wireListener) Addr() net.Addr { return wireAddr(l.addr) }

type wireAddr string

func (a wireAddr) Network() string { return "wire" }
func (a wireAddr) String() string  { return string(a) }

// serve starts a service at an address of the wire. Cleanup closes it and checks
// its table.
func (w *wire) serve(t testing.TB, addr string, cfg Config) *Service {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := w.listen(addr)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; !errors.Is(err, remoting.ErrClosed) {
			t.Errorf("Serve returned %v", err)
		}
		checkTable(t, s)
	})
	return s
}

// client is a connection to a service.
type client struct {
	t testing.TB
	*remoting.Conn
}

func (w *wire) client(t testing.TB, addr string) *client {
	t.Helper()
	nc, err := w.dial(context.Background(), addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t, remoting.NewConn(nc, remoting.ConnConfig{IdleTimeout: -1}, nil)}
	t.Cleanup(func() { c.Close() })
	return c
}

// call returns the answer to a request. It does not use Conn.Call, whose pooled
// channels would travel from one synctest bubble to another.
func (c *client) call(req *remoting.Command) *remoting.Command {
	c.t.Helper()
	type answer struct {
		resp *remoting.Command
		err  error
	}
	answered := make(chan answer, 1)
	err := c.CallAsync(req, time.Minute, func(resp *remoting.Command, err error) { answered <- answer{resp, err} })
	if err != nil {
		c.t.Fatal(err)
	}
	a := <-answered
	if a.err != nil {
		c.t.Fatal(a.err)
	}
	return a.resp
}

// ask calls with fields given as key, value, key, value...
func (c *client) ask(code int32, fields ...string) *remoting.Command {
	c.t.Helper()
	return c.call(&remoting.Command{Code: code, Ext: fieldsOf(fields)})
}

// ok is ask for answers that must be Success.
func (c *client) ok(code int32, fields ...string) *remoting.Command {
	c.t.Helper()
	return c.want(remoting.Success, &remoting.Command{Code: code, Ext: fieldsOf(fields)})
}

// want calls and checks the code of the answer.
func (c *client) want(code int32, req *remoting.Command) *remoting.Command {
	c.t.Helper()
	resp := c.call(req)
	if resp.Code != code {
		c.t.Fatalf("%s is answered %d %q, want code %d", remoting.RequestName(req.Code), resp.Code, resp.Remark, code)
	}
	return resp
}

func fieldsOf(list []string) (f remoting.Fields) {
	for i := 0; i < len(list); i += 2 {
		f.Add(list[i], list[i+1])
	}
	return f
}

// route asks for a route, and returns the code of the answer.
func (c *client) route(topic string) (d remoting.RouteData, code int32) {
	c.t.Helper()
	resp := c.ask(remoting.GetRouteInfoByTopic, "topic", topic)
	if resp.Code == remoting.Success {
		if err := d.DecodeBody(resp.Body); err != nil {
			c.t.Fatalf("%v: %q", err, resp.Body)
		}
	}
	return d, resp.Code
}
