package storage

// adoptSegment looks in a segment's own file for blocks that are listed as
// missing: left from before a Resume or a crash. They count if their sums agree.
func (s *Store) adoptSegment(g *segment) {
	s.gaps.fill.Lock()
	defer s.gaps.fill.Unlock()
	defer s.repair.done(&g.adopt)
	if !g.acquire() {
		return
	}
	defer g.release()
	if !g.sums.needed.Load() && g.sums.memory.Load() == nil {
		if _, err := g.sumPage(0); err != nil {
			g.sums.needed.Store(true)
			s.log.Info("the block sums of a segment are to be fetched", "segment", g.base, "error", err)
		}
	}
	if g.sums.needed.Load() {
		return
	}
	for _, gap := range s.gaps.within(g.base, g.end()) {
		for at := gap.from; at < gap.to && !s.hurry.Load(); at += 1 << 20 {
			part := span{at, min(at+(1<<20), gap.to)}
			data, err := readRaw(s.files, g, part.from, int(part.to-part.from))
			if err != nil {
				if !isNotExist(err) {
					s.log.Warn("a missing range cannot be looked for in the segment's file", "segment", g.base, "at", at, "error", err)
				}
				return
			}
			for _, good := range g.goodBlocks(part, data) {
				g.dirty.Store(true)
				s.counters.mendedBytes.Add(s.gaps.here(good.from, good.to))
				s.counters.adopted.Add(good.to - good.from)
			}
		}
	}
}

// goodBlocks returns the blocks of a range whose sums agree.
func (g *segment) goodBlocks(r span, data []byte) (good spans) {
	for at := r.from; at < r.to; at += blockSize {
		b := span{at, min(at+blockSize, r.to)}
		if g.checkFill(b, data[b.from-r.from:b.to-r.from]) == nil {
			good = good.add(b.from, b.to)
		}
	}
	return good
}

// resumSegment makes a segment's block sums anew from its data. If that does not
// give the digest they have to be fetched.
func (s *Store) resumSegment(g *segment) {
	s.gaps.fill.Lock()
	defer s.gaps.fill.Unlock()
	defer s.repair.done(&g.resum)
	if !g.acquire() {
		return
	}
	defer g.release()
	want := g.trusted()
	if len(s.gaps.within(g.base, g.end())) > 0 {
		return
	}
	n := want.valid / blockSize
	sums, end := make([]uint32, 0, n), g.base+n*blockSize
	for at := g.base; at < end; at += 1 << 20 {
		if s.hurry.Load() {
			return
		}
		data, err := readRaw(s.files, g, at, int(min(1<<20, end-at)))
		if err != nil {
			s.log.Error("a segment cannot be read to make its block sums", "segment", g.base, "at", at, "error", err)
			return
		}
		for ; len(data) > 0; data = data[blockSize:] {
			sums = append(sums, blockSum(data[:blockSize]))
		}
	}
	encoded := encodeSums(sums)
	if digestOf(encoded) != want.digest {
		s.log.Error("a segment's block sums are damaged, and so is its data: the sums are to be fetched", "segment", g.base)
		return
	}
	if err := s.takeSums(g, encoded); err != nil {
		s.log.Error("a segment's block sums cannot be written", "segment", g.base, "error", err)
		return
	}
	s.log.Info("block sums were made anew", "segment", g.base)
}
