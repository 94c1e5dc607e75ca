package verify

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/raftlog"
)

func (r *Replica) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

func (r *Replica) dir(parts ...string) string { return path.Join(append([]string{r.Dir}, parts...)...) }

// termStart says from which index on a raft log's entries are of a term.
type termStart struct{ index, term uint64 }

// termOf is the term of an entry of the raft log.
func (r *Replica) termOf(index uint64) (term uint64) {
	for _, t := range r.terms {
		if t.index > index {
			break
		}
		term = t.term
	}
	return term
}

// check looks for damage in one replica's files, and finds how far it has
// applied its log.
func (r *Replica) check(cfg *Config) error {
	if s, err := raftlog.OpenStable(r.dir("raft", "stable.db"), false); err != nil {
		r.problem("%v", err)
	} else if err := s.Close(); err != nil {
		return err
	}
	snaps, err := raftlog.OpenSnapshots(cfg.FS, r.dir("raft", "snapshots"), nil)
	if err != nil {
		r.problem("%v", err)
		return nil
	}
	if err := snaps.VerifyNewest(); err != nil {
		r.problem("%v", err)
		return nil
	}
	// The state is only as good as the replay, which comes first: what the files
	// must hold follows from it.
	if err := r.replay(cfg, ^uint64(0), false); err != nil {
		return err
	}
	return r.verifyStore(cfg)
}

// replay restores the newest snapshot and replays the raft log up to an index,
// comparing with the files. With keep, the comparer stays open, and the state's
// digest is noted.
func (r *Replica) replay(cfg *Config, upTo uint64, keep bool) error {
	store := &comparing{cfg: cfg, dir: r.dir("store")}
	if err := store.open(nil); err != nil {
		return err
	}
	defer func() {
		if !keep {
			store.Close() // it wrote nothing
		}
	}()
	state := fsm.New(store, store.Reader().SegmentSize)
	if err := r.restore(cfg, state); err != nil {
		return err
	}
	r.Snapshot = state.Applied()
	applied, short := r.Snapshot, false
	err := raftlog.Scan(cfg.FS, r.dir("raft", "log"), func(l *raft.Log) error {
		r.Last = l.Index
		if n := len(r.terms); !keep && (n == 0 || r.terms[n-1].term != l.Term) {
			r.terms = append(r.terms, termStart{l.Index, l.Term})
		}
		if l.Index > upTo || l.Index <= r.Snapshot {
			return nil
		}
		if l.Type == raft.LogCommand {
			if _, err := state.Apply([]fsm.Entry{{Index: l.Index, Term: l.Term, Data: l.Data}}); err != nil {
				return fmt.Errorf("replaying the raft log: %w", err)
			}
		}
		// The files may be behind the log: what was not committed, or not known
		// to be, was not applied.
		short = short || store.AbsentLog > 0 || store.Absent > 0
		if !short {
			applied = l.Index
		}
		cfg.Progress("replaying "+r.Dir, int64(l.Index), 0)
		return nil
	})
	if err != nil {
		var file *raftlog.FileError
		if errors.As(err, &file) {
			r.problem("%v", err)
			return nil
		}
		return err
	}
	if !keep {
		r.Applied = applied
		r.Messages += store.Units - store.Absent
		r.LogBytes += store.LogBytes - store.AbsentLog
		for _, p := range store.Differences.List {
			r.problem("store/%s", p)
		}
		return nil
	}
	digest := state.Digest()
	r.Digest = hex.EncodeToString(digest[:])
	r.min, r.end = store.Log()
	r.queues = store.Queues()
	r.reader = store.Comparer
	return nil
}

// restore gives the state the newest snapshot.
func (r *Replica) restore(cfg *Config, state *fsm.State) error {
	snaps, err := raftlog.OpenSnapshots(cfg.FS, r.dir("raft", "snapshots"), nil)
	if err != nil {
		return err
	}
	all := snaps.All()
	if len(all) == 0 {
		return nil
	}
	_, body, err := snaps.Open(all[0].ID)
	if err != nil {
		return err
	}
	return errors.Join(state.Restore(body), body.Close())
}

// verifyStore checks every checksum of what was synced.
func (r *Replica) verifyStore(cfg *Config) error {
	store := &comparing{cfg: cfg, dir: r.dir("store")}
	if err := store.open(nil); err != nil {
		return err
	}
	state := fsm.New(store, store.Reader().SegmentSize)
	err := r.restore(cfg, state)
	manifest := store.manifest
	if err = errors.Join(err, store.Close()); err != nil {
		return err
	}
	report, err := storage.Verify(storage.VerifyOptions{
		FS: cfg.FS, Dir: r.dir("store"), UnitOf: state.Locate, KeysOf: fsm.KeysOf, Manifest: manifest,
		Progress: func(done, total int64) { cfg.Progress("verifying "+r.Dir, done, total) },
	})
	if err != nil {
		return err
	}
	r.Messages += report.Units
	r.LogBytes += report.Manifest.End - report.Manifest.Min
	for _, p := range report.List {
		r.problem("store/%s", p)
	}
	if more := report.Found - int64(len(report.List)); more > 0 {
		r.problem("and %d problems more", more)
	}
	if report.MissingBytes > 0 {
		r.problem("%d bytes of the CommitLog are missing, to be fetched from its peers", report.MissingBytes)
	}
	return nil
}

// comparing is an fsm.Store that compares with the files of one.
type comparing struct {
	*storage.Comparer
	cfg      *Config
	dir      string
	manifest *storage.Manifest // what it was opened at
}

func (c *comparing) open(m *storage.Manifest) (err error) {
	c.manifest = m
	c.Comparer, err = storage.OpenComparer(c.cfg.FS, c.dir, m)
	return err
}

// Pin implements fsm.Store: no snapshot is taken of a comparison.
func (c *comparing) Pin() *storage.Manifest { return nil }

// Resume implements fsm.Store: the comparison begins at a snapshot.
func (c *comparing) Resume(m *storage.Manifest) error {
	if err := c.Comparer.Close(); err != nil {
		return err
	}
	return c.open(m)
}
