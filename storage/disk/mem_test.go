package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
)

const seeds = 200

// synced returns a file system with the file /f, durable, of the content given.
func synced(t *testing.T, text string) (*disk.Mem, disk.File) {
	t.Helper()
	m := disk.NewMem(1)
	f := create(t, m, "/f", text)
	want(t, "sync", errors.Join(f.Datasync(), m.SyncDir("test", "/")), nil)
	return m, f
}

// outcomes counts what the content of a file is after crashes; "-" if it is gone.
func outcomes(t *testing.T, m *disk.Mem, name string) map[string]int {
	t.Helper()
	got := map[string]int{}
	for seed := range uint64(seeds) {
		c := m.Crash(seed)
		if _, err := c.Stat("test", name); errors.Is(err, fs.ErrNotExist) {
			got["-"]++
			continue
		}
		got[content(t, c, name)]++
	}
	return got
}

func only(t *testing.T, got map[string]int, allowed ...string) {
	t.Helper()
	for _, a := range allowed {
		if got[a] == 0 {
			t.Errorf("never %.20q in %d crashes", a, seeds)
		}
		delete(got, a)
	}
	for g, n := range got {
		t.Errorf("%.20q (%d bytes) in %d crashes, which must not be", g, len(g), n)
	}
}

func TestCrashKeepsWhatIsSynced(t *testing.T) {
	m, f := synced(t, "old")
	only(t, outcomes(t, m, "/f"), "old")
	write(t, f, "new", 0)
	only(t, outcomes(t, m, "/f"), "old", "new")
	want(t, "Datasync", f.Datasync(), nil)
	only(t, outcomes(t, m, "/f"), "new")
}

func TestCrashOfNames(t *testing.T) {
	m := disk.NewMem(1)
	f := create(t, m, "/f", "x")
	want(t, "Datasync", f.Datasync(), nil)
	only(t, outcomes(t, m, "/f"), "-", "x") // the name was not synced
	want(t, "SyncDir", m.SyncDir("test", "/"), nil)
	only(t, outcomes(t, m, "/f"), "x")

	g := create(t, m, "/g", "y")
	want(t, "Datasync", g.Datasync(), nil)
	want(t, "Rename", m.Rename("test", "/g", "/f"), nil)
	only(t, outcomes(t, m, "/f"), "x", "y")
	want(t, "SyncDir", m.SyncDir("test", "/"), nil)
	only(t, outcomes(t, m, "/f"), "y")

	want(t, "Remove", m.Remove("test", "/f"), nil)
	only(t, outcomes(t, m, "/f"), "-", "y")
	want(t, "SyncDir", m.SyncDir("test", "/"), nil)
	only(t, outcomes(t, m, "/f"), "-")
}

func TestCrashOfSize(t *testing.T) {
	m, f := synced(t, "abc")
	write(t, f, "def", 3)
	// The size may be on the disk without the data, not the other way round.
	only(t, outcomes(t, m, "/f"), "abc", "abcdef", "abc\x00\x00\x00")
}

func TestCrashTearsPagesAndSectors(t *testing.T) {
	const page, sector = 4096, 512
	m, f := synced(t, strings.Repeat("a", 3*page))
	write(t, f, strings.Repeat("b", 3*page), 0)
	torn, mixed, later := 0, 0, 0
	for seed := range uint64(seeds) {
		got := content(t, m.Crash(seed), "/f")
		for s := 0; s < len(got); s += sector {
			if n := strings.Count(got[s:s+sector], "b"); n != 0 && n != sector {
				t.Fatalf("seed %d: a sector is a mix", seed)
			}
		}
		pages := 0
		for p := 0; p < len(got); p += page {
			switch n := strings.Count(got[p:p+page], "b"); n {
			case 0:
			case page:
				pages++
			default:
				torn++
			}
		}
		if pages == 1 || pages == 2 {
			mixed++
		}
		if got[0] == 'a' && got[len(got)-1] == 'b' {
			later++
		}
	}
	if torn == 0 || mixed == 0 || later == 0 {
		t.Errorf("torn pages %d, some pages of a write %d, later without earlier %d: each must happen", torn, mixed, later)
	}
}

func TestFailedSyncLeavesPagesClean(t *testing.T) {
	boom := errors.New("boom")
	lost := 0
	for seed := range uint64(20) {
		m := disk.NewMem(seed)
		f := create(t, m, "/f", "old")
		want(t, "sync", errors.Join(f.Datasync(), m.SyncDir("test", "/")), nil)
		write(t, f, "new", 0)
		m.SetHook(func(op disk.Op) error {
			if op.Kind == disk.OpSync {
				return boom
			}
			return nil
		})
		want(t, "Datasync", f.Datasync(), boom)
		m.SetHook(nil)
		want(t, "second Datasync", f.Datasync(), nil)
		if got := content(t, m, "/f"); got != "new" {
			t.Fatalf("the page cache has %q", got)
		}
		if content(t, m.Crash(seed), "/f") == "old" {
			lost++
		}
		write(t, f, "new", 0) // written again, and synced
		want(t, "third Datasync", f.Datasync(), nil)
		only(t, outcomes(t, m, "/f"), "new")
	}
	if lost == 0 || lost == 20 {
		t.Errorf("after a failed sync and one that worked, the write was lost in %d of 20", lost)
	}
}

func TestCloneIsTheDiskAfterAKill(t *testing.T) {
	m, f := synced(t, "old")
	lock, err := m.Lock("test", "/lock")
	want(t, "Lock", err, nil)
	write(t, f, "new", 0)
	c := m.Clone()
	if got := content(t, c, "/f"); got != "new" {
		t.Errorf("after a kill: %q", got)
	}
	only(t, outcomes(t, c, "/f"), "old", "new") // it still is not synced
	l, err := c.Lock("test", "/lock")
	want(t, "Lock in the clone", err, nil)
	want(t, "Close", errors.Join(l.Close(), lock.Close()), nil)

	g, err := c.OpenFile("test", "/f", os.O_RDWR)
	want(t, "open", err, nil)
	want(t, "sync in the clone", errors.Join(g.Datasync(), g.Close()), nil)
	only(t, outcomes(t, c, "/f"), "new")
	only(t, outcomes(t, m, "/f"), "old", "new")
}

func TestSyncFSSyncsAll(t *testing.T) {
	m := disk.NewMem(1)
	want(t, "MkdirAll", m.MkdirAll("test", "/a/b"), nil)
	create(t, m, "/a/b/f", "x")
	want(t, "SyncFS", m.SyncFS("test", "/"), nil)
	only(t, outcomes(t, m, "/a/b/f"), "x")
}

func TestSeedDecides(t *testing.T) {
	m, f := synced(t, strings.Repeat("a", 1<<16))
	write(t, f, strings.Repeat("b", 1<<16), 0)
	differ := false
	for seed := range uint64(10) {
		one := content(t, m.Crash(seed), "/f")
		if one != content(t, m.Crash(seed), "/f") {
			t.Fatalf("seed %d gives two results", seed)
		}
		differ = differ || one != content(t, m.Crash(seed+1), "/f")
	}
	if !differ {
		t.Error("all seeds give one result")
	}
}

func TestCapacity(t *testing.T) {
	m, f := synced(t, "abc")
	m.SetCapacity(10)
	_, err := f.WriteAt(make([]byte, 8), 3)
	want(t, "write beyond", err, syscall.ENOSPC)
	want(t, "allocate beyond", f.Allocate(0, 11), syscall.ENOSPC)
	write(t, f, "xyz", 0) // in place
	want(t, "allocate", f.Allocate(0, 10), nil)
	if u, err := m.Usage("/"); err != nil || u.Total != 10 || u.Free != 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
	m.SetCapacity(0)
	want(t, "allocate with room", f.Allocate(0, 11), nil)
}

func TestHookFailsCutsAndPretends(t *testing.T) {
	boom := errors.New("boom")
	m, f := synced(t, "old")
	var reply error
	var seen disk.Op
	m.SetHook(func(op disk.Op) error {
		seen = op
		return reply
	})
	reply = disk.ShortWrite{N: 2, Err: boom}
	n, err := disk.WithLabel(f, "site").WriteAt([]byte("new"), 0)
	want(t, "short write", err, boom)
	if n != 2 || seen != (disk.Op{Kind: disk.OpWrite, Label: "site", Name: "/f", Len: 3}) {
		t.Errorf("wrote %d, hook saw %+v", n, seen)
	}
	if m.SetHook(nil); content(t, m, "/f") != "ned" {
		t.Errorf("content %q", content(t, m, "/f"))
	}
	m.SetHook(func(disk.Op) error { return disk.ErrPretend })
	write(t, f, "xxx", 0)
	want(t, "Datasync", f.Datasync(), nil)
	if m.SetHook(nil); content(t, m, "/f") != "ned" {
		t.Error("a pretended write was carried out")
	}
	only(t, outcomes(t, m, "/f"), "old", "ned")

	m.SetHook(func(disk.Op) error { return boom })
	_, errOpen := m.OpenFile("x", "/f", os.O_RDWR)
	_, errDir := m.ReadDir("x", "/")
	_, errStat := m.Stat("x", "/f")
	_, errRead := f.ReadAt(make([]byte, 1), 0)
	_, errMap := f.Map(1)
	for what, err := range map[string]error{
		"open": errOpen, "readdir": errDir, "stat": errStat, "read": errRead, "map": errMap,
		"mkdir": m.MkdirAll("x", "/d"), "remove": m.Remove("x", "/f"), "removeall": m.RemoveAll("x", "/f"),
		"rename": m.Rename("x", "/f", "/g"), "syncdir": m.SyncDir("x", "/"), "syncfs": m.SyncFS("x", "/"),
		"truncate": f.Truncate(0), "allocate": f.Allocate(0, 9), "writeback": f.StartWriteback(0, 1),
	} {
		want(t, what, err, boom)
	}
	m.SetHook(nil)
	if got := content(t, m, "/f"); got != "ned" {
		t.Errorf("failed operations left %q", got)
	}
}

func TestFlipBitReachesTheDisk(t *testing.T) {
	m, _ := synced(t, "abc")
	want(t, "FlipBit", m.FlipBit("/f", 1, 0), nil)
	only(t, outcomes(t, m, "/f"), "acc")
	if err := m.FlipBit("/f", 3, 0); err == nil {
		t.Error("flipped a bit behind the end")
	}
}
