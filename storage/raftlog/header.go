package raftlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/raftmq/raftmq/storage/disk"
)

const (
	headerMagic   = 0x474F4C4652514D52 // "RMQRFLOG"
	headerVersion = 1
	slotLen       = 128
	slotDistance  = 4096 // a torn write hits one slot only
	// segmentHeader is where a segment's frames begin.
	segmentHeader = 2 * slotDistance

	minSegmentBytes = 64 << 10
	maxSegmentBytes = 1 << 31
)

// header is what one slot of a segment's header holds. All numbers are
// little-endian.
//
//	  0 | magic (8)          | version (4) | 0 (4)     |
//	 16 | log id (8)         | segment bytes (8)       |
//	 32 | sequence (8)       | epoch (8)               |   this segment
//	 48 | cut: offset (8)    | cut: epoch (8)          |
//	 64 | generation (8)     | first index (8)         |   the whole log
//	 80 | start: sequence (8)| start: offset (8)       |
//	 96 | last sequence (8)  | synced: sequence (8)    |
//	112 | synced: offset (8) | 0 (4) | CRC-32C (4)     |
//
// There are two slots, 4096 bytes apart, and each change writes and syncs both,
// one after the other, the older one first. So one of them is whole at any
// moment, and once a change is done, damage to either slot loses nothing.
type header struct {
	logID uint64
	size  int64
	// seq is 0 in a segment that is not part of the log.
	seq   uint64
	epoch uint64
	// cut is the latest truncation in this segment: frames at its offset or
	// behind count only if their epoch is not below its epoch.
	cut cut
	state
}

type cut struct {
	off   int64
	epoch uint64
}

// state is about the whole log. Every segment's header has a copy of some age;
// the one with the highest generation holds.
type state struct {
	generation uint64
	// first is the log's first index, 0 if the log was empty.
	first uint64
	// start is the place of the first entry, the next one's if the log was empty.
	start position
	// last is the highest sequence number in use. The segments from start to
	// last must all be there.
	last uint64
	// synced: everything before this place was known to be on the disk.
	synced position
}

func (h *header) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, slotLen)
	b = le.AppendUint64(b, headerMagic)
	b = le.AppendUint32(b, headerVersion)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint64{
		h.logID, uint64(h.size), h.seq, h.epoch, uint64(h.cut.off), h.cut.epoch,
		h.generation, h.first, h.start.seq, uint64(h.start.off), h.last, h.synced.seq, uint64(h.synced.off),
	} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, 0)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeHeader reads one slot: ErrBadMagic, ErrVersion or ErrCorrupt if it is
// none.
func decodeHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	if le.Uint64(b) != headerMagic {
		return header{}, ErrBadMagic
	}
	if crc32.Checksum(b[:slotLen-4], castagnoli) != le.Uint32(b[slotLen-4:]) {
		return header{}, ErrCorrupt
	}
	if le.Uint32(b[8:]) != headerVersion {
		return header{}, ErrVersion
	}
	u := func(off int) uint64 { return le.Uint64(b[off:]) }
	h := header{
		logID: u(16), size: int64(u(24)), seq: u(32), epoch: u(40), cut: cut{int64(u(48)), u(56)},
		state: state{
			generation: u(64), first: u(72), start: position{u(80), int64(u(88))},
			last: u(96), synced: position{u(104), int64(u(112))},
		},
	}
	if h.size < minSegmentBytes || h.size > maxSegmentBytes {
		return header{}, ErrCorrupt
	}
	return h, nil
}

// readHeader reads both slots and returns the newer one, and which slot the
// next change must write first.
func readHeader(f disk.File) (h header, slot int, err error) {
	b := make([]byte, slotDistance+slotLen)
	if n, err := f.ReadAt(b, 0); err == io.EOF {
		clear(b[n:]) // too short for a header: neither slot has the magic
	} else if err != nil {
		return header{}, 0, err
	}
	h0, err0 := decodeHeader(b)
	h1, err1 := decodeHeader(b[slotDistance:])
	switch {
	case err0 == nil && (err1 != nil || h1.generation <= h0.generation):
		return h0, 1, nil
	case err1 == nil:
		return h1, 0, nil
	}
	bad := &FileError{File: f.Name(), Offset: 0, Detail: "neither slot of the header is whole", Err: ErrCorrupt}
	for _, e := range []error{err0, err1} {
		if e == ErrVersion {
			bad.Err, bad.Detail = e, fmt.Sprintf("this release knows version %d", headerVersion)
		}
	}
	if err0 == ErrBadMagic && err1 == ErrBadMagic {
		bad.Err, bad.Detail = ErrBadMagic, "this is not a segment of a raft log"
	}
	return header{}, 0, bad
}

// writeHeader makes h the header of f, durably, beginning with the slot that
// holds the older one.
func writeHeader(f disk.File, h *header, slot int, sync func(disk.File) error) error {
	b := h.encode()
	for range 2 {
		if _, err := f.WriteAt(b, int64(slot)*slotDistance); err != nil {
			return err
		}
		if err := sync(f); err != nil {
			return err
		}
		slot = 1 - slot
	}
	return nil
}
