package raftlog

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// Reconcile makes log and snapshots fit before raft starts. It reports whether
// it emptied the log.
//
// The log is emptied, because the snapshot stands for all of it, if it ends
// before the newest snapshot's index (a crash between installing a snapshot and
// removing the log: the next entry would leave a gap, and could never be
// stored), or if it has an entry of another term at that index (then it, and
// all behind it, were never committed).
//
// A log that begins behind what the snapshots hold is ErrMissing.
func Reconcile(log *Log, snapshots *Snapshots) (emptied bool, err error) {
	metas, err := snapshots.List()
	if err != nil {
		return false, err
	}
	var newest raft.SnapshotMeta // index 0: none
	if len(metas) > 0 {
		newest = *metas[0]
	}
	first, err := log.FirstIndex()
	if err != nil {
		return false, err
	}
	last, err := log.LastIndex()
	if err != nil {
		return false, err
	}
	switch {
	case last == 0:
		return false, nil
	case first > newest.Index+1:
		return false, &FileError{File: snapshots.dir, Offset: -1, Err: ErrMissing,
			Detail: fmt.Sprintf("the log begins at index %d, so a snapshot of index %d or later is needed; the newest is of index %d",
				first, first-1, newest.Index)}
	case last < newest.Index:
		return true, log.Reset()
	case first > newest.Index:
		return false, nil
	}
	var at raft.Log
	if err := log.GetLog(newest.Index, &at); err != nil {
		return false, err
	}
	if at.Term != newest.Term {
		return true, log.Reset()
	}
	return false, nil
}

// CheckTerm refuses a stable store that has forgotten its term: an entry of the
// log, or the newest snapshot, of a later term than the stored one shows that an
// older file took its place, and with it perhaps an older vote.
func CheckTerm(stable *Stable, log *Log, snapshots *Snapshots) error {
	term := stable.CurrentTerm()
	if last := log.LastTerm(); last > term {
		return fmt.Errorf("%w: the stable store is in term %d, the log's last entry is of term %d: "+
			"the stable store's file is not the one that belongs to this log; "+
			"let the replica join again with an empty data directory", ErrStaleTerm, term, last)
	}
	metas, err := snapshots.List()
	if err != nil {
		return err
	}
	for _, m := range metas {
		if m.Term > term {
			return fmt.Errorf("%w: the stable store is in term %d, snapshot %s is of term %d: "+
				"the stable store's file is not the one that belongs to this replica; "+
				"let it join again with an empty data directory", ErrStaleTerm, term, m.ID, m.Term)
		}
	}
	return nil
}
