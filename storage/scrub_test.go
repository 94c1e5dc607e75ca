package storage

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
)

func unpaced(int) error { return nil }

// scrub runs a pass and repairs what it found, from a peer if need be.
func (r *rig) scrub(rng *rand.Rand, peer *Store) {
	r.t.Helper()
	r.must(r.s.Scrub(unpaced))
	r.await(func() bool {
		for fetch(r.t.(*testing.T), rng, r.s, peer) {
		}
		return r.s.Complete()
	})
}

// found counts all damage that a store has found since it was opened.
func found(v Stats) int64 {
	return v.BadBlocks + v.BadQueueBlocks + v.BadSums + v.BadCheckpoints + int64(v.Index.Damaged)
}

// Rows 21 and 22 of a store that is in use: a pass finds damage of every kind
// that nobody has met, nothing wrong is read, and all of it comes back, so that
// the next pass finds nothing and the files are as they must be.
func TestScrub(t *testing.T) {
	rounds := 1
	if os.Getenv("RAFTMQ_LONG") != "" {
		rounds = 60
	}
	first := seed(t)
	for i, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(first, uint64(i)))
			for range rounds {
				scrubRound(t, rng, d.name, d.do)
			}
		})
	}
}

func scrubRound(t *testing.T, rng *rand.Rand, name string, do func(*rig, *rand.Rand)) {
	r := filledRig(t, rng)
	big := QueueID{"big", 8, 0}
	for range 3 { // a second queue with block sums
		r.do(r.m.append(slices.Repeat([]message{{id: big, body: []byte("y"), key: "y"}}, 100)...))
	}
	r.snap()
	if rng.IntN(2) == 0 {
		r.do(r.m.append(r.randomBatch(rng, 1)...)) // behind the snapshot
	}
	peer := newRig(t, testOptions(nil))
	peer.m = r.m
	peer.replay()
	r.must(r.s.Scrub(unpaced))
	if v := r.s.Stats(); found(v) != 0 {
		t.Fatalf("damage was found where there is none: %+v", v)
	}
	do(r, rng)
	err := r.s.Scrub(unpaced)
	if errors.Is(r.s.Err(), ErrPoisoned) && name == "remove segment" { // of the one that was written
		r.kill()
	} else if err != nil {
		t.Fatal(err)
	}
	r.neverWrong()
	// A damaged block that is not whole can be fetched when it is.
	r.do(r.m.append(message{id: big, body: make([]byte, 2*blockSize)}))
	peer.replay()
	r.scrub(rng, peer.s)
	r.snap() // block sums that were damaged on the disk only
	before := r.s.Stats()
	r.scrub(rng, peer.s)
	if v := r.s.Stats(); found(v) != found(before) {
		t.Errorf("a second pass finds more: %+v, after %+v", v, before)
	}
	if v := r.s.Stats(); v.MendedBytes != v.BadBytes || v.MendedQueueBlocks != v.BadQueueBlocks || v.MendedSums != v.BadSums {
		t.Errorf("not all was mended: %+v", v)
	}
	r.check()
	if err := r.search(); err != nil {
		t.Errorf("search: %v", err)
	}
	r.snap()
	r.close()
	if v := r.verify(); v.Found+v.MissingBytes+v.MissingUnits > 0 {
		t.Errorf("problems after the repair: %+v", v.Problems)
	}
}

// What is hot is served from memory unchecked, but not what was found damaged.
func TestViewOfADamagedBlock(t *testing.T) {
	r := newRig(t, testOptions(nil))
	id := QueueID{"t", 1, 0}
	r.do(r.m.append(message{id: id, body: bytes.Repeat([]byte("x"), 3*blockSize)}))
	r.must(r.fs.FlipBit(segmentPath(r.opts.Dir, 0), blockSize+9, 3))
	r.must(r.s.Scrub(unpaced))
	u, err := r.s.Queue(id).Units(0, 1, nil)
	r.must(err)
	if _, err := r.s.View(u[0].Phys, int(u[0].Size)); !errors.Is(err, ErrMissing) {
		t.Fatalf("View of a damaged block: %v", err)
	}
	if got := r.s.Missing(); len(got) != 1 || got[0] != (Range{Off: blockSize, End: 2 * blockSize}) {
		t.Errorf("missing is %v", got)
	}
}

// pace sees what is read before it is, and ends the pass.
func TestScrubIsPaced(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	r := filledRig(t, rng)
	var reads, paced int64
	r.fs.SetHook(func(op disk.Op) error {
		if op.Kind == disk.OpRead && !strings.HasPrefix(string(op.Label), "store") {
			reads += int64(op.Len)
		}
		return nil
	})
	r.must(r.s.Scrub(func(n int) error { paced += int64(n); return nil }))
	r.fs.SetHook(nil)
	if reads > paced+paced/8+64<<10 || paced < r.s.End()-r.s.Min() {
		t.Errorf("%d bytes were read, %d announced, the log has %d", reads, paced, r.s.End()-r.s.Min())
	}
	stop := errors.New("stop")
	if err := r.s.Scrub(func(int) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a pass that is to stop: %v", err)
	}
}
