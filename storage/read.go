package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

// maxRead bounds what one Read returns.
const maxRead = 64 << 20

// Read returns the bytes [off, off+size) of the CommitLog, checked, in memory of
// their own: a record, or any other range of at most 64 MiB within a segment,
// for a peer that fetches it.
//
// ErrTrimmed, ErrBeyond (also for a range across a segment's end, or none),
// ErrMissing; what the disk says, if that is nothing about the bytes.
func (s *Store) Read(off int64, size int) ([]byte, error) {
	st, g, err := s.locate(off, size)
	if err != nil {
		return nil, err
	}
	defer g.release()
	return s.readBlocks(s.files, st, g, off, size)
}

// View is what Store.View returns. Release it, once.
type View struct {
	// Bytes may be part of a memory mapping. They are for a write system call
	// (writev): our code never touches them, as a page that is not in memory
	// would stop the goroutine's thread, and with it the next garbage
	// collection, until the disk answers.
	Bytes []byte

	mapping *mapping
}

// Release ends the use of Bytes.
func (v View) Release() {
	if v.mapping != nil {
		v.mapping.release()
	}
}

// View is Read without a copy if the bytes were written by this process and lie
// within Options.HotBytes of the end: they come from a memory mapping, unchecked.
// All else comes from Read.
func (s *Store) View(off int64, size int) (View, error) {
	st, g, err := s.locate(off, size)
	if err != nil {
		return View{}, err
	}
	defer g.release()
	if off >= st.hot && off >= st.end-s.opts.HotBytes && !s.gaps.overlaps(off, off+int64(size)) {
		if m := g.mapped.Load(); m != nil && acquire(&m.refs) {
			at := off - g.base
			return View{Bytes: m.m.Bytes()[at : at+int64(size) : at+int64(size)], mapping: m}, nil
		}
	}
	b, err := s.readBlocks(s.files, st, g, off, size)
	return View{Bytes: b}, err
}

// locate checks a range and takes a reference on its segment.
func (s *Store) locate(off int64, size int) (*state, *segment, error) {
	for {
		st := s.state.Load()
		switch begin := max(st.min, st.floor); {
		case s.closed.Load():
			return nil, nil, ErrClosed
		case off < 0 || size <= 0 || size > maxRead || off > st.end || int64(size) > st.end-off:
			return nil, nil, fmt.Errorf("%w: %d bytes at %d, the log ends at %d", ErrBeyond, size, off, st.end)
		case off < begin:
			return nil, nil, fmt.Errorf("%w: %d, the log begins at %d", ErrTrimmed, off, begin)
		}
		g := st.segment(off)
		if g == nil || int64(size) > g.end()-off {
			return nil, nil, fmt.Errorf("%w: %d bytes at %d lie across a segment's end", ErrBeyond, size, off)
		}
		if g.acquire() {
			return st, g, nil
		}
		// It was let go: by a Trim, a Resume or Close, each of which says so
		// first.
		if s.state.Load() == st && !s.closed.Load() {
			return nil, nil, fmt.Errorf("%w: %d", ErrTrimmed, off)
		}
	}
}

// readBlocks reads a range of a segment and checks the blocks it lies in.
func (s *Store) readBlocks(files *fileCache, st *state, g *segment, off int64, size int) ([]byte, error) {
	from := off - off%blockSize
	to := min(roundUp(off+int64(size)), st.end)
	if s.gaps.overlaps(from, to) {
		return nil, fmt.Errorf("%w: %d bytes at %d", ErrMissing, size, off)
	}
	buf, err := readRaw(files, g, from, int(to-from))
	if err != nil {
		if isDamage(err) {
			return nil, s.blocksDamaged(st, g, from, to, err)
		}
		return nil, err
	}
	for at := from; at < to; at += blockSize {
		block := buf[at-from : min(at+blockSize, to)-from]
		if err := g.check(st, at, block); err != nil {
			if isDamage(err) && !errors.Is(err, ErrMissing) {
				return nil, s.blocksDamaged(st, g, at, at+int64(len(block)), err)
			}
			return nil, err
		}
	}
	at := off - from
	return buf[at : at+int64(size) : at+int64(size)], nil
}

// roundUp is the end of the block that ends at or behind off.
func roundUp(off int64) int64 { return (off + blockSize - 1) / blockSize * blockSize }

// readRaw reads what the file has.
func readRaw(files *fileCache, g *segment, off int64, n int) ([]byte, error) {
	f, err := files.get(fileKey{base: g.base}, false)
	if err != nil {
		return nil, err
	}
	defer files.put(f)
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, off-g.base); err != nil {
		return nil, err
	}
	return buf, nil
}

// check compares a block, or the last one as far as it is written, with its
// checksum.
func (g *segment) check(st *state, at int64, block []byte) error {
	var got, want uint32
	if len(block) < blockSize {
		got, want = crc32.Checksum(block, castagnoli), st.part
	} else {
		var err error
		if want, err = g.blockSum((at - g.base) / blockSize); err != nil {
			return err
		}
		got = blockSum(block)
	}
	if got != want {
		return fmt.Errorf("%w: block at %d has checksum %#x, expected %#x", ErrCorrupt, at, got, want)
	}
	return nil
}

// Record returns the record that begins at a position, which need not be one
// where a record begins: then it is ErrCorrupt, or whatever looks like one.
func (s *Store) Record(phys int64) ([]byte, error) {
	head, err := s.Read(phys, recordHead)
	if err != nil {
		return nil, err
	}
	size, magic := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
	if magic != recordMagic && magic != recordMagicV2 || size < recordMin || size > math.MaxInt32 {
		return nil, fmt.Errorf("%w: no record begins at %d", ErrCorrupt, phys)
	}
	b, err := s.Read(phys, int(size))
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(b)
	if err == nil && r.phys != phys {
		err = fmt.Errorf("%w: the record at %d says it is at %d", ErrCorrupt, phys, r.phys)
	}
	return b, err
}

// Search returns the physical offsets of the records of a topic that have a key
// and were stored within [begin, end], milliseconds: at most limit, the newest,
// ascending. Each was read and has the key. With an error there may be more:
// ErrMissing if a record could not be read, ErrIndexBehind and the others of
// Index.Query. ErrIndexClosed if the store has no index.
func (s *Store) Search(ctx context.Context, topic, key string, begin, end int64, limit int) ([]int64, error) {
	x := s.index.Load()
	if x == nil {
		return nil, ErrIndexClosed
	}
	var missing error
	match := func(phys int64) bool {
		rec, err := s.Record(phys)
		if err != nil {
			if !errors.Is(err, ErrTrimmed) {
				missing = err
			}
			return false
		}
		return slices.ContainsFunc(s.opts.KeysOf(rec), func(k IndexKey) bool { return k.Topic == topic && k.Key == key })
	}
	found, err := x.Query(ctx, IndexQuery{Topic: topic, Key: key, Begin: begin, End: end, Max: limit, Match: match})
	return found, errors.Join(err, missing)
}

// Boundary says which offset a search by time is after.
type Boundary int

const (
	// Lower is the first message stored at or after the time.
	Lower Boundary = iota
	// Upper is the last message stored at or before the time.
	Upper
)

// OffsetByTime finds the queue offset for a store time in milliseconds. Lower:
// the first message at or after it; Max if all are before. Upper: the last one
// at or before it; Min if all are after, or there are none. The errors of Read
// and Units.
func (q *Queue) OffsetByTime(ms int64, b Boundary) (int64, error) {
	for last := int64(-1); ; {
		lo, err := q.Min()
		if err != nil {
			return 0, err
		}
		n, err := q.search(lo, q.Max(), func(u Unit) (bool, error) {
			t, err := q.store.storeTime(u)
			return t > ms || t == ms && b == Lower, err
		})
		if errors.Is(err, ErrTrimmed) && lo > last { // meanwhile
			last = lo
			continue
		}
		if err == nil && b == Upper {
			n = max(lo, n-1)
		}
		return n, err
	}
}

// storeTime reads the store time of a unit's record.
func (s *Store) storeTime(u Unit) (int64, error) {
	if u.Size < recordMin {
		return 0, fmt.Errorf("%w: a record of %d bytes at %d", ErrCorrupt, u.Size, u.Phys)
	}
	head, err := s.Read(u.Phys, recordTimeEnd)
	if err != nil {
		return 0, err
	}
	return recordTime(head), nil
}
