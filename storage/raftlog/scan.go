package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/mutant"
)

// image is what a directory holds, as found by scanning it. Nothing is changed.
type image struct {
	logID uint64
	seed  uint32
	state state
	// segs are the segments from the log's start to its end, oldest first; free
	// is every other segment; tmps are names left over from work in progress.
	segs, free []*segment
	tmps       []string
	hasMark    bool

	epoch  uint64 // the highest anywhere
	number int64  // the highest file name

	first, last uint64 // indexes, 0 if empty
	lastTerm    uint64
	lastCRC     uint32
	end         position // of the last entry
	// synced: before this place everything is known to be on the disk.
	synced position
}

func seedOf(logID uint64) uint32 {
	return crc32.Checksum(binary.LittleEndian.AppendUint64(nil, logID), castagnoli)
}

func (img *image) close() (err error) {
	for _, s := range slices.Concat(img.segs, img.free) {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

// visitor sees each entry of the log in order. b is the frame, valid during the
// call only.
type visitor func(f *frame, b []byte) error

// scan reads and verifies the whole log; visit may be nil. No segs: there is no
// log. The caller closes the image's files, also when there is an error.
func scan(fs disk.FS, dir string, flag int, visit visitor) (*image, error) {
	img := &image{}
	segs, err := img.open(fs, dir, flag)
	img.free = segs
	if err != nil || img.state.generation == 0 {
		return img, err // no log yet
	}
	if err := img.chain(dir); err != nil {
		return img, err
	}
	return img, img.walk(visit)
}

// open lists the directory and reads all headers.
func (img *image) open(fs disk.FS, dir string, flag int) (segs []*segment, err error) {
	entries, err := fs.ReadDir(LabelDir, dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		number, ok := parseSegmentName(e.Name())
		switch {
		case ok && !e.IsDir():
			img.number = max(img.number, number)
		case e.Name() == markName:
			img.hasMark = true
			continue
		case e.Name() == lockName:
			continue
		case path.Ext(e.Name()) == tmpSuffix && !e.IsDir():
			img.tmps = append(img.tmps, name)
			continue
		default:
			return segs, &FileError{File: name, Offset: -1, Detail: "not a name that a raft log uses", Err: ErrForeign}
		}
		f, err := fs.OpenFile(LabelScan, name, flag)
		if err != nil {
			return segs, err
		}
		s := &segment{file: f, end: segmentHeader}
		segs = append(segs, s)
		if s.head, s.slot, err = readHeader(f); err != nil {
			return segs, err
		}
		s.seq, s.epoch = s.head.seq, s.maxEpoch()
		if s.bytes, err = f.Size(); err != nil {
			return segs, err
		}
		if s.bytes != s.head.size {
			return segs, &FileError{File: name, Offset: s.bytes, Err: ErrCorrupt,
				Detail: fmt.Sprintf("the file has %d bytes, its header says %d", s.bytes, s.head.size)}
		}
		if first := segs[0]; s.head.logID != first.head.logID {
			return segs, &FileError{File: name, Offset: -1, Err: ErrForeign,
				Detail: fmt.Sprintf("it belongs to log %016x, but %s to log %016x", s.head.logID, first.file.Name(), first.head.logID)}
		}
		img.logID = s.head.logID
		img.epoch = max(img.epoch, s.maxEpoch())
		if s.head.generation > img.state.generation {
			img.state = s.head.state
		}
	}
	img.seed = seedOf(img.logID)
	return segs, nil
}

// chain moves the segments that make up the log from free to segs.
//
// A sequence number may be there twice, when a truncation dropped the later
// segments and one of them, or another file, took the number again: the higher
// epoch is the live one. The epochs of live segments ascend, and no segment is
// older than a truncation in an earlier one.
func (img *image) chain(dir string) error {
	st := img.state
	if st.start.seq == 0 || st.last < st.start.seq || st.last-st.start.seq >= uint64(len(img.free)) {
		return &FileError{File: dir, Offset: -1, Err: ErrMissing,
			Detail: fmt.Sprintf("the log needs segments %d to %d, %d files are there", st.start.seq, st.last, len(img.free))}
	}
	var epoch uint64
	for seq := st.start.seq; seq <= st.last; seq++ {
		var live *segment
		for _, s := range img.free {
			if s.seq != seq || s.head.epoch <= epoch {
				continue
			}
			if live != nil && s.head.epoch == live.head.epoch {
				return &FileError{File: s.file.Name(), Offset: -1, Err: ErrForeign,
					Detail: fmt.Sprintf("it is a copy of %s, of some age: both are segment %d", live.file.Name(), seq)}
			}
			if live == nil || s.head.epoch > live.head.epoch {
				live = s
			}
		}
		if live == nil {
			return &FileError{File: dir, Offset: -1, Err: ErrMissing,
				Detail: fmt.Sprintf("segment %d of %d to %d is not there", seq, st.start.seq, st.last)}
		}
		epoch = live.maxEpoch()
		img.segs = append(img.segs, live)
	}
	img.free = slices.DeleteFunc(img.free, func(s *segment) bool { return slices.Contains(img.segs, s) })
	if off := st.start.off; off < segmentHeader || off%frameAlign != 0 || off > img.segs[0].bytes {
		return &FileError{File: img.segs[0].file.Name(), Offset: 0, Err: ErrCorrupt,
			Detail: fmt.Sprintf("the log cannot begin at byte %d", off)}
	}
	return nil
}

// walk follows the frames from the log's start to its end, then decides whether
// the end is a torn tail or damage.
func (img *image) walk(visit visitor) error {
	img.synced = img.state.synced
	img.end = img.state.start
	epoch := uint64(0) // of the last entry
	for i, s := range img.segs {
		s.base = img.last + 1
		if i == 0 {
			s.end = img.end.off
		}
		w := &window{file: s.file, size: s.bytes}
		for s.end < s.bytes {
			var f frame
			b, err := img.frameAt(w, s, s.end, &f)
			if err != nil && !errors.Is(err, errNoFrame) {
				return err
			}
			if err != nil || !img.follows(&f, max(epoch, s.minEpoch(s.end))) {
				break
			}
			if visit != nil {
				if err := visit(&f, b); err != nil {
					return err
				}
			}
			if len(s.entries) == 0 {
				s.base = f.index
			}
			s.entries = append(s.entries, entry{off: uint32(s.end), crc: f.crc})
			if img.first == 0 {
				img.first = f.index
			}
			img.last, img.lastTerm, img.lastCRC, epoch = f.index, f.term, f.crc, f.epoch
			s.end += f.len()
			img.end = s.at(s.end)
			if img.synced.less(f.synced) {
				img.synced = f.synced
			}
		}
	}
	// What follows the segment that the log ends in holds nothing.
	n := slices.IndexFunc(img.segs, func(s *segment) bool { return s.seq == img.end.seq })
	if err := img.judge(n, epoch); err != nil {
		return err
	}
	img.free = append(img.free, img.segs[n+1:]...)
	img.segs = img.segs[:n+1]
	return nil
}

// frameAt reads and verifies the frame of s at off. errNoFrame: there is none.
func (img *image) frameAt(w *window, s *segment, off int64, f *frame) ([]byte, error) {
	if s.bytes-off < frameHeader {
		return nil, errNoFrame
	}
	b, err := w.at(off, frameHeader)
	if err != nil {
		return nil, err
	}
	if err := f.decode(b, s.at(off), s.bytes); err != nil {
		return nil, err
	}
	if b, err = w.at(off, f.len()); err != nil {
		return nil, err
	}
	if err := f.verify(img.seed, b); err == ErrVersion {
		return nil, &FileError{File: s.file.Name(), Offset: off, Err: err,
			Detail: fmt.Sprintf("the entry has version %d, this release knows %d", b[4], frameVersion)}
	} else if err != nil {
		return nil, err
	}
	return b, nil
}

// follows says whether a frame continues the log. One that knows more to be
// synced than there is has lost its predecessors.
func (img *image) follows(f *frame, minEpoch uint64) bool {
	if f.epoch < minEpoch || f.index == 0 || img.end.less(f.synced) {
		return false
	}
	if img.first == 0 {
		return img.state.first == 0 || img.state.first == f.index
	}
	return f.index == img.last+1 && f.term >= img.lastTerm && (f.prevCRC == img.lastCRC || mutant.On("chain"))
}

// judge decides about the place where the log ends, in segs[n] behind an entry
// of the epoch given. It is a torn tail, unless something says that this place
// was synced once: then what stood there is damaged, and cutting it off would
// forget entries that were acknowledged.
func (img *image) judge(n int, epoch uint64) error {
	damaged := func(who string, synced position) error {
		s, off := img.segs[n], img.end.off
		if synced.seq > s.seq && n+1 < len(img.segs) {
			// It stood here or at the beginning of the next segment: here, if what
			// is there is whole.
			next := img.segs[n+1]
			w := &window{file: next.file, size: next.bytes}
			if _, err := img.frameAt(w, next, segmentHeader, new(frame)); err != nil {
				s, off = next, segmentHeader
			}
		}
		return &FileError{File: s.file.Name(), Offset: off, Err: ErrCorrupt,
			Detail: fmt.Sprintf("the entry behind index %d is damaged: %s says that the log was synced up to %v, and it ends at %v",
				img.last, who, synced, img.end)}
	}
	if img.end.less(img.synced) {
		return damaged("a header or an earlier entry", img.synced)
	}
	epoch = max(epoch, img.segs[n].minEpoch(img.end.off))
	for i, s := range img.segs[n:] {
		off := int64(segmentHeader)
		if i == 0 {
			off = img.end.off + frameAlign
		}
		w := &window{file: s.file, size: s.bytes}
		for ; s.bytes-off >= frameHeader; off += frameAlign {
			b, err := w.at(off, frameHeader)
			if err != nil {
				return err
			}
			if binary.LittleEndian.Uint32(b) != frameMagic {
				continue
			}
			var f frame
			if f.decode(b, s.at(off), s.bytes) != nil || f.epoch < epoch || !img.end.less(f.synced) {
				continue
			}
			if _, err := img.frameAt(w, s, off, &f); err == nil {
				return damaged(fmt.Sprintf("a later entry, %d at %v,", f.index, f.at), f.synced)
			} else if !errors.Is(err, errNoFrame) {
				return err
			}
		}
	}
	return nil
}

// window reads a file front to back through one buffer.
type window struct {
	file disk.File
	size int64
	buf  []byte
	off  int64
}

const windowBytes = 1 << 20

// at returns n bytes at off, valid until the next call.
func (w *window) at(off, n int64) ([]byte, error) {
	if off >= w.off && off+n <= w.off+int64(len(w.buf)) {
		return w.buf[off-w.off:][:n], nil
	}
	want := max(n, min(windowBytes, w.size-off))
	if int64(cap(w.buf)) < want {
		w.buf = make([]byte, want)
	}
	w.buf, w.off = w.buf[:want], off
	got, err := w.file.ReadAt(w.buf, off)
	if int64(got) < want {
		w.buf = w.buf[:0]
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("raftlog: reading %s at byte %d: %w", w.file.Name(), off, err)
	}
	return w.buf[:n], nil
}

// Scan reads the log in dir for offline use: it verifies everything, changes
// nothing and calls fn for each entry in order; fn may keep what it gets. A torn
// tail ends the log without an error, as it would when the log is opened. A log
// that is open in another process gives any result.
func Scan(fs disk.FS, dir string, fn func(*raft.Log) error) (err error) {
	img, err := scan(fs, dir, os.O_RDONLY, func(f *frame, b []byte) error {
		var l raft.Log
		f.log(slices.Clone(b), &l)
		return fn(&l)
	})
	defer func() { err = errors.Join(err, img.close()) }()
	if err == nil && len(img.segs) == 0 {
		err = &FileError{File: dir, Offset: -1, Detail: "there is no raft log", Err: ErrMissing}
	}
	return err
}
