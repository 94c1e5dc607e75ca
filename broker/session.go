package broker

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/raftmq/raftmq/remoting"
)

// session is what a Broker knows of one connection.
type session struct {
	conn   *remoting.Conn
	addr   netip.AddrPort // of the client
	number uint64         // no other session of the Broker has it

	// joined is what the client has registered over this connection, joinedSize
	// what that keeps in memory, about. Guarded by registry.mu.
	joined     map[membership]int
	joinedSize int

	mu     sync.Mutex
	told   map[toldKey]uint64      // resets that the client was told of, by id
	oneway []func(context.Context) // one-way requests that wait to be passed on; the first may be under way
	turn   sync.Mutex              // of who passes one on; taken before mu
	client atomic.Bool             // it is not a replica's
}

// sessions are those of all connections of a Broker.
type sessions struct {
	mu     sync.RWMutex
	byConn map[*remoting.Conn]*session
	last   uint64
}

// of returns the connection's session, new if it has none.
func (t *sessions) of(c *remoting.Conn) *session {
	t.mu.RLock()
	s := t.byConn[c]
	t.mu.RUnlock()
	if s != nil {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s = t.byConn[c]; s == nil {
		t.last++
		s = &session{conn: c, addr: addrPort(c.RemoteAddr()), number: t.last}
		if t.byConn == nil {
			t.byConn = map[*remoting.Conn]*session{}
		}
		t.byConn[c] = s
	}
	return s
}

// clients says whether any of them is a client's.
func (t *sessions) clients() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, s := range t.byConn {
		if s.client.Load() {
			return true
		}
	}
	return false
}

// end forgets a connection.
func (t *sessions) end(c *remoting.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byConn, c)
}
