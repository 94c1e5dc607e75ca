package client

import (
	"errors"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// beatNow makes the heartbeats go out at once.
func (c *Client) beatNow() {
	select {
	case c.beat <- struct{}{}:
	default:
	}
}

// told says whether brokers are to know this client, and whether not only the leaders but all replicas: if it consumes, or has transactions.
// A replica that leads next must know the whole consumer group, and whom to ask about half messages.
func (c *Client) told() (some, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all = len(c.consumers) > 0
	for p := range c.producers {
		all = all || p.checks != nil
	}
	return all || len(c.producers) > 0, all
}

// sendHeartbeats tells the brokers of this client.
func (c *Client) sendHeartbeats() {
	ticker := time.NewTicker(c.cfg.HeartbeatInterval)
	defer ticker.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-ticker.C:
		case <-c.beat:
		}
		some, all := c.told()
		if !some {
			continue
		}
		for _, p := range c.brokers(all) {
			if conn := p.conn.Load(); conn != nil {
				c.heartbeatTo(p, conn, nil)
			} else {
				c.connect(p)
			}
		}
	}
}

// connect makes a connection, which is greeted with a heartbeat. If none can be made there is nobody to tell.
func (c *Client) connect(p *peer) { c.spawn(func() { p.get(c.ctx, 0) }) }

// reconnect connects a client that all replicas are to know to those that it has lost: one that leads next must know the whole group, or
// queues are shared wrongly. Those that stay away are left to the heartbeats.
func (c *Client) reconnect() {
	if _, all := c.told(); !all {
		return
	}
	for _, p := range c.brokers(true) {
		if p.conn.Load() == nil && p.failingFor() < c.cfg.HeartbeatInterval {
			c.connect(p)
		}
	}
}

// brokers returns all replicas of all groups, or only leaders.
func (c *Client) brokers(all bool) []*peer {
	var list []*peer
	seen := map[*peer]bool{}
	add := func(p *peer) {
		if p != nil && !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	for _, g := range c.groupList() {
		add(g.leader.Load())
		if all {
			for _, p := range g.replicas.Load().list {
				add(p)
			}
		}
	}
	return list
}

// greet sends a heartbeat over a new connection, if its other end is a broker that should have one.
func (c *Client) greet(p *peer, conn *remoting.Conn) {
	some, all := c.told()
	if !some {
		return
	}
	for _, b := range c.brokers(all) {
		if b == p {
			c.heartbeatTo(p, conn, nil)
			return
		}
	}
}

// heartbeatTo sends a heartbeat, and calls done, if that is not nil, when it has been answered or not. A peer that does not answer is taken
// for dead.
func (c *Client) heartbeatTo(p *peer, conn *remoting.Conn, done func()) {
	err := conn.CallAsync(&remoting.Command{Code: remoting.HeartBeat, Body: c.heartbeat()}, c.cfg.CallTimeout, func(resp *remoting.Command, err error) {
		if done != nil {
			done()
		}
		if err == nil {
			err = resp.Err()
		} else if errors.Is(err, remoting.ErrTimeout) {
			conn.Fail(errUnresponsive)
		}
		if err != nil {
			c.log.Info("heartbeat", "broker", p.addr, "error", err)
		}
	})
	if err != nil {
		c.log.Debug("heartbeat", "broker", p.addr, "error", err)
		if done != nil {
			done()
		}
	}
}

// heartbeat encodes who this client is and what it does.
func (c *Client) heartbeat() []byte {
	h := remoting.Heartbeat{ClientID: c.cfg.ClientID}
	c.mu.Lock()
	seen := map[string]bool{}
	for p := range c.producers {
		if !seen[p.cfg.Group] {
			seen[p.cfg.Group] = true
			h.Producers = append(h.Producers, p.cfg.Group)
		}
	}
	consumers := make([]consumer, 0, len(c.consumers))
	for _, m := range c.consumers {
		consumers = append(consumers, m)
	}
	c.mu.Unlock()
	for _, m := range consumers {
		h.Consumers = append(h.Consumers, m.data())
	}
	return h.AppendBody(nil)
}
