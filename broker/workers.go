package broker

import (
	"context"
	"sync"

	"github.com/raftmq/raftmq/remoting"
)

// workers runs what may block, up to a number at a time.
type workers struct {
	ctx    context.Context
	cancel context.CancelFunc
	places chan struct{}
	mu     sync.Mutex
	closed bool
	group  sync.WaitGroup
}

func newWorkers(n int) *workers {
	ctx, cancel := context.WithCancel(context.Background())
	return &workers{ctx: ctx, cancel: cancel, places: make(chan struct{}, n)}
}

// try runs f on a goroutine of its own, or says that there is no place.
func (w *workers) try(f func(context.Context)) bool {
	select {
	case w.places <- struct{}{}:
	default:
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		<-w.places
		return false
	}
	w.group.Go(func() {
		defer func() { <-w.places }()
		f(w.ctx)
	})
	return true
}

// close ends what is under way, and waits for it.
func (w *workers) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	w.group.Wait()
}

var errBusy = remoting.Errorf(remoting.SystemBusy, "[OVERLOAD] too many requests are under way, try again later (maxBlockingRequests)")
