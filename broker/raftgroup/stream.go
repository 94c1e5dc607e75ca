package raftgroup

import (
	"fmt"
	"net"
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

// streamLayer is a raft.StreamLayer over a Port, for one group.
type streamLayer struct {
	port  *Port
	group string
	self  raft.ServerID
	addr  raft.ServerAddress

	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newStreamLayer(port *Port, group string, self raft.ServerID, addr raft.ServerAddress) *streamLayer {
	return &streamLayer{
		port: port, group: group, self: self, addr: addr,
		incoming: make(chan net.Conn), closed: make(chan struct{}),
	}
}

// offer hands an incoming connection to raft.
func (l *streamLayer) offer(c net.Conn) {
	select {
	case l.incoming <- &progressConn{Conn: c}:
	case <-l.closed:
		c.Close()
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
	c, err := l.port.connect(hostport, hello{
		Kind: streamRaft, Group: l.group, From: string(l.self), To: string(id),
	}, timeout)
	if err != nil {
		return nil, err
	}
	return &progressConn{Conn: c}, nil
}

type layerAddr string

func (a layerAddr) Network() string { return "raftmq" }
func (a layerAddr) String() string  { return string(a) }
