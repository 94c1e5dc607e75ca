package fsm

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
)

// Reset is an offset that was set for a group from without while it may have
// consumers. They hold messages of before and commit offsets of before: until one
// has begun at the new offset, what the group commits for the queue is passed
// over, on every replica alike. So the reset outlives its leader, too.
//
//	Y1  A queue with a pending reset is committed at the reset's offset.
//	Y2  A reset is of a topic and a group that exist.
type Reset struct {
	ID     uint64 // no other reset has it
	Offset int64
}

// queueKey is a group's position in a queue.
type queueKey struct {
	offsetKey
	queue int32
}

// ResetOffsets resets consumer offsets, in order. Topics and groups that do not
// exist are passed over.
func ResetOffsets(offsets []Offset) []byte {
	return appendOffsets(header(nil, KindResetOffsets), offsets)
}

// EndReset ends a reset: the group's commits count again.
func EndReset(group, topic string, queue int32, id uint64) []byte {
	b := appendString(appendString(header(nil, KindEndReset), group), topic)
	return binary.BigEndian.AppendUint64(appendI32(b, queue), id)
}

func (s *State) endReset(r *reader) (Status, error) {
	k := queueKey{offsetKey{group: r.string(), topic: r.string()}, r.i32()}
	id := r.u64()
	if err := r.end(); err != nil {
		return 0, wrap(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resets[k].ID != id { // there was another one since, or none is left (F7)
		return Stale, nil
	}
	delete(s.resets, k)
	return Stored, nil
}

// beginReset notes a reset. The lock is held.
func (s *State) beginReset(k queueKey, offset int64) {
	s.sequence++
	s.resets[k] = Reset{s.sequence, offset}
	s.resetChanges++
}

// dropResets forgets the resets that are of something which is gone. The lock is
// held.
func (s *State) dropResets(gone func(offsetKey) bool) {
	maps.DeleteFunc(s.resets, func(k queueKey, _ Reset) bool { return gone(k.offsetKey) })
}

// PendingReset returns the reset that a group's consumers of a queue do not know
// of yet, if there is one.
func (s *State) PendingReset(group, topic string, queue int32) (Reset, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.resets) == 0 { // as almost always
		return Reset{}, false
	}
	r, ok := s.resets[queueKey{offsetKey{topic, group}, queue}]
	return r, ok
}

func (s *State) appendResets(b []byte) []byte {
	b = appendI64(b, s.resetChanges)
	b = appendCount(b, len(s.resets))
	keys := slices.SortedFunc(maps.Keys(s.resets), func(a, b queueKey) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.group, b.group), cmp.Compare(a.queue, b.queue))
	})
	for _, k := range keys {
		b = appendI32(appendString(appendString(b, k.group), k.topic), k.queue)
		b = binary.BigEndian.AppendUint64(b, s.resets[k].ID)
		b = appendI64(b, s.resets[k].Offset)
	}
	return b
}

func (s *State) readResets(r *reader) {
	s.resetChanges = r.i64()
	for range r.count(4 + 4 + 4 + 8 + 8) {
		k := queueKey{offsetKey{group: r.string(), topic: r.string()}, r.i32()}
		s.resets[k] = Reset{ID: r.u64(), Offset: r.i64()}
	}
}
