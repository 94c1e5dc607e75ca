package client

import (
	"bytes"
	"compress/zlib"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/raftmq/raftmq/remoting"
)

// Compression is how bodies are compressed.
type Compression int

// The compressions. Consumers undo all of them; those of other makes (Go's, Node's, Java's before 5.0) only Zlib.
const (
	Zlib Compression = iota
	LZ4
	Zstd
)

var compressionNames = [...]string{"ZLIB", "LZ4", "ZSTD"}

// String returns RocketMQ's name.
func (c Compression) String() string {
	if c < 0 || int(c) >= len(compressionNames) {
		return "UNKNOWN"
	}
	return compressionNames[c]
}

// sysFlag is what says so in a record. Zlib is said by the absence of a type, as clients know it that have never heard of types.
func (c Compression) sysFlag() int32 {
	return remoting.SysFlagCompressed | [...]int32{0, 0x100, 0x200}[c]
}

// lz4Block is the size of the blocks that LZ4 frames are made of: each takes memory of that size while it is worked on.
const lz4Block = lz4.Block256Kb

// compressor compresses the bodies of a producer.
type compressor struct {
	kind  Compression
	zstd  *zstd.Encoder
	pool  sync.Pool // of compressWriter
	fresh func(io.Writer) (streamWriter, error)
}

// streamWriter is what zlib and LZ4 have in common.
type streamWriter interface {
	io.WriteCloser
	Reset(io.Writer)
}

type compressWriter struct {
	w   streamWriter
	buf bytes.Buffer
}

// newCompressor returns a compressor; level is 1 to 9.
func newCompressor(kind Compression, level int) (*compressor, error) {
	c := &compressor{kind: kind}
	switch kind {
	case Zlib:
		c.fresh = func(w io.Writer) (streamWriter, error) { return zlib.NewWriterLevel(w, level) }
	case LZ4:
		c.fresh = func(w io.Writer) (streamWriter, error) {
			z := lz4.NewWriter(w)
			// Blocks that depend on each other, and levels, are not what Java's reader and writer know.
			return z, z.Apply(lz4.BlockSizeOption(lz4Block), lz4.ConcurrencyOption(1))
		}
	case Zstd:
		var err error
		c.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithLowerEncoderMem(true))
		return c, err
	}
	return c, nil
}

// compress returns body in compressed form and the sysFlag bits that say so; body itself and 0 if that is no shorter.
func (c *compressor) compress(body []byte) ([]byte, int32, error) {
	var out []byte
	if c.kind == Zstd {
		out = c.zstd.EncodeAll(body, make([]byte, 0, len(body)/2))
	} else {
		w, err := c.writer()
		if err != nil {
			return nil, 0, err
		}
		defer c.pool.Put(w)
		if _, err := w.w.Write(body); err != nil {
			return nil, 0, err
		}
		if err := w.w.Close(); err != nil {
			return nil, 0, err
		}
		if w.buf.Len() < len(body) {
			out = bytes.Clone(w.buf.Bytes())
		} else {
			out = body
		}
	}
	if len(out) >= len(body) {
		return body, 0, nil
	}
	return out, c.kind.sysFlag(), nil
}

// writer returns a writer that has written nothing yet.
func (c *compressor) writer() (*compressWriter, error) {
	w, _ := c.pool.Get().(*compressWriter)
	if w == nil {
		w = &compressWriter{}
		var err error
		if w.w, err = c.fresh(&w.buf); err != nil {
			return nil, err
		}
		return w, nil
	}
	w.buf.Reset()
	w.w.Reset(&w.buf)
	return w, nil
}
