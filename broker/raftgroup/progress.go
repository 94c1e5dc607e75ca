package raftgroup

import (
	"context"
	"sync"
)

// progress is how far a replica has applied, and who waits for more.
type progress struct {
	mu      sync.Mutex
	index   uint64
	changed chan struct{} // closed at the next change
	repair  chan struct{} // has something when the store may want ranges
}

func (p *progress) init() {
	p.changed = make(chan struct{})
	p.repair = make(chan struct{}, 1)
}

// set notes that everything up to an index is applied. It never falls.
func (p *progress) set(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if index <= p.index {
		return
	}
	p.index = index
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *progress) get() (index uint64, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.index, p.changed
}

// wait waits until an index is applied.
func (p *progress) wait(ctx context.Context, index uint64) error {
	for {
		at, changed := p.get()
		if at >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *progress) signal() {
	select {
	case p.repair <- struct{}{}:
	default:
	}
}
