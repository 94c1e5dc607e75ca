package storage

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// The bytes on the disk, spelled out: a change of the layout is a change of this
// test.
func TestGoldenLayout(t *testing.T) {
	o := testOptions(nil)
	o.SegmentSize, o.KeysOf = 4096, nil
	r := newRig(t, o)
	id := QueueID{"Topic", 3, 2}
	first := testRecord(id, 0, 0, 0x18c, []byte("hello"), "")
	const want = "00000071" + "daa320a7" + "3610a686" + "00000002" + "00000000" + // size, magic, body CRC, queue, flag
		"0000000000000000" + "0000000000000000" + "00000000" + // queue offset, physical offset, sys flag
		"000000000000018c" + "7f00000100003039" + "000000000000018c" + "7f00000100002a9f" + // born, store
		"00000000" + "0000000000000000" + // reconsume times, prepared transaction offset
		"00000005" + "68656c6c6f" + "05" + "546f706963" + "000c" + "494e4301330" + "24b45595301" + "02" // body, topic, properties
	if got := hex.EncodeToString(first); got != want {
		t.Errorf("record\n%s, expected\n%s", got, want)
	}
	// 113 bytes, then one that leaves exactly 8 for the blank, then one more.
	fill := 4096 - 113 - BlankSize - len(testRecord(id, 1, 0, 0, nil, ""))
	r.m.now = 0x18c
	r.do(r.m.append(message{id: id, body: []byte("hello")}, message{id: id, body: make([]byte, fill)}, message{id: id, body: []byte("x")}))
	r.snap()
	r.await(func() bool { poke(r.changed); return r.s.alloc.isReady() })
	s := r.opts.Dir
	seg0, seg1 := r.content(s+"/commitlog/00000000000000000000"), r.content(s+"/commitlog/00000000000000004096")
	if len(seg0) != 4096 || len(seg1) != 4096 {
		t.Errorf("segments of %d and %d bytes", len(seg0), len(seg1))
	}
	if got := hex.EncodeToString(seg0[4088:]); got != "00000008cbd43194" {
		t.Errorf("blank %s", got)
	}
	if !bytes.Equal(seg0, r.m.log[:4096]) || !bytes.Equal(seg1[:len(r.m.log)-4096], r.m.log[4096:]) {
		t.Error("the segments' bytes differ from the batch's")
	}
	queue := r.content(s + "/consumequeue/Topic@3/2/00000000000000000000")
	if got := hex.EncodeToString(queue[:20]) + " " + hex.EncodeToString(queue[40:]); got !=
		"0000000000000000"+"00000071"+"000000003610a686"+" "+"0000000000001000"+"0000006d"+"000000000cdc1683" {
		t.Errorf("queue %s", got)
	}
	sums := r.content(s + "/commitlog-sums/00000000000000000000")
	if got := decodeSum(sums); len(sums) != 4 || got != blockSum(seg0) {
		t.Errorf("sums %x, expected %08x", sums, blockSum(seg0))
	}
	var names []string
	for _, name := range r.fileNames(s) {
		names = append(names, strings.TrimPrefix(name, s+"/"))
	}
	if want := []string{
		"checkpoint.1", "commitlog/00000000000000000000", "commitlog/00000000000000004096", "commitlog/00000000000000008192",
		"commitlog-sums/00000000000000000000", "commitlog-sums/00000000000000004096", "commitlog-sums/00000000000000008192",
		"consumequeue/Topic@3/2/00000000000000000000", "format", "lock",
	}; !slices.Equal(names, want) {
		t.Errorf("files %q, expected %q", names, want)
	}
	if got, want := string(r.content(s+"/format")), "raftmq storage 1\nsegment-size 4096\ncluster \"c\"\ngroup \"g\"\nreplica \"r\"\ncrc32c "; !strings.HasPrefix(got, want) {
		t.Errorf("format %q", got)
	}
	r.check()
}

// A record needs 8 bytes behind it in its segment, and not one more.
func TestSTORE05RecordAtSegmentEnd(t *testing.T) {
	id := QueueID{"t", 1, 0}
	empty := int64(len(testRecord(id, 0, 0, 0, nil, "")))
	for over := int64(-2); over <= 2; over++ {
		r := newRig(t, testOptions(nil))
		room := r.m.size - empty
		r.do(r.m.append(message{id: id}, message{id: id, body: make([]byte, room-empty-BlankSize+over)}))
		r.do(r.m.append(message{id: id, body: []byte("next")}))
		want := []int64{0, empty, r.m.size}
		if over > 0 {
			want[1], want[2] = r.m.size, 2*r.m.size
		}
		got, err := r.s.Queue(id).Units(0, 3, nil)
		r.must(err)
		for i, u := range got {
			if u.Phys != want[i] {
				t.Errorf("over %d: record %d at %d, expected %d", over, i, u.Phys, want[i])
			}
		}
		r.check()
		r.snap()
		r.crash(1)
		r.check()
	}
}

// One batch may span many segments.
func TestBatchOverSegments(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	r := newRig(t, testOptions(nil))
	r.do(r.m.append(messages(rng, 100, 3, 4000)...))
	if n := len(r.s.state.Load().segs); n < 4 {
		t.Fatalf("%d segments", n)
	}
	r.check()
	r.kill()
	r.check()
	r.snap()
	r.crash(3)
	r.check()
}

// A queue has several files; those that a trim leaves nothing of go, the last
// never does.
func TestQueueFiles(t *testing.T) {
	t.Parallel()
	o := testOptions(nil)
	o.SegmentSize, o.KeysOf = 8<<20, nil
	r := newRig(t, o)
	id := QueueID{"q", 1, 0}
	msgs := slices.Repeat([]message{{id: id}}, 10_000)
	for range 65 {
		r.do(r.m.append(msgs...))
	}
	file := func(n int) string { return queueFilePath(r.opts.Dir, id, int64(n)*unitsPerFile) }
	there := func() (there []bool) {
		for n := range 3 {
			_, err := r.fs.Stat("", file(n))
			there = append(there, err == nil)
		}
		return there
	}
	sample := func() {
		t.Helper()
		q := r.s.Queue(id)
		lo, err := q.Min()
		r.must(err)
		if lo != r.m.minOf(id) || q.Max() != 650_000 {
			t.Fatalf("queue [%d, %d), expected [%d, 650000)", lo, q.Max(), r.m.minOf(id))
		}
		for _, at := range []int64{lo, 299_990, 300_000, 599_999, 649_990} {
			if at < lo {
				continue
			}
			got, err := q.Units(at, 20, nil)
			if err != nil || !slices.Equal(got, r.m.queues[id][at:min(at+20, 650_000)]) {
				t.Fatalf("units at %d: %v", at, err)
			}
		}
	}
	sample()
	r.snap()
	if size := r.size(file(0)); size != 6_000_000 || !slices.Equal(there(), []bool{true, true, true}) {
		t.Fatalf("files %v, the first of %d bytes", there(), size)
	}
	r.crash(1)
	sample()
	units := r.m.queues[id]
	for _, c := range []struct {
		to   int64
		want []bool
	}{
		{units[299_998].Phys, []bool{true, true, true}}, // may be in the same segment: the first file's end is needed
		{units[599_000].Phys, []bool{false, true, true}},
		{r.s.End(), []bool{false, false, true}},
	} {
		r.do(r.m.trim(c.to))
		r.await(func() bool { poke(r.changed); return slices.Equal(there(), c.want) })
		sample()
		r.crash(2) // replayed from a snapshot that knows nothing of it
		sample()
		r.await(func() bool { poke(r.changed); return slices.Equal(there(), c.want) })
	}
	r.snap()
	r.crash(3)
	sample()
	// A replica that begins now has the same offsets, and none of the old files.
	next := newRig(t, o)
	next.m = r.m
	next.snapshot, next.snapshotAt, next.applied = r.snapshot, r.snapshotAt, r.snapshotAt
	next.must(next.s.Resume(next.manifest()))
	rng := rand.New(rand.NewPCG(seed(t), 0))
	next.await(func() bool {
		for fetch(t, rng, next.s, r.s) {
		}
		return next.s.Complete()
	})
	next.check()
	if _, err := next.fs.Stat("", file(0)); err == nil {
		t.Error("a new replica has a queue file that was trimmed")
	}
}

// A queue whose records are all trimmed is empty at its old end, and goes on
// there.
func TestSTORE10EmptiedQueue(t *testing.T) {
	r := newRig(t, testOptions(nil))
	id := QueueID{"old", 1, 0}
	r.do(r.m.append(message{id: id, body: []byte("x")}, message{id: id, body: []byte("y")}))
	for range 30 {
		r.do(r.m.append(message{id: QueueID{"new", 1, 0}, body: make([]byte, 3000)}))
	}
	r.do(r.m.trim(r.s.End()))
	q := r.s.Queue(id)
	if lo, err := q.Min(); lo != 2 || q.Max() != 2 || err != nil {
		t.Fatalf("queue [%d, %d), %v", lo, q.Max(), err)
	}
	if got, err := q.Units(2, 1, nil); len(got) != 0 || err != nil {
		t.Errorf("units at the end: %v, %v", got, err)
	}
	if _, err := q.Units(1, 1, nil); !errors.Is(err, ErrTrimmed) {
		t.Errorf("a trimmed unit: %v", err)
	}
	r.do(r.m.append(message{id: id, body: []byte("z")}))
	if lo, err := q.Min(); lo != 2 || q.Max() != 3 || err != nil {
		t.Errorf("queue [%d, %d), %v", lo, q.Max(), err)
	}
	r.check()
	r.snap()
	r.crash(1)
	r.check()
}

func TestReadBounds(t *testing.T) {
	r := newRig(t, testOptions(nil))
	for range 40 {
		r.do(r.m.append(message{id: QueueID{"t", 1, 0}, body: make([]byte, 3000)}))
	}
	r.do(r.m.trim(r.m.size))
	end := r.s.End()
	for _, c := range []struct {
		off  int64
		size int
		want error
	}{
		{-1, 1, ErrBeyond}, {0, 1, ErrTrimmed}, {r.m.size - 1, 1, ErrTrimmed}, {r.m.size, 0, ErrBeyond}, {r.m.size, -1, ErrBeyond},
		{end, 1, ErrBeyond}, {end - 1, 2, ErrBeyond}, {1 << 62, 1 << 30, ErrBeyond}, {2*r.m.size - 1, 2, ErrBeyond},
		{r.m.size, 1, nil}, {end - 1, 1, nil}, {2*r.m.size - 1, 1, nil},
	} {
		_, err := r.s.Read(c.off, c.size)
		v, viewErr := r.s.View(c.off, c.size)
		if c.want == nil && (err != nil || viewErr != nil) || !errors.Is(err, c.want) || !errors.Is(viewErr, c.want) {
			t.Errorf("read of %d at %d: %v, view: %v, expected %v", c.size, c.off, err, viewErr, c.want)
		}
		v.Release()
	}
	q := r.s.Queue(QueueID{"t", 1, 0})
	for _, c := range []struct {
		off  int64
		n    int
		want error
	}{{-1, 1, ErrBeyond}, {41, 1, ErrBeyond}, {1 << 62, 1 << 30, ErrBeyond}, {0, -1, ErrBeyond}, {0, 1, ErrTrimmed}, {40, 1 << 30, nil}, {39, 1 << 30, nil}, {39, 0, nil}} {
		if _, err := q.Units(c.off, c.n, nil); c.want == nil && err != nil || !errors.Is(err, c.want) {
			t.Errorf("%d units at %d: %v, expected %v", c.n, c.off, err, c.want)
		}
	}
	if r.s.Queue(QueueID{"t", 2, 0}) != nil {
		t.Error("a queue that nobody made")
	}
}

func TestOffsetByTime(t *testing.T) {
	r := newRig(t, testOptions(nil))
	id := QueueID{"t", 1, 0}
	r.m.now = 1000
	for _, n := range []int{0, 0, 1, 1, 0, 2, 2} { // message.append adds the body's length modulo 3
		r.do(r.m.append(message{id: id, body: make([]byte, n)}))
	}
	// times: 1000 1000 1001 1002 1002 1004 1006
	q := r.s.Queue(id)
	for _, c := range []struct{ ms, lower, upper int64 }{
		{0, 0, 0}, {999, 0, 0}, {1000, 0, 1}, {1001, 2, 2}, {1002, 3, 4}, {1003, 5, 4}, {1004, 5, 5}, {1005, 6, 5}, {1006, 6, 6}, {1007, 7, 6}, {1 << 60, 7, 6},
	} {
		lower, err := q.OffsetByTime(c.ms, Lower)
		r.must(err)
		upper, err := q.OffsetByTime(c.ms, Upper)
		r.must(err)
		if lower != c.lower || upper != c.upper {
			t.Errorf("at %d: lower %d, upper %d; expected %d, %d", c.ms, lower, upper, c.lower, c.upper)
		}
	}
	empty, err := r.s.CreateQueue(QueueID{"t", 1, 1})
	r.must(err)
	for _, b := range []Boundary{Lower, Upper} {
		if got, err := empty.OffsetByTime(5, b); got != 0 || err != nil {
			t.Errorf("in an empty queue: %d, %v", got, err)
		}
	}
}

// A dropped topic's files stay until a later snapshot is synced, and then go; a
// topic of the same name has others.
func TestDropTopic(t *testing.T) {
	r := newRig(t, testOptions(nil))
	old, renewed := QueueID{"t", 1, 0}, QueueID{"t", 2, 0}
	r.do(r.m.append(message{id: old, body: []byte("a")}, message{id: old, body: []byte("b")}))
	before := r.s.Pin()
	q := r.s.Queue(old)
	r.do(r.m.drop(old.topic()))
	if r.s.Queue(old) != nil {
		t.Error("the queue is still there")
	}
	if _, err := q.Units(0, 1, nil); !errors.Is(err, ErrDropped) {
		t.Errorf("units of a dropped queue: %v", err)
	}
	if _, err := q.Min(); !errors.Is(err, ErrDropped) {
		t.Errorf("minimum of a dropped queue: %v", err)
	}
	r.do(r.m.append(message{id: renewed, body: []byte("c")}))
	r.check()
	r.must(r.s.Sync(before)) // pinned before the drop: a replay from it needs the files
	exists := func() bool {
		_, err := r.fs.Stat("", topicPath(r.opts.Dir, old.topic()))
		return err == nil
	}
	if !exists() {
		t.Fatal("the files went with a snapshot that names them")
	}
	r.snap()
	r.await(func() bool { poke(r.changed); return !exists() })
	r.check()
	r.crash(1)
	r.check()
}

// CreateQueue refuses what would not be a name of its own on the disk.
func TestQueueNames(t *testing.T) {
	r := newRig(t, testOptions(nil))
	for _, topic := range []string{"", ".", "..", "../x", "a/b", "a@b", "a\x00b", ".x", strings.Repeat("x", MaxTopicLen+1)} {
		if _, err := r.s.CreateQueue(QueueID{topic, 1, 0}); err == nil {
			t.Errorf("topic %q was taken", topic)
		}
	}
	if _, err := r.s.CreateQueue(QueueID{"x", 1, -1}); err == nil {
		t.Error("queue -1 was taken")
	}
	long := QueueID{strings.Repeat("x", MaxTopicLen), 1<<64 - 1, 1<<31 - 1}
	r.do(r.m.append(message{id: long}, message{id: QueueID{"%RETRY%g|1_-", 1, 0}}))
	r.snap()
	r.crash(1)
	r.check()
}

// An older snapshot than the newest is taken, and said so.
func TestOlderSnapshot(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(seed(t), 0))
	r := newRig(t, testOptions(nil))
	var log logBuffer
	r.opts.Logger = newTestLogger(&log)
	r.do(r.m.append(r.randomBatch(rng, 1)...))
	r.snap()
	older, at := r.snapshot, r.snapshotAt
	for int64(len(r.m.log)) < 4*r.m.size {
		r.do(r.m.append(r.randomBatch(rng, 1)...))
	}
	r.do(r.m.trim(r.m.size * 3))
	r.snap()
	r.await(func() bool {
		poke(r.changed)
		_, err := r.fs.Stat("", segmentPath(r.opts.Dir, 0))
		return err != nil
	})
	for _, s := range []struct {
		b  []byte
		at int
	}{{older, at}, {nil, 0}} {
		r.snapshot, r.snapshotAt = s.b, s.at
		r.crash(1)
		r.check()
		if !strings.Contains(log.String(), "older than the last one") {
			t.Error("nothing in the log says so")
		}
		r.await(r.s.Complete)
		r.snap()
	}
	r.crash(1)
	r.check()
}

func TestStats(t *testing.T) {
	r := newRig(t, testOptions(nil))
	r.do(r.m.append(message{id: QueueID{"t", 1, 0}, body: []byte("x"), key: "k"}))
	got := fmt.Sprintf("%+v", r.s.Stats())
	if !strings.Contains(got, "Queues:1") || !strings.Contains(got, "Pending:20") || !strings.Contains(got, "TableEntries:1") {
		t.Errorf("stats %s", got)
	}
}
