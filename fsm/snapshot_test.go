package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// seed is RAFTMQ_SEED, or a new one; it is printed.
func seed(t testing.TB) uint64 {
	s := rand.Uint64()
	if v := os.Getenv("RAFTMQ_SEED"); v != "" {
		var err error
		if s, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RAFTMQ_SEED=%d", s)
	return s
}

// randomCommands is a history that uses every command.
func randomCommands(t testing.TB, rng *rand.Rand, n int) [][]byte {
	topics := []string{"A", "B", "%RETRY%g", remoting.TopicSchedule}
	groups := []string{"g", "h"}
	pick := func(s []string) string { return s[rng.IntN(len(s))] }
	now := int64(1000)
	var out [][]byte
	add := func(c []byte) { now += rng.Int64N(40) - 5; out = append(out, at(now, c)) }
	add(Lead(Leader{Node: "n1", Address: "127.0.0.1:1"}))
	add(testConfigure())
	for len(out) < n {
		switch k := rng.IntN(24); {
		case k < 12:
			var ms []message
			for range 1 + rng.IntN(5) {
				m := message{topic: pick(topics), queue: int32(rng.IntN(4)), body: string(make([]byte, rng.IntN(9000))), repeat: rng.IntN(8) == 0, delay: rng.Int64N(2) * 500}
				if rng.IntN(3) > 0 {
					m.uniq, m.keys, m.tags = fmt.Sprint("K", rng.IntN(50)), "k1 k2", pick(topics)
				}
				if m.topic == remoting.TopicSchedule && rng.IntN(4) > 0 {
					m.real = pick(topics)
				}
				ms = append(ms, m)
			}
			add(appendCommand(t, ms...))
		case k < 14:
			c := testTopic(pick(topics), int32(1+rng.IntN(4)))
			if rng.IntN(3) == 0 {
				c.Attributes = map[string]string{AttributeDedup: "false", "z": "1", "a": "2"}
			}
			add(PutTopic(c, rng.IntN(2) == 0))
		case k < 15:
			add(DeleteTopic(pick(topics)))
		case k < 16:
			add(PutGroup(remoting.NewGroupConfig(pick(groups)), rng.IntN(2) == 0))
		case k < 17:
			add(DeleteGroup(pick(groups), rng.IntN(2) == 0))
		case k < 18 && rng.IntN(2) == 0:
			a := NewAppendCommand(nil, testHost)
			for range 3 {
				w := Waiting{storage.QueueID{Topic: pick(topics), Incarnation: 1 + rng.Uint64N(4), Queue: int32(rng.IntN(3))}, rng.Int64N(40)}
				buf, records := a.Begin(SendMeta{Settles: &w, Waited: rng.IntN(2) == 0}), rng.IntN(2)
				if records > 0 {
					buf = append(buf, message{topic: pick(topics), queue: int32(rng.IntN(4)), body: "w", waited: rng.Int64N(int64(len(out)+1) * 20_000)}.record(t)...)
				}
				a.End(buf, records)
			}
			add(a.Bytes())
		case k < 18:
			a := NewDeliverCommand(testHost, int32(rng.IntN(2)), int64(rng.IntN(3)))
			a.End(append(a.Begin(SendMeta{}), message{topic: pick(topics), queue: int32(rng.IntN(4)), body: "d", waited: rng.Int64N(int64(len(out)+1) * 20_000)}.record(t)...), 1)
			add(a.Bytes())
		case k < 19 && rng.IntN(3) == 0:
			add(ResetOffsets([]Offset{{pick(groups), pick(topics), int32(rng.IntN(3)), rng.Int64N(100)}}))
			add(EndReset(pick(groups), pick(topics), int32(rng.IntN(3)), rng.Uint64N(40)))
		case k < 20:
			locks := []QueueLock{{Topic: pick(topics), Queue: int32(rng.IntN(4))}, {Topic: pick(topics), Queue: 1, Lock: Lock{Renewal: uint64(len(out) - rng.IntN(9))}}}
			add(Grant(pick(groups), pick([]string{"c1", "c2", ""}), locks))
		case k < 21:
			add(CommitOffsets([]Offset{{pick(groups), pick(topics), int32(rng.IntN(5)), rng.Int64N(100)}, {pick(groups), pick(topics), 0, 1}}))
		case k < 23:
			node := pick([]string{"n1", "n2", "n3"})
			m := Member{Node: node, ServerID: fmt.Sprint(node, "-", rng.IntN(2)), Peer: node + ":1", Learner: rng.IntN(4) == 0}
			add(PutMember(m))
			if rng.IntN(3) == 0 {
				add(DropMember(m.ServerID))
			}
			add(NoteIncident("n1-aa", "it"))
			add(PutAutopilot(Autopilot{Stable: rng.Int64N(5), KeepDead: rng.IntN(2) == 0}))
		default:
			add(Trim(now / 2000 * testSegment))
		}
	}
	add(PutTopic(testTopic(topics[0], 4), false)) // whatever was deleted last
	return out
}

// manifest describes the bytes that the state's store holds.
func (r *replica) manifest() string {
	b, err := r.store.Pin().AppendBinary(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// TestStateIsAFunctionOfTheLog feeds one history in different cuts, and from a
// snapshot on, and wants equal states and equal bytes.
func TestStateIsAFunctionOfTheLog(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	commands := randomCommands(t, rng, 600)
	whole := newReplica(t)
	whole.feed(commands...)

	cut := newReplica(t)
	for rest := commands; len(rest) > 0; {
		n := min(len(rest), 1+rng.IntN(9))
		cut.feed(rest[:n]...)
		rest = rest[n:]
	}
	half := newReplica(t)
	half.feed(commands[:300]...)
	var snap bytes.Buffer
	s, err := half.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	half.feed(commands[300:400]...) // must not disturb the snapshot
	if n, err := s.WriteTo(&snap); err != nil || n != int64(snap.Len()) {
		t.Fatal(n, err)
	}
	if err := half.store.Sync(s.Files); err != nil {
		t.Fatal(err)
	}
	image := snap.Bytes()
	if err := half.Restore(bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	again, err := half.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var second bytes.Buffer
	if _, err := again.WriteTo(&second); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image, second.Bytes()) {
		t.Error("a restored state has another snapshot than the one it was restored from")
	}
	half.feed(commands[300:]...)

	for name, r := range map[string]*replica{"in other cuts": cut, "from a snapshot": half} {
		if r.Digest() != whole.Digest() {
			t.Errorf("fed %s the state differs", name)
		}
		if r.manifest() != whole.manifest() {
			t.Errorf("fed %s the files differ", name)
		}
	}
	if whole.end == 0 || whole.min == 0 || len(whole.topics) == 0 || whole.lockChanges == 0 {
		t.Errorf("the history does too little: the log is [%d, %d), %d topics", whole.min, whole.end, len(whole.topics))
	}
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	r := newReplica(t)
	r.feed(randomCommands(t, rand.New(rand.NewPCG(1, 1)), 60)...)
	s, err := r.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var snap bytes.Buffer
	if _, err := s.WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	image := snap.Bytes()
	before := r.Digest()
	for i := range image {
		bad := bytes.Clone(image)
		bad[i] ^= 1 << (i % 8)
		if err := r.Restore(bytes.NewReader(bad)); err == nil {
			t.Fatalf("restored with a flipped bit in byte %d of %d", i, len(image))
		}
		if i%97 == 0 {
			if err := r.Restore(bytes.NewReader(image[:i])); err == nil {
				t.Fatalf("restored from the first %d bytes of %d", i, len(image))
			}
		}
	}
	if r.Digest() != before {
		t.Error("a refused snapshot has changed the state")
	}
}

func TestCommandThatCannotBeDecodedStopsTheReplica(t *testing.T) {
	good := appendCommand(t, message{topic: "T", body: "x", uniq: "u"})
	for name, c := range map[string][]byte{
		"empty":           {},
		"unknown version": append([]byte{9}, good[1:]...),
		"unknown kind":    append([]byte{commandVersion, 200}, good[2:]...),
		"cut":             good[:len(good)-1],
		"trailing":        append(bytes.Clone(DeleteTopic("x")), 0),
		"bad JSON":        append(header(nil, KindConfigure), "{"...),
		"bad topic":       append(header(nil, KindPutTopic), 0, '['),
		"huge count":      append(header(nil, KindCommitOffsets), 0xff, 0xff, 0xff, 0xff),
		"other segments":  Configure(Configuration{GroupID: "x", SegmentSize: 4096}),
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t)
			r.feed(testConfigure(), PutTopic(testTopic("T", 1), false))
			if _, err := r.Apply([]Entry{{Index: 10, Data: c}}); err == nil {
				t.Fatal("it was applied")
			}
			if _, err := r.Apply([]Entry{{Index: 11, Data: good}}); err == nil {
				t.Error("the replica went on after it")
			}
			if _, err := r.Snapshot(); err == nil {
				t.Error("a snapshot was taken of what is left")
			}
		})
	}
}

// nullStore keeps nothing: what is fuzzed is the state.
type nullStore struct{}

func (nullStore) Write(*storage.Batch) error                          { return nil }
func (nullStore) CreateQueue(storage.QueueID) (*storage.Queue, error) { return nil, nil }
func (nullStore) Trim(int64) error                                    { return nil }
func (nullStore) DropTopic(string, uint64) error                      { return nil }
func (nullStore) Pin() *storage.Manifest                              { return &storage.Manifest{SegmentSize: testSegment} }
func (nullStore) Resume(*storage.Manifest) error                      { return nil }

// Whatever an entry's bytes are, apply takes them the same way on two replicas:
// refused by both, or with equal states, which then have a snapshot that can be
// restored.
func FuzzApply(f *testing.F) {
	for _, c := range randomCommands(f, rand.New(rand.NewPCG(2, 2)), 40) {
		if len(c) < 1000 { // what is small, the fuzzer makes much of
			f.Add(c)
		}
	}
	f.Add(appendCommand(f, message{topic: "T", body: "b", uniq: "u", keys: "k"}, message{topic: remoting.TopicSchedule, delay: 5}))
	f.Add(PutMember(Member{Node: "n1", ServerID: "n1-a", Peer: "p:1", Client: "c:1", Learner: true}))
	f.Add(DropMember("n1-a"))
	f.Add(PutAutopilot(Autopilot{KeepDead: true, MinVoters: 5, Stable: 1, DeadAfter: 2, MaxTrailing: 3}))
	f.Add(Grant("g", "c", []QueueLock{{Topic: "T"}, {Topic: "T", Queue: 1, Lock: Lock{Renewal: 5}}}))
	f.Fuzz(func(t *testing.T, command []byte) {
		var states [2]*State
		var errs [2]error
		for i := range states {
			r := &replica{t: t, State: New(nullStore{}, testSegment)}
			r.feed(testConfigure(), PutTopic(testTopic("T", 1), false), appendCommand(t, message{topic: "T", uniq: "u"}),
				PutGroup(remoting.NewGroupConfig("g"), true))
			states[i] = r.State
			_, errs[i] = r.Apply([]Entry{{Index: 9, Data: command}})
		}
		if (errs[0] == nil) != (errs[1] == nil) {
			t.Fatalf("one replica says %v, the other %v", errs[0], errs[1])
		}
		if errs[0] != nil {
			return
		}
		if states[0].Digest() != states[1].Digest() {
			t.Fatal("two replicas differ")
		}
		next := New(nullStore{}, testSegment)
		if err := errors.Join(next.readMeta(states[0].appendMeta(nil)), next.readSends(sendsOf(states[0]))); err != nil {
			t.Fatalf("the state cannot be read back: %v", err)
		}
		if next.Digest() != states[0].Digest() {
			t.Fatal("the state read back differs")
		}
	})
}

// sendsOf is the window of sends as a snapshot has it.
func sendsOf(s *State) (b []byte) {
	p := s.sends.pin()
	b = binary.BigEndian.AppendUint32(b, uint32(p.n))
	p.each(func(e sent) { b = appendSent(b, e) })
	return b
}

// Whatever a snapshot's bytes are, restoring them ends with an error or with a
// state that reads its own encoding back.
func FuzzRestore(f *testing.F) {
	r := &replica{t: f, State: New(nullStore{}, testSegment)}
	r.feed(randomCommands(f, rand.New(rand.NewPCG(3, 3)), 30)...)
	s, err := r.Snapshot()
	if err != nil {
		f.Fatal(err)
	}
	var snap bytes.Buffer
	if _, err := s.WriteTo(&snap); err != nil {
		f.Fatal(err)
	}
	f.Add(snap.Bytes(), false)
	f.Add(s.meta, true)
	f.Fuzz(func(t *testing.T, image []byte, meta bool) {
		next := New(nullStore{}, testSegment)
		if meta {
			// Behind the checksums, where a flipped bit seldom gets.
			if next.readMeta(image) != nil {
				return
			}
			again, b := New(nullStore{}, testSegment), next.appendMeta(nil)
			if err := again.readMeta(b); err != nil {
				t.Fatalf("a state cannot be read back: %v", err)
			}
			if !bytes.Equal(again.appendMeta(nil), b) {
				t.Fatal("a state has two encodings")
			}
			return
		}
		if next.Restore(bytes.NewReader(image)) == nil {
			next.Digest()
		}
	})
}
