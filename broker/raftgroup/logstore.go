package raftgroup

import (
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// logStore is the raft log as raft sees it, with guards against what
// hashicorp/raft v1.7 gets wrong about logs and snapshots.
//
//   - A follower looks for the entry before the ones it is sent in its log only.
//     If its log begins right behind its snapshot, it would refuse what follows
//     the snapshot, and be sent an older one. The snapshot answers for its entry.
//   - With a stale idea of its last index (see supervise) a new leader would put
//     its first entry into an empty log some places behind the snapshot: a hole
//     that nothing ever fills. It is refused.
//   - Where raft can't read an entry that it has to apply it panics, and takes
//     the process and every other group with it. The replica stops instead. An
//     entry that is damaged and applied raft is told not to be there: whoever
//     needs it gets a snapshot.
type logStore struct {
	*raftlog.Log
	snaps *raftlog.Snapshots
	// halt stops the replica for good, if raft has started.
	halt func(error) bool
	// lost says whether raft can do without an entry that can't be read.
	lost func(index uint64, err error) bool
	// stored is told how long it took to store entries.
	stored func(time.Duration)
	guard  guards
}

// GetLog implements raft.LogStore.
func (s *logStore) GetLog(index uint64, out *raft.Log) error {
	err := s.Log.GetLog(index, out)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrLogNotFound):
		// Not index 1: a leader sends the first entry without looking at one
		// before it, and this is none to be sent.
		if index > 1 && !s.guard.noSnapshotEntry {
			if meta, e := newest(s.snaps); e == nil && meta != nil && meta.Index == index {
				*out = raft.Log{Index: index, Term: meta.Term, Type: raft.LogNoop}
				return nil
			}
		}
		return err
	}
	err = fmt.Errorf("raft log, entry %d: %w", index, err)
	applying := calledBy("processLogs")
	if !applying && s.lost(index, err) {
		return raft.ErrLogNotFound
	}
	if s.halt(err) && applying {
		runtime.Goexit()
	}
	return err
}

// StoreLog implements raft.LogStore.
func (s *logStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) > 0 && s.LastTerm() == 0 {
		meta, err := newest(s.snaps)
		if err != nil {
			return err
		}
		next := uint64(1)
		if meta != nil {
			next = meta.Index + 1
		}
		if logs[0].Index != next {
			return fmt.Errorf("%w: entry %d after the snapshot's entry %d", raftlog.ErrGap, logs[0].Index, next-1)
		}
	}
	begin := time.Now()
	err := s.Log.StoreLogs(logs)
	s.stored(time.Since(begin))
	return err
}

// newest is the newest snapshot; nil if there is none.
func newest(snaps *raftlog.Snapshots) (*raft.SnapshotMeta, error) {
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// stableStore is the stable store as raft sees it. It raises the term only while
// no heartbeat is being handled beside the main loop, see heartbeatGate. Where
// raft can't store a term it panics: the replica stops instead.
type stableStore struct {
	raft.StableStore
	gate *heartbeatGate
	halt func(error) bool
	// note notes a write, which goes past the watch over the disk, until it ends.
	note func() (end func())
}

func (g *Group) noteStable() (end func()) {
	return g.disk.Note(disk.OpSync, raftlog.LabelStable, path.Join(g.cfg.Dir, "raft", "stable.db"))
}

// Set implements raft.StableStore.
func (s *stableStore) Set(key, val []byte) error {
	defer s.note()()
	return s.StableStore.Set(key, val)
}

// keyCurrentTerm is raft's name for the current term in its stable store.
const keyCurrentTerm = "CurrentTerm"

// SetUint64 implements raft.StableStore.
func (s *stableStore) SetUint64(key []byte, val uint64) error {
	defer s.note()()
	if string(key) != keyCurrentTerm {
		return s.StableStore.SetUint64(key, val)
	}
	// The heartbeat being handled sets the term it found: not a raise, and it
	// holds the lock already.
	if old, err := s.GetUint64(key); err != nil || old != val {
		s.gate.mu.Lock()
		defer s.gate.mu.Unlock()
	}
	err := s.StableStore.SetUint64(key, val)
	if err != nil && s.halt(fmt.Errorf("storing term %d: %w", val, err)) && calledBy("setCurrentTerm") {
		runtime.Goexit()
	}
	return err
}

// calledBy says whether a method of raft.Raft is among our callers: those two
// that panic when the store fails run on raft's main goroutine, where ending the
// goroutine is raft's shutdown.
func calledBy(method string) bool {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "(*Raft)."+method) {
			return true
		}
		if !more {
			return false
		}
	}
}
