package namesrv

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/remoting"
)

// RegistrarConfig configures a Registrar. Durations that are zero have the
// defaults given.
type RegistrarConfig struct {
	// NameServers are the "host:port" of every name server. A DNS name is
	// resolved anew for each connection.
	NameServers []string
	// Heartbeat is the time between signs of life, give or take a tenth.
	// Default: 10 s.
	Heartbeat time.Duration
	// Lease is how long a name server may believe in us without one. Servers of
	// RocketMQ 4.x do not hear of it and wait 120 s. Default: 4 heartbeats.
	Lease time.Duration
	// CallTimeout is how long a name server may take to answer, or to accept a
	// connection, before the connection is given up. Default: 5 s.
	CallTimeout time.Duration
	// Dial makes a connection. Default: a net.Dialer's.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Conn configures the connections.
	Conn remoting.ConnConfig
	// Logger is told when a name server is lost, found, or refuses. Default: none.
	Logger hclog.Logger
}

// Bounds of the time between attempts to connect.
const (
	minReconnect = 50 * time.Millisecond
	maxReconnect = time.Second
)

// fullEvery is how often everything is registered again although a name server
// says that it knows: an operator may have deleted a topic there.
const fullEvery = time.Minute

func (c *RegistrarConfig) validate() error {
	if c.Heartbeat == 0 {
		c.Heartbeat = 10 * time.Second
	}
	if c.Lease == 0 {
		c.Lease = 4 * c.Heartbeat
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = 5 * time.Second
	}
	if c.Heartbeat < 0 || c.CallTimeout < 0 || c.Lease <= c.Heartbeat || c.Lease > maxLease {
		return fmt.Errorf("namesrv: Heartbeat is %v, CallTimeout %v and Lease %v: want positive ones, the lease longer than a heartbeat and at most %v",
			c.Heartbeat, c.CallTimeout, c.Lease, maxLease)
	}
	if c.Dial == nil {
		var d net.Dialer
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	c.NameServers = nameServers(c.NameServers)
	for _, addr := range c.NameServers {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("namesrv: name server %q is not host:port: %w", addr, err)
		}
	}
	return nil
}

// Registrar keeps one broker registered with every name server, each over a
// connection and by a goroutine of its own: one that is slow or dead delays
// nobody. A node with several groups has a Registrar for each, since RocketMQ's
// name server takes a connection for one broker.
//
// It registers when it has connected and after every Update. Its heartbeat asks
// the name server whether it still knows the broker (QueryDataVersion, which
// refreshes the lease) and registers again if not, and now and then anyway. To
// one name server, the next request leaves when the last is answered: RocketMQ's
// may answer, and act, out of order.
type Registrar struct {
	cfg     RegistrarConfig
	servers []*nameServer
	current atomic.Pointer[revision] // nil before the first Update
	running sync.WaitGroup

	mu    sync.Mutex
	moved chan struct{} // closed, and made anew, when a status has changed

	soft    context.Context // ends with Close: unregister and end
	hard    context.Context // ends when Close has waited long enough
	endSoft context.CancelFunc
	endHard context.CancelFunc
}

// NewRegistrar starts a registrar. It connects at once and registers as soon as
// Update was called. Call Close when done.
func NewRegistrar(cfg RegistrarConfig) (*Registrar, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Registrar{cfg: cfg, moved: make(chan struct{})}
	r.hard, r.endHard = context.WithCancel(context.Background())
	r.soft, r.endSoft = context.WithCancel(r.hard)
	for _, addr := range cfg.NameServers {
		n := &nameServer{r: r, addr: addr, logger: cfg.Logger.With("nameserver", addr), changed: make(chan struct{}, 1)}
		r.servers = append(r.servers, n)
	}
	for _, n := range r.servers {
		r.running.Go(n.run)
	}
	return r, nil
}

// Update says what is true from now on, and returns at once. Name servers that
// are busy with an earlier one get the latest only. A replica that leads no
// longer must Update with its own id and the new term before anything else: until
// then it claims to lead. Nothing happens after Close.
func (r *Registrar) Update(reg Registration) {
	r.current.Store(&revision{Registration: reg})
	for _, n := range r.servers {
		select {
		case n.changed <- struct{}{}:
		default: // it will look
		}
	}
}

// Close unregisters the broker everywhere, and ends all connections when that is
// done or ctx ends. Name servers that it is not connected to forget the broker
// by themselves.
func (r *Registrar) Close(ctx context.Context) {
	r.endSoft()
	ended := make(chan struct{})
	go func() {
		r.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	r.endHard()
	<-ended
}

// Wait waits until every name server that is connected has answered the latest
// Update: clients that ask it for a route see what the Update said. It returns
// ctx's error if that ends first. Name servers that are not connected, or lose
// the connection meanwhile, are not waited for.
func (r *Registrar) Wait(ctx context.Context) error {
	latest := r.current.Load()
	for {
		r.mu.Lock()
		waiting := false
		for _, n := range r.servers {
			// What was answered later than latest replaces it.
			waiting = waiting || n.status.Connected && n.answered != latest && n.answered != r.current.Load()
		}
		moved := r.moved
		r.mu.Unlock()
		if !waiting {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Status returns how things stand with each name server, in the order of the
// configuration.
func (r *Registrar) Status() []NameServerStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]NameServerStatus, len(r.servers))
	current := r.current.Load()
	for i, n := range r.servers {
		list[i] = n.status
		list[i].Address = n.addr
		list[i].Current = current != nil && n.accepted == current
	}
	return list
}

// change changes statuses, and wakes who waits for that.
func (r *Registrar) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.moved)
	r.moved = make(chan struct{})
}

// NameServerStatus is how things stand with one name server.
type NameServerStatus struct {
	Address     string
	Connected   bool
	Current     bool      // it has accepted the latest Update on this connection
	LastSuccess time.Time // of a registration or heartbeat; zero: never
	LastError   error     // nil: never; it may be older than LastSuccess
	ErrorTime   time.Time // of LastError
}
