package storage

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/raftmq/raftmq/storage/disk"
)

// The plan keeps the runs few and rewrites little, whatever sizes come.
func TestIndexMergePlan(t *testing.T) {
	t.Parallel()
	const maxEntries = 1 << 20
	rng := rand.New(rand.NewPCG(indexSeed(t), 0))
	for _, c := range []struct {
		name string
		size func() int64
	}{
		{"full tables", func() int64 { return 5000 }},
		{"nothing", func() int64 { return 0 }},
		{"one entry", func() int64 { return 1 }},
		{"any size", func() int64 { return rng.Int64N(5000) }},
		{"sizes of all kinds", func() int64 { return 1 << rng.IntN(14) }},
		{"now and then a full run", func() int64 {
			if rng.IntN(400) == 0 {
				return maxEntries
			}
			return 1 << rng.IntN(14)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var runs []*indexRun
			var added, written, at int64
			mostSmall := 0
			for range 10_000 {
				n := c.size()
				added += n
				runs = append(runs, &indexRun{indexHeader: indexHeader{indexSpan: indexSpan{begin: at, end: at + 1}, count: n}})
				at++
				for in := planIndexMerge(runs, maxEntries); in != nil; in = planIndexMerge(runs, maxEntries) {
					i := slices.Index(runs, in[0])
					out := &indexRun{indexHeader: indexHeader{indexSpan: indexSpan{begin: in[0].begin, end: in[len(in)-1].end}}}
					for j, r := range in {
						if runs[i+j] != r || j > 0 && in[j-1].end != r.begin || r.count >= maxEntries/2 {
							t.Fatalf("not neighbours that may be merged: %d of %d", j, len(in))
						}
						out.count += r.count
					}
					if len(in) < 2 || len(in) > indexMaxMerge || out.count > maxEntries {
						t.Fatalf("merge of %d runs, %d entries", len(in), out.count)
					}
					written += out.count
					runs = slices.Replace(runs, i, i+len(in), out)
				}
				small := 0
				for _, r := range runs {
					if small++; r.count >= maxEntries/2 {
						small = 0
					}
					mostSmall = max(mostSmall, small)
				}
			}
			t.Logf("%d runs of %d entries at the end; at most %d small ones in a row; written %.1f times",
				len(runs), added, mostSmall, float64(written)/float64(max(1, added)))
			if mostSmall > indexManyRuns {
				t.Errorf("%d small runs in a row, expected at most %d", mostSmall, indexManyRuns)
			}
			if float64(written) > float64(added)*float64(indexLevel(maxEntries)) {
				t.Errorf("%d entries written for %d", written, added)
			}
		})
	}
}

// Runs that do not meet, or cannot be read, are not merged.
func TestIndexMergePlanGaps(t *testing.T) {
	runs := func(n int) (runs []*indexRun) {
		for i := range int64(n) {
			runs = append(runs, &indexRun{indexHeader: indexHeader{indexSpan: indexSpan{begin: i, end: i + 1}, count: 10}})
		}
		return runs
	}
	r := runs(14)
	if got := planIndexMerge(r, 1<<20); !slices.Equal(got, r[:8]) {
		t.Errorf("%d runs", len(got))
	}
	r[6].unmerged = true
	if got := planIndexMerge(r, 1<<20); got != nil {
		t.Errorf("across an unreadable run: %d runs", len(got))
	}
	r = slices.Delete(runs(15), 7, 8)
	if got := planIndexMerge(r, 1<<20); got != nil {
		t.Errorf("across a gap: %d runs", len(got))
	}
}

// A run with several pages of fences, hashes with many entries among them.
func TestIndexLargeRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 3*indexPerFence*indexPerPage + 77
		fs := disk.NewMem(1)
		o := IndexOptions{FS: fs, tableEntries: n, hash: func(topic, key string) uint64 { return binary.BigEndian.Uint64([]byte(key)) }}
		key := func(hash uint64) string { return string(binary.BigEndian.AppendUint64(nil, hash)) }
		x := openTestIndex(t, o, 0, math.MaxInt64)
		want := map[uint64][]int64{}
		rng := rand.New(rand.NewPCG(indexSeed(t), 0))
		var keys []IndexKey
		for i := range int64(n) {
			hash := rng.Uint64()
			if rng.IntN(3) == 0 {
				hash = []uint64{0, 1 << 40, 1<<63 + 5, math.MaxUint64}[rng.IntN(4)]
			}
			want[hash] = append(want[hash], i)
			keys = append(keys, IndexKey{Topic: "T", Key: key(hash), Phys: i, Time: i})
		}
		x.Append(0, n, keys)
		syncTestIndex(t, x)
		if s := x.Stats(); s.Runs != 1 || len(x.runs[0].top) != 4 {
			t.Fatalf("%+v, %d fence pages", s, len(x.runs[0].top))
		}
		reads := 0
		fs.SetHook(func(op disk.Op) error {
			if op.Kind == disk.OpRead {
				reads++
			}
			return nil
		})
		asked := 0
		for hash, phys := range want {
			if asked++; asked > 2000 && len(phys) < 100 {
				continue
			}
			reads = 0
			got, err := x.Query(t.Context(), indexAnyTime("T", key(hash), 64))
			if err != nil || !slices.Equal(got, phys[max(0, len(phys)-64):]) {
				t.Fatalf("%#x: got %v, %v", hash, got, err)
			}
			if len(phys) == 1 && reads > 3 { // a third when the entry is the first of its page
				t.Fatalf("%#x: %d reads", hash, reads)
			}
			// The oldest of them all: through every page that has some.
			got, err = x.Query(t.Context(), IndexQuery{Topic: "T", Key: key(hash), Max: 64, Begin: phys[0], End: phys[0]})
			if err != nil || !slices.Contains(got, phys[0]) && len(phys) < 64 {
				t.Fatalf("%#x from %d: got %v, %v", hash, phys[0], got, err)
			}
			for _, miss := range []uint64{hash - 1, hash + 1} {
				if want[miss] == nil {
					if got, err := x.Query(t.Context(), indexAnyTime("T", key(miss), 64)); err != nil || got != nil {
						t.Fatalf("%#x: got %v, %v", miss, got, err)
					}
				}
			}
		}
		fs.SetHook(nil)
		closeTestIndex(t, x)
	})
}

// What a restart may cut off is not merged: runs beyond the last Sync, unless
// they are too many.
func TestIndexMergeWaitsForSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		x := openTestIndex(t, IndexOptions{FS: disk.NewMem(1), tableEntries: 20}, 0, math.MaxInt64)
		for range indexManyRuns {
			l.grow(x, 10)
			synctest.Wait()
		}
		l.grow(x, 1)
		synctest.Wait()
		if s := x.Stats(); s.Merges != 0 || s.Runs != indexManyRuns {
			t.Errorf("before: %+v", s)
		}
		if _, err := x.Sync(t.Context(), 80*10); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := x.Stats(); s.Merges != 1 || x.runs[0].end != 80*10 {
			t.Errorf("after a Sync of eight runs: %+v, the first to %d", s, x.runs[0].end)
		}
		for range 2 * indexManyRuns {
			l.grow(x, 10)
			synctest.Wait()
		}
		if s := x.Stats(); s.Runs > 2*indexManyRuns {
			t.Errorf("without a Sync: %+v", s)
		}
		closeTestIndex(t, x)
	})
}

// An input is trimmed while it is being merged: the output does not bring it
// back.
func TestIndexMergeOutrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		fs := disk.NewMem(1)
		x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
		hang := make(chan struct{})
		fs.SetHook(func(op disk.Op) error {
			if op.Label == indexMergeLabel && op.Kind == disk.OpSync {
				<-hang
			}
			return nil
		})
		for range 8 {
			l.grow(x, 10)
			syncTestIndex(t, x)
		}
		synctest.Wait()
		l.min = 100
		x.Trim(100)
		close(hang)
		synctest.Wait()
		if s := x.Stats(); s.Runs != 7 || s.Merges != 0 || s.Missing != nil {
			t.Errorf("%+v", s)
		}
		if files, err := fs.ReadDir("test", "store/index"); err != nil || len(files) != 7 {
			t.Errorf("%d files, %v", len(files), err)
		}
		l.checkAll(t, x)
		closeTestIndex(t, x)
	})
}

// A merge drops what was trimmed and what is there twice, and nothing else.
func TestIndexMergeDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		x := openTestIndex(t, IndexOptions{FS: disk.NewMem(1)}, 0, math.MaxInt64)
		for run := range 9 {
			if run == 8 {
				if s := x.Stats(); s.Runs != 8-1 || s.Merges != 0 {
					t.Fatalf("%+v", s)
				}
			}
			if run == 7 {
				l.min = 150 // inside of the second run
				x.Trim(150)
			}
			for i := range 10 {
				u := fmt.Sprint("u", 10*run+i)
				l.add(10, int64(i)*1000, u, "k", u)
			}
			l.appendAll(x)
			syncTestIndex(t, x)
			synctest.Wait()
		}
		if s := x.Stats(); s.Runs != 1 || s.Merges != 1 || s.RunEntries != 75*2 || s.Missing != nil {
			t.Fatalf("%+v", s)
		}
		for i := range 90 {
			if err := l.check(t, x, indexAnyTime("T", fmt.Sprint("u", i), 64)); err != nil {
				t.Fatal(err)
			}
		}
		closeTestIndex(t, x)
	})
}
