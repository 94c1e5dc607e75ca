package broker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// How a replica leaves (SIGTERM). Stock clients look at the routes every 30 s only,
// so one that vanished would cost them sends, or rest from consuming, until then.
//
//  1. Another replica gets leadership; what is asked meanwhile waits for it.
//  2. The name servers forget this one.
//  3. It passes on what only the leader can answer and serves pulls, until nobody
//     has wanted anything for drainQuiet, or shutdownDrainTimeout is over.
//  4. What has come by then is answered, and connections are closed.
const (
	drainQuiet = 2 * time.Second
	drainTick  = 50 * time.Millisecond
)

// usage says when clients have last wanted something.
type usage struct {
	epoch time.Time
	last  atomic.Int64 // since epoch
}

// note notes a request of a session. What clients send to all brokers they know
// says nothing of who would miss this one; other replicas' do not count.
func (u *usage) note(s *session, req *remoting.Command) {
	switch req.Code {
	case remoting.HeartBeat, remoting.UnregisterClient, remoting.CheckClientConfig, remoting.GetConsumerListByGroup,
		remoting.GetConsumerConnectionList, remoting.GetBrokerRuntimeInfo, remoting.RaftStatusRequest:
		return
	}
	if req.Ext.Get(extFrom) == "" {
		s.client.Store(true)
		u.last.Store(int64(time.Since(u.epoch)))
	}
}

// leaves says whether clients are to go elsewhere: this replica is about to stop, or
// is not of the group any more.
func (b *Broker) leaves() bool { return b.draining.Load() || b.group.Removed() != "" }

// idle is for how long nobody has wanted anything.
func (u *usage) idle() time.Duration {
	return time.Since(u.epoch) - time.Duration(u.last.Load())
}

// leave gives leadership away and waits until clients have gone elsewhere, as far
// as ctx gives it time.
func (b *Broker) leave(ctx context.Context) {
	if b.replicas() == 1 { // there is nobody to go to
		b.names.leave(ctx)
		return
	}
	if err := b.group.Leave(ctx); err != nil {
		b.logger.Warn("leadership was not handed over", "error", err)
	}
	b.draining.Store(true)
	b.names.leave(ctx)
	b.holds.answerAll() // it says where to go on
	d := drain{b: b, begun: time.Now()}
	limit := time.NewTimer(time.Duration(b.cfg.ShutdownDrainTimeout))
	defer limit.Stop()
	tick := time.NewTicker(drainTick)
	defer tick.Stop()
	for !d.over() {
		select {
		case <-tick.C:
		case <-limit.C:
			b.logger.Info("clients still use this replica; it closes all the same", "held", b.holds.count())
			return
		case <-ctx.Done():
			return
		}
	}
}

// drain is the wait for clients to go elsewhere.
type drain struct {
	b     *Broker
	begun time.Time
	led   time.Time // when somebody else was last seen to lead
}

// over says whether nobody would miss this replica, or it is of no use.
func (d *drain) over() bool {
	b, now := d.b, time.Now()
	if b.group.Leadership().Address != "" && !b.leads() {
		d.led = now
	}
	if d.led.IsZero() {
		d.led = d.begun
	}
	return !b.sessions.clients() || now.Sub(d.led) > relayHold ||
		b.holds.count() == 0 && min(b.usage.idle(), now.Sub(d.begun)) >= drainQuiet
}
