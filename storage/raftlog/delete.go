package raftlog

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// DeleteRange deletes the entries from min to max, both included, at the log's
// beginning or at its end, or all of them; when it returns nil the deletion is
// durable. Indexes outside the log are ignored. ErrMiddle refuses any other
// range. After deleting all, the next entry may have any index.
func (l *Log) DeleteRange(min, max uint64) error {
	done, err := l.change()
	defer done()
	switch {
	case err != nil:
		return err
	case l.last == 0 || min > max || max < l.first || min > l.last:
		return nil
	case min <= l.first && max >= l.last:
		return l.deleteAll()
	case min <= l.first:
		return l.deletePrefix(max + 1)
	case max >= l.last:
		return l.deleteSuffix(min)
	}
	return fmt.Errorf("%w: %d to %d of %d to %d", ErrMiddle, min, max, l.first, l.last)
}

// Reset deletes everything, durably.
func (l *Log) Reset() error {
	done, err := l.change()
	defer done()
	if err != nil || l.last == 0 {
		return err
	}
	return l.deleteAll()
}

// deletePrefix makes index the first. The new start is durable before a segment
// is given away.
//
//	before  |--seg 4--|--seg 5--|--seg 6--|
//	                      ^ index
//	after             |--seg 5--|--seg 6--|   4 is free
func (l *Log) deletePrefix(index uint64) error {
	l.headers.Lock()
	defer l.headers.Unlock()
	l.mu.RLock()
	k := l.segmentOf(index)
	s, e, _ := l.locate(index)
	st := l.state
	st.synced = l.synced
	l.mu.RUnlock()
	st.first, st.start = index, s.at(int64(e.off))
	if err := l.saveState(l.tail(), l.tail().head, st); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append(l.free, l.segs[:k]...)
	l.segs = append([]*segment(nil), l.segs[k:]...)
	l.first = index
	l.cache.dropBefore(index)
	l.deleted()
	return nil
}

// deleteSuffix makes index-1 the last.
//
//	before  |--seg 4--|--seg 5--|--seg 6--|   and spare 7
//	                      ^ end of index-1
//	after   |--seg 4--|--se                   6 and 7 are free; what lies behind
//	                                          the end in 5 is dead by its epoch
//
// The log ends behind an entry, never at the beginning of a segment: that is
// where opening it will find the end.
func (l *Log) deleteSuffix(index uint64) error {
	var prev raft.Log
	if err := l.GetLog(index-1, &prev); err != nil {
		return err
	}
	if err := l.syncTail(); err != nil {
		return err
	}
	l.headers.Lock()
	defer l.headers.Unlock()
	l.mu.RLock()
	k := l.segmentOf(index - 1)
	s, e, n := l.locate(index - 1)
	l.mu.RUnlock()
	end := int64(e.off) + n
	if err := l.cutAt(s, end, l.state.first, l.state.start); err != nil {
		return err
	}
	l.lastCRC = e.crc
	l.mu.Lock()
	defer l.mu.Unlock()
	s.entries = s.entries[:index-s.base]
	l.last, l.lastTerm = index-1, prev.Term
	l.cache.dropFrom(index)
	l.shorten(k, end)
	return nil
}

// deleteAll empties the log: the tail becomes its only segment.
func (l *Log) deleteAll() error {
	l.headers.Lock()
	defer l.headers.Unlock()
	tail := l.tail()
	if err := l.cutAt(tail, segmentHeader, 0, tail.at(segmentHeader)); err != nil {
		return err
	}
	l.lastCRC = 0
	l.mu.Lock()
	defer l.mu.Unlock()
	k := len(l.segs) - 1
	l.free = append(l.free, l.segs[:k]...)
	l.segs = []*segment{tail}
	tail.base, tail.entries = 1, nil
	l.first, l.last, l.lastTerm = 0, 0, 0
	l.cache.dropFrom(0)
	l.shorten(0, segmentHeader)
	return nil
}

// shorten makes segs[k] the tail, ending at off; the segments behind it, and
// the spares, whose epochs are older than the cut, are free. Callers hold mu.
func (l *Log) shorten(k int, off int64) {
	l.free = append(l.free, l.segs[k+1:]...)
	l.free = append(l.free, l.spares...)
	l.segs, l.spares = append([]*segment(nil), l.segs[:k+1]...), nil
	tail := l.segs[k]
	tail.end = off
	l.synced = tail.at(off)
	l.deleted()
}

// deleted lets readers and the keeper know. Callers hold mu.
func (l *Log) deleted() {
	l.deletes++
	l.trimFree()
	l.wakeKeeper()
}
