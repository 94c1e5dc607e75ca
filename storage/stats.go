package storage

// Stats describes a Store.
type Stats struct {
	Min, End int64 // of the CommitLog
	Segments int   // that make it up
	Queues   int
	Pending  int64 // bytes of queue units that are not written to a file yet

	MissingBytes int64 // of the CommitLog, to be fetched or to be looked for
	OpenHoles    int   // ranges of queue units that are being rebuilt

	// Since Open:
	BadBlocks      int64 // ranges of the CommitLog found damaged
	BadQueueBlocks int64 // ranges of queues found damaged
	BadSums        int64 // segments whose block sums were found damaged
	BadCheckpoints int64 // checkpoints and format files found damaged, all written again
	BadBytes       int64 // of the CommitLog, in whole blocks
	// What of these is right again.
	MendedQueueBlocks, MendedSums, MendedBytes int64
	FilledBytes                                int64 // fetched from peers
	AdoptedBytes                               int64 // listed as missing, and found on the own disk
	RebuiltUnits                               int64 // queue units made anew from the CommitLog

	Err   error      // why the store takes nothing, if so
	Index IndexStats // zero if there is no index
}

// Stats returns the current numbers.
func (s *Store) Stats() Stats {
	st := s.state.Load()
	v := Stats{
		Min: st.min, End: st.end, Segments: len(st.segs), Pending: s.house.pending.Load(),
		BadBlocks:      s.counters.badBlocks.Load(),
		BadQueueBlocks: s.counters.badQueueBlocks.Load(),
		BadSums:        s.counters.badSums.Load(),
		BadCheckpoints: s.counters.badCheckpoints.Load(),
		BadBytes:       s.counters.badBytes.Load(),

		MendedQueueBlocks: s.counters.mendedQueueBlocks.Load(),
		MendedSums:        s.counters.mendedSums.Load(),
		MendedBytes:       s.counters.mendedBytes.Load(),

		FilledBytes:  s.counters.filled.Load(),
		AdoptedBytes: s.counters.adopted.Load(),
		RebuiltUnits: s.counters.rebuiltUnits.Load(),
		Err:          s.Err(),
	}
	s.queuesMu.RLock()
	v.Queues = len(s.queues)
	s.queuesMu.RUnlock()
	for _, gap := range s.gaps.within(0, st.end) {
		v.MissingBytes += gap.to - gap.from
	}
	s.repair.mu.Lock()
	v.OpenHoles = len(s.repair.open)
	s.repair.mu.Unlock()
	if x := s.index.Load(); x != nil {
		v.Index = x.Stats()
	}
	return v
}
