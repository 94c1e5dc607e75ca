package raftlog

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// BenchmarkAppend appends batches to a log on the machine's disk, each synced.
// The log is kept short, as snapshots would, so that segments are recycled.
func BenchmarkAppend(b *testing.B) {
	for _, load := range []struct{ entries, size int }{{64, 64 << 10}, {256, 1 << 10}, {1, 1 << 10}} {
		b.Run(fmt.Sprintf("%dx%dKiB", load.entries, load.size>>10), func(b *testing.B) {
			l, err := Open(disk.OS(), b.TempDir(), Options{Create: true})
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := l.Close(); err != nil {
					b.Error(err)
				}
			}()
			const keep = 256 << 20
			index := uint64(0)
			step := func() {
				batch := make([]*raft.Log, load.entries)
				for i := range batch {
					index++
					batch[i] = &raft.Log{Index: index, Term: 1, Data: make([]byte, load.size)}
				}
				if err := l.StoreLogs(batch); err != nil {
					b.Fatal(err)
				}
				if first, _ := l.FirstIndex(); l.BytesAfter(first) > 2*keep {
					for l.BytesAfter(first) > keep {
						first += uint64(load.entries)
					}
					if err := l.DeleteRange(0, first); err != nil {
						b.Fatal(err)
					}
				}
			}
			for l.stats.bytes.Load() < 3*keep && load.entries > 1 {
				step() // until all segments are recycled ones
			}
			b.SetBytes(int64(load.entries * load.size))
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
		})
	}
}
