package verify

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage/disk"
)

func TestIntactReplicasAreIdentical(t *testing.T) {
	t.Parallel()
	a, b := standard(t, "n1"), standard(t, "n2")
	// One that lags, has another snapshot and an older term.
	h := history(t, 104)
	c := newReplica(t, "n3")
	c.feed(100, h[:60]...)
	c.snapshot()
	c.feed(100, h[60:90]...)
	// One whose last entries are not committed, as far as it knows.
	b.feed(100, h[100:]...)
	killed := clone(t, a.dir)
	for _, r := range []*testReplica{a, b, c} {
		r.close()
	}
	for _, test := range []struct {
		name   string
		dirs   []string
		common uint64
	}{
		{"equal", []string{a.dir, b.dir}, 100},
		{"one lags", []string{a.dir, b.dir, c.dir}, 90},
		{"node directories", []string{filepath.Dir(a.dir), filepath.Dir(c.dir)}, 90},
		{"one was killed", []string{killed, b.dir}, 0},
		{"alone", []string{a.dir}, 100},
	} {
		before := ""
		for _, d := range test.dirs {
			before += content(t, d)
		}
		report := run(t, test.dirs...)
		if p := problems(report); len(p) > 0 || !report.OK() {
			t.Errorf("%s: problems %q", test.name, p)
			continue
		}
		after := ""
		for _, d := range test.dirs {
			after += content(t, d)
		}
		if before != after {
			t.Errorf("%s: files were changed", test.name)
		}
		g := report.Groups[0]
		if len(report.Groups) != 1 || g.Name != "broker-a" || len(g.Replicas) != len(test.dirs) || g.Identical != (len(test.dirs) > 1) {
			t.Errorf("%s: %+v", test.name, report)
		}
		if test.common == 0 { // units that were in memory only are missing, so its end is somewhere behind the snapshot
			if g.Common < 80 {
				t.Errorf("%s: common index %d, the snapshot is at 80", test.name, g.Common)
			}
		} else if g.Common != test.common {
			t.Errorf("%s: common index %d, want %d", test.name, g.Common, test.common)
		}
		for _, r := range g.Replicas {
			if r.Digest == "" || r.Digest != g.Replicas[0].Digest || r.Messages == 0 || r.LogBytes < testSegment || r.Applied < g.Common {
				t.Errorf("%s: %+v", test.name, r)
			}
			if want := map[string]uint64{a.dir: 100, c.dir: 90}[r.Dir]; want > 0 && r.Applied != want { // its own, whatever it is compared with
				t.Errorf("%s: %s has applied %d, want %d", test.name, r.Dir, r.Applied, want)
			}
		}
	}
}

// A snapshot behind another's end leaves no entry at which both states are known.
func TestSnapshotBehindTheOthersEnd(t *testing.T) {
	t.Parallel()
	a, b := standard(t, "n1"), newReplica(t, "n2")
	b.feed(50, history(t, 50)...)
	a.close()
	b.close()
	report := run(t, a.dir, b.dir)
	if g := report.Groups[0]; report.OK() || g.Identical || len(g.Problems) != 1 || !strings.Contains(g.Problems[0], "let them catch up") {
		t.Errorf("%+v", report)
	}
}

// Replicas that are each in order, and differ.
func TestReplicasThatDiffer(t *testing.T) {
	t.Parallel()
	a := standard(t, "n1")
	a.close()
	// Another body of one record, as long as the first.
	record := newReplica(t, "n2")
	h := history(t, 100)
	h[96].Data[len(h[96].Data)-60] ^= 1
	record.feed(100, h...)
	record.close()
	// Another committed offset.
	meta := newReplica(t, "n3")
	h = history(t, 100)
	h[99].Data = fsm.CommitOffsets([]fsm.Offset{{Group: "g", Topic: "T", Queue: 0, Offset: 4}})
	fsm.Stamp(h[99].Data, 1_700_000_000_100)
	meta.feed(100, h...)
	meta.close()
	// One message less.
	less := newReplica(t, "n4")
	h = history(t, 100)
	h[96].Data = message(t, 1, "one")
	fsm.Stamp(h[96].Data, 1_700_000_000_097)
	less.feed(100, h...)
	less.close()
	for _, test := range []struct {
		dir  string
		want []string
	}{
		{record.dir, []string{"CommitLogs"}},
		{meta.dir, []string{"metadata"}},
		{less.dir, []string{"metadata", "CommitLog"}},
	} {
		report := run(t, a.dir, test.dir)
		g := report.Groups[0]
		if report.OK() || g.Identical || g.Common != 100 || len(g.Problems) != len(test.want) {
			t.Errorf("want %q: %+v", test.want, report)
			continue
		}
		for i, want := range test.want {
			if !strings.Contains(g.Problems[i], want) {
				t.Errorf("problem %q, want one about %s", g.Problems[i], want)
			}
		}
		for _, r := range g.Replicas {
			if len(r.Problems) > 0 {
				t.Errorf("%s alone: %q", r.Dir, r.Problems)
			}
		}
	}
	// Queues differ in what is behind the snapshot: found in the replica, whose
	// log says otherwise, and between the two.
	queue := clone(t, a.dir)
	flip(t, filepath.Join(queue, "store/consumequeue/T@1/0", zeros), -10)
	report := run(t, a.dir, queue)
	if p := report.Groups[0].Problems; len(p) != 1 || !strings.Contains(p[0], "queue T@1/0") {
		t.Errorf("queues that differ: %q", p)
	}
	if p := report.Groups[0].Replicas[1].Problems; len(p) != 1 || !strings.Contains(p[0], "consumequeue") {
		t.Errorf("a queue that differs from its log: %q", p)
	}
}

func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	r := standard(t, "n1")
	if _, err := Run(Config{Dirs: []string{r.dir}}); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("error %v", err)
	}
	r.close()
	if _, err := Run(Config{Dirs: []string{t.TempDir()}}); err == nil {
		t.Error("an empty directory was verified")
	}
}

// A crash between the installation of a snapshot and the removal of the log that
// it stands for: the log counts for nothing, and what the store has yet to fetch
// is said.
func TestSnapshotNewerThanTheLog(t *testing.T) {
	t.Parallel()
	leader := standard(t, "n1") // snapshot at 80
	leader.close()
	short, dead := newReplica(t, "n2"), newReplica(t, "n3")
	short.feed(50, history(t, 50)...)
	// Entries 75 and on are another leader's, which were never committed.
	h := history(t, 90)
	for _, l := range h[74:] {
		l.Data = message(t, 0, "never committed")
		fsm.Stamp(l.Data, 1_700_000_000_000)
	}
	for _, l := range h {
		l.Term = 1
	}
	dead.feed(74, h...)
	for _, r := range []*testReplica{short, dead} {
		r.close()
		copyDir(t, r.path("raft/snapshots"), leader.path("raft/snapshots"))
		report := run(t, r.dir)
		got := report.Groups[0].Replicas[0]
		if got.Snapshot != 79 && got.Snapshot != 80 || got.Applied != 80 || got.Last != 80 {
			t.Errorf("%+v", got)
		}
		if p := problems(report); len(p) == 0 || !strings.Contains(p[0], "checkpoint") {
			t.Errorf("problems %q", p)
		}
	}
}
