package raftlog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

const (
	snapSuffix = ".snap"
	// snapRetain is how many snapshots are kept.
	snapRetain = 2
)

// Snapshots is a raft.SnapshotStore: one file per snapshot, checksummed, durable
// and whole under its name or not there at all. The two newest are kept.
//
// raft is shown the newest only, and if that one is damaged it gets an error:
// it would fall back to the older one, and then fail on the entries between
// that the log no longer has. Call VerifyNewest before raft starts.
type Snapshots struct {
	fs     disk.FS
	dir    string
	logger hclog.Logger

	mu     sync.Mutex
	list   []snapshot // newest first
	serial uint64     // the highest in use
}

// snapshot is a file. err says why it is no good, if it is not.
type snapshot struct {
	snapName
	file *snapFile
	err  error
}

// snapName is what a snapshot's name says. Names sort as snapshots do.
type snapName struct{ index, term, serial uint64 }

func (n snapName) String() string { return fmt.Sprintf("%020d-%020d-%08d", n.index, n.term, n.serial) }

func parseSnapName(name string) (n snapName, ok bool) {
	id, ok := strings.CutSuffix(name, snapSuffix)
	if !ok {
		return n, false
	}
	if _, err := fmt.Sscanf(id, "%d-%d-%d", &n.index, &n.term, &n.serial); err != nil {
		return n, false
	}
	return n, n.String() == id
}

var _ raft.SnapshotStore = (*Snapshots)(nil)

// OpenSnapshots opens the snapshots in dir, which it makes if it is not there,
// and removes what unfinished ones have left. logger may be nil.
func OpenSnapshots(fs disk.FS, dir string, logger hclog.Logger) (*Snapshots, error) {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	if err := makeDir(fs, LabelSnapshot, dir); err != nil {
		return nil, err
	}
	s, unfinished, err := readSnapshots(fs, dir)
	if err != nil {
		return nil, err
	}
	s.logger = logger
	for _, name := range unfinished {
		if err := fs.Remove(LabelSnapshot, name); err != nil {
			return nil, err
		}
	}
	// A name that we see may be in memory only, if the process was killed before
	// it had synced it, and others will drop what the snapshot stands for.
	if err := fs.SyncDir(LabelSnapshot, dir); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune(snapName{})
	return s, nil
}

// ReadSnapshots opens the snapshots in dir for offline use: it changes nothing,
// and nothing may be changed through it.
func ReadSnapshots(fs disk.FS, dir string) (*Snapshots, error) {
	s, _, err := readSnapshots(fs, dir)
	return s, err
}

// readSnapshots lists the snapshots in dir, and the files of unfinished ones.
func readSnapshots(fs disk.FS, dir string) (s *Snapshots, unfinished []string, err error) {
	s = &Snapshots{fs: fs, dir: dir, logger: hclog.NewNullLogger()}
	entries, err := fs.ReadDir(LabelSnapshot, dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		full := path.Join(dir, e.Name())
		name, ok := parseSnapName(e.Name())
		switch {
		case ok:
		case path.Ext(e.Name()) == tmpSuffix:
			unfinished = append(unfinished, full)
			continue
		default:
			return nil, nil, &FileError{File: full, Offset: -1, Detail: "not the name of a snapshot", Err: ErrForeign}
		}
		snap := snapshot{snapName: name}
		f, file, err := s.open(name.String())
		if err == nil {
			err = f.Close()
		}
		snap.file, snap.err = file, err
		var damage *FileError
		if err != nil && !errors.As(err, &damage) {
			return nil, nil, err
		}
		s.insert(snap)
	}
	return s, unfinished, nil
}

// insert adds a snapshot to the list. Callers hold mu, or are alone.
func (s *Snapshots) insert(snap snapshot) {
	s.list = append(s.list, snap)
	slices.SortFunc(s.list, func(a, b snapshot) int { return cmp.Compare(b.String(), a.String()) })
	s.serial = max(s.serial, snap.serial)
}

// prune removes all but the newest whole ones, and keeps the one given, and
// damaged ones, which are evidence. One that cannot be removed stays for next
// time. Callers hold mu.
func (s *Snapshots) prune(keep snapName) {
	whole := 0
	s.list = slices.DeleteFunc(s.list, func(snap snapshot) bool {
		if snap.err != nil {
			return false
		}
		whole++
		if whole <= snapRetain || snap.snapName == keep {
			return false
		}
		err := s.fs.Remove(LabelSnapshot, s.path(snap.String()))
		if err != nil {
			s.logger.Warn("raft snapshots: removing an old one", "error", err)
		}
		return err == nil
	})
}

func (s *Snapshots) path(id string) string { return path.Join(s.dir, id+snapSuffix) }

func (s *Snapshots) open(id string) (disk.File, *snapFile, error) {
	f, err := s.fs.OpenFile(LabelSnapshot, s.path(id), os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	file, err := readSnapHeader(f)
	if err == nil && file.meta.ID != id {
		err = &FileError{File: f.Name(), Offset: -1, Detail: fmt.Sprintf("the file holds snapshot %s", file.meta.ID), Err: ErrForeign}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, file, nil
}

// Create implements raft.SnapshotStore. The snapshot exists once the sink's
// Close has returned nil.
func (s *Snapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("raftlog: snapshot version %d: only 1 is supported", version)
	}
	s.mu.Lock()
	s.serial++
	name := snapName{index, term, s.serial}
	s.mu.Unlock()
	meta := snapMeta{ID: name.String(), Index: index, Term: term, ConfigurationIndex: configurationIndex, Servers: []snapServer{}}
	for _, srv := range configuration.Servers {
		meta.Servers = append(meta.Servers, snapServer{int(srv.Suffrage), string(srv.ID), string(srv.Address)})
	}
	sink, err := newSink(s, name, meta)
	if err != nil {
		return nil, err
	}
	return sink, nil
}

// List implements raft.SnapshotStore. It returns the newest snapshot only, and
// an error if that one's header is damaged.
func (s *Snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return nil, nil
	}
	if err := s.list[0].err; err != nil {
		return nil, err
	}
	return []*raft.SnapshotMeta{s.list[0].meta()}, nil
}

// All returns every whole snapshot, the newest first, for offline tools.
func (s *Snapshots) All() []*raft.SnapshotMeta {
	s.mu.Lock()
	defer s.mu.Unlock()
	var metas []*raft.SnapshotMeta
	for _, snap := range s.list {
		if snap.err == nil {
			metas = append(metas, snap.meta())
		}
	}
	return metas
}

func (s *snapshot) meta() *raft.SnapshotMeta { return s.file.meta.raftMeta(s.file.payload) }

// Open implements raft.SnapshotStore. Reading verifies: bytes that were not
// written are never handed out, a *FileError comes instead.
func (s *Snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if n, ok := parseSnapName(id + snapSuffix); !ok || n.String() != id {
		return nil, nil, fmt.Errorf("raftlog: %q is not the id of a snapshot", id)
	}
	f, file, err := s.open(id)
	if err != nil {
		return nil, nil, err
	}
	return file.meta.raftMeta(file.payload), newSnapReader(f, file), nil
}

// VerifyNewest reads the newest snapshot from beginning to end and returns a
// *FileError if it is damaged. Without snapshots there is nothing to verify.
func (s *Snapshots) VerifyNewest() error {
	metas, err := s.List()
	if err != nil || len(metas) == 0 {
		return err
	}
	return s.verify(metas[0].ID)
}

func (s *Snapshots) verify(id string) error {
	_, r, err := s.Open(id)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// Verify reads all snapshots from beginning to end and returns what is wrong
// with each that is damaged, the newest first.
func (s *Snapshots) Verify() (damaged []error) {
	s.mu.Lock()
	list := slices.Clone(s.list)
	s.mu.Unlock()
	for _, snap := range list {
		if err := s.verify(snap.String()); err != nil {
			damaged = append(damaged, err)
		}
	}
	return damaged
}
