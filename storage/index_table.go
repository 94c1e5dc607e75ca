package storage

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
)

// indexEntry is one key in memory: 24 bytes, no pointers.
type indexEntry struct {
	hash uint64
	phys int64
	sec  uint32 // store time, seconds since 1970
	prev uint32 // in a table: the number of the next older entry of its slot, 0 for none
}

// Keys are kept in chunks, so that an idle index is small and a growing one is
// never copied.
const indexChunk = 1024

// What one key costs in memory: its entry, its share of the slots.
const indexEntryBytes, indexSlotBytes = 24, 4

// indexTable is a hash table of the newest keys, chained per slot from new to
// old. One writer (under Index.mu) appends; any number of readers walk the
// chains without a lock. An entry does not change once its number is in a slot,
// and slots and chunk directory are stored and loaded atomically, which orders
// the writes before them. Full or asked to, it is frozen, written out as a run
// and left to the collector: a reader that still walks it keeps it alive.
type indexTable struct {
	indexSpan // end, n and the rest belong to the writer until it is frozen
	n         int
	limit     int
	slots     []atomic.Uint32 // entry number + 1 of the newest; made with the first key
	shift     uint            // of the hash, to get a slot
	chunks    atomic.Pointer[[]*[indexChunk]indexEntry]
	chunk     *[indexChunk]indexEntry // the last one
}

// indexSpan is what a table or a run covers and what is known of its content.
type indexSpan struct {
	begin, end int64 // every key of the records in [begin, end) is inside
	last       int64 // physical offset of the newest record with a key, -1 without
	minTime    int64 // of those records, milliseconds; both 0 without keys
	maxTime    int64
}

func newIndexTable(begin int64, limit int) *indexTable {
	return &indexTable{
		indexSpan: indexSpan{begin: begin, end: begin, last: -1},
		limit:     limit,
		shift:     uint(64 - max(1, bits.Len(uint(limit))-1)),
	}
}

func (t *indexTable) full() bool { return t.n >= t.limit }

// append takes the keys of whole records up to the position to and returns how
// many it took. Fewer than all means that the table is full, and t.end is the
// record to go on with: the keys of one record are never in two tables, for
// a run made of one must hold a record wholly or not at all.
func (t *indexTable) append(to int64, keys []IndexKey, hash func(topic, key string) uint64) int {
	for i := 0; i < len(keys); {
		phys := keys[i].Phys
		if t.full() {
			t.end = phys
			return i
		}
		for ; i < len(keys) && keys[i].Phys == phys; i++ {
			t.add(hash(keys[i].Topic, keys[i].Key), phys, keys[i].Time)
		}
	}
	t.end = to
	return len(keys)
}

func (t *indexTable) add(hash uint64, phys, time int64) {
	i := t.n % indexChunk
	if i == 0 {
		t.grow()
	}
	t.note(phys, time)
	slot := &t.slots[hash>>t.shift]
	t.chunk[i] = indexEntry{hash: hash, phys: phys, sec: indexSeconds(time), prev: slot.Load()}
	t.n++
	slot.Store(uint32(t.n))
}

func (t *indexTable) grow() {
	if t.slots == nil {
		t.slots = make([]atomic.Uint32, 1<<(64-t.shift))
	}
	t.chunk = new([indexChunk]indexEntry)
	var old []*[indexChunk]indexEntry
	if p := t.chunks.Load(); p != nil {
		old = *p
	}
	chunks := append(slices.Clip(old), t.chunk) // a copy: readers hold the old one
	t.chunks.Store(&chunks)
}

// note widens what is known of the content by one record.
func (s *indexSpan) note(phys, time int64) {
	if s.last < 0 {
		s.minTime, s.maxTime = time, time
	}
	s.last = max(s.last, phys)
	s.minTime, s.maxTime = min(s.minTime, time), max(s.maxTime, time)
}

// newest returns the number of the newest entry in the chain of hash, 0 for
// none. Only for a table that has a key; safe beside the writer.
func (t *indexTable) newest(hash uint64) uint32 { return t.slots[hash>>t.shift].Load() }

// entry returns an entry by a number that newest or prev gave.
func (t *indexTable) entry(number uint32) *indexEntry {
	i := number - 1
	return &(*t.chunks.Load())[i/indexChunk][i%indexChunk]
}

// sorted returns a copy of the entries of a frozen table as a run wants them:
// by hash, then by offset. The slots are in the order of the hashes' first bits,
// so only the few entries of each have to be sorted.
func (t *indexTable) sorted() []indexEntry {
	entries := make([]indexEntry, 0, t.n)
	for i := range t.slots {
		first := len(entries)
		for n := t.slots[i].Load(); n > 0; {
			e := t.entry(n)
			entries = append(entries, *e)
			n = e.prev
		}
		if slot := entries[first:]; len(slot) > 1 {
			slices.SortFunc(slot, func(a, b indexEntry) int {
				if a.hash != b.hash {
					return cmp.Compare(a.hash, b.hash)
				}
				return cmp.Compare(a.phys, b.phys)
			})
		}
	}
	return entries
}

// indexSeconds is the resolution of the index: milliseconds cut to seconds and
// clamped to what 32 bits hold.
func indexSeconds(ms int64) uint32 {
	return uint32(min(max(ms, 0)/1000, math.MaxUint32))
}
