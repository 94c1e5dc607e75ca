package client

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/raftmq/raftmq/remoting"
)

// decompressor undoes compressions, up to a limit: a small body may say that it is a huge one.
type decompressor struct {
	limit int // bytes of a body
	zstd  *zstd.Decoder
}

// zstdWindow is the window of Zstandard's highest ordinary level. Java's writer does not know how long a body is, so even that of a short one
// says it needs the level's window.
const zstdWindow = 8 << 20

func newDecompressor(limit int) (*decompressor, error) {
	// Without a reader it has no goroutine. As many bodies as there are processors are decoded at once.
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(uint64(max(limit, zstdWindow))))
	return &decompressor{limit: limit, zstd: z}, err
}

var (
	inflaters  sync.Pool // of zlib's readers
	lz4Readers = sync.Pool{New: func() any { return lz4.NewReader(nil) }}
)

// decompress returns the body that became a compressed one; sysFlag says how. The error matches ErrUndecodable.
func (d *decompressor) decompress(body []byte, sysFlag int32) (out []byte, err error) {
	switch kind := sysFlag & remoting.SysFlagCompressionType; kind {
	case 0, 0x300:
		out, err = d.inflate(body)
	case 0x100:
		out, err = d.unpackLZ4(body)
	case 0x200:
		if len(body) == 0 { // which the decoder takes for no frame, and no error
			return nil, fmt.Errorf("%w: %w", ErrUndecodable, io.ErrUnexpectedEOF)
		}
		out, err = d.zstd.DecodeAll(body, nil)
		if len(out) > d.limit || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
			err = d.tooLong()
		}
	default:
		err = fmt.Errorf("compression type %#x is unknown", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUndecodable, err)
	}
	return out, nil
}

func (d *decompressor) inflate(body []byte) ([]byte, error) {
	src := bytes.NewReader(body)
	r, _ := inflaters.Get().(io.ReadCloser)
	var err error
	if r == nil {
		r, err = zlib.NewReader(src)
	} else {
		err = r.(zlib.Resetter).Reset(src, nil)
	}
	if err != nil {
		return nil, err
	}
	defer inflaters.Put(r)
	return d.read(r, len(body))
}

func (d *decompressor) unpackLZ4(body []byte) ([]byte, error) {
	if !wholeLZ4(body) { // the reader takes the end of some parts for that of the frame
		return nil, io.ErrUnexpectedEOF
	}
	r := lz4Readers.Get().(*lz4.Reader)
	defer lz4Readers.Put(r)
	r.Reset(bytes.NewReader(body))
	return d.read(r, len(body))
}

// wholeLZ4 reports whether b is one LZ4 frame from its beginning to its end.
//
//	magic   4  184D2204, little-endian as all numbers
//	flags   1  bit 4: blocks have checksums, 3: the content has a size, 2: and a checksum, 0: a dictionary
//	sizes   1
//	        8  content size, if it has one
//	        4  dictionary id, if it has one
//	        1  checksum of the header
//	blocks     each 4 bytes of length without bit 31, as many bytes, and 4 of checksum if they have any
//	end     4  0
//	        4  checksum of the content, if it has one
func wholeLZ4(b []byte) bool {
	if len(b) < 7 || binary.LittleEndian.Uint32(b) != 0x184D2204 {
		return false
	}
	flags := b[4]
	bit := func(n uint) int { return int(flags>>n) & 1 }
	for at := 7 + 8*bit(3) + 4*bit(0); at+4 <= len(b); {
		size := int(binary.LittleEndian.Uint32(b[at:]) &^ (1 << 31))
		if at += 4; size == 0 {
			return at+4*bit(2) == len(b)
		}
		if size > len(b)-at {
			return false
		}
		at += size + 4*bit(4)
	}
	return false
}

// read reads all of r, which is made of a body of size bytes.
func (d *decompressor) read(r io.Reader, size int) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(min(4*size, d.limit))
	switch n, err := io.Copy(&out, io.LimitReader(r, int64(d.limit)+1)); {
	case err != nil:
		return nil, err
	case n > int64(d.limit):
		return nil, d.tooLong()
	}
	return out.Bytes(), nil
}

func (d *decompressor) tooLong() error {
	return fmt.Errorf("the body is longer than %d bytes (Config.MaxDecompressed)", d.limit)
}
