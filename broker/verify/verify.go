// Package verify looks into the data directories of stopped nodes: whether every
// checksum is right, whether the files say what the raft log says, and whether
// the replicas of a group are equal.
//
// Replicas that were stopped have seldom applied the same number of entries, so
// they are compared as of the last entry that all of them have applied: each
// replica's snapshot is restored into a state of its own, and its raft log
// replayed into that up to the common entry, against the files instead of into
// them. That proves that the files are what the log says; equal state digests
// and equal bytes prove that the replicas are.
package verify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// Config says what to verify.
type Config struct {
	FS disk.FS // default: the machine's
	// Dirs are data directories: of nodes, or of single replicas.
	Dirs []string
	// Progress, if set, is told what is being read.
	Progress func(what string, done, total int64)
}

// Report is what was found.
type Report struct {
	Groups []Group
}

// Group is a broker group of which at least one replica was found.
type Group struct {
	Name     string
	Replicas []Replica
	// Common is the index of the last raft entry that all replicas have applied
	// to their files.
	Common uint64
	// Identical: as of Common, CommitLog, queues and metadata are. With one
	// replica there is nothing to compare, and it is false.
	Identical bool
	Problems  []string // between replicas
}

// Replica is one replica's directory.
type Replica struct {
	Dir      string
	ServerID string
	Node     string
	Snapshot uint64 // index of its snapshot
	Last     uint64 // index of its raft log's last entry
	Applied  uint64 // index of the last entry that is in its files
	Messages int64  // records compared with their checksums, the raft log and their queue entries
	LogBytes int64  // of the CommitLog that was read
	Digest   string // of the metadata as of the group's common index
	Problems []string

	identity raftgroup.Identity
	unsound  bool               // the files do not say what the state is
	snaps    *raftlog.Snapshots // nil, as meta, if there is no snapshot
	meta     *raft.SnapshotMeta // the newest
	terms    []termStart        // of the raft log, where the term changes

	end    int64 // of the CommitLog as of the common index
	min    int64
	queues map[storage.QueueID]int64
	reader *storage.Comparer
}

// OK says whether nothing is wrong.
func (r *Report) OK() bool {
	for _, g := range r.Groups {
		if len(g.Problems) > 0 || len(g.Replicas) > 1 && !g.Identical {
			return false
		}
		for _, rep := range g.Replicas {
			if len(rep.Problems) > 0 {
				return false
			}
		}
	}
	return true
}

// Run verifies. The error is for what kept it from looking; what it saw is in
// the report.
func Run(cfg Config) (*Report, error) {
	if cfg.FS == nil {
		cfg.FS = disk.OS()
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int64, int64) {}
	}
	byGroup := map[string][]Replica{}
	for _, dir := range cfg.Dirs {
		found, err := replicas(cfg.FS, dir)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%s: there is no replica's data directory here (no %s)", dir, raftgroup.IdentityFile)
		}
		for _, r := range found {
			id, err := raftgroup.ReadIdentity(cfg.FS, r)
			if err != nil {
				return nil, err
			}
			byGroup[id.Group] = append(byGroup[id.Group], Replica{Dir: r, ServerID: string(id.ServerID()), Node: id.Node, identity: id})
		}
	}
	report := &Report{}
	for _, name := range slices.Sorted(maps.Keys(byGroup)) {
		g := Group{Name: name, Replicas: byGroup[name]}
		if err := g.verify(&cfg); err != nil {
			return nil, fmt.Errorf("group %s: %w", name, err)
		}
		report.Groups = append(report.Groups, g)
	}
	return report, nil
}

// replicas finds the replicas' directories in a directory, or that it is one.
func replicas(d disk.FS, dir string) ([]string, error) {
	if _, err := d.Stat(label, path.Join(dir, raftgroup.IdentityFile)); err == nil {
		return []string{dir}, nil
	}
	entries, err := d.ReadDir(label, dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		sub := path.Join(dir, e.Name())
		_, err := d.Stat(label, path.Join(sub, raftgroup.IdentityFile))
		switch {
		case err == nil:
			found = append(found, sub)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		default:
			if _, err := d.Stat(label, path.Join(sub, "store", "format")); err == nil {
				return nil, fmt.Errorf("%s is a replica's directory, but %s is missing", sub, raftgroup.IdentityFile)
			}
		}
	}
	return found, nil
}

const label disk.Label = "verify"

func (g *Group) verify(cfg *Config) error {
	for i := range g.Replicas {
		r := &g.Replicas[i]
		if err := r.check(cfg); err != nil {
			return fmt.Errorf("%s: %w", r.Dir, err)
		}
	}
	var sound []*Replica
	for i := range g.Replicas {
		if r := &g.Replicas[i]; !r.unsound {
			sound = append(sound, r)
		} else if len(g.Replicas) > 1 {
			g.problem("%s is damaged, and not compared with the others", r.Dir)
		}
	}
	if len(sound) == 0 {
		return nil
	}
	g.Common = common(sound)
	defer func() {
		for _, r := range sound {
			if r.reader != nil {
				r.reader.Close() // it wrote nothing
			}
		}
	}()
	for _, r := range sound {
		if r.Snapshot > g.Common {
			g.problem("%s has a snapshot at entry %d, after the last one that all have, %d: their metadata can't be compared; start them, let them catch up, and stop them again",
				r.Dir, r.Snapshot, g.Common)
			return nil
		}
		if err := r.replay(cfg, g.Common, true); err != nil {
			return fmt.Errorf("%s: %w", r.Dir, err)
		}
	}
	if err := g.compare(cfg, sound); err != nil {
		return err
	}
	g.Identical = len(g.Replicas) > 1 && len(g.Problems) == 0
	return nil
}

func (g *Group) problem(format string, args ...any) {
	g.Problems = append(g.Problems, fmt.Sprintf(format, args...))
}

// common is the index of the last entry that all replicas have applied. One that
// was not committed may be another entry in another log: then it is before that.
func common(replicas []*Replica) uint64 {
	index := replicas[0].Applied
	for _, r := range replicas {
		index = min(index, r.Applied)
	}
	first := replicas[0]
	for _, r := range replicas[1:] {
		for index > max(first.Snapshot, r.Snapshot) && first.termOf(index) != r.termOf(index) {
			index--
		}
	}
	return index
}

// compare compares the replicas as of the common index.
func (g *Group) compare(cfg *Config, replicas []*Replica) error {
	first := replicas[0]
	for _, r := range replicas[1:] {
		if r.Digest != first.Digest {
			g.problem("the metadata of %s and %s differ at entry %d", first.Dir, r.Dir, g.Common)
		}
		if r.min != first.min || r.end != first.end {
			g.problem("the CommitLog of %s is [%d, %d), that of %s [%d, %d)", first.Dir, first.min, first.end, r.Dir, r.min, r.end)
			continue
		}
		// One that has applied more may have trimmed more.
		begin := max(first.min, first.reader.Reader().Floor(), r.reader.Reader().Floor())
		if err := g.compareLogs(cfg, first, r, begin); err != nil {
			return err
		}
		if err := g.compareQueues(first, r, begin); err != nil {
			return err
		}
	}
	return nil
}

// compareLogs compares the bytes of two CommitLogs.
func (g *Group) compareLogs(cfg *Config, a, b *Replica, begin int64) error {
	one, two := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := begin; off < a.end; off += int64(len(one)) {
		n := min(int64(len(one)), a.end-off)
		err := errors.Join(a.reader.Reader().ReadLog(off, one[:n]), b.reader.Reader().ReadLog(off, two[:n]))
		if err != nil && !lacks(err) {
			return err
		}
		if err != nil || !bytes.Equal(one[:n], two[:n]) {
			g.problem("the CommitLogs of %s and %s differ between %d and %d%s", a.Dir, b.Dir, off, off+n, because(err))
			return nil
		}
		cfg.Progress("comparing CommitLogs", off-begin, a.end-begin)
	}
	return nil
}

// unitsAtOnce divides a queue file's units, so that no read goes over the end of one.
const unitsAtOnce = 1000

// compareQueues compares the units of two replicas' queues, as far as the
// records they point to are kept.
func (g *Group) compareQueues(a, b *Replica, begin int64) error {
	if len(a.queues) != len(b.queues) {
		g.problem("%s has %d queues, %s %d", a.Dir, len(a.queues), b.Dir, len(b.queues))
		return nil
	}
	one, two := make([]byte, unitsAtOnce*storage.UnitSize), make([]byte, unitsAtOnce*storage.UnitSize)
	for id, last := range a.queues {
		if b.queues[id] != last {
			g.problem("queue %s has %d messages in %s, %d in %s", id, last, a.Dir, b.queues[id], b.Dir)
			continue
		}
		for off := int64(0); off < last; off += unitsAtOnce {
			n := int(min(unitsAtOnce, last-off)) * storage.UnitSize
			errA, errB := a.reader.Reader().ReadUnits(id, off, one[:n]), b.reader.Reader().ReadUnits(id, off, two[:n])
			if gone(errA) && gone(errB) || gone(errA) != gone(errB) && begin > 0 {
				continue // trimmed: files go when nobody reads them, at each replica's own time
			}
			err := errors.Join(errA, errB)
			if err != nil && !lacks(err) {
				return err
			}
			if err != nil || !bytes.Equal(one[:n], two[:n]) && !sameKept(begin, one[:n], two[:n]) {
				g.problem("queue %s of %s and %s differ between offsets %d and %d%s",
					id, a.Dir, b.Dir, off, off+int64(n/storage.UnitSize), because(err))
				break
			}
		}
	}
	return nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// lacks says whether an error is about bytes that a file does not have.
func lacks(err error) bool { return gone(err) || errors.Is(err, io.EOF) }

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

// sameKept says whether units are equal where they point into the CommitLog as
// it is: a replica that joined after a trim never had the others.
func sameKept(begin int64, a, b []byte) bool {
	for i := 0; i+storage.UnitSize <= len(a); i += storage.UnitSize {
		x, y := a[i:i+storage.UnitSize], b[i:i+storage.UnitSize]
		if !bytes.Equal(x, y) && max(physical(x), physical(y)) >= begin {
			return false
		}
	}
	return true
}

// physical is the first field of a unit.
func physical(unit []byte) int64 { return int64(binary.BigEndian.Uint64(unit)) }
