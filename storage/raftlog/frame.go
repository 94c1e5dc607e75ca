package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

const (
	frameMagic   = 0x52464C52 // "RLFR"
	frameVersion = 1
	frameHeader  = 80
	// Frames begin at multiples of frameAlign; the search behind a bad one steps
	// by it.
	frameAlign = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// position is a place in the log: a segment's sequence number and an offset in
// its file. Places are ordered as they are written.
type position struct {
	seq uint64
	off int64
}

func (p position) less(q position) bool {
	return p.seq < q.seq || p.seq == q.seq && p.off < q.off
}

func (p position) String() string { return fmt.Sprintf("%d/%d", p.seq, p.off) }

// frame is a frame's header. All numbers are little-endian.
//
//	 0        4        5        6        8       12       16
//	 +--------+--------+--------+--------+--------+--------+
//	 | magic  | version|  type  |   0    |  data  |  ext   |   lengths
//	 +--------+--------+--------+--------+--------+--------+
//	16 | raft index (8)          | raft term (8)            |
//	32 | appended at, ns (8)     | epoch (8)                |
//	48 | segment sequence (8)    | offset (4) | synced: offset (4) |
//	64 | synced: sequence (8)    | predecessor's checksum (4) | checksum (4) |
//	80 | data | extensions | zeros up to a multiple of 8
//
// The checksum is a CRC-32C over all of it but itself and the padding, seeded
// with the log's random id: nobody who only chooses an entry's bytes can write
// something that looks like a frame of this log. Sequence and offset say where
// the frame stands, so a copy of it anywhere else is none. Versions to come keep
// the place of magic, version, lengths and checksum.
type frame struct {
	typ      raft.LogType
	dataLen  uint32
	extLen   uint32
	index    uint64
	term     uint64
	appended int64
	epoch    uint64
	at       position
	// synced is a place before which everything was known to be on the disk when
	// this frame was written.
	synced  position
	prevCRC uint32
	crc     uint32
}

// noTime stands for the zero time.Time, and for what 64 bits of nanoseconds
// cannot say (before 1678, after 2262).
const noTime = math.MinInt64

func encodeTime(t time.Time) int64 {
	if y := t.Year(); y < 1678 || y > 2261 {
		return noTime
	}
	return t.UnixNano()
}

func decodeTime(ns int64) time.Time {
	if ns == noTime {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// frameLen is the room that a frame with n bytes of data and extensions takes.
func frameLen(n int64) int64 {
	return (frameHeader + n + frameAlign - 1) &^ (frameAlign - 1)
}

func (f *frame) len() int64 { return frameLen(int64(f.dataLen) + int64(f.extLen)) }

// appendFrame appends the frame with its data and sets f's lengths and checksum.
func appendFrame(dst []byte, seed uint32, f *frame, data, ext []byte) []byte {
	f.dataLen, f.extLen = uint32(len(data)), uint32(len(ext))
	start := len(dst)
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, frameMagic)
	dst = append(dst, frameVersion, byte(f.typ), 0, 0)
	dst = le.AppendUint32(dst, f.dataLen)
	dst = le.AppendUint32(dst, f.extLen)
	dst = le.AppendUint64(dst, f.index)
	dst = le.AppendUint64(dst, f.term)
	dst = le.AppendUint64(dst, uint64(f.appended))
	dst = le.AppendUint64(dst, f.epoch)
	dst = le.AppendUint64(dst, f.at.seq)
	dst = le.AppendUint32(dst, uint32(f.at.off))
	dst = le.AppendUint32(dst, uint32(f.synced.off))
	dst = le.AppendUint64(dst, f.synced.seq)
	dst = le.AppendUint32(dst, f.prevCRC)
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, data...)
	dst = append(dst, ext...)
	f.crc = frameCRC(seed, dst[start:])
	le.PutUint32(dst[start+frameHeader-4:], f.crc)
	for (len(dst)-start)%frameAlign != 0 {
		dst = append(dst, 0)
	}
	return dst
}

// frameCRC is the checksum of a frame without its padding.
func frameCRC(seed uint32, b []byte) uint32 {
	crc := crc32.Update(seed, castagnoli, b[:frameHeader-4])
	return crc32.Update(crc, castagnoli, b[frameHeader:])
}

// errNoFrame: what was read is not a frame of this place in this log.
var errNoFrame = errors.New("no frame")

// decode reads a frame's header; b holds frameHeader bytes at least. It checks
// what can be checked without the data: that the frame says it stands at this
// place and that it ends before the segment does. A version that is not known
// is left to verify, which can tell it from damage.
func (f *frame) decode(b []byte, at position, segmentBytes int64) error {
	le := binary.LittleEndian
	if le.Uint32(b) != frameMagic {
		return fmt.Errorf("%w: bad magic", errNoFrame)
	}
	f.typ = raft.LogType(b[5])
	f.dataLen = le.Uint32(b[8:])
	f.extLen = le.Uint32(b[12:])
	f.index = le.Uint64(b[16:])
	f.term = le.Uint64(b[24:])
	f.appended = int64(le.Uint64(b[32:]))
	f.epoch = le.Uint64(b[40:])
	f.at = position{le.Uint64(b[48:]), int64(le.Uint32(b[56:]))}
	f.synced = position{le.Uint64(b[64:]), int64(le.Uint32(b[60:]))}
	f.prevCRC = le.Uint32(b[72:])
	f.crc = le.Uint32(b[76:])
	if f.len() > segmentBytes-at.off {
		return fmt.Errorf("%w: longer than the segment", errNoFrame)
	}
	if f.at != at && b[4] == frameVersion {
		return fmt.Errorf("%w: written for another place (%v)", errNoFrame, f.at)
	}
	return nil
}

// verify checks the whole frame, f.len() bytes. ErrVersion: it is whole, but
// of a version that is not known.
func (f *frame) verify(seed uint32, b []byte) error {
	b = b[:frameHeader+int(f.dataLen)+int(f.extLen)]
	if frameCRC(seed, b) != f.crc {
		return fmt.Errorf("%w: checksum does not match", errNoFrame)
	}
	if b[4] != frameVersion {
		return ErrVersion
	}
	return nil
}

// log fills out with the frame's entry. Its Data and Extensions are parts of b.
func (f *frame) log(b []byte, out *raft.Log) {
	data := b[frameHeader : frameHeader+int(f.dataLen) : frameHeader+int(f.dataLen)]
	ext := b[frameHeader+int(f.dataLen):][:f.extLen:f.extLen]
	*out = raft.Log{Index: f.index, Term: f.term, Type: f.typ, AppendedAt: decodeTime(f.appended)}
	if len(data) > 0 {
		out.Data = data
	}
	if len(ext) > 0 {
		out.Extensions = ext
	}
}
