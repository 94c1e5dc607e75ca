package raftlog

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"testing"

	"github.com/hashicorp/raft"
)

func unpaced(int) error { return nil }

// Row 21, a log that is in use: a bit flipped anywhere that matters is found.
// Headers come back, entries are named, and what is read is right or an error.
func TestScrubFindsFlippedBits(t *testing.T) {
	t.Parallel()
	fs, l, logs := smallLog(t)
	rep, err := l.Scrub(unpaced)
	ok(t, err)
	if rep != (ScrubReport{}) {
		t.Fatalf("damage was found where there is none: %+v", rep)
	}
	entries, headers := 0, 0
	for _, s := range l.segs {
		for _, off := range telling(l, s.file.Name()) {
			if !long && off%3 != 0 {
				continue
			}
			ok(t, fs.FlipBit(s.file.Name(), off, uint(off)%8))
			rep, err := l.Scrub(unpaced)
			ok(t, err)
			switch {
			case rep.Headers > 0:
				headers++
				if again, err := l.Scrub(unpaced); err != nil || again != (ScrubReport{}) {
					t.Fatalf("the header of %s, byte %d, is not right again: %+v, %v", s.file.Name(), off, again, err)
				}
				continue // written again
			case rep.Entries == 1:
				entries++
				var got raft.Log
				damaged(t, l.GetLog(rep.Bad, &got), ErrCorrupt, s.file.Name())
				damaged(t, rep.Cause, ErrCorrupt, s.file.Name())
			case rep != (ScrubReport{}):
				t.Fatalf("byte %d of %s: %+v", off, s.file.Name(), rep)
			default:
				holds(t, l, logs) // padding, or dead
			}
			ok(t, fs.FlipBit(s.file.Name(), off, uint(off)%8))
		}
	}
	if entries < 300 || headers < 60 {
		t.Errorf("%d entries and %d headers found", entries, headers)
	}
	holds(t, l, logs)
	ok(t, l.Err())
	// What is damaged goes with those before it.
	s, e, _ := l.locate(9)
	ok(t, fs.FlipBit(s.file.Name(), int64(e.off)+90, 1))
	rep, err = l.Scrub(unpaced)
	ok(t, err)
	if rep.Bad != 9 {
		t.Fatalf("%+v", rep)
	}
	ok(t, l.DeleteRange(0, rep.Bad))
	if rep, err = l.Scrub(unpaced); err != nil || rep != (ScrubReport{}) {
		t.Errorf("after it was deleted: %+v, %v", rep, err)
	}
	ok(t, l.Close())
}

// Row 22, a log that is in use: a file that is removed, replaced or cut is
// noticed before anybody relies on it.
func TestScrubFindsWrongFiles(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(t *testing.T, l *Log, name string, b []byte)
		kind error
	}{
		{"removed", func(t *testing.T, l *Log, name string, _ []byte) { ok(t, l.fs.Remove("test", name)) }, ErrMissing},
		{"cut", func(t *testing.T, l *Log, name string, b []byte) {
			f, err := l.fs.OpenFile("test", name, os.O_RDWR)
			ok(t, err)
			ok(t, errors.Join(f.Truncate(int64(len(b)/2)), f.Close()))
		}, ErrForeign},
		{"replaced by text", func(t *testing.T, l *Log, name string, b []byte) {
			ok(t, l.fs.Remove("test", name))
			writeFile(t, l.fs, name, bytes.Repeat([]byte("x"), len(b)))
		}, ErrForeign},
		{"replaced by an older copy", func(t *testing.T, l *Log, name string, b []byte) {
			b = bytes.Clone(b)
			clear(b[segmentHeader+1000:])
			ok(t, l.fs.Remove("test", name))
			writeFile(t, l.fs, name, b)
		}, ErrForeign},
	} {
		for i := range 2 {
			t.Run(c.what, func(t *testing.T) {
				fs, l, _ := smallLog(t)
				name := l.segs[i].file.Name()
				c.do(t, l, name, readFile(t, fs, name))
				headers, err := l.Here()
				// An older copy has the same header.
				if last := l.segs[len(l.segs)-1]; last.file.Name() != name || c.what == "replaced by an older copy" {
					ok(t, err)
				} else if damaged(t, err, c.kind, name); headers > 2 {
					t.Errorf("%d headers were damaged", headers)
				}
				_, err = l.Scrub(unpaced)
				damaged(t, err, c.kind, path.Join(dir, path.Base(name)))
				if err := l.Close(); err != nil {
					t.Log(err)
				}
			})
		}
	}
}

// Rows 21 and 22, the stable store in use: it is written again from memory, and
// holds the vote and the term when it is opened next.
func TestScrubOfStable(t *testing.T) {
	t.Parallel()
	name := boltFile(t)
	good, err := os.ReadFile(name)
	ok(t, err)
	rng := rand.New(rand.NewPCG(testSeed(t), 1))
	s, err := OpenStable(name, false)
	ok(t, err)
	if damage, err := s.Scrub(); damage != nil || err != nil {
		t.Fatalf("damage was found where there is none: %v, %v", damage, err)
	}
	mended, term := 0, uint64(19)
	for i := range 60 {
		b, err := os.ReadFile(name)
		ok(t, err)
		switch i % 6 {
		case 0:
			ok(t, os.Remove(name))
		case 1:
			ok(t, os.Truncate(name, int64(rng.IntN(3*os.Getpagesize()))))
		case 2:
			// An older copy: whole in itself.
			ok(t, os.Remove(name))
			ok(t, os.WriteFile(name, good, 0o600))
		default:
			b[rng.IntN(8*os.Getpagesize())] ^= 1 << rng.IntN(8)
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			ok(t, err)
			_, err = f.WriteAt(b, 0)
			ok(t, errors.Join(err, f.Close()))
		}
		damage, err := s.Scrub()
		ok(t, err)
		if damage != nil {
			mended++
		}
		if damage, err := s.Scrub(); damage != nil || err != nil {
			t.Fatalf("round %d: it is not right again: %v, %v", i, damage, err)
		}
		term++
		ok(t, s.SetUint64(currentTerm, term))
		ok(t, persistVote(s, term, "n7"))
	}
	ok(t, s.Close())
	s, err = OpenStable(name, false)
	ok(t, err)
	if at, cand := votes(t, s); at != term || cand != "n7" || s.CurrentTerm() != term {
		t.Errorf("vote %d %s, term %d, expected %d", at, cand, s.CurrentTerm(), term)
	}
	ok(t, s.Close())
	if mended < 30 {
		t.Errorf("only %d of 60 were damage", mended)
	}
}

// Rows 21 and 22, snapshots of a replica that runs.
func TestScrubOfSnapshots(t *testing.T) {
	fs := newMem(t)
	s := openSnaps(t, fs)
	old, err := take(s, 5, 1, payload(5, 3*snapBlock))
	ok(t, err)
	newest, err := take(s, 9, 1, payload(9, 2*snapBlock+17))
	ok(t, err)
	if bad, err := s.Scrub(unpaced); len(bad) > 0 || err != nil {
		t.Fatalf("damage was found where there is none: %v, %v", bad, err)
	}
	for i, id := range []string{newest, old} {
		size := int64(len(readFile(t, fs, s.path(id))))
		for off := int64(0); off < size; off += 1 + size/40 {
			ok(t, fs.FlipBit(s.path(id), off, 2))
			bad, err := s.Scrub(unpaced)
			ok(t, err)
			if len(bad) != 1 || bad[0].ID != id {
				t.Fatalf("byte %d of snapshot %d: %v", off, i, bad)
			}
			ok(t, fs.FlipBit(s.path(id), off, 2))
		}
	}
	ok(t, fs.Remove("test", s.path(newest)))
	bad, err := s.Scrub(unpaced)
	ok(t, err)
	if len(bad) != 1 || bad[0].ID != newest {
		t.Fatalf("a snapshot that is gone: %v", bad)
	}
	want(t, "removing the newest", s.Remove(newest), ErrMissing)
	again, err := take(s, 9, 1, payload(9, 100))
	ok(t, err)
	ok(t, s.Remove(newest))
	ok(t, s.Remove(newest))
	if metas, err := s.List(); err != nil || len(metas) != 1 || metas[0].ID != again {
		t.Errorf("the newest is %v, %v", metas, err)
	}
}
