package raftlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// scrubChunk is about how much of a segment Scrub reads at once.
const scrubChunk = 256 << 10

// ScrubReport is what Log.Scrub found.
type ScrubReport struct {
	// Bad is the last entry that is damaged in its file, Entries how many are.
	// What is in memory is right still. Cause is what is wrong with Bad.
	Bad     uint64
	Entries int64
	Cause   error
	// Headers counts slots of headers that were damaged, and written again.
	Headers int64
}

// Scrub reads every entry and every header of an open log from its files, and
// compares them with their checksums. Damaged headers are written again. Damaged
// entries can't be, by us: who knows that they are applied takes a snapshot and
// deletes them.
//
// An error that wraps ErrMissing or ErrForeign says that a file was removed or
// replaced: what is written to the log from now on may not be there when it is
// opened again. Another error, pace's among them, is for what kept it from
// looking.
//
// pace is called before each read with its size in bytes: it may wait, and its
// error ends the pass. The page cache stays as it is. For any goroutine.
func (l *Log) Scrub(pace func(bytes int) error) (ScrubReport, error) {
	var rep ScrubReport
	files := map[*segment]disk.File{}
	var errs []error
	err := l.scrub(&rep, files, pace)
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return rep, errors.Join(append(errs, err)...)
}

func (l *Log) scrub(rep *ScrubReport, files map[*segment]disk.File, pace func(bytes int) error) error {
	next := uint64(0)
	for {
		p, ok := l.scrubPart(next)
		if !ok {
			return nil
		}
		f := files[p.s]
		if f == nil {
			var err error
			if f, err = l.openAgain(p.s); err != nil {
				return l.unless(p, err)
			}
			files[p.s] = f
			n, err := l.scrubHeader(p.s, f)
			rep.Headers += n
			if err != nil {
				return l.unless(p, err)
			}
		}
		if err := pace(int(p.end - int64(p.entries[0].off))); err != nil {
			return err
		}
		bad, n, cause := l.verifyPart(f, p)
		if bad != 0 && !l.same(p) {
			continue // it was deleted meanwhile, or is another's place: look again
		}
		if bad != 0 {
			// What the log reads and writes may be another file than the one that
			// has its name.
			var log raft.Log
			if s, e, size := l.locateAt(p, bad); l.read(s, e, size, bad, &log) == nil && l.same(p) {
				return &FileError{File: s.file.Name(), Offset: -1, Err: ErrForeign,
					Detail: fmt.Sprintf("while the log had it open another file took its place: %v", cause)}
			}
			rep.Bad, rep.Cause = bad, cause
			rep.Entries += n
		}
		next = p.first + uint64(len(p.entries))
	}
}

// Here looks whether the directory still has the file that the log writes to: it
// may be another one by now, mounted over it. Slots of its header that are damaged
// are written again, and counted. Errors are those of Scrub. For any goroutine.
func (l *Log) Here() (headers int64, err error) {
	for {
		l.mu.RLock()
		p, closed := part{s: l.tail()}, l.closed
		l.mu.RUnlock()
		if closed {
			return headers, ErrClosed
		}
		f, err := l.openAgain(p.s)
		if err == nil {
			var n int64
			n, err = l.scrubHeader(p.s, f)
			headers += n
			err = errors.Join(err, f.Close())
		}
		if err == nil || l.unless(p, err) != nil {
			return headers, err
		}
		// It has left the log meanwhile: look again.
	}
}

// part is some entries of a segment as they were at one time.
type part struct {
	s       *segment
	first   uint64 // index of entries[0]
	entries []entry
	end     int64 // of the last one
	deletes uint64
}

// scrubPart returns entries from next on.
func (l *Log) scrubPart(next uint64) (p part, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	next = max(next, l.first)
	if l.closed || l.last == 0 || next > l.last {
		return p, false
	}
	s := l.segs[l.segmentOf(next)]
	p = part{s: s, first: next, deletes: l.deletes, end: s.end}
	all := s.entries[next-s.base:]
	n := 1
	for n < len(all) && int64(all[n].off)-int64(all[0].off) < scrubChunk {
		n++
	}
	if n < len(all) {
		p.end = int64(all[n].off)
	}
	p.entries = slices.Clone(all[:n])
	return p, true
}

// same says whether no entry was deleted since.
func (l *Log) same(p part) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return !l.closed && l.deletes == p.deletes
}

// unless drops an error about a segment that has left the log meanwhile.
func (l *Log) unless(p part, err error) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed || !slices.Contains(l.segs, p.s) {
		return nil
	}
	return err
}

// locateAt is locate for an entry of a part.
func (l *Log) locateAt(p part, index uint64) (*segment, entry, int64) {
	i := index - p.first
	end := p.end
	if i+1 < uint64(len(p.entries)) {
		end = int64(p.entries[i+1].off)
	}
	return p.s, p.entries[i], end - int64(p.entries[i].off)
}

// openAgain opens the file that has a segment's name now.
func (l *Log) openAgain(s *segment) (disk.File, error) {
	name := s.file.Name()
	f, err := l.fs.OpenFile(LabelScrub, name, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &FileError{File: name, Offset: -1, Detail: "the file was removed while the log had it open", Err: ErrMissing}
	}
	if err != nil {
		return nil, fmt.Errorf("raftlog: %w", err)
	}
	return disk.Cold(f), nil
}

// verifyPart compares entries with their checksums. It returns the last that is
// damaged, how many are, and what is wrong with it.
func (l *Log) verifyPart(f disk.File, p part) (bad uint64, n int64, cause error) {
	begin := int64(p.entries[0].off)
	b := make([]byte, p.end-begin)
	got, err := f.ReadAt(b, begin)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	for i, e := range p.entries {
		_, _, size := l.locateAt(p, p.first+uint64(i))
		at := int64(e.off) - begin
		wrong := err
		if at+size <= int64(got) {
			_, wrong = l.verifyFrame(b[at:at+size], p.s, e, p.first+uint64(i))
		}
		if wrong != nil {
			bad, n = p.first+uint64(i), n+1
			cause = &FileError{File: f.Name(), Offset: int64(e.off), Detail: fmt.Sprintf("entry %d: %v", bad, wrong), Err: ErrCorrupt}
		}
	}
	return bad, n, cause
}

// verifyFrame reads an entry's frame and compares it with what was written.
func (l *Log) verifyFrame(b []byte, s *segment, e entry, index uint64) (f frame, err error) {
	off := int64(e.off)
	if err = f.decode(b, s.at(off), off+int64(len(b))); err == nil {
		err = f.verify(l.seed, b)
	}
	if err == nil && (f.index != index || f.crc != e.crc) {
		err = errors.New("another entry stands there")
	}
	return f, err
}

// scrubHeader compares both slots of a segment's header with what was written,
// and writes it again if one is damaged: the damaged one first.
func (l *Log) scrubHeader(s *segment, f disk.File) (bad int64, err error) {
	l.headers.Lock()
	defer l.headers.Unlock()
	if err := l.poison.get(); err != nil {
		return 0, err
	}
	size, err := f.Size()
	if err != nil {
		return 0, fmt.Errorf("raftlog: %w", err)
	}
	if size != s.bytes {
		return 0, &FileError{File: f.Name(), Offset: size, Err: ErrForeign,
			Detail: fmt.Sprintf("it has %d bytes, and had %d when the log opened it", size, s.bytes)}
	}
	b := make([]byte, slotDistance+slotLen)
	if err := readFull(f, b, 0); err != nil {
		return 0, err
	}
	slot := -1
	for i := range 2 {
		if h, err := decodeHeader(b[i*slotDistance:]); err != nil || h != s.head {
			bad, slot = bad+1, i
		}
	}
	if bad == 0 {
		return 0, nil
	}
	// If it is another file that has the name now, ours is written; then this one
	// still differs.
	if err := writeHeader(disk.WithLabel(s.file, LabelHeader), &s.head, slot, l.sync); err != nil {
		return bad, l.poison.fail(err)
	}
	if err := readFull(f, b, 0); err != nil {
		return bad, err
	}
	if h, err := decodeHeader(b); err != nil || h != s.head {
		return bad, &FileError{File: f.Name(), Offset: 0, Detail: "while the log had it open another file took its place", Err: ErrForeign}
	}
	return bad, nil
}
