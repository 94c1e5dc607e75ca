package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	enqueueTimeout = time.Second
	rpcTimeout     = 10 * time.Second
	dialTimeout    = 2 * time.Second
	// maxInFlight is how many append requests a pipeline may have on its way.
	// Below 16 raft's wedge is likely, see pipeline.
	maxInFlight = 64
	// maxAppendEntries is how many entries raft stores, sends or applies at once.
	maxAppendEntries = 64
	commitTimeout    = 10 * time.Millisecond
)

// life is one run of raft on a group's files. A group has one at a time; it gets
// a new one only if raft no longer knows its own log, see supervise.
type life struct {
	g     *Group
	raft  *raft.Raft
	trans *transport
	layer *streamLayer
	gate  *heartbeatGate
	begun time.Time
	ready chan struct{} // closed when the fields are set and raft runs
	again chan struct{} // has something when the replica may lead that was fenced

	ctx      context.Context // ends when the life does
	cancel   context.CancelFunc
	done     sync.WaitGroup
	once     sync.Once
	shutdown raft.Future

	restoring error // why the snapshot could not be restored at the start
}

// begin starts raft. If it ran before in this process, the state is where that
// run has left it, which no snapshot is ahead of: nothing is restored, and what
// is applied already is passed over.
func (g *Group) begin(again bool) (l *life, err error) {
	cfg := &g.cfg
	l = &life{g: g, gate: &heartbeatGate{}, begun: time.Now(), ready: make(chan struct{}), again: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(g.ctx)
	l.layer = newStreamLayer(l.ctx, cfg.Port, cfg.Name, g.id, peerAddress(g.id, g.peerAddress()))
	l.layer.off = g.isFenced()
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: l.layer, MaxPool: 4, MaxRPCsInFlight: maxInFlight, Timeout: rpcTimeout, Logger: g.logger.Named("transport"),
	})
	l.trans = newTransport(inner, l.gate, g.holds, g.forgotten, &g.standing, cfg.guard)
	conf := raft.DefaultConfig()
	conf.LocalID = g.id
	conf.HeartbeatTimeout, conf.ElectionTimeout = cfg.Election, cfg.Election
	conf.LeaderLeaseTimeout = cfg.Election
	conf.CommitTimeout = commitTimeout
	conf.MaxAppendEntries = maxAppendEntries
	conf.BatchApplyCh = true
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	conf.NoSnapshotRestoreOnStart = again
	// Snapshots are due by bytes, see snapshots: raft's own count must not.
	conf.SnapshotThreshold = 1 << 62
	conf.SnapshotInterval = 24 * time.Hour
	conf.Logger = g.logger.Named("raft")
	if err := l.newRaft(conf); err != nil {
		l.cancel()
		return nil, errors.Join(err, l.restoring, l.trans.Close())
	}
	l.gate.watch(l.raft, g.stable)
	g.life.Store(l)
	observer := make(chan raft.Observation, 64)
	l.raft.RegisterObserver(raft.NewObserver(observer, false, func(o *raft.Observation) bool {
		_, leader := o.Data.(raft.LeaderObservation)
		return leader
	}))
	l.done.Go(func() { l.watchLeadership(observer) })
	l.done.Go(l.watchConnections)
	return l, nil
}

// newRaft makes raft, which panics if it can't read its log.
func (l *life) newRaft(conf *raft.Config) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("raft can't start: %v", r)
		}
	}()
	log := &logStore{Log: l.g.log, snaps: l.g.snaps, halt: l.fail, lost: l.g.entryLost, stored: l.g.fitness.stored, guard: l.g.cfg.guard}
	stable := &stableStore{StableStore: l.g.stable, gate: l.gate, halt: l.fail, note: l.g.noteStable}
	l.raft, err = raft.NewRaft(conf, &machine{l.g, l}, log, stable, l.g.snaps, l.trans)
	return err
}

// running says whether raft has started: before that its failures are Open's.
func (l *life) running() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// fail stops the replica, and says whether it did: not while raft starts.
func (l *life) fail(err error) bool {
	if !l.running() {
		return false
	}
	l.g.fail(err)
	return true
}

// halt makes raft stop and cuts its connections, so that nothing it waits for
// holds it up. It does not wait: raft's own goroutines call it.
func (l *life) halt() {
	l.once.Do(func() {
		l.shutdown = l.raft.Shutdown()
		l.cancel()
		l.layer.cut()
	})
}

// resign is halt for a replica that may lead: its followers are to have another
// leader at once, and one of them is asked to be it before the connections go. raft
// itself has been told to stop.
func (l *life) resign() {
	l.once.Do(func() {
		led := l.raft.State() == raft.Leader || l.g.leadership.Load().Self // it may have stepped down for the failure
		l.shutdown = l.raft.Shutdown()
		l.done.Go(func() {
			if led {
				l.g.resign(l)
			}
			l.cancel()
			l.layer.cut()
		})
	})
}

// stop ends the life: nothing of it runs when it returns.
func (l *life) stop() error {
	l.halt()
	err := l.shutdown.Error()
	l.done.Wait()
	return err
}
