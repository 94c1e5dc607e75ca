package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
)

// files lists the rig's files below a directory of the store that hold something
// the snapshot covers.
func (r *rig) files(dir string, sums bool) (names []string) {
	for _, name := range r.fileNames(r.opts.Dir + "/" + dir) {
		if base, ok := parseOffsetName(path.Base(name)); ok && dir != queuesDir && base >= r.manifest().End {
			continue // made ahead
		}
		if strings.HasSuffix(name, sumsSuffix) == sums {
			names = append(names, name)
		}
	}
	return names
}

func pick(rng *rand.Rand, names []string) string { return names[rng.IntN(len(names))] }

func (r *rig) size(name string) int64 {
	info, err := r.fs.Stat("", name)
	r.must(err)
	return info.Size()
}

func (r *rig) flip(rng *rand.Rand, name string) {
	r.must(r.fs.FlipBit(name, rng.Int64N(r.size(name)), uint(rng.IntN(8))))
}

func (r *rig) truncate(name string, size int64) {
	f, err := r.fs.OpenFile("", name, os.O_RDWR)
	r.must(err)
	r.must(f.Truncate(size))
	r.must(f.Datasync())
	r.must(f.Close())
}

// overwrite makes b the content of a file.
func (r *rig) overwrite(name string, b []byte) {
	r.must(writeWhole(r.fs, "", name, b))
}

func (r *rig) content(name string) []byte {
	b, err := readWhole(r.fs, "", name)
	r.must(err)
	return b
}

// damages are the ways in which files go bad while nobody looks.
var damages = []struct {
	name string
	do   func(*rig, *rand.Rand)
}{
	{"flip segment", func(r *rig, rng *rand.Rand) { r.flip(rng, pick(rng, r.files(commitLogDir, false))) }},
	{"flip last block", func(r *rig, rng *rand.Rand) {
		end := r.manifest().End - 1
		r.must(r.fs.FlipBit(segmentPath(r.opts.Dir, end-end%r.m.size), end%r.m.size, uint(rng.IntN(8))))
	}},
	{"flip sums", func(r *rig, rng *rand.Rand) { r.flip(rng, pick(rng, r.files(sumsDir, false))) }},
	{"flip segment and sums", func(r *rig, rng *rand.Rand) {
		name := pick(rng, r.files(commitLogDir, false))
		r.flip(rng, name)
		r.flip(rng, strings.Replace(name, commitLogDir, sumsDir, 1))
	}},
	{"flip queue", func(r *rig, rng *rand.Rand) { r.flip(rng, pick(rng, r.files(queuesDir, false))) }},
	{"flip queue sums", func(r *rig, rng *rand.Rand) { r.flip(rng, pick(rng, r.files(queuesDir, true))) }},
	{"flip index", func(r *rig, rng *rand.Rand) { r.flip(rng, pick(rng, r.fileNames(r.opts.Dir+"/"+indexDir))) }},
	{"flip both checkpoints", func(r *rig, rng *rand.Rand) {
		r.flip(rng, r.opts.Dir+"/checkpoint.0")
		r.flip(rng, r.opts.Dir+"/checkpoint.1")
	}},
	{"flip newest checkpoint", func(r *rig, rng *rand.Rand) { r.flip(rng, checkpointPath(r.opts.Dir, r.s.checkpoint.seq)) }},
	{"truncate segment", func(r *rig, rng *rand.Rand) {
		r.truncate(pick(rng, r.files(commitLogDir, false)), rng.Int64N(r.m.size))
	}},
	{"truncate sums", func(r *rig, rng *rand.Rand) {
		name := pick(rng, r.files(sumsDir, false))
		r.truncate(name, rng.Int64N(r.size(name)))
	}},
	{"truncate queue", func(r *rig, rng *rand.Rand) {
		name := pick(rng, r.files(queuesDir, false))
		r.truncate(name, rng.Int64N(r.size(name)))
	}},
	{"truncate checkpoints", func(r *rig, rng *rand.Rand) {
		r.truncate(r.opts.Dir+"/checkpoint.0", 20)
		r.truncate(r.opts.Dir+"/checkpoint.1", 0)
	}},
	{"remove segment", func(r *rig, rng *rand.Rand) { r.must(r.fs.Remove("", pick(rng, r.files(commitLogDir, false)))) }},
	{"remove sums", func(r *rig, rng *rand.Rand) { r.must(r.fs.Remove("", pick(rng, r.files(sumsDir, false)))) }},
	{"remove queue file", func(r *rig, rng *rand.Rand) { r.must(r.fs.Remove("", pick(rng, r.files(queuesDir, false)))) }},
	{"remove queue sums", func(r *rig, rng *rand.Rand) { r.must(r.fs.Remove("", pick(rng, r.files(queuesDir, true)))) }},
	{"remove all queues", func(r *rig, rng *rand.Rand) { r.must(r.fs.RemoveAll("", r.opts.Dir+"/"+queuesDir)) }},
	{"remove index", func(r *rig, rng *rand.Rand) { r.must(r.fs.RemoveAll("", r.opts.Dir+"/"+indexDir)) }},
	{"remove checkpoints", func(r *rig, rng *rand.Rand) {
		r.must(r.fs.Remove("", r.opts.Dir+"/checkpoint.0"))
		r.must(r.fs.Remove("", r.opts.Dir+"/checkpoint.1"))
	}},
	{"older checkpoint", func(r *rig, rng *rand.Rand) {
		newest := checkpointPath(r.opts.Dir, r.s.checkpoint.seq)
		r.must(r.fs.Remove("", newest))
	}},
	{"foreign segment", func(r *rig, rng *rand.Rand) {
		names := r.files(commitLogDir, false)
		r.overwrite(pick(rng, names), r.content(pick(rng, names)))
	}},
	{"foreign segment with its sums", func(r *rig, rng *rand.Rand) {
		names := r.files(commitLogDir, false)
		to, from := pick(rng, names), pick(rng, names)
		r.overwrite(to, r.content(from))
		r.overwrite(strings.Replace(to, commitLogDir, sumsDir, 1), r.content(strings.Replace(from, commitLogDir, sumsDir, 1)))
	}},
	{"foreign queue with its sums", func(r *rig, rng *rand.Rand) {
		names := r.files(queuesDir, true)
		to := pick(rng, names)
		for _, from := range r.files(queuesDir, true) {
			if from != to {
				r.overwrite(to, r.content(from))
				r.overwrite(strings.TrimSuffix(to, sumsSuffix), r.content(strings.TrimSuffix(from, sumsSuffix)))
			}
		}
	}},
	{"older segment", func(r *rig, rng *rand.Rand) {
		name := pick(rng, r.files(commitLogDir, false))
		b := r.content(name)
		clear(b[rng.IntN(len(b)):])
		r.overwrite(name, b)
	}},
	{"older queue", func(r *rig, rng *rand.Rand) {
		name := pick(rng, r.files(queuesDir, false))
		b := r.content(name)
		r.overwrite(name, b[:rng.IntN(len(b)/UnitSize)*UnitSize])
	}},
}

// Damage of every kind, found while the store is in use or at the next start, is
// never served, and is repaired: from what is here, or from a peer.
func TestSTORE03Damage(t *testing.T) {
	rounds := 2
	if os.Getenv("RAFTMQ_LONG") != "" {
		rounds = 50
	}
	first := seed(t)
	for i, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(first, uint64(i)))
			for range rounds {
				damageRound(t, rng, d.name, d.do, rng.IntN(2) == 0)
			}
		})
	}
}

func damageRound(t *testing.T, rng *rand.Rand, name string, do func(*rig, *rand.Rand), restart bool) {
	r := filledRig(t, rng)
	big := QueueID{"big", 8, 0}
	for range 3 { // a second queue with block sums
		r.do(r.m.append(slices.Repeat([]message{{id: big, body: []byte("y"), key: "y"}}, 100)...))
	}
	r.snap()
	if rng.IntN(2) == 0 {
		r.do(r.m.trim(r.m.size + rng.Int64N(3*r.m.size)))
		r.snap()
	}
	r.do(r.m.append(r.randomBatch(rng, 1)...))
	peer := newRig(t, testOptions(nil))
	peer.m = r.m
	peer.replay()
	do(r, rng)
	if restart || strings.Contains(name, "index") { // the index misses a file when it is opened
		r.kill()
	}
	heal := func() {
		r.await(func() bool {
			for fetch(t, rng, r.s, peer.s) {
			}
			return r.s.Complete()
		})
	}
	r.neverWrong()
	if errors.Is(r.s.Err(), ErrPoisoned) && name == "remove segment" { // of the one that was written
		r.kill()
	}
	for i := range 3 { // the first round finds the damage, maybe with more behind it
		r.neverWrong()
		if i == 0 { // a damaged block that is not whole can be fetched when it is
			r.do(r.m.append(message{id: big, body: make([]byte, 2*blockSize)}))
			peer.replay()
			r.neverWrong()
		}
		r.search()
		heal()
	}
	r.check()
	if err := r.search(); err != nil {
		t.Errorf("search: %v", err)
	}
	r.snap()
	r.crash(rng.Uint64())
	r.neverWrong() // what was in memory may have hidden damage until now
	heal()
	r.check()
	r.close()
	v := r.verify()
	v.List = slices.DeleteFunc(v.List, func(p Problem) bool { // pages that no search has read
		return name == "flip index" && strings.HasPrefix(p.File, indexDir)
	})
	if len(v.List) > 0 || v.MissingBytes+v.MissingUnits > 0 {
		t.Errorf("problems after the repair: %+v", v.Problems)
	}
}

// search looks up keys of the model's messages, and has nothing wrong, and with
// no error everything.
func (r *rig) search() error {
	r.t.Helper()
	want := map[IndexKey][]int64{}
	for _, o := range r.m.ops {
		for _, k := range o.keys {
			k.Time = 0
			phys := k.Phys
			k.Phys = 0
			if phys >= r.m.min {
				want[k] = append(want[k], phys)
			}
		}
	}
	var first error
	for k, phys := range want {
		got, err := r.s.Search(context.Background(), k.Topic, k.Key, 0, 1<<60, IndexMaxResults)
		if err != nil {
			first = err
		}
		newest := phys[max(0, len(phys)-IndexMaxResults):]
		for _, p := range got {
			if !slices.Contains(phys, p) {
				r.t.Fatalf("search for %v found %d", k, p)
			}
		}
		if err == nil && !slices.Equal(got, newest) {
			r.t.Fatalf("search for %v found %v, expected %v", k, got, newest)
		}
	}
	return first
}

// What is refused: the message says what is wrong.
func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(r *rig, o *Options)
		want error
		text string
	}{
		{"locked", func(r *rig, o *Options) { r.open() }, disk.ErrLocked, "in use"},
		{"cluster", func(r *rig, o *Options) { o.Cluster = "other" }, ErrForeign, `asked for is cluster "other"`},
		{"replica", func(r *rig, o *Options) { o.Replica = "r9" }, ErrForeign, `replica "r"`},
		{"segment size", func(r *rig, o *Options) { o.SegmentSize *= 2 }, ErrForeign, "segments of 65536"},
		{"format lost", func(r *rig, o *Options) { r.must(r.fs.Remove("", o.Dir+"/format")) }, ErrForeign, "no format file"},
		{"format flipped", func(r *rig, o *Options) { r.must(r.fs.FlipBit(o.Dir+"/format", 20, 1)) }, ErrCorrupt, "format"},
		{"format empty", func(r *rig, o *Options) { r.truncate(o.Dir+"/format", 0) }, ErrCorrupt, "format"},
		{"format of a later release", func(r *rig, o *Options) {
			b := strings.Replace(string(r.content(o.Dir+"/format")), "storage 1", "storage 2", 1)
			b = b[:strings.Index(b, "crc32c")]
			r.overwrite(o.Dir+"/format", fmt.Appendf([]byte(b), "crc32c %08x\n", digestOf([]byte(b))))
		}, ErrVersion, "this one reads 1"},
		{"no UnitOf", func(r *rig, o *Options) { o.UnitOf = nil }, nil, "UnitOf"},
		{"odd segment size", func(r *rig, o *Options) { o.SegmentSize = 5000 }, nil, "multiple of 4096"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, testOptions(nil))
			r.do(r.m.append(message{id: QueueID{"t", 1, 0}, body: []byte("x")}))
			r.snap()
			r.close()
			o := r.opts
			c.do(r, &o)
			s, err := Open(o)
			if err == nil {
				t.Fatal("opened", s.Close())
			}
			if c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, expected %v with %q", err, c.want, c.text)
			}
		})
	}
}

// What is found damaged by who holds a segment that is trimmed meanwhile is not
// missed by anybody.
func TestDamageBelowATrim(t *testing.T) {
	r := filledRig(t, rand.New(rand.NewPCG(seed(t), 5)))
	r.snap()
	st := r.s.state.Load()
	g := st.segs[0]
	if len(st.segs) < 2 || !g.acquire() {
		t.Fatalf("of %d segments the first is gone", len(st.segs))
	}
	r.must(r.s.Trim(g.end()))
	if err := r.s.blocksDamaged(st, g, g.base, g.base+blockSize, ErrCorrupt); !errors.Is(err, ErrMissing) {
		t.Errorf("the reader is told %v", err)
	}
	g.release()
	if missing := r.s.Missing(); !r.s.Complete() || len(missing) > 0 || r.s.Stats().BadBytes != 0 {
		t.Errorf("complete %v, missing %v, %d bytes damaged", r.s.Complete(), missing, r.s.Stats().BadBytes)
	}
	// What spans the log's begin is missing from there on.
	r.s.blocksDamaged(st, g, g.end()-blockSize, g.end()+blockSize, ErrCorrupt)
	if got := r.s.gaps.listed(); len(got) != 1 || got[0] != (span{g.end(), g.end() + blockSize}) {
		t.Errorf("listed are %v", got)
	}
}
