package storage

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/raftmq/raftmq/storage/disk"
)

// Queries, syncs, trims and fills beside Append, on a real disk: every record
// that Append has returned for is found, once, at any moment: while its table
// fills, is frozen, becomes a run, and is merged.
func TestIndexConcurrent(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	defer goleak.VerifyNone(t, leaks)
	seed := indexSeed(t)
	const records, size, skipped = 25_000, 10, 5000
	dir := t.TempDir()
	x, err := OpenIndex(IndexOptions{FS: disk.OS(), Dir: path.Join(dir, "index"), tableEntries: 2000, MaxRunEntries: 30_000, StallTimeout: time.Minute}, 0, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	batch := func(from, to int64) (keys []IndexKey) {
		for i := from; i < to; i++ {
			keys = append(keys,
				IndexKey{Topic: "T", Key: fmt.Sprint("u", i), Phys: i * size, Time: i * 100},
				IndexKey{Topic: "T", Key: fmt.Sprint("tenth", i/10), Phys: i * size, Time: i * 100},
				IndexKey{Topic: "T", Key: "hot", Phys: i * size, Time: i * 100})
		}
		return keys
	}
	var appended, trimmed atomic.Int64 // record numbers
	appended.Store(skipped)
	trimmed.Store(skipped)
	done := make(chan struct{})
	var wg sync.WaitGroup
	stream := uint64(0)
	loop := func(step func(rng *rand.Rand) error) {
		stream++
		stream := stream
		wg.Go(func() {
			for rng := rand.New(rand.NewPCG(seed, stream)); ; {
				select {
				case <-done:
					return
				default:
				}
				if err := step(rng); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}

	// The first records are missing until they are filled in; nobody asks for
	// them before that.
	x.Append(0, 0, nil)
	x.Append(skipped*size, skipped*size, nil)
	wg.Go(func() {
		f := x.Fill()
		for at := int64(0); at < skipped; at += 100 {
			if err := f.Append(at*size, (at+100)*size, batch(at, at+100)); err != nil {
				t.Error(err)
			}
		}
		if err := f.Flush(); err != nil {
			t.Error(err)
		}
		trimmed.Store(0)
	})
	for range 3 {
		loop(func(rng *rand.Rand) error {
			first, end := trimmed.Load(), appended.Load()
			if first >= end {
				return nil
			}
			i := first + rng.Int64N(end-first)
			key, want := fmt.Sprint("u", i), []int64{i * size}
			if rng.IntN(2) == 0 && i/10*10+10 <= end {
				key, want = fmt.Sprint("tenth", i/10), nil
				for j := range int64(10) {
					want = append(want, (i/10*10+j)*size)
				}
			}
			got, err := x.Query(t.Context(), indexAnyTime("T", key, 64))
			now := trimmed.Load() * size
			trimmedAway := func(phys int64) bool { return phys < now }
			want, got = slices.DeleteFunc(want, trimmedAway), slices.DeleteFunc(got, trimmedAway)
			if err != nil && !errors.Is(err, ErrIndexBehind) || !slices.Equal(got, want) {
				return fmt.Errorf("%s: got %v, want %v, %w", key, got, want, err)
			}
			return nil
		})
	}
	loop(func(rng *rand.Rand) error {
		end := appended.Load()
		got, err := x.Query(t.Context(), indexAnyTime("T", "hot", 20))
		if err != nil && !errors.Is(err, ErrIndexBehind) {
			return err
		}
		if end > skipped+20 && (len(got) != 20 || got[0] < (end-20)*size || got[19]-got[0] != 19*size || !slices.IsSorted(got)) {
			return fmt.Errorf("the newest of a hot key at %d: %v", end*size, got)
		}
		return nil
	})
	loop(func(rng *rand.Rand) error {
		end := appended.Load() * size
		at, err := x.Sync(t.Context(), end)
		if err == nil && at < end {
			err = fmt.Errorf("Sync of %d returned %d", end, at)
		}
		x.Missing()
		x.Stats()
		x.LastUpdate()
		return err
	})
	rng := rand.New(rand.NewPCG(seed, 0))
	for at := int64(skipped); at < records; {
		to := min(at+1+rng.Int64N(300), records)
		x.Append(at*size, to*size, batch(at, to))
		at = to
		appended.Store(at)
		if first := trimmed.Load(); first < skipped && at > records/2 { // filled in: trim some of it
			trimmed.Store(first + rng.Int64N(300))
			x.Trim(trimmed.Load() * size)
		}
	}
	close(done)
	wg.Wait()
	s := x.Stats()
	if s.Missing != nil || s.Dropped != 0 || s.Merges == 0 || s.Flushes == 0 {
		t.Errorf("%+v", s)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := verifyTestIndex(x.o.FS, x.o.Dir, 0); err != nil {
		t.Error(err)
	}
}
