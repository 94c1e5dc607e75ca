package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

const snapDir = "/data/snapshots"

var servers = raft.Configuration{Servers: []raft.Server{
	{Suffrage: raft.Voter, ID: "n1", Address: "n1@host:1"},
	{Suffrage: raft.Nonvoter, ID: "n2", Address: "n2@host:2"},
}}

func openSnaps(t testing.TB, fs disk.FS) *Snapshots {
	t.Helper()
	s, err := OpenSnapshots(fs, snapDir, nil)
	ok(t, err)
	return s
}

// payload makes the bytes of the snapshot at an index: the same for the same.
func payload(index uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(index)}).Read(b)
	return b
}

// take makes a snapshot, writing in pieces.
func take(s *Snapshots, index, term uint64, b []byte) (id string, err error) {
	sink, err := s.Create(1, index, term, servers, index-1, nil)
	if err != nil {
		return "", err
	}
	for rest := b; len(rest) > 0; {
		n := min(len(rest), 1+len(b)/3)
		if _, err := sink.Write(rest[:n]); err != nil {
			return "", errors.Join(err, sink.Cancel())
		}
		rest = rest[n:]
	}
	return sink.ID(), sink.Close()
}

func readSnap(s *Snapshots, id string) (*raft.SnapshotMeta, []byte, error) {
	meta, r, err := s.Open(id)
	if err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(r)
	return meta, b, errors.Join(err, r.Close())
}

func TestSnapshotRoundTrip(t *testing.T) {
	for name, fs := range map[string]disk.FS{"Mem": newMem(t), "OS": disk.OS()} {
		t.Run(name, func(t *testing.T) {
			where := snapDir
			if name == "OS" {
				where = path.Join(t.TempDir(), "snapshots")
			}
			s, err := OpenSnapshots(fs, where, nil)
			ok(t, err)
			if metas, err := s.List(); len(metas) != 0 || err != nil {
				t.Errorf("a new store lists %v, %v", metas, err)
			}
			ok(t, s.VerifyNewest())
			for i, n := range []int{0, 1, snapBlock - 1, snapBlock, snapBlock + 1, 5*snapBlock + 77} {
				index := uint64(i + 10)
				b := payload(index, n)
				id, err := take(s, index, 3, b)
				ok(t, err)
				for range 2 { // the second time after opening again
					metas, err := s.List()
					ok(t, err)
					want := &raft.SnapshotMeta{Version: 1, ID: id, Index: index, Term: 3, Configuration: servers,
						ConfigurationIndex: index - 1, Size: int64(n)}
					if len(metas) != 1 || !reflect.DeepEqual(metas[0], want) {
						t.Fatalf("lists %+v, want %+v", metas, want)
					}
					meta, got, err := readSnap(s, id)
					ok(t, err)
					if !bytes.Equal(got, b) || !reflect.DeepEqual(meta, want) {
						t.Fatalf("%d bytes came back as %d, meta %+v", n, len(got), meta)
					}
					ok(t, s.VerifyNewest())
					s, err = OpenSnapshots(fs, where, nil)
					ok(t, err)
				}
				if all := s.All(); len(all) != min(i+1, snapRetain) || i > 0 && all[1].Index != index-1 {
					t.Errorf("%d snapshots are kept", len(all))
				} else if i > 0 {
					_, got, err := readSnap(s, all[1].ID) // the older one is there for tools
					ok(t, err)
					if !bytes.Equal(got, payload(index-1, len(got))) {
						t.Error("the older one has changed")
					}
				}
			}
		})
	}
}

func TestSnapshotSinkEnds(t *testing.T) {
	fs := newMem(t)
	s := openSnaps(t, fs)
	_, err := s.Create(0, 1, 1, servers, 1, nil)
	if err == nil {
		t.Error("accepted version 0")
	}
	sink, err := s.Create(1, 5, 1, servers, 1, nil)
	ok(t, err)
	_, err = sink.Write(payload(5, 3*snapBlock))
	ok(t, err)
	if metas, _ := s.List(); len(metas) != 0 {
		t.Error("an unfinished snapshot is listed")
	}
	ok(t, sink.Cancel())
	ok(t, sink.Cancel())
	ok(t, sink.Close())
	_, err = sink.Write([]byte("x"))
	want(t, "Write", err, ErrClosed)
	if n := names(t, fs, snapDir); len(n) != 0 {
		t.Errorf("Cancel left %v", n)
	}
	// Two of one index do not get into each other's way.
	a, err := s.Create(1, 5, 1, servers, 1, nil)
	ok(t, err)
	b, err := s.Create(1, 5, 1, servers, 1, nil)
	ok(t, err)
	if a.ID() == b.ID() {
		t.Error("two snapshots have one id")
	}
	ok(t, errors.Join(b.Close(), a.Close(), a.Close(), a.Cancel()))
	if all := s.All(); len(all) != 2 || all[0].ID != b.ID() {
		t.Errorf("%v", all)
	}
	// An older one, installed by a leader, can be read although two newer exist.
	id, err := take(s, 3, 1, []byte("old"))
	ok(t, err)
	if _, got, err := readSnap(s, id); string(got) != "old" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, id := range []string{"", "x", "../" + id, id + "x", "00000000000000000003-00000000000000000001-99999999"} {
		if _, _, err := s.Open(id); err == nil {
			t.Errorf("opened %q", id)
		}
	}
}

// Row 21: a bit flipped anywhere in the newest snapshot. Nothing wrong is ever
// handed out; VerifyNewest names the file; raft is not shown the older one.
func TestFlippedBitsInSnapshot(t *testing.T) {
	t.Parallel()
	fs := newMem(t)
	s := openSnaps(t, fs)
	_, err := take(s, 10, 1, []byte("the older one"))
	ok(t, err)
	b := payload(20, 2*snapBlock+500)
	id, err := take(s, 20, 2, b)
	ok(t, err)
	name := s.path(id)
	size := int64(len(readFile(t, fs, name)))
	var offs []int64
	for off := range size {
		near := func(x int64) bool { return off > x-20 && off < x+20 }
		blocks := s.list[0].file.blocks
		if off < blocks+40 || near(blocks+snapBlock) || near(blocks+2*snapBlock) || off > size-60 || off%3571 == 0 {
			offs = append(offs, off)
		}
	}
	for _, off := range offs {
		c := fs.Clone()
		ok(t, c.FlipBit(name, off, uint(off)))
		s := openSnaps(t, c)
		err := s.VerifyNewest()
		damaged(t, err, kindOf(err), name)
		metas, listErr := s.List()
		if listErr != nil {
			damaged(t, listErr, kindOf(listErr), name)
		} else if len(metas) != 1 || metas[0].ID != id {
			t.Fatalf("byte %d: raft is shown %v", off, metas)
		}
		_, got, err := readSnap(s, id)
		damaged(t, err, kindOf(err), name)
		if !bytes.HasPrefix(b, got) {
			t.Fatalf("byte %d: wrong bytes were handed out", off)
		}
		if all := s.All(); all[len(all)-1].Index != 10 {
			t.Fatalf("byte %d: the older one is gone: %v", off, all)
		}
	}
	// Truncated, extended, foreign.
	good := readFile(t, fs, name)
	for _, bad := range [][]byte{
		nil, good[:10], good[:snapHeader], good[:200], good[:len(good)/2], good[:len(good)-1], append(good[:size:size], 0),
		bytes.Repeat([]byte("x"), len(good)), readFile(t, fs, s.path(s.list[1].String())),
	} {
		c := fs.Clone()
		writeFile(t, c, name, bad)
		err := openSnaps(t, c).VerifyNewest()
		damaged(t, err, kindOf(err), name)
	}
	c := fs.Clone()
	writeFile(t, c, path.Join(snapDir, "notes.txt"), nil)
	_, err = OpenSnapshots(c, snapDir, nil)
	damaged(t, err, ErrForeign, path.Join(snapDir, "notes.txt"))
}

// A damaged one is not deleted by those that come after it, nor does it count
// among those kept.
func TestDamagedSnapshotIsKept(t *testing.T) {
	fs := newMem(t)
	s := openSnaps(t, fs)
	id, err := take(s, 10, 1, []byte("x"))
	ok(t, err)
	ok(t, fs.FlipBit(s.path(id), 3, 1))
	for i := uint64(1); i < 5; i++ {
		s = openSnaps(t, fs)
		_, err := take(s, 10+i, 1, []byte("y"))
		ok(t, err)
	}
	if n := names(t, fs, snapDir); len(n) != 3 || n[0] != id+snapSuffix {
		t.Errorf("%v", n)
	}
}

// At each operation: the machine goes down, the process is killed, or the
// operation fails. Afterwards the newest snapshot is the one before or the new
// one, whole; and it is the new one if Close said so.
func TestSnapshotCrashAndFailureAtEachStep(t *testing.T) {
	t.Parallel()
	seed := testSeed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	size := snapBlock + 10
	var verify func(fs *disk.Mem, atLeast uint64, what string)
	verify = func(fs *disk.Mem, atLeast uint64, what string) {
		t.Helper()
		s := openSnaps(t, fs)
		if err := s.VerifyNewest(); err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		metas, err := s.List()
		ok(t, err)
		if len(metas) != 1 || metas[0].Index < atLeast {
			t.Errorf("%s: %d snapshots, the newest of index %v; %d was done", what, len(metas), metas, atLeast)
			return
		}
		_, b, err := readSnap(s, metas[0].ID)
		ok(t, err)
		if !bytes.Equal(b, payload(metas[0].Index, size)) {
			t.Errorf("%s: the payload differs", what)
		}
		if again := ", and crashed again"; !strings.HasSuffix(what, again) {
			// What opening has shown is on the disk: the log may be emptied now.
			verify(fs.Crash(rng.Uint64()), metas[0].Index, what+again)
		}
		for _, n := range names(t, fs, snapDir) {
			if path.Ext(n) == tmpSuffix {
				t.Errorf("%s: %s was left behind", what, n)
			}
		}
	}
	play := func(hook func(fs *disk.Mem, op disk.Op, done uint64) error) (failed bool) {
		fs := newMem(t)
		done := uint64(10)
		_, err := take(openSnaps(t, fs), done, 1, payload(done, size))
		ok(t, err)
		fs.SetHook(func(op disk.Op) error { return hook(fs, op, done) })
		s, err := OpenSnapshots(fs, snapDir, nil)
		for i := uint64(20); i < 50 && err == nil; i += 10 {
			if _, err = take(s, i, 1, payload(i, size)); err == nil {
				done = i
			}
		}
		fs.SetHook(nil)
		verify(fs.Clone(), done, "after all")
		verify(fs.Crash(rng.Uint64()), done, "after all, crashed")
		if err == nil && done != 40 {
			t.Error("a snapshot went missing")
		}
		return err != nil
	}
	steps := 0
	play(func(fs *disk.Mem, op disk.Op, done uint64) error {
		steps++
		what := fmt.Sprintf("before %s of %s at %d", op.Kind, op.Name, op.Off)
		verify(fs.Crash(rng.Uint64()), done, "crash "+what)
		verify(fs.Clone(), done, "kill "+what)
		return nil
	})
	failures := 0
	for n := 1; n <= steps; n++ {
		i := 0
		if play(func(_ *disk.Mem, op disk.Op, _ uint64) error {
			if i++; i != n {
				return nil
			}
			if op.Kind == disk.OpWrite {
				return disk.ShortWrite{N: op.Len / 2, Err: errInjected}
			}
			return errInjected
		}) {
			failures++
		}
	}
	t.Logf("%d steps, %d failures were told", steps, failures)
	if failures < steps-5 { // a failed removal of an old one is not
		t.Error("failures were not told")
	}
}

func TestSnapshotOnAFullDisk(t *testing.T) {
	fs := newMem(t)
	s := openSnaps(t, fs)
	_, err := take(s, 10, 1, payload(10, 1000))
	ok(t, err)
	fs.SetCapacity(snapBlock)
	if _, err := take(s, 20, 1, payload(20, 3*snapBlock)); err == nil {
		t.Error("a snapshot larger than the disk")
	}
	fs.SetCapacity(0)
	if n := names(t, fs, snapDir); len(n) != 1 {
		t.Errorf("left behind: %v", n)
	}
	_, err = take(s, 30, 1, payload(30, 3*snapBlock))
	ok(t, err)
	ok(t, s.VerifyNewest())
}

// Offline reading finds what is damaged, new or old, and changes nothing.
func TestReadSnapshots(t *testing.T) {
	fs := newMem(t)
	s := openSnaps(t, fs)
	older, err := take(s, 10, 1, []byte("x"))
	ok(t, err)
	_, err = take(s, 20, 1, []byte("y"))
	ok(t, err)
	unfinished := path.Join(snapDir, "x"+tmpSuffix)
	writeFile(t, fs, unfinished, []byte("z"))
	read := func() []error {
		t.Helper()
		before := names(t, fs, snapDir)
		s, err := ReadSnapshots(fs, snapDir)
		ok(t, err)
		if metas, err := s.List(); err != nil || len(metas) != 1 || metas[0].Index != 20 {
			t.Errorf("snapshots %v, %v", metas, err)
		}
		damage := s.Verify()
		if after := names(t, fs, snapDir); !slices.Equal(before, after) {
			t.Errorf("files %v, before %v", after, before)
		}
		return damage
	}
	if damage := read(); len(damage) > 0 {
		t.Errorf("damage %v", damage)
	}
	name := s.path(older)
	ok(t, fs.FlipBit(name, int64(len(readFile(t, fs, name)))-1, 3))
	damage := read()
	if len(damage) != 1 {
		t.Fatalf("damage %v", damage)
	}
	damaged(t, damage[0], kindOf(damage[0]), name)
	if _, err := ReadSnapshots(fs, "/data/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := fs.Stat("", "/data/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
}
