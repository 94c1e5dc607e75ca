package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// decoder reads one of the store's own encodings: a magic of 4 bytes, a version
// of 2, fields, and a CRC-32C of all before. The first thing that does not fit
// sticks; what is read after it is zero.
type decoder struct {
	what string
	b    []byte
	err  error
}

// newDecoder checks frame and version.
func newDecoder(what, magic string, version uint16, b []byte) (*decoder, error) {
	d := &decoder{what: what}
	if len(b) < len(magic)+2+4 || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: %s: bad magic in %d bytes", ErrCorrupt, what, len(b))
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("%w: %s: checksum %#x, expected %#x", ErrCorrupt, what, got, sum)
	}
	if v := binary.BigEndian.Uint16(b[len(magic):]); v != version {
		return nil, fmt.Errorf("%w: %s of version %d, this one reads %d", ErrVersion, what, v, version)
	}
	d.b = body[len(magic)+2:]
	return d, nil
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n > len(d.b) {
		d.fail("ends early")
		return make([]byte, n)
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) fail(text string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s: %s", ErrCorrupt, d.what, text)
	}
	d.b = nil
}

func (d *decoder) uint8() uint8   { return d.take(1)[0] }
func (d *decoder) uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }
func (d *decoder) int64() int64   { return int64(d.uint64()) }

// flag reads a byte that may have one bit set, and no other.
func (d *decoder) flag(bit byte) bool {
	b := d.uint8()
	if b&^bit != 0 {
		d.fail(fmt.Sprintf("unknown flags %#x", b))
	}
	return b != 0
}

func (d *decoder) topic() TopicID {
	name := string(d.take(int(d.uint8())))
	return TopicID{name, d.uint64()}
}

// each calls fn n times, unless n items of at least size bytes cannot be left.
func (d *decoder) each(n uint64, size int, fn func()) {
	if n > uint64(len(d.b)/size) {
		d.fail("a count is larger than what follows")
		return
	}
	for range n {
		if d.err != nil {
			return
		}
		fn()
	}
}

// end is the first error so far.
func (d *decoder) end() error { return d.err }

// finish is the first error; that something is left is one.
func (d *decoder) finish() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes behind its end")
	}
	return d.err
}
