package fsm

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
)

const testSegment = 1 << 16

var (
	testHost = netip.MustParseAddrPort("127.0.0.1:10911")
	testBorn = netip.MustParseAddrPort("127.0.0.1:54321")
)

// replica is a State over a store of its own, and the log fed to it.
type replica struct {
	t     testing.TB
	fs    *disk.Mem
	store *storage.Store
	*State
}

func newReplica(t testing.TB) *replica {
	t.Helper()
	r := &replica{t: t, fs: disk.NewMem(1)}
	store, err := storage.Open(storage.Options{
		FS: r.fs, Dir: "store", Cluster: "c", Group: "g", Replica: "r", SegmentSize: testSegment,
		UnitOf: func(rec []byte) (storage.QueueID, int64, storage.Unit, bool) { return r.Locate(rec) },
		KeysOf: KeysOf,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	r.store, r.State = store, New(store, testSegment)
	if err := store.Resume(nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// feed applies commands as entries that follow what was applied.
func (r *replica) feed(commands ...[]byte) [][]Result {
	r.t.Helper()
	var entries []Entry
	for i, c := range commands {
		entries = append(entries, Entry{Index: r.applied + uint64(i) + 1, Term: 1, Data: c})
	}
	results, err := r.Apply(entries)
	if err != nil {
		r.t.Fatal(err)
	}
	return results
}

func at(now int64, command []byte) []byte {
	Stamp(command, now)
	return command
}

func testTopic(name string, queues int32) remoting.TopicConfig {
	c := remoting.NewTopicConfig(name)
	c.ReadQueueNums, c.WriteQueueNums = queues, queues
	return c
}

func testConfigure() []byte {
	return Configure(Configuration{GroupID: "id", SegmentSize: testSegment, DedupSpan: 1000, DedupMax: 100})
}

type message struct {
	topic  string
	queue  int32
	body   string
	uniq   string
	tags   string
	keys   string
	repeat bool
	delay  int64
	real   string // topic a delayed message is for
	waited int64  // where a message that is delivered waited
}

func (m message) record(t testing.TB) []byte {
	t.Helper()
	var props remoting.Properties
	for _, p := range [][2]string{{remoting.PropUniqKey, m.uniq}, {remoting.PropTags, m.tags}, {remoting.PropKeys, m.keys}, {remoting.PropRealTopic, m.real}} {
		if p[1] != "" {
			props = remoting.AppendProperty(props, p[0], p[1])
		}
	}
	b, err := remoting.AppendRecord(nil, &remoting.Record{
		QueueID: m.queue, PhysicalOffset: m.waited, Topic: m.topic, Body: []byte(m.body), Properties: props, BornHost: testBorn, StoreHost: testHost,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (m message) key() Key {
	if m.uniq == "" {
		return Key{}
	}
	return SendKey(cmp.Or(m.real, m.topic), 0, []byte(m.uniq))
}

// appendCommand is one command of a send for each message.
func appendCommand(t testing.TB, messages ...message) []byte {
	t.Helper()
	a := NewAppendCommand(nil, testHost)
	for _, m := range messages {
		a.End(append(a.Begin(SendMeta{Key: m.key(), Repeat: m.repeat, Delay: m.delay}), m.record(t)...), 1)
	}
	return a.Bytes()
}

func TestAppendAssignsOffsetsAndTimes(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 2), false))
	results := r.feed(
		at(100, appendCommand(t, message{topic: "T", queue: 0, body: "a", tags: "x"}, message{topic: "T", queue: 1, body: "b"})),
		at(50, appendCommand(t, message{topic: "T", queue: 0, body: "c"})), // a clock set back
	)
	var got []string
	for _, res := range slices.Concat(results...) {
		rec, err := r.store.Record(res.Physical)
		if err != nil {
			t.Fatal(err)
		}
		v, err := remoting.ParseRecord(rec)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d/%d at %d, status %d", v.Body(), v.QueueID(), v.QueueOffset(), v.StoreTimestamp(), res.Status))
		if v.PhysicalOffset() != res.Physical || v.QueueOffset() != res.QueueOffset {
			t.Errorf("record %s disagrees with its result %+v", v.Body(), res)
		}
	}
	want := []string{"a 0/0 at 100, status 0", "b 1/0 at 100, status 0", "c 0/1 at 100, status 0"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	units, err := r.store.Queue(storage.QueueID{Topic: "T", Incarnation: 1, Queue: 0}).Units(0, 10, nil)
	if err != nil || len(units) != 2 || units[0].Tag != int64(remoting.TagHash("x")) || units[1].Tag != 0 {
		t.Errorf("units %+v, %v", units, err)
	}
}

func TestRecordsDoNotCrossSegments(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 1), false))
	body := string(bytes.Repeat([]byte("x"), testSegment/3))
	for range 7 {
		for _, res := range slices.Concat(r.feed(appendCommand(t, message{topic: "T", body: body}, message{topic: "T", body: body}))...) {
			size := int64(len(message{topic: "T", body: body}.record(t)))
			if res.Physical/testSegment != (res.Physical+size+storage.BlankSize-1)/testSegment {
				t.Errorf("a record of %d bytes at %d leaves no room for the blank in its segment", size, res.Physical)
			}
			if _, err := r.store.Record(res.Physical); err != nil {
				t.Error(err)
			}
		}
	}
	huge := message{topic: "T", body: string(make([]byte, testSegment))}
	if res := r.feed(appendCommand(t, huge))[0][0]; res.Status != TooLarge {
		t.Errorf("a record larger than a segment: %+v", res)
	}
}

func TestSendsThatCannotBeStored(t *testing.T) {
	r := newReplica(t)
	if res := r.feed(PutTopic(testTopic("T", 1), false), appendCommand(t, message{topic: "T"}))[1][0]; res.Status != NotConfigured {
		t.Errorf("before the configuration: %+v", res)
	}
	r.feed(testConfigure())
	for _, c := range []struct {
		m    message
		want Status
	}{
		{message{topic: "nope"}, NoTopic},
		{message{topic: "T", queue: 1}, BadQueue},
		{message{topic: "T", queue: -1}, BadQueue},
		{message{topic: "T"}, Stored},
	} {
		if res := r.feed(appendCommand(t, c.m))[0][0]; res.Status != c.want {
			t.Errorf("%+v: %+v, want status %d", c.m, res, c.want)
		}
	}
}

func TestRepeatedSendIsStoredOnce(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 2), false))
	m := message{topic: "T", queue: 1, body: "a", uniq: "K"}
	first := r.feed(at(1000, appendCommand(t, m)))[0][0]
	again := r.feed(at(1500, appendCommand(t, m)))[0][0]
	if again.Status != Repeated || again.Physical != first.Physical || again.QueueOffset != first.QueueOffset ||
		again.Queue != 1 || again.StoreHost != first.StoreHost {
		t.Errorf("the repeat got %+v, the first %+v", again, first)
	}
	m.repeat = true
	if res := r.feed(at(1600, appendCommand(t, m)))[0][0]; res.Status != Stored || res.QueueOffset != 1 {
		t.Errorf("the deliberate repeat got %+v", res)
	}
	m.repeat = false
	if res := r.feed(at(1700, appendCommand(t, m)))[0][0]; res.Status != Repeated || res.QueueOffset != 1 {
		t.Errorf("the repeat of the deliberate one got %+v", res)
	}
	// 1000 ms after the last one the window has passed.
	if res := r.feed(at(2601, appendCommand(t, m)))[0][0]; res.Status != Stored || res.QueueOffset != 2 {
		t.Errorf("after the window it got %+v", res)
	}
	other := message{topic: "T", queue: 1, body: "a", uniq: "L"}
	if res := r.feed(at(2602, appendCommand(t, other)))[0][0]; res.Status != Stored {
		t.Errorf("another key got %+v", res)
	}
	c := testTopic("T", 2)
	c.Attributes = map[string]string{AttributeDedup: "false"}
	r.feed(PutTopic(c, false))
	if res := r.feed(at(2603, appendCommand(t, m)))[0][0]; res.Status != Stored {
		t.Errorf("a topic without the window got %+v", res)
	}
}

func TestWindowForgetsTheOldestBeyondItsSize(t *testing.T) {
	w := newWindow(1<<40, 10_000)
	key := func(i int) Key { return SendKey("T", 0, fmt.Append(nil, i)) }
	for i := range 25_000 {
		w.add(sent{key: key(i), at: int64(i), queueOffset: int64(i)})
	}
	for i := range 25_000 {
		e, ok := w.find(key(i))
		if want := i >= 15_000; ok != want || ok && e.queueOffset != int64(i) {
			t.Fatalf("send %d: found %v %+v", i, ok, e)
		}
	}
	if len(w.index) != 10_000 {
		t.Errorf("%d keys are indexed", len(w.index))
	}
	n := 15_000
	w.pin().each(func(e sent) {
		if e.key != key(n) {
			t.Fatalf("the pinned window has %+v in the place of send %d", e, n)
		}
		n++
	})
	if n != 25_000 {
		t.Errorf("the pinned window ends at send %d", n)
	}
}

func TestDeletedTopicDoesNotComeBack(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 1), false), appendCommand(t, message{topic: "T", body: "old"}),
		CommitOffsets([]Offset{{Group: "g", Topic: "T", Queue: 0, Offset: 1}}))
	if o, ok := r.CommittedOffset("g", "T", 0); !ok || o != 1 {
		t.Fatalf("offset %d, %v", o, ok)
	}
	old, err := r.store.Record(0)
	if err != nil {
		t.Fatal(err)
	}
	results := r.feed(DeleteTopic("T"), appendCommand(t, message{topic: "T"}), CommitOffsets([]Offset{{Group: "g", Topic: "T", Queue: 0, Offset: 1}}),
		PutTopic(testTopic("T", 1), false), appendCommand(t, message{topic: "T", body: "new"}))
	if results[1][0].Status != NoTopic || results[4][0].QueueOffset != 0 {
		t.Errorf("after deletion %+v, after creation %+v", results[1][0], results[4][0])
	}
	if o, ok := r.CommittedOffset("g", "T", 0); ok {
		t.Errorf("the deleted topic's offset %d is there", o)
	}
	if q, _, _, ok := r.Locate(old); ok {
		t.Errorf("the deleted topic's record is in %v", q)
	}
}

func TestOffsetsAndGroups(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 4), false), PutGroup(remoting.NewGroupConfig("g"), true))
	r.feed(CommitOffsets([]Offset{{"g", "T", 2, 7}, {"g", "T", 0, 3}, {"h", "T", 0, 9}, {"g", "T", -1, 1}, {"g", "T", 1, -5}, {"g", "no", 0, 1}}))
	var all []Offset
	r.CommittedOffsets(func(o Offset) { all = append(all, o) })
	if want := []Offset{{"g", "T", 0, 3}, {"g", "T", 2, 7}, {"h", "T", 0, 9}}; !slices.Equal(all, want) {
		t.Errorf("offsets %+v, want %+v", all, want)
	}
	g := remoting.NewGroupConfig("g")
	g.RetryMaxTimes = 3
	r.feed(PutGroup(g, false), PutGroup(remoting.NewGroupConfig("g"), true))
	if got, ok := r.Group("g"); !ok || got.RetryMaxTimes != 3 {
		t.Errorf("group %+v, %v", got, ok)
	}
	r.feed(DeleteGroup("g", true))
	if _, ok := r.Group("g"); ok {
		t.Error("the group is there after its deletion")
	}
	if _, ok := r.CommittedOffset("g", "T", 0); ok {
		t.Error("its offsets are there")
	}
	if _, ok := r.CommittedOffset("h", "T", 0); !ok {
		t.Error("another group's offsets are gone")
	}
}

func TestSTORE11TrimTakesWholeSegmentsAndNeverTheLast(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 1), false))
	m := message{topic: "T", body: string(make([]byte, testSegment/2))}
	for range 6 {
		r.feed(appendCommand(t, m))
	}
	for _, c := range []struct{ to, want int64 }{
		{testSegment - 1, 0}, {testSegment + 5, testSegment}, {10, testSegment}, {1 << 40, 5 * testSegment},
	} {
		r.feed(Trim(c.to))
		if r.min != c.want || r.store.Min() != c.want {
			t.Errorf("trimmed to %d: the log begins at %d, in the store at %d; want %d", c.to, r.min, r.store.Min(), c.want)
		}
	}
}

func TestDelayedMessageIsDeliveredOnceAndNotedWithIt(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 1), false), PutTopic(testTopic(remoting.TopicSchedule, 18), false))
	r.feed(at(1000, appendCommand(t, message{topic: remoting.TopicSchedule, queue: 2, body: "a", delay: 10_000}, message{topic: remoting.TopicSchedule, queue: 2, body: "b", delay: 10_000})))
	units, err := r.store.Queue(storage.QueueID{Topic: remoting.TopicSchedule, Incarnation: 2, Queue: 2}).Units(0, 10, nil)
	if err != nil || len(units) != 2 || units[0].Tag != 11_000 {
		t.Fatalf("schedule queue %+v, %v", units, err)
	}
	deliver := func(from int64, messages ...message) []byte {
		a := NewDeliverCommand(testHost, 2, from)
		for _, m := range messages {
			if m.topic == "" {
				a.End(a.Begin(SendMeta{}), 0)
				continue
			}
			a.End(append(a.Begin(SendMeta{}), m.record(t)...), 1)
		}
		return a.Bytes()
	}
	first := deliver(0, message{topic: "T", body: "a"})
	statuses := func(results [][]Result) (all []Status) {
		for _, r := range slices.Concat(results...) {
			all = append(all, r.Status)
		}
		return all
	}
	if got := statuses(r.feed(first, first)); !slices.Equal(got, []Status{Stored, Stale}) {
		t.Errorf("delivered twice: %v", got)
	}
	if r.Delivered(2) != 1 || r.Delivered(0) != 0 {
		t.Errorf("emptied up to %d and %d", r.Delivered(2), r.Delivered(0))
	}
	// A topic that is gone, and a message passed over, hold nothing up.
	if got := statuses(r.feed(deliver(1, message{topic: "gone", body: "b"}, message{}))); !slices.Equal(got, []Status{NoTopic, Stored}) {
		t.Errorf("undeliverable ones: %v", got)
	}
	if r.Delivered(2) != 3 {
		t.Errorf("emptied up to %d", r.Delivered(2))
	}
	q := r.store.Queue(storage.QueueID{Topic: "T", Incarnation: 1, Queue: 0})
	if q.Max() != 1 {
		t.Errorf("%d messages were delivered", q.Max())
	}
}

func TestDelayedMessageForAQueueThatIsGoneGoesToAnother(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 4), false), PutTopic(testTopic(remoting.TopicSchedule, 1), false), PutTopic(testTopic("T", 2), false))
	a := NewDeliverCommand(testHost, 0, 0)
	a.End(append(a.Begin(SendMeta{}), message{topic: "T", queue: 3, body: "a"}.record(t)...), 1)
	command := a.Bytes()
	before := bytes.Clone(command)
	if res := r.feed(command)[0][0]; res.Status != Stored || res.Queue != 1 {
		t.Errorf("delivered to a topic that has two of its four queues left: %+v", res)
	}
	if !bytes.Equal(command[headerSize:], before[headerSize:]) {
		t.Error("the entry was changed")
	}
}

func TestSendToATopicThatWasMadeAgainIsNoRepeat(t *testing.T) {
	r := newReplica(t)
	m := message{topic: "T", uniq: "u"}
	results := r.feed(testConfigure(), PutTopic(testTopic("T", 1), false), appendCommand(t, m), DeleteTopic("T"),
		PutTopic(testTopic("T", 1), false), appendCommand(t, m), appendCommand(t, m))
	got := []Status{results[2][0].Status, results[5][0].Status, results[6][0].Status}
	if !slices.Equal(got, []Status{Stored, Stored, Repeated}) || results[5][0].QueueOffset != 0 {
		t.Errorf("before the topic was deleted, after, and again: %v", got)
	}
}

func deliverOne(t testing.TB, from int64, m message) []byte {
	t.Helper()
	a := NewDeliverCommand(testHost, 0, from)
	a.End(append(a.Begin(SendMeta{}), m.record(t)...), 1)
	return a.Bytes()
}

// A topic without a queue keeps what was acknowledged: it is there once the topic
// has queues again.
func TestDelayedMessageForATopicWithoutQueuesIsKept(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 4), false), PutTopic(testTopic(remoting.TopicSchedule, 1), false), PutTopic(testTopic("T", 0), false))
	for i, c := range []struct{ queue, want int32 }{{3, 3}, {0, 0}, {-1, 0}, {maxQueues, 0}} {
		res := r.feed(deliverOne(t, int64(i), message{topic: "T", queue: c.queue, body: "a"}))[0][0]
		if res.Status != Stored || res.Queue != c.want {
			t.Errorf("sent to queue %d: %+v, want it in %d", c.queue, res, c.want)
		}
	}
	if res := r.feed(appendCommand(t, message{topic: "T", queue: 3}))[0][0]; res.Status != BadQueue {
		t.Errorf("another send: %+v", res)
	}
	results := r.feed(PutTopic(testTopic("T", 4), false), appendCommand(t, message{topic: "T", queue: 3}))
	if res := results[1][0]; res.Status != Stored || res.QueueOffset != 1 {
		t.Errorf("behind what was kept: %+v", res)
	}
}

func TestDelayedMessageIsOfTheTopicItWasSentTo(t *testing.T) {
	r := newReplica(t)
	m := message{topic: remoting.TopicSchedule, real: "T", uniq: "u", delay: 1000}
	r.feed(testConfigure(), PutTopic(testTopic(remoting.TopicSchedule, 1), false))
	if res := r.feed(appendCommand(t, m))[0][0]; res.Status != NoTopic {
		t.Errorf("before its topic exists: %+v", res)
	}
	results := r.feed(PutTopic(testTopic("T", 1), false), appendCommand(t, m), DeleteTopic("T"), appendCommand(t, m),
		PutTopic(testTopic("T", 1), false), appendCommand(t, m), appendCommand(t, m))
	old, late := results[1][0], results[5][0]
	got := []Status{old.Status, results[3][0].Status, late.Status, results[6][0].Status}
	if want := []Status{Stored, NoTopic, Stored, Repeated}; !slices.Equal(got, want) {
		t.Errorf("before the topic was deleted, while, after, and again: %v, want %v", got, want)
	}
	got = got[:0]
	for i, phys := range []int64{old.Physical, late.Physical} {
		got = append(got, r.feed(deliverOne(t, int64(i), message{topic: "T", waited: phys}))[0][0].Status)
	}
	if want := []Status{NoTopic, Stored}; !slices.Equal(got, want) || r.Delivered(0) != 2 {
		t.Errorf("delivered: %v, want %v; emptied up to %d", got, want, r.Delivered(0))
	}
	// A topic that stores repeats does so of delayed ones, too.
	every := testTopic("T", 1)
	every.Attributes = map[string]string{AttributeDedup: "false"}
	if res := r.feed(PutTopic(every, false), appendCommand(t, m))[1][0]; res.Status != Stored {
		t.Errorf("a repeat to a topic that stores them: %+v", res)
	}
}
