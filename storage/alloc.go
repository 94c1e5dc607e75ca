package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/raftmq/raftmq/storage/disk"
)

// allocator makes the next segment ahead of its use: allocated, its name and
// size synced, mapped. So Write never meets a full disk, and a crash cannot take
// away the room for what will be replayed.
type allocator struct {
	store *Store

	mu    sync.Mutex
	cond  *sync.Cond
	want  int64    // base of the segment to make; -1 if none
	ready *segment // that segment
	err   error    // why it could not be made
	again bool     // after err: try once more
	need  bool     // Write waits for it: never mind the reserve
	busy  bool     // one is being made

	failing bool // the last one could not be made, and the log says so
}

func newAllocator(s *Store) *allocator {
	a := &allocator{store: s, want: -1}
	a.cond = sync.NewCond(&a.mu)
	s.wg.Go(a.run)
	return a
}

func (a *allocator) wake() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cond.Broadcast()
}

func (a *allocator) run() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		for !a.store.closed.Load() && (a.want < 0 || a.ready != nil || a.err != nil && !a.again) {
			a.cond.Wait()
		}
		if a.store.closed.Load() {
			return
		}
		base := a.want
		need := a.need
		a.again, a.need, a.busy = false, false, true
		a.mu.Unlock()
		err := a.store.reserve(need)
		var g *segment
		if err == nil {
			g, err = a.store.makeSegment(a.store.state.Load().epoch, base)
		}
		a.mu.Lock()
		a.busy = false
		if a.want != base {
			a.discard(g)
			a.cond.Broadcast()
			continue
		}
		switch {
		case err != nil && !a.failing:
			a.store.log.Error("the next segment cannot be made: nothing is accepted until it can", "segment", base, "error", err)
		case err == nil && a.failing:
			a.store.log.Info("the next segment was made", "segment", base)
		}
		a.ready, a.err, a.failing = g, err, err != nil
		a.cond.Broadcast()
	}
}

// discard lets a segment go whose file stays.
func (a *allocator) discard(g *segment) {
	if g == nil {
		return
	}
	if g.w != nil {
		if err := g.w.Close(); err != nil {
			a.store.log.Error("a file cannot be closed", "error", err)
		}
		g.w = nil
	}
	g.retire(false)
}

// prepare asks for the segment at base.
func (a *allocator) prepare(base int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.want == base {
		return
	}
	a.discard(a.ready)
	a.want, a.ready, a.err, a.again = base, nil, nil, false
	a.cond.Broadcast()
}

// take waits for the segment at base and hands it over. If it could not be made,
// or not without the reserve, it has it tried once more.
func (a *allocator) take(base int64) (*segment, error) {
	a.prepare(base)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ready == nil {
		for a.busy {
			a.cond.Wait()
		}
		a.err, a.need = nil, true
		a.cond.Broadcast()
	}
	for a.ready == nil && a.err == nil {
		if a.store.closed.Load() {
			return nil, ErrClosed
		}
		a.cond.Wait()
	}
	if a.err != nil {
		return nil, a.err
	}
	g := a.ready
	a.want, a.ready = -1, nil
	return g, nil
}

// quiesce drops what was prepared and waits until nothing is being made.
func (a *allocator) quiesce() {
	a.prepare(-1)
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.busy {
		a.cond.Wait()
	}
}

// failed is why there is no next segment, if it cannot be made. It has it tried
// once more.
func (a *allocator) failed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		a.again = true
		a.cond.Broadcast()
	}
	return a.err
}

// drain hands out the segment that nobody took, for Close.
func (a *allocator) drain() []*segment {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.ready
	a.want, a.ready = -1, nil
	if g == nil {
		return nil
	}
	return []*segment{g}
}

// reserve says whether a segment can be made without taking what is kept for
// queues, index and snapshots. If it must be made, it can.
func (s *Store) reserve(must bool) error {
	usage, err := s.fs.Usage(s.dir)
	if need := s.opts.SegmentSize + s.opts.Reserve; err == nil && usage.Free < uint64(need) && !must {
		err = fmt.Errorf("%w: %d bytes are free at %s, a segment and the reserve are %d", ErrNoSpace, usage.Free, s.dir, need)
	}
	return err
}

// makeSegment makes the files of a segment that is about to be written. What
// they hold, if they are there, is of no account.
func (s *Store) makeSegment(epoch uint64, base int64) (_ *segment, err error) {
	g := newSegment(s, epoch, base)
	if g.w, err = s.allocateFile(LabelAllocate, segmentPath(s.dir, base), g.size); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.w.Close())
		}
	}()
	f, err := s.allocateFile(LabelAllocate, sumsPath(s.dir, base), g.size/blockSize*sumSize)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	for _, d := range []string{commitLogDir, sumsDir} {
		if err := s.fs.SyncDir(LabelAllocate, s.dir+"/"+d); err != nil {
			return nil, err
		}
	}
	g.w = disk.WithLabel(g.w, LabelCommitLog)
	g.keepSums()
	return g, g.mapFile(g.w)
}

// allocateFile opens a file, makes it size bytes long with room on the disk for
// them, and syncs that. If there is no room it leaves no file it has made: part
// of one would take the room from others.
func (s *Store) allocateFile(label disk.Label, name string, size int64) (disk.File, error) {
	info, statErr := s.fs.Stat(label, name)
	f, err := s.fs.OpenFile(label, name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err = f.Allocate(0, size); err == nil && (statErr != nil || info.Size() < size) {
		err = f.Sync()
	}
	if err == nil {
		return f, nil
	}
	if isNoSpace(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	err = errors.Join(err, f.Close())
	if errors.Is(statErr, fs.ErrNotExist) {
		err = errors.Join(err, s.fs.Remove(label, name))
	}
	return nil, err
}

// Room says whether entries can be accepted: nil, or ErrNoSpace if the next
// segment could not be made or less than Options.Reserve is free, or why the
// store takes nothing at all (Err). It is cheap, and is to be asked before
// entries are put into the raft log: once they are there, Write must succeed.
func (s *Store) Room() error {
	if err := s.Err(); err != nil {
		return err
	}
	if err := s.alloc.failed(); err != nil {
		poke(s.house.kick) // it may have something to remove
		return fmt.Errorf("storage: the next segment: %w", err)
	}
	if s.noRoom.Load() {
		s.house.flush()
		return fmt.Errorf("%w: a queue's file cannot be written", ErrNoSpace)
	}
	return s.free(s.opts.Reserve)
}

// RoomForState is Room for entries that store no messages and must go through
// when there is no room for others: a leader's first one, and a trim. They need
// no segment, and may use half the reserve.
func (s *Store) RoomForState() error { return s.free(s.opts.Reserve / 2) }

// free says whether the store is well and the disk has that many bytes.
func (s *Store) free(reserve int64) error {
	if err := s.Err(); err != nil {
		return err
	}
	usage, err := s.fs.Usage(s.dir)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	if usage.Free < uint64(reserve) {
		return fmt.Errorf("%w: %d bytes are free at %s, %d are kept in reserve", ErrNoSpace, usage.Free, s.dir, reserve)
	}
	return nil
}
