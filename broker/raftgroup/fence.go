package raftgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

const (
	diskLook = 100 * time.Millisecond
	// shakyFor is how long a replica stands last after its disk has hung.
	shakyFor = 10 * time.Second
	// resignTimeout bounds what a leader that can't go on does about its successor.
	resignTimeout = 200 * time.Millisecond

	hungDisk  = "on a disk that hangs"
	shakyDisk = "on a disk that hung a moment ago"

	probeFile                = "disk.probe"
	probeBytes               = 4096
	labelProbe    disk.Label = "replica.probe"
	labelHungText            = "the disk of this replica hangs"
)

// errHung is what is told of a send that was given to raft before the disk hung.
var errHung = wrapped(labelHungText)

// fence keeps a replica whose disk hangs away from its group. hashicorp/raft
// sends a leader's heartbeats beside its log: they go on while the log does not,
// and the group would follow a leader that can't do anything (issues 503, 614).
//
//	N1  A replica is fenced when an operation that it can't go on without takes
//	    longer than DiskHang: of the raft log, of term and vote, a write of apply, or
//	    the probe, which is made when anything else takes that long. Nothing else,
//	    however much of it hangs, keeps them from being seen.
//	N2  One that is fenced has no connections of raft, and no part in elections; it
//	    leads nobody, as it says itself, and refuses what it has accepted and not
//	    given to raft. What it has in memory can be read.
//	N3  It is let in again when no such operation is under way, and then a probe, a
//	    write and a sync, was answered. For shakyFor it stands last.
//	N4  In a group of one nobody would lead instead: it waits for its disk.
type fence struct {
	hung   atomic.Pointer[hang] // nil: not fenced
	count  atomic.Int64
	probes prober
	shaky  time.Time // until then it stands last; the watch's
}

// hang is why and since when a replica is fenced.
type hang struct {
	op    disk.InFlight
	alone bool // N4
}

func (h *hang) String() string {
	return fmt.Sprintf("%s of %s (%s) has not ended since %s", h.op.Kind, h.op.Name, h.op.Label, h.op.Since.Format(time.RFC3339Nano))
}

// urgent are operations that the replica can't go on without. The others may take
// long on a disk that is well: they are large.
func urgent(kind disk.OpKind, label disk.Label) bool {
	switch label {
	case raftlog.LabelAppend, raftlog.LabelHeader, raftlog.LabelMark, raftlog.LabelStable, labelProbe:
		return kind != disk.OpWriteback
	case storage.LabelCommitLog, storage.LabelQueue:
		return kind == disk.OpWrite
	}
	return false
}

// Fenced says why the replica is fenced, or is "".
func (g *Group) Fenced() string {
	if h := g.fence.hung.Load(); h != nil && !h.alone {
		return h.String()
	}
	return ""
}

func (g *Group) isFenced() bool {
	h := g.fence.hung.Load()
	return h != nil && !h.alone
}

// DiskHung says what on the replica's disk has been under way for longer than
// limit; "" if nothing has.
func (g *Group) DiskHung(limit time.Duration) string {
	op, ok := g.disk.Oldest(func(disk.InFlight) bool { return true })
	if !ok || time.Since(op.Since) < limit {
		return ""
	}
	return (&hang{op: op}).String()
}

// watchDisk looks after the disk until the group is closed.
func (g *Group) watchDisk() {
	tick := time.NewTicker(diskLook)
	defer tick.Stop()
	p := &g.fence.probes
	for {
		select {
		case <-tick.C:
			g.lookAtDisk(time.Now()) // and no sooner, so that a probe is one in a tick
		case r := <-p.answers:
			p.busy, p.last = false, r
			g.fitness.stored(r.took)
		case <-g.ctx.Done():
			return
		}
	}
}

func (g *Group) lookAtDisk(now time.Time) {
	f := &g.fence
	old := func(op disk.InFlight) bool { return now.Sub(op.Since) >= g.cfg.DiskHang }
	op, stuck := g.disk.Oldest(func(op disk.InFlight) bool { return old(op) && urgent(op.Kind, op.Label) })
	if p := f.probes.step.Load(); !stuck && p != nil && old(*p) {
		op, stuck = *p, true // whatever the watch could tell of
	}
	hung := f.hung.Load()
	switch {
	case stuck && hung == nil:
		g.fenceOff(&hang{op: op, alone: g.alone()})
	case stuck:
		f.probes.last = probed{} // what was answered before says nothing
	case hung != nil && f.probes.last.ok:
		g.letIn(hung)
		f.shaky = now.Add(shakyFor)
	case hung != nil:
		f.probes.ask()
	default:
		if _, long := g.disk.Oldest(old); long || g.fitness.wantsProbe() {
			f.probes.ask()
		}
		if !f.shaky.IsZero() && now.After(f.shaky) {
			f.shaky = time.Time{}
			g.standing.lift(shakyDisk)
		}
	}
}

// alone says whether nobody else of the group votes.
func (g *Group) alone() bool {
	servers, err := g.servers()
	voters := 0
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	return err == nil && voters <= 1
}

// fenceOff fences the replica. It does not wait for the disk, nor for raft, which
// does. (N2)
func (g *Group) fenceOff(h *hang) {
	g.fence.probes.last = probed{}
	g.fence.hung.Store(h)
	if h.alone {
		g.logger.Error(labelHungText+": nothing is stored until it answers", "operation", h, "todo", "look after the disk")
		return
	}
	g.fence.count.Add(1)
	g.logger.Error(labelHungText+": it is fenced until the disk answers, its peers go on without it", "operation", h,
		"todo", "look after the disk, or replace the node")
	g.standing.restrain(hungDisk, noVote)
	l := g.life.Load()
	led := l.raft.State() == raft.Leader
	g.direct(portGroup{serverID: string(g.id), serve: g.serve, refuse: errors.New(labelHungText)})
	g.abdicate()
	g.proposer.interrupt(ErrNotLeader, errHung)
	if led {
		g.resign(l)
	}
	l.layer.fence(true)
	g.toldFenced()
}

// letIn ends the fence. (N3)
func (g *Group) letIn(h *hang) {
	f := &g.fence
	f.hung.Store(nil)
	g.logger.Warn("the disk answers again", "hung for", time.Since(h.op.Since))
	if h.alone {
		return
	}
	g.standing.restrain(shakyDisk, standLast)
	g.standing.lift(hungDisk)
	l := g.life.Load()
	l.layer.fence(false)
	g.direct(portGroup{serverID: string(g.id), serve: g.serve})
	g.toldFenced()
	// Nobody may have taken its place: then it goes on in the term it was in.
	select {
	case l.again <- struct{}{}:
	default:
	}
}

// knownLeader is who leads, as raft knows: it does not know of the fence.
func (g *Group) knownLeader() (raft.ServerAddress, raft.ServerID) {
	addr, id := g.raft().LeaderWithID()
	if id == g.id && g.isFenced() {
		return "", ""
	}
	return addr, id
}

func (g *Group) toldFenced() {
	if f := g.cfg.Events.Fenced; f != nil {
		f()
	}
}

// direct directs the peers' connections, unless the replica has stopped: then
// there is nothing to be directed to any more.
func (g *Group) direct(pg portGroup) {
	g.directing.Lock()
	defer g.directing.Unlock()
	if pg.serve != nil && (g.Err() != nil || g.ctx.Err() != nil) {
		return
	}
	g.cfg.Port.register(g.cfg.Name, pg)
}

// resign has the follower that has most of the log stand for election at once. The
// one that is asked refuses if it may not; then the next is. It may come to
// nothing: the followers notice by themselves that nobody leads, a little later.
func (g *Group) resign(l *life) {
	servers, err := g.servers()
	if err != nil {
		return
	}
	done := make(chan struct{})
	g.done.Go(func() {
		defer close(done)
		for _, s := range l.trans.contacts.best(servers, g.id, l.raft.CurrentTerm()) {
			req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
				ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(g.id), Addr: l.trans.EncodePeer(g.id, l.layer.addr),
			}}
			if err := l.trans.NetworkTransport.TimeoutNow(s.ID, s.Address, req, &raft.TimeoutNowResponse{}); err == nil {
				g.logger.Info("asked a follower to take over", "follower", s.ID)
				return
			}
		}
	})
	limit := time.NewTimer(resignTimeout)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}

// prober writes and syncs a file of its own, on a goroutine of its own, as the
// raft log does: in place, so that no metadata change.
type prober struct {
	fs      disk.FS
	name    string
	wanted  chan struct{}
	answers chan probed
	step    atomic.Pointer[disk.InFlight] // of the probe under way: what it does now

	// The watch's:
	busy bool
	last probed
}

// probed is how a probe ended.
type probed struct {
	ok   bool
	took time.Duration
}

func (p *prober) init(fs disk.FS, dir string) {
	p.fs, p.name = fs, path.Join(dir, probeFile)
	p.wanted, p.answers = make(chan struct{}, 1), make(chan probed, 1)
}

// ask has one probe made. Only the watch may call it.
func (p *prober) ask() {
	if !p.busy {
		p.busy = true
		p.wanted <- struct{}{}
	}
}

// probes makes probes until the group is closed.
func (g *Group) probes() {
	p := &g.fence.probes
	for {
		select {
		case <-p.wanted:
		case <-g.ctx.Done():
			return
		}
		begin := time.Now()
		err := p.probe()
		if err != nil {
			g.logger.Warn("a probe of the disk failed", "file", p.name, "error", err)
		}
		// A disk without room answers.
		p.answers <- probed{err == nil || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT), time.Since(begin)}
	}
}

func (p *prober) probe() error {
	defer p.step.Store(nil)
	begin := func(kind disk.OpKind) {
		p.step.Store(&disk.InFlight{Kind: kind, Label: labelProbe, Name: p.name, Since: time.Now()})
	}
	begin(disk.OpOpen)
	f, err := p.fs.OpenFile(labelProbe, p.name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	begin(disk.OpWrite)
	_, err = f.WriteAt(make([]byte, probeBytes), 0)
	if err == nil {
		begin(disk.OpSync)
		err = f.Datasync()
	}
	begin(disk.OpClose)
	return errors.Join(err, f.Close())
}
