package remoting

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Server accepts connections and serves them with one Handler. The zero value with a Handler is ready.
type Server struct {
	// Handler answers requests; see Handler.
	Handler Handler
	// Conn configures the connections. Its OnClose is called for each.
	Conn ConnConfig
	// OnAccept, if set, is told of errors of Accept that are retried (out of file descriptors, and the like), and when they have passed, with
	// nil.
	OnAccept func(err error)

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*Conn]struct{}
	closed    chan struct{} // made with the first listener, closed by Shutdown and Close
	accepting sync.WaitGroup
}

const maxAcceptBackoff = time.Second

// Serve accepts connections of l until Shutdown or Close, then returns ErrClosed; any other error is that of a listener beyond repair. It
// owns l.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close() // closed by Shutdown already, or beyond repair
	closed, err := s.begin(l)
	if err != nil {
		return err
	}
	defer s.accepting.Done()
	backoff := time.Duration(0)
	for {
		nc, err := l.Accept()
		select {
		case <-closed:
			if err == nil {
				nc.Close() // too late
			}
			return ErrClosed
		default:
		}
		if err == nil {
			if backoff > 0 {
				s.report(nil)
			}
			backoff = 0
			s.add(nc)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		// Out of descriptors or memory, or a connection that was gone before it was accepted: these pass.
		if backoff = min(max(2*backoff, 5*time.Millisecond), maxAcceptBackoff); backoff > 5*time.Millisecond {
			s.report(err)
		}
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-closed:
			t.Stop()
			return ErrClosed
		}
	}
}

func (s *Server) report(err error) {
	if s.OnAccept != nil {
		s.OnAccept(err)
	}
}

func (s *Server) begin(l net.Listener) (closed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed == nil {
		s.init()
	}
	select {
	case <-s.closed:
		return nil, ErrClosed
	default:
	}
	s.listeners[l] = struct{}{}
	s.accepting.Add(1)
	return s.closed, nil
}

func (s *Server) init() {
	s.closed = make(chan struct{})
	s.listeners = map[net.Listener]struct{}{}
	s.conns = map[*Conn]struct{}{}
}

func (s *Server) add(nc net.Conn) {
	cfg := s.Conn
	cfg.OnClose = func(c *Conn, err error) {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		if s.Conn.OnClose != nil {
			s.Conn.OnClose(c, err)
		}
	}
	// Under the lock, so that a connection that ends at once is deleted after it was added.
	s.mu.Lock()
	c := NewConn(nc, cfg, s.Handler)
	s.conns[c] = struct{}{}
	s.mu.Unlock()
}

// Conns returns the open connections.
func (s *Server) Conns() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		list = append(list, c)
	}
	return list
}

// Shutdown stops accepting and drains every connection (see Conn.Drain). It returns when all are closed; once ctx has ended they are closed
// at once, and ctx's error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.closed == nil {
		s.init()
	}
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	for l := range s.listeners {
		l.Close() // Serve reports what matters
	}
	s.mu.Unlock()
	s.accepting.Wait()

	var drains sync.WaitGroup
	for _, c := range s.Conns() {
		drains.Go(func() { c.Drain(ctx) }) // its error is ctx's
	}
	drains.Wait()
	return ctx.Err()
}

// Close stops accepting and closes every connection at once.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx) // its error is ctx's
	return nil
}
