package storage

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
)

// A queue's file has 300,000 units, RocketMQ's number, and is checked in blocks
// of 204, the most that fit 4 KiB; a file's last block has 120. The sums of a
// file's whole blocks are in a file beside it, from when there is one:
//
//	consumequeue/<topic>@<incarnation>/<queue>/<first unit's byte>        units
//	consumequeue/<topic>@<incarnation>/<queue>/<first unit's byte>.sums   0 | sum 4 | sum 4 | ...   big endian
//
// A block's CRC-32C begins with the queue's name and the number of the block's
// first unit, so that neither another queue's file nor another place passes. 0
// is no sum, and 1 stands for a CRC of 0.
const (
	unitsPerFile  = 300_000
	unitsPerBlock = 204
	blocksPerFile = (unitsPerFile + unitsPerBlock - 1) / unitsPerBlock
)

// queueFile is the first unit of the file that holds unit u.
func queueFile(u int64) int64 { return u - u%unitsPerFile }

// queueBlock is the range of units of the block that holds unit u.
func queueBlock(u int64) (start, end int64) {
	file := queueFile(u)
	start = u - (u-file)%unitsPerBlock
	return start, min(start+unitsPerBlock, file+unitsPerFile)
}

// blockNumber counts blocks from the queue's first.
func blockNumber(u int64) int64 {
	return u/unitsPerFile*blocksPerFile + u%unitsPerFile/unitsPerBlock
}

// Queue is one queue: an array of units that grows at its end. The writing side
// has it from CreateQueue, readers from Store.Queue; its methods may be called
// from any goroutine.
//
// Invariants:
//
//	Q1 front <= flushed <= max. Units [flushed, max) are in tail.pending, those
//	   in [front, flushed) outside of every hole in the files.
//	Q2 part and sums are what every replica has at flushed; local is the CRC of
//	   what the file really holds of the block that flushed is in. They differ
//	   in a queue that was rebuilt from a log that had been trimmed, as long as
//	   its first block is its last.
//	Q3 A hole lies in [front, flushed). No unit in it is returned.
//	Q4 Only the holder of the queue's I/O lock (Store.ioLock) moves flushed,
//	   sums, part, local or writes to the files; mu guards them and is never
//	   held during I/O.
type Queue struct {
	id    QueueID
	store *Store
	seed  uint32
	max   atomic.Int64

	touched uint64 // the writer's: the batch that appended last

	mu      sync.Mutex
	gen     uint32 // of the Resume that set the fields below
	dropped bool
	sums    uint32 // checksum over the sums of the blocks before flushed
	part    uint32 // CRC of the units in [block's start, flushed)
	local   uint32 // the same, of what the file has
	front   int64  // the lowest unit that is here
	flushed int64
	tail    *queueTail
	holes   []*hole

	minFor, min int64 // Min when the CommitLog began at minFor
}

// queueTail is what an active queue has in memory. Idle ones have none.
type queueTail struct {
	pending []byte   // units [flushed, max)
	sums    []uint32 // of the blocks from first on, not in the sums file yet
	first   int64    // a block number
}

func newQueue(s *Store, id QueueID) *Queue {
	name := binary.BigEndian.AppendUint64([]byte(id.Topic+"@"), id.Incarnation)
	name = strconv.AppendInt(name, int64(id.Queue), 10)
	return &Queue{id: id, store: s, seed: crc32.Checksum(name, castagnoli), minFor: -1}
}

// ID is the queue's name.
func (q *Queue) ID() QueueID { return q.id }

// Max is the number of units ever appended: the next unit's offset.
func (q *Queue) Max() int64 { return q.max.Load() }

// blockSeed is what the CRC of the block that begins with unit start begins with.
func (q *Queue) blockSeed(start int64) uint32 {
	return extendCRC(extendCRC(q.seed, uint32(start>>32)), uint32(start))
}

// progress is the state of a queue's checksums at a unit.
type progress struct {
	at                int64
	sums, part, local uint32
}

// digest extends p by units. done is called with each block that becomes whole
// and its local sum.
func (q *Queue) digest(p progress, units []byte, done func(block int64, sum uint32)) progress {
	for len(units) > 0 {
		start, end := queueBlock(p.at)
		if p.at == start {
			p.part = q.blockSeed(start)
			p.local = p.part
		}
		n := min(int64(len(units)), (end-p.at)*UnitSize)
		same := p.part == p.local
		p.part = crc32.Update(p.part, castagnoli, units[:n])
		if same {
			p.local = p.part
		} else {
			p.local = crc32.Update(p.local, castagnoli, units[:n])
		}
		units = units[n:]
		p.at += n / UnitSize
		if p.at == end {
			p.sums = extendCRC(p.sums, sealSum(p.part))
			done(blockNumber(start), sealSum(p.local))
			p.part, p.local = 0, 0
		}
	}
	return p
}

func (q *Queue) progress() progress {
	return progress{at: q.flushed, sums: q.sums, part: q.part, local: q.local}
}

// append adds a unit in memory and says whether a block's worth is waiting to
// be flushed. For the writer.
func (q *Queue) append(u Unit) (full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.newTail()
	t.pending = appendUnit(t.pending, u)
	max := q.max.Load() + 1
	q.max.Store(max)
	_, end := queueBlock(q.flushed)
	return max >= end
}

func (q *Queue) newTail() *queueTail {
	if q.tail == nil {
		q.tail = &queueTail{first: blockNumber(q.flushed)}
	}
	return q.tail
}

// flush writes what is pending to the files and returns how many bytes less are
// pending in the store. An error leaves it pending.
func (q *Queue) flush() (int, error) {
	io := q.store.ioLock(q)
	io.Lock()
	defer io.Unlock()
	q.mu.Lock()
	if q.tail == nil || len(q.tail.pending) == 0 {
		q.mu.Unlock()
		return 0, nil
	}
	// The writer may append meanwhile, behind this slice's end.
	units, from := q.tail.pending, q.flushed
	q.mu.Unlock()

	if err := q.store.writeUnits(q, from, units); err != nil {
		return 0, err
	}

	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tail
	p := q.digest(q.progress(), units, func(_ int64, sum uint32) { t.sums = append(t.sums, sum) })
	q.flushed, q.sums, q.part, q.local = p.at, p.sums, p.part, p.local
	if t.pending = t.pending[len(units):]; len(t.pending) == 0 {
		t.pending = units[:0] // nobody else looks at these bytes any more
	}
	if q.dropped { // no longer counted
		return 0, nil
	}
	return len(units), nil
}

// saveSums writes the sums of whole blocks to the sums files and, if nothing
// else is pending, gives the tail's memory back.
func (q *Queue) saveSums() error {
	io := q.store.ioLock(q)
	io.Lock()
	defer io.Unlock()
	q.mu.Lock()
	if q.tail == nil {
		q.mu.Unlock()
		return nil
	}
	sums, first := q.tail.sums, q.tail.first
	q.mu.Unlock()
	if err := q.store.writeQueueSums(q, first, sums); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tail
	t.sums, t.first = nil, first+int64(len(sums))
	if len(t.pending) == 0 {
		q.tail = nil
	}
	return nil
}

// writeUnits writes units to the files from unit from on. For the holder of the
// queue's I/O lock.
func (s *Store) writeUnits(q *Queue, from int64, units []byte) error {
	for len(units) > 0 {
		file := queueFile(from)
		n := min(int64(len(units)), (file+unitsPerFile-from)*UnitSize)
		if err := s.writeQueueFile(fileKey{queue: q, base: file}, units[:n], (from-file)*UnitSize); err != nil {
			return err
		}
		units = units[n:]
		from += n / UnitSize
	}
	return nil
}

// writeQueueSums writes the sums of blocks from first on.
func (s *Store) writeQueueSums(q *Queue, first int64, sums []uint32) error {
	for len(sums) > 0 {
		in := first % blocksPerFile
		n := min(int64(len(sums)), blocksPerFile-in)
		key := fileKey{queue: q, base: first / blocksPerFile * unitsPerFile, sums: true}
		if err := s.writeQueueFile(key, encodeSums(sums[:n]), in*sumSize); err != nil {
			return err
		}
		sums = sums[n:]
		first += n
	}
	return nil
}

func (s *Store) writeQueueFile(key fileKey, b []byte, off int64) error {
	f, err := s.files.get(key, true)
	if isNotExist(err) { // the queue's first file
		if err = s.fs.MkdirAll(key.label(), queuePath(s.dir, key.queue.id)); err == nil {
			f, err = s.files.get(key, true)
		}
	}
	if err != nil {
		return err
	}
	defer s.files.put(f)
	_, err = f.WriteAt(b, off)
	return err
}

// noUnit is what stands before a queue's first unit in its block, if the block
// was rebuilt from a log that had been trimmed: RocketMQ's blank unit.
var noUnit = appendUnit(nil, Unit{Size: math.MaxInt32})
