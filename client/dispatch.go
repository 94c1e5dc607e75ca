package client

import (
	"context"
	"sync"
)

// dispatcher hands the queues that have messages waiting to the workers, in turn.
type dispatcher struct {
	mu     sync.Mutex
	wake   sync.Cond
	ready  []*processQueue // each at most once
	closed bool
}

func newDispatcher() *dispatcher {
	d := &dispatcher{}
	d.wake.L = &d.mu
	return d
}

// add says that q has messages waiting.
func (d *dispatcher) add(q *processQueue) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || q.listed {
		return
	}
	q.listed = true
	d.ready = append(d.ready, q)
	d.wake.Signal()
}

// next waits for a queue; nil: closed, or ctx has ended and there is none.
func (d *dispatcher) next(ctx context.Context) *processQueue {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ready) == 0 && ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() {
			d.mu.Lock() // so that it is not just before its wait
			defer d.mu.Unlock()
			d.wake.Broadcast()
		})()
	}
	for !d.closed && len(d.ready) == 0 && ctx.Err() == nil {
		d.wake.Wait()
	}
	// One that was woken takes what there is, also if ctx has ended meanwhile: nobody else was told.
	if d.closed || len(d.ready) == 0 {
		return nil
	}
	q := d.ready[0]
	d.ready[0] = nil
	d.ready = d.ready[1:]
	q.listed = false
	return q
}

func (d *dispatcher) close() {
	d.mu.Lock()
	d.closed = true
	d.ready = nil
	d.mu.Unlock()
	d.wake.Broadcast()
}
