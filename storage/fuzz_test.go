package storage

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// fuzzLog is a small log with a blank in it.
func fuzzLog() *model {
	m := newModel(4096)
	id := QueueID{"t", 1, 0}
	for range 5 {
		m.append(message{id: id, body: make([]byte, 1000), key: "k"})
	}
	return m
}

// Whatever the CommitLog's bytes are, a scan ends, stays in bounds, goes forward
// and returns only what begins like a record and has its size.
func FuzzLogScan(f *testing.F) {
	f.Add(fuzzLog().log, uint8(1))
	f.Add(fuzzLog().log[:4096], uint8(1))
	f.Add([]byte{}, uint8(1))
	f.Add([]byte{0, 0, 0x10, 0, 0xCB, 0xD4, 0x31, 0x94}, uint8(0))
	f.Fuzz(func(t *testing.T, log []byte, size uint8) {
		segment := int64(1+size%4) * 4096
		scan := logScan{segment: segment, end: int64(len(log)), read: func(off int64, need, want int) ([]byte, error) {
			if off < 0 || need > want || off+int64(want) > int64(len(log)) || off/segment != (off+int64(want)-1)/segment {
				t.Fatalf("read of %d to %d bytes at %d", need, want, off)
			}
			return log[off : off+int64(want)], nil
		}}
		last := int64(-1)
		for {
			pos, rec, err := scan.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				if !errors.Is(err, ErrCorrupt) {
					t.Fatal(err)
				}
				return
			}
			if pos <= last || !bytes.Equal(rec, log[pos:pos+int64(len(rec))]) {
				t.Fatalf("record of %d bytes at %d after %d", len(rec), pos, last)
			}
			last = pos
			r, err := parseRecord(rec)
			if err == nil {
				_ = r.checkBody()
				if len(r.body)+len(r.topic)+len(r.properties) > len(rec) {
					t.Fatal("fields are longer than the record")
				}
			}
		}
	})
}

func fuzzManifest() *Manifest {
	return &Manifest{
		SegmentSize: 4096, Min: 8192, End: 20000, Digests: []uint32{1, 2, 3}, Part: 4,
		Queues: []QueueState{
			{QueueID{"a", 1, 0}, 5, 6, 7}, {QueueID{"a", 1, 2}, 1, 0, 9}, {QueueID{"a", 2, 0}, 1 << 40, 8, 0}, {QueueID{"b", 0, 1}, 300_000, 1, 1},
		},
	}
}

// What ParseManifest takes is valid, and is what AppendBinary writes.
func FuzzManifest(f *testing.F) {
	for _, m := range []*Manifest{fuzzManifest(), {SegmentSize: 4096}, {SegmentSize: 1 << 30, Min: 1 << 30, End: 1 << 30}} {
		b, err := m.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, resealed(b)} {
			m, err := ParseManifest(b)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
					t.Fatal(err)
				}
				continue
			}
			again, err := m.AppendBinary(nil)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%x became %x, %v", b, again, err)
			}
		}
	})
}

// resealed is b with the checksum that it must have, so that what is behind the
// checksum is reached.
func resealed(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	b = bytes.Clone(b[:len(b)-4])
	return appendSeal(b)
}

func appendSeal(b []byte) []byte {
	return append(b, encodeSums([]uint32{digestOf(b)})...)
}

func fuzzCheckpoint() *checkpoint {
	return &checkpoint{
		seq: 7, manifest: fuzzManifest(), floor: 4096, index: 100, missing: spans{{8192, 12288}, {16384, 20000}},
		queues: []queueFacts{
			{id: QueueID{"a", 1, 0}, front: 2, local: 9, hasLocal: true},
			{id: QueueID{"a", 2, 0}, front: 0, holes: []holeState{{1, 5, -1, 0, false, 0}, {7, 9, 100, 200, true, 3}}},
		},
		doomed: []TopicID{{"x", 1}},
	}
}

// What parseCheckpoint takes is what encode writes.
func FuzzCheckpoint(f *testing.F) {
	for _, c := range []*checkpoint{fuzzCheckpoint(), {manifest: &Manifest{SegmentSize: 4096}}} {
		b, err := c.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, resealed(b)} {
			c, err := parseCheckpoint(b)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
					t.Fatal(err)
				}
				continue
			}
			again, err := c.encode()
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%x became %x, %v", b, again, err)
			}
		}
	})
}

// What parseFormat takes is what encode writes.
func FuzzFormat(f *testing.F) {
	f.Add(format{4096, "c", "g", "r"}.encode())
	f.Add(format{1 << 30, "a b", "\"\n", "\xff"}.encode())
	f.Add([]byte("raftmq storage 1\ncrc32c 00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseFormat(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p.encode(), b) {
			t.Fatalf("%q became %q", b, p.encode())
		}
	})
}
