package raftlog

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/raftmq/raftmq/storage/disk"
)

const (
	segmentSuffix = ".seg"
	tmpSuffix     = ".tmp"
	// fillChunk is how much of a new segment is zeroed between two syncs. Small
	// ones keep the disk's queue short for those who sync entries meanwhile.
	fillChunk = 2 << 20
	// fillWrite is how much is zeroed at a time: the page cache takes large writes
	// in large pages, which are far dearer to come by when memory is fresh.
	fillWrite = 128 << 10
)

// segment is one file of the log. Its name is a mere number and never changes;
// which part of the log it holds, if any, is in its header.
type segment struct {
	file  disk.File
	bytes int64
	seq   uint64
	// head is the header as last written, slot the one to write first next time.
	// Guarded by Log.headers.
	head header
	slot int
	// epoch is that of the entries to be written. Guarded by Log.writing.
	epoch uint64

	// The fields below are guarded by Log.mu.

	base    uint64 // index of entries[0], or what it will be
	entries []entry
	end     int64 // of the last entry
}

// entry is where an entry's frame begins, and its checksum.
type entry struct {
	off, crc uint32
}

func segmentName(number int64) string { return fmt.Sprintf("%08d%s", number, segmentSuffix) }

// parseSegmentName returns the number in a segment's name.
func parseSegmentName(name string) (int64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) < 8 {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil && n > 0 && segmentName(n) == name
}

// at is the place in the log of an offset in the segment.
func (s *segment) at(off int64) position { return position{s.seq, off} }

// minEpoch is the lowest epoch that a frame at off may have.
func (s *segment) minEpoch(off int64) uint64 {
	if off >= s.head.cut.off {
		return max(s.head.epoch, s.head.cut.epoch)
	}
	return s.head.epoch
}

// maxEpoch is the highest epoch that a frame of the segment may have.
func (s *segment) maxEpoch() uint64 { return max(s.head.epoch, s.head.cut.epoch) }

// save makes h the segment's header.
func (s *segment) save(h header, sync func(disk.File) error) error {
	if err := writeHeader(disk.WithLabel(s.file, LabelHeader), &h, s.slot, sync); err != nil {
		return err
	}
	s.head = h
	return nil
}

// createSegment makes a zero-filled segment that is no part of the log yet.
// When it returns, file and name are durable. stop, asked now and then, ends it
// early with ErrClosed.
func createSegment(fs disk.FS, dir string, number, bytes int64, logID uint64, stop func() bool) (*segment, error) {
	usage, err := fs.Usage(dir)
	if err != nil {
		return nil, err
	}
	if usage.Free < uint64(bytes) {
		return nil, fmt.Errorf("%w: a segment of %d bytes is needed, %s has %d left", ErrNoSpace, bytes, dir, usage.Free)
	}
	name := path.Join(dir, segmentName(number))
	tmp := name + tmpSuffix
	f, err := fs.OpenFile(LabelPrepare, tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, noSpace(err)
	}
	s := &segment{file: f, bytes: bytes, end: segmentHeader}
	err = s.fill(stop)
	if err == nil {
		err = s.save(header{logID: logID, size: bytes}, disk.File.Datasync)
	}
	if err == nil {
		err = f.Close()
	} else {
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = fs.Rename(LabelDir, tmp, name)
	}
	if err != nil {
		return nil, noSpace(errors.Join(err, fs.Remove(LabelDir, tmp)))
	}
	if err := fs.SyncDir(LabelDir, dir); err != nil {
		return nil, noSpace(err)
	}
	s.file, err = fs.OpenFile(LabelAppend, name, os.O_RDWR)
	return s, err
}

// fill reserves the file's room and writes zeros all over it, so that later
// writes change no metadata.
func (s *segment) fill(stop func() bool) error {
	if err := s.file.Allocate(0, s.bytes); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	zeros := make([]byte, min(fillWrite, s.bytes))
	for off := int64(0); off < s.bytes; off += int64(len(zeros)) {
		if stop() {
			return ErrClosed
		}
		if _, err := s.file.WriteAt(zeros[:min(fillWrite, s.bytes-off)], off); err != nil {
			return err
		}
		if (off+fillWrite)%fillChunk != 0 {
			continue
		}
		if err := s.file.Datasync(); err != nil {
			return err
		}
	}
	return s.file.Sync()
}
