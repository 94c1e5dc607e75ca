package storage

import (
	"encoding/binary"
	"fmt"
	"io"
)

// scanChunk is how much a scan reads at a time.
const scanChunk = 256 << 10

// logScan walks the records of [pos, end) of the CommitLog in order, over the
// blanks at the ends of segments. pos must be where a record begins.
type logScan struct {
	read     func(off int64, need, want int) ([]byte, error) // at least need bytes of one segment
	segment  int64
	pos, end int64

	buf   []byte
	bufAt int64
}

// next returns the next record and where it lies. The bytes are good until the
// next call. io.EOF at the end; ErrCorrupt if there is no record at pos; the
// errors of read. After an error pos still is where that record begins.
func (s *logScan) next() (int64, []byte, error) {
	for s.pos < s.end {
		segEnd := s.pos - s.pos%s.segment + s.segment
		room := segEnd - s.pos
		head, err := s.peek(recordHead, segEnd)
		if err != nil {
			return s.pos, nil, err
		}
		size, magic := int64(binary.BigEndian.Uint32(head)), binary.BigEndian.Uint32(head[4:])
		switch {
		case magic == blankMagic && size == room:
			s.pos = segEnd
			continue
		case magic != recordMagic && magic != recordMagicV2:
			return s.pos, nil, fmt.Errorf("%w: no record at %d: size %d, magic %#x", ErrCorrupt, s.pos, size, magic)
		case size < recordMin || size > room-BlankSize || size > s.end-s.pos:
			return s.pos, nil, fmt.Errorf("%w: record at %d of %d bytes, %d are left in the segment and %d in the log",
				ErrCorrupt, s.pos, size, room, s.end-s.pos)
		}
		rec, err := s.peek(int(size), segEnd)
		if err != nil {
			return s.pos, nil, err
		}
		pos := s.pos
		s.pos += size
		return pos, rec, nil
	}
	return s.pos, nil, io.EOF
}

// peek returns n bytes at pos.
func (s *logScan) peek(n int, segEnd int64) ([]byte, error) {
	limit := min(segEnd, s.end)
	if int64(n) > limit-s.pos {
		return nil, fmt.Errorf("%w: %d bytes at %d are too few for a record", ErrCorrupt, limit-s.pos, s.pos)
	}
	if s.pos < s.bufAt || s.pos+int64(n) > s.bufAt+int64(len(s.buf)) {
		buf, err := s.read(s.pos, n, int(min(max(int64(n), scanChunk), limit-s.pos)))
		if err != nil {
			return nil, err
		}
		s.buf, s.bufAt = buf, s.pos
	}
	at := s.pos - s.bufAt
	return s.buf[at : at+int64(n)], nil
}
