package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/raftmq/raftmq/storage/disk"
)

// sink writes one snapshot, under a temporary name until it is whole. One
// goroutine uses it.
type sink struct {
	store *Snapshots
	name  snapName
	file  snapFile
	f     disk.File // nil once closed
	off   int64
	crc   uint32
	// block is the block being filled, with room for its header.
	block []byte
	err   error
	done  bool
}

func newSink(store *Snapshots, name snapName, meta snapMeta) (*sink, error) {
	head, crc, err := encodeSnapHeader(&meta)
	if err != nil {
		return nil, err
	}
	s := &sink{
		store: store, name: name, off: int64(len(head)), crc: crc,
		file:  snapFile{meta: meta, blocks: int64(len(head)), crc: crc},
		block: make([]byte, snapBlockHead, snapBlockHead+snapBlock),
	}
	if s.f, err = store.fs.OpenFile(LabelSnapshot, s.tmp(), os.O_RDWR|os.O_CREATE|os.O_EXCL); err != nil {
		return nil, err
	}
	if _, err := s.f.WriteAt(head, 0); err != nil {
		return nil, errors.Join(err, s.Cancel())
	}
	return s, nil
}

func (s *sink) tmp() string { return s.store.path(s.ID()) + tmpSuffix }

// ID implements raft.SnapshotSink.
func (s *sink) ID() string { return s.name.String() }

// Write implements raft.SnapshotSink.
func (s *sink) Write(p []byte) (n int, err error) {
	if s.done {
		return 0, fmt.Errorf("raftlog: snapshot %s: %w", s.ID(), ErrClosed)
	}
	for len(p) > 0 && s.err == nil {
		room := cap(s.block) - len(s.block)
		m := min(room, len(p))
		s.block = append(s.block, p[:m]...)
		n, p = n+m, p[m:]
		if m == room {
			s.err = s.flush()
		}
	}
	return n, s.err
}

// flush writes the block.
func (s *sink) flush() error {
	payload := s.block[snapBlockHead:]
	if len(payload) == 0 {
		return nil
	}
	le := binary.LittleEndian
	s.crc = crc32.Update(s.crc, castagnoli, payload)
	le.PutUint32(s.block, uint32(len(payload)))
	le.PutUint32(s.block[4:], s.crc)
	if _, err := s.f.WriteAt(s.block, s.off); err != nil {
		return err
	}
	// Write-back starts now, so that the sync at the end finds little to do.
	if err := s.f.StartWriteback(s.off, int64(len(s.block))); err != nil {
		return err
	}
	s.off += int64(len(s.block))
	s.file.payload += int64(len(payload))
	s.block = s.block[:snapBlockHead]
	return nil
}

// Close implements raft.SnapshotSink: once it returns nil the snapshot is
// durable and the newest. If it fails the snapshot is removed, as by Cancel.
func (s *sink) Close() error {
	if s.done {
		return nil
	}
	if err := s.finish(); err != nil {
		return errors.Join(fmt.Errorf("raftlog: snapshot %s: %w", s.ID(), err), s.Cancel())
	}
	s.done = true
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.insert(snapshot{snapName: s.name, file: &s.file})
	s.store.prune(s.name)
	return nil
}

func (s *sink) finish() error {
	if s.err == nil {
		s.err = s.flush()
	}
	if s.err != nil {
		return s.err
	}
	le := binary.LittleEndian
	size := le.AppendUint64(nil, uint64(s.file.payload))
	b := le.AppendUint32(nil, 0)
	b = le.AppendUint32(b, crc32.Update(s.crc, castagnoli, size))
	b = append(b, size...)
	if _, err := s.f.WriteAt(b, s.off); err != nil {
		return err
	}
	if err := s.f.Sync(); err != nil {
		return err
	}
	if err := s.closeFile(); err != nil {
		return err
	}
	fs, name := s.store.fs, s.store.path(s.ID())
	if err := fs.Rename(LabelSnapshot, s.tmp(), name); err != nil {
		return err
	}
	if err := fs.SyncDir(LabelSnapshot, s.store.dir); err != nil {
		return errors.Join(err, fs.Remove(LabelSnapshot, name))
	}
	return nil
}

func (s *sink) closeFile() error {
	if s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}

// Cancel implements raft.SnapshotSink.
func (s *sink) Cancel() error {
	if s.done {
		return nil
	}
	s.done = true
	err := s.closeFile()
	if e := s.store.fs.Remove(LabelSnapshot, s.tmp()); !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}
