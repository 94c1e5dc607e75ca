package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// fuzzImage is a directory with two segments: the fuzzer's bytes stand where
// frames stand, the first part in one segment and the rest in the next.
func fuzzImage(t testing.TB, synced uint32, first, rest []byte, fix bool) *disk.Mem {
	fs := newMem(t)
	ok(t, fs.MkdirAll("test", dir))
	st := state{generation: 1, start: position{1, segmentHeader}, last: 2, synced: position{1, int64(synced)}}
	for i, frames := range [][]byte{first, rest} {
		b := make([]byte, minSegmentBytes)
		h := header{logID: 1, size: minSegmentBytes, seq: uint64(i + 1), epoch: uint64(i + 1), cut: cut{segmentHeader, uint64(i + 1)}, state: st}
		copy(b, h.encode())
		copy(b[slotDistance:], h.encode())
		copy(b[segmentHeader:], frames)
		if fix {
			fixFrames(b, position{uint64(i + 1), segmentHeader})
		}
		writeFile(t, fs, path.Join(dir, segmentName(int64(i+1))), b)
	}
	return fs
}

// fixFrames gives what looks like frames their places and checksums, so that
// the fuzzer gets behind those.
func fixFrames(b []byte, at position) {
	le := binary.LittleEndian
	prev := uint32(0)
	for off := int(at.off); off+frameHeader <= len(b); {
		f := b[off:]
		le.PutUint32(f, frameMagic)
		n := frameHeader + int(le.Uint32(f[8:])%2000) + int(le.Uint32(f[12:])%2000)
		le.PutUint32(f[8:], uint32(n-frameHeader)-le.Uint32(f[12:])%2000)
		le.PutUint32(f[12:], le.Uint32(f[12:])%2000)
		if n > len(f) {
			return
		}
		le.PutUint64(f[48:], at.seq)
		le.PutUint32(f[56:], uint32(off))
		le.PutUint32(f[72:], prev)
		prev = frameCRC(seedOf(1), f[:n])
		le.PutUint32(f[76:], prev)
		off += int(frameLen(int64(n - frameHeader)))
	}
}

// FuzzScan: whatever stands in the files, scanning says what the log is or what
// is wrong, without a panic and without changing anything; opening agrees, and
// what it has opened is the same the next time.
func FuzzScan(f *testing.F) {
	frames := func(at position, epoch, index uint64, synced position, logs ...*raft.Log) (b []byte) {
		fr := frame{epoch: epoch, synced: synced}
		for i, l := range logs {
			fr.typ, fr.index, fr.term, fr.appended = l.Type, index+uint64(i), l.Term, encodeTime(l.AppendedAt)
			fr.at = position{at.seq, at.off + int64(len(b))}
			b = appendFrame(b, seedOf(1), &fr, l.Data, l.Extensions)
			fr.prevCRC = fr.crc
		}
		return b
	}
	one := frames(position{1, segmentHeader}, 1, 5, position{1, segmentHeader}, batch(5, 8, 1, 60)...)
	two := frames(position{2, segmentHeader}, 2, 9, position{1, segmentHeader + int64(len(one))}, batch(9, 10, 1, 60)...)
	f.Add(uint32(segmentHeader), one, two, false)
	f.Add(uint32(segmentHeader), one, []byte{}, false)
	f.Add(uint32(segmentHeader), []byte{}, two, false)
	f.Add(uint32(segmentHeader+len(one)), one[:len(one)-20], two, false)
	f.Add(uint32(segmentHeader), append(append([]byte{}, one[:100]...), bytes.Repeat([]byte{0xFF}, 200)...), two, false)
	f.Add(uint32(0), one, two, true)
	f.Add(uint32(1<<31), bytes.Repeat([]byte{1}, 500), bytes.Repeat([]byte{2}, 500), true)
	f.Fuzz(func(t *testing.T, synced uint32, first, rest []byte, fix bool) {
		const room = minSegmentBytes - segmentHeader
		fs := fuzzImage(t, synced, first[:min(len(first), room)], rest[:min(len(rest), room)], fix)
		sum := contents(t, fs)
		var scanned []*raft.Log
		scanErr := Scan(fs, dir, func(l *raft.Log) error { scanned = append(scanned, l); return nil })
		for name, b := range contents(t, fs) {
			if !bytes.Equal(b, sum[name]) {
				t.Fatal("scanning changed something")
			}
		}
		opts := uncached(small())
		opts.Create = false
		l, err := Open(fs, dir, opts)
		if scanErr != nil || err != nil {
			var fe *FileError
			if !errors.As(err, &fe) || !errors.As(scanErr, &fe) {
				t.Fatalf("Scan: %v, Open: %v", scanErr, err)
			}
			return
		}
		got, err := all(l)
		ok(t, err)
		ok(t, same(got, scanned))
		ok(t, l.Close())
		again, err := reads(fs, opts)
		ok(t, err)
		ok(t, same(again, got))
	})
}

// FuzzSnapshot: whatever a snapshot file holds, reading it ends with an error or
// with a payload whose length its meta says, and uses no more memory than a
// block.
func FuzzSnapshot(f *testing.F) {
	fs := newMem(f)
	s := openSnaps(f, fs)
	for i, n := range []int{0, 10, 3000} {
		id, err := take(s, uint64(i+1), 1, payload(1, n))
		ok(f, err)
		f.Add(readFile(f, fs, s.path(id)))
	}
	f.Add([]byte("RMRQSNAP"))
	name := snapName{1, 1, 1}.String()
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := newMem(t)
		ok(t, fs.MkdirAll("test", snapDir))
		writeFile(t, fs, path.Join(snapDir, name+snapSuffix), b)
		h, err := fs.OpenFile("test", path.Join(snapDir, name+snapSuffix), os.O_RDONLY)
		ok(t, err)
		file, err := readSnapHeader(h)
		if err != nil {
			var fe *FileError
			if !errors.As(err, &fe) {
				t.Fatalf("not a FileError: %v", err)
			}
			return
		}
		n, err := io.Copy(io.Discard, newSnapReader(h, file))
		if err == nil && n != file.payload {
			t.Fatalf("%d bytes, the meta says %d", n, file.payload)
		}
		if err == nil && snapSize(file.blocks, n) != int64(len(b)) {
			t.Fatalf("a payload of %d bytes in a file of %d", n, len(b))
		}
	})
}
