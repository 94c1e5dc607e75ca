package raftlog

import "github.com/hashicorp/raft"

// cache holds the newest entries in memory, without a gap, up to a number of
// bytes. It is guarded by Log.mu.
type cache struct {
	limit int64
	bytes int64
	logs  []raft.Log // logs[:dead] have been dropped
	dead  int
}

// entryOverhead is about what an entry takes beside its data.
const entryOverhead = 128

func cost(l *raft.Log) int64 { return int64(len(l.Data)+len(l.Extensions)) + entryOverhead }

// add appends an entry that follows the last one.
func (c *cache) add(l *raft.Log) {
	if c.limit <= 0 {
		return
	}
	c.logs = append(c.logs, *l)
	c.bytes += cost(l)
	for c.bytes > c.limit {
		c.dropFirst()
	}
	if c.dead > 64 && c.dead > len(c.logs)/2 {
		n := copy(c.logs, c.logs[c.dead:])
		clear(c.logs[n:])
		c.logs, c.dead = c.logs[:n], 0
	}
}

func (c *cache) dropFirst() {
	c.bytes -= cost(&c.logs[c.dead])
	c.logs[c.dead] = raft.Log{}
	c.dead++
}

// get returns the entry or nil.
func (c *cache) get(index uint64) *raft.Log {
	live := c.logs[c.dead:]
	if len(live) == 0 || index < live[0].Index || index-live[0].Index >= uint64(len(live)) {
		return nil
	}
	return &live[index-live[0].Index]
}

// dropBefore forgets the entries below index.
func (c *cache) dropBefore(index uint64) {
	for c.dead < len(c.logs) && c.logs[c.dead].Index < index {
		c.dropFirst()
	}
}

// dropFrom forgets index and all behind it.
func (c *cache) dropFrom(index uint64) {
	for n := len(c.logs); n > c.dead && c.logs[n-1].Index >= index; n-- {
		c.bytes -= cost(&c.logs[n-1])
		c.logs[n-1] = raft.Log{}
		c.logs = c.logs[:n-1]
	}
}
