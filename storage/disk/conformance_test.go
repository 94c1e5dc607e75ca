package disk_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/raftmq/raftmq/storage/disk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// both runs a test on either implementation, and on one that is watched: what a
// caller may rely on is what all do.
func both(t *testing.T, test func(t *testing.T, d disk.FS, dir string)) {
	t.Run("OS", func(t *testing.T) { test(t, disk.OS(), t.TempDir()) })
	t.Run("Watch", func(t *testing.T) { test(t, disk.NewWatch(disk.OS(), writes), t.TempDir()) })
	t.Run("Mem", func(t *testing.T) {
		m := disk.NewMem(1)
		if err := m.MkdirAll("test", "/data"); err != nil {
			t.Fatal(err)
		}
		test(t, m, "/data")
	})
}

func create(t *testing.T, d disk.FS, name, content string) disk.File {
	t.Helper()
	f, err := d.OpenFile("test", name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() }) // twice in tests that close it themselves
	write(t, f, content, 0)
	return f
}

func write(t *testing.T, f disk.File, content string, off int64) {
	t.Helper()
	if n, err := f.WriteAt([]byte(content), off); err != nil || n != len(content) {
		t.Fatalf("WriteAt: %d, %v", n, err)
	}
}

func content(t *testing.T, d disk.FS, name string) string {
	t.Helper()
	f, err := d.OpenFile("test", name, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) != size || err != nil && err != io.EOF {
		t.Fatalf("ReadAt: %d of %d, %v", n, size, err)
	}
	return string(b)
}

func want(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

func TestReadWrite(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		f := create(t, d, path.Join(dir, "f"), "hello")
		write(t, f, "world", 10)
		if got := content(t, d, f.Name()); got != "hello\x00\x00\x00\x00\x00world" {
			t.Errorf("content %q", got)
		}
		b := make([]byte, 8)
		if n, err := f.ReadAt(b, 10); n != 5 || err != io.EOF {
			t.Errorf("short read: %d, %v", n, err)
		}
		if n, err := f.ReadAt(b, 15); n != 0 || err != io.EOF {
			t.Errorf("read at the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(b, 100); n != 0 || err != io.EOF {
			t.Errorf("read behind the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(b[:5], 0); n != 5 || err != nil || string(b[:5]) != "hello" {
			t.Errorf("read: %d, %v, %q", n, err, b[:5])
		}
		for _, size := range []int64{3, 6} {
			want(t, "Truncate", f.Truncate(size), nil)
		}
		if got := content(t, d, f.Name()); got != "hel\x00\x00\x00" {
			t.Errorf("content after Truncate %q", got)
		}
		for _, err := range []error{f.Datasync(), f.Sync(), f.StartWriteback(0, 6), d.SyncDir("test", dir), d.SyncFS("test", dir)} {
			want(t, "sync", err, nil)
		}
	})
}

func TestOpenFlags(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		name := path.Join(dir, "f")
		_, err := d.OpenFile("lbl", name, os.O_RDWR)
		want(t, "open what is not there", err, fs.ErrNotExist)
		if err != nil && !strings.Contains(err.Error(), "lbl") {
			t.Errorf("error %q does not carry its label", err)
		}
		_, err = d.OpenFile("test", path.Join(dir, "no", "f"), os.O_RDWR|os.O_CREATE)
		want(t, "open in a directory that is not there", err, fs.ErrNotExist)
		create(t, d, name, "abc")
		_, err = d.OpenFile("test", name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
		want(t, "O_EXCL", err, fs.ErrExist)
		if _, err = d.OpenFile("test", path.Join(name, "f"), os.O_RDWR|os.O_CREATE); err == nil {
			t.Error("opened a file below a file")
		}
		r, err := d.OpenFile("test", name, os.O_RDONLY)
		want(t, "open", err, nil)
		if _, err := r.WriteAt([]byte("x"), 0); err == nil {
			t.Error("wrote to a file opened for reading")
		}
		want(t, "Close", r.Close(), nil)
		f, err := d.OpenFile("test", name, os.O_RDWR|os.O_TRUNC)
		want(t, "O_TRUNC", err, nil)
		want(t, "Close", f.Close(), nil)
		if got := content(t, d, name); got != "" {
			t.Errorf("content after O_TRUNC %q", got)
		}
	})
}

func TestClosed(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		f := create(t, d, path.Join(dir, "f"), "abc")
		other := disk.WithLabel(f, "other")
		want(t, "Close", other.Close(), nil)
		_, errRead := f.ReadAt(make([]byte, 1), 0)
		_, errWrite := f.WriteAt([]byte("x"), 0)
		_, errSize := f.Size()
		for what, err := range map[string]error{
			"ReadAt": errRead, "WriteAt": errWrite, "Size": errSize, "Truncate": f.Truncate(0),
			"Datasync": f.Datasync(), "Sync": f.Sync(), "Allocate": f.Allocate(0, 1), "Close": f.Close(),
		} {
			want(t, what+" after Close", err, fs.ErrClosed)
		}
	})
}

func TestLabels(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		f := create(t, d, path.Join(dir, "f"), "abc")
		want(t, "Close", f.Close(), nil)
		if err := disk.WithLabel(f, "site").Datasync(); err == nil || !strings.Contains(err.Error(), "site") {
			t.Errorf("error %v does not carry the call site's label", err)
		}
		if err := f.Datasync(); err == nil || strings.Contains(err.Error(), "site") {
			t.Errorf("error %v carries another's label", err)
		}
	})
}

func TestNames(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		sub := path.Join(dir, "a", "b")
		want(t, "MkdirAll", d.MkdirAll("test", sub), nil)
		want(t, "MkdirAll again", d.MkdirAll("test", sub), nil)
		for _, name := range []string{"z", "m", "k"} {
			create(t, d, path.Join(sub, name), name)
		}
		if err := d.MkdirAll("test", path.Join(sub, "z", "x")); err == nil {
			t.Error("made a directory below a file")
		}
		entries, err := d.ReadDir("test", sub)
		want(t, "ReadDir", err, nil)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != "k m z" {
			t.Errorf("ReadDir: %s", got)
		}
		_, err = d.ReadDir("test", path.Join(dir, "none"))
		want(t, "ReadDir of nothing", err, fs.ErrNotExist)

		info, err := d.Stat("test", path.Join(sub, "z"))
		want(t, "Stat", err, nil)
		if info.IsDir() || info.Size() != 1 || info.Name() != "z" {
			t.Errorf("Stat: %v", info)
		}
		info, err = d.Stat("test", sub)
		want(t, "Stat", err, nil)
		if !info.IsDir() || info.Name() != "b" {
			t.Errorf("Stat of a directory: %v", info)
		}
		_, err = d.Stat("test", path.Join(sub, "none"))
		want(t, "Stat of nothing", err, fs.ErrNotExist)

		want(t, "Remove", d.Remove("test", path.Join(sub, "m")), nil)
		want(t, "Remove again", d.Remove("test", path.Join(sub, "m")), fs.ErrNotExist)
		if err := d.Remove("test", sub); err == nil {
			t.Error("removed a directory that is not empty")
		}
		want(t, "RemoveAll", d.RemoveAll("test", path.Join(dir, "a")), nil)
		want(t, "RemoveAll of nothing", d.RemoveAll("test", path.Join(dir, "a")), nil)
		_, err = d.Stat("test", sub)
		want(t, "Stat after RemoveAll", err, fs.ErrNotExist)
	})
}

func TestRename(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		a, b := path.Join(dir, "a"), path.Join(dir, "b")
		create(t, d, a, "new")
		old := create(t, d, b, "old")
		want(t, "Rename", d.Rename("test", a, b), nil)
		if got := content(t, d, b); got != "new" {
			t.Errorf("content %q", got)
		}
		_, err := d.Stat("test", a)
		want(t, "Stat of the old name", err, fs.ErrNotExist)
		got := make([]byte, 3)
		if _, err := old.ReadAt(got, 0); err != nil || string(got) != "old" {
			t.Errorf("an open file that was replaced: %q, %v", got, err)
		}
		want(t, "Rename of nothing", d.Rename("test", a, b), fs.ErrNotExist)

		want(t, "MkdirAll", d.MkdirAll("test", path.Join(dir, "sub")), nil)
		want(t, "Rename to another directory", d.Rename("test", b, path.Join(dir, "sub", "c")), nil)
		if got := content(t, d, path.Join(dir, "sub", "c")); got != "new" {
			t.Errorf("content %q", got)
		}
	})
}

func TestRemovedFileStaysOpen(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		f := create(t, d, path.Join(dir, "f"), "abc")
		want(t, "Remove", d.Remove("test", f.Name()), nil)
		write(t, f, "d", 3)
		b := make([]byte, 4)
		if _, err := f.ReadAt(b, 0); err != nil || string(b) != "abcd" {
			t.Errorf("%q, %v", b, err)
		}
		want(t, "Datasync", f.Datasync(), nil)
	})
}

func TestAllocate(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		f := create(t, d, path.Join(dir, "f"), "abc")
		want(t, "Allocate", f.Allocate(0, 8), nil)
		want(t, "Allocate less", f.Allocate(0, 2), nil)
		if got := content(t, d, f.Name()); got != "abc\x00\x00\x00\x00\x00" {
			t.Errorf("content %q", got)
		}
	})
}

func TestMapping(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		f := create(t, d, path.Join(dir, "f"), strings.Repeat("x", 10000))
		m, err := f.Map(10000)
		want(t, "Map", err, nil)
		write(t, f, "yyy", 9000)
		if b := m.Bytes(); len(b) != 10000 || !bytes.Equal(b[8999:9004], []byte("xyyyx")) {
			t.Errorf("mapping of %d bytes: %q", len(b), b[8999:9004])
		}
		want(t, "Unmap", m.Unmap(), nil)
		want(t, "Unmap again", m.Unmap(), nil)
	})
}

func TestLock(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		name := path.Join(dir, "lock")
		l, err := d.Lock("test", name)
		want(t, "Lock", err, nil)
		_, err = d.Lock("test", name)
		want(t, "Lock again", err, disk.ErrLocked)
		want(t, "Close", l.Close(), nil)
		l, err = d.Lock("test", name)
		want(t, "Lock after Close", err, nil)
		want(t, "Close", l.Close(), nil)
	})
}

func TestUsage(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		u, err := d.Usage(dir)
		want(t, "Usage", err, nil)
		if u.Total == 0 || u.Free > u.Total || u.UsedRatio() < 0 || u.UsedRatio() > 1 {
			t.Errorf("usage %+v, ratio %v", u, u.UsedRatio())
		}
	})
	if got := (disk.Usage{}).UsedRatio(); got != 0 {
		t.Errorf("ratio of nothing %v", got)
	}
}

func TestParallel(t *testing.T) {
	both(t, func(t *testing.T, d disk.FS, dir string) {
		f := create(t, d, path.Join(dir, "f"), strings.Repeat("-", 8*64))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				mine := bytes.Repeat([]byte{byte('a' + i)}, 64)
				got := make([]byte, 64)
				for range 20 {
					_, errWrite := f.WriteAt(mine, int64(i)*64)
					_, errRead := f.ReadAt(got, int64(i)*64)
					if err := errors.Join(errWrite, errRead, f.Datasync()); err != nil || !bytes.Equal(got, mine) {
						t.Errorf("%q, %v", got, err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}
