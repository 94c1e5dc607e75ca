package storage

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
)

// Sets of ranges do what sets of numbers do.
func TestSpans(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	const n = 60
	var s spans
	var want [n]bool
	for range 5000 {
		from := rng.Int64N(n)
		to := from + rng.Int64N(n-from+1)
		fill := rng.IntN(2) == 0
		if fill {
			s = s.add(from, to)
		} else {
			s = s.remove(from, to)
		}
		for i := from; i < to; i++ {
			want[i] = fill
		}
		size := int64(0)
		for i, sp := range s {
			if sp.from >= sp.to || i > 0 && s[i-1].to >= sp.from {
				t.Fatalf("ranges %v", s)
			}
			size += sp.to - sp.from
		}
		var got [n]bool
		for _, sp := range s {
			for i := sp.from; i < sp.to; i++ {
				got[i] = true
			}
		}
		if got != want || s.size() != size {
			t.Fatalf("ranges %v, expected %v", s, want)
		}
		a := rng.Int64N(n)
		b := a + rng.Int64N(n-a+1)
		if got := s.overlaps(a, b); got != slices.Contains(want[a:b], true) {
			t.Fatalf("overlaps [%d, %d) of %v: %v", a, b, s, got)
		}
		next, ok := s.next(a)
		if i := slices.Index(want[a:], true); ok != (i >= 0) || ok && max(next.from, a) != a+int64(i) {
			t.Fatalf("next %d of %v: %v, %v", a, s, next, ok)
		}
		if inside := s.within(a, b); inside.size() != int64(count(want[a:b])) {
			t.Fatalf("within [%d, %d) of %v: %v", a, b, s, inside)
		}
	}
}

func count(b []bool) (n int) {
	for _, v := range b {
		if v {
			n++
		}
	}
	return n
}

// Blocks of a queue do not cross files.
func TestQueueGeometry(t *testing.T) {
	next, number := int64(0), int64(0)
	for next < 2*unitsPerFile {
		start, end := queueBlock(next)
		last, lastEnd := queueBlock(end - 1)
		if start != next || last != start || lastEnd != end || end-start > unitsPerBlock || queueFile(end-1) != queueFile(start) ||
			blockNumber(start) != number || blockNumber(end-1) != number {
			t.Fatalf("block [%d, %d), number %d", start, end, blockNumber(start))
		}
		next = end
		number++
	}
	if number != 2*blocksPerFile {
		t.Errorf("%d blocks", number)
	}
}

// The cache never has more open than it may, but for what is in use, and closes
// everything.
func TestFileCache(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	fs := &countingFS{FS: disk.NewMem(1)}
	if err := fs.MkdirAll("", "/d/commitlog"); err != nil {
		t.Fatal(err)
	}
	c := newFileCache(fs, "/d", 5, func(err error) { t.Error(err) })
	if _, err := c.get(fileKey{base: 9}, false); !isNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
	var used []*cachedFile
	for range 5000 {
		if rng.IntN(2) == 0 && len(used) < 10 {
			f, err := c.get(fileKey{base: rng.Int64N(20)}, true)
			if err != nil {
				t.Fatal(err)
			}
			used = append(used, f)
		} else if len(used) > 0 {
			i := rng.IntN(len(used))
			c.put(used[i])
			used = slices.Delete(used, i, i+1)
		}
		if rng.IntN(50) == 0 {
			base := rng.Int64N(20)
			c.drop(func(k fileKey) bool { return k.base == base })
		}
		if fs.open > 5+len(used) {
			t.Fatalf("%d files are open, %d are in use", fs.open, len(used))
		}
	}
	c.close()
	for _, f := range used {
		c.put(f)
	}
	if fs.open != 0 {
		t.Errorf("%d files are open after close", fs.open)
	}
}

// countingFS counts open files. For one goroutine.
type countingFS struct {
	disk.FS
	open int
}

type countedFile struct {
	disk.File
	fs *countingFS
}

func (c *countingFS) OpenFile(label disk.Label, name string, flag int) (disk.File, error) {
	f, err := c.FS.OpenFile(label, name, flag)
	if err == nil {
		c.open++
		f = countedFile{f, c}
	}
	return f, err
}

func (f countedFile) Close() error {
	f.fs.open--
	return f.File.Close()
}

// extendCRC is what the standard library gives.
func TestExtendCRC(t *testing.T) {
	want := digestOf([]byte{1, 2, 3, 4, 0xff, 0xfe, 0, 9})
	if got := extendCRC(extendCRC(0, 0x01020304), 0xfffe0009); got != want {
		t.Errorf("%#x, expected %#x", got, want)
	}
}

// All queues and the index come back from the CommitLog alone.
func TestSTORE04Rebuild(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	r := filledRig(t, rng)
	r.s.Rebuild()
	r.neverWrong()
	for range 5 { // beside batches that go on
		r.do(r.m.append(r.randomBatch(rng, 1)...))
	}
	r.await(r.s.Complete)
	r.check()
	if n := r.s.Stats().RebuiltUnits; n == 0 {
		t.Error("nothing was rebuilt")
	}
	r.do(r.m.trim(r.m.size * 4))
	r.s.Rebuild()
	r.await(r.s.Complete)
	r.check()
	r.snap()
	r.crash(1)
	r.check()
	// And with none of their files left.
	r.must(r.fs.RemoveAll("", r.opts.Dir+"/"+queuesDir))
	r.must(r.fs.RemoveAll("", r.opts.Dir+"/"+indexDir))
	r.kill()
	r.s.Rebuild()
	r.await(r.s.Complete)
	r.check()
	r.must(r.search())
	r.close()
	if v := r.verify(); v.Found > 0 {
		t.Errorf("problems after the rebuild: %v", v.List)
	}
}

// A manifest that was pinned before a Resume is not synced, nor one of another
// store.
func TestSyncSuperseded(t *testing.T) {
	r := newRig(t, testOptions(nil))
	r.do(r.m.append(message{id: QueueID{"t", 1, 0}, body: []byte("x")}))
	r.snap()
	m := r.s.Pin()
	r.must(r.s.Resume(r.manifest()))
	if err := r.s.Sync(m); !errors.Is(err, ErrSuperseded) {
		t.Errorf("sync: %v", err)
	}
	if err := r.s.Sync(r.manifest()); err == nil || errors.Is(err, ErrPoisoned) {
		t.Errorf("sync of a parsed manifest: %v", err)
	}
	r.applied = r.snapshotAt
	r.replay()
	r.check()
}

// A manifest that cannot be is refused, and nothing happens.
func TestResumeRefuses(t *testing.T) {
	r := newRig(t, testOptions(nil))
	r.do(r.m.append(message{id: QueueID{"t", 1, 0}, body: []byte("x")}))
	for _, m := range []*Manifest{
		{SegmentSize: 4096},
		{SegmentSize: r.m.size, End: 5},
		{SegmentSize: r.m.size, Min: 7, End: 7},
		{SegmentSize: r.m.size, Queues: []QueueState{{QueueID{"../x", 1, 0}, 1, 0, 0}}},
		{SegmentSize: r.m.size, Queues: []QueueState{{QueueID{"t", 1, 0}, 0, 0, 0}}},
	} {
		if err := r.s.Resume(m); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrForeign) {
			t.Errorf("resume from %+v: %v", m, err)
		}
	}
	r.check()
}

// A batch that does not fit stops the store: replicas would part.
func TestWriteRefuses(t *testing.T) {
	id := QueueID{"t", 1, 0}
	for name, spoil := range map[string]func(*Batch){
		"position":     func(b *Batch) { b.Pos++ },
		"queue offset": func(b *Batch) { b.Units[0].Offset++ },
		"other store's queue": func(b *Batch) {
			b.Units[0].Queue = newQueue(nil, id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testOptions(nil))
			r.do(r.m.append(message{id: id, body: []byte("x")}))
			o := r.m.append(message{id: id, body: []byte("y")})
			b := Batch{Pos: o.pos, Log: o.log, Units: []QueueUnit{{r.s.Queue(id), 1, o.units[0].u}}}
			spoil(&b)
			if err := r.s.Write(&b); !errors.Is(err, ErrPoisoned) {
				t.Errorf("write: %v", err)
			}
		})
	}
}
