package raftgroup

import (
	"context"
	"sync"
	"time"
)

// verifyTimeout bounds one question whether we still lead. raft gives the answer
// within its lease, or never (issue 498).
const verifyTimeout = 3 * time.Second

// verifier makes sure that this replica still leads, once for all who asked
// while the last question was on its way.
type verifier struct {
	ask func() error

	mu      sync.Mutex
	next    *round // those who wait for a question that was not asked yet
	running bool
	stop    chan struct{}
	done    sync.WaitGroup
}

type round struct {
	answered chan struct{}
	err      error
}

func newVerifier(ask func() error) *verifier {
	return &verifier{ask: ask, stop: make(chan struct{})}
}

// verify returns nil if a quorum still followed this replica after the call.
func (v *verifier) verify(ctx context.Context) error {
	v.mu.Lock()
	if v.next == nil {
		v.next = &round{answered: make(chan struct{})}
	}
	r := v.next
	if !v.running {
		v.running = true
		v.done.Go(v.run)
	}
	v.mu.Unlock()
	select {
	case <-r.answered:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	case <-v.stop:
		return ErrClosed
	}
}

func (v *verifier) run() {
	for {
		v.mu.Lock()
		r := v.next
		v.next = nil
		if r == nil {
			v.running = false
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
		r.err = v.once()
		close(r.answered)
	}
}

func (v *verifier) once() error {
	answer := make(chan error, 1)
	go func() { answer <- v.ask() }()
	t := time.NewTimer(verifyTimeout)
	defer t.Stop()
	select {
	case err := <-answer:
		if err != nil {
			return outcome(err)
		}
		return nil
	case <-t.C:
		return ErrNotLeader
	case <-v.stop:
		return ErrClosed
	}
}

func (v *verifier) close() {
	close(v.stop)
	v.done.Wait()
}
