package broker

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	retentionPeriod = 10 * time.Second
	// trimAtOnce bounds the segments that go in one pass.
	trimAtOnce = 10
)

// retention decides what of the CommitLog may go. Only the leader decides, and
// the trim is a command, so that all replicas begin at the same offset.
type retention struct {
	b       *Broker
	keep    time.Duration // fileReservedTime
	looked  time.Time
	trimmed time.Time
	usage   float64
	// full refuses writes: set above diskSpaceWarningLevelRatio, cleared at
	// diskSpaceCleanForciblyRatio.
	full  atomic.Bool
	units []storage.Unit // buffer
}

func (r *retention) run() {
	tick := time.NewTicker(leadingTick)
	defer tick.Stop()
	for {
		r.watchDisk()
		if r.b.leads() {
			r.trim(r.b.ctx)
		}
		select {
		case <-tick.C:
		case <-r.b.ctx.Done():
			return
		}
	}
}

// watchDisk looks at how full the disk is.
func (r *retention) watchDisk() {
	if time.Since(r.looked) < retentionPeriod {
		return
	}
	r.looked = time.Now()
	usage, err := r.b.group.DiskUsage()
	if err != nil {
		r.b.logger.Error("how full the disk is can't be told", "error", err)
		return
	}
	r.usage = usage * 100
	switch full := r.full.Load(); {
	case !full && r.usage > float64(r.b.cfg.DiskSpaceWarningLevel):
		r.full.Store(true)
		r.b.logger.Error("the disk is full: writes are refused, reads go on", "used %", int(r.usage), "diskSpaceWarningLevelRatio", r.b.cfg.DiskSpaceWarningLevel)
	case full && r.usage <= float64(r.b.cfg.DiskSpaceCleanForcibly):
		r.full.Store(false)
		r.b.logger.Info("the disk has room again: writes are taken", "used %", int(r.usage))
	}
}

// refuses is nil, or says that the disk is too full for messages.
func (r *retention) refuses() error {
	if r.full.Load() {
		return errDiskWarning
	}
	return nil
}

var errDiskWarning = errors.New("the disk is fuller than diskSpaceWarningLevelRatio")

// trim forgets segments that have been kept for fileReservedTime, in the hours
// of deleteWhen or if the disk is fuller than diskMaxUsedSpaceRatio; and the
// oldest one, however young, if it is fuller than diskSpaceCleanForciblyRatio.
func (r *retention) trim(ctx context.Context) {
	if time.Since(r.trimmed) < retentionPeriod {
		return
	}
	r.trimmed = time.Now()
	force := r.usage > float64(r.b.cfg.DiskSpaceCleanForcibly)
	hour := strconv.Itoa(time.Now().Hour())
	due := slices.ContainsFunc(strings.Split(r.b.cfg.DeleteWhen, ";"), func(h string) bool { return strings.TrimLeft(h, "0") == strings.TrimLeft(hour, "0") })
	if !due && !force && r.usage <= float64(r.b.cfg.DiskMaxUsedSpaceRatio) {
		return
	}
	store := r.b.group.Store()
	size := r.b.group.State().Configuration().SegmentSize
	if size <= 0 {
		return
	}
	for n := 0; n < trimAtOnce; n++ {
		to := store.Min() + size
		if to >= store.End() || to > r.pending() {
			return
		}
		// What follows the segment was stored after all that is in it.
		at, err := r.b.storeTime(to)
		if err != nil {
			r.b.logger.Warn("the age of a segment can't be told", "segment", to-size, "error", err)
			return
		}
		expired := r.b.group.LogTime()-at > r.keep.Milliseconds()
		if !expired && !(force && n == 0) {
			return
		}
		if !r.release(ctx, to, expired) || !r.propose(ctx, to, force) {
			return
		}
	}
}

// release has nothing wait any more below a physical offset, the end of the first
// segment: what does is appended again. It says whether that was done, or could be.
func (r *retention) release(ctx context.Context, to int64, expired bool) bool {
	if !expired {
		// To make room, it has to be more than it takes.
		owed, err := r.owed(to)
		if err != nil || owed > r.b.group.State().Configuration().SegmentSize/2 {
			r.b.logger.Warn("a segment is not trimmed to make room: most of it waits to be delivered", "below", to, "bytes", owed, "error", err)
			return false
		}
	}
	clear, err := r.roll(ctx, to)
	if err != nil && ctx.Err() == nil {
		r.b.logger.Warn("what is still to be delivered can't be appended again: nothing is trimmed", "below", to, "error", err)
	}
	return clear && err == nil
}

// propose trims the first segment.
func (r *retention) propose(ctx context.Context, to int64, forced bool) bool {
	r.b.logger.Info("trimming the CommitLog", "from", r.b.group.Store().Min(), "to", to, "disk used %", int(r.usage), "forced", forced)
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := r.b.group.Trim(ctx, to); err != nil {
		r.b.logger.Warn("the CommitLog was not trimmed", "error", err)
		return false
	}
	return true
}

// pending is the physical offset of the first half message that was not ended, or
// the end of the CommitLog.
func (r *retention) pending() int64 {
	store, end := r.b.group.Store(), r.b.group.Store().End()
	w, ok := r.b.waitingAt(remoting.TopicHalf, 0)
	q := store.Queue(w.Queue)
	if !ok || q == nil {
		return end
	}
	first, err := q.Min()
	if err == nil {
		if first = r.b.group.State().Unsettled(w.Queue, first); first >= q.Max() {
			return end
		}
		var units []storage.Unit
		if units, err = q.Units(first, 1, nil); err == nil {
			return units[0].Phys
		}
	}
	r.b.logger.Warn("which half messages are still to be ended can't be told: nothing is trimmed", "error", err)
	return 0
}
