package verify

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
)

const zeros = "00000000000000000000" // the name of a first file

func flip(t *testing.T, name string, off int64) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if off < 0 {
		off += int64(len(b))
	}
	b[off] ^= 4
	if err := os.WriteFile(name, b, 0o640); err != nil {
		t.Fatal(err)
	}
}

// files lists a directory, in order.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, filepath.Join(dir, e.Name()))
	}
	return names
}

func first(t *testing.T, dir string) string { return files(t, dir)[0] }

func last(t *testing.T, dir string) string {
	names := files(t, dir)
	return names[len(names)-1]
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o640); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
}

// shorten takes the last half of a file away.
func shorten(t *testing.T, name string) {
	t.Helper()
	if err := os.Truncate(name, int64(len(read(t, name))/2)); err != nil {
		t.Fatal(err)
	}
}

// copyDir puts a directory in the place of another.
func copyDir(t *testing.T, to, from string) {
	t.Helper()
	remove(t, to)
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// Each kind of damage to each kind of file is found, and said of the file it is in.
func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	r := standard(t, "n1")
	end := r.store.End()
	r.close()
	older := newReplica(t, "n1") // as r was before
	older.feed(70, history(t, 70)...)
	older.close()
	foreign := standard(t, "n2")
	foreign.close()
	if report := run(t, r.dir); !report.OK() {
		t.Fatalf("problems of an intact replica: %q", problems(report))
	} else if report.Groups[0].Replicas[0].Snapshot != 80 {
		t.Fatalf("%+v", report)
	}
	const queue = "/store/consumequeue/T@1/1/" + zeros
	segment := func(dir string, pos int64) (string, int64) {
		base := strconv.FormatInt(pos-pos%testSegment, 10)
		return dir + "/store/commitlog/" + zeros[len(base):] + base, pos % testSegment
	}
	for _, test := range []struct {
		name string
		do   func(t *testing.T, dir string)
		want string // in a problem, or in the error
	}{
		{"flip in the CommitLog, sealed", func(t *testing.T, dir string) { flip(t, first(t, dir+"/store/commitlog"), 3000) }, "store/commitlog/" + zeros},
		{"flip in the CommitLog, active and synced", func(t *testing.T, dir string) {
			name, _ := segment(dir, end)
			flip(t, name, 10)
		}, "store/commitlog/"},
		{"flip in the CommitLog, behind the snapshot", func(t *testing.T, dir string) {
			name, off := segment(dir, end-20)
			flip(t, name, off)
		}, "store/commitlog/"},
		{"flip in the CommitLog, behind its end", func(t *testing.T, dir string) {
			name, off := segment(dir, end+10)
			flip(t, name, off)
		}, "CommitLog end at"},
		{"flip in block sums", func(t *testing.T, dir string) { flip(t, first(t, dir+"/store/commitlog-sums"), 5) }, "store/commitlog-sums/"},
		{"flip in a queue", func(t *testing.T, dir string) { flip(t, dir+queue, 100) }, "store/consumequeue/"},
		{"flip in a queue, behind the snapshot", func(t *testing.T, dir string) { flip(t, dir+queue, -1) }, "store/consumequeue/"},
		{"flip in a queue's sums", func(t *testing.T, dir string) { flip(t, dir+queue+".sums", 1) }, "store/consumequeue/"},
		{"flip in the index", func(t *testing.T, dir string) { flip(t, last(t, dir+"/store/index"), 200) }, "store/index/"},
		{"flip in a checkpoint", func(t *testing.T, dir string) { flip(t, dir+"/store/checkpoint.1", 30) }, "store/checkpoint.1"},
		{"flip in the store's format", func(t *testing.T, dir string) { flip(t, dir+"/store/format", 20) }, "format file"},
		{"flip in the raft log", func(t *testing.T, dir string) {
			name := first(t, dir+"/raft/log")
			flip(t, name, int64(bytes.Index(read(t, name), history(t, 100)[96].Data)))
		}, "raft/log/"},
		{"flip in the newest snapshot", func(t *testing.T, dir string) { flip(t, last(t, dir+"/raft/snapshots"), 500) }, "raft/snapshots/"},
		{"flip in the older snapshot", func(t *testing.T, dir string) { flip(t, first(t, dir+"/raft/snapshots"), -1) }, "raft/snapshots/"},
		{"flip in the stable store", func(t *testing.T, dir string) { flip(t, dir+"/raft/stable.db", 4096+30) }, "raft/stable.db"},
		{"flip in the identity", func(t *testing.T, dir string) {
			name := dir + "/" + raftgroup.IdentityFile
			flip(t, name, int64(strings.Index(string(read(t, name)), "00112233ff")))
		}, "storage: the directory belongs to another"},

		{"segment missing", func(t *testing.T, dir string) { remove(t, first(t, dir+"/store/commitlog")) }, "store/commitlog/" + zeros},
		{"block sums missing", func(t *testing.T, dir string) { remove(t, first(t, dir+"/store/commitlog-sums")) }, "store/commitlog-sums/"},
		{"queue missing", func(t *testing.T, dir string) { remove(t, dir+queue) }, "store/consumequeue/"},
		{"queue's sums missing", func(t *testing.T, dir string) { remove(t, dir+queue+".sums") }, "store/consumequeue/"},
		{"index missing", func(t *testing.T, dir string) { remove(t, dir+"/store/index") }, "store/index"},
		{"newest checkpoint missing", func(t *testing.T, dir string) { remove(t, dir+"/store/checkpoint.0") }, "store/checkpoint."},
		{"format missing", func(t *testing.T, dir string) { remove(t, dir+"/store/format") }, "format"},
		{"store missing", func(t *testing.T, dir string) { remove(t, dir+"/store") }, "store"},
		{"raft log missing", func(t *testing.T, dir string) { remove(t, dir+"/raft/log") }, "raft/log"},
		{"raft log's segment missing", func(t *testing.T, dir string) { remove(t, first(t, dir+"/raft/log")) }, "raft/log"},
		{"snapshots missing", func(t *testing.T, dir string) { remove(t, dir+"/raft/snapshots") }, "raft/snapshots"},
		{"all snapshots missing", func(t *testing.T, dir string) {
			for _, name := range files(t, dir+"/raft/snapshots") {
				remove(t, name)
			}
		}, "raft/snapshots"},
		{"newest snapshot missing", func(t *testing.T, dir string) { remove(t, last(t, dir+"/raft/snapshots")) }, "raft/snapshots"},
		{"stable store missing", func(t *testing.T, dir string) { remove(t, dir+"/raft/stable.db") }, "raft/stable.db"},

		{"segment truncated", func(t *testing.T, dir string) { shorten(t, first(t, dir+"/store/commitlog")) }, "store/commitlog/" + zeros},
		{"queue truncated", func(t *testing.T, dir string) { shorten(t, dir+queue) }, "store/consumequeue/"},
		{"index truncated", func(t *testing.T, dir string) { shorten(t, last(t, dir+"/store/index")) }, "store/index/"},
		{"checkpoint truncated", func(t *testing.T, dir string) { shorten(t, dir+"/store/checkpoint.0") }, "store/checkpoint.0"},
		{"raft log truncated", func(t *testing.T, dir string) { shorten(t, first(t, dir+"/raft/log")) }, "raft/log/"},
		{"snapshot truncated", func(t *testing.T, dir string) { shorten(t, last(t, dir+"/raft/snapshots")) }, "raft/snapshots/"},
		{"stable store empty", func(t *testing.T, dir string) { write(t, dir+"/raft/stable.db", nil) }, "raft/stable.db"},

		{"file in the CommitLog that is not its", func(t *testing.T, dir string) { write(t, dir+"/store/commitlog/x", nil) }, "store/commitlog/x"},
		{"segment in another's place", func(t *testing.T, dir string) {
			names := files(t, dir+"/store/commitlog")
			write(t, names[0], read(t, names[1]))
		}, "store/commitlog/" + zeros},
		{"queue in another's place", func(t *testing.T, dir string) {
			write(t, dir+queue, read(t, strings.Replace(dir+queue, "/1/", "/0/", 1)))
		}, "store/consumequeue/"},
		{"store of another replica", func(t *testing.T, dir string) { copyDir(t, dir+"/store", foreign.dir+"/store") }, "storage: the directory belongs to another"},
		{"raft log's segment of another replica", func(t *testing.T, dir string) {
			write(t, dir+"/raft/log/00000099.seg", read(t, first(t, foreign.dir+"/raft/log")))
		}, "raft/log/"},

		{"older copy of the raft log and its snapshots", func(t *testing.T, dir string) {
			copyDir(t, dir+"/raft/log", older.dir+"/raft/log")
			copyDir(t, dir+"/raft/snapshots", older.dir+"/raft/snapshots")
		}, "older copies"},
		{"older copy of the stable store", func(t *testing.T, dir string) {
			fresh := newReplicaIn(t, "n1", 1)
			fresh.close()
			write(t, dir+"/raft/stable.db", read(t, fresh.path("raft/stable.db")))
		}, "raft/stable.db is in term 1"},
		{"older copy of a queue", func(t *testing.T, dir string) {
			write(t, dir+queue, read(t, older.path(queue)))
		}, "store/consumequeue/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := clone(t, r.dir)
			test.do(t, dir)
			before := content(t, dir)
			report, err := Run(Config{Dirs: []string{dir}})
			if content(t, dir) != before {
				t.Error("files were changed")
			}
			if err != nil {
				t.Fatalf("not in the report: %v", err)
			}
			if report.OK() {
				t.Fatal("not found")
			}
			if p := problems(report); !slices.ContainsFunc(p, func(p string) bool { return strings.Contains(p, test.want) }) {
				t.Errorf("no problem tells of %s: %q", test.want, p)
			}
		})
	}
}

// One that is damaged is not compared, and the others are.
func TestDamagedReplicaAmongOthers(t *testing.T) {
	t.Parallel()
	var dirs []string
	for _, node := range []string{"n1", "n2", "n3"} {
		r := standard(t, node)
		r.close()
		dirs = append(dirs, r.dir)
	}
	flip(t, last(t, dirs[1]+"/raft/snapshots"), 500)
	g := run(t, dirs...).Groups[0]
	if g.Identical || g.Common != 100 || len(g.Problems) != 1 || !strings.Contains(g.Problems[0], dirs[1]+" is damaged") {
		t.Errorf("%+v", g)
	}
	if a, b := g.Replicas[0].Digest, g.Replicas[2].Digest; a == "" || a != b {
		t.Errorf("digests %q and %q", a, b)
	}
}

// A directory without its identity is not passed over.
func TestIdentityMissing(t *testing.T) {
	t.Parallel()
	r := standard(t, "n1")
	r.close()
	remove(t, r.path(raftgroup.IdentityFile))
	for _, dir := range []string{r.dir, filepath.Dir(r.dir)} {
		if _, err := Run(Config{Dirs: []string{dir}}); err == nil || !strings.Contains(err.Error(), raftgroup.IdentityFile) {
			t.Errorf("error %v", err)
		}
	}
}

// One bit flipped anywhere in a file of a replica that was stopped is found, but
// for places that hold nothing or that are there twice.
func TestFlipsAnywhere(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("RAFTMQ_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RAFTMQ_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := standard(t, "n1")
	end := r.store.End()
	r.close()
	err := filepath.WalkDir(r.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		whole := read(t, name)
		for range 3 {
			if len(whole) == 0 {
				break
			}
			off := rng.IntN(len(whole))
			b := slices.Clone(whole)
			b[off] ^= 1 << rng.IntN(8)
			short := strings.TrimPrefix(name, r.dir+"/")
			if harmless(short, whole, off, end, history(t, 100)[69].Data) {
				continue
			}
			write(t, name, b)
			report, err := Run(Config{Dirs: []string{r.dir}})
			if err == nil && report.OK() {
				t.Errorf("byte %d of %s, %#x, made %#x: not found", off, short, whole[off], b[off])
			}
		}
		write(t, name, whole)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if report := run(t, r.dir); !report.OK() {
		t.Errorf("the flips were not taken back: %q", problems(report))
	}
}

// harmless says whether a byte may change without being found: it is not looked
// at before it is written again, or another copy of it counts. kept is the first
// entry that the raft log still has.
func harmless(name string, whole []byte, off int, end int64, kept []byte) bool {
	switch dir := filepath.Dir(name); {
	case name == raftgroup.IdentityFile: // JSON, in which white space and order mean nothing
		return true
	case dir == "raft/log":
		// Entries that were deleted, and zeros between two and behind the last.
		return off < bytes.Index(whole, kept)-80 || whole[off] == 0
	case name == "raft/stable.db": // has pages in no use: see raftlog's tests
		return true
	case dir == "store/commitlog":
		base, err := strconv.ParseInt(filepath.Base(name), 10, 64)
		return err != nil || base > end // made ahead
	case dir == "store/commitlog-sums", strings.HasSuffix(name, ".sums"):
		return true // what lies behind the snapshot is made again
	}
	return false
}
