package fsm

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Lock says which client alone may consume a queue for a group. It does not end
// by itself, as there is no clock here: the leader ends it, naming the renewal
// that it has seen.
type Lock struct {
	Client string
	// Renewal is the index of the entry that granted or renewed the lock last.
	// No two grants have the same one.
	Renewal uint64
}

// QueueLock is a queue that is locked for a group, or was: Renewal is then that
// of the lock which the leader knows, 0 if there was none.
type QueueLock struct {
	Group, Topic string
	Queue        int32
	Lock
}

// A lock command names one group and one client, none to end locks, and queues,
// each with the renewal that the proposer has seen of its lock, 0 for none:
//
//	+--------+--------+--------+-------+---------+---------+
//	| group  | client | count  | topic | queue   | renewal |
//	| string | string | 4 B BE | string| 4 B BE  | 8 B BE  |   the last three count times
//	+--------+--------+--------+-------+---------+---------+
//
// The client gets each queue that nobody holds, or it itself, or somebody whose
// lock is the one that was seen. A renewal that is in the log before the command
// thus wins over it. A lock ends only if it is the one that was seen.

// Grant locks queues for a client, whoever has held them, as far as the locks
// are those that locks has.
func Grant(group, client string, locks []QueueLock) []byte {
	b := appendString(appendString(header(nil, KindLock), group), client)
	b = appendCount(b, len(locks))
	for _, l := range locks {
		b = appendI32(appendString(b, l.Topic), l.Queue)
		b = binary.BigEndian.AppendUint64(b, l.Renewal)
	}
	return b
}

// Unlock ends locks of a group, as far as they are those that locks has.
func Unlock(group string, locks []QueueLock) []byte { return Grant(group, "", locks) }

func (s *State) applyLocks(r *reader, index uint64) error {
	group, client := r.string(), r.string()
	n := r.count(4 + 4 + 8)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.groups[group]
	for range n {
		name, queue, seen := r.string(), r.i32(), r.u64()
		if r.err != nil {
			break
		}
		k := offsetKey{name, group}
		held, locked := s.locks[k][queue]
		switch {
		case client == "":
			if locked && held.Renewal == seen {
				s.unlock(k, queue)
			}
		// The group, the topic or the queue may be gone by now. (F7)
		case !known || !s.hasQueue(name, queue):
		case !locked || held.Client == client || held.Renewal == seen:
			s.lock(k, queue, Lock{client, index})
		}
	}
	return wrap(r.end())
}

// hasQueue says whether a topic has a queue. s.mu is held.
func (s *State) hasQueue(name string, queue int32) bool {
	t, ok := s.topics[name]
	return ok && queue >= 0 && queue < max(t.Config.ReadQueueNums, t.Config.WriteQueueNums)
}

func (s *State) lock(k offsetKey, queue int32, l Lock) {
	if s.locks[k] == nil {
		s.locks[k] = map[int32]Lock{}
	}
	s.locks[k][queue] = l
	s.lockChanges++
}

func (s *State) unlock(k offsetKey, queue int32) {
	if delete(s.locks[k], queue); len(s.locks[k]) == 0 {
		delete(s.locks, k)
	}
	s.lockChanges++
}

// dropLocks ends the locks of a group or a topic that is deleted.
func (s *State) dropLocks(of func(offsetKey) bool) {
	maps.DeleteFunc(s.locks, func(k offsetKey, _ map[int32]Lock) bool { return of(k) })
	s.lockChanges++
}

// QueueLock returns the lock of a queue for a group, if there is one.
func (s *State) QueueLock(group, topic string, queue int32) (Lock, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	l, ok := s.locks[offsetKey{topic, group}][queue]
	return l, ok
}

// QueueLocks calls f with every lock, sorted by topic, group and queue. f must not
// call the State.
func (s *State) QueueLocks(f func(QueueLock)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.eachLock(f)
}

// LockChanges is another number after locks have changed.
func (s *State) LockChanges() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.lockChanges
}

func (s *State) eachLock(f func(QueueLock)) {
	keys := slices.SortedFunc(maps.Keys(s.locks), func(a, b offsetKey) int {
		return cmp.Or(strings.Compare(a.topic, b.topic), strings.Compare(a.group, b.group))
	})
	for _, k := range keys {
		for _, queue := range slices.Sorted(maps.Keys(s.locks[k])) {
			f(QueueLock{Group: k.group, Topic: k.topic, Queue: queue, Lock: s.locks[k][queue]})
		}
	}
}

func (s *State) appendLocks(b []byte) []byte {
	n := 0
	for _, locks := range s.locks { // any order: it is a sum
		n += len(locks)
	}
	b = appendCount(b, n)
	s.eachLock(func(l QueueLock) {
		b = appendString(appendString(b, l.Topic), l.Group)
		b = appendString(appendI32(b, l.Queue), l.Client)
		b = binary.BigEndian.AppendUint64(b, l.Renewal)
	})
	return b
}

func (s *State) readLocks(r *reader) {
	for range r.count(4 + 4 + 4 + 4 + 8) {
		k := offsetKey{topic: r.string(), group: r.string()}
		queue, l := r.i32(), Lock{Client: r.string(), Renewal: r.u64()}
		switch {
		case r.err != nil:
			return
		case queue < 0 || l.Client == "" || l.Renewal == 0:
			r.fail(fmt.Errorf("lock %d of client %q on queue %d of %s", l.Renewal, l.Client, queue, k.topic))
			return
		}
		s.lock(k, queue, l)
	}
}
