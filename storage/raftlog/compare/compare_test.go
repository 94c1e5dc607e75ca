// Package compare measures our raft log beside raft-boltdb and raft-wal, in one
// run, on one disk, with one load:
//
//	cd storage/raftlog/compare && go test -run xxx -bench . -benchtime 5s
//
// Each store appends batches that raft would hand it and syncs each one; every
// so often the beginning is deleted, as after a snapshot, so that all of them
// run at their steady state. The stores take turns of a few batches, in changing
// order, so that what else the machine does hits them alike. Two ratios come
// out: of the median times of a batch, and of the throughput over all, with the
// deletions. RAFTMQ_COMPARE_DIR says on which disk; default is the one
// of the temporary directory.
package compare

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

const (
	// keepBytes is what a deletion leaves, and deleteAt what triggers it.
	keepBytes = 128 << 20
	deleteAt  = keepBytes + 512<<20 // raftmq takes a snapshot every 512 MiB
	turn      = 4                   // batches
)

type load struct{ entries, size int }

func (l load) bytes() int { return l.entries * l.size }

func (l load) String() string { return fmt.Sprintf("%dx%dKiB", l.entries, l.size>>10) }

// contender is a store under load.
type contender struct {
	name  string
	store raft.LogStore
	close func() error

	first, next uint64
	took        []time.Duration
	deleting    time.Duration
}

// appendBatch stores one batch and, when it is due, deletes a prefix.
func (c *contender) appendBatch(l load, data []byte) (time.Duration, error) {
	logs := make([]*raft.Log, l.entries)
	now := time.Now()
	for i := range logs {
		// Each entry has bytes of its own, as from the network.
		logs[i] = &raft.Log{Index: c.next, Term: 1, AppendedAt: now, Data: append([]byte(nil), data[:l.size]...)}
		c.next++
	}
	start := time.Now()
	if err := c.store.StoreLogs(logs); err != nil {
		return 0, err
	}
	took := time.Since(start)
	if int(c.next-c.first)*l.size > deleteAt {
		to := c.next - uint64(keepBytes/l.size)
		start := time.Now()
		if err := c.store.DeleteRange(c.first, to); err != nil {
			return 0, err
		}
		c.deleting += time.Since(start)
		c.first = to + 1
	}
	return took, nil
}

// part is a percentile of the times, which are sorted.
func (c *contender) part(percent int) time.Duration {
	return c.took[(len(c.took)-1)*percent/100].Round(time.Microsecond)
}

// throughput is in MB/s, over all batches and deletions.
func (c *contender) throughput(l load) float64 {
	total := c.deleting
	for _, d := range c.took {
		total += d
	}
	return float64(len(c.took)*l.bytes()) / total.Seconds() / 1e6
}

// contenders opens one store of each kind.
func contenders(b *testing.B) []*contender {
	base := os.Getenv("RAFTMQ_COMPARE_DIR")
	if base == "" {
		base = b.TempDir()
	} else {
		var err error
		if base, err = os.MkdirTemp(base, "compare"); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { os.RemoveAll(base) })
	}
	ours, err := raftlog.Open(disk.OS(), filepath.Join(base, "raftlog"), raftlog.Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	bolt, err := raftboltdb.NewBoltStore(filepath.Join(base, "bolt.db"))
	if err != nil {
		b.Fatal(err)
	}
	walDir := filepath.Join(base, "wal")
	if err := os.Mkdir(walDir, 0o750); err != nil {
		b.Fatal(err)
	}
	w, err := wal.Open(walDir)
	if err != nil {
		b.Fatal(err)
	}
	return []*contender{
		{name: "raftlog", store: ours, close: ours.Close, first: 1, next: 1},
		{name: "raft-wal", store: w, close: w.Close, first: 1, next: 1},
		{name: "raft-boltdb", store: bolt, close: bolt.Close, first: 1, next: 1},
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, l := range []load{{64, 64 << 10}, {256, 1 << 10}} {
		data := make([]byte, l.size)
		rand.NewChaCha8([32]byte{}).Read(data)
		all := contenders(b)
		for _, c := range all {
			// First from empty until the first deletion: files grow, segments are
			// made. From then on they are used again.
			for c.first == 1 {
				d, err := c.appendBatch(l, data)
				if err != nil {
					b.Fatal(c.name, err)
				}
				c.took = append(c.took, d)
			}
			slices.Sort(c.took)
			c.deleting = 0
			fmt.Printf("%v %-12s growing: batch p50 %8v, %7.1f MB/s over all\n", l, c.name, c.part(50), c.throughput(l))
		}
		b.Run(l.String(), func(b *testing.B) {
			for _, c := range all {
				c.took, c.deleting = nil, 0
			}
			// One operation is one batch into each store.
			b.ResetTimer()
			for done := 0; done < b.N; done += turn {
				for i := range all {
					c := all[(i+done/turn)%len(all)]
					for range min(turn, b.N-done) {
						d, err := c.appendBatch(l, data)
						if err != nil {
							b.Fatal(c.name, err)
						}
						c.took = append(c.took, d)
					}
				}
			}
			b.StopTimer()
			if b.N == 1 {
				return // a trial run
			}
			for _, c := range all {
				slices.Sort(c.took)
			}
			ours := all[0]
			for _, c := range all {
				p50 := c.part(50)
				faster, more := p50.Seconds()/ours.part(50).Seconds(), ours.throughput(l)/c.throughput(l)
				b.ReportMetric(float64(l.bytes())/p50.Seconds()/1e6, c.name+"-MB/s-p50")
				if c != ours {
					b.ReportMetric(faster, "p50-times-"+c.name)
					b.ReportMetric(more, "throughput-times-"+c.name)
				}
				b.Logf("%-12s steady:  batch p50 %8v  p90 %8v  p99 %8v, deletions %8v, %7.1f MB/s over all | we: p50 %.1f times as fast, %.1f times the throughput",
					c.name, p50, c.part(90), c.part(99), c.deleting.Round(time.Millisecond), c.throughput(l), faster, more)
			}
		})
		for _, c := range all {
			if err := c.close(); err != nil {
				b.Error(c.name, err)
			}
		}
	}
}
