package fsm

import (
	"crypto/sha256"
	"encoding/hex"
)

// Digests are checksums of what a replica has applied up to an index: equal on
// all replicas that have applied the same entries. They are taken when a digest
// command is applied, which is at the same index everywhere, whatever else goes
// on. They are no part of the state: a replica that was given a snapshot of it
// has none.
type Digests struct {
	Index uint64
	State string // all of the state but the files, SHA-256 in hex
	// Files is a checksum over the checksums of CommitLog and queues, as they were
	// taken when these were written: that the disk holds it, Scrub says.
	Files string
}

// TakeDigests makes a command that has every replica take its digests.
func TakeDigests() []byte { return header(nil, KindDigest) }

func (s *State) takeDigests(r *reader, index uint64) (Status, error) {
	if err := r.end(); err != nil {
		return 0, wrap(err)
	}
	pinned := s.store.Pin()
	if pinned == nil {
		return Stored, nil // a store that only compares has no files of its own
	}
	manifest, err := pinned.AppendBinary(nil)
	if err != nil {
		return 0, err
	}
	state, files := s.Digest(), sha256.Sum256(manifest)
	s.digests.Store(&Digests{Index: index, State: hex.EncodeToString(state[:]), Files: hex.EncodeToString(files[:])})
	return Stored, nil
}

// Digests returns the last digests that were taken, the zero value if there were
// none.
func (s *State) Digests() Digests {
	if d := s.digests.Load(); d != nil {
		return *d
	}
	return Digests{}
}
