package namesrv

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/remoting"
)

// nameServer is one that a Registrar registers with. Its goroutine runs run.
type nameServer struct {
	r       *Registrar
	addr    string
	logger  hclog.Logger
	changed chan struct{} // Update was called; has room for one

	// Changed by the goroutine, by Registrar.change.
	status   NameServerStatus
	accepted *revision // the last one, if it was accepted on this connection
	answered *revision // the last one, if it was accepted or refused on this connection

	fullAt time.Time     // when everything was last registered; the goroutine's own, as is
	wait   time.Duration // until the next attempt to connect
}

// run connects, and again whenever the connection is lost, until Close.
func (n *nameServer) run() {
	n.wait = minReconnect
	for {
		conn, err := n.connect()
		if err == nil {
			err = n.serve(conn)
			conn.Close()
		}
		n.r.change(func() { n.status.Connected, n.accepted, n.answered = false, nil, nil })
		if n.r.soft.Err() != nil {
			return
		}
		n.failed(fmt.Errorf("name server %s: %w", n.addr, err))
		// Half of the wait is random: brokers that lost a name server at one
		// time do not come back at one time.
		t := time.NewTimer(n.wait/2 + rand.N(n.wait/2))
		n.wait = min(2*n.wait, maxReconnect)
		select {
		case <-t.C:
		case <-n.r.soft.Done():
			t.Stop()
			return
		}
	}
}

// connect makes a connection, unless Close is called meanwhile.
func (n *nameServer) connect() (*remoting.Conn, error) {
	ctx, cancel := context.WithTimeout(n.r.soft, n.r.cfg.CallTimeout)
	defer cancel()
	nc, err := n.r.cfg.Dial(ctx, n.addr)
	if err != nil {
		return nil, err
	}
	n.r.change(func() { n.status.Connected = true })
	return remoting.NewConn(nc, n.r.cfg.Conn, nil), nil
}

// serve keeps the broker registered over a connection until that is lost, which
// it returns, or until Close.
func (n *nameServer) serve(conn *remoting.Conn) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-n.r.soft.Done():
			n.unregister(conn)
			return nil
		case <-conn.Done():
			return conn.Err()
		case <-n.changed:
		case <-t.C:
		}
		if err := n.announce(conn); err != nil {
			return err
		}
		period := n.r.cfg.Heartbeat
		t.Reset(period - period/10 + rand.N(period/5))
	}
}

// announce says what is to be said now. An error means that the connection is of
// no use any more; that the name server refuses is none.
func (n *nameServer) announce(conn *remoting.Conn) error {
	rev := n.r.current.Load()
	if rev == nil {
		return nil
	}
	if n.accepted == rev && time.Since(n.fullAt) < fullEvery {
		known, err := n.query(conn, rev)
		if err != nil {
			return err
		}
		if known {
			n.succeeded(rev)
			return nil
		}
	}
	resp, err := n.call(conn, rev.registerRequest(n.r.cfg.Lease.Milliseconds()))
	if err != nil {
		return err
	}
	if err := resp.Err(); err != nil {
		n.failed(fmt.Errorf("name server %s refuses %s of %s: %w", n.addr, rev.BrokerAddr, rev.BrokerName, err))
		n.r.change(func() { n.accepted, n.answered = nil, rev })
		return nil
	}
	n.fullAt = time.Now()
	n.succeeded(rev)
	return nil
}

// query asks whether the name server still knows the broker as it is. One that
// cannot say counts as not knowing.
func (n *nameServer) query(conn *remoting.Conn, rev *revision) (known bool, err error) {
	resp, err := n.call(conn, rev.queryRequest())
	if err != nil {
		return false, err
	}
	var answer remoting.QueryDataVersionResponse
	return resp.Code == remoting.Success && answer.Decode(resp) == nil && !answer.Changed, nil
}

// unregister does what can be done before the connection is closed, which has
// the same effect, but maybe not as soon.
func (n *nameServer) unregister(conn *remoting.Conn) {
	rev := n.r.current.Load()
	if rev == nil {
		return
	}
	resp, err := n.call(conn, rev.unregisterRequest())
	if err == nil {
		err = resp.Err()
	}
	if err != nil {
		n.failed(fmt.Errorf("name server %s: unregister: %w", n.addr, err))
	}
}

func (n *nameServer) call(conn *remoting.Conn, req *remoting.Command) (*remoting.Command, error) {
	type answer struct {
		resp *remoting.Command
		err  error
	}
	answered := make(chan answer, 1)
	if err := conn.CallAsync(req, n.r.cfg.CallTimeout, func(resp *remoting.Command, err error) { answered <- answer{resp, err} }); err != nil {
		return nil, err
	}
	select {
	case a := <-answered:
		return a.resp, a.err
	case <-n.r.hard.Done():
		return nil, n.r.hard.Err()
	}
}

// succeeded notes that the name server knows rev.
func (n *nameServer) succeeded(rev *revision) {
	fresh := n.accepted == nil
	n.r.change(func() {
		n.accepted, n.answered = rev, rev
		n.status.LastSuccess = time.Now()
	})
	n.wait = minReconnect
	if fresh {
		n.logger.Info("registered", "broker", rev.BrokerName, "id", rev.BrokerID, "term", rev.Term)
	}
}

// failed notes an error, and logs it unless the one before said the same.
func (n *nameServer) failed(err error) {
	last, repeated := n.status.LastError, false
	if last != nil {
		repeated = last.Error() == err.Error() && !n.status.LastSuccess.After(n.status.ErrorTime)
	}
	n.r.change(func() { n.status.LastError, n.status.ErrorTime = err, time.Now() })
	if !repeated {
		n.logger.Warn("not registered", "error", err)
	}
}
