package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"sync"
)

func isNotExist(err error) bool { return err != nil && errors.Is(err, fs.ErrNotExist) }

var blockBuffers = sync.Pool{New: func() any { return new([unitsPerBlock * UnitSize]byte) }}

// Units appends to dst the units [off, off+n) as far as there are any, and
// returns it: none at Max. It never returns part of a unit or one that fails
// its checksum.
//
// ErrTrimmed below the first unit, ErrBeyond above Max, ErrMissing if a unit is
// not here at present, ErrDropped; with an error dst has what came before.
func (q *Queue) Units(off int64, n int, dst []Unit) ([]Unit, error) {
	last := q.Max()
	if off < 0 || n < 0 || off > last {
		return dst, fmt.Errorf("%w: %d units at %d of queue %s, which ends at %d", ErrBeyond, n, off, q.id, last)
	}
	end := off + min(int64(n), last-off)
	if off == end {
		return dst, nil
	}
	buf := blockBuffers.Get().(*[unitsPerBlock * UnitSize]byte)
	defer blockBuffers.Put(buf)
	begin := q.store.state.Load().min
	for off < end {
		units, err := q.read(off, end, buf[:0])
		if err != nil {
			return dst, err
		}
		if first := decodeUnit(units); first.Phys < begin {
			return dst, fmt.Errorf("%w: unit %d of queue %s is at %d, the log begins at %d", ErrTrimmed, off, q.id, first.Phys, begin)
		}
		for ; len(units) > 0; units = units[UnitSize:] {
			dst = append(dst, decodeUnit(units))
			off++
		}
	}
	return dst, nil
}

// read returns units from off on, at least one, and none from end or from
// another block. The bytes are buf's.
func (q *Queue) read(off, end int64, buf []byte) ([]byte, error) {
	b, err := q.look(off, end, &buf)
	if err != nil || b.file == 0 {
		return buf, err
	}
	// The block as far as it is in the file, then what is in memory.
	inFile := buf[:b.file*UnitSize]
	if err := q.readBlock(q.store.files, b, inFile); err != nil {
		return nil, err
	}
	return buf[(off-b.start)*UnitSize : (min(end, b.start+int64(len(buf)/UnitSize))-b.start)*UnitSize], nil
}

// lookup is what a read needs to know of the block it is about to read.
type lookup struct {
	start int64 // first unit
	file  int64 // how many of its units are in the file
	gen   uint32
	whole bool   // all of the block is in the file
	saved bool   // ... and its sum is in the sums file
	sum   uint32 // otherwise: the CRC of what is in the file
}

// look prepares to read [off, end). If all is in memory it is in buf afterwards,
// and file is 0. If not, buf has room for the block, and behind what is in the
// file what is in memory.
func (q *Queue) look(off, end int64, buf *[]byte) (lookup, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	start, stop := queueBlock(off)
	end = min(end, stop)
	switch {
	case q.dropped:
		return lookup{}, fmt.Errorf("%w: %s", ErrDropped, q.id)
	case off < q.front:
		return lookup{}, fmt.Errorf("%w: unit %d of queue %s, which begins at %d here", ErrTrimmed, off, q.id, q.front)
	case off >= q.max.Load(): // a Resume came between
		return lookup{}, fmt.Errorf("%w: unit %d of queue %s", ErrMissing, off, q.id)
	case off >= q.flushed:
		*buf = append(*buf, q.pending(off, end)...)
		return lookup{}, nil
	case q.holed(start, min(stop, q.flushed)):
		return lookup{}, fmt.Errorf("%w: unit %d of queue %s", ErrMissing, off, q.id)
	}
	b := lookup{start: start, gen: q.gen, file: min(stop, q.flushed) - start, sum: q.local}
	*buf = (*buf)[:b.file*UnitSize]
	if b.whole = stop <= q.flushed; b.whole {
		n := blockNumber(start)
		if t := q.tail; t != nil && n >= t.first && n < t.first+int64(len(t.sums)) {
			b.sum = t.sums[n-t.first]
		} else {
			b.saved = true
		}
	} else if end > q.flushed {
		*buf = append(*buf, q.pending(q.flushed, end)...)
	}
	return b, nil
}

// pending returns units that are in memory. mu is held.
func (q *Queue) pending(from, to int64) []byte {
	return q.tail.pending[(from-q.flushed)*UnitSize : (to-q.flushed)*UnitSize]
}

// holed says whether some of [from, to) is in a hole. mu is held.
func (q *Queue) holed(from, to int64) bool {
	for _, h := range q.holes {
		if h.lo < to && from < h.hi {
			return true
		}
	}
	return false
}

// readBlock reads what the file has of a block and checks it.
func (q *Queue) readBlock(files *fileCache, b lookup, units []byte) error {
	err := q.readFile(files, b, units)
	if err == nil {
		return nil
	}
	q.mu.Lock()
	front, gone := q.front, q.dropped || q.gen != b.gen
	q.mu.Unlock()
	switch {
	case b.start+b.file <= front: // trimmed meanwhile
		return fmt.Errorf("%w: queue %s begins at %d", ErrTrimmed, q.id, front)
	case gone:
		return fmt.Errorf("%w: queue %s: %w", ErrMissing, q.id, err)
	case !isDamage(err):
		return err
	}
	return q.damaged(b, err)
}

func (q *Queue) readFile(files *fileCache, b lookup, units []byte) error {
	file := queueFile(b.start)
	f, err := files.get(fileKey{queue: q, base: file}, false)
	if err != nil {
		return err
	}
	defer files.put(f)
	if _, err := f.ReadAt(units, (b.start-file)*UnitSize); err != nil {
		return err
	}
	want := b.sum
	got := crc32.Update(q.blockSeed(b.start), castagnoli, units)
	if b.whole {
		got = sealSum(got)
	}
	if b.saved {
		if want, err = q.savedSum(files, b.start); err != nil {
			return err
		}
	}
	if got != want {
		return fmt.Errorf("%w: units [%d, %d) of queue %s have checksum %#x, expected %#x",
			ErrCorrupt, b.start, b.start+b.file, q.id, got, want)
	}
	return nil
}

// savedSum reads a block's sum from the sums file.
func (q *Queue) savedSum(files *fileCache, start int64) (uint32, error) {
	f, err := files.get(fileKey{queue: q, base: queueFile(start), sums: true}, false)
	if err != nil {
		return 0, err
	}
	defer files.put(f)
	var b [sumSize]byte
	if _, err := f.ReadAt(b[:], blockNumber(start)%blocksPerFile*sumSize); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b[:]), nil
}

// unit returns one unit, whether the log still has its record or not.
func (q *Queue) unit(off int64) (Unit, error) {
	buf := blockBuffers.Get().(*[unitsPerBlock * UnitSize]byte)
	defer blockBuffers.Put(buf)
	b, err := q.read(off, off+1, buf[:0])
	if err != nil {
		return Unit{}, err
	}
	return decodeUnit(b), nil
}

// Min is the offset of the first unit whose record the log still has, Max if
// there is none. It follows from the log's begin and the units alone, so it is
// the same on every replica. It reads a few units after each trim, nothing
// otherwise. ErrMissing if a unit it has to look at is not here at present.
func (q *Queue) Min() (int64, error) {
	for last := int64(-1); ; {
		begin := q.store.state.Load().min
		q.mu.Lock()
		if q.dropped {
			q.mu.Unlock()
			return 0, fmt.Errorf("%w: %s", ErrDropped, q.id)
		}
		if q.minFor == begin {
			defer q.mu.Unlock()
			return q.min, nil
		}
		gen, lo := q.gen, q.front
		if q.minFor >= 0 && q.minFor < begin {
			lo = max(lo, q.min)
		}
		q.mu.Unlock()

		n, err := q.search(lo, q.Max(), func(u Unit) (bool, error) { return u.Phys >= begin, nil })
		if errors.Is(err, ErrTrimmed) && lo > last { // the front moved meanwhile
			last = lo
			continue
		}
		if err != nil {
			return 0, err
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.gen == gen { // true of an empty queue as well: what comes next is at n
			q.minFor, q.min = begin, n
		}
		return n, nil
	}
}

// search returns the first unit in [lo, hi) for which after is true, hi if
// there is none. after must be false for all units before some unit and true
// from there on.
func (q *Queue) search(lo, hi int64, after func(Unit) (bool, error)) (int64, error) {
	for lo < hi {
		mid := lo + (hi-lo)/2
		u, err := q.unit(mid)
		if err != nil {
			return 0, err
		}
		yes, err := after(u)
		if err != nil {
			return 0, err
		}
		if yes {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo, nil
}
