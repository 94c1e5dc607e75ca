package raftlog

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
)

var (
	currentTerm  = []byte(keyCurrentTerm)
	lastVoteTerm = []byte(keyLastVoteTerm)
	lastVoteCand = []byte(keyLastVoteCand)
)

// persistVote does what raft's function of that name does, in its order.
func persistVote(s raft.StableStore, term uint64, candidate string) error {
	if err := s.SetUint64(lastVoteTerm, term); err != nil {
		return err
	}
	return s.Set(lastVoteCand, []byte(candidate))
}

// votes reads the vote as raft does.
func votes(t *testing.T, s raft.StableStore) (uint64, string) {
	t.Helper()
	term, err := s.GetUint64(lastVoteTerm)
	if err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	cand, err := s.Get(lastVoteCand)
	if err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	return term, string(cand)
}

func newStable(t *testing.T, store raft.StableStore, create bool) *Stable {
	t.Helper()
	s, err := NewStable(store, create)
	ok(t, err)
	return s
}

func TestStableRoundTrip(t *testing.T) {
	store := raft.NewInmemStore()
	s := newStable(t, store, true)
	if has, err := raft.HasExistingState(raft.NewInmemStore(), s, raft.NewInmemSnapshotStore()); has || err != nil {
		t.Errorf("a new store has state: %v, %v", has, err)
	}
	if cand, err := s.Get(lastVoteCand); cand != nil || err != nil {
		t.Errorf("a new store has the vote %q, %v", cand, err)
	}
	ok(t, s.SetUint64(currentTerm, 7))
	ok(t, persistVote(s, 7, "a"))
	ok(t, s.Set([]byte("other"), []byte("value")))
	ok(t, s.SetUint64([]byte("number"), 42))
	for range 2 {
		if s.CurrentTerm() != 7 {
			t.Errorf("term %d", s.CurrentTerm())
		}
		if term, err := s.GetUint64(currentTerm); term != 7 || err != nil {
			t.Errorf("term %d, %v", term, err)
		}
		if term, cand := votes(t, s); term != 7 || cand != "a" {
			t.Errorf("vote %d %s", term, cand)
		}
		if v, err := s.Get([]byte("other")); string(v) != "value" || err != nil {
			t.Errorf("value %q, %v", v, err)
		}
		if v, err := s.GetUint64([]byte("number")); v != 42 || err != nil {
			t.Errorf("number %d, %v", v, err)
		}
		if v, err := s.GetUint64([]byte("nothing")); v != 0 || err != nil {
			t.Errorf("nothing is %d, %v", v, err)
		}
		if _, err := s.GetUint64([]byte("other")); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a value read as a number: %v", err)
		}
		s = newStable(t, store, false)
	}
}

func TestStableRefusesWhatGoesBack(t *testing.T) {
	s := newStable(t, raft.NewInmemStore(), true)
	ok(t, s.SetUint64(currentTerm, 7))
	want(t, "lower term", s.SetUint64(currentTerm, 6), ErrStaleTerm)
	ok(t, s.SetUint64(currentTerm, 7))
	want(t, "vote in an earlier term", persistVote(s, 6, "a"), ErrStaleTerm)
	want(t, "vote in a later term", persistVote(s, 8, "a"), ErrStaleTerm)
	if err := s.Set(lastVoteCand, []byte("a")); err == nil {
		t.Error("accepted a candidate without a term")
	}
	ok(t, persistVote(s, 7, "a"))
	ok(t, persistVote(s, 7, "a"))
	want(t, "second vote in a term", persistVote(s, 7, "b"), ErrStaleTerm)
	// The term rises between the halves of a vote, as the heartbeat's short cut
	// can make it.
	ok(t, s.SetUint64(currentTerm, 8))
	ok(t, s.SetUint64(lastVoteTerm, 8))
	ok(t, s.SetUint64(currentTerm, 9))
	want(t, "vote overtaken by the term", s.Set(lastVoteCand, []byte("c")), ErrStaleTerm)
	if term, cand := votes(t, s); term != 7 || cand != "a" || s.CurrentTerm() != 9 {
		t.Errorf("vote %d %s, term %d", term, cand, s.CurrentTerm())
	}
	ok(t, persistVote(s, 9, "c"))
	for _, key := range []string{keyCurrentTerm, keyLastVoteTerm, keyVote} {
		if err := s.Set([]byte(key), []byte("x")); err == nil {
			t.Errorf("%s was set as bytes", key)
		}
	}
	ok(t, s.Err())
}

// Row 43: the machine goes down between the two writes of a vote. A plain store
// then pairs the new term with the old candidate: asked again, he is told that
// he has the vote of a term he never got it in.
func TestCrashBetweenTheHalvesOfAVote(t *testing.T) {
	granted := func(open func() raft.StableStore) bool {
		s := open()
		ok(t, s.SetUint64(currentTerm, 4))
		ok(t, persistVote(s, 4, "old"))
		ok(t, s.SetUint64(currentTerm, 5))
		ok(t, s.SetUint64(lastVoteTerm, 5)) // the first half of a vote for "new"
		s = open()                          // a crash
		term, cand := votes(t, s)
		return term == 5 && cand == "old" // raft.requestVote: "duplicate requestVote", granted
	}
	plain := raft.NewInmemStore()
	if !granted(func() raft.StableStore { return plain }) {
		t.Error("a plain store is safe: the test shows nothing")
	}
	store, create := raft.NewInmemStore(), true
	if granted(func() raft.StableStore {
		s := newStable(t, store, create)
		create = false
		return s
	}) {
		t.Error("the old candidate has a vote that nobody gave him")
	}
	s := newStable(t, store, false)
	if term, cand := votes(t, s); term != 4 || cand != "old" {
		t.Errorf("the vote is %d %s", term, cand)
	}
	ok(t, persistVote(s, 5, "new"))
}

// crashing is a store that dies before its n-th write.
type crashing struct {
	raft.StableStore
	n   int
	err error
}

func (c *crashing) Set(key, val []byte) error {
	if c.n--; c.n < 0 {
		return c.err
	}
	return c.StableStore.Set(key, val)
}

func (c *crashing) SetUint64(key []byte, val uint64) error {
	panic("numbers are stored in an envelope too")
}

// At each write: afterwards the store holds the vote and the term before or
// after the change, and nothing in between.
func TestStableCrashAtEachWrite(t *testing.T) {
	for n := 0; n < 20; n++ {
		store := raft.NewInmemStore()
		s := newStable(t, store, true)
		ok(t, s.SetUint64(currentTerm, 1))
		ok(t, persistVote(s, 1, "n1"))
		s.store = &crashing{store, n, errInjected}
		var err error
		term := uint64(1)
		for err == nil && term < 9 {
			term++
			if err = s.SetUint64(currentTerm, term); err == nil {
				err = persistVote(s, term, fmt.Sprint("n", term))
			}
		}
		if err == nil {
			return
		}
		// Poisoned: it grants nothing more, and answers what it last knew.
		want(t, "poison", err, ErrPoisoned)
		want(t, "poison", err, errInjected)
		<-s.Poisoned()
		want(t, "Err", s.Err(), ErrPoisoned)
		want(t, "SetUint64", s.SetUint64(currentTerm, 100), ErrPoisoned)
		want(t, "vote", persistVote(s, s.CurrentTerm(), "x"), ErrPoisoned)
		want(t, "Set", s.Set([]byte("k"), nil), ErrPoisoned)

		s = newStable(t, store, false)
		v, cand := votes(t, s)
		if cand != fmt.Sprint("n", v) || v > s.CurrentTerm() || s.CurrentTerm() < term-1 || v < term-1 {
			t.Errorf("crash at write %d, in term %d: vote %d %s, term %d", n, term, v, cand, s.CurrentTerm())
		}
	}
	t.Error("the crash never came too late")
}

func TestStableNotices(t *testing.T) {
	fresh := func() *raft.InmemStore {
		store := raft.NewInmemStore()
		s := newStable(t, store, true)
		ok(t, s.SetUint64(currentTerm, 5))
		ok(t, persistVote(s, 5, "n5"))
		return store
	}
	_, err := NewStable(raft.NewInmemStore(), false)
	want(t, "an empty store", err, ErrMissing)

	for _, key := range []string{keyCurrentTerm, keyVote} {
		store := fresh()
		good, err := store.Get([]byte(key))
		ok(t, err)
		for i := range good {
			for bit := range 8 {
				bad := append([]byte(nil), good...)
				bad[i] ^= 1 << bit
				ok(t, store.Set([]byte(key), bad))
				_, err := NewStable(store, true)
				want(t, "a flipped bit", err, ErrCorrupt)
			}
			ok(t, store.Set([]byte(key), good[:i]))
			if _, err := NewStable(store, true); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMissing) {
				t.Errorf("%s cut to %d bytes: %v", key, i, err)
			}
		}
		// One key's value under another name.
		store = fresh()
		term, _ := store.Get(currentTerm)
		vote, _ := store.Get([]byte(keyVote))
		ok(t, store.Set(currentTerm, vote))
		ok(t, store.Set([]byte(keyVote), term))
		_, err = NewStable(store, true)
		want(t, "exchanged values", err, ErrCorrupt)
	}
	// A vote beyond the term: the term's value is an older one.
	store := fresh()
	s := newStable(t, store, false)
	old, _ := store.Get(currentTerm)
	ok(t, s.SetUint64(currentTerm, 6))
	ok(t, persistVote(s, 6, "x"))
	ok(t, store.Set(currentTerm, old))
	_, err = NewStable(store, false)
	want(t, "an older term", err, ErrCorrupt)
	// A version to come.
	store = fresh()
	b := append([]byte{stableVersion + 1}, "whatever"...)
	crc := stableCRC(keyVote, b)
	ok(t, store.Set([]byte(keyVote), append(b, byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24))))
	_, err = NewStable(store, false)
	want(t, "a newer version", err, ErrVersion)
}

// What is read at open is written again before anyone relies on it.
func TestStableWritesAgainAtOpen(t *testing.T) {
	store := raft.NewInmemStore()
	s := newStable(t, store, true)
	ok(t, s.SetUint64(currentTerm, 3))
	for n := range 2 {
		_, err := NewStable(&crashing{store, n, errInjected}, false)
		want(t, "NewStable", err, errInjected)
	}
	_, err := NewStable(&crashing{store, 2, errInjected}, false)
	ok(t, err)
}

type panicking struct{ raft.StableStore }

func (panicking) Set(_, _ []byte) error      { panic("page 3 already freed") }
func (panicking) Get([]byte) ([]byte, error) { panic("assertion failed") }

func TestStableSurvivesPanicsBelow(t *testing.T) {
	_, err := NewStable(panicking{}, true)
	want(t, "NewStable", err, ErrCorrupt)
	s := newStable(t, raft.NewInmemStore(), true)
	s.store = panicking{}
	want(t, "SetUint64", s.SetUint64(currentTerm, 9), ErrPoisoned)
}
