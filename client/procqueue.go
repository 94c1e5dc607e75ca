package client

import (
	"context"
	"sync"
	"time"
)

// limits say how much of a queue may be held that is not done.
type limits struct {
	messages int
	bytes    int64
	span     int64 // of offsets
}

// task is a message that was pulled and waits for the listener, is with it, or is done.
type task struct {
	msg     *MessageExt // nil once done
	offset  int64
	size    int64
	running bool
	started time.Time // when running began
}

// processQueue holds what was pulled of one queue and is not done.
//
// Invariants:
//  1. tasks are in rising order of offset. The first, if there is one, is not done.
//  2. commitOffset is the first task's offset, or next if there is none: every message below it is done, or was not wanted.
//  3. Each task in tasks that is neither running nor done is in waiting exactly once, or in the hands of a timer that will put it there.
//  4. Once dropped, no task is handed out, and what becomes of those that were changes nothing.
type processQueue struct {
	mq     MessageQueue
	limits limits
	ctx    context.Context // ends when the queue is dropped
	cancel context.CancelFunc
	room   chan struct{} // has one when room may have been made
	commit chan struct{} // has one while a commit is under way: an older one must not overtake a newer
	listed bool          // in the dispatcher's list; under its lock
	order  *inOrder      // of an ordered consumer

	mu        sync.Mutex
	tasks     []*task
	waiting   []*task
	count     int   // tasks that are not done
	bytes     int64 // their size
	next      int64 // where to pull
	committed int64 // the offset that the broker has; -1: none
	dropped   bool
	pulled    time.Time
	consumed  time.Time
}

func newProcessQueue(ctx context.Context, mq MessageQueue, start, committed int64, l limits) *processQueue {
	q := &processQueue{mq: mq, limits: l, next: start, committed: committed, room: make(chan struct{}, 1), commit: make(chan struct{}, 1)}
	q.ctx, q.cancel = context.WithCancel(ctx)
	return q
}

// drop ends the queue.
func (q *processQueue) drop() {
	q.cancel()
	q.mu.Lock()
	q.dropped = true
	q.waiting = nil
	q.mu.Unlock()
}

// put takes in what was pulled; next is where to go on. false: the queue was dropped.
func (q *processQueue) put(msgs []*MessageExt, next int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dropped {
		return false
	}
	for _, m := range msgs {
		if m.QueueOffset < q.next { // what was seen already
			continue
		}
		t := &task{msg: m, offset: m.QueueOffset, size: int64(len(m.Body))}
		q.tasks = append(q.tasks, t)
		q.waiting = append(q.waiting, t)
		q.count++
		q.bytes += t.size
		q.next = m.QueueOffset + 1
	}
	q.next = max(q.next, next)
	q.pulled = time.Now()
	return true
}

// full reports whether so much is held that nothing more may be pulled.
func (q *processQueue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count >= q.limits.messages || q.bytes >= q.limits.bytes || len(q.tasks) > 0 && q.next-q.tasks[0].offset > q.limits.span
}

// awaitRoom waits until more may be pulled; false: the queue was dropped.
func (q *processQueue) awaitRoom() bool {
	for q.full() {
		select {
		case <-q.room:
		case <-q.ctx.Done():
			return false
		}
	}
	return q.ctx.Err() == nil
}

// take hands out up to n messages of one topic; more reports whether there are others.
func (q *processQueue) take(n int) (batch []*task, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for len(q.waiting) > 0 && len(batch) < n {
		t := q.waiting[0]
		if len(batch) > 0 && t.msg.Topic != batch[0].msg.Topic {
			break
		}
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		t.running, t.started = true, now
		batch = append(batch, t)
	}
	q.consumed = now
	return batch, len(q.waiting) > 0
}

// done notes that a task is finished for good. false: it was finished before, or the queue was dropped.
func (q *processQueue) done(t *task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dropped || t.msg == nil {
		return false
	}
	t.msg, t.running = nil, false
	q.count--
	q.bytes -= t.size
	i := 0
	for i < len(q.tasks) && q.tasks[i].msg == nil {
		q.tasks[i] = nil
		i++
	}
	q.tasks = q.tasks[i:]
	select {
	case q.room <- struct{}{}:
	default:
	}
	return true
}

// pending reports whether a task is not finished yet.
func (q *processQueue) pending(t *task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.dropped && t.msg != nil
}

// redo makes a task wait again that could be neither finished nor sent back.
func (q *processQueue) redo(t *task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dropped || t.msg == nil {
		return false
	}
	t.running = false
	again := *t.msg // the listener may have kept the other
	again.ReconsumeTimes++
	t.msg = &again
	q.waiting = append(q.waiting, t)
	return true
}

// overdue returns the task that holds up the queue's offset if it has been running since before then. It does not do so again for as long.
func (q *processQueue) overdue(then time.Time) (t *task, m *MessageExt) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dropped || len(q.tasks) == 0 || !q.tasks[0].running || !q.tasks[0].started.Before(then) {
		return nil, nil
	}
	q.tasks[0].started = time.Now()
	return q.tasks[0], q.tasks[0].msg
}

// commitOffset returns the offset up to which everything is done.
func (q *processQueue) commitOffset() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.commitOffsetLocked()
}

func (q *processQueue) commitOffsetLocked() int64 {
	if len(q.tasks) > 0 {
		return q.tasks[0].offset
	}
	return q.next
}
