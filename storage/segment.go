package storage

import (
	"hash/crc32"
	"sync/atomic"

	"github.com/raftmq/raftmq/storage/disk"
)

// segment is one file of the CommitLog, and its block sums.
//
// References: the store has one, the mapping one, each reader one while it
// reads. With the last one the file is removed, if the segment was trimmed.
type segment struct {
	store *Store
	epoch uint64 // of the state it belongs to
	base  int64  // position of its first byte
	size  int64

	refs    atomic.Int64
	trimmed atomic.Bool
	mapped  atomic.Pointer[mapping]

	// trust is what the manifest said of the segment when the store was
	// resumed; of one begun since, nothing.
	trust  trust
	digest uint32 // over the sums of the whole blocks so far; the writer's until sealed
	sums   blockSums

	// w is what the writer writes to, and what is synced afterwards. It stays
	// open from the first write until the segment is sealed and synced: only a
	// descriptor that was open all along surely learns of a failed write-back.
	w     disk.File
	dirty atomic.Bool // written since it was last synced

	// Work for the repairer; under its mu.
	resum bool // the sums are to be made anew from the data
	adopt bool // missing ranges are to be looked for in the file
}

func newSegment(s *Store, epoch uint64, base int64) *segment {
	g := &segment{store: s, epoch: epoch, base: base, size: s.opts.SegmentSize}
	g.refs.Store(1)
	return g
}

// trusted is what the segment's bytes and sums are held against: what the
// manifest said or, of a segment that is sealed and synced, what was computed
// when it was written.
func (g *segment) trusted() trust {
	if g.sums.memory.Load() == nil {
		return trust{valid: g.size, digest: g.digest}
	}
	return g.trust
}

func (g *segment) end() int64 { return g.base + g.size }

// keepSums gives the segment memory for its sums.
func (g *segment) keepSums() []uint32 {
	m := make([]uint32, g.size/blockSize)
	g.sums.memory.Store(&m)
	return m
}

// acquire takes a reference. False if the segment is going away.
func (g *segment) acquire() bool { return acquire(&g.refs) }

func (g *segment) release() {
	if g.refs.Add(-1) == 0 && g.trimmed.Load() {
		g.store.removeSegment(g)
	}
}

// retire gives up the store's references: of a segment that was trimmed, or
// that a Resume has replaced by another of the same file.
func (g *segment) retire(trimmed bool) {
	g.trimmed.Store(trimmed)
	g.unmap()
	g.release()
}

func acquire(refs *atomic.Int64) bool {
	for {
		n := refs.Load()
		if n == 0 {
			return false
		}
		if refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// mapping is a segment's read-only mapping. The segment has one reference, each
// View one. A file that is mapped is never shortened; the mapping goes when
// nobody reads it.
type mapping struct {
	m    disk.Mapping
	seg  *segment
	refs atomic.Int64
}

// mapFile maps the whole segment from f.
func (g *segment) mapFile(f disk.File) error {
	m, err := f.Map(g.size)
	if err != nil {
		return err
	}
	g.refs.Add(1)
	mp := &mapping{m: m, seg: g}
	mp.refs.Store(1)
	g.mapped.Store(mp)
	return nil
}

func (g *segment) unmap() {
	if m := g.mapped.Swap(nil); m != nil {
		m.release()
	}
}

func (m *mapping) release() {
	if m.refs.Add(-1) > 0 {
		return
	}
	if err := m.m.Unmap(); err != nil {
		m.seg.store.log.Error("a segment cannot be unmapped", "segment", m.seg.base, "error", err)
	}
	m.seg.release()
}

// absorb extends the segment's checksums by bytes appended at position at. part
// is the CRC of the block that is not whole, before and after.
func (g *segment) absorb(p []byte, at int64, part uint32) uint32 {
	sums := *g.sums.memory.Load()
	at -= g.base
	for len(p) > 0 {
		n := min(int64(len(p)), blockSize-at%blockSize)
		part = crc32.Update(part, castagnoli, p[:n])
		p = p[n:]
		at += n
		if at%blockSize == 0 {
			sum := sealSum(part)
			sums[at/blockSize-1] = sum
			g.digest = extendCRC(g.digest, sum)
			part = 0
		}
	}
	return part
}
