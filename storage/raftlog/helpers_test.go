package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/raftmq/raftmq/storage/disk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	dir   = "/data/log"
	file1 = "/data/log/00000001.seg"
)

var long = os.Getenv("RAFTMQ_LONG") != ""

// testSeed is the seed of a randomised test, RAFTMQ_SEED if that is set.
func testSeed(t testing.TB) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("RAFTMQ_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("RAFTMQ_SEED: %v", err)
		}
	}
	t.Logf("RAFTMQ_SEED=%d", seed)
	return seed
}

// newMem returns a file system with the parent of the log's directory, durable.
func newMem(t testing.TB) *disk.Mem {
	t.Helper()
	m := disk.NewMem(1)
	ok(t, errors.Join(m.MkdirAll("test", path.Dir(dir)), m.SyncDir("test", "/")))
	return m
}

func small() Options { return Options{Create: true, SegmentBytes: minSegmentBytes, BootID: "boot-1"} }

// uncached makes every GetLog read the file.
func uncached(o Options) Options {
	o.CacheBytes = -1
	return o
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: error %v, want %v", what, got, want)
	}
}

func mustOpen(t testing.TB, fs disk.FS, opts Options) *Log {
	t.Helper()
	l, err := Open(fs, dir, opts)
	ok(t, err)
	t.Cleanup(func() { l.Close() }) // most tests close it themselves, and look at the error
	return l
}

// settle waits until the keeper has nothing to do.
func settle(l *Log) {
	for {
		req := spareRequest{n: 1, done: make(chan error, 1)}
		select {
		case l.requests <- req:
			<-req.done
		case <-l.quit:
			return
		}
		if len(l.kick) == 0 {
			return
		}
	}
}

// entryOf makes the entry of an index and a term: the same for the same, of
// about the size given.
func entryOf(index, term uint64, size int) *raft.Log {
	rng := rand.New(rand.NewPCG(index, term))
	l := &raft.Log{Index: index, Term: term, Type: raft.LogType(index % 3), AppendedAt: time.Unix(int64(index), int64(term)).UTC()}
	if n := size - int(index%5); n > 0 {
		l.Data = make([]byte, n)
		for i := range l.Data {
			l.Data[i] = byte(rng.Uint32())
		}
	}
	if index%4 == 0 {
		l.Extensions = []byte(fmt.Sprint("ext", index))
	}
	return l
}

// batch makes entries from..to.
func batch(from, to, term uint64, size int) (logs []*raft.Log) {
	for i := from; i <= to; i++ {
		logs = append(logs, entryOf(i, term, size))
	}
	return logs
}

func equal(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.AppendedAt.Equal(b.AppendedAt) &&
		bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

// all reads the whole log through its interface.
func all(l *Log) ([]*raft.Log, error) {
	first, err := l.FirstIndex()
	last, err2 := l.LastIndex()
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	if (first == 0) != (last == 0) || first > last {
		return nil, fmt.Errorf("first index %d, last %d", first, last)
	}
	var logs []*raft.Log
	for i := first; i != 0 && i <= last; i++ {
		var got raft.Log
		if err := l.GetLog(i, &got); err != nil {
			return nil, fmt.Errorf("entry %d of %d to %d: %w", i, first, last, err)
		}
		if got.Index != i {
			return nil, fmt.Errorf("asked for entry %d, got %d", i, got.Index)
		}
		logs = append(logs, &got)
	}
	for _, i := range []uint64{0, first - 1, last + 1} {
		if i >= first && i <= last && first != 0 {
			continue
		}
		if err := l.GetLog(i, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			return nil, fmt.Errorf("entry %d outside the log: error %v", i, err)
		}
	}
	if n := len(logs); n > 0 && l.LastTerm() != logs[n-1].Term || n == 0 && l.LastTerm() != 0 {
		return nil, fmt.Errorf("last term %d", l.LastTerm())
	}
	return logs, nil
}

// same says how two logs differ.
func same(got, want []*raft.Log) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d entries %s, want %d %s", len(got), span(got), len(want), span(want))
	}
	for i := range got {
		if !equal(got[i], want[i]) {
			return fmt.Errorf("entry %d differs: term %d, want entry %d of term %d", got[i].Index, got[i].Term, want[i].Index, want[i].Term)
		}
	}
	return nil
}

func span(logs []*raft.Log) string {
	if len(logs) == 0 {
		return "[]"
	}
	return fmt.Sprintf("[%d..%d]", logs[0].Index, logs[len(logs)-1].Index)
}

func holds(t testing.TB, l *Log, want []*raft.Log) {
	t.Helper()
	got, err := all(l)
	ok(t, err)
	ok(t, same(got, want))
}

func readFile(t testing.TB, fs disk.FS, name string) []byte {
	t.Helper()
	f, err := fs.OpenFile("test", name, os.O_RDONLY)
	ok(t, err)
	defer f.Close()
	size, err := f.Size()
	ok(t, err)
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) != size || err != nil && err != io.EOF {
		t.Fatalf("reading %s: %d of %d, %v", name, n, size, err)
	}
	return b
}

// writeFile writes a file, durably.
func writeFile(t testing.TB, fs disk.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.OpenFile("test", name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	ok(t, err)
	ok(t, writeSync(f, b))
	ok(t, errors.Join(f.Close(), fs.SyncDir("test", path.Dir(name))))
}

// names lists a directory.
func names(t testing.TB, fs disk.FS, dir string) (names []string) {
	t.Helper()
	entries, err := fs.ReadDir("test", dir)
	ok(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// damaged checks that an error names the file and wraps the sentinel given.
func damaged(t testing.TB, err, kind error, file string) {
	t.Helper()
	var fe *FileError
	if !errors.As(err, &fe) || !errors.Is(err, kind) {
		t.Fatalf("error %v, want a FileError of kind %v", err, kind)
	}
	if fe.File != file {
		t.Fatalf("error names %s, want %s: %v", fe.File, file, err)
	}
}

// contents maps every file below the log's directory to its bytes.
func contents(t testing.TB, fs disk.FS) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	for _, n := range names(t, fs, dir) {
		if n != lockName {
			m[n] = readFile(t, fs, path.Join(dir, n))
		}
	}
	return m
}

// tailFile returns the file that entries are written to.
func tailFile(l *Log) string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.tail().file.Name()
}

func concat(logs ...[]*raft.Log) []*raft.Log { return slices.Concat(logs...) }

// sleep is for fake time, in a synctest bubble.
func sleep(d time.Duration) { time.Sleep(d) }

// yield lets others run while a test waits for something that it can
// only look at.
func yield() { runtime.Gosched() }
