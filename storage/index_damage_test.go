package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/raftmq/raftmq/storage/disk"
)

// oneIndexRun makes an index of one small run, closed, and its log.
func oneIndexRun(t testing.TB, fs *disk.Mem, records int) (*indexLog, string) {
	var l indexLog
	x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
	for i := range records {
		l.add(10, int64(i)*1000, "k", fmt.Sprint("u", i))
	}
	l.appendAll(x)
	syncTestIndex(t, x)
	closeTestIndex(t, x)
	return &l, "store/index/" + indexRunName(1)
}

func readIndexFile(t testing.TB, fs disk.FS, name string) []byte {
	f, err := fs.OpenFile("test", name, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

func writeIndexFile(t testing.TB, fs disk.FS, name string, b []byte) {
	f, err := fs.OpenFile("test", name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// One bit flips at every byte of a run: at open or on the first query that comes
// upon it, it is noticed and reported, the answers before are right, and after
// filling in everything is found again. a full read finds every one.
func TestIndexBitFlips(t *testing.T) {
	t.Parallel()
	seed := indexSeed(t)
	fs := disk.NewMem(seed)
	l, name := oneIndexRun(t, fs, 120) // two entry pages and one of fences
	size := len(readIndexFile(t, fs, name))
	if size != 4*indexPage {
		t.Fatalf("a run of %d bytes", size)
	}
	step := 97 // every byte takes too long to do on each run
	if os.Getenv("RAFTMQ_LONG") != "" {
		step = 1
	}
	for off := int(seed % uint64(step)); off < size; off += step {
		synctest.Test(t, func(t *testing.T) {
			fs := fs.Clone()
			if err := fs.FlipBit(name, int64(off), uint(seed>>32)+uint(off)); err != nil {
				t.Fatal(err)
			}
			if _, err := verifyTestIndex(fs, "store/index", 0); err == nil {
				t.Fatalf("byte %d: a full read finds nothing", off)
			}
			x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
			l.appendAll(x) // a replay from the end: what the header covered is missing if it is damaged
			noticed := x.Stats().Damaged+x.Stats().Foreign > 0
			for i := range l.recs {
				if l.check(t, x, indexAnyTime("T", fmt.Sprint("u", i), 64)) != nil {
					noticed = true
				}
			}
			if !noticed {
				t.Fatalf("byte %d: nobody noticed", off)
			}
			f := x.Fill()
			for _, gap := range x.Missing() {
				if err := f.Append(gap.From, gap.To, l.batch(gap.From, gap.To)); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}
			l.checkAll(t, x)
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What else can become of a run file. Each is noticed at open or by the first
// query, and what it held is missing.
func TestIndexDamagedFile(t *testing.T) {
	other := disk.NewMem(9)
	_, otherName := oneIndexRun(t, other, 120)
	otherRun := readIndexFile(t, other, otherName) // the same records: the same bytes
	le := binary.LittleEndian
	reseal := func(b []byte, page int) []byte {
		sealIndexPage(b[page*indexPage:(page+1)*indexPage], 1, uint32(page))
		return b
	}
	for _, c := range []struct {
		name    string
		corrupt func(b []byte) []byte
		foreign bool
	}{
		{"empty", func(b []byte) []byte { return nil }, false},
		{"shorter than a page", func(b []byte) []byte { return b[:100] }, false},
		{"without its last page", func(b []byte) []byte { return b[:3*indexPage] }, false},
		{"cut inside of a page", func(b []byte) []byte { return b[:len(b)-1] }, false},
		{"longer", func(b []byte) []byte { return append(b, 0) }, false},
		{"zeros", func(b []byte) []byte { clear(b); return b }, false},
		{"pages exchanged", func(b []byte) []byte {
			copy(b[indexPage:], otherRun[2*indexPage:3*indexPage])
			copy(b[2*indexPage:], otherRun[indexPage:2*indexPage])
			return b
		}, false},
		{"a page of zeros", func(b []byte) []byte { clear(b[indexPage : 2*indexPage]); return b }, false},
		{"another file's page", func(b []byte) []byte {
			sealIndexPage(b[indexPage:2*indexPage], 2, 1)
			return b
		}, false},
		{"another file under this name", func(b []byte) []byte {
			for page := range 4 {
				sealIndexPage(b[page*indexPage:(page+1)*indexPage], 2, uint32(page))
			}
			return b
		}, false},
		{"another log's", func(b []byte) []byte { le.PutUint64(b[8:], 77); return reseal(b, 0) }, true},
		{"of a later version", func(b []byte) []byte { le.PutUint32(b[4:], 2); return reseal(b, 0) }, false},
		{"of another format", func(b []byte) []byte { copy(b, "RMQY"); return reseal(b, 0) }, true},
		{"no format at all", func(b []byte) []byte { copy(b, "precious"); return b }, false},
		{"a negative count", func(b []byte) []byte { le.PutUint64(b[16:], 1<<63); return reseal(b, 0) }, false},
		{"a huge count", func(b []byte) []byte { le.PutUint64(b[16:], 1<<62); return reseal(b, 0) }, false},
		{"a count that the size denies", func(b []byte) []byte { le.PutUint64(b[16:], 1); return reseal(b, 0) }, false},
		{"no range", func(b []byte) []byte { le.PutUint64(b[32:], 0); return reseal(b, 0) }, false},
		{"no range and no entries", func(b []byte) []byte {
			le.PutUint64(b[16:], 0)
			le.PutUint64(b[24:], 1200)
			le.PutUint64(b[40:], math.MaxUint64)
			clear(b[indexHeaderSize:])
			return reseal(b, 0)[:indexPage]
		}, false},
		{"a negative range", func(b []byte) []byte {
			le.PutUint64(b[24:], math.MaxUint64)
			return reseal(b, 0)
		}, false},
		{"a smaller range than the entries'", func(b []byte) []byte {
			le.PutUint64(b[32:], 1195)
			le.PutUint64(b[40:], 1190)
			le.PutUint64(b[24:], 600)
			return reseal(b, 0)
		}, false},
		{"a fence in the header that lies", func(b []byte) []byte {
			le.PutUint64(b[indexHeaderSize:], le.Uint64(b[indexHeaderSize:])-1)
			return reseal(b, 0)
		}, false},
		{"a fence page that lies", func(b []byte) []byte {
			le.PutUint64(b[3*indexPage+8:], le.Uint64(b[3*indexPage+8:])-1)
			return reseal(b, 3)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fs := disk.NewMem(1)
				l, name := oneIndexRun(t, fs, 120)
				writeIndexFile(t, fs, name, c.corrupt(readIndexFile(t, fs, name)))
				if _, err := verifyTestIndex(fs, "store/index", 0); err == nil {
					t.Error("a full read finds nothing")
				}
				x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
				x.Append(l.end(), l.end(), nil)
				for i := range l.recs {
					_ = l.check(t, x, indexAnyTime("T", fmt.Sprint("u", i), 64)) // compares
				}
				s := x.Stats()
				select {
				case <-x.Behind():
				default:
					t.Error("the owner was not told")
				}
				if c.foreign != (s.Foreign == 1) || c.foreign == (s.Damaged == 1) || len(s.Missing) != 1 {
					t.Errorf("%+v", s)
				}
				synctest.Wait() // the file is removed in the background
				if err := x.Close(); err != nil {
					t.Fatal(err)
				}
				if _, err := fs.Stat("test", name); (err == nil) != c.foreign {
					t.Errorf("foreign files stay, damaged ones go: %v", err)
				}
			})
		})
	}
}

// Sound checksums over entries out of order, a defect of the writer, are beyond
// a query; a full read finds them, and a merge does not pass them on.
func TestIndexOutOfOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := disk.NewMem(1)
		l, name := oneIndexRun(t, fs, 120)
		b := readIndexFile(t, fs, name)
		page := b[indexPage : 2*indexPage]
		e := slices.Clone(page[20:40])
		copy(page[20:40], page[2000:2020])
		copy(page[2000:2020], e)
		sealIndexPage(page, 1, 1)
		writeIndexFile(t, fs, name, b)
		if _, err := verifyTestIndex(fs, "store/index", 0); !errors.Is(err, errIndexDamaged) {
			t.Errorf("a full read: %v", err)
		}
		x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
		for range 7 {
			l.grow(x, 120)
			syncTestIndex(t, x)
			synctest.Wait()
		}
		if s := x.Stats(); s.Damaged != 1 || !slices.Equal(s.Missing, []IndexRange{{0, 1200}}) {
			t.Errorf("%+v", s)
		}
		closeTestIndex(t, x)
	})
}

// Files that are not ours are left alone; unfinished ones go.
func TestIndexForeignFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := disk.NewMem(1)
		l, _ := oneIndexRun(t, fs, 10)
		foreign := []string{"20240102030405678", "1.run", "00000000000000000001.run.bak", "-0000000000000000001.run", ".tmp", "x.run.tmp"}
		for _, name := range foreign {
			writeIndexFile(t, fs, "store/index/"+name, []byte("precious"))
		}
		writeIndexFile(t, fs, "store/index/"+indexRunName(5)+indexTmpSuffix, []byte("unfinished"))
		x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
		if s := x.Stats(); s.Foreign != len(foreign) || s.Runs != 1 || s.Missing != nil {
			t.Errorf("%+v", s)
		}
		l.checkAll(t, x)
		l.grow(x, 10)
		syncTestIndex(t, x)
		if _, err := fs.Stat("test", "store/index/"+indexRunName(6)); err != nil {
			t.Errorf("the next run does not take the next number: %v", err)
		}
		closeTestIndex(t, x)
		for _, name := range foreign {
			if string(readIndexFile(t, fs, "store/index/"+name)) != "precious" {
				t.Errorf("%s was touched", name)
			}
		}
		if _, err := fs.Stat("test", "store/index/"+indexRunName(5)+indexTmpSuffix); err == nil {
			t.Error("the unfinished file is still there")
		}
	})
}

// The checks of a page, one by one.
func TestIndexPageSeal(t *testing.T) {
	page := make([]byte, indexPage)
	sealIndexPage(page, 7, 3)
	for _, c := range []struct {
		run    uint64
		number uint32
		ok     bool
	}{{7, 3, true}, {7, 4, false}, {8, 3, false}} {
		if err := checkIndexPage(page, c.run, c.number); (err == nil) != c.ok {
			t.Errorf("page %d of run %d: %v", c.number, c.run, err)
		}
	}
}

// The file that a cut removed comes back when the log, and the index, have gone
// on with other records: it does not count.
func TestIndexCutFileReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := disk.NewMem(1)
		l, name := oneIndexRun(t, fs, 10)
		old := readIndexFile(t, fs, name)
		x := openTestIndex(t, IndexOptions{FS: fs}, 0, 50)
		l.recs = l.recs[:5]
		for range 10 {
			l.add(10, 1000, "new")
		}
		l.appendAll(x)
		syncTestIndex(t, x)
		closeTestIndex(t, x)
		writeIndexFile(t, fs, name, old)
		x = openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
		if s := x.Stats(); s.Runs != 2 || s.Missing != nil {
			t.Errorf("%+v", s)
		}
		for _, key := range []string{"new", "k", "u4", "u5"} {
			if err := l.check(t, x, indexAnyTime("T", key, 64)); err != nil {
				t.Error(err)
			}
		}
		closeTestIndex(t, x)
	})
}

// An older copy of a file comes back: an input beside the merge's output. And
// files are removed behind the index's back.
func TestIndexOldFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := disk.NewMem(1)
		l, name := oneIndexRun(t, fs, 10)
		old := readIndexFile(t, fs, name)
		x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
		for range 7 {
			l.grow(x, 10)
			syncTestIndex(t, x)
		}
		synctest.Wait()
		if s := x.Stats(); s.Merges != 1 || s.Runs != 1 {
			t.Fatalf("%+v", s)
		}
		closeTestIndex(t, x)
		writeIndexFile(t, fs, name, old)
		x = openTestIndex(t, x.o, 0, math.MaxInt64)
		if s := x.Stats(); s.Runs != 1 || s.Missing != nil || s.Damaged != 0 {
			t.Fatalf("%+v", s)
		}
		l.checkAll(t, x)
		if err := fs.Remove("test", x.runs[0].name); err != nil {
			t.Fatal(err)
		}
		if err := l.check(t, x, indexAnyTime("T", "k", 64)); !errors.Is(err, ErrIndexBehind) {
			t.Fatalf("with the file gone: %v", err)
		}
		closeTestIndex(t, x)
		x = openTestIndex(t, x.o, 0, math.MaxInt64)
		x.Append(l.end(), l.end(), nil)
		if got := x.Missing(); !slices.Equal(got, []IndexRange{{0, l.end()}}) {
			t.Fatalf("missing %v", got)
		}
		closeTestIndex(t, x)
	})
}
