package broker

import (
	"context"
	"sync"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
)

const (
	// offsetDelay is how long offsets that nobody waits for gather before they
	// are proposed together.
	offsetDelay = 100 * time.Millisecond
	// maxOffsets bounds what is gathered, offsetBytes what one command of it has.
	maxOffsets  = 20_000
	offsetBytes = 128 << 10
)

// offsetWriter turns commits of consumer offsets into few raft entries: of many
// for one queue only the last counts.
//
//	O1  What is pending was taken in one term, and is proposed in it or not at
//	    all: between two terms of this replica another one may have committed
//	    higher offsets. (S6)
//	O2  Whoever waits is told once, when all that was taken before is committed,
//	    or why it is not known to be.
type offsetWriter struct {
	b    *Broker
	more chan struct{}

	mu      sync.Mutex
	term    uint64
	pending map[offsetKey]int64
	order   []offsetKey
	waiting []func(error)
	writing bool
}

type offsetKey struct {
	group, topic string
	queue        int32
}

func newOffsetWriter(b *Broker) *offsetWriter {
	return &offsetWriter{b: b, more: make(chan struct{}, 1), pending: map[offsetKey]int64{}}
}

// add takes an offset. done, if not nil, is told when it is committed.
func (w *offsetWriter) add(group, topic string, queue int32, offset int64, done func(error)) {
	if err := w.take(offsetKey{group, topic, queue}, offset, done); err != nil && done != nil {
		done(err)
	}
	// One-way, it is as good as lost on the way: the client commits again in 5 s.
}

func (w *offsetWriter) take(k offsetKey, offset int64, done func(error)) error {
	lead := w.b.group.Leadership()
	if !lead.Self {
		return raftgroup.ErrNotLeader
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if lead.Term != w.term {
		// The writer finds what is left of the term before outdated, too.
		w.pending, w.order, w.term = map[offsetKey]int64{}, nil, lead.Term
		for _, done := range w.waiting {
			done(raftgroup.ErrNotLeader)
		}
		w.waiting = nil
	}
	if _, ok := w.pending[k]; !ok {
		if len(w.order) >= maxOffsets {
			return raftgroup.ErrBusy
		}
		w.order = append(w.order, k)
	}
	w.pending[k] = offset
	if done != nil {
		w.waiting = append(w.waiting, done)
	}
	poke(w.more)
	return nil
}

// flushed waits until what was added before the call is committed.
func (w *offsetWriter) flushed(ctx context.Context) error {
	w.mu.Lock()
	if len(w.order) == 0 && !w.writing {
		w.mu.Unlock()
		return nil
	}
	// What is being written now is done before the next write begins.
	written := make(chan error, 1)
	w.waiting = append(w.waiting, func(err error) { written <- err })
	w.mu.Unlock()
	poke(w.more)
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *offsetWriter) run() {
	for {
		select {
		case <-w.more:
		case <-w.b.ctx.Done():
			ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
			w.write(ctx) // so that the last waiters are told, one thing or the other
			cancel()
			return
		}
		w.gather()
		ctx, cancel := context.WithTimeout(w.b.ctx, requestTimeout)
		w.write(ctx)
		cancel()
	}
}

// gather waits for more, but not if somebody waits for what is there.
func (w *offsetWriter) gather() {
	t := time.NewTimer(offsetDelay)
	defer t.Stop()
	for !w.urgent() {
		select {
		case <-t.C:
			return
		case <-w.more:
		case <-w.b.ctx.Done():
			return
		}
	}
}

func (w *offsetWriter) urgent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting) > 0
}

func (w *offsetWriter) write(ctx context.Context) {
	w.mu.Lock()
	var offsets []fsm.Offset
	for _, k := range w.order {
		offsets = append(offsets, fsm.Offset{Group: k.group, Topic: k.topic, Queue: k.queue, Offset: w.pending[k]})
	}
	waiting, term := w.waiting, w.term
	w.pending, w.order, w.waiting = map[offsetKey]int64{}, nil, nil
	w.writing = true
	w.mu.Unlock()
	err := w.propose(ctx, offsets, term)
	if err != nil && len(waiting) == 0 {
		// Nobody was promised anything: the clients commit again in 5 s.
		w.b.logger.Debug("consumer offsets were not committed", "count", len(offsets), "error", err)
	}
	w.mu.Lock()
	w.writing = false
	w.mu.Unlock()
	for _, done := range waiting {
		done(err)
	}
}

// propose commits offsets, by as many commands as it takes.
func (w *offsetWriter) propose(ctx context.Context, offsets []fsm.Offset, term uint64) error {
	for len(offsets) > 0 {
		if lead := w.b.group.Leadership(); !lead.Self || lead.Term != term {
			return raftgroup.ErrNotLeader
		}
		n := offsetsAtOnce(offsets)
		if _, err := w.b.group.Propose(ctx, fsm.CommitOffsets(offsets[:n])); err != nil {
			return err
		}
		offsets = offsets[n:]
	}
	return nil
}

// offsetsAtOnce is how many of some offsets one command takes.
func offsetsAtOnce(offsets []fsm.Offset) int {
	n, size := 0, 0
	for n < len(offsets) && size < offsetBytes {
		size += len(offsets[n].Group) + len(offsets[n].Topic) + 32
		n++
	}
	return n
}
