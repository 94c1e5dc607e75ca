package broker

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// closing closes a node in the background; the channel has how long that took.
func (c *testCluster) closing(t *testing.T, b *Broker) <-chan time.Duration {
	t.Helper()
	id := b.cfg.NodeID
	c.mu.Lock()
	n := c.nodes[id]
	delete(c.nodes, id)
	c.mu.Unlock()
	took := make(chan time.Duration, 1)
	begin := time.Now()
	go func() {
		if err := n.Close(context.Background()); err != nil {
			t.Errorf("closing %s: %v", id, err)
		}
		took <- time.Since(begin)
	}()
	return took
}

// A leader that is stopped hands over, is forgotten by the name servers, and goes
// on for clients that have not noticed, until they have: it passes on their sends
// and serves their pulls, and tells who leads.
func TestDrainServesWhoHasNotNoticed(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, func(cfg *Config) { cfg.ShutdownDrainTimeout = Duration(35 * time.Second) })
	leader := cl.leader(t)
	addr := leader.addr.String()
	c := dial(t, leader)
	c.topic("T", 1)
	c.group("g")
	at := slices.DeleteFunc(cl.ids(), func(id string) bool { return id == leader.cfg.NodeID })[0]
	registered := func() bool {
		d, err := cl.route(t, at, "T")
		return err == nil && slices.ContainsFunc(d.Brokers, func(b remoting.BrokerData) bool {
			for _, a := range b.Addrs {
				if a == addr {
					return true
				}
			}
			return false
		})
	}
	eventually(t, "its registration", registered)
	parked := c.pulling(pullOf("T", 0, 0, held(time.Minute)))
	eventually(t, "a held pull", func() bool { return leader.holds.count() == 1 })
	took := cl.closing(t, leader)
	if got := <-parked; got.code == remoting.Success {
		t.Errorf("the held pull was answered %d with %q", got.code, got.bodies())
	}
	c.mustSend(message("T", 0), "passed on")
	eventually(t, "that the name servers forget it", func() bool {
		c.mustSend(message("T", 0), "passed on")
		return !registered()
	})
	next := cl.leader(t)
	var resp *remoting.Command
	eventually(t, "that it has what it passed on, too", func() bool {
		var err error
		resp, err = c.call(&remoting.Command{Code: remoting.PullMessage, Header: pullOf("T", 0, 0)})
		return err == nil && resp.Code == remoting.Success
	})
	if resp.Ext.Get(extLeader) != next.addr.String() {
		t.Errorf("a pull is answered %v: the leader is %s", resp, next.addr)
	}
	if d := <-took; d < drainQuiet || d > 20*time.Second {
		t.Errorf("it has closed after %v", d)
	}
	for _, m := range dial(t, next).all("T", 0) {
		if string(m.Body()) != "passed on" {
			t.Errorf("stored: %q", m.Body())
		}
	}
}

// Who does not stop is waited for no longer than shutdownDrainTimeout, and who is
// not there not at all.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	const limit = 3 * time.Second
	cl := startCluster(t, 3, func(cfg *Config) { cfg.ShutdownDrainTimeout = Duration(limit) })
	leader := cl.leader(t)
	c := dial(t, leader)
	c.topic("T", 1)
	took := cl.closing(t, leader)
	eventually(t, "a refusal", func() bool {
		_, err := c.call(&remoting.Command{Code: remoting.SendMessageV2, Header: message("T", 0), Body: []byte("m")})
		return codeOf(err) == remoting.GoAway || codeOf(err) == remoting.ServiceNotAvailable
	})
	d := <-took
	if d < limit || d > limit+5*time.Second {
		t.Errorf("with a client that goes on it has taken %v", d)
	}
	leader = cl.leader(t)
	if d := <-cl.closing(t, leader); d > drainQuiet {
		t.Errorf("without a client it has taken %v", d)
	}
}
