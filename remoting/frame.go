package remoting

import (
	"bytes"
	"fmt"
	"io"
)

// DefaultMaxFrame is the longest frame that RocketMQ's own peers take, with its length prefix.
const DefaultMaxFrame = 16 << 20

const (
	framePrefix   = 4
	minReadBuffer = 4 << 10
	maxReadBuffer = 64 << 10
	maxHeaderLen  = 1<<24 - 1
)

//	 0        4        8           8+headerLen
//	+--------+--------+-----------+--------------------------+
//	| total  | s|hlen | header    | body                     |
//	+--------+--------+-----------+--------------------------+
//
// total counts everything behind itself. s, the top byte of the second word, is the header's encoding.

// frameSize returns the size of a frame, prefix included, from its first four bytes.
func frameSize(b []byte, limit int) (int, error) {
	total := int64(int32(getUint32(b)))
	switch {
	case total < 0, total+framePrefix > int64(limit):
		err := fmt.Errorf("%w: it claims %d bytes, the limit is %d", ErrFrameTooLarge, int64(uint32(total))+framePrefix, limit)
		switch {
		case b[0] == 0x16:
			return 0, fmt.Errorf("%w; the first byte is that of a TLS handshake, and this port speaks plain", err)
		case bytes.HasPrefix(b, []byte("PROX")) || bytes.HasPrefix(b, []byte("\r\n\r\n")):
			return 0, fmt.Errorf("%w; the bytes are those of a PROXY protocol preamble, which is not enabled", err)
		case bytes.HasPrefix(b, []byte("GET ")) || bytes.HasPrefix(b, []byte("POST")) || bytes.HasPrefix(b, []byte("HEAD")):
			return 0, fmt.Errorf("%w; the bytes are those of an HTTP request", err)
		}
		return 0, err
	case total < 4:
		return 0, fmt.Errorf("%w: length %d leaves no room for a header", ErrFrame, total)
	}
	return int(total) + framePrefix, nil
}

// DecodeFrame decodes one frame, length prefix included, into cmd, whose Ext slice is reused. cmd.Body is a part of frame; the bytes of
// frame's header are overwritten.
func DecodeFrame(frame []byte, cmd *Command) error {
	if len(frame) < framePrefix {
		return fmt.Errorf("%w: %d bytes", ErrFrame, len(frame))
	}
	size, err := frameSize(frame, len(frame))
	if err != nil {
		return err
	}
	if size != len(frame) {
		return fmt.Errorf("%w: %d bytes, its length word says %d", ErrFrame, len(frame), size)
	}
	return new(headerDecoder).decode(frame, cmd)
}

// headerDecoder keeps what decoding needs from one frame to the next.
type headerDecoder struct {
	scan  scanner
	spans []span
}

// span is a piece of the header's text.
type span struct{ from, to int }

func (d *headerDecoder) decode(frame []byte, cmd *Command) error {
	word := getUint32(frame[4:])
	n := int(word & maxHeaderLen)
	if n > len(frame)-8 {
		return fmt.Errorf("%w: header of %d bytes in a frame of %d", ErrFrame, n, len(frame))
	}
	*cmd = Command{Serialize: Serialize(word >> 24), Ext: cmd.Ext[:0], Body: frame[8+n:]}
	var err error
	switch cmd.Serialize {
	case JSON:
		err = d.decodeJSON(cmd, frame[8:8+n])
	case Binary:
		err = d.decodeBinary(cmd, frame[8:8+n])
	default:
		return fmt.Errorf("%w: header encoding %d is unknown", ErrFrame, word>>24)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHeader, err)
	}
	return nil
}

// AppendFrame appends the frame of cmd, length prefix included. It fails, with dst as it was, if the frame cannot be expressed.
func AppendFrame(dst []byte, cmd *Command) ([]byte, error) {
	at := len(dst)
	dst, err := appendHead(dst, cmd, len(cmd.Body), 1<<31-1, new(FieldEncoder))
	if err != nil {
		return dst[:at], err
	}
	return append(dst, cmd.Body...), nil
}

// appendHead appends all of a frame but its body.
func appendHead(dst []byte, cmd *Command, body, limit int, e *FieldEncoder) ([]byte, error) {
	at := len(dst)
	e.dst = append(dst, 0, 0, 0, 0, byte(cmd.Serialize), 0, 0, 0)
	e.binary, e.more, e.oversized = cmd.Serialize == Binary, false, false
	if e.binary {
		appendBinary(e, cmd)
	} else {
		appendJSON(e, cmd)
	}
	dst, e.dst = e.dst, nil
	n := len(dst) - at - 8
	switch size := len(dst) - at + body; {
	case n > maxHeaderLen || e.oversized:
		return dst[:at], fmt.Errorf("%w: header of %d bytes", ErrTooLong, n)
	case size > limit:
		return dst[:at], fmt.Errorf("%w: %d bytes, the limit is %d", ErrFrameTooLarge, size, limit)
	default:
		putUint32(dst[at:], uint32(size-framePrefix))
		dst[at+5], dst[at+6], dst[at+7] = byte(n>>16), byte(n>>8), byte(n)
	}
	return dst, nil
}

// frameReader cuts a stream into frames. Its buffer follows the traffic: 4 KiB for a quiet peer, 64 KiB for a busy one. A longer frame has
// a buffer of its own that grows as its bytes arrive, so that a length alone costs nothing.
type frameReader struct {
	r          io.Reader
	limit      int
	buf        []byte
	start, end int // what lies unread in buf
	big        []byte
	bigSize    int
	sparse     int // fills in a row that used little of buf
}

// next returns the next frame if all of it has arrived, else nil. A frame is valid until the next call of fill, and for good if owned.
func (f *frameReader) next() (frame []byte, owned bool, err error) {
	if f.bigSize > 0 {
		if len(f.big) < f.bigSize {
			return nil, false, nil
		}
		frame, f.big, f.bigSize = f.big, nil, 0
		return frame, true, nil
	}
	have := f.buf[f.start:f.end]
	if len(have) < framePrefix {
		return nil, false, nil
	}
	size, err := frameSize(have, f.limit)
	if err != nil {
		return nil, false, err
	}
	if len(have) >= size {
		f.start += size
		return have[:size:size], false, nil
	}
	if size > maxReadBuffer {
		f.bigSize = size
		f.big = append(make([]byte, 0, maxReadBuffer), have...)
		f.start, f.end = 0, 0
	}
	return nil, false, nil
}

// pending returns the size of the frame of which a part has arrived, 4 if not even its length has, 0 if there is none.
func (f *frameReader) pending() int {
	switch n := f.end - f.start; {
	case f.bigSize > 0:
		return f.bigSize
	case n >= framePrefix:
		return int(getUint32(f.buf[f.start:])) + framePrefix
	case n > 0:
		return framePrefix
	}
	return 0
}

// fill reads once. It is called when next has nothing.
func (f *frameReader) fill() error {
	if f.bigSize > 0 {
		if len(f.big) == cap(f.big) {
			grown := make([]byte, len(f.big), min(2*cap(f.big), f.bigSize))
			copy(grown, f.big)
			f.big = grown
		}
		n, err := f.r.Read(f.big[len(f.big):min(cap(f.big), f.bigSize)])
		f.big = f.big[:len(f.big)+n]
		return readErr(n, err)
	}
	f.resize()
	n, err := f.r.Read(f.buf[f.end:])
	f.end += n
	if f.end < len(f.buf)/4 {
		f.sparse++
	} else {
		f.sparse = 0
	}
	return readErr(n, err)
}

// readErr keeps an error that came with bytes for the next call: io.Reader returns it again.
func readErr(n int, err error) error {
	if n > 0 {
		return nil
	}
	return err
}

// resize makes room in buf, moving what is unread to its front.
func (f *frameReader) resize() {
	size := max(len(f.buf), minReadBuffer)
	have := f.end - f.start
	switch {
	case f.end == len(f.buf) && f.end > 0 || f.pending() > size:
		// The last read filled the buffer, or a frame does not fit: more comes at once than it holds.
		for size = min(2*size, maxReadBuffer); size < f.pending(); size *= 2 {
		}
	case f.sparse >= 16 && have < minReadBuffer && f.pending() <= size/2:
		size = max(size/2, minReadBuffer)
		f.sparse = 0
	}
	if size != len(f.buf) {
		buf := make([]byte, size)
		copy(buf, f.buf[f.start:f.end])
		f.buf = buf
	} else if f.start > 0 {
		copy(f.buf, f.buf[f.start:f.end])
	}
	f.start, f.end = 0, have
}
