package storage

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// housekeeper does on a goroutine of its own what need not hold up the writer:
// it starts write-back, flushes queues when much is pending, and removes what
// was trimmed or dropped.
type housekeeper struct {
	store *Store
	kick  chan struct{}

	pending atomic.Int64 // bytes of units that wait in memory
	written atomic.Int64 // start write-back up to here
	started int64        // it was started up to here
	full    atomic.Bool  // flush the queues
	drop    atomic.Bool  // remove the doomed topics' files
	sweep   atomic.Bool  // look for files that a crash left behind

	mu      sync.Mutex
	trimmed []*segment // to be let go, once the checkpoint knows
	removed []*segment // nobody reads them any more
	topics  []TopicID  // dropped, and not yet known to the checkpoint

	// Of whoever holds maintain:
	files []fileKey // of queues, to be removed once the checkpoint knows
	began int64     // where the log began when it was resumed
}

func (h *housekeeper) init(s *Store) {
	h.store, h.kick = s, make(chan struct{}, 1)
	s.wg.Go(h.run)
}

func (h *housekeeper) writeback(end int64) { h.written.Store(end); poke(h.kick) }

func (h *housekeeper) flush() { h.full.Store(true); poke(h.kick) }

// reset drops all work and returns the segments that were to be let go.
func (h *housekeeper) reset() []*segment {
	h.mu.Lock()
	defer h.mu.Unlock()
	gone := h.trimmed
	h.trimmed, h.removed, h.files = nil, nil, nil
	h.pending.Store(0)
	return gone
}

// begin sets to work on a log that was resumed as [from, to).
func (h *housekeeper) begin(from, to int64) {
	h.written.Store(to)
	h.began = from
	h.sweep.Store(true)
	h.drop.Store(true)
	poke(h.kick)
}

func (h *housekeeper) run() {
	for {
		select {
		case <-h.store.stop:
			return
		case <-h.kick:
			h.store.startWriteback()
			h.store.keepHouse()
		}
	}
}

// startWriteback has the kernel begin to write back what was appended.
func (s *Store) startWriteback() {
	h := &s.house
	to := h.written.Load()
	from := max(h.started, to-16*writebackBytes)
	if from > to { // a Resume went back
		from = to
	}
	h.started = to
	for from < to {
		base := from - from%s.opts.SegmentSize
		end := min(to, base+s.opts.SegmentSize)
		f, err := s.files.get(fileKey{base: base}, false)
		if err == nil {
			err = f.StartWriteback(from-base, end-from)
			s.files.put(f)
		}
		if err != nil && !isNotExist(err) {
			// A hint only. If the disk is ill, the next sync says so.
			s.log.Warn("write-back cannot be started", "segment", base, "error", err)
		}
		from = end
	}
}

func (s *Store) keepHouse() {
	s.maintain.Lock()
	defer s.maintain.Unlock()
	h := &s.house
	if s.Err() != nil || s.hurry.Load() {
		return
	}
	if h.full.Swap(false) {
		if err := s.flushQueues(); err != nil && !errors.Is(err, ErrNoSpace) {
			s.log.Error("queues cannot be flushed", "error", s.fail(fmt.Errorf("flush of the queues: %w", err)))
			return
		}
	}
	if err := s.letGo(); err != nil {
		s.log.Error("what was trimmed cannot be removed", "error", err)
	}
	if h.sweep.Swap(false) {
		s.sweepFiles()
	}
	s.removeSegments()
	if h.drop.Swap(false) {
		s.removeTopics()
	}
}
