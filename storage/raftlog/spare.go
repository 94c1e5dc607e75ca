package raftlog

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// noSpace turns the file system's ways to say that it is full into ErrNoSpace.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// spareRequest asks the keeper for n spares. done gets nil once they are there.
type spareRequest struct {
	n    int
	done chan error
}

// reserve waits until n spares are there. ErrNoSpace if the disk is full: then
// nothing is lost, and a later call finds them if room has come back.
func (l *Log) reserve(n int) error {
	l.mu.RLock()
	have := len(l.spares)
	l.mu.RUnlock()
	if have >= n {
		return nil
	}
	req := spareRequest{n: n, done: make(chan error, 1)}
	select {
	case l.requests <- req:
	case <-l.quit:
		return ErrClosed
	}
	return <-req.done
}

func (l *Log) wakeKeeper() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

func (l *Log) closing() bool {
	select {
	case <-l.quit:
		return true
	default:
		return false
	}
}

// retryAfter is how long the keeper waits on a full disk before it tries again
// without being asked.
const retryAfter = time.Second

// keep is the keeper: it has a spare ready ahead of need and removes segments
// that nobody wants. Only it makes and removes files.
func (l *Log) keep() {
	var retry <-chan time.Time
	full := false // so that a full disk is told once
	for {
		var err error
		select {
		case <-l.quit:
			return
		case req := <-l.requests:
			err = l.makeSpares(req.n)
			req.done <- err
		case <-l.kick:
			l.removeDoomed()
			err = l.makeSpares(1)
		case <-retry:
			err = l.makeSpares(1)
		}
		if errors.Is(err, ErrNoSpace) {
			if !full {
				l.opts.Logger.Warn("raft log: no room for the next segment", "error", err)
			}
			retry = time.After(retryAfter)
		}
		full = errors.Is(err, ErrNoSpace)
	}
}

// makeSpares makes spares until there are n. A failure other than a full disk
// poisons the log.
func (l *Log) makeSpares(n int) error {
	for {
		if err := l.poison.get(); err != nil {
			return err
		}
		l.mu.Lock()
		if len(l.spares) >= n {
			l.mu.Unlock()
			return nil
		}
		var s *segment
		if last := len(l.free) - 1; last >= 0 {
			s, l.free = l.free[last], l.free[:last]
		}
		l.mu.Unlock()
		if s == nil {
			var err error
			s, err = createSegment(l.fs, l.dir, l.number+1, l.opts.SegmentBytes, l.logID, l.closing)
			if errors.Is(err, ErrNoSpace) || errors.Is(err, ErrClosed) {
				return err
			}
			if err != nil {
				return l.poison.fail(err)
			}
			l.number++
			l.stats.made.Add(1)
		} else {
			// Readers may still hold the old one.
			s = &segment{file: s.file, bytes: s.bytes, head: s.head, slot: s.slot}
			l.stats.recycled.Add(1)
		}
		if err := l.addSpare(s); err != nil {
			return err
		}
	}
}

// addSpare gives a segment the next sequence number and a new epoch, so that
// nothing it still holds counts. It is used only after the tail's header says
// that it exists: from then on, its loss is noticed.
func (l *Log) addSpare(s *segment) error {
	l.headers.Lock()
	defer l.headers.Unlock()
	l.mu.RLock()
	synced := l.synced
	l.mu.RUnlock()

	l.epoch++
	st := l.state
	st.last++
	st.synced = synced
	h := s.head
	h.seq, h.epoch, h.cut = st.last, l.epoch, cut{segmentHeader, l.epoch}
	s.seq, s.epoch, s.end = st.last, l.epoch, segmentHeader
	err := l.saveState(s, h, st)
	if err == nil {
		l.mu.RLock()
		tail := l.tail()
		l.mu.RUnlock()
		err = l.saveState(tail, tail.head, st)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.free = append(l.free, s) // Close closes it
		return err
	}
	l.spares = append(l.spares, s)
	return nil
}

// trimFree keeps those free segments that may be used again. The keeper removes
// the others. Callers hold mu, or are alone.
func (l *Log) trimFree() {
	var keep []*segment
	for _, s := range l.free {
		if s.bytes == l.opts.SegmentBytes && len(keep) < l.opts.FreeSegments {
			keep = append(keep, s)
		} else {
			l.doomed = append(l.doomed, s)
		}
	}
	l.free = keep
}

// removeDoomed removes files. One that cannot be removed does no harm: it is
// found free when the log is opened again. A poisoned log removes nothing: what
// its headers say on the disk is not known.
func (l *Log) removeDoomed() {
	if l.poison.get() != nil {
		return
	}
	l.mu.Lock()
	doomed := l.doomed
	l.doomed = nil
	l.mu.Unlock()
	for _, s := range doomed {
		err := errors.Join(s.file.Close(), l.fs.Remove(LabelDir, s.file.Name()))
		if err != nil {
			l.opts.Logger.Warn("raft log: removing a segment that is not needed", "error", err)
		}
	}
}
