package fsm

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// TestMarksAgainstAModel compares marks with a set.
func TestMarksAgainstAModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	m, model := &marks{}, map[int64]bool{}
	for range 4000 {
		o := rng.Int64N(700)
		if !m.has(o) {
			m.set(o)
		}
		model[o] = true
		from := rng.Int64N(800)
		next := from
		for model[next] {
			next++
		}
		if m.next(from) != next || m.has(from) != model[from] {
			t.Fatalf("from %d: next %d, want %d; has %v, want %v", from, m.next(from), next, m.has(from), model[from])
		}
	}
	for o := range int64(700) {
		if !m.has(o) {
			m.set(o)
		}
	}
	if m.base != 640 || len(m.bits) != 1 {
		t.Errorf("of 700 settled messages, those up to %d are forgotten, and %d words kept", m.base, len(m.bits))
	}
}

// settlement is one send that settles a message; m is stored with it unless it
// has no topic.
func settlement(t *testing.T, w Waiting, m message, waited bool) []byte {
	a := NewAppendCommand(nil, testHost)
	buf := a.Begin(SendMeta{Settles: &w, Waited: waited, Delay: m.delay})
	if m.topic == "" {
		a.End(buf, 0)
	} else {
		a.End(append(buf, m.record(t)...), 1)
	}
	return a.Bytes()
}

func TestMessageIsSettledOnceTogetherWithItsSend(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 2), false), PutTopic(testTopic(remoting.TopicHalf, 1), false))
	half := storage.QueueID{Topic: remoting.TopicHalf, Incarnation: 2}
	real := storage.QueueID{Topic: "T", Incarnation: 1, Queue: 1}
	var at []int64
	for _, res := range slices.Concat(r.feed(
		appendCommand(t, message{topic: half.Topic, body: "a", real: "T"}, message{topic: half.Topic, body: "b", real: "T"}, message{topic: half.Topic, body: "c", real: "T"}),
	)...) {
		at = append(at, res.Physical)
	}
	one := func(command []byte) Result {
		t.Helper()
		results := slices.Concat(r.feed(command)...)
		if len(results) != 1 {
			t.Fatalf("%d results", len(results))
		}
		return results[0]
	}
	commit := settlement(t, Waiting{half, 1}, message{topic: "T", queue: 1, body: "b", waited: at[1]}, true)
	if res := one(commit); res.Status != Stored || res.Queue != 1 || res.QueueOffset != 0 {
		t.Errorf("commit: %+v", res)
	}
	if res := one(commit); res.Status != Stale || r.store.Queue(real).Max() != 1 {
		t.Errorf("the same again: %+v, %d messages", res, r.store.Queue(real).Max())
	}
	if res := one(settlement(t, Waiting{half, 1}, message{}, false)); res.Status != Stale {
		t.Errorf("rolled back after its commit: %+v", res)
	}
	if !r.Settled(half, 1) || r.Settled(half, 0) || r.Unsettled(half, 0) != 0 || r.Unsettled(half, 1) != 2 {
		t.Error("not b alone is settled")
	}
	for _, w := range []Waiting{{half, 3}, {half, -1}, {storage.QueueID{Topic: half.Topic, Incarnation: 9}, 0}, {storage.QueueID{Topic: half.Topic, Incarnation: 2, Queue: 7}, 0}, {storage.QueueID{Topic: "no"}, 0}} {
		if res := one(settlement(t, w, message{topic: "T", body: "x"}, false)); res.Status != NotWaiting {
			t.Errorf("settling %+v: %+v", w, res)
		}
	}
	// Whose send is refused stays as it is, until somebody drops it.
	if res := one(settlement(t, Waiting{half, 0}, message{topic: "gone", body: "a"}, true)); res.Status != NoTopic || r.Settled(half, 0) {
		t.Errorf("commit for a topic that is gone: %+v, settled %v", res, r.Settled(half, 0))
	}
	// A topic of the same name that is younger than the message is not its topic.
	r.feed(DeleteTopic("T"), PutTopic(testTopic("T", 1), false))
	if res := one(settlement(t, Waiting{half, 0}, message{topic: "T", body: "a", waited: at[0]}, true)); res.Status != NoTopic {
		t.Errorf("commit for a later topic of the name: %+v", res)
	}
	if res := one(settlement(t, Waiting{half, 0}, message{}, false)); res.Status != Stored || r.Unsettled(half, 0) != 2 {
		t.Errorf("dropped: %+v, unsettled from %d", res, r.Unsettled(half, 0))
	}
	restored(t, r)
	if r.Unsettled(half, 0) != 2 || r.Settled(half, 2) {
		t.Error("a snapshot does not keep what is settled")
	}
	if res := one(commit); res.Status != Stale {
		t.Errorf("the commit again after a restore: %+v", res)
	}
	r.feed(DeleteTopic(half.Topic))
	if len(r.settled) != 0 {
		t.Error("a topic's settlements outlive it")
	}
}

// TestAskingIsCountedUntilTheMessageIsSettled asks, and settles.
func TestAskingIsCountedUntilTheMessageIsSettled(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic(remoting.TopicHalf, 1), false))
	half := storage.QueueID{Topic: remoting.TopicHalf, Incarnation: 1}
	r.feed(appendCommand(t, message{topic: half.Topic, body: "a", delay: 6000}, message{topic: half.Topic, body: "b", delay: 6000}))
	units, err := r.store.Queue(half).Units(0, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := r.store.Record(units[0].Phys)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := remoting.ParseRecord(rec); err != nil || units[0].Tag != v.StoreTimestamp()+6000 {
		t.Errorf("stored at %d, to be asked about at %d (%v)", v.StoreTimestamp(), units[0].Tag, err)
	}
	ask := func(offset, now int64) Status {
		t.Helper()
		a := NewAppendCommand(nil, testHost)
		a.End(a.Begin(SendMeta{Settles: &Waiting{half, offset}, Asks: true}), 0)
		command := a.Bytes()
		Stamp(command, now)
		return slices.Concat(r.feed(command)...)[0].Status
	}
	for i := range int64(3) {
		if s := ask(0, 1000+i); s != Stored {
			t.Errorf("asking: status %d", s)
		}
	}
	if got := r.Asked(half, 0); got != (Asked{3, 1002}) || r.Asked(half, 1) != (Asked{}) || r.Settled(half, 0) {
		t.Errorf("asked: %+v", got)
	}
	if s := ask(2, 1010); s != NotWaiting {
		t.Errorf("asking about what is not there: status %d", s)
	}
	restored(t, r)
	if got := r.Asked(half, 0); got != (Asked{3, 1002}) {
		t.Errorf("after a restore: %+v", got)
	}
	r.feed(settlement(t, Waiting{half, 0}, message{}, false))
	if s := ask(0, 1020); s != Stale || r.Asked(half, 0) != (Asked{}) {
		t.Errorf("asking about a settled message: status %d, %+v", s, r.Asked(half, 0))
	}
}

// restored is the state written to a snapshot and read from it.
func restored(t *testing.T, r *replica) {
	t.Helper()
	var snap bytes.Buffer
	s, err := r.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Sync(s.Files); err != nil {
		t.Fatal(err)
	}
	before := r.Digest()
	if err := r.Restore(&snap); err != nil {
		t.Fatal(err)
	}
	if r.Digest() != before {
		t.Error("another state after the restore")
	}
}

// TestMessageTakenBackIsNoRepeat sends messages again that were settled without
// being stored, as it is done with what is rolled back or recalled.
func TestMessageTakenBackIsNoRepeat(t *testing.T) {
	r := newReplica(t)
	r.feed(testConfigure(), PutTopic(testTopic("T", 1), false), PutTopic(testTopic(remoting.TopicHalf, 1), false))
	half := storage.QueueID{Topic: remoting.TopicHalf, Incarnation: 2}
	send := func(uniq string) Result {
		t.Helper()
		return slices.Concat(r.feed(appendCommand(t, message{topic: half.Topic, body: uniq, uniq: uniq, real: "T"}))...)[0]
	}
	settle := func(offset int64, uniq string) {
		t.Helper()
		a := NewAppendCommand(nil, testHost)
		a.End(a.Begin(SendMeta{Key: message{topic: "T", uniq: uniq}.key(), Settles: &Waiting{half, offset}}), 0)
		if res := slices.Concat(r.feed(a.Bytes())...)[0]; res.Status != Stored {
			t.Fatalf("settling %d: %+v", offset, res)
		}
	}
	send("a")
	send("b")
	settle(0, "a")
	restored(t, r)
	if res := send("a"); res.Status != Stored || res.QueueOffset != 2 {
		t.Errorf("sent again: %+v", res)
	}
	if res := send("a"); res.Status != Repeated || res.QueueOffset != 2 {
		t.Errorf("and repeated: %+v", res)
	}
	if res := send("b"); res.Status != Repeated || res.QueueOffset != 1 {
		t.Errorf("another one repeated: %+v", res)
	}
	settle(1, "a") // by a key that is another message's, which is still there
	if res := send("a"); res.Status != Repeated || res.QueueOffset != 2 {
		t.Errorf("repeated after another was taken back: %+v", res)
	}
}
