package raftgroup

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// peerAddress is a raft.ServerAddress: "serverID@host:port". It carries the
// ServerID because raft dials addresses, and the peer has to know whom we mean.
func peerAddress(id raft.ServerID, hostport string) raft.ServerAddress {
	return raft.ServerAddress(string(id) + "@" + hostport)
}

func splitAddress(a raft.ServerAddress) (id raft.ServerID, hostport string, err error) {
	s, hostport, ok := strings.Cut(string(a), "@")
	if !ok || s == "" || hostport == "" {
		return "", "", fmt.Errorf("raft address %q is not of the form id@host:port", a)
	}
	return raft.ServerID(s), hostport, nil
}

// streamLayer is a raft.StreamLayer over a Port, for one life of one group. It
// knows its connections: raft waits for what is on its way on them before it
// stops, and leaves those that came in open.
type streamLayer struct {
	ctx   context.Context // ends what is being dialled
	port  *Port
	group string
	self  raft.ServerID
	addr  raft.ServerAddress

	incoming chan net.Conn
	closed   chan struct{}
	ended    chan struct{} // told when a connection is closed; see shortcut
	once     sync.Once

	mu    sync.Mutex
	conns map[*layerConn]struct{} // nil once they were cut
	off   bool                    // there are to be none for now, see fence
}

func newStreamLayer(ctx context.Context, port *Port, group string, self raft.ServerID, addr raft.ServerAddress) *streamLayer {
	return &streamLayer{
		ctx: ctx, port: port, group: group, self: self, addr: addr,
		incoming: make(chan net.Conn), closed: make(chan struct{}), ended: make(chan struct{}, 1), conns: map[*layerConn]struct{}{},
	}
}

// layerConn is a connection that its layer knows of until it is closed.
type layerConn struct {
	progressConn
	layer   *streamLayer
	peer    raft.ServerID
	dialled bool // by this side
}

func (c *layerConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c)
	c.layer.mu.Unlock()
	select {
	case c.layer.ended <- struct{}{}:
	default:
	}
	return c.progressConn.Close()
}

// own takes a connection over, or closes it if the layer's were cut.
func (l *streamLayer) own(c net.Conn, peer raft.ServerID, dialled bool) (net.Conn, error) {
	lc := &layerConn{progressConn: progressConn{Conn: c, fixed: l.port.fixedDeadlines}, layer: l, peer: peer, dialled: dialled}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil || l.off {
		c.Close()
		return nil, net.ErrClosed
	}
	l.conns[lc] = struct{}{}
	return lc, nil
}

// connected says whether there is a connection with a peer. One that the peer has
// ended counts until everything that came on it has been handled; one that we have
// dialled does not, as raft keeps those that it has no use for and reads nothing.
func (l *streamLayer) connected(peer raft.ServerID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.peer == peer && !(c.dialled && hungUp(c.Conn)) {
			return true
		}
	}
	return false
}

// cut closes every connection and lets no new one come to be.
func (l *streamLayer) cut() {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for c := range conns {
		c.progressConn.Close() // who uses it will notice
	}
}

// fence closes every connection and lets no new one come to be, until it is lifted.
func (l *streamLayer) fence(off bool) {
	l.mu.Lock()
	l.off = off
	l.mu.Unlock()
	if off {
		l.sever()
	}
}

// sever closes every connection.
func (l *streamLayer) sever() {
	l.mu.Lock()
	conns := slices.Collect(maps.Keys(l.conns))
	l.mu.Unlock()
	for _, c := range conns {
		c.Close() // who uses it will notice
	}
}

// offer hands an incoming connection to raft.
func (l *streamLayer) offer(from raft.ServerID, c net.Conn) {
	oc, err := l.own(c, from, false)
	if err != nil {
		return
	}
	select {
	case l.incoming <- oc:
	case <-l.ctx.Done():
		oc.Close()
	}
}

// Accept implements net.Listener.
func (l *streamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.incoming:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *streamLayer) Close() error {
	l.cut()
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener: raft takes it for its own address.
func (l *streamLayer) Addr() net.Addr { return layerAddr(l.addr) }

// Dial implements raft.StreamLayer.
func (l *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, hostport, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	off := l.off
	l.mu.Unlock()
	if off {
		return nil, net.ErrClosed
	}
	c, err := l.port.connect(l.ctx, hostport, hello{
		Kind: streamRaft, Group: l.group, From: string(l.self), To: string(id),
	}, min(timeout, dialTimeout))
	if err != nil {
		return nil, err
	}
	return l.own(c, id, true)
}

type layerAddr string

func (a layerAddr) Network() string { return "raftmq" }
func (a layerAddr) String() string  { return string(a) }
