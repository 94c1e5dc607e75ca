package broker

import (
	"context"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

const (
	// maxWaiting bounds the requests that wait for a worker, and maxWaitingBytes
	// what they and those being worked on have together.
	maxWaiting      = 10_000
	maxWaitingBytes = 64 << 20
	// requestSize is what a request takes beside its bytes, about, and fieldSize what
	// a field of its header does.
	requestSize = 1 << 10
	fieldSize   = 32
)

// workers runs what may block: a number at a time, the rest waits its turn. There
// are goroutines only while there is work.
type workers struct {
	ctx    context.Context
	cancel context.CancelFunc
	limit  int // goroutines
	// patience is how long a job may wait for its turn and run.
	patience time.Duration

	mu      sync.Mutex
	waiting []job
	running int
	bytes   int
	closed  bool
	group   sync.WaitGroup
}

type job struct {
	size int
	run  func(context.Context)
}

func newWorkers(limit int, patience time.Duration) *workers {
	ctx, cancel := context.WithCancel(context.Background())
	return &workers{ctx: ctx, cancel: cancel, limit: limit, patience: patience}
}

// requestBytes is what a request keeps in memory, about.
func requestBytes(req *remoting.Command) int {
	size := len(req.Body) + len(req.Remark)
	for _, f := range req.Ext {
		size += fieldSize + len(f.Key) + len(f.Value)
	}
	return size
}

// try has run called, or says that too much is waiting already. size is what the
// job keeps in memory.
func (w *workers) try(size int, run func(context.Context)) bool {
	size += requestSize
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.waiting) >= maxWaiting || w.bytes+size > maxWaitingBytes && w.bytes > 0 {
		return false
	}
	w.bytes += size
	w.waiting = append(w.waiting, job{size, run})
	if w.running < w.limit {
		w.running++
		w.group.Go(w.work)
	}
	return true
}

// work runs what waits until nothing does.
func (w *workers) work() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.waiting) > 0 {
		j := w.waiting[0]
		w.waiting[0] = job{}
		if w.waiting = w.waiting[1:]; len(w.waiting) == 0 {
			w.waiting = nil
		}
		w.mu.Unlock()
		j.run(w.ctx)
		w.mu.Lock()
		w.bytes -= j.size
	}
	w.running--
}

// close ends what is under way, has what waits find that out, and waits for both.
func (w *workers) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	w.group.Wait()
}

var errBusy = remoting.Errorf(remoting.SystemBusy, "[OVERLOAD] too many requests are under way, try again later (maxBlockingRequests)")
