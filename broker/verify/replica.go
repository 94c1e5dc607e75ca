package verify

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/raftlog"
)

func (r *Replica) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// found notes err as a problem if it is about what the files hold, or that they
// lack; then nobody can say what the replica's state is, and it is not compared
// with others. Any other error has kept us from looking, and is returned.
func (r *Replica) found(err error) error {
	var file *raftlog.FileError
	for _, kind := range []error{
		storage.ErrCorrupt, storage.ErrForeign, storage.ErrVersion, fsm.ErrSnapshot, fsm.ErrCommand,
		raftlog.ErrStaleTerm, fs.ErrNotExist, io.EOF, io.ErrUnexpectedEOF,
	} {
		if errors.As(err, &file) || errors.Is(err, kind) {
			r.unsound = true
			r.problem("%v", err)
			return nil
		}
	}
	return err
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
	term, err := raftlog.ReadStable(r.dir("raft", "stable.db"))
	if err := r.found(err); err != nil {
		return err
	}
	voted := err == nil
	if err := r.snapshots(cfg); err != nil {
		return err
	}
	// What the files must hold follows from the replay, as far as it goes.
	if err := r.found(r.replay(cfg, ^uint64(0), false)); err != nil {
		return err
	}
	if n := len(r.terms); voted && n > 0 && r.terms[n-1].term > term {
		r.problem("%s is in term %d, the raft log in term %d: it is an older copy, and may hold an older vote",
			r.dir("raft", "stable.db"), term, r.terms[n-1].term)
	}
	return r.found(r.verifyStore(cfg))
}

// snapshots reads all snapshots, and remembers the newest.
func (r *Replica) snapshots(cfg *Config) error {
	snaps, err := raftlog.ReadSnapshots(cfg.FS, r.dir("raft", "snapshots"))
	if err != nil {
		return r.found(err)
	}
	for _, err := range snaps.Verify() {
		if err := r.found(err); err != nil {
			return err
		}
	}
	// The newest or none: with an older one raft would lack entries.
	if metas, err := snaps.List(); err == nil && len(metas) > 0 && snaps.VerifyNewest() == nil {
		r.meta, r.snaps = metas[0], snaps
		r.terms = []termStart{{r.meta.Index, r.meta.Term}}
	}
	return nil
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
	if at := store.Reader(); at.Cluster != r.identity.Cluster || at.Group != r.identity.Group || at.Replica != r.identity.StoreReplica() {
		return fmt.Errorf("%s: %w: it is of cluster %q, group %q, replica %q; the directory is of %q, %q, %q",
			store.dir, storage.ErrForeign, at.Cluster, at.Group, at.Replica, r.identity.Cluster, r.identity.Group, r.identity.StoreReplica())
	}
	state := fsm.New(store, store.Reader().SegmentSize)
	if err := r.restore(state); err != nil {
		return err
	}
	r.Snapshot = state.Applied()
	last, applied := r.Snapshot, r.Snapshot
	var after uint64 // what the snapshot stands for
	if r.meta != nil {
		after = r.meta.Index
		last, applied = after, after
	}
	next, dead := uint64(0), false
	err := raftlog.Scan(cfg.FS, r.dir("raft", "log"), func(l *raft.Log) error {
		if next == 0 && l.Index > after+1 {
			return &raftlog.FileError{File: r.dir("raft", "snapshots"), Offset: -1, Err: raftlog.ErrMissing,
				Detail: fmt.Sprintf("the raft log begins at index %d, the newest snapshot is of index %d", l.Index, after)}
		}
		next = l.Index + 1
		// Another entry than the snapshot's: a crash came between the snapshot's
		// installation and the log's removal, which the next start makes up for.
		dead = dead || r.meta != nil && l.Index == after && l.Term != r.meta.Term
		if dead || l.Index <= after {
			return nil
		}
		if n := len(r.terms); n == 0 || r.terms[n-1].term != l.Term && r.terms[n-1].index < l.Index {
			r.terms = append(r.terms, termStart{l.Index, l.Term})
		}
		last = l.Index
		if l.Index > upTo {
			return nil
		}
		if l.Type == raft.LogCommand {
			if _, err := state.Apply([]fsm.Entry{{Index: l.Index, Term: l.Term, Data: l.Data}}); err != nil {
				return fmt.Errorf("replaying the raft log: %w", err)
			}
		}
		// The files may be behind the log: what was not committed, or not known
		// to be, was not applied.
		if store.AbsentLog == 0 && store.Absent == 0 {
			applied = l.Index
		}
		cfg.Progress("replaying "+r.Dir, int64(l.Index), 0)
		return nil
	})
	if !keep { // else the replay ends at upTo, which is not how far the replica is
		r.Last, r.Applied = last, applied
	}
	if err != nil {
		return err
	}
	if !keep {
		r.Messages += store.Units - store.Absent
		r.LogBytes += store.LogBytes - store.AbsentLog
		r.storeProblems(&store.Differences)
		_, end := store.Log()
		synced := store.Reader().Synced().End
		behind, ok, err := store.Behind()
		if err != nil {
			return err
		}
		if ok || synced > end {
			r.problem("snapshot and raft log make the CommitLog end at %d, but it goes on, to %d at least: they are older copies, or have lost entries", end, max(synced, behind+1))
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

func (r *Replica) storeProblems(p *storage.Problems) {
	for _, p := range p.List {
		r.problem("store/%s", p)
	}
	if more := p.Found - int64(len(p.List)); more > 0 {
		r.problem("and %d problems more", more)
	}
}

// restore gives the state the newest snapshot.
func (r *Replica) restore(state *fsm.State) error {
	if r.meta == nil {
		return nil
	}
	_, body, err := r.snaps.Open(r.meta.ID)
	if err != nil {
		return err
	}
	return errors.Join(state.Restore(body), body.Close())
}

// verifyStore checks every checksum of what was synced.
func (r *Replica) verifyStore(cfg *Config) error {
	store := &comparing{cfg: cfg, dir: r.dir("store")}
	if err := store.open(nil); err != nil {
		if r.unsound {
			return nil // said already
		}
		return err
	}
	state := fsm.New(store, store.Reader().SegmentSize)
	err := r.restore(state)
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
	r.storeProblems(&report.Problems)
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
