package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/raftmq/raftmq/storage/disk"
)

// Resume makes a manifest the store's state: the newest snapshot's after Open
// (nil if there is none), or one that the leader sent to a store that is in use.
// The caller then replays the raft log behind it.
//
// It takes milliseconds whatever the store holds: what the newest checkpoint
// says was synced is kept as far as the manifest's checksums agree, everything
// else is listed as missing, durably, and comes back in the background (see
// Missing). Queues that the manifest does not name are gone, and their handles
// with them; the others' handles stay. OnAppend is not told of what is new.
//
// For the applying goroutine. An error is for good (ErrPoisoned), unless the
// manifest itself was refused.
func (s *Store) Resume(m *Manifest) error {
	if err := s.Err(); err != nil {
		return err
	}
	if m == nil {
		m = &Manifest{SegmentSize: s.opts.SegmentSize}
	}
	if m.SegmentSize != s.opts.SegmentSize {
		return fmt.Errorf("%w: the manifest is for segments of %d bytes, the store has %d", ErrForeign, m.SegmentSize, s.opts.SegmentSize)
	}
	if err := m.validate(); err != nil {
		return err
	}
	s.hurryUp()
	s.maintain.Lock()
	defer s.maintain.Unlock()
	s.hurry.Store(s.closed.Load())
	s.gaps.fill.Lock()
	defer s.gaps.fill.Unlock()
	r := &resumption{Store: s, m: m, old: s.checkpoint}
	if err := r.run(); err != nil {
		return s.fail(fmt.Errorf("resume at %d: %w", m.End, err))
	}
	s.repairChanged()
	return nil
}

// resumption is a Resume under way.
type resumption struct {
	*Store
	m     *Manifest
	old   *checkpoint // what is synced
	st    state       // what will be
	gaps  spans
	holes []*hole
	order []*Queue
}

func (r *resumption) run() error {
	m, before := r.m, r.state.Load()
	same := m.same(r.old.manifest)
	if m.End < r.old.manifest.End {
		r.log.Warn("the snapshot is older than the last one that was synced here: the log is replayed from further back",
			"snapshot", m.End, "synced", r.old.manifest.End)
	}
	r.letBeforeGo(before)
	r.st = state{epoch: before.epoch + 1, min: m.Min, end: m.End, part: m.Part, hot: m.End, floor: r.old.floor}
	if err := r.segments(); err != nil {
		return err
	}
	r.queues(same)
	if writes := r.spoiled; !same || writes > 0 {
		c := checkpoint{manifest: m.plain(), floor: r.old.floor, index: min(r.old.index, m.End), missing: r.gaps, doomed: r.doomed(before)}
		for _, q := range r.order {
			c.queues = appendFacts(c.queues, q)
		}
		for range max(1, writes) {
			if err := r.saveCheckpoint(&c); err != nil {
				return err
			}
		}
		r.spoiled = 0
	}
	if err := r.resumeIndex(); err != nil {
		return err
	}
	// Readers see the gaps before the state they belong to.
	r.Store.gaps.set(r.st.epoch, r.st.min, r.gaps)
	r.state.Store(&r.st)
	r.repair.add(r.holes)
	r.writer = writer{order: r.order, sorted: true}
	next := m.End
	if g := r.st.segment(m.End); g != nil {
		r.writer.mapped = []*segment{g}
		next = g.end()
	}
	r.alloc.prepare(next)
	r.house.begin(m.Min, m.End)
	return nil
}

// letBeforeGo ends what belongs to the state before.
func (r *resumption) letBeforeGo(before *state) {
	r.alloc.quiesce()
	r.repair.reset()
	for _, g := range append(r.house.reset(), before.segs...) {
		r.alloc.discard(g)
	}
}

// segments takes from the files what the manifest and the checkpoint agree on.
func (r *resumption) segments() error {
	begin := max(r.m.Min, r.st.floor)
	exists := map[*segment]bool{}
	r.m.segments(func(base int64, t trust) {
		g := newSegment(r.Store, r.st.epoch, base)
		g.trust, g.digest = t, t.digest
		r.st.segs = append(r.st.segs, g)
		if g.end() > begin {
			var kept int64
			kept, exists[g] = r.keep(g)
			r.gaps = r.gaps.add(kept, base+t.valid)
		}
	})
	for _, sp := range r.old.missing {
		r.gaps = r.gaps.add(sp.from, min(roundUp(sp.to), r.m.End))
	}
	r.gaps = r.gaps.remove(0, begin)
	if g := r.st.segment(r.m.End); g != nil {
		if err := r.activate(g); err != nil {
			return err
		}
	}
	for _, g := range r.st.segs {
		switch {
		case !r.gaps.overlaps(g.base, g.base+g.trust.valid):
		case exists[g]:
			g.adopt = true
		default:
			g.sums.needed.Store(g.trust.valid >= blockSize)
		}
	}
	return nil
}

// keep returns up to where a segment's bytes are here and synced, at the
// beginning of a block, and whether it has a file.
func (r *resumption) keep(g *segment) (end int64, exists bool) {
	info, err := r.fs.Stat(LabelCommitLog, segmentPath(r.dir, g.base))
	if err != nil {
		if !isNotExist(err) {
			r.log.Error("a segment cannot be looked at: it will be fetched", "segment", g.base, "error", err)
		}
		return g.base, false
	}
	l, ok := r.old.manifest.segment(g.base)
	t := g.trust
	switch {
	case !ok:
		return g.base, true
	case l.valid < t.valid:
		end = g.base + l.valid - l.valid%blockSize
	case l.valid == t.valid && l != t, l.valid > t.valid && !r.prefix(g):
		r.log.Error("a segment is not the one that the snapshot names: it will be fetched", "segment", g.base)
		return g.base, true
	default:
		end = g.base + t.valid
	}
	if size := info.Size(); size < end-g.base {
		r.log.Error("a segment's file is too short: the rest will be fetched", "segment", g.base, "size", size)
		end = g.base + size - size%blockSize
	}
	return end, true
}

// prefix says whether a segment that holds more than the manifest says begins
// with what it says.
func (r *resumption) prefix(g *segment) bool {
	t := g.trust
	if _, err := g.loadSums(r.files, t.valid/blockSize, t.digest); err != nil {
		return false
	}
	n := t.valid % blockSize
	b, err := readRaw(r.files, g, g.base+t.valid-n, int(n))
	return err == nil && crc32.Checksum(b, castagnoli) == t.part
}

// activate opens the segment that the log goes on in.
func (r *resumption) activate(g *segment) error {
	f, err := r.allocateFile(LabelAllocate, segmentPath(r.dir, g.base), g.size)
	if err != nil {
		return err
	}
	g.w = disk.WithLabel(f, LabelCommitLog)
	if err := g.mapFile(g.w); err != nil {
		return err
	}
	sums := g.keepSums()
	encoded, err := g.loadSums(r.files, g.trust.valid/blockSize, g.trust.digest)
	if err != nil {
		// Beside missing bytes that is to be expected.
		r.log.Info("the block sums of the last segment are not known", "segment", g.base, "error", err)
		g.sums.needed.Store(true)
		g.resum = !r.gaps.overlaps(g.base, g.base+g.trust.valid)
		return nil
	}
	for i := range len(encoded) / sumSize {
		sums[i] = binary.BigEndian.Uint32(encoded[i*sumSize:])
	}
	g.sums.saved = len(encoded) / sumSize
	return nil
}

// queues makes the queues what the manifest says, and holes of what is not in
// their files.
func (r *resumption) queues(same bool) {
	facts := map[QueueID]queueFacts{}
	for _, f := range r.old.queues {
		facts[f.id] = f
	}
	known := map[QueueID]QueueState{}
	if !same {
		for _, l := range r.old.manifest.Queues {
			known[l.QueueID] = l
		}
	}
	r.queuesMu.Lock() // readers look queues up meanwhile
	defer r.queuesMu.Unlock()
	all := r.Store.queues
	for _, e := range r.m.Queues {
		l := e
		if !same {
			l = known[e.QueueID]
		}
		q := all[e.QueueID]
		if q == nil {
			q = newQueue(r.Store, e.QueueID)
			all[e.QueueID] = q
		}
		r.queue(q, e, l, facts[e.QueueID])
		r.order = append(r.order, q)
	}
	for id, q := range all {
		q.mu.Lock()
		if q.gen != uint32(r.st.epoch) {
			q.dropped = true
			delete(all, id)
		}
		q.mu.Unlock()
	}
}

// queue makes a queue what the manifest says (e), from what is synced (l, f).
func (r *resumption) queue(q *Queue, e, l QueueState, f queueFacts) {
	var holes []*hole
	add := func(h holeState) { holes = append(holes, newHole(q, h)) }
	lead := l.Part
	if f.hasLocal {
		lead = f.local
	}
	local := e.Part
	// A queue of an older manifest that the checkpoint has shorter, or not at
	// all, was dropped in between. Its files are there, or their absence will be
	// found.
	switch front := min(f.front, e.Max); {
	case l.Max == e.Max && (l.Sums != e.Sums || l.Part != e.Part):
		r.log.Error("a queue is not the one that the snapshot names: it is rebuilt", "queue", q.id)
		if front < e.Max {
			add(holeState{lo: front, hi: e.Max, from: -1})
		}
	default:
		if l.Max == e.Max {
			local = lead
		}
		for _, h := range f.holes {
			h.hi, h.to = min(h.hi, e.Max), min(h.to, r.m.End)
			if h.lo < h.hi && h.from <= h.to {
				add(h)
			}
		}
		if l.Max < e.Max && r.m.End > r.old.manifest.End {
			// The records lie behind what was synced. One hole to a block.
			more := holeState{lo: l.Max, hi: e.Max, from: max(r.old.manifest.End, r.m.Min), to: r.m.End,
				skip: r.m.Min > r.old.manifest.End, lead: lead}
			if start, _ := queueBlock(l.Max); len(holes) > 0 && holes[len(holes)-1].hi > start {
				last := holes[len(holes)-1]
				last.hi, last.to = more.hi, more.to
			} else {
				add(more)
			}
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gen, q.dropped = uint32(r.st.epoch), false
	q.sums, q.part, q.local = e.Sums, e.Part, local
	q.front, q.flushed, q.tail = min(f.front, e.Max), e.Max, nil
	q.holes, q.minFor = holes, -1
	q.max.Store(e.Max)
	r.holes = append(r.holes, holes...)
}

// appendFacts appends what a checkpoint says of a queue just resumed, if there
// is anything to say.
func appendFacts(facts []queueFacts, q *Queue) []queueFacts {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := queueFacts{id: q.id, front: q.front, local: q.local, hasLocal: q.local != q.part}
	for _, h := range q.holes {
		f.holes = append(f.holes, h.holeState)
	}
	if f.front == 0 && !f.hasLocal && len(f.holes) == 0 {
		return facts
	}
	return append(facts, f)
}

// doomed lists the topics whose files nobody will name any more.
func (r *resumption) doomed(before *state) (doomed []TopicID) {
	named := map[TopicID]bool{}
	for _, e := range r.m.Queues {
		named[e.topic()] = true
	}
	add := func(t TopicID) {
		if !named[t] {
			named[t] = true
			doomed = append(doomed, t)
		}
	}
	for _, t := range r.old.doomed {
		add(t)
	}
	if r.m.End >= r.old.manifest.End {
		for _, l := range r.old.manifest.Queues {
			add(l.topic())
		}
	}
	r.house.mu.Lock()
	defer r.house.mu.Unlock()
	if r.m.End >= before.end {
		for _, t := range r.house.topics {
			add(t)
		}
	}
	r.house.topics = nil
	return doomed
}

// resumeIndex tells the index where the log stands.
func (r *resumption) resumeIndex() error {
	x := r.index.Load()
	if x != nil && x.Next() <= r.m.End {
		x.Append(r.m.End, r.m.End, nil)
		x.Trim(r.m.Min)
		return nil
	}
	if x != nil {
		if err := x.Close(); err != nil {
			return err
		}
	}
	return r.openIndex(r.m.Min, r.m.End)
}
