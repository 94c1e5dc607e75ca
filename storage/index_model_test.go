package storage

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

// indexWorld is a broker as far as the index can see: a log, snapshots, a disk
// that fails and loses power, and restarts. Random steps are taken against it
// and against the model, in fake time.
type indexWorld struct {
	*testing.T
	rng *rand.Rand
	log indexLog
	fs  *disk.Mem
	o   IndexOptions
	x   *Index

	now     int64
	snap    int64 // where a restart resumes: the position of the newest snapshot
	tainted bool  // something happened that may cost a part of the index

	mu      sync.Mutex // for what hooks, on any goroutine, touch
	hookRNG *rand.Rand
	fail    float64 // chance that an operation fails
	crashIn int     // operations until the power fails, 0: not at all
	after   *disk.Mem
	resume  int64 // snap at that moment
	seen    struct{ crashes, kills, errors, flips, gaps, cuts, merges, behind int }
}

var errIndexInjected = errors.New("injected")

func (w *indexWorld) hook(fs *disk.Mem) func(disk.Op) error {
	return func(op disk.Op) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.crashIn > 0 && w.after == nil {
			if w.crashIn--; w.crashIn == 0 {
				w.resume = w.snap
				if w.hookRNG.IntN(3) == 0 {
					w.after = fs.Clone()
					w.seen.kills++
				} else {
					w.after = fs.Crash(w.hookRNG.Uint64())
					w.seen.crashes++
				}
			}
		}
		if w.fail > 0 && w.hookRNG.Float64() < w.fail {
			w.tainted = true
			w.seen.errors++
			if op.Kind == disk.OpWrite && w.hookRNG.IntN(2) == 0 {
				return disk.ShortWrite{N: w.hookRNG.IntN(op.Len + 1), Err: errIndexInjected}
			}
			return errIndexInjected
		}
		return nil
	}
}

func (w *indexWorld) setFaults(fail float64, crashIn int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail, w.crashIn = fail, crashIn
}

func (w *indexWorld) taint() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tainted = true
}

func (w *indexWorld) isTainted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tainted
}

func (w *indexWorld) topic() string { return fmt.Sprint("topic", w.rng.IntN(2)) }
func (w *indexWorld) key() string   { return fmt.Sprint("key", w.rng.IntN(30)) }

// grow appends random records to the log, and to the index as one batch.
func (w *indexWorld) grow() {
	for range w.rng.IntN(40) {
		w.now += int64(w.rng.IntN(900))
		var keys []string
		topic := w.topic()
		for range w.rng.IntN(4) {
			keys = append(keys, topic+"#"+w.key())
		}
		if w.rng.IntN(100) == 0 {
			for i := range w.rng.IntN(300) { // more keys than a table or a page holds
				keys = append(keys, fmt.Sprint(topic, "#many", i))
			}
		}
		w.log.add(int64(1+w.rng.IntN(300)), w.now, keys...)
	}
	w.log.appendAll(w.x)
	synctest.Wait()
}

func (w *indexWorld) query() error {
	q := IndexQuery{Topic: w.topic(), Key: w.key(), Max: 1 + w.rng.IntN(80), End: math.MaxInt64}
	if w.rng.IntN(10) == 0 {
		q.Key = fmt.Sprint("many", w.rng.IntN(300))
	}
	if w.rng.IntN(2) == 0 {
		q.Begin = w.rng.Int64N(w.now + 1)
		q.End = q.Begin + w.rng.Int64N(w.now+1)
	}
	err := w.log.check(w, w.x, q)
	if err != nil {
		w.seen.behind++
		if !w.isTainted() {
			w.Fatalf("behind without a cause: %v", err)
		}
	}
	return err
}

// snapshot is what the owner does: whether or not Sync succeeds, it goes on.
func (w *indexWorld) snapshot() {
	at, err := w.x.Sync(w.Context(), w.x.Next())
	if err == nil && at < w.x.Next() {
		w.Fatalf("Sync of %d returned %d", w.x.Next(), at)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !w.tainted {
		w.Fatalf("Sync: %v", err)
	}
	w.snap = w.x.Next()
}

func (w *indexWorld) trim() {
	w.log.mu.Lock()
	w.log.min += w.rng.Int64N(max(1, (w.snap-w.log.min)/2))
	if i := w.log.at(w.log.min); i < len(w.log.recs) { // to a record's beginning
		w.log.min = w.log.recs[i].phys
	} else {
		w.log.min = w.log.end()
	}
	w.log.mu.Unlock()
	w.x.Trim(w.log.min)
	synctest.Wait()
}

// fill does some of what is missing, in pieces.
func (w *indexWorld) fill() {
	f := w.x.Fill()
	for _, gap := range w.x.Missing() {
		w.seen.gaps++
		for at := gap.From; at < gap.To; {
			to := gap.To
			if i := w.log.at(at) + 1 + w.rng.IntN(50); i < len(w.log.recs) {
				to = min(to, w.log.recs[i].phys)
			}
			err := f.Append(at, to, w.log.batch(at, to))
			if w.rng.IntN(10) == 0 && err == nil {
				err = f.Flush()
			}
			if err != nil {
				if !errors.Is(err, errIndexInjected) {
					w.Fatalf("fill: %v", err)
				}
				return
			}
			at = to
		}
	}
	if err := f.Flush(); err != nil && !errors.Is(err, errIndexInjected) {
		w.Fatalf("fill: %v", err)
	}
}

func (w *indexWorld) flip() {
	files, err := w.fs.ReadDir("test", "store/index")
	if err != nil || len(files) == 0 {
		return
	}
	name := files[w.rng.IntN(len(files))]
	if !strings.HasSuffix(name.Name(), indexRunSuffix) {
		return
	}
	info, err := name.Info()
	if err != nil {
		w.Fatal(err)
	}
	w.taint()
	w.seen.flips++
	if err := w.fs.FlipBit("store/index/"+name.Name(), w.rng.Int64N(info.Size()), uint(w.rng.IntN(8))); err != nil {
		w.Fatal(err)
	}
}

// restart closes the index and opens it on what the disk has: now, or when the
// power failed. The log goes on from the newest snapshot, with the same records
// or, if end says so, with others.
func (w *indexWorld) restart() {
	w.setFaults(0, 0)
	w.seen.merges += int(w.x.Stats().Merges)
	if err := w.x.Close(); err != nil {
		w.Fatal(err)
	}
	if w.after == nil {
		w.after, w.resume = w.fs, w.snap
	}
	w.fs, w.snap, w.after = w.after, w.resume, nil
	end := int64(math.MaxInt64)
	if w.rng.IntN(4) == 0 {
		w.seen.cuts++
		end = w.snap
		w.log.recs = w.log.recs[:w.log.at(end)]
		w.log.min = min(w.log.min, end)
	}
	w.open(end)
}

func (w *indexWorld) open(end int64) {
	w.fs.SetHook(nil)
	w.o.FS = w.fs
	w.o.tableEntries = 1 + w.rng.IntN(120)
	w.x = openTestIndex(w, w.o, w.log.min, end)
	w.fs.SetHook(w.hook(w.fs))
	if w.rng.IntN(2) == 0 {
		w.log.min = min(w.log.min, w.log.end())
		for range 5 {
			_ = w.query() // compares with what the index says it has
		}
	}
	if w.x.Next() < w.snap && !w.isTainted() {
		w.Fatalf("after a snapshot at %d the index was reopened at %d, log from %d to %d", w.snap, w.x.Next(), w.log.min, w.log.end())
	}
	// The replay, in batches of its own.
	for at := w.snap; at < w.log.end(); {
		to := w.log.end()
		if i := w.log.at(at) + 1 + w.rng.IntN(30); i < len(w.log.recs) {
			to = w.log.recs[i].phys
		}
		w.x.Append(at, to, w.log.batch(at, to))
		synctest.Wait()
		at = to
	}
	w.x.Append(w.log.end(), w.log.end(), nil)
	if missing := w.x.Missing(); missing != nil && !w.isTainted() {
		w.Fatalf("reopened after nothing but crashes, missing %v", missing)
	}
}

// heal ends all faults and fills in until nothing is missing and a look at
// every key finds no more damage. Each round finds some of it, a merge in the
// background perhaps too.
func (w *indexWorld) heal() {
	w.setFaults(0, 0)
	for round := 0; ; round++ {
		if round > w.seen.flips+3 {
			w.Fatalf("damage without end, missing %v", w.x.Missing())
		}
		w.fill()
		synctest.Wait()
		if w.x.Missing() != nil {
			continue
		}
		found := false
		for topic := range 2 {
			for key := range 30 {
				found = w.log.check(w, w.x, indexAnyTime(fmt.Sprint("topic", topic), fmt.Sprint("key", key), 64)) != nil || found
			}
		}
		if !found {
			break
		}
	}
	syncTestIndex(w, w.x)
	w.snap = w.x.Next()
}

func (w *indexWorld) step() {
	switch n := w.rng.IntN(100); {
	case n < 45:
		w.grow()
	case n < 75:
		_ = w.query()
	case n < 83:
		w.snapshot()
	case n < 85 && len(w.log.recs) > 0 && w.snap > w.log.min:
		w.trim()
	case n < 89:
		w.fill()
	case n < 90 && w.fail > 0:
		w.flip()
	case n < 92:
		time.Sleep(time.Duration(w.rng.IntN(2000)) * time.Millisecond) // fake time: failed flushes are tried again
		synctest.Wait()
	}
}

func TestIndexModel(t *testing.T) {
	t.Parallel()
	seed := indexSeed(t)
	worlds, lives := 4, 8
	if os.Getenv("RAFTMQ_LONG") != "" {
		worlds, lives = 200, 20
	}
	var total indexWorld
	for i := range uint64(worlds) {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("in world %d", i)
				}
			}()
			w := &indexWorld{T: t, rng: rand.New(rand.NewPCG(seed, i)), hookRNG: rand.New(rand.NewPCG(seed, ^i)), fs: disk.NewMem(seed + i)}
			w.o = IndexOptions{MaxRunEntries: indexChunk, StallTimeout: 50 * time.Millisecond, Identity: i}
			switch i % 3 { // few hashes: collisions; or both ends of the range
			case 1:
				w.o.hash = func(topic, key string) uint64 { return indexHash(topic, key) & 7 << 61 }
			case 2:
				w.o.hash = func(topic, key string) uint64 { return indexHash(topic, key) & 15 * 0x1111111111111111 }
			}
			w.open(math.MaxInt64)
			for range lives {
				crashIn := 0
				if w.rng.IntN(5) > 0 {
					crashIn = 1 + w.rng.IntN(400)
				}
				fail := 0.0
				if w.rng.IntN(2) == 0 {
					fail = []float64{0.001, 0.02, 0.3}[w.rng.IntN(3)]
				}
				w.setFaults(fail, crashIn)
				for range 20 + w.rng.IntN(100) {
					w.step()
				}
				w.restart()
				if w.rng.IntN(3) == 0 {
					w.heal()
					w.tainted = false
				}
			}
			w.heal()
			w.seen.merges += int(w.x.Stats().Merges)
			closeTestIndex(t, w.x)
			total.seen.crashes += w.seen.crashes
			total.seen.kills += w.seen.kills
			total.seen.errors += w.seen.errors
			total.seen.flips += w.seen.flips
			total.seen.gaps += w.seen.gaps
			total.seen.cuts += w.seen.cuts
			total.seen.merges += w.seen.merges
			total.seen.behind += w.seen.behind
		})
	}
	s := total.seen
	t.Logf("%+v", s)
	if !t.Failed() && min(s.crashes, s.kills, s.errors, s.flips, s.gaps, s.cuts, s.merges, s.behind) == 0 {
		t.Errorf("something never happened: %+v", s)
	}
}
