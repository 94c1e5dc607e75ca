package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/raftmq/raftmq/storage/disk"
)

// Range is a part of the CommitLog that is to be fetched from a peer: its bytes
// [Off, End), by Read there and Fill here. Ranges lie within one segment.
type Range struct {
	Off, End int64
	// Sums, if it is not 0, says that the segment's block sums have to be fetched
	// first: ReadSums(Off, Sums) at the peer, FillSums(Off, ...) here.
	Sums int64
}

// Missing lists what is to be fetched, in order: nil if nothing is. Ranges that
// may yet be found on the own disk are not listed until they were looked for.
func (s *Store) Missing() (ranges []Range) {
	st := s.state.Load()
	for _, g := range st.segs {
		gaps := s.gaps.within(g.base, g.end())
		s.repair.mu.Lock()
		skip := g.adopt || g.resum
		s.repair.mu.Unlock()
		if skip {
			continue
		}
		var sums int64
		if g.sums.needed.Load() {
			sums = g.trusted().valid
			if len(gaps) == 0 {
				ranges = append(ranges, Range{g.base, g.base, sums})
			}
		}
		for _, gap := range gaps {
			ranges = append(ranges, Range{gap.from, gap.to, sums})
		}
	}
	return ranges
}

// ReadSums returns the block sums of the first valid bytes of the segment that
// holds off, for a peer's FillSums. Errors as Read.
func (s *Store) ReadSums(off, valid int64) ([]byte, error) {
	st, g, err := s.locate(off, 1)
	if err != nil {
		return nil, err
	}
	defer g.release()
	if valid <= 0 || valid > min(st.end, g.end())-g.base {
		return nil, fmt.Errorf("%w: %d bytes of segment %d", ErrBeyond, valid, g.base)
	}
	n := valid / blockSize
	sums := make([]byte, 0, n*sumSize)
	for i := range n {
		sum, err := g.blockSum(i)
		if err != nil {
			return nil, err
		}
		sums = binary.BigEndian.AppendUint32(sums, sum)
	}
	return sums, nil
}

// FillSums gives the store the block sums of the segment that holds off, as a
// peer's ReadSums returned them. ErrMismatch if they are not those the manifest
// names; ErrTrimmed if the segment is gone.
func (s *Store) FillSums(off int64, sums []byte) error {
	if err := s.Err(); err != nil {
		return err
	}
	s.gaps.fill.Lock()
	defer s.gaps.fill.Unlock()
	st, g, err := s.locate(off, 1)
	if err != nil {
		return err
	}
	defer g.release()
	if !g.sums.needed.Load() {
		return nil
	}
	if n := g.trusted().valid / blockSize * sumSize; int64(len(sums)) != n || digestOf(sums) != g.trusted().digest {
		return fmt.Errorf("%w: %d bytes of block sums with checksum %#x for segment %d; expected are %d with %#x",
			ErrMismatch, len(sums), digestOf(sums), g.base, n, g.trusted().digest)
	}
	if err := s.takeSums(g, sums); err != nil {
		return fmt.Errorf("storage: block sums of segment %d: %w", g.base, err)
	}
	if end := g.base + g.trusted().valid; len(s.gaps.within(g.base, end)) == 0 {
		// They could not be made from the data, so some of that is damaged.
		s.counters.badBytes.Add(s.gaps.add(st.epoch, g.base, end))
	}
	s.repair.lookFor(g)
	return nil
}

// takeSums makes checked sums the segment's. For the holder of gaps.fill.
func (s *Store) takeSums(g *segment, sums []byte) error {
	if m := g.sums.memory.Load(); m != nil {
		// Readers do not look at these as long as sums are needed, the writer
		// writes behind them.
		for i := range len(sums) / sumSize {
			(*m)[i] = binary.BigEndian.Uint32(sums[i*sumSize:])
		}
		g.sums.unsaved.Store(true)
	} else {
		f, err := s.allocateFile(LabelFill, sumsPath(s.dir, g.base), g.size/blockSize*sumSize)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(sums, 0)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		g.setPages(sums)
	}
	if g.sums.damaged.Swap(false) {
		s.counters.mendedSums.Add(1)
	}
	g.sums.needed.Store(false)
	g.dirty.Store(true)
	return nil
}

// Fill gives the store bytes that are missing, as a peer's Read returned them:
// off is a multiple of 4096, and data ends at one or where the range does that
// Missing listed. What of them is not missing is left alone. They are here, and
// read, when Fill returns nil; the store makes them durable by itself.
//
// ErrMismatch if they are not the bytes that the manifest names, ErrNoSums if
// the segment's sums are needed first, ErrTrimmed if the range was trimmed,
// ErrNoSpace if the disk is full.
func (s *Store) Fill(off int64, data []byte) error {
	if err := s.Err(); err != nil {
		return err
	}
	s.gaps.fill.Lock()
	defer s.gaps.fill.Unlock()
	_, g, err := s.locate(off, len(data))
	if err != nil {
		return err
	}
	defer g.release()
	end := off + int64(len(data))
	if off%blockSize != 0 || end%blockSize != 0 && end != g.base+g.trusted().valid {
		return fmt.Errorf("%w: [%d, %d) does not begin and end with a block", ErrBeyond, off, end)
	}
	if g.sums.needed.Load() {
		return fmt.Errorf("%w: segment %d", ErrNoSums, g.base)
	}
	todo := s.gaps.within(off, end)
	for _, gap := range todo {
		if err := g.checkFill(gap, data[gap.from-off:gap.to-off]); err != nil {
			return err
		}
	}
	for _, gap := range todo {
		if err := s.writeFill(g, gap.from, data[gap.from-off:gap.to-off]); err != nil {
			return fmt.Errorf("storage: fill [%d, %d): %w", gap.from, gap.to, err)
		}
		s.filled(g, gap)
		s.counters.filled.Add(gap.to - gap.from)
	}
	return nil
}

// filled takes a range off the missing ones.
func (s *Store) filled(g *segment, r span) {
	g.dirty.Store(true)
	s.counters.mendedBytes.Add(s.gaps.here(r.from, r.to))
	s.repair.wake()
	if s.opts.OnRepair != nil {
		s.opts.OnRepair()
	}
}

// checkFill compares the blocks of a missing range with their sums.
func (g *segment) checkFill(r span, data []byte) error {
	for at := r.from; at < r.to; at += blockSize {
		block := data[at-r.from : min(at+blockSize, r.to)-r.from]
		ok := false
		if len(block) < blockSize {
			ok = r.to == g.base+g.trusted().valid && crc32.Checksum(block, castagnoli) == g.trusted().part
		} else {
			sum, err := g.blockSum((at - g.base) / blockSize)
			if err != nil {
				return err
			}
			ok = sum == blockSum(block)
		}
		if !ok {
			return fmt.Errorf("%w: the block at %d", ErrMismatch, at)
		}
	}
	return nil
}

// writeFill writes into a segment, which may have no file yet.
func (s *Store) writeFill(g *segment, off int64, data []byte) error {
	key := fileKey{base: g.base}
	f, err := s.files.get(key, false)
	if isNotExist(err) {
		file, err := s.allocateFile(LabelFill, segmentPath(s.dir, g.base), g.size)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
		f, err = s.files.get(key, false)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	defer s.files.put(f)
	_, err = disk.WithLabel(f.File, LabelFill).WriteAt(data, off-g.base)
	if isNoSpace(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// Complete says whether everything that the manifest names is here, synced, and
// has its queue units and index keys.
func (s *Store) Complete() bool {
	unsynced, here := s.gaps.pending()
	if unsynced > 0 || !here || s.repair.busy() {
		return false
	}
	for _, g := range s.state.Load().segs {
		if g.sums.needed.Load() {
			return false
		}
	}
	x := s.index.Load()
	return x == nil || len(x.Missing()) == 0
}
