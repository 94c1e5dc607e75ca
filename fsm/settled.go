package fsm

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"github.com/raftmq/raftmq/storage"
)

// marks says which messages of a queue were settled: those before base, which is
// a multiple of 64, and those whose bit is set. Of the others it has how often it
// was asked what is to become of them.
type marks struct {
	base  int64
	bits  []uint64
	asked map[int64]Asked
}

// Asked is how often it was asked what is to become of a message that waits, and
// when last, in log time, ms.
type Asked struct {
	Times int32
	Last  int64
}

func (m *marks) has(offset int64) bool {
	if offset < m.base {
		return true
	}
	word := (offset - m.base) / 64
	return word < int64(len(m.bits)) && m.bits[word]&(1<<(offset%64)) != 0
}

// set marks an offset from base on.
func (m *marks) set(offset int64) {
	delete(m.asked, offset)
	word := (offset - m.base) / 64
	for int64(len(m.bits)) <= word {
		m.bits = append(m.bits, 0)
	}
	m.bits[word] |= 1 << (offset % 64)
	whole := 0
	for whole < len(m.bits) && m.bits[whole] == ^uint64(0) {
		whole++
	}
	if whole > 0 {
		m.base += int64(whole) * 64
		m.bits = slices.Clone(m.bits[whole:])
	}
}

// next is the first offset from one on that is not marked.
func (m *marks) next(from int64) int64 {
	from = max(from, m.base)
	for {
		word := (from - m.base) / 64
		if word >= int64(len(m.bits)) {
			return from
		}
		unset := ^m.bits[word] >> (from % 64)
		if unset != 0 {
			return from + int64(bits.TrailingZeros64(unset))
		}
		from += 64 - from%64
	}
}

// settle stores a send, if there is one, and settles the message it names: both
// or neither. A message is settled once, so a settlement that is proposed twice,
// or by two leaders, acts once. If the send only asks, that is counted.
func (s *State) settle(next send, host string) (Result, error) {
	w := next.Settles
	t, ok := s.topics[w.Queue.Topic]
	if !ok || t.Incarnation != w.Queue.Incarnation || w.Queue.Queue < 0 || int(w.Queue.Queue) >= len(t.queues) ||
		w.Offset < 0 || w.Offset >= t.queues[w.Queue.Queue].next {
		return Result{Status: NotWaiting}, nil
	}
	stores := next.n > 0 || len(next.records) > 0
	if s.isSettled(w.Queue, w.Offset) {
		if res, ok := s.repeated(next.Key, 0); ok && stores { // by this very send
			return res, nil
		}
		return Result{Status: Stale}, nil
	}
	res := Result{Status: Stored, Queue: w.Queue.Queue, QueueOffset: w.Offset}
	if next.Asks {
		s.ask(*w)
		return res, nil
	}
	if stores {
		var err error
		if next.Waited {
			res, err = s.deliver(next, host)
		} else {
			res, err = s.appendSend(next, host)
		}
		if err != nil || res.Status != Stored {
			return res, err
		}
	} else if e, ok := s.sends.find(next.Key); ok && e.queue == w.Queue.Queue && e.queueOffset == w.Offset {
		// It is gone as if it had never been sent: sent again, it is no repeat.
		e.at, e.phys = s.logTime, nowhere
		s.sends.add(e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marksOf(w.Queue).set(w.Offset)
	return res, nil
}

// marksOf are the marks of a queue. The lock is held.
func (s *State) marksOf(q storage.QueueID) *marks {
	m := s.settled[q]
	if m == nil {
		m = &marks{asked: map[int64]Asked{}}
		s.settled[q] = m
	}
	return m
}

// ask counts that it was asked about a message.
func (s *State) ask(w Waiting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.marksOf(w.Queue)
	m.asked[w.Offset] = Asked{Times: m.asked[w.Offset].Times + 1, Last: s.logTime}
}

// Asked is how often it was asked about the message at a queue's offset: never,
// if it was settled.
func (s *State) Asked(q storage.QueueID, offset int64) Asked {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m := s.settled[q]; m != nil {
		return m.asked[offset]
	}
	return Asked{}
}

// isSettled is Settled for apply's goroutine.
func (s *State) isSettled(q storage.QueueID, offset int64) bool {
	m := s.settled[q]
	return m != nil && m.has(offset)
}

// Settled says whether the message at a queue's offset was settled.
func (s *State) Settled(q storage.QueueID, offset int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.isSettled(q, offset)
}

// Unsettled is the first offset of a queue, from one on, whose message is not
// settled. That may be one that the queue does not have yet.
func (s *State) Unsettled(q storage.QueueID, from int64) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m := s.settled[q]; m != nil {
		return m.next(from)
	}
	return from
}

func (s *State) appendSettled(b []byte) []byte {
	b = appendCount(b, len(s.settled))
	for _, id := range slices.SortedFunc(maps.Keys(s.settled), compareQueues) {
		m := s.settled[id]
		b = appendString(b, id.Topic)
		b = binary.BigEndian.AppendUint64(b, id.Incarnation)
		b = appendI32(b, id.Queue)
		b = appendI64(b, m.base)
		b = appendCount(b, len(m.bits))
		for _, w := range m.bits {
			b = binary.BigEndian.AppendUint64(b, w)
		}
		b = appendCount(b, len(m.asked))
		for _, offset := range slices.Sorted(maps.Keys(m.asked)) {
			b = appendI64(b, offset)
			b = appendI32(b, m.asked[offset].Times)
			b = appendI64(b, m.asked[offset].Last)
		}
	}
	return b
}

func (s *State) readSettled(r *reader) {
	for range r.count(4 + 8 + 4 + 8 + 4 + 4) {
		id := storage.QueueID{Topic: r.string(), Incarnation: r.u64(), Queue: r.i32()}
		m := &marks{base: r.i64(), asked: map[int64]Asked{}}
		for range r.count(8) {
			m.bits = append(m.bits, r.u64())
		}
		for range r.count(8 + 4 + 8) {
			offset, times, last := r.i64(), r.i32(), r.i64()
			m.asked[offset] = Asked{times, last}
		}
		switch {
		case r.err != nil:
			return
		case m.base < 0 || m.base%64 != 0:
			r.fail(fmt.Errorf("%v: settled up to %d", id, m.base))
			return
		case s.topics[id.Topic] == nil:
			r.fail(errors.New("settled messages of no topic"))
			return
		}
		s.settled[id] = m
	}
}

func compareQueues(a, b storage.QueueID) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Incarnation, b.Incarnation), cmp.Compare(a.Queue, b.Queue))
}
