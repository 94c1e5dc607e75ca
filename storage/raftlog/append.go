package raftlog

import (
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/mutant"
)

// StoreLog stores one entry.
func (l *Log) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs appends entries, whose Data and Extensions belong to the log from
// now on. In SyncFlush they are on the disk when it returns nil.
//
// ErrGap, ErrStaleTerm, ErrTooLarge and ErrNoSpace: nothing was written and the
// log is as before. Anything else poisons the log, and whether the entries will
// be there when it is opened again is unknown.
func (l *Log) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	done, err := l.change()
	defer done()
	if err != nil {
		return err
	}
	if err := l.accepts(logs); err != nil {
		return err
	}
	if l.opts.Room != nil {
		if err := l.opts.Room(logs); err != nil {
			return fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
	}
	// All the room is found before the first byte is written.
	parts, spares := l.plan(logs)
	if err := l.reserve(spares); err != nil {
		return err
	}
	for _, part := range parts {
		if err := l.appendPart(part); err != nil {
			return l.poison.fail(err)
		}
	}
	return nil
}

// accepts says whether the entries may follow the log's last.
func (l *Log) accepts(logs []*raft.Log) error {
	index, term := l.last, l.lastTerm
	if l.last == 0 {
		index = logs[0].Index - 1
		if logs[0].Index == 0 {
			return fmt.Errorf("%w: index 0", ErrGap)
		}
	}
	for _, log := range logs {
		if log.Index != index+1 {
			return fmt.Errorf("%w: index %d after %d", ErrGap, log.Index, index)
		}
		if log.Term < term {
			return fmt.Errorf("%w: entry %d has term %d, the one before it %d", ErrStaleTerm, log.Index, log.Term, term)
		}
		n := frameLen(int64(len(log.Data)) + int64(len(log.Extensions)))
		if room := l.opts.SegmentBytes - segmentHeader; n > room {
			return fmt.Errorf("%w: entry %d takes %d bytes, a segment has %d", ErrTooLarge, log.Index, n, room)
		}
		index, term = log.Index, log.Term
	}
	return nil
}

// plan cuts a batch into parts that one segment each can hold, mostly one, and
// says how many further segments they need.
func (l *Log) plan(logs []*raft.Log) (parts [][]*raft.Log, spares int) {
	room := l.opts.SegmentBytes - segmentHeader
	left := l.tail().bytes - l.tail().end
	var size int64
	begin := 0
	flush := func(end int) {
		if size > left {
			spares++
			left = room
		}
		left -= size
		parts = append(parts, logs[begin:end])
		begin, size = end, 0
	}
	for i, log := range logs {
		n := frameLen(int64(len(log.Data)) + int64(len(log.Extensions)))
		if size+n > room {
			flush(i)
		}
		size += n
	}
	flush(len(logs))
	return parts, spares
}

// appendPart writes entries into one segment, with one sync.
func (l *Log) appendPart(logs []*raft.Log) error {
	var size int64
	for _, log := range logs {
		size += frameLen(int64(len(log.Data)) + int64(len(log.Extensions)))
	}
	if l.tail().bytes-l.tail().end < size {
		if err := l.roll(); err != nil {
			return err
		}
	}
	tail := l.tail()
	added, err := l.write(logs, tail, size)
	if err != nil {
		return err
	}
	if l.opts.Flush == SyncFlush && !mutant.On("sync") {
		if err := l.sync(tail.file); err != nil {
			return err
		}
	}
	l.publish(logs, tail, added, size)
	if cap(l.buf) > keepBuffer {
		l.buf = nil
	}
	return nil
}

// keepBuffer is how large a buffer is kept for the next batch.
const keepBuffer = 8 << 20

// write writes the frames of entries at the tail's end and says where they are.
// The disk begins with the first of a large batch while the next ones are made.
func (l *Log) write(logs []*raft.Log, tail *segment, size int64) ([]entry, error) {
	l.added, l.buf = l.added[:0], slices.Grow(l.buf[:0], int(min(size, writeChunk)))
	f := frame{epoch: tail.epoch, synced: l.syncedTo(), prevCRC: l.lastCRC}
	off := tail.end
	for i, log := range logs {
		f.typ, f.index, f.term, f.appended = log.Type, log.Index, log.Term, encodeTime(log.AppendedAt)
		f.at = tail.at(off + int64(len(l.buf)))
		l.buf = appendFrame(l.buf, l.seed, &f, log.Data, log.Extensions)
		l.added = append(l.added, entry{off: uint32(f.at.off), crc: f.crc})
		f.prevCRC = f.crc
		last := i == len(logs)-1
		if !last && len(l.buf) < writeChunk {
			continue
		}
		if _, err := tail.file.WriteAt(l.buf, off); err != nil {
			return nil, err
		}
		l.stats.writes.Add(1)
		l.stats.bytes.Add(int64(len(l.buf)))
		if !last && l.opts.Flush == SyncFlush {
			if err := tail.file.StartWriteback(off, int64(len(l.buf))); err != nil {
				return nil, err
			}
		}
		off += int64(len(l.buf))
		l.buf = l.buf[:0]
	}
	return l.added, nil
}

// writeChunk is how much of a batch is written at a time: most batches are less.
const writeChunk = 512 << 10

func (l *Log) syncedTo() position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.synced
}

// publish shows readers entries that were written, of this size in all.
func (l *Log) publish(logs []*raft.Log, tail *segment, added []entry, size int64) {
	last := logs[len(logs)-1]
	l.lastCRC = added[len(added)-1].crc
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == 0 {
		l.first = logs[0].Index
	}
	if len(tail.entries) == 0 {
		tail.base = logs[0].Index
	}
	tail.entries = append(tail.entries, added...)
	tail.end += size
	l.last, l.lastTerm = last.Index, last.Term
	if l.opts.Flush == SyncFlush {
		l.synced = tail.at(tail.end)
	}
	for _, log := range logs {
		l.cache.add(log)
	}
}

// roll makes the next spare the tail. The old one is synced first: the first
// entry of a segment vouches for all segments before it.
func (l *Log) roll() error {
	if err := l.syncTail(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.spares[0]
	next.base = l.last + 1
	l.spares = l.spares[1:]
	l.segs = append(l.segs, next)
	l.wakeKeeper()
	return nil
}
