package storage

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
)

// filledRig is a store with several segments and queues of several blocks, synced
// and then written to a little more.
func filledRig(t testing.TB, rng *rand.Rand) *rig {
	r := newRig(t, testOptions(nil))
	for range 20 {
		r.do(r.m.append(r.randomBatch(rng, 1)...))
	}
	big := QueueID{"big", 7, 3}
	for range 10 {
		var msgs []message
		for range 100 {
			msgs = append(msgs, message{id: big, body: []byte("x"), key: "k"})
		}
		r.do(r.m.append(msgs...))
	}
	r.snap()
	r.do(r.m.append(r.randomBatch(rng, 1)...))
	return r
}

func (r *rig) verify() *VerifyReport {
	r.t.Helper()
	v, err := Verify(VerifyOptions{FS: r.fs, Dir: r.opts.Dir, UnitOf: testUnitOf, KeysOf: testKeysOf})
	r.must(err)
	return v
}

func TestVerify(t *testing.T) {
	t.Parallel()
	r := filledRig(t, rand.New(rand.NewPCG(seed(t), 0)))
	if _, err := Verify(VerifyOptions{FS: r.fs, Dir: r.opts.Dir, UnitOf: testUnitOf}); !errors.Is(err, disk.ErrLocked) {
		t.Fatalf("verify of a store in use: %v", err)
	}
	r.close()
	v := r.verify()
	if v.Found != 0 {
		t.Fatalf("problems in a good store: %v", v.List)
	}
	var units int64
	for _, q := range v.Manifest.Queues {
		units += q.Max
	}
	if v.Records == 0 || v.Units != units || v.Blocks != (v.Manifest.End+blockSize-1)/blockSize ||
		v.QueueBlocks < 8 || v.IndexKeys == 0 || v.IndexFiles == 0 || v.Queues != int64(len(v.Manifest.Queues)) {
		t.Errorf("not everything was looked at: %+v", v)
	}
}

// Files that lack, and files that are not the store's, are found.
func TestVerifyFiles(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(seed(t), 0))
	r := filledRig(t, rng)
	r.close()
	whole := r.fs
	for _, name := range []string{
		pick(rng, r.files(commitLogDir, false)), r.files(sumsDir, false)[0], pick(rng, r.files(queuesDir, false)),
		queueFilePath(r.opts.Dir, QueueID{"big", 7, 3}, 0) + sumsSuffix, r.fileNames(r.opts.Dir + "/" + indexDir)[0],
	} {
		r.fs = whole.Clone()
		r.must(r.fs.Remove("", name))
		if v := r.verify(); v.Found == 0 {
			t.Errorf("that %s lacks was not found", name)
		}
	}
	for _, name := range []string{"x", "commitlog/1", "commitlog-sums/00000000000000000001", "consumequeue/x"} {
		r.fs = whole.Clone()
		r.overwrite(r.opts.Dir+"/"+name, nil)
		if v := r.verify(); v.Found != 1 || v.List[0].File != name {
			t.Errorf("%s was not found: %v", name, v.List)
		}
	}
	r.fs = whole
}

// One bit flipped anywhere is found: below the manifest by Verify, behind it by
// a replay into a Comparer. What neither looks at is written again before it is
// read: the CommitLog behind its end, and sums of what lies behind the manifest.
func TestVerifyFindsEveryFlip(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(seed(t), 0))
	r := filledRig(t, rng)
	m, behind := r.manifest(), r.snapshotAt
	for range 3 { // both checkpoints, and the younger one is not the snapshot's
		r.do(r.m.append(r.randomBatch(rng, 1)...))
		r.do(r.m.append(message{id: QueueID{"new", 1, 0}, body: []byte("y")}))
	}
	r.close()
	type fileSize struct{ checked, replayed int64 } // bytes that Verify covers, and the replay
	files := map[string]fileSize{}
	for _, name := range r.fileNames(r.opts.Dir) {
		short := strings.TrimPrefix(name, r.opts.Dir+"/")
		size := r.size(name)
		f := fileSize{size, size}
		path := strings.Split(short, "/")
		base, _ := parseOffsetName(strings.TrimSuffix(path[len(path)-1], sumsSuffix))
		switch path[0] {
		case lockFile:
			continue
		case commitLogDir:
			f = fileSize{min(size, m.End-base), min(size, int64(len(r.m.log))-base)}
		case sumsDir:
			f.checked = min(r.m.size, m.End-base) / blockSize * sumSize
			f.replayed = f.checked
		case queuesDir:
			f.checked = 0 // of a queue that the manifest does not have
			for _, q := range m.Queues {
				if queuePath("", q.QueueID) == "/"+strings.Join(path[:3], "/") {
					f.checked = q.Max * UnitSize
				}
			}
			if strings.HasSuffix(short, sumsSuffix) {
				f.checked = f.checked / UnitSize / unitsPerBlock * sumSize
				f.replayed = f.checked
			}
		}
		files[name] = fileSize{max(0, f.checked), max(0, f.replayed)}
	}
	kinds := map[string]int{}
	find := func(name string, off int64, verified bool) {
		bit := uint(rng.IntN(8))
		if r.content(name)[off]^1<<bit == 0 && !verified {
			return // what reads as zeros may not have been written
		}
		r.must(r.fs.FlipBit(name, off, bit))
		defer func() { r.must(r.fs.FlipBit(name, off, bit)) }()
		found := func() bool {
			if !verified {
				c := r.replayInto(r.fs, m, behind)
				return c.Differences.Found > 0
			}
			v, err := Verify(VerifyOptions{FS: r.fs, Dir: r.opts.Dir, UnitOf: testUnitOf, KeysOf: testKeysOf, Manifest: m})
			return err != nil || v.Found > 0
		}
		if !found() {
			t.Errorf("a flip of bit %d at %d of %s was not found", bit, off, name)
		}
	}
	names := slices.Sorted(maps.Keys(files))
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		f := files[name]
		kind := strings.Split(strings.TrimPrefix(name, r.opts.Dir+"/"), "/")[0]
		if strings.HasSuffix(name, sumsSuffix) {
			kind += sumsSuffix
		}
		for range 2 {
			if f.checked > 0 && kinds[kind] < 8 {
				kinds[kind]++
				find(name, rng.Int64N(f.checked), true)
			}
			if behind := kind + " replayed"; f.replayed > f.checked && kinds[behind] < 8 {
				kinds[behind]++
				find(name, f.checked+rng.Int64N(f.replayed-f.checked), false)
			}
		}
	}
	for _, kind := range []string{
		formatFile, "checkpoint.1", commitLogDir, sumsDir, queuesDir, queuesDir + sumsSuffix, indexDir,
		commitLogDir + " replayed", queuesDir + " replayed",
	} {
		if kinds[kind] == 0 {
			t.Errorf("nothing was flipped in %s: %v", kind, kinds)
		}
	}
	if v := r.verify(); v.Found != 0 {
		t.Fatalf("the flips were not taken back: %v", v.List)
	}
}

// fileNames lists all files below a directory.
func (r *rig) fileNames(dir string) (names []string) {
	entries, err := r.fs.ReadDir("", dir)
	r.must(err)
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, r.fileNames(dir+"/"+e.Name())...)
		} else {
			names = append(names, dir+"/"+e.Name())
		}
	}
	return names
}

// replayInto compares the files of a closed store with the ops from at on, which
// come after a manifest.
func (r *rig) replayInto(fs *disk.Mem, m *Manifest, at int) *Comparer {
	r.t.Helper()
	c, err := OpenComparer(fs, r.opts.Dir, m)
	r.must(err)
	for _, o := range r.m.ops[at:] {
		switch {
		case o.drop != TopicID{}:
			err = c.DropTopic(o.drop.Topic, o.drop.Incarnation)
		case o.trim > 0:
			err = c.Trim(o.trim)
		default:
			b := Batch{Pos: o.pos, Log: o.log}
			for _, u := range o.units {
				q, err := c.CreateQueue(u.id)
				r.must(err)
				b.Units = append(b.Units, QueueUnit{q, u.off, u.u})
			}
			err = c.Write(&b)
		}
		r.must(err)
	}
	r.must(c.Close())
	return c
}

// What Verify cannot know, a replay into a Comparer can: the bytes behind the
// last sync.
func TestComparer(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(seed(t), 0))
	r := filledRig(t, rng)
	from := r.manifest()
	at := r.snapshotAt
	r.do(r.m.trim(r.m.size * 2))
	r.do(r.m.drop(TopicID{"t1", 1}))
	for range 5 {
		r.do(r.m.append(r.randomBatch(rng, 2)...))
	}
	killed := r.fs.Clone()
	r.close()

	for _, start := range []struct {
		m  *Manifest
		at int
	}{{from, at}, {nil, 0}} {
		c := r.replayInto(r.fs, start.m, start.at)
		if c.Differences.Found+c.Absent+c.AbsentLog != 0 || c.LogBytes == 0 || c.Units == 0 {
			t.Errorf("after a clean stop: %+v", c)
		}
		if lo, end := c.Log(); lo != r.m.min || end != int64(len(r.m.log)) {
			t.Errorf("log [%d, %d), expected [%d, %d)", lo, end, r.m.min, len(r.m.log))
		}
		c = r.replayInto(killed, start.m, start.at)
		if c.Differences.Found+c.AbsentLog != 0 || c.Absent == 0 {
			t.Errorf("after a kill: %+v", c)
		}
		queues := c.Queues()
		for id, units := range r.m.queues {
			if queues[id] != int64(len(units)) {
				t.Errorf("queue %s has %d units, expected %d", id, queues[id], len(units))
			}
		}
	}
	last := int64(len(r.m.log)) - 1
	r.must(r.fs.FlipBit(segmentPath(r.opts.Dir, last-last%r.m.size), last%r.m.size, 3))
	if c := r.replayInto(r.fs, from, at); c.Differences.Found != 1 || c.Differences.List[0].Offset != last%r.m.size {
		t.Errorf("a flipped bit in the CommitLog: %+v", c.Differences)
	}
	id := QueueID{"t0", 1, 0}
	n := int64(len(r.m.queues[id]))
	r.must(r.fs.FlipBit(queueFilePath(r.opts.Dir, id, 0), n*UnitSize-1, 0))
	if c := r.replayInto(r.fs, from, at); c.Differences.Found != 2 {
		t.Errorf("a flipped bit in the queue: %+v", c.Differences)
	}
}

// What was not written back is told from what is damaged, and so is what was
// written that nothing accounts for.
func TestCompareWritten(t *testing.T) {
	const off = 3*sectorSize - 100
	want := make([]byte, 2*sectorSize)
	for i := range want {
		want[i] = byte(i%251 + 1)
	}
	for _, test := range []struct {
		name       string
		do         func(b []byte)
		absent, at int64
	}{
		{"equal", func([]byte) {}, 0, -1},
		{"nothing written", func(b []byte) { clear(b) }, 2 * sectorSize, -1},
		{"end not written", func(b []byte) { clear(b[100:]) }, 2*sectorSize - 100, -1},
		{"a sector not written", func(b []byte) { clear(b[100 : 100+sectorSize]) }, sectorSize, -1},
		{"part of a sector gone", func(b []byte) { clear(b[101 : 100+sectorSize]) }, 0, 101},
		{"changed behind what was not written", func(b []byte) { clear(b[:100]); b[700]++ }, 100, 700},
	} {
		have := slices.Clone(want)
		test.do(have)
		if absent, at := compareWritten(have, want, off); absent != test.absent || at != test.at {
			t.Errorf("%s: absent %d, differs at %d; expected %d and %d", test.name, absent, at, test.absent, test.at)
		}
	}
}

// A store that goes on behind its raft log's end is told.
func TestComparerBehind(t *testing.T) {
	r := newRig(t, testOptions(nil))
	for range 3 {
		r.do(r.m.append(message{id: QueueID{"t", 1, 0}, body: make([]byte, 500)}))
	}
	r.close()
	for n, want := range map[int]bool{3: false, 2: true, 0: true} {
		c, err := OpenComparer(r.fs, r.opts.Dir, nil)
		r.must(err)
		for _, o := range r.m.ops[:n] {
			q, err := c.CreateQueue(o.units[0].id)
			r.must(err)
			r.must(c.Write(&Batch{Pos: o.pos, Log: o.log, Units: []QueueUnit{{q, o.units[0].off, o.units[0].u}}}))
		}
		_, end := c.Log()
		if pos, ok, err := c.Behind(); err != nil || ok != want || ok && (pos < end || pos > end+4) {
			t.Errorf("%d of 3 replayed: something behind %d: %v at %d, %v", n, end, ok, pos, err)
		}
		r.must(c.Close())
	}
}
