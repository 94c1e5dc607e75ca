package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

// indexSeed is RAFTMQ_SEED if it is set, else a new one, and prints it.
func indexSeed(t testing.TB) uint64 {
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

// indexRecord is a record of the log that the tests index.
type indexRecord struct {
	phys, end int64
	time      int64
	keys      []IndexKey
}

// indexLog is the log: what an index's owner would read from the CommitLog, and
// the model that answers are compared with.
type indexLog struct {
	mu   sync.Mutex
	min  int64
	recs []indexRecord
}

func (l *indexLog) end() int64 {
	if len(l.recs) == 0 {
		return 0
	}
	return l.recs[len(l.recs)-1].end
}

// add appends a record with keys "key" or "topic#key".
func (l *indexLog) add(size, time int64, keys ...string) indexRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := indexRecord{phys: l.end(), end: l.end() + size, time: time}
	for _, k := range keys {
		topic, key, ok := strings.Cut(k, "#")
		if !ok {
			topic, key = "T", k
		}
		r.keys = append(r.keys, IndexKey{Topic: topic, Key: key, Phys: r.phys, Time: time})
	}
	l.recs = append(l.recs, r)
	return r
}

// batch returns the keys of the whole records in [from, to).
func (l *indexLog) batch(from, to int64) (keys []IndexKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.recs[l.at(from):l.at(to)] {
		keys = append(keys, r.keys...)
	}
	return keys
}

// at is the number of the first record at or beyond an offset.
func (l *indexLog) at(phys int64) int {
	i, _ := slices.BinarySearchFunc(l.recs, phys, func(r indexRecord, phys int64) int {
		return int(min(max(r.phys-phys, -1), 1))
	})
	return i
}

// match is the Match of a query: the record is read and its keys are compared.
// An offset where no record begins is a wrong answer of the index, not a
// collision.
func (l *indexLog) match(t testing.TB, topic, key string) func(int64) bool {
	return func(phys int64) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		i := l.at(phys)
		if i == len(l.recs) || l.recs[i].phys != phys || phys < l.min {
			t.Errorf("offered offset %d, where no record is", phys)
			return false
		}
		return l.recs[i].has(topic, key)
	}
}

func (r *indexRecord) has(topic, key string) bool {
	return slices.ContainsFunc(r.keys, func(k IndexKey) bool { return k.Topic == topic && k.Key == key })
}

// want is the right answer to a query about the log below limit.
func (l *indexLog) want(q IndexQuery, limit int64) (all, newest []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.recs {
		r := &l.recs[i]
		if r.phys >= l.min && r.phys < limit && r.time/1000 >= q.Begin/1000 && r.time/1000 <= q.End/1000 && r.has(q.Topic, q.Key) {
			all = append(all, r.phys)
		}
	}
	return all, all[max(0, len(all)-min(q.Max, IndexMaxResults)):]
}

// check asks the index and compares: without an error the answer is exactly the
// model's, with ErrIndexBehind (which it returns) or ErrIndexCandidates it may
// lack some.
func (l *indexLog) check(t testing.TB, x *Index, q IndexQuery) error {
	t.Helper()
	q.Match = l.match(t, q.Topic, q.Key)
	got, err := x.Query(t.Context(), q)
	all, newest := l.want(q, x.Next())
	switch {
	case err == nil && !slices.Equal(got, newest):
		t.Fatalf("%s#%s [%d, %d] max %d: got %v, want %v", q.Topic, q.Key, q.Begin, q.End, q.Max, got, newest)
	case err != nil && !errors.Is(err, ErrIndexBehind) && !errors.Is(err, ErrIndexCandidates):
		t.Fatalf("query: %v", err)
	case !slices.IsSorted(got):
		t.Fatalf("not in order: %v", got)
	}
	for _, phys := range got {
		if !slices.Contains(all, phys) {
			t.Fatalf("%s#%s [%d, %d]: %d does not belong into %v", q.Topic, q.Key, q.Begin, q.End, phys, got)
		}
	}
	if !errors.Is(err, ErrIndexBehind) {
		return nil
	}
	return err
}

// indexAnyTime is a query for all times.
func indexAnyTime(topic, key string, max int) IndexQuery {
	return IndexQuery{Topic: topic, Key: key, Max: max, End: math.MaxInt64}
}

func openTestIndex(t testing.TB, o IndexOptions, begin, end int64) *Index {
	t.Helper()
	if o.Dir == "" {
		o.Dir = "store/index"
	}
	if err := errors.Join(o.FS.MkdirAll("test", "store"), o.FS.SyncDir("test", ".")); err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(o, begin, end)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // for a test that failed before it did so itself
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

func closeTestIndex(t testing.TB, x *Index) {
	t.Helper()
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := verifyTestIndex(x.o.FS, x.o.Dir, x.o.Identity); err != nil {
		t.Fatal(err)
	}
}

func syncTestIndex(t testing.TB, x *Index) {
	t.Helper()
	if got, err := x.Sync(t.Context(), math.MaxInt64); err != nil || got != x.Next() {
		t.Fatalf("Sync = %d, %v; next is %d", got, err, x.Next())
	}
}

// appendAll gives the index the log from what it has on.
func (l *indexLog) appendAll(x *Index) {
	from := x.Next()
	x.Append(from, l.end(), l.batch(from, l.end()))
}

// Where the keys are when they are asked for.
var indexPlaces = []struct {
	name string
	move func(t *testing.T, x *Index) *Index
}{
	{"in memory", func(t *testing.T, x *Index) *Index { return x }},
	{"in a run", func(t *testing.T, x *Index) *Index { syncTestIndex(t, x); return x }},
	{"reopened", func(t *testing.T, x *Index) *Index {
		syncTestIndex(t, x)
		closeTestIndex(t, x)
		return openTestIndex(t, x.o, 0, math.MaxInt64)
	}},
}

func TestIndexQuery(t *testing.T) {
	for _, place := range indexPlaces {
		t.Run(place.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l indexLog
				var phys []int64
				for i, keys := range [][]string{
					{"UNIQ1", "red", "green"}, {"UNIQ2", "red"}, {}, {"other#UNIQ1", "other#red"}, {"UNIQ3", "red", "red"}, {"UNIQ4", "UNIQ4"},
				} {
					phys = append(phys, l.add(100+int64(i), 1_000_500+int64(i)*1000, keys...).phys)
				}
				x := openTestIndex(t, IndexOptions{FS: disk.NewMem(1)}, 0, math.MaxInt64)
				l.appendAll(x)
				x = place.move(t, x)
				defer closeTestIndex(t, x)
				for _, c := range []struct {
					name string
					q    IndexQuery
					want []int64
				}{
					{"one token of several", indexAnyTime("T", "green", 64), phys[:1]},
					{"by UNIQ_KEY", indexAnyTime("T", "UNIQ2", 64), phys[1:2]},
					{"oldest first, once per record", indexAnyTime("T", "red", 64), []int64{phys[0], phys[1], phys[4]}},
					{"the newest of more", indexAnyTime("T", "red", 2), []int64{phys[1], phys[4]}},
					{"token equal to UNIQ_KEY", indexAnyTime("T", "UNIQ4", 64), phys[5:]},
					{"the other topic", indexAnyTime("other", "red", 64), phys[3:4]},
					{"the other topic's UNIQ_KEY", indexAnyTime("other", "UNIQ1", 64), phys[3:4]},
					{"none", indexAnyTime("T", "blue", 64), nil},
					{"topic and key split elsewhere", indexAnyTime("TU", "NIQ1", 64), nil},
					{"time: its second", IndexQuery{Topic: "T", Key: "red", Max: 64, Begin: 1_001_999, End: 1_001_999}, phys[1:2]},
					{"time: to the second", IndexQuery{Topic: "T", Key: "red", Max: 64, Begin: 1_000_000, End: 1_001_000}, phys[:2]},
					{"time: before", IndexQuery{Topic: "T", Key: "red", Max: 64, Begin: 0, End: 999_999}, nil},
					{"time: after", IndexQuery{Topic: "T", Key: "red", Max: 64, Begin: 1_005_000, End: math.MaxInt64}, nil},
					{"time: the last second", IndexQuery{Topic: "T", Key: "UNIQ4", Max: 64, Begin: 1_005_999, End: math.MaxInt64}, phys[5:]},
					{"time: the first second", IndexQuery{Topic: "T", Key: "green", Max: 64, Begin: 0, End: 1_000_000}, phys[:1]},
					{"time: negative begin", IndexQuery{Topic: "T", Key: "green", Max: 64, Begin: math.MinInt64, End: math.MaxInt64}, phys[:1]},
					{"time: reversed", IndexQuery{Topic: "T", Key: "red", Max: 64, Begin: 1_004_000, End: 1_000_000}, nil},
					{"max 0", indexAnyTime("T", "red", 0), nil},
					{"max negative", indexAnyTime("T", "red", -1), nil},
				} {
					got, err := x.Query(t.Context(), c.q)
					if err != nil || !slices.Equal(got, c.want) {
						t.Errorf("%s: got %v, %v; want %v", c.name, got, err, c.want)
					}
				}
				if ms, at := x.LastUpdate(); ms != 1_005_500 || at != phys[5] {
					t.Errorf("LastUpdate = %d, %d", ms, at)
				}
			})
		})
	}
}

func TestIndexBoundsOfAQuery(t *testing.T) {
	for _, place := range indexPlaces {
		t.Run(place.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l indexLog
				for range 3000 {
					l.add(10, 5000, "hot")
				}
				x := openTestIndex(t, IndexOptions{FS: disk.NewMem(1)}, 0, math.MaxInt64)
				l.appendAll(x)
				x = place.move(t, x)
				defer closeTestIndex(t, x)

				got, err := x.Query(t.Context(), indexAnyTime("T", "hot", math.MaxInt))
				if err != nil || len(got) != IndexMaxResults || got[0] != 10*(3000-IndexMaxResults) {
					t.Errorf("without a bound: %d results from %v, %v", len(got), got, err)
				}
				offered := 0
				q := indexAnyTime("T", "hot", 10)
				q.Match = func(phys int64) bool { offered++; return phys == 0 || phys == 29_990 }
				got, err = x.Query(t.Context(), q)
				if !errors.Is(err, ErrIndexCandidates) || !slices.Equal(got, []int64{29_990}) || offered != IndexMaxCandidates {
					t.Errorf("%d candidates offered: %v, %v", offered, got, err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				q.Match = func(phys int64) bool { cancel(); return true }
				got, err = x.Query(ctx, q)
				if !errors.Is(err, context.Canceled) || !slices.Equal(got, []int64{29_990}) {
					t.Errorf("cancelled: %v, %v", got, err)
				}
			})
		})
	}
}

// A replay gives the index again what it has: nothing shows twice, nothing is
// stored twice.
func TestIndexReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		for i := range 100 {
			l.add(10, int64(i)*1000, "k", fmt.Sprint("u", i))
		}
		o := IndexOptions{FS: disk.NewMem(1)}
		x := openTestIndex(t, o, 0, math.MaxInt64)
		x.Append(0, 600, l.batch(0, 600))
		syncTestIndex(t, x)
		x.Append(600, 800, l.batch(600, 800)) // lost
		closeTestIndex(t, x)

		x = openTestIndex(t, o, 0, math.MaxInt64)
		if x.Next() != 600 || x.Missing() != nil {
			t.Fatalf("reopened at %d, missing %v", x.Next(), x.Missing())
		}
		x.Append(300, 500, l.batch(300, 500))
		x.Append(500, 1000, l.batch(500, 1000)) // across the position reached
		if got := x.Stats(); got.TableEntries != 80 || got.RunEntries != 120 || x.Missing() != nil {
			t.Fatalf("after the replay: %+v", got)
		}
		if err := l.check(t, x, indexAnyTime("T", "k", 64)); err != nil {
			t.Fatal(err)
		}
		closeTestIndex(t, x)
	})
}

// What was not given to Append is missing until it is filled in.
func TestIndexFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		for i := range 100 {
			l.add(10, int64(i)*1000, "k", fmt.Sprint("u", i))
		}
		o := IndexOptions{FS: disk.NewMem(1), tableEntries: 16}
		x := openTestIndex(t, o, 100, math.MaxInt64)
		l.min = 100
		if x.Missing() != nil {
			t.Fatalf("missing %v of an empty log", x.Missing())
		}
		x.Append(500, 500, nil)
		<-x.Behind()
		x.Append(500, 600, l.batch(500, 600))
		x.Append(700, 800, l.batch(700, 800))
		<-x.Behind()
		gaps := []IndexRange{{100, 500}, {600, 700}}
		if got := x.Missing(); !slices.Equal(got, gaps) {
			t.Fatalf("missing %v", got)
		}
		if err := l.check(t, x, indexAnyTime("T", "u30", 64)); !errors.Is(err, ErrIndexBehind) {
			t.Fatalf("query into a gap: %v", err)
		}
		if err := l.check(t, x, indexAnyTime("T", "k", 5)); err != nil {
			t.Fatalf("query answered by what is newer than the gap: %v", err)
		}
		f := x.Fill()
		for _, g := range gaps {
			for at := g.From; at < g.To; at += 50 {
				if err := f.Append(at, at+50, l.batch(at, at+50)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := f.Flush(); err != nil || x.Missing() != nil {
			t.Fatalf("after the fill: %v, missing %v", err, x.Missing())
		}
		for i := range 100 {
			if err := l.check(t, x, indexAnyTime("T", fmt.Sprint("u", i), 64)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.check(t, x, indexAnyTime("T", "k", 64)); err != nil {
			t.Fatal(err)
		}
		if err := f.Append(300, 350, nil); err != nil {
			t.Fatal(err)
		}
		if err := f.Flush(); !errors.Is(err, ErrIndexCovered) {
			t.Fatalf("fill of what is there: %v", err)
		}
		if err := f.Append(300, 350, []IndexKey{{Phys: 350}}); err == nil {
			t.Fatal("a key outside of its part of the log was taken")
		}
		syncTestIndex(t, x)
		closeTestIndex(t, x)
		x = openTestIndex(t, o, 100, math.MaxInt64)
		if x.Missing() != nil || x.Next() != 800 {
			t.Fatalf("reopened at %d, missing %v", x.Next(), x.Missing())
		}
		if err := l.check(t, x, indexAnyTime("T", "k", 64)); err != nil {
			t.Fatal(err)
		}
		closeTestIndex(t, x)
	})
}

// A defect of the caller makes a gap, not a wrong index and not a stop.
func TestIndexKeysOutOfOrder(t *testing.T) {
	for _, keys := range [][]IndexKey{
		{{Topic: "T", Key: "k", Phys: 60}, {Topic: "T", Key: "k", Phys: 50}},
		{{Topic: "T", Key: "k", Phys: 100}},
		{{Topic: "T", Key: "k", Phys: -1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := openTestIndex(t, IndexOptions{FS: disk.NewMem(1)}, 0, math.MaxInt64)
			defer closeTestIndex(t, x)
			x.Append(0, 100, keys)
			x.Append(100, 200, []IndexKey{{Topic: "T", Key: "k", Phys: 150}})
			if got := x.Missing(); !slices.Equal(got, []IndexRange{{0, 100}}) {
				t.Fatalf("missing %v", got)
			}
			got, err := x.Query(t.Context(), indexAnyTime("T", "k", 64))
			if !errors.Is(err, ErrIndexBehind) || !slices.Equal(got, []int64{150}) {
				t.Fatalf("%v, %v", got, err)
			}
		})
	}
}

func TestIndexTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l indexLog
		for i := range 100 {
			l.add(10, int64(i)*1000, "k")
		}
		fs := disk.NewMem(1)
		x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
		for at := int64(0); at < 1000; at += 200 {
			x.Append(at, at+200, l.batch(at, at+200))
			syncTestIndex(t, x)
		}
		l.min = 450
		x.Trim(450)
		x.Trim(10)
		synctest.Wait()
		files, err := fs.ReadDir("test", "store/index")
		if err != nil || len(files) != 3 || x.Stats().Runs != 3 || x.Missing() != nil {
			t.Fatalf("%d files, %+v, %v", len(files), x.Stats(), err)
		}
		if err := l.check(t, x, indexAnyTime("T", "k", 64)); err != nil {
			t.Fatal(err)
		}
		l.min = 2000 // a log that was replaced by a later one
		x.Trim(2000)
		x.Append(2000, 2100, []IndexKey{{Topic: "T", Key: "k", Phys: 2050}})
		got, err := x.Query(t.Context(), indexAnyTime("T", "k", 64))
		if err != nil || !slices.Equal(got, []int64{2050}) {
			t.Fatalf("%v, %v", got, err)
		}
		x.Trim(2100) // while it is only in memory
		syncTestIndex(t, x)
		if s := x.Stats(); s.Runs != 0 || s.TableEntries != 0 {
			t.Fatalf("%+v", s)
		}
		closeTestIndex(t, x)
	})
}

// The log ends before what the index knows, and goes on otherwise.
func TestIndexCut(t *testing.T) {
	for _, end := range []int64{0, 200, 350, 790, 800, 5000} {
		synctest.Test(t, func(t *testing.T) {
			var l indexLog
			for i := range 100 {
				l.add(10, int64(i)*1000, "k", fmt.Sprint("old", i))
			}
			fs := disk.NewMem(1)
			x := openTestIndex(t, IndexOptions{FS: fs}, 0, math.MaxInt64)
			for at := int64(0); at < 800; at += 200 {
				x.Append(at, at+200, l.batch(at, at+200))
				syncTestIndex(t, x)
			}
			closeTestIndex(t, x)

			x = openTestIndex(t, IndexOptions{FS: fs}, 0, end)
			if x.Next() != min(end, 800) || x.Missing() != nil {
				t.Fatalf("cut at %d: next %d, missing %v", end, x.Next(), x.Missing())
			}
			closeTestIndex(t, x)
			// The cut is durable: a power loss does not bring back the rest.
			x = openTestIndex(t, IndexOptions{FS: fs.Crash(7)}, 0, math.MaxInt64)
			if x.Next() != min(end, 800) || x.Missing() != nil {
				t.Fatalf("cut at %d, crashed: next %d, missing %v", end, x.Next(), x.Missing())
			}
			l.recs = l.recs[:x.Next()/10]
			for i := len(l.recs); i < 120; i++ {
				l.add(10, int64(i)*1000, "k", fmt.Sprint("new", i))
			}
			l.appendAll(x)
			for i := range 120 {
				for _, key := range []string{"k", fmt.Sprint("old", i), fmt.Sprint("new", i)} {
					if err := l.check(t, x, indexAnyTime("T", key, 64)); err != nil {
						t.Fatal(err)
					}
				}
			}
			closeTestIndex(t, x)
		})
	}
}

func TestIndexOptions(t *testing.T) {
	fs := disk.NewMem(1)
	for _, o := range []IndexOptions{
		{Dir: "d"},
		{FS: fs},
		{FS: fs, Dir: "d", MemoryBytes: -1},
		{FS: fs, Dir: "d", MemoryBytes: indexMinMemory - 1},
		{FS: fs, Dir: "d", MemoryBytes: 1 << 40},
		{FS: fs, Dir: "d", MaxRunEntries: 1},
		{FS: fs, Dir: "d", MaxRunEntries: math.MaxInt64},
		{FS: fs, Dir: "d", StallTimeout: -time.Second},
	} {
		if x, err := OpenIndex(o, 0, math.MaxInt64); err == nil {
			t.Errorf("%+v was taken", o)
			closeTestIndex(t, x)
		}
	}
}

func TestIndexClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := openTestIndex(t, IndexOptions{FS: disk.NewMem(1)}, 0, math.MaxInt64)
		x.Append(0, 100, []IndexKey{{Topic: "T", Key: "k", Phys: 50}})
		f := x.Fill()
		if err := f.Append(0, 100, nil); err != nil {
			t.Fatal(err)
		}
		closeTestIndex(t, x)
		closeTestIndex(t, x)
		x.Append(100, 200, nil)
		if x.Next() != 100 {
			t.Errorf("Append after Close moved on to %d", x.Next())
		}
		if _, err := x.Query(t.Context(), indexAnyTime("T", "k", 1)); !errors.Is(err, ErrIndexClosed) {
			t.Errorf("Query: %v", err)
		}
		if at, err := x.Sync(t.Context(), 100); !errors.Is(err, ErrIndexClosed) || at != 0 {
			t.Errorf("Sync: %d, %v", at, err)
		}
		if err := f.Flush(); !errors.Is(err, ErrIndexClosed) {
			t.Errorf("Fill: %v", err)
		}
	})
}

// verifyTestIndex reads every run file in dir, changes nothing, and returns how many
// there are and, joined, what is wrong with each that is damaged, foreign or
// unreadable. identity as in IndexOptions. For an index that is not open.
func verifyTestIndex(fsys disk.FS, dir string, identity uint64) (files int, err error) {
	entries, err := fsys.ReadDir(indexDirLabel, dir)
	if err != nil {
		return 0, fmt.Errorf("index: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		number, ok := parseIndexRunName(entry.Name())
		if !ok {
			continue
		}
		files++
		name := path.Join(dir, entry.Name())
		r, err := openIndexRun(fsys, name, number, identity)
		if err == nil {
			err = r.verify(fsys)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return files, errors.Join(errs...)
}
