package raftgroup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"sync"
)

// memStable is a raft.StableStore in memory, plain as raft-boltdb is: what raft
// writes is what it holds. It can be copied, and made to fail.
type memStable struct {
	mu     sync.Mutex
	values map[string][]byte
	// hook sees each write before it is made and can fail it.
	hook func(key string) error
}

func newMemStable() *memStable { return &memStable{values: map[string][]byte{}} }

var errNotFound = errors.New("not found")

func (s *memStable) Set(key, val []byte) error {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook != nil {
		if err := hook(string(key)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[string(key)] = bytes.Clone(val)
	return nil
}

func (s *memStable) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return bytes.Clone(v), nil
}

func (s *memStable) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

func (s *memStable) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(v), nil
}

// setHook installs a hook; nil removes it.
func (s *memStable) setHook(hook func(key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// clone is what a crash leaves: every write was synced.
func (s *memStable) clone() *memStable {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &memStable{values: maps.Clone(s.values)}
}
