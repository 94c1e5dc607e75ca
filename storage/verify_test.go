package storage

import (
	"errors"
	"math/rand/v2"
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

// One bit flipped anywhere in any file below the manifest is found.
func TestVerifyFindsEveryFlip(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	r := filledRig(t, rng)
	end := r.manifest().End
	r.close()
	files := map[string]int64{} // and how many of their bytes matter
	for _, name := range r.fileNames("/d/store") {
		info, err := r.fs.Stat("", name)
		r.must(err)
		files[name] = info.Size()
		short := strings.TrimPrefix(name, "/d/store/")
		switch base, ok := parseOffsetName(short[strings.LastIndex(short, "/")+1:]); {
		case short == lockFile, strings.HasPrefix(short, "checkpoint"):
			delete(files, name) // a damaged one is passed over for the other
		case ok && strings.HasPrefix(short, commitLogDir+"/"):
			files[name] = min(r.m.size, end-base)
		case ok && strings.HasPrefix(short, sumsDir+"/"):
			files[name] = min(r.m.size, end-base) / blockSize * sumSize
		case ok:
			id := strings.Split(short, "/")
			topic, _ := parseTopicDir(id[1])
			for _, q := range r.manifest().Queues {
				if q.topic() == topic && queuePath("", q.QueueID) == "/"+strings.Join(id[:3], "/") {
					files[name] = q.Max * UnitSize
				}
			}
		}
	}
	kinds := map[string]int{}
	for name, size := range files {
		kind := strings.Split(strings.TrimPrefix(name, "/d/store/"), "/")[0]
		for range 2 {
			if size <= 0 || kinds[kind] >= 8 {
				break
			}
			kinds[kind]++
			off, bit := rng.Int64N(size), uint(rng.IntN(8))
			r.must(r.fs.FlipBit(name, off, bit))
			v, err := Verify(VerifyOptions{FS: r.fs, Dir: r.opts.Dir, UnitOf: testUnitOf, KeysOf: testKeysOf})
			if err == nil && v.Found == 0 {
				t.Errorf("a flip of bit %d at %d of %s was not found", bit, off, name)
			}
			r.must(r.fs.FlipBit(name, off, bit))
		}
	}
	for _, kind := range []string{"format", commitLogDir, sumsDir, queuesDir, indexDir} {
		if kinds[kind] == 0 {
			t.Errorf("nothing was flipped in %s", kind)
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

// What Verify cannot know, a replay into a Comparer can: the bytes behind the
// last sync.
func TestComparer(t *testing.T) {
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

	compare := func(fs *disk.Mem, m *Manifest, at int) *Comparer {
		t.Helper()
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
	for _, start := range []struct {
		m  *Manifest
		at int
	}{{from, at}, {nil, 0}} {
		c := compare(r.fs, start.m, start.at)
		if c.Differences.Found+c.Absent+c.AbsentLog != 0 || c.LogBytes == 0 || c.Units == 0 {
			t.Errorf("after a clean stop: %+v", c)
		}
		if lo, end := c.Log(); lo != r.m.min || end != int64(len(r.m.log)) {
			t.Errorf("log [%d, %d), expected [%d, %d)", lo, end, r.m.min, len(r.m.log))
		}
		c = compare(killed, start.m, start.at)
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
	if c := compare(r.fs, from, at); c.Differences.Found != 1 || c.Differences.List[0].Offset != last%r.m.size {
		t.Errorf("a flipped bit in the CommitLog: %+v", c.Differences)
	}
	id := QueueID{"t0", 1, 0}
	n := int64(len(r.m.queues[id]))
	r.must(r.fs.FlipBit(queueFilePath(r.opts.Dir, id, 0), n*UnitSize-1, 0))
	if c := compare(r.fs, from, at); c.Differences.Found != 2 {
		t.Errorf("a flipped bit in the queue: %+v", c.Differences)
	}
}
