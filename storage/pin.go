package storage

import (
	"slices"
)

// pin is what Sync needs to know beyond the manifest.
type pin struct {
	store   *Store
	epoch   uint64
	queues  []*Queue // of Manifest.Queues
	dropped []TopicID
}

// Pin describes the store as it is, for a snapshot of the state that the last
// batch made. It is for the applying goroutine and takes some nanoseconds a
// queue. Sync makes true what it says.
func (s *Store) Pin() *Manifest {
	st, w := s.state.Load(), &s.writer
	m := &Manifest{SegmentSize: s.opts.SegmentSize, Min: st.min, End: st.end, Part: st.part}
	for _, g := range st.segs {
		m.Digests = append(m.Digests, g.digest)
	}
	if !w.sorted {
		slices.SortFunc(w.order, func(a, b *Queue) int { return compareQueueID(a.id, b.id) })
		w.sorted = true
	}
	m.Queues = make([]QueueState, 0, len(w.order))
	m.pin = &pin{store: s, epoch: st.epoch, queues: make([]*Queue, 0, len(w.order))}
	s.house.mu.Lock()
	m.pin.dropped = slices.Clone(s.house.topics)
	s.house.mu.Unlock()
	for _, q := range w.order {
		if q.Max() == 0 {
			continue
		}
		q.mu.Lock()
		p := q.progress()
		if q.tail != nil {
			p = q.digest(p, q.tail.pending, func(int64, uint32) {})
		}
		q.mu.Unlock()
		m.Queues = append(m.Queues, QueueState{QueueID: q.id, Max: p.at, Sums: p.sums, Part: p.part})
		m.pin.queues = append(m.pin.queues, q)
	}
	return m
}
