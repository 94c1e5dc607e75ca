package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/raftlog"
)

const (
	enqueueTimeout = time.Second
	rpcTimeout     = 10 * time.Second
	// maxInFlight is how many append requests a pipeline may have on its way.
	// Below 16 raft's wedge is likely, see pipeline.
	maxInFlight = 64
	// maxAppendEntries is how many entries raft stores, sends or applies at once.
	maxAppendEntries = 64
	commitTimeout    = 10 * time.Millisecond
)

// Group is this node's replica of one raft group.
type Group struct {
	cfg      Config
	id       raft.ServerID
	hadState bool // when it was opened
	logger   hclog.Logger

	log    *raftlog.Log
	stable *raftlog.Stable
	snaps  *raftlog.Snapshots
	store  *storage.Store
	state  *fsm.State
	layer  *streamLayer
	trans  *transport
	gate   *heartbeatGate
	raft   *raft.Raft
	clock  logClock

	proposer   *proposer
	verifier   *verifier
	leadership atomic.Pointer[Leadership]
	leading    sync.Mutex // over each change of leadership
	progress   progress
	// What applied has told of; for raft's applying goroutine.
	leaderTerm   uint64
	tableChanges int64

	started chan struct{} // closed when raft runs and the fields are set
	failure atomic.Pointer[error]

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	once   sync.Once
	closed error
}

// Open opens this node's replica of a group, or makes it. It does not wait for a
// leader.
func Open(cfg Config) (_ *Group, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	g := &Group{
		cfg:     cfg,
		logger:  cfg.Logger.With("group", cfg.Name),
		gate:    &heartbeatGate{},
		clock:   logClock{now: cfg.now},
		started: make(chan struct{}),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.leadership.Store(&Leadership{})
	g.progress.init()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("group %s: %w", cfg.Name, err), g.closeFiles())
			g.cancel()
		}
	}()
	if err := g.openFiles(); err != nil {
		return nil, err
	}
	if err := g.start(); err != nil {
		return nil, err
	}
	return g, nil
}

// openFiles opens what is on the disk and looks whether it fits together.
func (g *Group) openFiles() error {
	cfg := &g.cfg
	if err := cfg.FS.MkdirAll(labelIdentity, cfg.Dir); err != nil {
		return err
	}
	want := Identity{Cluster: cfg.Cluster, Group: cfg.Name, Node: cfg.Node}
	id, err := loadIdentity(cfg.FS, cfg.Dir, want)
	create := isNew(err)
	if err != nil && !create {
		return err
	}
	raftDir := path.Join(cfg.Dir, "raft")
	if err := cfg.FS.MkdirAll(labelIdentity, raftDir); err != nil {
		return err
	}
	g.log, err = raftlog.Open(cfg.FS, path.Join(raftDir, "log"), raftlog.Options{
		Create: create, SegmentBytes: cfg.RaftSegmentSize, FreeSegments: int(cfg.SnapshotBytes/cfg.RaftSegmentSize) + 2,
		Flush: cfg.Flush, BootID: cfg.BootID, Room: g.room, Logger: g.logger,
	})
	if err != nil {
		return err
	}
	if cfg.Stable != nil {
		g.stable, err = raftlog.NewStable(cfg.Stable, create)
	} else {
		g.stable, err = raftlog.OpenStable(path.Join(raftDir, "stable.db"), create)
	}
	if err != nil {
		return err
	}
	if g.snaps, err = raftlog.OpenSnapshots(cfg.FS, path.Join(raftDir, "snapshots"), g.logger); err != nil {
		return err
	}
	if err := g.snaps.VerifyNewest(); err != nil {
		return err
	}
	if err := raftlog.CheckTerm(g.stable, g.log, g.snaps); err != nil {
		return err
	}
	if _, err := raftlog.Reconcile(g.log, g.snaps); err != nil {
		return err
	}
	if g.hadState, err = raft.HasExistingState(g.log, g.stable, g.snaps); err != nil {
		return err
	}
	if create {
		if g.hadState {
			return fmt.Errorf("%s is missing although the directory holds a replica: restore it, or remove the whole directory and let the replica join again",
				path.Join(cfg.Dir, IdentityFile))
		}
		if id, err = makeIdentity(cfg.FS, cfg.Dir, want); err != nil {
			return err
		}
	}
	g.id = id.ServerID()
	return g.openStore()
}

func (g *Group) openStore() (err error) {
	o := g.cfg.Storage
	o.FS, o.Dir, o.Logger = g.cfg.FS, path.Join(g.cfg.Dir, "store"), g.logger
	o.Cluster, o.Group, o.Replica = g.cfg.Cluster, g.cfg.Name, string(g.id)
	o.SegmentSize = g.cfg.SegmentSize
	o.UnitOf, o.KeysOf = g.unitOf, fsm.KeysOf
	o.OnAppend = g.appended
	o.OnRepair = g.progress.signal
	if g.store, err = storage.Open(o); err != nil {
		return err
	}
	g.state = fsm.New(g.store, o.SegmentSize)
	if len(g.snaps.All()) == 0 {
		// raft restores nothing: the store begins empty, and the log refills it.
		return g.store.Resume(nil)
	}
	return nil
}

// start starts raft and what watches over it.
func (g *Group) start() error {
	cfg := &g.cfg
	addr := peerAddress(g.id, g.peerAddress())
	g.layer = newStreamLayer(cfg.Port, cfg.Name, g.id, addr)
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: g.layer, MaxPool: 4, MaxRPCsInFlight: maxInFlight, Timeout: rpcTimeout, Logger: g.logger.Named("transport"),
	})
	g.trans = newTransport(inner, g.gate, g.holds, cfg.guard)
	conf := raft.DefaultConfig()
	conf.LocalID = g.id
	conf.HeartbeatTimeout, conf.ElectionTimeout = cfg.Election, cfg.Election
	conf.LeaderLeaseTimeout = cfg.Election
	conf.CommitTimeout = commitTimeout
	conf.MaxAppendEntries = maxAppendEntries
	conf.BatchApplyCh = true
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	// Snapshots are due by bytes, see snapshots: raft's own count must not.
	conf.SnapshotThreshold = 1 << 62
	conf.SnapshotInterval = 24 * time.Hour
	conf.Logger = g.logger.Named("raft")
	r, err := raft.NewRaft(conf, &machine{g}, g.log, gatedStable{g.stable, g.gate}, g.snaps, g.trans)
	if err != nil {
		return errors.Join(err, g.trans.Close())
	}
	g.raft = r
	g.gate.watch(r)
	g.proposer = newProposer(proposerConfig{
		raft: r, now: g.clock.read, storeHost: cfg.ClientAddress, pending: g.log.Pending,
		batchBytes: cfg.BatchBytes, maxEntry: cfg.MaxEntry, maxBytes: cfg.MaxPending, maxInflight: cfg.MaxInflight,
		enqueue: enqueueTimeout, slaveTimeout: cfg.SlaveTimeout, flushTimeout: cfg.FlushTimeout,
	})
	g.verifier = newVerifier(func() error { return r.VerifyLeader().Error() })
	// From here on raft's goroutines, which run already, find all they need.
	close(g.started)
	cfg.Port.register(cfg.Name, portGroup{serverID: string(g.id), serve: g.serve})
	observer := make(chan raft.Observation, 64)
	r.RegisterObserver(raft.NewObserver(observer, false, func(o *raft.Observation) bool {
		_, leader := o.Data.(raft.LeaderObservation)
		return leader
	}))
	for _, run := range []func(){
		func() { g.watchLeadership(observer) },
		g.watchFailures,
		g.snapshots,
		g.catchUp,
	} {
		g.done.Go(run)
	}
	if !g.hadState {
		g.done.Go(func() { g.bootstrap(g.ctx) })
	}
	return nil
}

// peerAddress is where this node's peer port is, as the configuration says.
func (g *Group) peerAddress() string {
	for _, p := range g.cfg.Peers {
		if p.Node == g.cfg.Node {
			return p.Address
		}
	}
	return ""
}

// serve takes a connection of a peer.
func (g *Group) serve(h hello, c net.Conn) {
	switch h.Kind {
	case streamRaft:
		g.layer.offer(c)
	case streamState:
		g.answerState(c)
	case streamFetch:
		g.serveFetch(c)
	}
}

// holds says whether the log holds an entry.
func (g *Group) holds(index, term uint64) bool {
	var l raft.Log
	return g.log.GetLog(index, &l) == nil && l.Term == term
}

// room refuses entries that apply would find no room for.
func (g *Group) room() error {
	if g.store == nil {
		return nil
	}
	return g.store.Room()
}

func (g *Group) unitOf(record []byte) (storage.QueueID, int64, storage.Unit, bool) {
	return g.state.Locate(record)
}

func (g *Group) appended(queues []*storage.Queue) {
	if f := g.cfg.Events.Appended; f != nil {
		f(queues)
	}
}

// fail stops the replica for good: it neither applies nor leads nor acks any
// more. What it has applied stays readable.
func (g *Group) fail(err error) {
	if !g.failure.CompareAndSwap(nil, &err) {
		return
	}
	g.logger.Error("this replica has stopped; its peers go on without it", "error", err,
		"todo", "mend what the error names, then restart the node")
	g.proposer.refuse(fmt.Errorf("%w: %w", ErrClosed, err))
	// Not waited for: it waits for the goroutine that may have called us.
	g.raft.Shutdown()
	g.abdicate()
	if f := g.cfg.Events.Failed; f != nil {
		f(err)
	}
}

// Err is nil, or why the replica has stopped.
func (g *Group) Err() error {
	if err := g.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// watchFailures stops the replica when one of its stores is poisoned.
func (g *Group) watchFailures() {
	select {
	case <-g.log.Poisoned():
		g.fail(g.log.Err())
	case <-g.stable.Poisoned():
		g.fail(g.stable.Err())
	case <-g.ctx.Done():
	}
}

// ID is the replica's ServerID: its node and its data directory's incarnation.
func (g *Group) ID() string { return string(g.id) }

// Name is the group's name.
func (g *Group) Name() string { return g.cfg.Name }

// State is the replicated state, for reading.
func (g *Group) State() *fsm.State { return g.state }

// Store is where the messages are, for reading.
func (g *Group) Store() *storage.Store { return g.store }

// Close stops the replica. It does not give leadership away first: see
// TransferLeadership.
func (g *Group) Close() error {
	g.once.Do(func() {
		g.cfg.Port.register(g.cfg.Name, portGroup{})
		g.cancel()
		g.abdicate()
		err := g.raft.Shutdown().Error()
		g.proposer.close()
		g.verifier.close()
		g.done.Wait()
		g.closed = errors.Join(err, g.closeFiles())
	})
	return g.closed
}

func (g *Group) closeFiles() error {
	var err error
	for _, c := range []io.Closer{closer(g.store), closer(g.stable), closer(g.log)} {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// closer turns a nil pointer into a nil interface.
func closer[T interface {
	comparable
	io.Closer
}](c T) io.Closer {
	var zero T
	if c == zero {
		return nil
	}
	return c
}
