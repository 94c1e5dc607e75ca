package remoting

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// chunks reads r in pieces of the sizes given, the last one for ever.
type chunks struct {
	r     io.Reader
	sizes []int
}

func (c *chunks) Read(p []byte) (int, error) {
	n := min(len(p), max(c.sizes[0], 1))
	if len(c.sizes) > 1 {
		c.sizes = c.sizes[1:]
	}
	return c.r.Read(p[:n])
}

// split cuts a stream into frames, copied.
func split(stream []byte, limit int, sizes ...int) (frames [][]byte, err error) {
	in := frameReader{r: &chunks{bytes.NewReader(stream), sizes}, limit: limit}
	for {
		frame, owned, err := in.next()
		if err != nil {
			return frames, err
		}
		if frame != nil {
			if !owned {
				frame = bytes.Clone(frame)
			}
			frames = append(frames, frame)
			continue
		}
		if err := in.fill(); err != nil {
			return frames, err
		}
	}
}

func TestFrameReaderCuts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var stream []byte
	var want [][]byte
	for _, size := range []int{8, 9, 4000, 4096, 4097, 8, 65535, 65536, 65537, 8, 300_000, 12, 64 << 10, 1 << 20, 8, 100, 100, 100} {
		frame := make([]byte, size)
		for i := range frame {
			frame[i] = byte(rng.Int())
		}
		putUint32(frame, uint32(size-4))
		want = append(want, frame)
		stream = append(stream, frame...)
	}
	for _, sizes := range [][]int{{1}, {7}, {4096}, {1 << 20}, {4, 1, 100000, 3, 65536}} {
		got, err := split(stream, DefaultMaxFrame, sizes...)
		if err != io.EOF || len(got) != len(want) {
			t.Fatalf("reads of %v: %d frames, %v", sizes, len(got), err)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("reads of %v: frame %d of %d bytes differs", sizes, i, len(want[i]))
			}
		}
	}
}

func TestFrameReaderMemory(t *testing.T) {
	// A length alone costs one buffer; a quiet peer's buffer shrinks back.
	claim := []byte{0, 255, 255, 252, 0, 0, 0, 2, '{', '}'}
	in := frameReader{r: bytes.NewReader(claim), limit: DefaultMaxFrame}
	in.next()
	in.fill()
	if frame, _, err := in.next(); frame != nil || err != nil || in.pending() != 16<<20 {
		t.Fatalf("%v, %v, %d pending", frame, err, in.pending())
	}
	in.fill()
	if n := len(in.buf) + cap(in.big); n > 2*maxReadBuffer {
		t.Errorf("%d bytes are held for a frame of which 10 have come", n)
	}

	small := append([]byte{0, 0, 0, 4}, make([]byte, 4)...)
	busy := bytes.Repeat(small, 100_000)
	in = frameReader{r: &chunks{bytes.NewReader(append(busy, bytes.Repeat(small, 200)...)), nil}, limit: DefaultMaxFrame}
	sizes := make([]int, 0, 300)
	for left := len(busy); left > 0; left -= min(left, maxReadBuffer) {
		sizes = append(sizes, min(left, maxReadBuffer))
	}
	in.r.(*chunks).sizes = append(sizes, 8)
	most := 0
	for {
		frame, _, err := in.next()
		if err != nil {
			t.Fatal(err)
		}
		if frame == nil {
			if in.fill() != nil {
				break
			}
			most = max(most, len(in.buf))
		}
	}
	if most != maxReadBuffer || len(in.buf) != minReadBuffer {
		t.Errorf("the buffer grew to %d and ended at %d", most, len(in.buf))
	}
}
