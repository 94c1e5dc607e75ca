package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/raftmq/raftmq/storage/disk"
)

// boltFile makes a stable store with some history and returns its name, closed.
func boltFile(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "stable.db")
	s, err := OpenStable(name, true)
	ok(t, err)
	for term := uint64(1); term < 20; term++ {
		ok(t, s.SetUint64(currentTerm, term))
		ok(t, persistVote(s, term, fmt.Sprint("n", term)))
	}
	ok(t, s.Close())
	ok(t, s.Close())
	want(t, "SetUint64", s.SetUint64(currentTerm, 100), ErrClosed)
	return name
}

func TestOpenStable(t *testing.T) {
	name := boltFile(t)
	for _, create := range []bool{false, true} {
		s, err := OpenStable(name, create)
		ok(t, err)
		if term, cand := votes(t, s); term != 19 || cand != "n19" || s.CurrentTerm() != 19 {
			t.Errorf("vote %d %s, term %d", term, cand, s.CurrentTerm())
		}
		_, err = OpenStable(name, create)
		want(t, "second OpenStable", err, disk.ErrLocked)
		ok(t, s.Close())
	}
	if info, err := os.Stat(name); err != nil || info.Size() < stableBytes {
		t.Errorf("the file has no room in reserve: %v, %v", info.Size(), err)
	}
	if left, err := filepath.Glob(name + ".*"); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestOpenStableNeverStartsEmpty(t *testing.T) {
	name := filepath.Join(t.TempDir(), "stable.db")
	_, err := OpenStable(name, false)
	damaged(t, err, ErrMissing, name)
	ok(t, os.WriteFile(name, nil, 0o600))
	_, err = OpenStable(name, false)
	damaged(t, err, ErrCorrupt, name)
	// An unfinished one from before does not matter to a new replica.
	ok(t, os.WriteFile(name+tmpSuffix, []byte("x"), 0o600))
	s, err := OpenStable(name, true)
	ok(t, err)
	ok(t, s.Close())

	// A bolt file without term and vote is not a new store.
	empty := filepath.Join(t.TempDir(), "empty.db")
	db, err := bbolt.Open(empty, 0o600, nil)
	ok(t, err)
	ok(t, db.Close())
	_, err = OpenStable(empty, true)
	damaged(t, err, ErrMissing, empty)
	ok(t, os.WriteFile(empty, []byte("hello"), 0o600))
	_, err = OpenStable(empty, true)
	damaged(t, err, ErrCorrupt, empty)
	ok(t, os.Truncate(empty, maxStableBytes+1))
	_, err = OpenStable(empty, true)
	damaged(t, err, ErrForeign, empty)
}

// Row 21: a bit flipped anywhere in the file: the store opens with the vote and
// the term it had, or says what is wrong. It does not panic, and does not fall
// back to an older vote.
func TestFlippedBitsInStable(t *testing.T) {
	t.Parallel()
	name := boltFile(t)
	good, err := os.ReadFile(name)
	ok(t, err)
	seed := testSeed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	refused, fine, opened := 0, 0, 0
	check := filepath.Join(t.TempDir(), "flipped.db")
	for off := range 16 * os.Getpagesize() { // bbolt has used less
		bit := rng.IntN(8)
		good[off] ^= 1 << bit
		_, detail := checkBolt(good)
		if detail != "" {
			refused++
		} else {
			fine++
		}
		// Those that pass go through bbolt, and so does a sample of the others.
		if detail == "" && (long || good[off] != 1<<bit || rng.IntN(200) == 0) || rng.IntN(2000) == 0 {
			ok(t, os.WriteFile(check, good, 0o600))
			_, readErr := ReadStable(check)
			if b, err := os.ReadFile(check); err != nil || !bytes.Equal(b, good) {
				t.Fatalf("reading it has changed the file: %v", err)
			}
			s, err := OpenStable(check, off%2 == 0)
			if (err == nil) != (readErr == nil) {
				t.Errorf("bit %d of byte %d: opening says %v, reading %v", bit, off, err, readErr)
			}
			switch {
			case err != nil:
				damaged(t, err, kindOf(err), check)
			default:
				opened++
				if term, cand := votes(t, s); term != 19 || cand != "n19" || s.CurrentTerm() != 19 {
					t.Errorf("bit %d of byte %d: vote %d %s, term %d", bit, off, term, cand, s.CurrentTerm())
				}
				// And it goes on, without a panic.
				ok(t, s.SetUint64(currentTerm, 20))
				ok(t, persistVote(s, 20, "n20"))
				ok(t, s.Close())
			}
		}
		good[off] ^= 1 << bit
	}
	t.Logf("%d refused by the check, %d passed it, %d opened", refused, fine, opened)
	if refused < 200 || opened < 50 {
		t.Error("some outcome never happened")
	}
}

func TestTruncatedStable(t *testing.T) {
	name := boltFile(t)
	good, err := os.ReadFile(name)
	ok(t, err)
	for n := 0; n < 10*os.Getpagesize(); n += 1 + n/3 {
		ok(t, os.WriteFile(name, good[:n], 0o600))
		s, err := OpenStable(name, false)
		if err == nil { // cut behind the last page in use
			if term, cand := votes(t, s); term != 19 || cand != "n19" {
				t.Errorf("cut to %d bytes: vote %d %s", n, term, cand)
			}
			ok(t, s.Close())
			continue
		}
		damaged(t, err, ErrCorrupt, name)
	}
	ok(t, os.WriteFile(name, bytes.Repeat([]byte("foreign"), 10_000), 0o600))
	_, err = OpenStable(name, false)
	damaged(t, err, ErrCorrupt, name)
}

// The newest meta page damaged: bbolt by itself would go back to the state
// before, an older vote. This is why both must be whole.
func TestDamagedMetaIsNotAnOlderVote(t *testing.T) {
	name := boltFile(t)
	good, err := os.ReadFile(name)
	ok(t, err)
	older := 0
	for page := range 2 {
		bad := append([]byte(nil), good...)
		bad[page*os.Getpagesize()+30] ^= 1
		ok(t, os.WriteFile(name, bad, 0o600))
		db, err := bbolt.Open(name, 0o600, &bbolt.Options{ReadOnly: true})
		ok(t, err) // it does not mind
		ok(t, db.View(func(tx *bbolt.Tx) error {
			if !bytes.Contains(tx.Bucket([]byte("conf")).Get([]byte(keyVote)), []byte("n19")) {
				older++
			}
			return nil
		}))
		ok(t, db.Close())
		_, err = OpenStable(name, false)
		damaged(t, err, ErrCorrupt, name)
	}
	if older != 1 {
		t.Errorf("bbolt went back to an older vote %d times, want once", older)
	}
}

// A file that grows, is compacted by nobody and holds many keys stays fine in
// the eyes of our check: it must never refuse what bbolt wrote.
func TestCheckAcceptsWhatBoltWrites(t *testing.T) {
	seed := testSeed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	name := filepath.Join(t.TempDir(), "big.db")
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{NoSync: true, Timeout: time.Second})
	ok(t, err)
	for i := range 60 {
		ok(t, db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(fmt.Sprint("bucket", rng.IntN(3))))
			for range 50 {
				key := []byte(fmt.Sprint("key", rng.IntN(2000)))
				if rng.IntN(3) == 0 {
					err = errors.Join(err, b.Delete(key))
				} else {
					err = errors.Join(err, b.Put(key, bytes.Repeat([]byte("v"), rng.IntN(6000)/(1+rng.IntN(50)))))
				}
			}
			return err
		}))
		b, err := os.ReadFile(name)
		ok(t, err)
		if off, detail := checkBolt(b); detail != "" {
			t.Fatalf("transaction %d: %s at byte %d", i, detail, off)
		}
	}
	ok(t, db.Close())
}

// FuzzBoltFile: whatever our check accepts, bbolt can read, check and write
// without a panic. The input is written over a good file at some place.
func FuzzBoltFile(f *testing.F) {
	good, err := os.ReadFile(boltFile(f))
	if err != nil {
		f.Fatal(err)
	}
	good = good[:16*os.Getpagesize()]
	for _, page := range []int{0, 1, 2, 3, 4, 5} {
		f.Add(uint16(page*os.Getpagesize()), []byte{1})
	}
	f.Fuzz(func(t *testing.T, off uint16, over []byte) {
		b := append([]byte(nil), good...)
		copy(b[int(off)%len(b):], over)
		if _, detail := checkBolt(b); detail != "" {
			return
		}
		name := filepath.Join(t.TempDir(), "f.db")
		ok(t, os.WriteFile(name, b, 0o600))
		db, err := bbolt.Open(name, 0o600, &bbolt.Options{Timeout: time.Second, NoSync: true})
		ok(t, err)
		ok(t, db.Update(func(tx *bbolt.Tx) error {
			for err := range tx.Check() {
				t.Errorf("bbolt finds: %v", err)
			}
			return nil
		}))
		ok(t, db.Close())
	})
}
