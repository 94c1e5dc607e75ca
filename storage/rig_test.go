package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/storage/disk"
)

// seed is RAFTMQ_SEED, or a new one, and is printed.
func seed(t testing.TB) uint64 {
	n := uint64(time.Now().UnixNano())
	if env := os.Getenv("RAFTMQ_SEED"); env != "" {
		v, err := strconv.ParseUint(env, 10, 64)
		if err != nil {
			t.Fatalf("RAFTMQ_SEED: %v", err)
		}
		n = v
	}
	t.Logf("RAFTMQ_SEED=%d", n)
	return n
}

// testRecord makes a record. Its incarnation and key are properties.
func testRecord(id QueueID, offset, phys, storeTime int64, body []byte, key string) []byte {
	be := binary.BigEndian
	props := fmt.Sprintf("INC\x01%d\x02KEYS\x01%s\x02", id.Incarnation, key)
	b := be.AppendUint32(nil, 0)
	b = be.AppendUint32(b, recordMagic)
	b = be.AppendUint32(b, crc32.ChecksumIEEE(body)&0x7FFFFFFF)
	b = be.AppendUint32(b, uint32(id.Queue))
	b = be.AppendUint32(b, 0)
	b = be.AppendUint64(b, uint64(offset))
	b = be.AppendUint64(b, uint64(phys))
	b = be.AppendUint32(b, 0)
	b = be.AppendUint64(b, uint64(storeTime))
	b = append(b, 127, 0, 0, 1, 0, 0, 0x30, 0x39)
	b = be.AppendUint64(b, uint64(storeTime))
	b = append(b, 127, 0, 0, 1, 0, 0, 0x2a, 0x9f)
	b = be.AppendUint32(b, 0)
	b = be.AppendUint64(b, 0)
	b = be.AppendUint32(b, uint32(len(body)))
	b = append(b, body...)
	b = append(b, byte(len(id.Topic)))
	b = append(b, id.Topic...)
	b = be.AppendUint16(b, uint16(len(props)))
	b = append(b, props...)
	be.PutUint32(b, uint32(len(b)))
	return b
}

func testProps(r record) (inc uint64, key string) {
	for p := range strings.SplitSeq(string(r.properties), "\x02") {
		name, value, _ := strings.Cut(p, "\x01")
		switch name {
		case "INC":
			inc, _ = strconv.ParseUint(value, 10, 64)
		case "KEYS":
			key = value
		}
	}
	return inc, key
}

func testUnitOf(b []byte) (QueueID, int64, Unit, bool) {
	r, err := parseRecord(b)
	if err != nil {
		return QueueID{}, 0, Unit{}, false
	}
	inc, _ := testProps(r)
	return QueueID{string(r.topic), inc, r.queue}, r.queueOffset, Unit{r.phys, int32(len(b)), int64(r.bodyCRC)}, true
}

func testKeysOf(b []byte) []IndexKey {
	r, err := parseRecord(b)
	if err != nil {
		return nil
	}
	_, key := testProps(r)
	if key == "" {
		return nil
	}
	return []IndexKey{{Topic: string(r.topic), Key: key, Phys: r.phys, Time: r.storeTime}}
}

// op is a step of the applying goroutine.
type op struct {
	pos   int64
	log   []byte
	units []modelUnit
	keys  []IndexKey
	trim  int64
	drop  TopicID
}

type modelUnit struct {
	id  QueueID
	off int64
	u   Unit
}

// model is what a store must be after some ops.
type model struct {
	size   int64
	log    []byte // from position 0
	min    int64
	queues map[QueueID][]Unit
	now    int64
	ops    []op
}

func newModel(size int64) *model {
	return &model{size: size, queues: map[QueueID][]Unit{}, now: 1_700_000_000_000}
}

type message struct {
	id   QueueID
	body []byte
	key  string
}

// append makes the op that appends messages.
func (m *model) append(msgs ...message) op {
	o := op{pos: int64(len(m.log))}
	for _, msg := range msgs {
		m.now += int64(len(msg.body) % 3)
		off := int64(len(m.queues[msg.id]))
		pos := int64(len(m.log))
		rec := testRecord(msg.id, off, pos, m.now, msg.body, msg.key)
		if room := m.size - pos%m.size; int64(len(rec)+BlankSize) > room {
			m.log = AppendBlank(m.log, room)
			pos += room
			rec = testRecord(msg.id, off, pos, m.now, msg.body, msg.key)
		}
		m.log = append(m.log, rec...)
		_, _, u, _ := testUnitOf(rec)
		m.queues[msg.id] = append(m.queues[msg.id], u)
		o.units = append(o.units, modelUnit{msg.id, off, u})
		o.keys = append(o.keys, testKeysOf(rec)...)
	}
	o.log = m.log[o.pos:len(m.log):len(m.log)]
	m.ops = append(m.ops, o)
	return o
}

func (m *model) trim(to int64) op {
	m.min = max(m.min, to-to%m.size)
	o := op{trim: to}
	m.ops = append(m.ops, o)
	return o
}

func (m *model) drop(t TopicID) op {
	for id := range m.queues {
		if id.topic() == t {
			delete(m.queues, id)
		}
	}
	o := op{drop: t}
	m.ops = append(m.ops, o)
	return o
}

// minOf is the model's Queue.Min.
func (m *model) minOf(id QueueID) int64 {
	units := m.queues[id]
	i := slices.IndexFunc(units, func(u Unit) bool { return u.Phys >= m.min })
	if i < 0 {
		return int64(len(units))
	}
	return int64(i)
}

// apply does an op to a store.
func apply(s *Store, o op) error {
	switch {
	case o.drop != TopicID{}:
		return s.DropTopic(o.drop.Topic, o.drop.Incarnation)
	case o.trim > 0:
		return s.Trim(o.trim)
	}
	b := Batch{Pos: o.pos, Log: o.log, Keys: o.keys}
	for _, u := range o.units {
		q, err := s.CreateQueue(u.id)
		if err != nil {
			return err
		}
		b.Units = append(b.Units, QueueUnit{q, u.off, u.u})
	}
	return s.Write(&b)
}

// rig is a store, what it must be, and its newest snapshot.
type rig struct {
	t       testing.TB
	fs      *disk.Mem
	opts    Options
	s       *Store
	m       *model
	applied int // ops

	snapMu     sync.Mutex
	snapshot   []byte // encoded manifest, nil if there is none
	snapshotAt int    // ops

	changed chan struct{} // OnRepair
}

func testOptions(fs disk.FS) Options {
	return Options{
		FS: fs, Dir: "/d/store", Cluster: "c", Group: "g", Replica: "r", SegmentSize: 32 << 10,
		HotBytes: 20 << 10, Reserve: 1, MaxOpenFiles: 8, UnitOf: testUnitOf, KeysOf: testKeysOf,
	}
}

// logBuffer keeps the store's log for when a test fails.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func newTestLogger(l *logBuffer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: l, Level: hclog.Debug})
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t testing.TB, o Options) *rig {
	r := &rig{t: t, opts: o, changed: make(chan struct{}, 1)}
	if r.opts.FS == nil {
		r.fs = disk.NewMem(1)
		r.opts.FS = r.fs
	} else {
		r.fs, _ = r.opts.FS.(*disk.Mem)
	}
	r.opts.OnRepair = func() { poke(r.changed) }
	var log logBuffer
	r.opts.Logger = newTestLogger(&log)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log.String())
		}
	})
	r.m = newModel(r.opts.SegmentSize)
	r.open()
	t.Cleanup(func() {
		if r.s != nil {
			r.close()
		}
	})
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// open opens and resumes the store and replays what comes after its snapshot.
func (r *rig) open() {
	r.t.Helper()
	s, err := Open(r.opts)
	r.must(err)
	r.s = s
	r.must(s.Resume(r.manifest()))
	r.applied = r.snapshotAt
	r.replay()
}

func (r *rig) manifest() *Manifest {
	if r.snapshot == nil {
		return nil
	}
	m, err := ParseManifest(r.snapshot)
	r.must(err)
	return m
}

func (r *rig) replay() {
	r.t.Helper()
	for ; r.applied < len(r.m.ops); r.applied++ {
		r.must(apply(r.s, r.m.ops[r.applied]))
	}
}

func (r *rig) do(o op) {
	r.t.Helper()
	r.must(apply(r.s, o))
	r.applied++
}

// snap takes a snapshot.
func (r *rig) snap() {
	r.t.Helper()
	m := r.s.Pin()
	r.must(r.s.Sync(m))
	r.keep(m)
}

func (r *rig) keep(m *Manifest) {
	b, err := m.AppendBinary(nil)
	r.must(err)
	r.snapMu.Lock()
	defer r.snapMu.Unlock()
	r.snapshot, r.snapshotAt = b, r.applied
}

func (r *rig) close() {
	r.t.Helper()
	err := r.s.Close()
	if err != nil && !errors.Is(err, ErrPoisoned) {
		r.t.Error(err)
	}
	r.s = nil
}

// restart closes the store and opens what file system is given.
func (r *rig) restart(fs *disk.Mem) {
	r.t.Helper()
	old := r.s
	r.fs, r.opts.FS = fs, fs
	if err := old.Close(); err != nil {
		r.t.Logf("close of the store left behind: %v", err)
	}
	r.open()
}

// kill restarts the store as kill -9 would.
func (r *rig) kill() { r.t.Helper(); r.restart(r.fs.Clone()) }

// crash restarts the store as a power loss would.
func (r *rig) crash(seed uint64) { r.t.Helper(); r.restart(r.fs.Crash(seed)) }

// await waits until the store has repaired what it can by itself.
func (r *rig) await(done func() bool) {
	r.t.Helper()
	deadline := time.After(30 * time.Second)
	for !done() {
		select {
		case <-r.changed:
		case <-deadline:
			r.t.Fatalf("not done: missing %v, stats %+v", r.s.Missing(), r.s.Stats())
		}
	}
}

// check compares everything readable with the model, byte for byte.
func (r *rig) check() {
	r.t.Helper()
	if err := r.compare(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) compare() error {
	s, m := r.s, r.m
	if s.Min() != m.min || s.End() != int64(len(m.log)) {
		return fmt.Errorf("log is [%d, %d), expected [%d, %d)", s.Min(), s.End(), m.min, len(m.log))
	}
	for at := m.min; at < s.End(); {
		n := min(10_000, s.End()-at, m.size-at%m.size)
		b, err := s.Read(at, int(n))
		if err != nil {
			return fmt.Errorf("read %d at %d: %w", n, at, err)
		}
		if !bytes.Equal(b, m.log[at:at+n]) {
			return fmt.Errorf("bytes at %d differ", at)
		}
		at += n
	}
	for id, units := range m.queues {
		if err := compareQueue(s, m, id, units); err != nil {
			return err
		}
	}
	for _, q := range s.allQueues() {
		if m.queues[q.id] == nil && q.Max() > 0 {
			return fmt.Errorf("queue %s should not be there", q.id)
		}
	}
	return nil
}

func compareQueue(s *Store, m *model, id QueueID, units []Unit) error {
	q := s.Queue(id)
	if q == nil {
		return fmt.Errorf("queue %s is not there", id)
	}
	lo, err := q.Min()
	if err != nil {
		return fmt.Errorf("queue %s: %w", id, err)
	}
	if lo != m.minOf(id) || q.Max() != int64(len(units)) {
		return fmt.Errorf("queue %s is [%d, %d), expected [%d, %d)", id, lo, q.Max(), m.minOf(id), len(units))
	}
	got, err := q.Units(lo, len(units), nil)
	if err != nil {
		return fmt.Errorf("units of queue %s from %d: %w", id, lo, err)
	}
	if !slices.Equal(got, units[lo:]) {
		return fmt.Errorf("units of queue %s from %d differ", id, lo)
	}
	for i, u := range got {
		v, err := s.View(u.Phys, int(u.Size))
		if err != nil {
			return fmt.Errorf("unit %d of queue %s: %w", lo+int64(i), id, err)
		}
		ok := bytes.Equal(v.Bytes, m.log[u.Phys:u.Phys+int64(u.Size)])
		v.Release()
		if !ok {
			return fmt.Errorf("view of unit %d of queue %s differs", lo+int64(i), id)
		}
	}
	return nil
}

// messages makes random messages for some queues.
func messages(rng *rand.Rand, n, queues, maxBody int) (msgs []message) {
	for range n {
		id := QueueID{Topic: fmt.Sprintf("t%d", rng.IntN(3)), Incarnation: 1, Queue: int32(rng.IntN(queues))}
		body := make([]byte, rng.IntN(maxBody))
		for i := range body {
			body[i] = byte(rng.Uint32())
		}
		key := ""
		if rng.IntN(2) == 0 {
			key = strconv.Itoa(rng.IntN(1000))
		}
		msgs = append(msgs, message{id, body, key})
	}
	return msgs
}
