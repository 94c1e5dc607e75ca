package raftlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// change is something that is done to a log.
type change struct {
	kind     string // append, suffix, prefix, all, reopen
	logs     []*raft.Log
	min, max uint64
}

func (c change) String() string {
	if c.kind == "append" {
		return "append " + span(c.logs)
	}
	return fmt.Sprintf("%s %d..%d", c.kind, c.min, c.max)
}

func (c change) do(l *Log) error {
	switch c.kind {
	case "append":
		return l.StoreLogs(c.logs)
	case "all":
		return l.Reset()
	}
	return l.DeleteRange(c.min, c.max)
}

// model is what a log must hold: what was acknowledged, and a change that may
// or may not have happened.
type model struct {
	acked   []*raft.Log
	unknown *change
}

// after returns the log after a change.
func (m model) after(c change) []*raft.Log {
	switch c.kind {
	case "append":
		return concat(m.acked, c.logs)
	case "suffix":
		return m.acked[:c.min-m.acked[0].Index]
	case "prefix":
		return m.acked[c.max-m.acked[0].Index+1:]
	case "all":
		return nil
	}
	return m.acked
}

// allows says whether a log that holds got is right.
func (m model) allows(got []*raft.Log) error {
	err := same(got, m.acked)
	if err == nil || m.unknown == nil {
		return err
	}
	if m.unknown.kind == "append" && len(got) > len(m.acked) && len(got) <= len(m.acked)+len(m.unknown.logs) {
		// Any number of the entries that were under way.
		return same(got, m.after(*m.unknown)[:len(got)])
	}
	if err2 := same(got, m.after(*m.unknown)); err2 != nil {
		return fmt.Errorf("neither before (%v) nor after %v (%v)", err, m.unknown, err2)
	}
	return nil
}

// drawn makes a random change that the log m can take. Terms rise now and then;
// batches are of all sizes, some larger than a segment.
func drawn(rng *rand.Rand, m model, term *uint64) change {
	if rng.IntN(8) == 0 {
		*term++
	}
	next := uint64(1)
	if n := len(m.acked); n > 0 {
		next = m.acked[n-1].Index + 1
	} else {
		next += rng.Uint64N(100)
	}
	switch n := uint64(len(m.acked)); {
	case n > 2 && rng.IntN(6) == 0:
		first := m.acked[0].Index
		from := first + 1 + rng.Uint64N(n-1)
		if rng.IntN(2) == 0 {
			from = max(from, next-min(n-1, 5)) // mostly a few
		}
		*term++
		return change{kind: "suffix", min: from, max: next - 1}
	case n > 2 && rng.IntN(6) == 0:
		first := m.acked[0].Index
		return change{kind: "prefix", min: first, max: first + rng.Uint64N(n-1)}
	case n > 0 && rng.IntN(40) == 0:
		return change{kind: "all"}
	}
	size := [...]int{0, 50, 500, 4000, 9000, 20_000}[rng.IntN(6)]
	return change{kind: "append", logs: batch(next, next+rng.Uint64N(6), *term, size)}
}

// reads opens the file system's log, which must open, and returns what it holds.
func reads(fs disk.FS, opts Options) ([]*raft.Log, error) {
	l, err := Open(fs, dir, uncached(opts))
	if err != nil {
		return nil, err
	}
	got, err := all(l)
	settle(l) // what it does in the background is part of it
	// As a process that is killed: nothing is written on the way out.
	l.poison.fail(errors.New("killed"))
	return got, errors.Join(err, l.Close())
}

// Every history is crashed before each of its operations on the disk: whatever
// of the unsynced pages, sizes and names reached the disk, the log holds what
// was acknowledged. The same if the process is killed there, and if a power loss
// follows at once: what opening has shown must be on the disk.
func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	histories := map[string]func(m *model, term uint64) []change{
		"append": func(*model, uint64) (h []change) {
			for i := uint64(1); i < 8; i++ {
				h = append(h, change{kind: "append", logs: batch(i*3, i*3+2, 1, 5000)})
			}
			return h
		},
		"append more than a segment": func(*model, uint64) []change {
			return []change{{kind: "append", logs: batch(1, 12, 1, 15_000)}, {kind: "append", logs: batch(13, 16, 1, 1000)}}
		},
		"truncate": func(*model, uint64) []change {
			return []change{
				{kind: "append", logs: batch(1, 9, 1, 4000)},
				{kind: "append", logs: batch(10, 20, 1, 4000)}, // in the next segment
				{kind: "suffix", min: 17, max: 20},
				{kind: "append", logs: batch(17, 18, 2, 4000)},
				{kind: "suffix", min: 8, max: 18}, // back into the first
				{kind: "append", logs: batch(8, 8, 3, 4000)},
				{kind: "suffix", min: 8, max: 8},
				{kind: "append", logs: batch(8, 20, 4, 4000)},
			}
		},
		"delete the prefix and recycle": func(*model, uint64) (h []change) {
			for i := uint64(0); i < 6; i++ {
				h = append(h, change{kind: "append", logs: batch(i*10+1, i*10+10, 1, 4500)})
				if i > 1 {
					h = append(h, change{kind: "prefix", max: i*10 - 6})
				}
			}
			return h
		},
		"delete all": func(*model, uint64) []change {
			return []change{
				{kind: "append", logs: batch(1, 20, 1, 4000)},
				{kind: "all"},
				{kind: "append", logs: batch(5, 8, 1, 4000)},
				{kind: "all"},
				{kind: "append", logs: batch(100, 120, 2, 4000)},
			}
		},
	}
	seed := testSeed(t)
	for name, history := range histories {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, uint64(len(name))))
			fs := newMem(t)
			var mu sync.Mutex // held around each look at fs and m: nothing is acknowledged meanwhile
			var m model
			steps := 0
			look := func(op disk.Op) error {
				if op.Kind != disk.OpWrite && op.Kind != disk.OpSync && op.Kind != disk.OpRename &&
					op.Kind != disk.OpSyncDir && op.Kind != disk.OpRemove {
					return nil // changes nothing
				}
				mu.Lock()
				defer mu.Unlock()
				steps++
				crashSeed := rng.Uint64()
				for what, left := range map[string]*disk.Mem{"crash": fs.Crash(crashSeed), "kill": fs.Clone()} {
					got, err := reads(left, small())
					if err == nil {
						err = m.allows(got)
					}
					if err == nil {
						var again []*raft.Log
						again, err = reads(left.Crash(crashSeed+1), small())
						if err == nil {
							err = same(again, got)
						}
						if err != nil {
							err = fmt.Errorf("after a crash that followed: %w", err)
						}
					}
					if err != nil {
						t.Errorf("%s at step %d, before %s %s of %s at %d, unknown %v: %v", what, steps, op.Label, op.Kind, op.Name, op.Off, m.unknown, err)
					}
				}
				return nil
			}
			fs.SetHook(look)
			l := mustOpen(t, fs, small())
			settle(l)
			for _, c := range history(&m, 1) {
				mu.Lock()
				m.unknown = &c
				mu.Unlock()
				ok(t, c.do(l))
				mu.Lock()
				m = model{acked: m.after(c)}
				mu.Unlock()
				settle(l)
			}
			ok(t, l.Close())
			got, err := reads(fs, small())
			ok(t, err)
			ok(t, same(got, m.acked))
			t.Logf("%d steps", steps)
		})
	}
}

// world is a log that goes through a random history of changes, failures,
// kills and power losses.
type world struct {
	t    *testing.T
	rng  *rand.Rand
	fs   *disk.Mem
	opts Options
	l    *Log
	m    model
	term uint64
	boot int
	// left counts down to what is about to happen; taken is the disk as it was
	// left then.
	mu     sync.Mutex
	chance *rand.Rand
	left   int
	fate   string
	taken  *disk.Mem
	count  map[string]int
}

var errInjected = errors.New("injected")

// hook lets fate strike at one operation.
func (w *world) hook(op disk.Op) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fate == "" || op.Kind != disk.OpWrite && op.Kind != disk.OpSync && op.Kind != disk.OpSyncDir {
		return nil
	}
	if w.left--; w.left > 0 {
		return nil
	}
	fate := w.fate
	w.fate = ""
	switch {
	case fate == "crash":
		w.taken = w.fs.Crash(w.chance.Uint64())
	case fate == "kill":
		w.taken = w.fs.Clone()
	case fate == "error" && op.Kind == disk.OpWrite && w.chance.IntN(2) == 0:
		return disk.ShortWrite{N: w.chance.IntN(op.Len), Err: errInjected}
	case fate == "error":
		return errInjected
	}
	return nil
}

func (w *world) open() {
	w.t.Helper()
	w.fs.SetHook(w.hook)
	w.opts.BootID = fmt.Sprint("boot-", w.boot)
	l, err := Open(w.fs, dir, uncached(w.opts))
	ok(w.t, err)
	w.l = l
}

// replaced goes on with another disk, or the same after a restart. A crash of
// it right away must change nothing: opening has synced what it shows.
func (w *world) replaced(by *disk.Mem, check func(got []*raft.Log) error) {
	w.t.Helper()
	w.l.poison.fail(errors.New("killed"))
	w.l.Close() // the old one's files
	w.fs = by
	w.open()
	got, err := all(w.l)
	ok(w.t, err)
	ok(w.t, check(got))
	w.m = model{acked: got}
	again, err := reads(w.fs.Crash(w.rng.Uint64()), w.opts)
	ok(w.t, err)
	ok(w.t, same(again, got))
}

func (w *world) step() {
	w.t.Helper()
	// What is going to happen during the change, mostly nothing.
	w.mu.Lock()
	w.fate, w.taken = "", nil
	if w.rng.IntN(5) == 0 {
		w.fate = [...]string{"crash", "kill", "error"}[w.rng.IntN(3)]
		w.left = 1 + w.rng.IntN(8)
	}
	w.mu.Unlock()

	c := drawn(w.rng, w.m, &w.term)
	err := c.do(w.l)
	w.mu.Lock()
	taken := w.taken
	w.fate = ""
	w.mu.Unlock()
	before := w.m
	w.m.unknown = &c
	switch {
	case err != nil && w.l.Err() == nil:
		w.t.Fatalf("%v: %v, and the log is not poisoned", c, err)
	case taken != nil: // the process or the machine went down in the middle
		w.count["down"]++
		w.boot++
		w.replaced(taken, w.m.allows)
		return
	case err != nil: // poisoned
		w.count["poisoned"]++
		want(w.t, "change after a failure", w.l.StoreLog(entryOf(1, 1, 1)), ErrPoisoned)
		got, err := all(w.l) // what was acknowledged is still served
		ok(w.t, err)
		ok(w.t, w.m.allows(got))
		left := w.fs.Clone()
		if w.rng.IntN(2) == 0 {
			left = w.fs.Crash(w.rng.Uint64())
			w.boot++
		}
		w.replaced(left, w.m.allows)
		return
	}
	w.m = model{acked: before.after(c)}
	if w.rng.IntN(10) == 0 {
		holds(w.t, w.l, w.m.acked)
	}
	switch w.rng.IntN(40) {
	case 0: // a clean restart
		w.count["closed"]++
		if err := w.l.Close(); err != nil && w.l.Err() == nil {
			w.t.Fatal(err)
		}
		w.replaced(w.fs.Clone(), w.m.allows)
	case 1:
		w.count["killed"]++
		w.replaced(w.fs.Clone(), w.m.allows)
	case 2:
		w.count["crashed"]++
		w.boot++
		w.replaced(w.fs.Crash(w.rng.Uint64()), w.m.allows)
	}
}

// Random histories in SyncFlush: nothing acknowledged is ever lost, nothing
// deleted comes back, and what one opening shows the next one has.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	seed := testSeed(t)
	runs, steps := 6, 500
	if long {
		runs, steps = 60, 5000
	}
	count := map[string]int{}
	for run := range runs {
		w := &world{
			t: t, rng: rand.New(rand.NewPCG(seed, uint64(run))), chance: rand.New(rand.NewPCG(seed, ^uint64(run))), fs: newMem(t),
			opts: small(), term: 1, count: count,
		}
		w.opts.FreeSegments = run%3 - 1
		w.open()
		for range steps {
			w.step()
		}
		w.l.Close()
	}
	t.Log(count)
	for _, what := range []string{"down", "poisoned", "closed", "killed", "crashed"} {
		if count[what] == 0 {
			t.Errorf("%s never happened", what)
		}
	}
}

// What is not synced again at open is lost by the next power loss, although
// opening has shown it: after a failed sync the page cache is ahead of the disk.
// This test must fail without the rewriting, so it also plays it with a disk
// that only pretends to carry it out.
func TestOpenSyncsWhatItShows(t *testing.T) {
	play := func(hook func(disk.Op) error) (lost int) {
		for seed := range uint64(50) {
			fs := newMem(t)
			l := mustOpen(t, fs, small())
			first := batch(1, 3, 1, 3000)
			ok(t, l.StoreLogs(first))
			settle(l)
			fs.SetHook(func(op disk.Op) error {
				if op.Kind == disk.OpSync && op.Label == LabelAppend {
					return errInjected
				}
				return nil
			})
			second := batch(4, 6, 1, 3000)
			want(t, "StoreLogs", l.StoreLogs(second), errInjected)
			ok(t, l.Close())
			fs = fs.Clone()
			fs.SetHook(hook)
			got, err := reads(fs, small())
			ok(t, err)
			ok(t, same(got, concat(first, second))) // from the page cache
			// A vote may have been granted on it; now the power fails.
			fs.SetHook(nil)
			again, err := reads(fs.Crash(seed), small())
			if err != nil || len(again) != 6 {
				lost++
			}
		}
		return lost
	}
	if n := play(nil); n != 0 {
		t.Errorf("lost in %d of 50 crashes", n)
	}
	n := play(func(op disk.Op) error {
		if op.Label == LabelResync && (op.Kind == disk.OpWrite || op.Kind == disk.OpSync) {
			return disk.ErrPretend
		}
		return nil
	})
	if n == 0 {
		t.Error("nothing is lost without writing again at open: the test shows nothing")
	}
}

// Row 24: a truncated suffix never comes back, at whichever step of the
// truncation, and of what is stored after it, the power fails. Without the
// record of the truncation it would.
func TestTruncatedSuffixStaysAway(t *testing.T) {
	play := func(hook func(disk.Op) error) (back int) {
		for seed := range uint64(50) {
			fs := newMem(t)
			l := mustOpen(t, fs, small())
			logs := batch(1, 9, 1, 2000)
			ok(t, l.StoreLogs(logs))
			settle(l)
			fs.SetHook(hook)
			ok(t, l.DeleteRange(4, 9))
			fs.SetHook(nil)
			left := fs.Crash(seed)
			l.poison.fail(errors.New("killed"))
			ok(t, l.Close())
			got, err := reads(left, small())
			ok(t, err)
			if same(got, logs[:3]) != nil {
				ok(t, same(got, logs))
				back++
			}
		}
		return back
	}
	if n := play(nil); n != 0 {
		t.Errorf("came back in %d of 50 crashes", n)
	}
	if n := play(func(op disk.Op) error {
		if op.Label == LabelHeader {
			return disk.ErrPretend
		}
		return nil
	}); n == 0 {
		t.Error("it stays away without the record: the test shows nothing")
	}
}

// The order of a cut: nothing is written at the place of a truncation before
// its record is on the disk, and no segment is used again before the new start
// is.
func TestHeadersGoFirst(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	ok(t, l.StoreLogs(batch(1, 30, 1, 4000)))
	settle(l)
	var mu sync.Mutex
	var ops []string
	fs.SetHook(func(op disk.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == disk.OpWrite || op.Kind == disk.OpSync {
			ops = append(ops, fmt.Sprint(op.Label, " ", op.Kind))
		}
		return nil
	})
	ok(t, l.DeleteRange(25, 30))
	mu.Lock() // the keeper makes a new spare now
	defer mu.Unlock()
	h := string(LabelHeader)
	if want := []string{h + " write", h + " sync", h + " write", h + " sync"}; !slices.Equal(ops[:4], want) {
		t.Errorf("a truncation does %v, want it to begin with %v", ops, want)
	}
}
