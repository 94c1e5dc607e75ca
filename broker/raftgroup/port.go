package raftgroup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/storage/mutant"
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
	cluster        string
	listener       net.Listener
	dial           func(ctx context.Context, addr string) (net.Conn, error)
	logger         hclog.Logger
	fixedDeadlines bool

	mu        sync.Mutex
	groups    map[string]portGroup
	conns     map[*peerConn]struct{}
	strangers []*peerConn // have not said hello; the one that came first is first
	closed    bool
	closing   chan struct{}
	done      sync.WaitGroup
}

// portGroup is what a Port knows of one group.
type portGroup struct {
	serverID string
	// serve takes over the connection and closes it, or has it closed.
	serve func(hello, net.Conn)
	// mistaken, if set, is told when a peer means another incarnation of this node.
	mistaken func(id string)
	// refuse is why there is nothing for a peer here but answers to its questions;
	// nil if there is.
	refuse error
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

	fixedDeadlines bool // see progressConn
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
		cluster:        cfg.Cluster,
		listener:       cfg.Listener,
		dial:           cfg.Dial,
		logger:         cfg.Logger,
		fixedDeadlines: cfg.fixedDeadlines,
		groups:         map[string]portGroup{},
		conns:          map[*peerConn]struct{}{},
		closing:        make(chan struct{}),
	}
	p.done.Go(p.accept)
	return p
}

// Addr is the listener's address.
func (p *Port) Addr() net.Addr { return p.listener.Addr() }

// register directs the connections for a group. Without serve it takes that back.
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
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	close(p.closing)
	for c := range p.conns {
		c.Conn.Close() // the peer's loss is noticed at its end
	}
	p.mu.Unlock()
	err := p.listener.Close()
	p.done.Wait()
	return err
}

func (p *Port) accept() {
	delay := time.Duration(0)
	for {
		c, err := p.listener.Accept()
		if err != nil {
			// Out of descriptors, most likely: the peers retry, so may we.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			p.logger.Error("accept failed on the peer port, trying again", "error", err, "in", delay)
			select {
			case <-time.After(delay):
				continue
			case <-p.closing:
				return
			}
		}
		delay = 0
		if pc := p.admit(c); pc != nil {
			p.done.Go(func() { p.greet(pc) })
		}
	}
}

// admit takes a connection in, as a stranger. Too many of them push out the one
// that came first: a peer says its hello at once, and is none for long.
func (p *Port) admit(c net.Conn) *peerConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	pc := &peerConn{Conn: c, port: p}
	if p.closed {
		c.Close()
		return nil
	}
	if len(p.strangers) >= maxStrangers {
		p.strangers[0].Conn.Close() // greet will notice
		p.strangers = p.strangers[1:]
	}
	p.strangers = append(p.strangers, pc)
	p.conns[pc] = struct{}{}
	return pc
}

// known takes a connection off the list of strangers.
func (p *Port) known(c *peerConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range p.strangers {
		if s == c {
			p.strangers = append(p.strangers[:i], p.strangers[i+1:]...)
			return
		}
	}
}

// peerConn is an accepted connection, known to the Port until it is closed.
type peerConn struct {
	net.Conn
	port *Port
}

func (c *peerConn) Close() error {
	c.port.mu.Lock()
	delete(c.port.conns, c)
	c.port.mu.Unlock()
	return c.Conn.Close()
}

// greet reads the hello and hands the connection over.
func (p *Port) greet(c *peerConn) {
	h, g, err := p.readGreeting(c)
	p.known(c)
	if err != nil {
		p.logger.Warn("refused a connection on the peer port", "from", c.RemoteAddr(), "error", err)
		c.Close()
		return
	}
	g.serve(h, c)
}

func (p *Port) readGreeting(c *peerConn) (h hello, g portGroup, err error) {
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
	if err := boundUnsent(c.Conn); err != nil {
		return h, g, err
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
	switch {
	// Only a question is for whoever is there.
	case h.To == "" && h.Kind == streamState:
	case h.To != g.serverID && !mutant.On("incarnation"):
		if g.mistaken != nil && nodeOf(h.To) == nodeOf(g.serverID) {
			g.mistaken(h.To)
		}
		return g, fmt.Errorf("this replica of group %q is %s, not %q: its data directory is another one", h.Group, g.serverID, h.To)
	case g.refuse != nil && h.Kind != streamState:
		return g, g.refuse
	}
	switch h.Kind {
	case streamRaft, streamFetch, streamState, streamRejoin, streamClock, streamJoin:
		return g, nil
	}
	return g, fmt.Errorf("unknown kind of stream %q", h.Kind)
}

// ErrRefused is what a peer's refusal of a connection wraps.
var ErrRefused = errors.New("refused by the peer")

// connect dials a peer and says hello.
func (p *Port) connect(ctx context.Context, addr string, h hello, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := p.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	// Its end closes the connection, unless the hello was answered before.
	interrupt := context.AfterFunc(ctx, func() { c.Close() })
	h.Cluster = p.cluster
	if err = exchangeHello(c, h); err == nil {
		err = boundUnsent(c)
	}
	if !interrupt() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s, group %s: %w", cmp.Or(h.To, "the peer")+" at "+addr, h.Group, err)
	}
	return c, nil
}

func exchangeHello(c net.Conn, h hello) error {
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
	return nil
}
