package broker

import (
	"net/netip"
	"sync"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

const (
	// repeatSpan is how long after an OK the same message on the same connection
	// counts as sent again on purpose: a client that repeats by itself does so
	// when it got no answer.
	repeatSpan = time.Second
	// maxRecent bounds the OKs remembered per connection and span.
	maxRecent = 1 << 18
)

// session is what a Broker knows of one connection.
type session struct {
	conn *remoting.Conn
	addr netip.AddrPort // of the client

	mu sync.Mutex
	// recent are the sends answered OK in this span, older those of the one
	// before.
	recent, older map[fsm.Key]time.Time
	since         time.Time
}

// wrote notes that a send was answered OK.
func (s *session) wrote(k fsm.Key, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(now)
	if len(s.recent) < maxRecent {
		s.recent[k] = now
	}
}

// repeats says whether a send was answered OK on this connection a moment ago.
func (s *session) repeats(k fsm.Key, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(now)
	at, ok := s.recent[k]
	if !ok {
		at, ok = s.older[k]
	}
	return ok && now.Sub(at) <= repeatSpan
}

func (s *session) turn(now time.Time) {
	switch since := now.Sub(s.since); {
	case since > 2*repeatSpan:
		s.recent, s.older, s.since = map[fsm.Key]time.Time{}, nil, now
	case since > repeatSpan:
		s.recent, s.older, s.since = map[fsm.Key]time.Time{}, s.recent, now
	}
}

// sessions are those of all connections of a Broker.
type sessions struct {
	mu     sync.RWMutex
	byConn map[*remoting.Conn]*session
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
		s = &session{conn: c, addr: addrPort(c.RemoteAddr())}
		if t.byConn == nil {
			t.byConn = map[*remoting.Conn]*session{}
		}
		t.byConn[c] = s
	}
	return s
}

// end forgets a connection.
func (t *sessions) end(c *remoting.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byConn, c)
}
