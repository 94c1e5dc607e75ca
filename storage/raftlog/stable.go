package raftlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/mutant"
)

// The keys that hashicorp/raft uses.
const (
	keyCurrentTerm  = "CurrentTerm"
	keyLastVoteTerm = "LastVoteTerm"
	keyLastVoteCand = "LastVoteCand"
)

// keyVote is where the vote is kept, as one value.
const keyVote = "LastVote"

// Stable is a raft.StableStore for a replica's term and vote, which must never
// go back. It keeps them in another raft.StableStore and adds:
//
//	V1 A vote is one value, term and candidate. (raft writes the term, then the
//	   candidate; after a crash in between, a plain store pairs the new term with
//	   the old candidate, who is then granted a vote he never won.)
//	V2 Values are checksummed, and term and vote are always there: one that is
//	   damaged or lost is an error, not a zero.
//	V3 The term never falls. A vote is given in the current term only, and once.
//	V4 After a failed write the store is poisoned, as a Log is.
//
// Term and vote are answered from memory. Any goroutine may call its methods.
// A key that is not there reads as nil or 0, without an error.
type Stable struct {
	mu    sync.Mutex
	store raft.StableStore
	close func() error
	// whole looks whether the store's file is, and remake makes another one that
	// holds a term and a vote; nil: the store has none.
	whole  func() error
	remake func(term uint64, v vote) (raft.StableStore, func() error, error)
	closed bool
	poison *latch
	term   uint64
	vote   vote
	// half is a vote's term, set by SetUint64 and waiting for its candidate. It
	// is not a vote yet and is not answered.
	half    uint64
	hasHalf bool
}

type vote struct {
	term      uint64
	candidate []byte // nil: none yet
}

var _ raft.StableStore = (*Stable)(nil)

// NewStable wraps a store. If the store holds neither term nor vote, create says
// whether that is right: the replica is new. Otherwise it is ErrMissing.
func NewStable(store raft.StableStore, create bool) (*Stable, error) {
	s, err := loadStable(store, create)
	if err != nil {
		return nil, err
	}
	// What we read may be in the page cache only, if the process was killed
	// before it had synced it: write it again before anyone relies on it.
	if err := s.storeVote(s.vote); err != nil {
		return nil, err
	}
	return s, s.storeTerm(s.term)
}

// loadStable is NewStable without a write.
func loadStable(store raft.StableStore, create bool) (*Stable, error) {
	s := &Stable{store: store, poison: newLatch(), close: func() error { return nil }}
	term, errTerm := s.load(keyCurrentTerm)
	vote, errVote := s.load(keyVote)
	switch {
	case errTerm != nil:
		return nil, errTerm
	case errVote != nil:
		return nil, errVote
	case term == nil && vote == nil && create:
	case term == nil || vote == nil:
		return nil, fmt.Errorf("%w: the stable store does not hold term and vote", ErrMissing)
	case len(term) != 8 || len(vote) < 8:
		return nil, fmt.Errorf("%w: the stable store's term or vote is too short", ErrCorrupt)
	default:
		s.term = binary.LittleEndian.Uint64(term)
		s.vote.term = binary.LittleEndian.Uint64(vote)
		if len(vote) > 8 {
			s.vote.candidate = vote[8:]
		}
		if s.vote.term > s.term {
			return nil, fmt.Errorf("%w: the stable store has a vote of term %d, but term %d", ErrCorrupt, s.vote.term, s.term)
		}
	}
	return s, nil
}

// Err returns nil, or the failure that poisoned the store.
func (s *Stable) Err() error { return s.poison.get() }

// Poisoned is closed when the store is poisoned.
func (s *Stable) Poisoned() <-chan struct{} { return s.poison.closed }

// Close closes the store below, if OpenStable opened it.
func (s *Stable) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.close()
}

// CurrentTerm returns the stored term.
func (s *Stable) CurrentTerm() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.term
}

// SetUint64 implements raft.StableStore. ErrStaleTerm refuses a term or a vote
// that would go back, and changes nothing.
func (s *Stable) SetUint64(key []byte, val uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch string(key) {
	case keyCurrentTerm:
		if val < s.term && !mutant.On("term") {
			return fmt.Errorf("%w: term %d after %d", ErrStaleTerm, val, s.term)
		}
		if val == s.term {
			return s.usable()
		}
		return s.storeTerm(val)
	case keyLastVoteTerm:
		if val != s.term {
			return fmt.Errorf("%w: vote in term %d, the term is %d", ErrStaleTerm, val, s.term)
		}
		s.half, s.hasHalf = val, true
		if mutant.On("vote") {
			return s.storeVote(vote{term: val, candidate: s.vote.candidate})
		}
		return s.usable()
	}
	return s.put(string(key), binary.LittleEndian.AppendUint64(nil, val))
}

// Set implements raft.StableStore.
func (s *Stable) Set(key []byte, val []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch string(key) {
	case keyCurrentTerm, keyLastVoteTerm, keyVote:
		return fmt.Errorf("raftlog: %s is not set this way", key)
	case keyLastVoteCand:
		if !s.hasHalf {
			return fmt.Errorf("raftlog: %s without %s before it", keyLastVoteCand, keyLastVoteTerm)
		}
		s.hasHalf = false
		v := vote{term: s.half, candidate: append([]byte{}, val...)}
		if v.term != s.term {
			return fmt.Errorf("%w: vote in term %d, the term is %d", ErrStaleTerm, v.term, s.term)
		}
		if v.term == s.vote.term && s.vote.candidate != nil && !mutant.On("vote") {
			if string(v.candidate) == string(s.vote.candidate) {
				return s.usable()
			}
			return fmt.Errorf("%w: the vote of term %d went to %q", ErrStaleTerm, v.term, s.vote.candidate)
		}
		return s.storeVote(v)
	}
	return s.put(string(key), val)
}

// GetUint64 implements raft.StableStore.
func (s *Stable) GetUint64(key []byte) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch string(key) {
	case keyCurrentTerm:
		return s.term, nil
	case keyLastVoteTerm:
		return s.vote.term, nil
	}
	b, err := s.load(string(key))
	if err != nil || b == nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: %s in the stable store is not a number", ErrCorrupt, key)
	}
	return binary.LittleEndian.Uint64(b), nil
}

// Get implements raft.StableStore. The result may be kept, not changed.
func (s *Stable) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(key) == keyLastVoteCand {
		return s.vote.candidate, nil
	}
	return s.load(string(key))
}

func (s *Stable) storeTerm(term uint64) error {
	if err := s.put(keyCurrentTerm, binary.LittleEndian.AppendUint64(nil, term)); err != nil {
		return err
	}
	s.term = term
	return nil
}

func (s *Stable) storeVote(v vote) error {
	if err := s.put(keyVote, append(binary.LittleEndian.AppendUint64(nil, v.term), v.candidate...)); err != nil {
		return err
	}
	s.vote = v
	return nil
}

const stableVersion = 1

// put writes a value in its envelope. The checksum covers the key too.
//
//	0         1            n       n+4
//	| version | the value  | CRC-32C |
func (s *Stable) put(key string, val []byte) error {
	if err := s.usable(); err != nil {
		return err
	}
	b := append([]byte{stableVersion}, val...)
	b = binary.LittleEndian.AppendUint32(b, stableCRC(key, b))
	if err := recovered(func() error { return s.store.Set([]byte(key), b) }); err != nil {
		return s.poison.fail(fmt.Errorf("stable store: %s: %w", key, err))
	}
	return nil
}

func (s *Stable) usable() error {
	if s.closed {
		return ErrClosed
	}
	return s.poison.get()
}

// load reads a value; nil if the key is not there.
func (s *Stable) load(key string) ([]byte, error) {
	var b []byte
	err := recovered(func() (err error) {
		b, err = s.store.Get([]byte(key))
		return err
	})
	switch {
	// raft.StableStore's own convention, by which raft tells it too.
	case err != nil && err.Error() == "not found", err == nil && len(b) == 0:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("raftlog: stable store: %s: %w", key, err)
	case len(b) < 5 || stableCRC(key, b[:len(b)-4]) != binary.LittleEndian.Uint32(b[len(b)-4:]):
		return nil, fmt.Errorf("%w: the checksum of %s in the stable store does not match", ErrCorrupt, key)
	case b[0] != stableVersion:
		return nil, fmt.Errorf("%w: %s in the stable store has version %d, this release knows %d", ErrVersion, key, b[0], stableVersion)
	}
	return b[1 : len(b)-4 : len(b)-4], nil
}

func stableCRC(key string, b []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, b)
}

// recovered turns a panic of the store below into an error.
func recovered(call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: panic: %v", ErrCorrupt, r)
		}
	}()
	return call()
}
