package raftlog

import (
	"testing"

	"github.com/hashicorp/raft"
)

func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		name          string
		log           []*raft.Log
		index, term   uint64 // of the snapshot, 0: none
		emptied       bool
		err           error
		thenNextIndex uint64
	}{
		{"new replica", nil, 0, 0, false, nil, 1},
		{"log only", batch(1, 9, 1, 10), 0, 0, false, nil, 10},
		{"snapshot only", nil, 9, 1, false, nil, 10},
		{"log goes on behind the snapshot", batch(10, 12, 1, 10), 9, 1, false, nil, 13},
		{"log holds the snapshot's entry", batch(5, 12, 1, 10), 9, 1, false, nil, 13},
		{"log ends at the snapshot", batch(5, 9, 1, 10), 9, 1, false, nil, 10},
		// Row 44: a crash between installing a snapshot and removing the log.
		{"log ends before the snapshot", batch(1, 6, 1, 10), 10, 2, true, nil, 11},
		{"log ends one before it", batch(1, 9, 1, 10), 10, 2, true, nil, 11},
		{"the same, with a tail that was never committed", batch(1, 20, 1, 10), 10, 2, true, nil, 11},
		{"no snapshot for a log that begins late", batch(5, 9, 1, 10), 0, 0, false, ErrMissing, 0},
		{"a snapshot that is too old", batch(11, 20, 1, 10), 9, 1, false, ErrMissing, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := newMem(t)
			l := mustOpen(t, fs, small())
			ok(t, l.StoreLogs(c.log))
			snaps := openSnaps(t, fs)
			if c.index > 0 {
				_, err := take(snaps, c.index, c.term, []byte("state"))
				ok(t, err)
			}
			emptied, err := Reconcile(l, snaps)
			if c.err != nil {
				damaged(t, err, c.err, snapDir)
				holds(t, l, c.log)
				return
			}
			ok(t, err)
			if emptied != c.emptied {
				t.Errorf("emptied: %v", emptied)
			}
			want := c.log
			if emptied {
				want = nil
			}
			holds(t, l, want)
			// It is durable, and the log goes on.
			ok(t, l.Close())
			l = mustOpen(t, fs.Crash(1), small())
			holds(t, l, want)
			ok(t, l.StoreLog(entryOf(c.thenNextIndex, 3, 10)))
		})
	}
}

func TestReconcileWantsAWholeSnapshot(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	snaps := openSnaps(t, fs)
	id, err := take(snaps, 9, 1, []byte("state"))
	ok(t, err)
	ok(t, fs.FlipBit(snaps.path(id), 14, 1))
	_, err = Reconcile(l, openSnaps(t, fs))
	damaged(t, err, ErrCorrupt, snaps.path(id))
}

// Row 43: a stable store that is older than the log, or than the snapshot.
func TestCheckTerm(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	snaps := openSnaps(t, fs)
	s := newStable(t, raft.NewInmemStore(), true)
	ok(t, CheckTerm(s, l, snaps))
	ok(t, l.StoreLogs(batch(1, 5, 3, 10)))
	ok(t, s.SetUint64(currentTerm, 2))
	want(t, "log ahead", CheckTerm(s, l, snaps), ErrStaleTerm)
	ok(t, s.SetUint64(currentTerm, 3))
	ok(t, CheckTerm(s, l, snaps))
	_, err := take(snaps, 9, 4, nil)
	ok(t, err)
	want(t, "snapshot ahead", CheckTerm(s, l, snaps), ErrStaleTerm)
	ok(t, s.SetUint64(currentTerm, 4))
	ok(t, CheckTerm(s, l, snaps))
}
