package disk_test

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

func every(disk.InFlight) bool { return true }

// writes are urgent.
func writes(kind disk.OpKind, _ disk.Label) bool { return kind == disk.OpWrite }

// The oldest operation under way is told, and forgotten once it has ended.
func TestWatchTellsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := disk.NewMem(1)
		w := disk.NewWatch(m, writes)
		f := create(t, w, "/f", "content")
		release := make(chan struct{})
		m.SetHook(func(op disk.Op) error {
			if op.Kind == disk.OpSync || op.Kind == disk.OpRead {
				<-release
			}
			return nil
		})
		if got, ok := w.Oldest(every); ok {
			t.Errorf("%+v is under way", got)
		}
		begin := time.Now()
		var ops sync.WaitGroup
		ops.Go(func() { f.Datasync() })
		time.Sleep(time.Second)
		ops.Go(func() { disk.WithLabel(f, "other").ReadAt(make([]byte, 1), 0) })
		time.Sleep(time.Second)
		synctest.Wait()
		got, ok := w.Oldest(every)
		if want := (disk.InFlight{Kind: disk.OpSync, Label: "test", Name: "/f", Since: begin}); !ok || got != want {
			t.Errorf("the oldest is %+v, want %+v", got, want)
		}
		got, ok = w.Oldest(func(op disk.InFlight) bool { return op.Label == "other" })
		if !ok || got.Kind != disk.OpRead || !got.Since.Equal(begin.Add(time.Second)) {
			t.Errorf("the oldest of the other label is %+v, %v", got, ok)
		}
		close(release)
		ops.Wait()
		if got, ok := w.Oldest(every); ok {
			t.Errorf("%+v is under way", got)
		}
	})
}

// Of more operations than a Watch can tell of, the first is known.
func TestWatchWithoutASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := disk.NewWatch(disk.NewMem(1), writes)
		begin := time.Now()
		var ends []func()
		for i := range 1000 {
			ends = append(ends, w.Note(disk.OpWrite, "n", "f"))
			if i == 0 {
				time.Sleep(time.Second)
			}
		}
		if got, ok := w.Oldest(every); !ok || !got.Since.Equal(begin) {
			t.Errorf("the oldest is %+v, %v", got, ok)
		}
		for _, end := range ends {
			end()
		}
		if got, ok := w.Oldest(every); ok {
			t.Errorf("%+v is under way", got)
		}
	})
}

// However many operations hang, those that are urgent are told of.
func TestWatchTellsTheUrgent(t *testing.T) {
	w := disk.NewWatch(disk.NewMem(1), writes)
	for range 1000 {
		defer w.Note(disk.OpRead, "n", "f")()
	}
	end := w.Note(disk.OpWrite, "log", "f")
	isWrite := func(op disk.InFlight) bool { return op.Kind == disk.OpWrite }
	if got, ok := w.Oldest(isWrite); !ok || got.Label != "log" {
		t.Errorf("the oldest write is %+v, %v", got, ok)
	}
	end()
	if got, ok := w.Oldest(isWrite); ok {
		t.Errorf("%+v is under way", got)
	}
}

// hungUsage is a file system that does not say how full it is.
type hungUsage struct {
	disk.FS
	release chan struct{}
	asked   atomic.Int32
}

func (h *hungUsage) Usage(string) (disk.Usage, error) {
	h.asked.Add(1)
	<-h.release
	return disk.Usage{Total: 2, Free: 1}, nil
}

// Who asks how full a hung disk is does not hang with it, and is one goroutine.
func TestUsageOfAHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hungUsage{FS: disk.NewMem(1), release: make(chan struct{})}
		w := disk.NewWatch(h, writes)
		begin := time.Now()
		for range 5 {
			if _, err := w.Usage("/"); !errors.Is(err, disk.ErrHung) {
				t.Errorf("the error is %v", err)
			}
		}
		if took := time.Since(begin); took > time.Second || h.asked.Load() != 1 {
			t.Errorf("it took %v, the disk was asked %d times", took, h.asked.Load())
		}
		close(h.release)
		synctest.Wait()
		if u, err := w.Usage("/"); err != nil || u.Free != 1 {
			t.Errorf("afterwards: %+v, %v", u, err)
		}
	})
}

// BenchmarkWatch is what noting an operation costs.
func BenchmarkWatch(b *testing.B) {
	name := b.TempDir() + "/f"
	for _, d := range []struct {
		name string
		fs   disk.FS
	}{{"OS", disk.OS()}, {"Watch", disk.NewWatch(disk.OS(), writes)}} {
		b.Run(d.name, func(b *testing.B) {
			f, err := d.fs.OpenFile("bench", name, os.O_RDWR|os.O_CREATE)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			p := make([]byte, 4096)
			if _, err := f.WriteAt(p, 0); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.ReadAt(p, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
