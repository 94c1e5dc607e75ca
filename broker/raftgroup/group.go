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
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// Group is this node's replica of one raft group.
type Group struct {
	cfg      Config
	id       raft.ServerID
	identity Identity
	hadState bool // when it was opened
	begun    time.Time
	logger   hclog.Logger

	log    *raftlog.Log
	stable *raftlog.Stable
	snaps  *raftlog.Snapshots
	disk   *disk.Watch
	store  *storage.Store
	state  *fsm.State
	clock  logClock

	life       atomic.Pointer[life]
	proposer   *proposer
	verifier   *verifier
	leadership atomic.Pointer[Leadership]
	leading    sync.Mutex // over each change of leadership
	progress   progress
	former     former
	standing   standing
	handover   handover
	taking     intake
	suspicion  suspicion
	shortcut   shortcut
	changing   changing
	removed    atomic.Pointer[string]
	said       said
	pilot      atomic.Pointer[pilot] // while this replica leads
	fence      fence
	fitness    fitness
	// What applied has told of; for raft's applying goroutine.
	leaderTerm   uint64
	tableChanges int64

	failure  atomic.Pointer[error]
	fetchers atomic.Int32 // streams that serveFetch serves
	giving   throttle     // of what they get
	given    atomic.Int64 // bytes of the CommitLog that they got
	fetched  atomic.Int64 // bytes of the CommitLog that were missing and came from peers
	scrub    scrubber

	ctx     context.Context // ends with the group
	cancel  context.CancelCauseFunc
	done    sync.WaitGroup // the group's own goroutines
	opening sync.Mutex     // over changes of life, and serving against Close
	serving sync.WaitGroup // peers' requests
	once    sync.Once
	closed  error

	directing sync.Mutex // see direct
}

// Open opens this node's replica of a group, or makes it. It does not wait for a
// leader.
func Open(cfg Config) (_ *Group, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	g := &Group{
		cfg:    cfg,
		logger: cfg.Logger.With("group", cfg.Name),
		begun:  time.Now(),
		clock:  newLogClock(cfg.Now, cfg.Wall),
	}
	g.changing = make(changing, 1)
	g.ctx, g.cancel = context.WithCancelCause(context.Background())
	g.disk = disk.NewWatch(cfg.FS, urgent)
	g.cfg.FS = g.disk
	g.fitness.init(cfg.DiskSlow)
	g.fence.probes.init(g.disk, cfg.Dir)
	g.leadership.Store(&Leadership{})
	g.progress.init()
	g.scrub.init()
	g.giving.rate = cfg.CatchUpRate
	g.handover.init()
	g.standing.alone, g.standing.votes, g.standing.changed = g.leaderless, g.votes, g.handover.wake
	defer func() {
		if err != nil {
			g.cancel(ErrClosed)
			err = errors.Join(fmt.Errorf("group %s: %w", cfg.Name, err), g.closeFiles())
		}
	}()
	if err := g.openFiles(); err != nil {
		return nil, err
	}
	l, err := g.begin(false)
	if err != nil {
		return nil, err
	}
	g.start(l)
	return g, nil
}

// openFiles opens what is on the disk and looks whether it fits together.
func (g *Group) openFiles() error {
	cfg := &g.cfg
	if err := makeDir(cfg.FS, cfg.Dir); err != nil {
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
		Flush: cfg.Flush, BootID: cfg.BootID, Room: g.roomFor, Logger: g.logger,
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
	if !cfg.guard.noTermCheck {
		if err := raftlog.CheckTerm(g.stable, g.log, g.snaps); err != nil {
			return err
		}
	}
	if !cfg.guard.noReconcile {
		if _, err := raftlog.Reconcile(g.log, g.snaps); err != nil {
			return err
		}
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
	g.id, g.identity = id.ServerID(), id
	if err := g.finishRecovery(id.Recovered); err != nil {
		return err
	}
	g.suspect()
	return g.openStore(id.StoreReplica())
}

func (g *Group) openStore(replica string) (err error) {
	o := g.cfg.Storage
	o.FS, o.Dir, o.Logger = g.cfg.FS, path.Join(g.cfg.Dir, "store"), g.logger
	o.Cluster, o.Group, o.Replica = g.cfg.Cluster, g.cfg.Name, replica
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

// start starts what makes a replica of a running raft.
func (g *Group) start(l *life) {
	cfg := &g.cfg
	g.proposer = newProposer(proposerConfig{
		raft: g, now: g.clock.read, storeHost: cfg.ClientAddress, pending: g.log.Pending,
		room:       g.store.Room,
		settled:    g.taking.exit,
		batchBytes: cfg.BatchBytes, maxEntry: cfg.MaxEntry, maxAccepted: int(cfg.RaftSegmentSize / 2), maxBytes: cfg.MaxPending, maxInflight: cfg.MaxInflight,
		enqueue: enqueueTimeout, slaveTimeout: cfg.SlaveTimeout, flushTimeout: cfg.FlushTimeout,
	})
	g.verifier = newVerifier(g.verify)
	g.clock.raise(g.state.LogTime())
	g.progress.set(g.state.Applied())
	g.tableChanges = g.state.TableChanges()
	// From here on raft's goroutines, which run already, find all they need.
	close(l.ready)
	g.direct(portGroup{serverID: string(g.id), serve: g.serve, mistaken: g.former.note})
	g.done.Go(g.watchFailures)
	g.done.Go(g.watchDisk)
	g.done.Go(g.probes)
	g.done.Go(g.watchFitness)
	g.done.Go(g.snapshots)
	g.done.Go(g.catchUp)
	g.done.Go(g.scrubs)
	g.done.Go(g.supervise)
	g.done.Go(g.handOvers)
	g.done.Go(g.keepTime)
	if is, _ := g.suspicion.get(); is {
		g.done.Go(g.rejoin)
	}
	g.done.Go(g.watchMembership)
	if !g.hadState {
		g.done.Go(func() { g.bootstrap(g.ctx) })
	}
}

// raft is the raft that runs now.
func (g *Group) raft() *raft.Raft { return g.life.Load().raft }

// ApplyLog implements applier.
func (g *Group) ApplyLog(log raft.Log, timeout time.Duration) raft.ApplyFuture {
	return g.raft().ApplyLog(log, timeout)
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
	g.opening.Lock()
	if g.ctx.Err() != nil {
		g.opening.Unlock()
		c.Close()
		return
	}
	g.serving.Add(1)
	g.opening.Unlock()
	defer g.serving.Done()
	switch h.Kind {
	case streamRaft:
		g.life.Load().layer.offer(raft.ServerID(h.From), c)
	case streamState:
		g.answer(c, g.describe())
	case streamRejoin:
		g.answerRejoin(h, c)
	case streamClock:
		g.answer(c, clockAnswer{Clock: msOf(g.cfg.Wall())})
	case streamJoin:
		g.answerJoin(h.From, c)
	case streamFetch:
		g.serveFetch(c)
	}
}

// holds says whether this replica holds an entry and all before it.
func (g *Group) holds(index, term uint64) bool {
	if applied, _ := g.progress.get(); index <= applied {
		return true
	}
	var l raft.Log
	return g.log.GetLog(index, &l) == nil && l.Term == term
}

// roomFor refuses entries that apply would find no room for. The raft log asks
// it. A leader that is refused stops leading; so what can wait is refused before
// it is proposed, and what a leader needs to become one is not refused for want
// of room for messages.
func (g *Group) roomFor(logs []*raft.Log) error {
	if g.store == nil {
		return nil
	}
	for _, l := range logs {
		if l.Type == raft.LogCommand && fsm.StoresMessages(l.Data) {
			return g.store.Room()
		}
	}
	return g.store.RoomForState()
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
// more. What it has applied stays readable. It does not wait for anything, so
// any goroutine may call it, raft's too.
func (g *Group) fail(err error) {
	if !g.failure.CompareAndSwap(nil, &err) {
		return
	}
	g.logger.Error("this replica has stopped; its peers go on without it", "error", err,
		"todo", "mend what the error names, then restart the node")
	g.direct(portGroup{})
	g.proposer.refuse(fmt.Errorf("%w: %w", ErrClosed, err))
	g.life.Load().resign()
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

// checkStore stops the replica if its store has failed: nobody may be told that
// there is no room for as long as this one leads.
func (g *Group) checkStore() {
	if err := g.store.Err(); err != nil && g.ctx.Err() == nil {
		g.fail(err)
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
// Leave. Who waits for an outcome is told that it is unknown.
func (g *Group) Close() error {
	g.once.Do(func() {
		g.opening.Lock()
		g.cancel(ErrClosed)
		l := g.life.Load()
		g.opening.Unlock()
		g.direct(portGroup{})
		g.abdicate()
		err := l.stop()
		g.proposer.close()
		g.verifier.close()
		g.done.Wait()
		g.serving.Wait()
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
