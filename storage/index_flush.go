package storage

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
)

// flushLoop writes frozen tables as runs, oldest first. One that fails is tried
// again with a new file, for ever: while it waits, its keys are still found.
func (x *Index) flushLoop() {
	pause := indexRetryMin
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		for len(x.frozen) == 0 && !x.closed {
			x.cond.Wait()
		}
		if x.closed {
			return
		}
		t := x.frozen[0]
		number := x.takeNumber()
		x.mu.Unlock()
		select {
		case <-x.retry: // this is the attempt that was asked for
		default:
		}
		r, err := x.writeTable(indexFlushLabel, t, number)
		if err != nil {
			x.log.Error("writing the index failed, it is tried again", "from", t.begin, "to", t.end, "in", pause, "error", err)
		}
		x.mu.Lock()
		x.flushErr = err
		if err != nil {
			x.failures++
			x.cond.Broadcast()
			x.mu.Unlock()
			pause = x.pause(pause, x.retry)
			x.mu.Lock()
			continue
		}
		pause = indexRetryMin
		x.frozen = slices.Delete(x.frozen, 0, 1)
		x.insert(r)
		x.drop(func(r *indexRun) bool { return r.end <= x.min }) // trimmed meanwhile
		x.stats.Flushes++
		x.cond.Broadcast()
	}
}

// pause waits for a time, less if woken or closed, and returns the next one.
func (x *Index) pause(d time.Duration, wake <-chan struct{}) time.Duration {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-x.closing:
	}
	return min(2*d, indexRetryMax)
}

// takeNumber gives a new run its number.
func (x *Index) takeNumber() uint64 {
	x.number++
	return x.number
}

// writeTable writes a frozen table as a run. Holds no lock.
func (x *Index) writeTable(label disk.Label, t *indexTable, number uint64) (*indexRun, error) {
	w, err := newIndexWriter(x.o.FS, label, x.o.Dir, number)
	if err != nil {
		return nil, err
	}
	prev := indexEntry{phys: -1}
	for _, e := range t.sorted() {
		if e.hash == prev.hash && e.phys == prev.phys {
			continue // a key that a record has twice
		}
		if err = w.add(e); err != nil {
			break
		}
		prev = e
	}
	if err == nil {
		var r *indexRun
		if r, err = w.finish(x.o.Identity, t.indexSpan); err == nil {
			return r, nil
		}
	}
	return nil, errors.Join(err, w.abort())
}

// Sync makes everything that was appended below the physical offset upTo
// durable, and returns the position up to which it is: it may be less, with an
// error, if the disk fails, ctx ends or the index is closed, and more if more
// was. What is Missing stays missing. A failure here is no reason not to take a
// snapshot: what a crash then costs will be missing, and filled in. From any
// goroutine; it does not hold up Append.
func (x *Index) Sync(ctx context.Context, upTo int64) (int64, error) {
	stop := context.AfterFunc(ctx, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.cond.Broadcast()
	})
	defer stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	upTo = min(upTo, x.next)
	failures := x.failures
	poke(x.retry)
	for {
		durable := x.durable()
		switch {
		case durable >= upTo:
			x.synced = max(x.synced, upTo)
			poke(x.work)
			return durable, nil
		case x.closed:
			return durable, ErrIndexClosed
		case ctx.Err() != nil:
			return durable, ctx.Err()
		case x.failures != failures:
			return durable, x.flushErr
		}
		if x.active != nil && x.active.begin < upTo && len(x.frozen) < indexTables-1 {
			x.freeze()
		}
		x.cond.Wait()
	}
}

// durable is the position up to which nothing is only in memory.
func (x *Index) durable() int64 {
	if tables := x.tables(); len(tables) > 0 {
		return tables[0].begin
	}
	return x.next
}
