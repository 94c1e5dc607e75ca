package storage

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
)

// indexBenchKeys makes the keys of n records: a UNIQ_KEY as clients make them and a
// key of their own each.
func indexBenchKeys(n int, from int64) []IndexKey {
	keys := make([]IndexKey, 0, 2*n)
	for i := range n {
		phys, time := from+int64(i)*1024, int64(1_700_000_000_000+i)
		keys = append(keys,
			IndexKey{Topic: "OrdersPaid", Key: fmt.Sprintf("7F0000010B2C18B4AAC2%012X", from+int64(i)), Phys: phys, Time: time},
			IndexKey{Topic: "OrdersPaid", Key: fmt.Sprintf("order-%d", rand.Uint32()), Phys: phys, Time: time})
	}
	return keys
}

const indexBenchBatch = 64 // records

func indexBenchBatches() (batches [][]IndexKey) {
	for range 64 {
		batches = append(batches, indexBenchKeys(indexBenchBatch, 0))
	}
	return batches
}

func rebaseIndexKeys(keys []IndexKey, from int64) {
	for i := range keys {
		keys[i].Phys = from + int64(i/2)*1024
	}
}

// ns per key on the goroutine that calls Append: hash, table, and a new table
// when one is full.
func BenchmarkIndexAdd(b *testing.B) {
	batches := indexBenchBatches()
	o := IndexOptions{FS: disk.NewMem(1), Dir: "index"}
	if err := o.validate(); err != nil {
		b.Fatal(err)
	}
	x := &Index{o: o} // no flusher
	x.cond = sync.NewCond(&x.mu)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += 2 * indexBenchBatch {
		x.frozen = nil
		keys := batches[n/indexBenchBatch/2%len(batches)]
		rebaseIndexKeys(keys, x.next)
		x.Append(x.next, x.next+indexBenchBatch*1024, keys)
	}
}

// ns per key when keys come faster than the flusher writes them: what it, the
// merger and the disk sustain, with a Sync for every half million.
func BenchmarkIndexSustained(b *testing.B) {
	batches := indexBenchBatches()
	x, err := OpenIndex(IndexOptions{FS: disk.OS(), Dir: b.TempDir() + "/index"}, 0, math.MaxInt64)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += 2 * indexBenchBatch {
		keys, from := batches[n/indexBenchBatch/2%len(batches)], x.Next()
		rebaseIndexKeys(keys, from)
		x.Append(from, from+indexBenchBatch*1024, keys)
		if n%(1<<19) == 0 {
			if _, err := x.Sync(b.Context(), from); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.StopTimer()
	if s := x.Stats(); s.Dropped > 0 {
		b.Errorf("%d keys were left out", s.Dropped)
	}
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkIndexHash(b *testing.B) {
	keys := indexBenchKeys(512, 0)
	for n := 0; b.Loop(); n++ {
		k := &keys[n%len(keys)]
		indexHash(k.Topic, k.Key)
	}
}

// indexBenchRuns makes an index of n runs of the given number of entries each, the
// hash of record i of run r being a known one.
func indexBenchRuns(b *testing.B, o IndexOptions, n, entries int) *Index {
	b.Helper()
	if err := o.FS.MkdirAll(indexDirLabel, o.Dir); err != nil {
		b.Fatal(err)
	}
	for r := range n {
		t := newIndexTable(int64(r*entries), entries)
		for i := range entries {
			phys := int64(r*entries + i)
			t.add(foldMul(uint64(phys)^indexHashSeed, indexHashWord), phys, phys)
		}
		t.end = int64((r + 1) * entries)
		x := &Index{o: o}
		if _, err := x.writeTable(indexFlushLabel, t, uint64(r+1)); err != nil {
			b.Fatal(err)
		}
	}
	x, err := OpenIndex(o, 0, math.MaxInt64)
	if err != nil {
		b.Fatal(err)
	}
	return x
}

// A lookup that has to look into each of 20 runs of a million entries, in the
// page cache: of a key that one run has, of one that none has.
func BenchmarkIndexQuery(b *testing.B) {
	const runs, entries = 20, 1_000_000
	o := IndexOptions{FS: disk.OS(), Dir: b.TempDir() + "/index", MaxRunEntries: 1 << 20}
	var hash uint64
	o.hash = func(string, string) uint64 { return hash }
	x := indexBenchRuns(b, o, runs, entries)
	q := IndexQuery{Topic: "T", Key: "k", Max: 32, End: math.MaxInt64}
	for _, bench := range []struct {
		name string
		want int
	}{{"hit", 1}, {"miss", 0}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				hash = foldMul(uint64(rand.IntN(runs*entries))^indexHashSeed, indexHashWord) ^ uint64(1-bench.want)
				if got, err := x.Query(b.Context(), q); err != nil || len(got) != bench.want {
					b.Fatal(got, err)
				}
			}
		})
	}
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
}

// MB/s of entries read and written again, eight runs into one.
func BenchmarkIndexMerge(b *testing.B) {
	const runs, entries = indexFanout, 500_000
	o := IndexOptions{FS: disk.OS(), Dir: b.TempDir() + "/index", MaxRunEntries: 1 << 20}
	x := indexBenchRuns(b, o, runs, entries)
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
	x.closing = make(chan struct{}) // only the merge is wanted, not its loop
	b.SetBytes(runs * entries * indexEntrySize)
	b.ResetTimer()
	for range b.N {
		out, err := x.merge(x.runs, indexSpan{begin: 0, end: runs * entries}, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := o.FS.Remove(indexDirLabel, out.name); err != nil {
			b.Fatal(err)
		}
	}
}

// What opening costs: one page per run.
func BenchmarkIndexOpen(b *testing.B) {
	o := IndexOptions{FS: disk.OS(), Dir: b.TempDir() + "/index", MaxRunEntries: indexChunk}
	x := indexBenchRuns(b, o, 100, indexChunk)
	for range b.N {
		if err := x.Close(); err != nil {
			b.Fatal(err)
		}
		var err error
		if x, err = OpenIndex(o, 0, math.MaxInt64); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
}
