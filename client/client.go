package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// MessageQueue names a queue: topic, broker group, number.
type MessageQueue = remoting.MessageQueue

// Client owns what producers and consumers share: one connection per broker address, the routes, the heartbeats. It is safe for use by
// several goroutines.
//
// Invariants:
//  1. A goroutine of the client runs only between New and the return of Close (see spawn).
//  2. A peer, group or topic, once in its table, is the only one of its name until Close; only an unused peer is taken out.
type Client struct {
	cfg    Config
	log    *slog.Logger
	keys   *remoting.UniqKeys
	bodies *decompressor

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	beat   chan struct{} // has one: heartbeats are due now

	waiters waiters
	servers *nameServers
	topics  atomic.Pointer[map[string]*topic] // copied on write, as every send reads it

	requests requests

	mu        sync.Mutex
	closing   bool // no new members
	closed    bool // no new goroutines and connections
	peers     map[string]*peer
	groups    map[string]*group
	producers map[*Producer]struct{}
	consumers map[string]consumer // by group
}

// consumer is what the client needs of a consumer.
type consumer interface {
	// data is what heartbeats say of it.
	data() remoting.ConsumerData
	// routeChanged tells it that a topic's route is another one now. It must not block.
	routeChanged(topic string)
	// serve answers a broker's request about its group; false: it does not know the request. It runs as Handler does.
	serve(req *remoting.Command) bool
	Close(ctx context.Context) error
}

// New returns a Client. It connects when there is something to do.
func New(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	bodies, err := newDecompressor(cfg.MaxDecompressed)
	if err != nil {
		return nil, fmt.Errorf("%w: Config.MaxDecompressed: %w", ErrConfig, err)
	}
	c := &Client{
		cfg: cfg, log: cfg.Logger.With("client", cfg.ClientID), keys: remoting.NewUniqKeys(localAddr()), bodies: bodies, beat: make(chan struct{}, 1),
		peers: map[string]*peer{}, groups: map[string]*group{}, producers: map[*Producer]struct{}{}, consumers: map[string]consumer{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.topics.Store(&map[string]*topic{})
	c.servers = newNameServers(c, cfg.servers())
	c.spawn(c.pollRoutes)
	c.spawn(c.sendHeartbeats)
	return c, nil
}

// ID returns how brokers call this client.
func (c *Client) ID() string { return c.cfg.ClientID }

// spawn runs f on a goroutine that Close waits for. It returns false, and does not, once Close has begun to.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

// Close closes the producers and consumers of c, each as its own Close does within ctx, and then the connections. When it returns, no
// goroutine of c is left but those of listeners that do not return. The error is what theirs were.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	producers := slices.Collect(maps.Keys(c.producers))
	consumers := slices.Collect(maps.Values(c.consumers))
	c.mu.Unlock()

	// Listeners may produce, so consumers go first.
	errs := make([]error, len(consumers)+len(producers))
	var members sync.WaitGroup
	for i, m := range consumers {
		members.Go(func() { errs[i] = m.Close(ctx) })
	}
	members.Wait()
	for i, p := range producers {
		members.Go(func() { errs[len(consumers)+i] = p.Close(ctx) })
	}
	members.Wait()

	c.mu.Lock()
	c.closed = true
	peers := slices.Collect(maps.Values(c.peers))
	c.mu.Unlock()
	c.cancel()
	for _, p := range peers {
		p.close()
	}
	c.wg.Wait()
	return errors.Join(errs...)
}

// addConsumer registers a consumer and makes the heartbeats tell of it.
func (c *Client) addConsumer(group string, m consumer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
		return ErrClosed
	case c.consumers[group] != nil:
		return fmt.Errorf("%w: this client has a consumer of group %s already; brokers tell the members of a group by client, so a second one needs a Client of its own", ErrConfig, group)
	}
	c.consumers[group] = m
	c.beatNow()
	return nil
}

func (c *Client) removeConsumer(group string) {
	c.mu.Lock()
	delete(c.consumers, group)
	c.mu.Unlock()
}

// unregister tells leaders, or all replicas, that a group has left, without waiting for more than ctx and CallTimeout.
func (c *Client) unregister(ctx context.Context, producerGroup, consumerGroup string, all bool) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	req := &remoting.Command{Code: remoting.UnregisterClient, Header: &remoting.UnregisterClientRequest{
		ClientID: c.cfg.ClientID, ProducerGroup: producerGroup, ConsumerGroup: consumerGroup,
	}}
	var calls sync.WaitGroup
	for _, p := range c.brokers(all) {
		if conn := p.conn.Load(); conn != nil {
			calls.Go(func() {
				// A broker that does not hear of it sees the connection close, or the heartbeats end.
				if _, err := c.roundTrip(ctx, conn, req, c.cfg.CallTimeout, nil); err != nil {
					c.log.Debug("unregister", "broker", p.addr, "error", err)
				}
			})
		}
	}
	calls.Wait()
}

// serve answers the requests of brokers.
func (c *Client) serve(conn *remoting.Conn, req *remoting.Command) {
	switch req.Code {
	case remoting.PushReplyMessageToClient:
		c.serveReply(req)
		return
	case remoting.CheckTransactionState:
		c.serveCheck(conn, req)
		return
	}
	group := req.Ext.Get("consumerGroup")
	if group == "" {
		group = req.Ext.Get("group")
	}
	c.mu.Lock()
	m := c.consumers[group]
	c.mu.Unlock()
	if m != nil && m.serve(req) {
		return
	}
	c.log.Debug("request not served", "request", remoting.RequestName(req.Code), "group", group, "broker", conn.RemoteAddr())
	req.Responder().Error(remoting.Errorf(remoting.RequestCodeNotSupported, "%s for group %q is not served by this client", remoting.RequestName(req.Code), group))
}

// pause waits for d, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
