package raftlog

import (
	"bytes"
	"errors"
	"fmt"
)

// Scrub looks whether the store holds the term and the vote that are in memory,
// and whether its file is whole. If not it writes them again, a new file if it
// must, and returns what was wrong. An error that wraps ErrPoisoned says that
// this could not be done.
func (s *Stable) Scrub() (damage, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return nil, err
	}
	if s.whole != nil {
		damage = s.whole()
	}
	if damage == nil {
		damage = s.compare()
	}
	if damage == nil {
		return nil, nil
	}
	if s.remake == nil {
		return damage, errors.Join(s.storeVote(s.vote), s.storeTerm(s.term))
	}
	store, closeStore, err := s.remake(s.term, s.vote)
	if err != nil {
		return damage, s.poison.fail(fmt.Errorf("stable store: writing it again: %w", err))
	}
	// Its name is another file's, and what it says does not count any more.
	_ = recovered(s.close)
	s.store, s.close = store, closeStore
	return damage, nil
}

// compare holds what the store has against what is in memory.
func (s *Stable) compare() error {
	have, err := loadStable(s.store, false)
	if err != nil {
		return err
	}
	if have.term != s.term || have.vote.term != s.vote.term || !bytes.Equal(have.vote.candidate, s.vote.candidate) {
		return fmt.Errorf("%w: the stable store has term %d and a vote of term %d, which are %d and %d",
			ErrCorrupt, have.term, have.vote.term, s.term, s.vote.term)
	}
	return nil
}
