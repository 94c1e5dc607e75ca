package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/raftmq/raftmq/storage/disk"
)

// Comparer has the writing side of a Store and writes nothing: it compares. A
// tool that replays a raft log from a snapshot into it proves that the files are
// what the log says. For one goroutine, and a store that nobody has open.
type Comparer struct {
	// Differences are bytes that are not what they must be.
	Differences Problems
	// LogBytes and Units count what was compared. Absent counts units that are
	// not in the files (they were in memory when the process was killed, or the
	// machine stopped before it wrote them), and AbsentLog bytes of the CommitLog
	// (the same, or the process had not come that far). What the store has
	// trimmed or dropped since is in neither.
	LogBytes, Units   int64
	Absent, AbsentLog int64

	r        *Reader
	queues   map[QueueID]*Queue
	absent   map[QueueID]int64
	min, end int64
}

// OpenComparer opens a store for comparison from a manifest on, nil for its very
// beginning. Errors as OpenReader.
func OpenComparer(fsys disk.FS, dir string, m *Manifest) (*Comparer, error) {
	r, err := OpenReader(fsys, dir)
	if err != nil {
		return nil, err
	}
	c := &Comparer{r: r, queues: map[QueueID]*Queue{}, absent: map[QueueID]int64{}}
	if m == nil {
		m = &Manifest{SegmentSize: r.SegmentSize}
	}
	c.min, c.end = m.Min, m.End
	for _, e := range m.Queues {
		q := r.queue(e.QueueID)
		q.max.Store(e.Max)
		c.queues[e.QueueID] = q
	}
	return c, nil
}

// CreateQueue is Store.CreateQueue.
func (c *Comparer) CreateQueue(id QueueID) (*Queue, error) {
	if err := CheckTopic(id.Topic); err != nil {
		return nil, err
	}
	q := c.r.queue(id)
	c.queues[id] = q
	return q, nil
}

// Write compares a batch with the files. The error is for a batch that cannot
// be, and for what kept it from looking; what differs is in Differences.
func (c *Comparer) Write(b *Batch) error {
	if b.Pos != c.end {
		return fmt.Errorf("storage: batch at %d, the log ends at %d", b.Pos, c.end)
	}
	for rest := b.Log; len(rest) > 0; {
		key := fileKey{base: c.end - c.end%c.r.SegmentSize}
		n := min(int64(len(rest)), key.base+c.r.SegmentSize-c.end)
		have := make([]byte, n)
		err := c.r.read(key, have, c.end-key.base)
		if err != nil && !isAbsent(err) {
			return err
		}
		absent, at := compareWritten(have, rest[:n], c.end-key.base)
		switch {
		case c.end < c.r.checkpoint.floor:
		case err != nil:
			c.AbsentLog += n
		default:
			c.AbsentLog += absent
			if at >= 0 {
				c.differ(key, c.end-key.base+at, "the CommitLog has other bytes at %d than the raft log says", c.end+at)
			}
		}
		c.LogBytes += n
		c.end += n
		rest = rest[n:]
	}
	for i := range b.Units {
		if err := c.unit(&b.Units[i]); err != nil {
			return err
		}
	}
	return nil
}

func (c *Comparer) unit(u *QueueUnit) error {
	q := u.Queue
	if u.Offset != q.Max() {
		return fmt.Errorf("storage: unit %d of queue %s, which ends at %d", u.Offset, q.id, q.Max())
	}
	q.max.Store(u.Offset + 1)
	var have [UnitSize]byte
	err := c.r.ReadUnits(q.id, u.Offset, have[:])
	if err != nil && !isAbsent(err) {
		return err
	}
	file := queueFile(u.Offset)
	off := (u.Offset - file) * UnitSize
	absent, at := compareWritten(have[:], appendUnit(nil, u.Unit), off)
	switch {
	case u.Phys < c.r.checkpoint.floor:
	case err != nil, at < 0 && absent > 0:
		c.Absent++
		c.absent[q.id]++
	case at >= 0:
		c.differ(fileKey{queue: q, base: file}, off, "unit %d is %+v, the raft log says %+v", u.Offset, decodeUnit(have[:]), u.Unit)
	}
	c.Units++
	return nil
}

func (c *Comparer) differ(key fileKey, off int64, format string, args ...any) {
	name := key.path("")
	c.Differences.add(name[1:], off, format, args...)
}

func isAbsent(err error) bool { return isNotExist(err) || errors.Is(err, io.EOF) }

// sectorSize is what a disk writes whole.
const sectorSize = 512

// compareWritten compares what a file has at off with what was written there and
// may not have reached it: a sector's part that is all zeros is absent. at is
// the first byte that is neither, -1 if there is none.
func compareWritten(have, want []byte, off int64) (absent, at int64) {
	for i := int64(0); i < int64(len(want)); {
		n := min(int64(len(want))-i, sectorSize-(off+i)%sectorSize)
		h, w := have[i:i+n], want[i:i+n]
		switch {
		case bytes.Equal(h, w):
		case isZero(h):
			absent += n
		default:
			for h[0] == w[0] {
				h, w, i = h[1:], w[1:], i+1
			}
			return absent, i
		}
		i += n
	}
	return absent, -1
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Trim is Store.Trim. What was compared before it stays so.
func (c *Comparer) Trim(newMin int64) error {
	if newMin > c.end {
		return fmt.Errorf("%w: trim to %d, the log ends at %d", ErrBeyond, newMin, c.end)
	}
	c.min = max(c.min, newMin-newMin%c.r.SegmentSize)
	return nil
}

// DropTopic is Store.DropTopic.
func (c *Comparer) DropTopic(topic string, incarnation uint64) error {
	for id := range c.queues {
		if id.topic() == (TopicID{topic, incarnation}) {
			c.Absent -= c.absent[id]
			delete(c.queues, id)
			delete(c.absent, id)
		}
	}
	return nil
}

// Log is [min, end) of the CommitLog as replayed so far; Queues gives each queue's
// number of units. With Reader they say which bytes two replicas must share.
func (c *Comparer) Log() (min, end int64) { return c.min, c.end }

// Queues returns the queues as replayed so far and their number of units.
func (c *Comparer) Queues() map[QueueID]int64 {
	n := make(map[QueueID]int64, len(c.queues))
	for id, q := range c.queues {
		n[id] = q.Max()
	}
	return n
}

// Reader reads the same store's bytes. It is closed by Close.
func (c *Comparer) Reader() *Reader { return c.r }

// Close gives the store up.
func (c *Comparer) Close() error { return c.r.Close() }

// Behind looks for bytes behind what was replayed, in the CommitLog's last
// segment, and returns the position of the first; ok is false if there are none.
// A store is never ahead of its raft log: if it is, that has lost entries.
func (c *Comparer) Behind() (pos int64, ok bool, err error) {
	buf := make([]byte, 256*blockSize)
	end := c.end - c.end%c.r.SegmentSize + c.r.SegmentSize
	for pos = c.end; pos < end; pos += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-pos)]
		if err := c.r.ReadLog(pos, buf); isAbsent(err) {
			return 0, false, nil
		} else if err != nil {
			return 0, false, err
		}
		for i, b := range buf {
			if b != 0 {
				return pos + int64(i), true, nil
			}
		}
	}
	return 0, false, nil
}
