package raftlog

import "time"

// flush syncs the tail every Options.FlushInterval, in AsyncFlush.
func (l *Log) flush() {
	tick := time.NewTicker(l.opts.FlushInterval)
	defer tick.Stop()
	for {
		select {
		case <-l.quit:
			return
		case <-l.poison.closed:
			return
		case <-tick.C:
		}
		if err := l.syncTail(); err != nil {
			l.opts.Logger.Error("raft log: syncing entries", "error", err)
		}
	}
}

// Sync returns when every entry stored before the call is on the disk.
func (l *Log) Sync() error { return l.syncTail() }

// syncTail syncs the entries of the tail that are not known to be on the disk.
// What is published while it runs may or may not be among them. A failure has
// poisoned the log.
//
// A tail without entries adds nothing: the log ends, and is synced, where the
// segment before it ends. The place where a segment begins is never called
// synced, because opening will not find the log's end there.
func (l *Log) syncTail() error {
	l.mu.RLock()
	tail, deletes := l.tail(), l.deletes
	to := tail.at(tail.end)
	behind := len(tail.entries) > 0 && l.synced.less(to)
	l.mu.RUnlock()
	if !behind {
		return nil
	}
	if err := l.sync(tail.file); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// A truncation may have put something else where we synced.
	if l.deletes == deletes && l.synced.less(to) {
		l.synced = to
	}
	return nil
}
