package raftgroup

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
)

// machine is the raft.BatchingFSM over a group's state: a thin adapter. A
// failure of the state is final for this replica, and loud: nothing is applied
// any more, and no snapshot is taken of what is not the log's meaning.
type machine struct {
	g *Group
	l *life
}

// ApplyBatch implements raft.BatchingFSM.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	<-m.l.ready
	responses := make([]any, len(logs))
	entries := make([]fsm.Entry, 0, len(logs))
	done := m.g.state.Applied()
	for _, l := range logs {
		// Configuration entries come along, and after a new life's begin what
		// the last one has applied.
		if l.Type == raft.LogCommand && l.Index > done {
			entries = append(entries, fsm.Entry{Index: l.Index, Term: l.Term, Data: l.Data})
		}
	}
	results, err := m.g.state.Apply(entries)
	if err != nil {
		m.g.fail(err)
		for i := range responses {
			responses[i] = err
		}
		return responses
	}
	next := 0
	for i, l := range logs {
		if l.Type == raft.LogCommand && l.Index > done {
			responses[i] = results[next]
			next++
		}
	}
	m.g.applied(logs[len(logs)-1].Index)
	return responses
}

// Apply implements raft.FSM.
func (m *machine) Apply(log *raft.Log) any { return m.ApplyBatch([]*raft.Log{log})[0] }

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	s, err := m.g.state.Snapshot()
	if err != nil {
		return nil, err
	}
	return &snapshot{g: m.g, Snapshot: s}, nil
}

// Restore implements raft.FSM. raft waits for it with everything else.
func (m *machine) Restore(r io.ReadCloser) error {
	err := m.g.state.Restore(r)
	if err = errors.Join(err, r.Close()); err != nil {
		err = fmt.Errorf("restoring a snapshot: %w", err)
		if !m.l.running() {
			m.l.restoring = err // raft tells that something went wrong, not what
			return err
		}
		m.g.logger.Error("the leader's snapshot was not installed", "error", err)
		m.g.checkStore()
		return err
	}
	m.g.progress.signal()
	if m.l.running() {
		m.g.applied(m.g.state.Applied())
	}
	return nil
}

type snapshot struct {
	g *Group
	*fsm.Snapshot
}

// Persist implements raft.FSMSnapshot. The messages first: the raft log forgets
// what is before the snapshot once this has returned.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.g.store.Sync(s.Files); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if _, err := s.WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s *snapshot) Release() {}

// applied notes how far the state is, and wakes who waits for it.
func (g *Group) applied(index uint64) {
	g.clock.raise(g.state.LogTime())
	g.progress.set(index)
	if term := g.state.Leader().Term; term != g.leaderTerm {
		g.leaderTerm = term
		g.learnLeader()
	}
	if n := g.state.TableChanges(); n != g.tableChanges {
		g.tableChanges = n
		if f := g.cfg.Events.Changed; f != nil {
			f()
		}
	}
}
