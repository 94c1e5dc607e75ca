package disk

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Clone returns an independent copy as kill -9 and a restart would find it: the
// page cache is whole, what was not synced still is not, no lock is held.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	seed := m.rng.Uint64()
	m.mu.Unlock()
	return m.copy(seed, func(f *memFile) *memFile {
		return &memFile{data: slices.Clone(f.data), durable: slices.Clone(f.durable), dirty: maps.Clone(f.dirty)}
	}, func(d *memDir) *memDir {
		return &memDir{names: maps.Clone(d.names), durable: maps.Clone(d.durable), pending: slices.Clone(d.pending)}
	})
}

// Crash returns an independent copy as a power loss and a restart would find
// it: of the unsynced pages, sizes and names, the seed decides which made it.
func (m *Mem) Crash(seed uint64) *Mem {
	rng := rand.New(rand.NewPCG(seed, 1))
	// One crash in four loses everything unsynced, one keeps nearly all of it:
	// a fair coin for each page would seldom reach either.
	keep := [...]float64{0, 0.5, 0.5, 0.95}[rng.IntN(4)]
	return m.copy(rng.Uint64(), func(f *memFile) *memFile {
		return f.crash(rng, keep)
	}, func(d *memDir) *memDir {
		names := maps.Clone(d.durable)
		n := 0
		if keep > 0 && len(d.pending) > 0 {
			n = rng.IntN(len(d.pending) + 1)
		}
		for _, op := range d.pending[:n] {
			applyDirOp(names, op)
		}
		return &memDir{names: names, durable: maps.Clone(names)}
	})
}

// copy walks the tree, in name order so that a seed gives one result, and
// copies every node once: a file may be reachable by two names (the durable and
// the current one of a rename).
func (m *Mem) copy(seed uint64, file func(*memFile) *memFile, dir func(*memDir) *memDir) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	done := map[any]any{}
	var visit func(node any) any
	visit = func(node any) any {
		if c, ok := done[node]; ok {
			return c
		}
		switch n := node.(type) {
		case *memFile:
			c := file(n)
			done[node] = c
			return c
		case *memDir:
			c := dir(n)
			done[node] = c
			for _, names := range []map[string]any{c.names, c.durable} {
				for _, name := range slices.Sorted(maps.Keys(names)) {
					names[name] = visit(names[name])
				}
			}
			for i, op := range c.pending {
				if op.node != nil {
					c.pending[i].node = visit(op.node)
				}
			}
			return c
		}
		panic("disk: unknown node")
	}
	root := visit(m.root).(*memDir)
	return &Mem{root: root, locks: map[string]bool{}, capacity: m.capacity, rng: rand.New(rand.NewPCG(seed, 0))}
}

func (f *memFile) crash(rng *rand.Rand, keep float64) *memFile {
	size := len(f.durable)
	if keep > 0 && rng.IntN(2) == 0 {
		size = len(f.data)
	}
	data := make([]byte, size)
	copy(data, f.durable)
	for _, page := range slices.Sorted(maps.Keys(f.dirty)) {
		roll := rng.Float64()
		torn := rng.IntN(8) == 0
		if roll >= keep {
			continue
		}
		for s := page * memPage; s < (page+1)*memPage; s += memSector {
			if torn && rng.IntN(2) == 0 {
				continue
			}
			if s < int64(size) && s < int64(len(f.data)) {
				copy(data[s:min(s+memSector, int64(size))], f.data[s:])
			}
		}
	}
	return &memFile{data: data, durable: slices.Clone(data), dirty: map[int64]struct{}{}}
}

// FlipBit flips one bit of a file, in the page cache and on the disk, as bit
// rot would. For tests.
func (m *Mem) FlipBit(name string, off int64, bit uint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.lookup(name)
	if err != nil {
		return err
	}
	f, ok := node.(*memFile)
	if !ok || off < 0 || off >= int64(len(f.data)) {
		return fmt.Errorf("disk: no byte %d in %s", off, name)
	}
	f.data[off] ^= 1 << (bit % 8)
	if off < int64(len(f.durable)) {
		f.durable[off] ^= 1 << (bit % 8)
	}
	return nil
}
