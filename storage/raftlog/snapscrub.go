package raftlog

import (
	"errors"
	"io"
	"io/fs"
	"slices"
)

// DamagedSnapshot is a snapshot whose file is not as it was written.
type DamagedSnapshot struct {
	ID  string
	Err error
}

// Scrub reads all snapshots from beginning to end and returns those that are
// damaged or gone, the newest first. pace is called before each read with about
// its size: it may wait, and its error ends the pass. Another error is for what
// kept it from looking.
func (s *Snapshots) Scrub(pace func(bytes int) error) (damaged []DamagedSnapshot, err error) {
	s.mu.Lock()
	list := slices.Clone(s.list)
	s.mu.Unlock()
	for _, snap := range list {
		err := s.scrub(snap.String(), pace)
		var damage *FileError
		switch {
		case err == nil:
		case !s.has(snap.snapName): // pruned meanwhile
		case errors.As(err, &damage), errors.Is(err, fs.ErrNotExist), errors.Is(err, io.ErrUnexpectedEOF):
			damaged = append(damaged, DamagedSnapshot{snap.String(), err})
		default:
			return damaged, err
		}
	}
	return damaged, nil
}

func (s *Snapshots) scrub(id string, pace func(bytes int) error) error {
	_, r, err := s.Open(id)
	if err != nil {
		return err
	}
	buf := make([]byte, snapBlock)
	for err == nil {
		if err = pace(len(buf)); err == nil {
			_, err = io.ReadFull(r, buf)
		}
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF { // the end of the payload: a file that is too short says more
		err = nil
	}
	return errors.Join(err, r.Close())
}

func (s *Snapshots) has(n snapName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.list, func(snap snapshot) bool { return snap.snapName == n })
}

// Remove removes a snapshot, for who has a newer one that is whole: ErrMissing
// if there is none.
func (s *Snapshots) Remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.list, func(snap snapshot) bool { return snap.String() == id })
	if i < 0 {
		return nil
	}
	if i == 0 || s.list[0].err != nil {
		return &FileError{File: s.path(id), Offset: -1, Detail: "there is no newer snapshot in the place of this one", Err: ErrMissing}
	}
	if err := s.fs.Remove(LabelSnapshot, s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.list = slices.Delete(s.list, i, i+1)
	return nil
}
