package raftlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// What is in testdata/v1 was written by the first release and stays for ever:
// later ones must open it. -update writes it anew, which only a change of the
// format before its first release, or a new directory for a new version, needs.
var update = flag.Bool("update", false, "write testdata/v1 anew")

const goldenDir = "testdata/v1"

func goldenEntries() []*raft.Log {
	return []*raft.Log{
		{Index: 41, Term: 2, Type: raft.LogNoop, AppendedAt: time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)},
		{Index: 42, Term: 2, Type: raft.LogConfiguration, Data: []byte("configuration")},
		{Index: 43, Term: 3, Data: []byte("a command"), Extensions: []byte("ext")},
		{Index: 44, Term: 3, Data: bytes.Repeat([]byte("0123456789"), 3000)},
		{Index: 45, Term: 3, Data: bytes.Repeat([]byte("abcdefghij"), 4000)},
		{Index: 46, Term: 5, Data: []byte("after a truncation"), AppendedAt: time.Unix(0, 0).UTC()},
	}
}

// TestGoldenBytes pins each codec's bytes.
func TestGoldenBytes(t *testing.T) {
	var frames []byte
	seed := seedOf(0x0102030405060708)
	f := frame{epoch: 9, prevCRC: 0xAABBCCDD, synced: position{7, 8192}}
	for _, l := range goldenEntries()[:3] {
		f.typ, f.index, f.term, f.appended = l.Type, l.Index, l.Term, encodeTime(l.AppendedAt)
		f.at = position{7, 8192 + int64(len(frames))}
		frames = appendFrame(frames, seed, &f, l.Data, l.Extensions)
		f.prevCRC = f.crc
	}
	h := header{logID: 0x0102030405060708, size: 64 << 20, seq: 7, epoch: 9, cut: cut{12345, 10}, state: state{
		generation: 77, first: 41, start: position{5, 9000}, last: 8, synced: position{7, 10_000}}}
	m := mark{boot: "5f1c9a54-6b4e-4f3e-9b0a-1d7f2a3b4c5d", suspect: true}
	meta := snapMeta{ID: snapName{46, 5, 3}.String(), Index: 46, Term: 5, ConfigurationIndex: 42,
		Servers: []snapServer{{0, "n1", "n1@h:1"}, {1, "n2", "n2@h:2"}}}
	snap, _, err := encodeSnapHeader(&meta)
	ok(t, err)
	store := raft.NewInmemStore()
	s := newStable(t, store, true)
	ok(t, s.SetUint64(currentTerm, 6))
	ok(t, persistVote(s, 6, "n1@h:1"))
	term, err := store.Get(currentTerm)
	ok(t, err)
	vote, err := store.Get([]byte(keyVote))
	ok(t, err)

	var got bytes.Buffer
	for _, g := range []struct {
		name string
		b    []byte
	}{{"frames", frames}, {"header", h.encode()}, {"mark", m.encode()}, {"snapshot header", snap}, {"term", term}, {"vote", vote}} {
		fmt.Fprintf(&got, "%s\n%s\n", g.name, hex.Dump(g.b))
	}
	name := filepath.Join(goldenDir, "codecs.txt")
	if *update {
		ok(t, os.MkdirAll(goldenDir, 0o750))
		ok(t, os.WriteFile(name, got.Bytes(), 0o640))
	}
	want, err := os.ReadFile(name)
	ok(t, err)
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the bytes differ from %s:\n%s", name, got.Bytes())
	}
}

// copyIn copies a directory of testdata into fs.
func copyIn(t *testing.T, fs disk.FS, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	ok(t, err)
	ok(t, fs.MkdirAll("test", to))
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		ok(t, err)
		writeFile(t, fs, path.Join(to, e.Name()), b)
	}
}

// TestGoldenFiles opens a log with a recycled segment, a truncation and a
// deleted prefix, snapshots and a stable store of the first release.
func TestGoldenFiles(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	fs := newMem(t)
	copyIn(t, fs, filepath.Join(goldenDir, "log"), dir)
	copyIn(t, fs, filepath.Join(goldenDir, "snapshots"), snapDir)
	var scanned []*raft.Log
	ok(t, Scan(fs, dir, func(l *raft.Log) error { scanned = append(scanned, l); return nil }))
	ok(t, same(scanned, goldenEntries()))

	stable := filepath.Join(t.TempDir(), "stable.db")
	b, err := os.ReadFile(filepath.Join(goldenDir, "stable.db"))
	ok(t, err)
	ok(t, os.WriteFile(stable, b, 0o600))
	s, err := OpenStable(stable, false)
	ok(t, err)
	if term, cand := votes(t, s); term != 6 || cand != "n1@h:1" || s.CurrentTerm() != 6 {
		t.Errorf("vote %d %s, term %d", term, cand, s.CurrentTerm())
	}

	snaps := openSnaps(t, fs)
	ok(t, snaps.VerifyNewest())
	metas, err := snaps.List()
	ok(t, err)
	if len(metas) != 1 || metas[0].Index != 42 || metas[0].Term != 2 || len(metas[0].Configuration.Servers) != 2 {
		t.Errorf("snapshots %+v", metas)
	}
	_, payload, err := readSnap(snaps, metas[0].ID)
	ok(t, err)
	if string(payload) != "the state of the state machine" {
		t.Errorf("payload %q", payload)
	}

	opts := small()
	opts.Create = false
	l := mustOpen(t, fs, opts)
	holds(t, l, goldenEntries())
	if l.Suspect() {
		t.Error("suspect")
	}
	ok(t, CheckTerm(s, l, snaps))
	emptied, err := Reconcile(l, snaps)
	ok(t, err)
	if emptied {
		t.Error("the log was emptied")
	}
	ok(t, l.StoreLogs(batch(47, 60, 6, 5000)))
	holds(t, l, concat(goldenEntries(), batch(47, 60, 6, 5000)))
	ok(t, errors.Join(l.Close(), s.Close()))
}

func writeGolden(t *testing.T) {
	ok(t, os.RemoveAll(filepath.Join(goldenDir, "log")))
	ok(t, os.RemoveAll(filepath.Join(goldenDir, "snapshots")))
	ok(t, os.RemoveAll(filepath.Join(goldenDir, "stable.db")))
	ok(t, os.MkdirAll(goldenDir, 0o750))
	opts := small()
	opts.logID = 0x0102030405060708
	l, err := Open(disk.OS(), filepath.Join(goldenDir, "log"), opts)
	ok(t, err)
	ok(t, l.StoreLogs(batch(1, 40, 1, 2500)))
	settle(l)
	ok(t, l.DeleteRange(1, 38))
	settle(l)
	ok(t, l.StoreLogs(goldenEntries()[:3]))
	ok(t, l.StoreLogs(goldenEntries()[3:5]))
	settle(l)
	ok(t, l.StoreLogs(batch(46, 50, 4, 300)))
	ok(t, l.DeleteRange(46, 50))
	ok(t, l.StoreLogs(goldenEntries()[5:]))
	ok(t, l.DeleteRange(1, 40))
	settle(l)
	if l.Stats().Recycled == 0 {
		t.Error("nothing was recycled")
	}
	ok(t, l.Close())
	ok(t, os.Remove(filepath.Join(goldenDir, "log", lockName)))

	snaps, err := OpenSnapshots(disk.OS(), filepath.Join(goldenDir, "snapshots"), nil)
	ok(t, err)
	_, err = take(snaps, 42, 2, []byte("the state of the state machine"))
	ok(t, err)
	name := filepath.Join(goldenDir, "stable.db")
	s, err := OpenStable(name, true)
	ok(t, err)
	ok(t, s.SetUint64(currentTerm, 6))
	ok(t, persistVote(s, 6, "n1@h:1"))
	ok(t, s.Close())
	ok(t, os.Truncate(name, 64<<10)) // the rest is room in reserve
}
