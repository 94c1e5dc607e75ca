package raftgroup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
)

// watchLeadership follows raft's leader. A new leader counts as one only when it
// has applied an entry of its own term: before that its state may be older than
// what the last leader has acknowledged.
func (g *Group) watchLeadership(observed <-chan raft.Observation) {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case leads := <-g.raft.LeaderCh():
			stop()
			if !leads {
				g.abdicate()
				continue
			}
			ctx, cancel := context.WithCancel(g.ctx)
			stop = cancel
			g.done.Go(func() { g.beginTerm(ctx) })
		case <-observed:
			g.learnLeader()
		case <-g.ctx.Done():
			return
		}
	}
}

// beginTerm makes the leader that raft has elected one that serves.
func (g *Group) beginTerm(ctx context.Context) {
	term := g.raft.CurrentTerm()
	for ctx.Err() == nil {
		err := g.tryBeginTerm(ctx, term)
		if err == nil {
			return
		}
		g.logger.Warn("this replica was elected and can't serve yet", "term", term, "error", err)
		select {
		case <-time.After(g.cfg.Election):
		case <-ctx.Done():
		}
	}
}

func (g *Group) tryBeginTerm(ctx context.Context, term uint64) error {
	// All that the terms before have committed is applied when this is.
	if _, err := g.propose(ctx, fsm.Lead(fsm.Leader{Node: g.cfg.Node, Address: g.cfg.ClientAddress.String()})); err != nil {
		return err
	}
	if err := g.configure(ctx); err != nil {
		return err
	}
	err := ErrNotLeader
	g.lead(func() (Leadership, bool) {
		if ctx.Err() != nil || g.raft.State() != raft.Leader || g.raft.CurrentTerm() != term || g.state.Leader().Term != term {
			return Leadership{}, false
		}
		err = nil
		return Leadership{Term: term, Self: true, Node: g.cfg.Node, Address: g.cfg.ClientAddress.String()}, true
	})
	return err
}

// configure gives a new group its configuration, or an old one what of ours may
// change.
func (g *Group) configure(ctx context.Context) error {
	want := fsm.Configuration{
		SegmentSize: g.cfg.SegmentSize,
		DedupSpan:   max(0, g.cfg.DedupSpan).Milliseconds(),
		DedupMax:    g.cfg.DedupMax,
	}
	have := g.state.Configuration()
	want.GroupID = have.GroupID
	if have == want {
		return nil
	}
	if want.GroupID == "" {
		var id [16]byte
		if _, err := rand.Read(id[:]); err != nil {
			return err
		}
		want.GroupID = hex.EncodeToString(id[:])
	}
	_, err := g.propose(ctx, fsm.Configure(want))
	return err
}

// learnLeader finds out who leads, when it is another replica.
func (g *Group) learnLeader() {
	g.lead(func() (Leadership, bool) {
		if g.raft.State() == raft.Leader {
			return Leadership{}, false // see beginTerm
		}
		term := g.raft.CurrentTerm()
		l := g.state.Leader()
		address, id := g.raft.LeaderWithID()
		if address == "" || l.Term != term || !isNode(string(id), l.Node) {
			// Nobody, or somebody whose first entry has yet to come.
			return Leadership{Term: term}, true
		}
		return Leadership{Term: term, Node: l.Node, Address: l.Address}, true
	})
}

// Leadership says who leads, as this replica knows.
func (g *Group) Leadership() Leadership { return *g.leadership.Load() }

// lead changes what this replica knows of the leader, if decide says so. Changes
// are made, and told, one at a time.
func (g *Group) lead(decide func() (Leadership, bool)) {
	g.leading.Lock()
	defer g.leading.Unlock()
	l, change := decide()
	old := *g.leadership.Load()
	if !change || l == old {
		return
	}
	g.leadership.Store(&l)
	switch {
	case l.Self:
		g.logger.Info("this replica leads the group", "term", l.Term)
	case old.Self:
		g.logger.Warn("this replica leads the group no more", "term", old.Term)
	}
	if f := g.cfg.Events.Leadership; f != nil {
		f(l)
	}
}

// abdicate forgets who leads, for good.
func (g *Group) abdicate() {
	g.lead(func() (Leadership, bool) { return Leadership{}, true })
}

// Append proposes a send. It returns a definite error, or nil: then s.Op will
// be told the outcome.
func (g *Group) Append(s Send) error {
	if !g.Leadership().Self {
		return ErrNotLeader
	}
	if g.store.Room() != nil {
		return ErrNoRoom
	}
	return g.proposer.propose(s)
}

// Propose proposes a command and waits until it is applied here. The error is
// definite unless it wraps ErrUnknown. Commands are safe to repeat.
func (g *Group) Propose(ctx context.Context, command []byte) (fsm.Status, error) {
	if !g.Leadership().Self {
		return 0, ErrNotLeader
	}
	return g.propose(ctx, command)
}

func (g *Group) propose(ctx context.Context, command []byte) (fsm.Status, error) {
	fsm.Stamp(command, g.clock.read())
	future := g.raft.ApplyLog(raft.Log{Data: command}, enqueueTimeout)
	results, err := await(future, ctx.Done())
	if err != nil {
		return 0, err
	}
	if len(results) != 1 {
		return 0, ErrUnknown
	}
	return results[0].Status, nil
}

// LogTime is the time that a command proposed now would be stamped with, in ms.
func (g *Group) LogTime() int64 { return g.clock.read() }

// Barrier waits until this replica is sure to lead and has applied everything
// that was acknowledged before the call: what the state says then is not older.
func (g *Group) Barrier(ctx context.Context) error {
	if !g.Leadership().Self {
		return ErrNotLeader
	}
	index := g.raft.CommitIndex()
	if err := g.verifier.verify(ctx); err != nil {
		return err
	}
	return g.progress.wait(ctx, index)
}

// TransferLeadership gives leadership to another replica, the one named or the
// one best fit.
func (g *Group) TransferLeadership(ctx context.Context, id string) error {
	var future raft.Future
	if id == "" {
		future = g.raft.LeadershipTransfer()
	} else {
		server, err := g.member(id)
		if err != nil {
			return err
		}
		future = g.raft.LeadershipTransferToServer(server.ID, server.Address)
	}
	answered := make(chan error, 1)
	go func() { answered <- future.Error() }()
	select {
	case err := <-answered:
		if errors.Is(err, raft.ErrNotLeader) {
			return ErrNotLeader
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// member finds a member by its ServerID or its node.
func (g *Group) member(name string) (raft.Server, error) {
	servers, err := g.servers()
	if err != nil {
		return raft.Server{}, err
	}
	for _, s := range servers {
		if string(s.ID) == name || isNode(string(s.ID), name) {
			return s, nil
		}
	}
	return raft.Server{}, fmt.Errorf("group %s has no member %q; it has %v", g.cfg.Name, name, servers)
}

func (g *Group) servers() ([]raft.Server, error) {
	future := g.raft.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, err
	}
	return future.Configuration().Servers, nil
}

// Deliver proposes a deliver command and returns what became of its messages.
func (g *Group) Deliver(ctx context.Context, command []byte) ([]fsm.Result, error) {
	if !g.Leadership().Self {
		return nil, ErrNotLeader
	}
	fsm.Stamp(command, g.clock.read())
	return await(g.raft.ApplyLog(raft.Log{Data: command}, enqueueTimeout), ctx.Done())
}

// DiskSpace is the size of that file system, and what of it is free, in bytes.
func (g *Group) DiskSpace() (free, total uint64, err error) {
	u, err := g.cfg.FS.Usage(g.cfg.Dir)
	return u.Free, u.Total, err
}

// DiskUsage is the used share of the file system that the replica is on, from 0
// to 1.
func (g *Group) DiskUsage() (float64, error) {
	u, err := g.cfg.FS.Usage(g.cfg.Dir)
	return u.UsedRatio(), err
}
