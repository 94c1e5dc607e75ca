package raftlog

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/raft"
)

// A frame is one at its own place, in its own log, with every byte as written.
func TestFrameIsOnlyOneInItsPlace(t *testing.T) {
	const segmentBytes = 1 << 20
	at := position{7, 8192}
	f := frame{typ: raft.LogNoop, index: 5, term: 6, appended: 7, epoch: 8, at: at, synced: position{6, 9000}, prevCRC: 10}
	b := appendFrame(nil, 1, &f, []byte("data"), []byte("ext"))
	if int64(len(b)) != f.len() || len(b)%frameAlign != 0 {
		t.Fatalf("%d bytes, len says %d", len(b), f.len())
	}
	check := func(b []byte, at position, size int64, seed uint32) error {
		var got frame
		if err := got.decode(b, at, size); err != nil {
			return err
		}
		b = append(b[:len(b):len(b)], make([]byte, max(0, got.len()-int64(len(b))))...) // of the file
		if err := got.verify(seed, b); err != nil {
			return err
		}
		if got != f {
			t.Errorf("decoded %+v, want %+v", got, f)
		}
		var l raft.Log
		got.log(b, &l)
		if string(l.Data) != "data" || string(l.Extensions) != "ext" || cap(l.Data) != 4 {
			t.Errorf("%+v", l)
		}
		return nil
	}
	ok(t, check(b, at, segmentBytes, 1))
	for what, err := range map[string]error{
		"another offset":        check(b, position{7, 8200}, segmentBytes, 1),
		"another segment":       check(b, position{8, 8192}, segmentBytes, 1),
		"another log":           check(b, at, segmentBytes, 2),
		"a segment that ends":   check(b, at, at.off+f.len()-1, 1),
		"zeros":                 check(make([]byte, 200), at, segmentBytes, 1),
		"lengths beyond 32 bit": check(withLengths(b, 1<<32-1, 1<<32-1), at, segmentBytes, 1),
	} {
		if !errors.Is(err, errNoFrame) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for off := range frameHeader + 7 {
		bad := append([]byte(nil), b...)
		bad[off] ^= 1 << rand.IntN(8)
		if err := check(bad, at, segmentBytes, 1); !errors.Is(err, errNoFrame) {
			t.Errorf("byte %d changed: %v", off, err)
		}
	}
}

func withLengths(b []byte, data, ext uint32) []byte {
	b = append([]byte(nil), b...)
	binary.LittleEndian.PutUint32(b[8:], data)
	binary.LittleEndian.PutUint32(b[12:], ext)
	return b
}
