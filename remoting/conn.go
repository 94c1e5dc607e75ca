package remoting

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ConnConfig configures a Conn. The zero value is the defaults.
type ConnConfig struct {
	// Version and Language are what requests and responses say of this side unless they say it themselves. Default: Version, Java.
	Version  int32
	Language Language
	// Serialize is the header encoding of requests; responses have that of their request. Default: JSON.
	Serialize Serialize
	// MaxFrame is the longest frame read or written, prefix included. Default: 16 MiB.
	MaxFrame int
	// MaxInFlight is how many of the peer's requests may be unanswered; further ones are answered SystemBusy. Default: 16384, as every
	// held pull is one.
	MaxInFlight int
	// MaxPending is how many bytes may wait to be written. With more responses than that waiting, nothing is read from the peer; with more
	// of everything waiting, Call waits and CallAsync and Notify fail. Default: 8 MiB.
	MaxPending int
	// IdleTimeout closes a connection on which nothing was read or written. Default: 120 s. Negative: never.
	IdleTimeout time.Duration
	// FrameTimeout is how long a frame that has begun may take to arrive, plus a second for each 16 KiB of it. Default: 30 s.
	FrameTimeout time.Duration
	// WriteTimeout closes a connection whose peer took no byte for that long (at most twice that). Default: 30 s.
	WriteTimeout time.Duration
	// DrainFields are what the refusals have that Drain gives the peer's new requests: by them a peer may know that nothing was done.
	DrainFields Fields
	// OnClose is called once, when both goroutines have ended and every waiter was woken, with the reason: io.EOF if the peer closed between
	// frames, ErrClosed after Close, else what was wrong. It must not block.
	OnClose func(c *Conn, err error)
}

func (cfg *ConnConfig) setDefaults() {
	setDefault(&cfg.Version, Version)
	setDefault(&cfg.MaxFrame, DefaultMaxFrame)
	setDefault(&cfg.MaxInFlight, 16384)
	setDefault(&cfg.MaxPending, 8<<20)
	setDefault(&cfg.IdleTimeout, 120*time.Second)
	setDefault(&cfg.FrameTimeout, 30*time.Second)
	setDefault(&cfg.WriteTimeout, 30*time.Second)
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Handler answers the requests of a peer.
type Handler interface {
	// ServeRemoting is called on the connection's reading goroutine, in the order of arrival. It must not block: nothing else is read
	// meanwhile. req is valid until it returns; req.Responder() may be kept to answer later, from any goroutine. Every request that is not
	// oneway must be answered in the end.
	ServeRemoting(c *Conn, req *Command)
}

// HandlerFunc is a Handler.
type HandlerFunc func(c *Conn, req *Command)

// ServeRemoting calls f.
func (f HandlerFunc) ServeRemoting(c *Conn, req *Command) { f(c, req) }

// Conn is a connection. Both sides send requests over it, which are told apart by opaque; client and server differ in nothing else.
// It is safe for use by several goroutines.
//
// It has two goroutines. The reader decodes frames and calls the Handler or wakes the caller. The writer takes all that was encoded since its
// last write and writes it in one call.
//
// Invariants:
//  1. A request that was read is answered at most once (its slot's generation moves on), unless oneway: never.
//  2. Every call in calls is completed exactly once: by its answer, its timeout, its context, or the end of the connection. Who removes it
//     from calls completes it.
//  3. Stream offsets: written <= taken <= enqueued. A request whose frame begins at or behind written, with the writer gone, was not sent.
//  4. Response bytes count against the peer that asked (responses), not against the requests of this side: a client that is slow to send
//     still reads its answers.
type Conn struct {
	nc      net.Conn
	cfg     ConnConfig
	handler Handler
	started time.Time
	done    chan struct{} // closed at the very end

	lastWrite atomic.Int64 // nanoseconds since started
	responses atomic.Int64 // bytes of responses enqueued and not written
	running   atomic.Int32 // goroutines

	written int64 // writer's; read by others once it has gone

	mu        sync.Mutex
	wake      sync.Cond // the writer waits here
	out       outbox
	enc       FieldEncoder
	corked    bool // more requests lie in the read buffer: their answers can leave together
	enqueued  int64
	pending   int           // bytes enqueued and not written
	room      chan struct{} // closed when pending has fallen; nil if nobody waits
	calls     map[int32]*call
	freeCalls []*call
	opaque    int32
	slots     []uint32 // generation of each slot for a request in flight
	freeSlots []uint32
	draining  bool
	asked     time.Time     // when it was last, while draining
	lingering bool          // drained: what still arrives is dropped
	quiet     chan struct{} // closed when nothing is in flight; nil if nobody waits
	err       error         // why it is closed; nil while it is open
}

// NewConn starts a connection over nc, which it owns from here on. handler may be nil: requests are answered RequestCodeNotSupported.
func NewConn(nc net.Conn, cfg ConnConfig, handler Handler) *Conn {
	cfg.setDefaults()
	c := &Conn{nc: nc, cfg: cfg, handler: handler, started: time.Now(), done: make(chan struct{}), calls: map[int32]*call{}}
	c.wake.L = &c.mu
	c.running.Store(2)
	go c.run(c.read)
	go c.run(c.write)
	return c
}

// run runs one of the goroutines; the last to end wakes everybody.
func (c *Conn) run(loop func() error) {
	c.Fail(loop())
	if c.running.Add(-1) == 0 {
		c.finish()
	}
}

// Fail closes the connection for the reason err without waiting; the first reason counts. A Handler, which must not call Close, may use it.
func (c *Conn) Fail(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.mu.Unlock()
	c.nc.Close() // its error says nothing that c.err does not
}

// failLocked makes the writer end, which then closes the socket. The lock is held.
func (c *Conn) failLocked(err error) {
	if c.err == nil {
		c.err = err
		c.wake.Broadcast()
		c.makeRoom()
	}
}

// Close closes the connection at once: what was not written is not sent. It waits for both goroutines and for OnClose.
func (c *Conn) Close() error {
	c.Fail(ErrClosed)
	<-c.done
	return nil
}

// Done is closed when the connection has ended and OnClose has returned.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the connection is closed, nil while it is open.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// LocalAddr returns this side's address.
func (c *Conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }

// Pending returns how many bytes wait to be written. Before making a large response it is worth a look.
func (c *Conn) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending
}

const (
	// lingerTime is how long a drained connection waits for the peer to close.
	lingerTime = time.Second
	// calmTime is for how long a peer must have asked for nothing before a connection is closed under it: a request that crosses our closing
	// is never answered, and the peer can't know whether it was handled. One that goes on asking is told to go for up to lingerTime.
	calmTime = 100 * time.Millisecond
)

// Drain closes the connection gracefully. The peer's new requests are refused (GoAway or ServiceNotAvailable), so are calls of this side;
// requests and calls in flight are completed and written. It returns when the connection is closed; if ctx ends first it closes at once
// and returns ctx's error.
func (c *Conn) Drain(ctx context.Context) error {
	begin := time.Now()
	c.mu.Lock()
	c.draining = true
	c.asked = c.started.Add(time.Duration(c.lastWrite.Load())) // whoever was answered may ask again
	c.mu.Unlock()
	t := time.NewTimer(0)
	defer t.Stop()
	for wait := time.Duration(1); wait > 0; {
		c.mu.Lock()
		if c.quiet == nil {
			c.quiet = make(chan struct{})
		}
		quiet := c.quiet
		c.checkQuiet()
		c.mu.Unlock()
		select {
		case <-quiet:
		case <-c.done:
			return nil
		case <-ctx.Done():
			c.Close()
			return ctx.Err()
		}
		if wait = c.calm(begin); wait > 0 {
			t.Reset(wait)
			select {
			case <-t.C:
			case <-c.done:
				return nil
			case <-ctx.Done():
			}
		}
	}
	// Closing a socket with unread bytes makes the kernel send a reset, which can overtake our last answers. So only our direction is
	// closed, and the peer, seeing that, closes its own.
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		t.Reset(lingerTime)
		select {
		case <-c.done:
		case <-t.C:
		case <-ctx.Done():
		}
	}
	c.Close()
	return nil
}

// checkQuiet wakes Drain if nothing is in flight. The lock is held.
func (c *Conn) checkQuiet() {
	if c.quiet != nil && c.isQuiet() {
		close(c.quiet)
		c.quiet = nil
	}
}

func (c *Conn) isQuiet() bool {
	return c.pending == 0 && len(c.calls) == 0 && len(c.freeSlots) == len(c.slots)
}

// calm says how much longer it is to be waited before the connection, which is being drained since begin, is closed. If no longer, nothing is
// answered any more.
func (c *Conn) calm(begin time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := min(calmTime-time.Since(c.asked), lingerTime-time.Since(begin))
	if wait <= 0 && !c.isQuiet() {
		wait = time.Millisecond // something is being written
	}
	c.lingering = wait <= 0
	return wait
}

// finish runs when both goroutines have ended: nothing will be read or written any more.
func (c *Conn) finish() {
	c.mu.Lock()
	err := c.err
	calls := c.calls
	c.calls = nil
	out := c.out
	c.out = outbox{}
	c.pending = 0
	c.mu.Unlock()
	out.discard()
	for _, call := range calls {
		kind := ErrLimbo
		if call.start >= c.written {
			kind = ErrNotSent
		}
		call.complete(nil, because(kind, err))
	}
	if c.cfg.OnClose != nil {
		c.cfg.OnClose(c, err)
	}
	close(c.done)
}
