package storage

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

const (
	benchBatch = 64
	benchBody  = 1024
)

// bench is a store on the machine's own file system.
type bench struct {
	b      *testing.B
	s      *Store
	queues []*Queue
	at     []int64 // next offset of each queue
	record []byte
	batch  Batch
	pos    int64
	n      int
}

func newBench(b *testing.B, queues int) *bench {
	o := testOptions(disk.OS())
	o.Dir, o.SegmentSize, o.MaxOpenFiles, o.KeysOf = b.TempDir(), 64<<20, 0, nil
	o.HotBytes = 256 << 20
	s, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := s.Resume(nil); err != nil {
		b.Fatal(err)
	}
	w := &bench{b: b, s: s, at: make([]int64, queues)}
	for i := range queues {
		q, err := s.CreateQueue(QueueID{fmt.Sprintf("topic-%d", i/8), 1, int32(i % 8)})
		if err != nil {
			b.Fatal(err)
		}
		w.queues = append(w.queues, q)
	}
	id := QueueID{"topic", 1, 0}
	w.record = testRecord(id, 0, 0, 0, make([]byte, benchBody-len(testRecord(id, 0, 0, 0, nil, ""))), "")
	return w
}

// next fills the batch with records of 1 KiB. Apply would encode them: not what
// is measured.
func (w *bench) next() *Batch {
	size := w.s.opts.SegmentSize
	w.batch.Pos, w.batch.Log, w.batch.Units = w.pos, w.batch.Log[:0], w.batch.Units[:0]
	for range benchBatch {
		if room := size - w.pos%size; room < benchBody+BlankSize {
			w.batch.Log = AppendBlank(w.batch.Log, room)
			w.pos += room
		}
		i := w.n % len(w.queues)
		w.batch.Log = append(w.batch.Log, w.record...)
		w.batch.Units = append(w.batch.Units, QueueUnit{w.queues[i], w.at[i], Unit{w.pos, benchBody, 7}})
		w.pos += benchBody
		w.at[i]++
		w.n++
	}
	return &w.batch
}

func (w *bench) write(n int) {
	for range n {
		if err := w.s.Write(w.next()); err != nil {
			w.b.Fatal(err)
		}
	}
}

// What apply pays: 64 records of 1 KiB at a time.
func BenchmarkWrite(b *testing.B) {
	for _, queues := range []int{1, 64, 40_000} {
		b.Run(fmt.Sprintf("queues=%d", queues), func(b *testing.B) {
			w := newBench(b, queues)
			w.write(100)
			b.SetBytes(benchBatch * benchBody)
			b.ReportAllocs()
			var spent time.Duration
			for b.Loop() {
				batch := w.next()
				if w.pos > w.s.Min()+512<<20 {
					if err := w.s.Trim(w.pos - 256<<20); err != nil {
						b.Fatal(err)
					}
				}
				start := time.Now()
				if err := w.s.Write(batch); err != nil {
					b.Fatal(err)
				}
				spent += time.Since(start)
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N*benchBatch), "ns/msg-in-Write")
		})
	}
}

// What a consumer at the end of its queue costs: 32 units, and views of their
// records.
func BenchmarkTailPull(b *testing.B) {
	w := newBench(b, 8)
	w.write(2000)
	q := w.queues[0]
	var units []Unit
	b.SetBytes(32 * benchBody)
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if units, err = q.Units(q.Max()-32, 32, units[:0]); err != nil {
			b.Fatal(err)
		}
		for _, u := range units {
			v, err := w.s.View(u.Phys, int(u.Size))
			if err != nil {
				b.Fatal(err)
			}
			v.Release()
		}
	}
}

// What a consumer that is far behind costs: 32 units, and checked copies of their
// records.
func BenchmarkColdPull(b *testing.B) {
	w := newBench(b, 8)
	w.write(4000)
	if err := w.s.Sync(w.s.Pin()); err != nil {
		b.Fatal(err)
	}
	q := w.queues[0]
	var units []Unit
	b.SetBytes(32 * benchBody)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		var err error
		if units, err = q.Units(int64(i)*32%(q.Max()-32), 32, units[:0]); err != nil {
			b.Fatal(err)
		}
		for _, u := range units {
			if _, err := w.s.Read(u.Phys, int(u.Size)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// What a snapshot costs the applying goroutine.
func BenchmarkPin(b *testing.B) {
	w := newBench(b, 40_000)
	w.write(40_000 / benchBatch * 2)
	w.s.Pin()
	b.ReportAllocs()
	for b.Loop() {
		w.s.Pin()
	}
}

// What a restart costs, with 40,000 queues: from the manifest that was synced
// last, and from one that a leader sent.
func BenchmarkResume(b *testing.B) {
	w := newBench(b, 40_000)
	w.write(40_000 / benchBatch)
	m := w.s.Pin()
	if err := w.s.Sync(m); err != nil {
		b.Fatal(err)
	}
	w.write(40_000 / benchBatch)
	next := w.s.Pin()
	// What a Resume starts in the background is not part of it.
	resume := func(b *testing.B, m *Manifest, timed bool) {
		for !w.s.alloc.isReady() {
			runtime.Gosched()
		}
		start := time.Now()
		if err := w.s.Resume(m); err != nil {
			b.Fatal(err)
		}
		if timed {
			b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-last")
		}
	}
	b.Run("own", func(b *testing.B) {
		for b.Loop() {
			resume(b, m, true)
		}
	})
	b.Run("sent", func(b *testing.B) {
		for b.Loop() {
			resume(b, m, false)
			resume(b, next, true)
		}
	})
}
