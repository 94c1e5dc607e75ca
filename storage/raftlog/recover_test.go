package raftlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// A scene is a log whose last batch is about to be written, and what lies where
// it will be.
type scene struct {
	name string
	make func(t *testing.T, fs *disk.Mem) (l *Log, logs []*raft.Log)
}

var scenes = []scene{
	{"zeros behind the end", func(t *testing.T, fs *disk.Mem) (*Log, []*raft.Log) {
		l := mustOpen(t, fs, small())
		logs := batch(1, 9, 1, 100)
		ok(t, l.StoreLogs(logs[:5]))
		ok(t, l.StoreLogs(logs[5:]))
		return l, logs
	}},
	{"truncated entries behind the end", func(t *testing.T, fs *disk.Mem) (*Log, []*raft.Log) {
		l := mustOpen(t, fs, small())
		logs := batch(1, 9, 1, 100)
		ok(t, l.StoreLogs(logs))
		ok(t, l.StoreLogs(batch(10, 13, 1, 100)))
		ok(t, l.StoreLogs(batch(14, 30, 1, 100)))
		ok(t, l.DeleteRange(10, 30))
		return l, logs
	}},
	{"an earlier use behind the end", func(t *testing.T, fs *disk.Mem) (*Log, []*raft.Log) {
		l := mustOpen(t, fs, small())
		next := uint64(1)
		for l.Stats().Recycled < 2 {
			ok(t, l.StoreLogs(batch(next, next+19, 1, 100)))
			next += 20
			settle(l)
			if next%100 == 1 {
				ok(t, l.DeleteRange(0, next-10))
			}
		}
		// The second spare is the tail, and the batch fits.
		for segments := l.Stats().Segments; l.Stats().Segments == segments; next++ {
			ok(t, l.StoreLog(entryOf(next, 1, 3000)))
		}
		ok(t, l.DeleteRange(0, next-4))
		return l, batch(next-3, next-1, 1, 3000)
	}},
	{"an empty log", func(t *testing.T, fs *disk.Mem) (*Log, []*raft.Log) {
		l := mustOpen(t, fs, small())
		ok(t, l.StoreLogs(batch(50, 80, 1, 100)))
		ok(t, l.Reset())
		return l, nil
	}},
}

// play makes a scene, appends a last batch and returns the file system as it
// was before and after it, and the file and the range that the batch is in.
func (s scene) play(t *testing.T, size int) (before, after *disk.Mem, file string, from, to int64, logs, last []*raft.Log) {
	t.Helper()
	fs := newMem(t)
	l, logs := s.make(t, fs)
	settle(l)
	next := uint64(10)
	if len(logs) > 0 {
		next = logs[len(logs)-1].Index + 1
	}
	last = batch(next, next+3, 2, size)
	before = fs.Clone()
	from = l.tail().end
	ok(t, l.StoreLogs(last))
	after = fs.Clone()
	file, to = tailFile(l), l.tail().end
	if b := readFile(t, before, file)[from:to]; s.name != "zeros behind the end" && bytes.Count(b, []byte{0}) == len(b) {
		t.Fatalf("nothing lies behind the end")
	}
	ok(t, l.Close())
	return before, after, file, from, to, logs, last
}

// whole returns how many of the entries, whose frames should be want, are whole
// in got. What the padding holds does not matter.
func whole(logs []*raft.Log, got, want []byte) (n int) {
	for off := 0; n < len(logs); n++ {
		size := len(logs[n].Data) + len(logs[n].Extensions)
		if !bytes.Equal(got[off:][:frameHeader+size], want[off:][:frameHeader+size]) {
			break
		}
		off += int(frameLen(int64(size)))
	}
	return n
}

// opens checks that the log opens with the entries given, and goes on.
func opens(t *testing.T, fs *disk.Mem, want []*raft.Log) {
	t.Helper()
	l, err := Open(fs, dir, uncached(small()))
	ok(t, err)
	holds(t, l, want)
	next := uint64(1)
	if len(want) > 0 {
		next = want[len(want)-1].Index + 1
	}
	more := batch(next, next+1, 9, 50)
	ok(t, l.StoreLogs(more))
	kill := fs.Clone()
	ok(t, l.Close())
	for _, again := range []*disk.Mem{kill, fs} {
		l, err = Open(again, dir, uncached(small()))
		ok(t, err)
		holds(t, l, concat(want, more))
		ok(t, l.Close())
	}
}

// Row 20: the last batch reached the disk up to some byte.
func TestTornTailIsCutAtEveryByte(t *testing.T) {
	t.Parallel()
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			before, after, file, from, to, logs, last := s.play(t, 100)
			old, now := readFile(t, before, file), readFile(t, after, file)
			for x := from; x <= to; x++ {
				if x%3 != 0 && s.name != scenes[0].name && !long {
					continue
				}
				torn := append(append([]byte(nil), now[:x]...), old[x:]...)
				fs := after.Clone()
				writeFile(t, fs, file, torn)
				survivors := concat(logs, last[:whole(last, torn[from:to], now[from:to])])
				if x%16 != 0 && !long {
					l, err := Open(fs, dir, uncached(small()))
					ok(t, err)
					holds(t, l, survivors)
					ok(t, l.Close())
					continue
				}
				opens(t, fs, survivors)
			}
		})
	}
}

func frames(logs []*raft.Log) (n int64) {
	for _, e := range logs {
		n += frameLen(int64(len(e.Data) + len(e.Extensions)))
	}
	return n
}

// Row 20: any of the last batch's pages reached the disk, and others did not.
func TestLostPagesOfTheLastBatchAreATornTail(t *testing.T) {
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			before, after, file, from, to, logs, last := s.play(t, 4000)
			old, now := readFile(t, before, file), readFile(t, after, file)
			first, pages := from/4096, to/4096-from/4096+1
			for lost := range 1 << pages {
				torn := append([]byte(nil), now...)
				for p := range pages {
					if lost>>p&1 == 1 {
						copy(torn[(first+p)*4096:(first+p+1)*4096], old[(first+p)*4096:])
					}
				}
				fs := after.Clone()
				writeFile(t, fs, file, torn)
				opens(t, fs, concat(logs, last[:whole(last, torn[from:to], now[from:to])]))
			}
		})
	}
}

// What is left of a lost batch is dead, also if the lost part is written again
// byte for byte and the log ends where the rest begins.
func TestRestOfALostBatchIsNeverTakenUp(t *testing.T) {
	before, after, file, from, _, logs, last := scenes[0].play(t, 100)
	old, torn := readFile(t, before, file), readFile(t, after, file)
	copy(torn[from:][:frames(last[:1])], old[from:])
	fs := after.Clone()
	writeFile(t, fs, file, torn)
	l := mustOpen(t, fs, small())
	holds(t, l, logs)
	ok(t, l.StoreLog(last[0]))
	kill := fs.Clone()
	opens(t, kill, concat(logs, last[:1]))
}

// smallLog makes a log of some batches in two segments, with a deleted prefix
// and a truncation.
func smallLog(t *testing.T) (fs *disk.Mem, l *Log, logs []*raft.Log) {
	fs = newMem(t)
	l = mustOpen(t, fs, uncached(small()))
	ok(t, l.StoreLogs(batch(1, 6, 1, 60)))
	ok(t, l.StoreLog(&raft.Log{Index: 7, Term: 1, Data: bytes.Repeat([]byte{7}, 50_000)}))
	ok(t, l.StoreLogs(batch(8, 12, 1, 60)))
	ok(t, l.StoreLog(&raft.Log{Index: 13, Term: 1, Data: bytes.Repeat([]byte{13}, 20_000)}))
	ok(t, l.StoreLogs(batch(14, 20, 1, 60)))
	ok(t, l.DeleteRange(0, 3))
	ok(t, l.DeleteRange(17, 20))
	ok(t, l.StoreLogs(batch(17, 18, 2, 60)))
	settle(l) // a spare made later would vouch for the last batch
	ok(t, l.StoreLogs(batch(19, 22, 2, 60)))
	logs, err := all(l)
	ok(t, err)
	if len(logs) != 19 || l.Stats().Segments != 2 {
		t.Fatalf("%d entries, %+v", len(logs), l.Stats())
	}
	return fs, l, logs
}

// Row 21: one bit flipped, anywhere. The log opens with what it had, or says
// what is wrong and changes nothing; only damage to the last batch of a log that
// was not closed may look like a torn tail.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	fs, l, logs := smallLog(t)
	killed := fs.Clone()
	ok(t, l.Close())
	lastBatch := l.tail().end - frames(logs[len(logs)-4:])
	cut, corrupt, harmless := 0, 0, 0
	for m, mode := range []struct {
		name string
		fs   *disk.Mem
	}{{"killed", killed}, {"closed", fs}} {
		sum := checksum(t, mode.fs)
		for _, name := range names(t, mode.fs, dir) {
			if name == lockName {
				continue
			}
			full := path.Join(dir, name)
			for _, off := range telling(l, full) {
				if !long && off%2 != int64(m) {
					continue // every byte, in one of the modes
				}
				c := mode.fs.Clone()
				ok(t, c.FlipBit(full, off, uint(off/2)%8))
				got, err := Open(c, dir, uncached(small()))
				if err != nil {
					corrupt++
					damaged(t, err, kindOf(err), full)
					ok(t, c.FlipBit(full, off, uint(off/2)%8))
					if checksum(t, c) != sum {
						t.Fatalf("%s: byte %d of %s: Open failed with %v and changed the files", mode.name, off, name, err)
					}
					continue
				}
				have, err := all(got)
				ok(t, err)
				ok(t, got.Close())
				if same(have, logs) == nil {
					harmless++
					continue
				}
				n := len(have)
				if mode.name == "killed" && full == tailFile(l) && off >= lastBatch && n >= len(logs)-4 && same(have, logs[:n]) == nil {
					cut++
					continue
				}
				t.Fatalf("%s: bit %d of byte %d of %s flipped: %v", mode.name, off/2%8, off, name, same(have, logs))
			}
		}
	}
	t.Logf("%d refused, %d harmless, %d cut", corrupt, harmless, cut)
	if cut == 0 || corrupt < 500 || harmless == 0 {
		t.Error("some outcome never happened")
	}
}

// telling returns every offset in a file that means something, and a few that
// do not. Of large entries it takes the frame's header and a sample.
func telling(l *Log, file string) (offs []int64) {
	add := func(from, to, step int64) {
		for ; from < to; from += step {
			offs = append(offs, from)
		}
	}
	add(0, slotLen+4, 1)
	add(slotDistance, slotDistance+slotLen+4, 1)
	add(slotLen, minSegmentBytes, 4001)
	for _, s := range l.segs {
		if s.file.Name() != file {
			continue
		}
		for i := range s.entries {
			_, e, n := l.locate(s.base + uint64(i))
			if s.base+uint64(i) < l.first {
				continue
			}
			from := int64(e.off)
			add(from, from+min(n, 400), 1)
			add(from+400, from+n, 1501)
		}
		add(s.end, s.end+16, 1)
	}
	return offs
}

func kindOf(err error) error {
	for _, kind := range []error{ErrCorrupt, ErrBadMagic, ErrVersion, ErrMissing, ErrForeign} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return errors.New("none")
}

func checksum(t *testing.T, fs disk.FS) (sum [32]byte) {
	h := sha256.New()
	for _, n := range names(t, fs, dir) {
		fmt.Fprintln(h, n)
		h.Write(readFile(t, fs, path.Join(dir, n)))
	}
	return [32]byte(h.Sum(nil))
}

// A bit flipped under an open log is found by the read, and only by that one.
func TestGetLogVerifies(t *testing.T) {
	fs, l, logs := smallLog(t)
	s, e, n := l.locate(10)
	for off := int64(e.off); off < int64(e.off)+n; off++ {
		ok(t, fs.FlipBit(s.file.Name(), off, 3))
		var got raft.Log
		err := l.GetLog(10, &got)
		if off < int64(e.off)+frameHeader+int64(len(logs[6].Data)+len(logs[6].Extensions)) {
			damaged(t, err, ErrCorrupt, s.file.Name())
		} else {
			ok(t, err) // padding
		}
		ok(t, l.GetLog(9, &got))
		ok(t, l.GetLog(11, &got))
		ok(t, fs.FlipBit(s.file.Name(), off, 3))
	}
	holds(t, l, logs)
	ok(t, l.Err())
}

// Row 22: files that are shorter, gone, of another log, older.
func TestWrongFiles(t *testing.T) {
	fs, l, logs := smallLog(t)
	ok(t, l.Close())
	other := newMem(t)
	o := mustOpen(t, other, small())
	ok(t, o.StoreLogs(batch(1, 5, 1, 10)))
	ok(t, o.Close())
	segs := contents(t, fs)
	tail := path.Base(tailFile(l))
	var spare string
	for n := range segs {
		if path.Join(dir, n) == l.spares[0].file.Name() {
			spare = n
		}
	}
	if len(segs) != 3 || spare == "" {
		t.Fatalf("files %v", names(t, fs, dir))
	}
	patched := func(name string, off int, v byte, crcAt, crcFrom int) []byte {
		b := append([]byte(nil), segs[name]...)
		for _, slot := range []int{0, slotDistance} {
			b[slot+off] = v
			binary.LittleEndian.PutUint32(b[slot+crcAt:], crc32.Checksum(b[slot+crcFrom:slot+crcAt], castagnoli))
		}
		return b
	}
	type c struct {
		what  string
		write string
		bytes []byte // nil: remove
		kind  error
		file  string
	}
	cases := []c{
		{"another name", "notes.txt", []byte("x"), ErrForeign, "notes.txt"},
		{"a segment of another log", "00000009.seg", contents(t, other)["00000001.seg"], ErrForeign, "00000009.seg"},
		{"a copy of a segment", "00000009.seg", segs[tail], ErrForeign, "00000009.seg"},
		{"text in place of a segment", tail, bytes.Repeat([]byte("hello"), 20_000), ErrBadMagic, tail},
		{"zeros in place of a segment", tail, make([]byte, minSegmentBytes), ErrBadMagic, tail},
		{"a newer version", tail, patched(tail, 8, 2, slotLen-4, 0), ErrVersion, tail},
	}
	for name := range segs {
		cases = append(cases, c{"missing " + name, name, nil, ErrMissing, ""})
		for _, n := range []int{0, 1, 100, 5000, segmentHeader, minSegmentBytes / 2, minSegmentBytes - 1} {
			kind := ErrCorrupt
			if n < 8 {
				kind = ErrBadMagic
			}
			cases = append(cases, c{fmt.Sprintf("%s cut to %d bytes", name, n), name, segs[name][:n], kind, name})
		}
		cases = append(cases, c{name + " too long", name, append(segs[name][:minSegmentBytes:minSegmentBytes], 0), ErrCorrupt, name})
	}
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			fs := fs.Clone()
			if c.bytes == nil {
				ok(t, fs.Remove("test", path.Join(dir, c.write)))
			} else {
				writeFile(t, fs, path.Join(dir, c.write), c.bytes)
			}
			sum := checksum(t, fs)
			_, err := Open(fs, dir, small()) // even if a new one may be made
			damaged(t, err, c.kind, path.Join(dir, c.file))
			damaged(t, Scan(fs, dir, func(*raft.Log) error { return nil }), c.kind, path.Join(dir, c.file))
			if checksum(t, fs) != sum {
				t.Error("the files were changed")
			}
		})
	}
	opens(t, fs, logs)
}

// Row 22: an older copy of one file is noticed.
func TestOlderCopyOfASegment(t *testing.T) {
	fs, l, _ := smallLog(t)
	ok(t, l.Close())
	old := contents(t, fs)
	l = mustOpen(t, fs, small())
	ok(t, l.StoreLogs(batch(23, 30, 3, 60)))
	settle(l)
	ok(t, l.Close())
	tail := path.Base(tailFile(l))
	for name, b := range contents(t, fs) {
		if bytes.Equal(b, old[name]) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c := fs.Clone()
			writeFile(t, c, path.Join(dir, name), old[name])
			_, err := Open(c, dir, small())
			if name == tail {
				damaged(t, err, ErrCorrupt, path.Join(dir, name))
			} else {
				damaged(t, err, ErrMissing, dir) // the spare
			}
		})
	}
}

// A frame of a version to come is not a torn tail.
func TestUnknownFrameVersion(t *testing.T) {
	_, after, file, from, _, logs, last := scenes[0].play(t, 100)
	b := readFile(t, after, file)
	f := b[from:]
	f[4] = frameVersion + 1
	n := frameHeader + len(last[0].Data) + len(last[0].Extensions)
	id := binary.LittleEndian.Uint64(b[16:])
	binary.LittleEndian.PutUint32(f[frameHeader-4:], frameCRC(seedOf(id), f[:n]))
	writeFile(t, after, file, b)
	_, err := Open(after, dir, small())
	damaged(t, err, ErrVersion, file)
	f[5]++ // and now it is not whole
	writeFile(t, after, file, b)
	opens(t, after, logs)
}

// An entry whose bytes are a piece of a raft log, of this one even, does not
// make a torn tail look like damage.
func TestEntriesThatLookLikeFrames(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	logs := batch(1, 5, 1, 100)
	ok(t, l.StoreLogs(logs))
	ok(t, l.StoreLogs(batch(6, 9, 1, 100)))
	ok(t, l.DeleteRange(6, 9))
	piece := readFile(t, fs, tailFile(l))[segmentHeader:l.tail().end]
	for range 4 { // as a frame of this place, too, with a checksum that anyone can make
		var f frame
		f.epoch, f.at, f.synced = 1<<60, l.tail().at(l.tail().end+frameHeader+int64(len(piece))), position{1 << 60, 0}
		piece = appendFrame(piece, 0, &f, []byte("x"), nil)
	}
	settle(l) // a spare made later would vouch for the entry
	from := l.tail().end
	ok(t, l.StoreLog(&raft.Log{Index: 6, Term: 2, Data: piece}))
	kill := fs.Clone()
	ok(t, kill.FlipBit(tailFile(l), from+10, 0))
	opens(t, kill, logs)
}

// Later entries vouch for earlier ones, without any header's help: damage before
// the last batch is never cut off, wherever the later entries are.
func TestDamageBeforeTheLastBatch(t *testing.T) {
	for _, size := range []int{60, 9000} { // in one segment, and in three
		fs := newMem(t)
		l := mustOpen(t, fs, small())
		var logs []*raft.Log
		for i := range uint64(4) {
			b := batch(i*3+1, i*3+3, 1, size)
			ok(t, l.StoreLogs(b))
			logs = append(logs, b...)
		}
		killed := fs.Clone()
		// Take from the headers what they know beyond the log's beginning.
		for _, n := range names(t, killed, dir) {
			if _, isSegment := parseSegmentName(n); !isSegment {
				continue
			}
			b := readFile(t, killed, path.Join(dir, n))
			h, _, err := readHeader(mustFile(t, killed, path.Join(dir, n)))
			ok(t, err)
			h.synced = position{1, segmentHeader}
			copy(b, h.encode())
			copy(b[slotDistance:], h.encode())
			writeFile(t, killed, path.Join(dir, n), b)
		}
		got, err := reads(killed.Clone(), small())
		ok(t, err)
		ok(t, same(got, logs))
		for i, e := range logs {
			s, at, _ := l.locate(e.Index)
			for off := range int64(frameHeader + len(e.Data) + len(e.Extensions)) {
				if !long && off%max(2, int64(size)/18) != 0 {
					continue
				}
				c := killed.Clone()
				ok(t, c.FlipBit(s.file.Name(), int64(at.off)+off, uint(off)))
				got, err := reads(c, small())
				if i < 9 {
					damaged(t, err, ErrCorrupt, s.file.Name())
				} else if err != nil || len(got) < 9 || len(got) > i {
					t.Fatalf("entry %d, byte %d: %d entries, %v", e.Index, off, len(got), err)
				}
			}
		}
		ok(t, l.Close())
	}
}

func mustFile(t *testing.T, fs disk.FS, name string) disk.File {
	t.Helper()
	f, err := fs.OpenFile("test", name, os.O_RDWR)
	ok(t, err)
	t.Cleanup(func() { ok(t, f.Close()) })
	return f
}

// A segment that goes missing is noticed, also the last one, of a log that was
// not closed and had no room for a spare.
func TestMissingSegmentOfAKilledLog(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	settle(l)
	u, err := fs.Usage(dir)
	ok(t, err)
	fs.SetCapacity(int64(u.Total - u.Free)) // one spare, and no more
	ok(t, l.StoreLogs(batch(1, 10, 1, 4000)))
	ok(t, l.StoreLogs(batch(11, 20, 1, 4000)))
	if st := l.Stats(); st.Segments != 2 || st.Spare != 0 {
		t.Fatalf("%+v", st)
	}
	for _, s := range l.segs {
		c := fs.Clone()
		ok(t, c.Remove("test", s.file.Name()))
		_, err := Open(c, dir, small())
		damaged(t, err, ErrMissing, dir)
	}
	ok(t, l.Close())
}

// A segment from a copy of the data directory that went its own way has the
// right name, log, place, epoch and indexes, but not the right predecessor.
func TestSegmentOfAnotherHistory(t *testing.T) {
	fs := newMem(t)
	l := mustOpen(t, fs, small())
	ok(t, l.StoreLogs(batch(1, 3, 1, 4000)))
	ok(t, l.Close())
	var forks []*disk.Mem
	var tails []string
	for term := uint64(2); term < 4; term++ {
		fork := fs.Clone()
		l := mustOpen(t, fork, small())
		settle(l)
		ok(t, l.StoreLogs(batch(4, 13, term, 4000)))
		settle(l)
		ok(t, l.StoreLogs(batch(14, 20, 5, 4000)))
		if st := l.Stats(); st.Segments != 2 {
			t.Fatalf("%+v", st)
		}
		settle(l)
		ok(t, l.Close())
		forks, tails = append(forks, fork), append(tails, tailFile(l))
	}
	if tails[0] != tails[1] {
		t.Fatalf("%v", tails)
	}
	writeFile(t, forks[0], tails[0], readFile(t, forks[1], tails[1]))
	_, err := Open(forks[0], dir, small())
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

// A change of a header first writes the slot that does not hold the newest one:
// at no time are both of them unusable.
func TestHeaderSlots(t *testing.T) {
	fs := newMem(t)
	ok(t, fs.MkdirAll("test", dir))
	h := header{logID: 1, size: minSegmentBytes, seq: 1, state: state{generation: 5}}
	for newest := range 2 {
		writeFile(t, fs, file1, make([]byte, minSegmentBytes))
		f := mustFile(t, fs, file1)
		_, err := f.WriteAt(h.encode(), int64(newest)*slotDistance)
		ok(t, err)
		for _, other := range [][]byte{nil, []byte("torn"), (&header{logID: 1, size: minSegmentBytes, seq: 1, state: state{generation: 4}}).encode()} {
			_, err := f.WriteAt(other, int64(1-newest)*slotDistance)
			ok(t, err)
			got, slot, err := readHeader(f)
			ok(t, err)
			if got != h || slot != 1-newest {
				t.Errorf("newest in slot %d: read %+v, to be written first: %d", newest, got, slot)
			}
			next := h
			next.generation = 6
			for n := range slotLen { // the first write is cut short at any byte
				fs.SetHook(func(op disk.Op) error { return disk.ShortWrite{N: n, Err: errInjected} })
				want(t, "writeHeader", writeHeader(f, &next, slot, disk.File.Datasync), errInjected)
				fs.SetHook(nil)
				if got, _, err := readHeader(f); err != nil || got != h {
					t.Fatalf("cut at %d: %+v, %v", n, got, err)
				}
			}
		}
	}
}
