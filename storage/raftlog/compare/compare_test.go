// Package compare measures our raft log beside raft-boltdb and raft-wal, in one
// run, on one disk, with one load:
//
//	cd storage/raftlog/compare && go test -run xxx -bench . -benchtime 5s
//
// Each store appends batches that raft would hand it and syncs each one; every
// so often the beginning is deleted, as after a snapshot, so that all of them
// run at their steady state. The stores take turns within each round, so that
// what else the machine does hits them alike, and the medians of their rounds
// are compared. RAFTMQ_COMPARE_DIR says on which disk; default is the one of
// the temporary directory.
package compare

import (
	"cmp"
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
	keepBytes = 64 << 20
	deleteAt  = 256 << 20
	rounds    = 7
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
	seconds     []float64 // per batch, a median for each round
}

// appendBatch stores one batch and, when it is due, deletes a prefix. Only the
// former is timed.
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
		if err := c.store.DeleteRange(c.first, to); err != nil {
			return 0, err
		}
		c.first = to + 1
	}
	return took, nil
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

func median[T cmp.Ordered](v []T) T {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func BenchmarkAppend(b *testing.B) {
	for _, l := range []load{{64, 64 << 10}, {256, 1 << 10}} {
		b.Run(l.String(), func(b *testing.B) {
			data := make([]byte, l.size)
			rand.NewChaCha8([32]byte{}).Read(data)
			all := contenders(b)
			for _, c := range all {
				// Every store has gone around once: segments are recycled, the bolt
				// file has its size.
				for c.first == 1 {
					if _, err := c.appendBatch(l, data); err != nil {
						b.Fatal(c.name, err)
					}
				}
			}
			// One operation is one round trip of all stores.
			took := map[string][]time.Duration{}
			perRound := max(1, b.N/rounds)
			b.SetBytes(int64(l.bytes() * len(all)))
			b.ResetTimer()
			for done := 0; done < b.N; done += perRound {
				for _, c := range all {
					var round []time.Duration
					for range min(perRound, b.N-done) {
						d, err := c.appendBatch(l, data)
						if err != nil {
							b.Fatal(c.name, err)
						}
						round = append(round, d)
					}
					c.seconds = append(c.seconds, median(round).Seconds())
					took[c.name] = append(took[c.name], round...)
				}
			}
			b.StopTimer()
			for _, c := range all {
				if err := c.close(); err != nil {
					b.Error(c.name, err)
				}
			}
			ours := median(all[0].seconds)
			for _, c := range all {
				sec := median(c.seconds)
				b.ReportMetric(float64(l.bytes())/sec/1e6, c.name+"-MB/s")
				b.ReportMetric(float64(l.entries)/sec, c.name+"-entries/s")
				if c != all[0] {
					b.ReportMetric(sec/ours, "x-"+c.name)
				}
				slices.Sort(took[c.name])
				n := len(took[c.name])
				b.Logf("%-12s p50 %8v  p99 %8v  max %8v  %8.1f MB/s", c.name, took[c.name][n/2].Round(time.Microsecond),
					took[c.name][n*99/100].Round(time.Microsecond), took[c.name][n-1].Round(time.Microsecond), float64(l.bytes())/sec/1e6)
			}
		})
	}
}
