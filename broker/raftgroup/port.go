package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	helloTimeout = 5 * time.Second
	// maxStrangers bounds connections that have not said hello yet.
	maxStrangers = 256
)

// Port is where a node listens for the other nodes: the raft traffic, the
// catch-up and the questions of all its groups come in here, told apart by the
// hello each connection begins with. Whatever else connects is closed; nothing
// it sends reaches raft.
type Port struct {
	cluster  string
	listener net.Listener
	dial     func(ctx context.Context, addr string) (net.Conn, error)
	logger   hclog.Logger

	mu        sync.Mutex
	groups    map[string]portGroup
	conns     map[net.Conn]struct{}
	strangers int
	closed    bool
	done      sync.WaitGroup
}

// portGroup is what a Port knows of one group.
type portGroup struct {
	serverID string
	// serve takes over the connection. It returns at once; whoever it gave the
	// connection to closes it.
	serve func(hello, net.Conn)
}

// PortConfig is what a Port needs.
type PortConfig struct {
	// Cluster is the cluster's name: peers of another are refused.
	Cluster string
	// Listener is where the other nodes connect. The Port closes it.
	Listener net.Listener
	// Dial connects to another node's Listener. Default: TCP.
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	Logger hclog.Logger
}

// NewPort listens until Close.
func NewPort(cfg PortConfig) *Port {
	if cfg.Dial == nil {
		var d net.Dialer
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	p := &Port{
		cluster:  cfg.Cluster,
		listener: cfg.Listener,
		dial:     cfg.Dial,
		logger:   cfg.Logger,
		groups:   map[string]portGroup{},
		conns:    map[net.Conn]struct{}{},
	}
	p.done.Add(1)
	go p.accept()
	return p
}

// Addr is the listener's address.
func (p *Port) Addr() net.Addr { return p.listener.Addr() }

// register directs the connections for a group. An empty name takes it back.
func (p *Port) register(group string, g portGroup) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g.serve == nil {
		delete(p.groups, group)
		return
	}
	p.groups[group] = g
}

// Close stops listening and closes every connection that came in.
func (p *Port) Close() error {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.Close() // the peer's loss is noticed at its end
	}
	p.mu.Unlock()
	err := p.listener.Close()
	p.done.Wait()
	return err
}

func (p *Port) accept() {
	defer p.done.Done()
	delay := time.Duration(0)
	for {
		c, err := p.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || p.isClosed() {
				return
			}
			// Out of descriptors, most likely: the peers retry, so may we.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			p.logger.Error("accept failed on the peer port, trying again", "error", err, "in", delay)
			time.Sleep(delay)
			continue
		}
		delay = 0
		if !p.admit(c) {
			c.Close()
			continue
		}
		p.done.Add(1)
		go func() {
			defer p.done.Done()
			p.greet(c)
		}()
	}
}

func (p *Port) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

func (p *Port) admit(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.strangers >= maxStrangers {
		return false
	}
	p.strangers++
	p.conns[c] = struct{}{}
	return true
}

// peerConn is an accepted connection, known to the Port until it is closed.
type peerConn struct {
	net.Conn
	port *Port
	once sync.Once
}

func (c *peerConn) Close() error {
	c.once.Do(func() {
		c.port.mu.Lock()
		delete(c.port.conns, c.Conn)
		c.port.mu.Unlock()
	})
	return c.Conn.Close()
}

// greet reads the hello and hands the connection over.
func (p *Port) greet(raw net.Conn) {
	c := &peerConn{Conn: raw, port: p}
	h, g, err := p.readGreeting(raw)
	p.mu.Lock()
	p.strangers--
	p.mu.Unlock()
	if err != nil {
		p.logger.Warn("refused a connection on the peer port", "from", raw.RemoteAddr(), "error", err)
		c.Close()
		return
	}
	g.serve(h, c)
}

func (p *Port) readGreeting(c net.Conn) (h hello, g portGroup, err error) {
	if err := c.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return h, g, err
	}
	if err := readHello(c, &h); err != nil {
		return h, g, err
	}
	g, refusal := p.check(h)
	answer := helloAnswer{}
	if refusal != nil {
		answer.Error = refusal.Error()
	}
	if err := writeHello(c, answer); err != nil {
		return h, g, err
	}
	if refusal != nil {
		return h, g, refusal
	}
	return h, g, c.SetDeadline(time.Time{})
}

func (p *Port) check(h hello) (portGroup, error) {
	if h.Cluster != p.cluster {
		return portGroup{}, fmt.Errorf("this node is of cluster %q, not %q", p.cluster, h.Cluster)
	}
	p.mu.Lock()
	g, ok := p.groups[h.Group]
	p.mu.Unlock()
	if !ok {
		return g, fmt.Errorf("this node has no replica of group %q, or not yet", h.Group)
	}
	if h.To != "" && h.To != g.serverID {
		return g, fmt.Errorf("this replica of group %q is %s, not %s: its data directory is another one", h.Group, g.serverID, h.To)
	}
	switch h.Kind {
	case streamRaft, streamFetch, streamState:
		return g, nil
	}
	return g, fmt.Errorf("unknown kind of stream %q", h.Kind)
}

// ErrRefused is what a peer's refusal of a connection wraps.
var ErrRefused = errors.New("refused by the peer")

// connect dials a peer and says hello.
func (p *Port) connect(addr string, h hello, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := p.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	h.Cluster = p.cluster
	if err := exchangeHello(c, h, timeout); err != nil {
		c.Close()
		return nil, fmt.Errorf("peer %s at %s, group %s: %w", h.To, addr, h.Group, err)
	}
	return c, nil
}

func exchangeHello(c net.Conn, h hello, timeout time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if err := writeHello(c, h); err != nil {
		return err
	}
	var answer helloAnswer
	if err := readHello(c, &answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return fmt.Errorf("%w: %s", ErrRefused, answer.Error)
	}
	return c.SetDeadline(time.Time{})
}
