package raftgroup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
)

// watchLeadership follows raft's leader. A new leader counts as one only when it
// has applied an entry of its own term: before that its state may be older than
// what the last leader has acknowledged.
func (l *life) watchLeadership(observed <-chan raft.Observation) {
	stop := func() {}
	defer func() { stop() }()
	begin := func(leads bool) {
		stop()
		// Also if it leads: raft tells only the last of several changes, and
		// what was true of an earlier term is not of this one.
		l.g.abdicate()
		if !leads {
			return
		}
		ctx, cancel := context.WithCancel(l.ctx)
		stop = cancel
		l.done.Go(func() {
			if l.beginTerm(ctx) {
				l.g.manage(ctx)
			}
		})
	}
	for {
		select {
		case leads := <-l.raft.LeaderCh():
			begin(leads)
		case <-l.again:
			begin(l.raft.State() == raft.Leader)
			l.g.learnLeader()
		case <-observed:
			l.g.learnLeader()
		case <-l.ctx.Done():
			return
		}
	}
}

// beginTerm makes the leader that raft has elected one that serves, and says whether
// it did.
func (l *life) beginTerm(ctx context.Context) bool {
	term := l.raft.CurrentTerm()
	for ctx.Err() == nil {
		err := l.g.tryBeginTerm(ctx, term)
		if err == nil {
			return true
		}
		l.g.logger.Warn("this replica was elected and can't serve yet", "term", term, "error", err)
		select {
		case <-time.After(l.g.cfg.Election):
		case <-ctx.Done():
		}
	}
	return false
}

func (g *Group) tryBeginTerm(ctx context.Context, term uint64) error {
	g.beginTime(ctx)
	// All that the terms before have committed is applied when this is.
	if _, err := g.apply(ctx, fsm.Lead(fsm.Leader{Node: g.cfg.Node, Address: g.cfg.ClientAddress.String()})); err != nil {
		return err
	}
	if err := g.configure(ctx); err != nil {
		return err
	}
	err := ErrNotLeader
	g.lead(func() (Leadership, bool) {
		if ctx.Err() != nil || !g.leads(term) || g.state.Leader().Term != term {
			return Leadership{}, false
		}
		err = nil
		return Leadership{Term: term, Self: true, Node: g.cfg.Node, Address: g.cfg.ClientAddress.String()}, true
	})
	return err
}

// leads says whether raft leads in this term, as it believes.
func (g *Group) leads(term uint64) bool {
	r := g.raft()
	return g.failure.Load() == nil && !g.isFenced() && r.State() == raft.Leader && r.CurrentTerm() == term
}

// leaderless is how long this replica has not heard of a leader.
func (g *Group) leaderless() time.Duration {
	l := g.life.Load()
	if l == nil || l.raft.State() == raft.Leader {
		return 0
	}
	heard := l.raft.LastContact()
	if heard.Before(l.begun) {
		heard = l.begun
	}
	return time.Since(heard)
}

// newGroupID makes the id of a group.
func newGroupID() (string, error) {
	var id [16]byte
	_, err := rand.Read(id[:])
	return hex.EncodeToString(id[:]), err
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
		var err error
		if want.GroupID, err = newGroupID(); err != nil {
			return err
		}
	}
	_, err := g.apply(ctx, fsm.Configure(want))
	return err
}

// learnLeader finds out who leads, when it is another replica.
func (g *Group) learnLeader() {
	g.lead(func() (Leadership, bool) {
		r := g.raft()
		if r.State() == raft.Leader {
			return Leadership{}, false // see beginTerm
		}
		term := r.CurrentTerm()
		l := g.state.Leader()
		address, id := r.LeaderWithID()
		if address == "" || l.Term != term || !isNode(string(id), l.Node) {
			// Nobody, or somebody whose first entry has yet to come.
			return Leadership{Term: term}, true
		}
		return Leadership{Term: term, Node: l.Node, Address: l.Address}, true
	})
}

// Leadership says who leads, as this replica knows.
func (g *Group) Leadership() Leadership {
	l := *g.leadership.Load()
	if l.Self && !g.leads(l.Term) {
		return Leadership{Term: l.Term} // raft has stepped down a moment ago
	}
	return l
}

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

// abdicate forgets who leads.
func (g *Group) abdicate() {
	g.lead(func() (Leadership, bool) { return Leadership{}, true })
}

// Append proposes a send. It returns a definite error, or nil: then s.Op will
// be told the outcome.
func (g *Group) Append(s Send) error {
	if !g.takes() {
		return ErrNotLeader
	}
	err := g.proposer.propose(s)
	if err != nil {
		g.taking.exit(1)
	}
	return err
}

// Propose proposes a command and waits until it is applied here. The error is
// definite unless it wraps ErrUnknown. Commands are safe to repeat.
func (g *Group) Propose(ctx context.Context, command []byte) (fsm.Status, error) {
	if len(command) > g.cfg.MaxEntry {
		// The raft log may be unable to take it, and a leader that can't resigns.
		return 0, ErrTooLarge
	}
	return g.proposeIf(ctx, g.store.Room, command)
}

// Trim is Propose for a trim, which is let through when there is no room for
// other commands: it makes some.
func (g *Group) Trim(ctx context.Context, to int64) (fsm.Status, error) {
	return g.proposeIf(ctx, g.store.RoomForState, fsm.Trim(to))
}

func (g *Group) proposeIf(ctx context.Context, room func() error, command []byte) (fsm.Status, error) {
	r, err := g.take(ctx, room, command)
	if err != nil {
		return 0, err
	}
	if len(r) != 1 {
		return 0, ErrUnknown
	}
	return r[0].Status, nil
}

// Deliver proposes a deliver command and returns what became of its messages.
// Errors are as of Propose.
func (g *Group) Deliver(ctx context.Context, command []byte) ([]fsm.Result, error) {
	return g.take(ctx, g.store.Room, command)
}

// take has a command applied if this replica leads and has room for it.
func (g *Group) take(ctx context.Context, room func() error, command []byte) ([]fsm.Result, error) {
	if !g.takes() {
		return nil, ErrNotLeader
	}
	defer g.taking.exit(1)
	if room() != nil {
		return nil, ErrNoRoom
	}
	return g.apply(ctx, command)
}

// apply has a command applied. It waits no longer than a send would.
func (g *Group) apply(ctx context.Context, command []byte) ([]fsm.Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, max(g.cfg.SlaveTimeout, g.cfg.FlushTimeout), ErrQuorumTimeout)
	defer cancel()
	ctx, end := g.until(ctx)
	defer end()
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(stop) })()
	fsm.Stamp(command, g.clock.read())
	r, err := results(g.raft().ApplyLog(raft.Log{Data: command}, enqueueTimeout), stop)
	if err != nil && errors.Is(err, ErrUnknown) && ctx.Err() != nil {
		if err = context.Cause(ctx); !errors.Is(err, ErrUnknown) {
			err = fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	return r, err
}

// until makes a context that ends when the group does, too.
func (g *Group) until(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(g.ctx, func() { cancel(context.Cause(g.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// LogTime is the time that a command proposed now would be stamped with, in ms.
func (g *Group) LogTime() int64 { return g.clock.read() }

// Barrier waits until this replica is sure to lead and has applied everything
// that was acknowledged before the call: what the state says then is not older.
func (g *Group) Barrier(ctx context.Context) error {
	ctx, end := g.until(ctx)
	defer end()
	l := g.Leadership()
	if !l.Self {
		return ErrNotLeader
	}
	index := g.raft().CommitIndex()
	if err := g.verifier.verify(ctx); err != nil {
		return err
	}
	// The same term before and after: the index was of a term whose beginning is
	// applied here, so nothing older was committed without it.
	if !g.leads(l.Term) {
		return ErrNotLeader
	}
	return g.progress.wait(ctx, index)
}

// member finds a member by its ServerID or its node.
func (g *Group) member(name string) (raft.Server, error) {
	servers, err := g.servers()
	if err != nil {
		return raft.Server{}, err
	}
	var ids []string
	for _, s := range servers {
		if string(s.ID) == name || isNode(string(s.ID), name) {
			return s, nil
		}
		ids = append(ids, string(s.ID))
	}
	return raft.Server{}, fmt.Errorf("%w: group %s has no member %q; it has %s", ErrMember, g.cfg.Name, name, strings.Join(ids, ", "))
}

func (g *Group) servers() ([]raft.Server, error) {
	future := g.raft().GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, err
	}
	return future.Configuration().Servers, nil
}

// voters are the raft addresses of those who vote, as far as this replica knows.
func (g *Group) voters() (addresses []string) {
	servers, err := g.servers()
	if err != nil {
		return nil // raft has stopped
	}
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			addresses = append(addresses, string(s.Address))
		}
	}
	return addresses
}

// logEnd is how far this replica's log reaches, or its snapshot.
func (g *Group) logEnd() logEnd {
	index, term := g.log.Last()
	end := logEnd{term, index}
	if all := g.snaps.All(); len(all) > 0 {
		if s := (logEnd{all[0].Term, all[0].Index}); s.reaches(end) {
			end = s
		}
	}
	return end
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
