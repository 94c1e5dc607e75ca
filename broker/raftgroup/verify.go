package raftgroup

import (
	"context"
	"sync"
	"time"
)

// verifyTimeout bounds one question whether we still lead. raft gives the answer
// within its lease, or never (issue 498).
const verifyTimeout = 3 * time.Second

// verifyPause is the time between two tries.
const verifyPause = time.Millisecond

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
	select {
	case <-v.stop:
		v.mu.Unlock()
		return ErrClosed
	default:
	}
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
		return context.Cause(ctx)
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
		r.err = v.ask()
		close(r.answered)
	}
}

func (v *verifier) close() {
	v.mu.Lock()
	close(v.stop)
	v.mu.Unlock()
	v.done.Wait()
}

// verify asks the voters whether they still follow this replica.
func (g *Group) verify() error {
	ctx, cancel := context.WithTimeout(g.ctx, verifyTimeout)
	defer cancel()
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(stop) })()
	l := g.life.Load()
	term, begin := l.raft.CurrentTerm(), time.Now()
	for ctx.Err() == nil {
		// raft sends each peer a heartbeat; what it makes of the answers is not
		// enough, see contacts.
		if err := await(l.raft.VerifyLeader(), stop); err != nil {
			if ctx.Err() != nil {
				break
			}
			return outcome(err)
		}
		servers, err := g.servers()
		if err != nil {
			return err
		}
		if g.cfg.guard.noContacts || l.trans.contacts.quorum(servers, g.id, term, begin) {
			return nil
		}
		// raft counts the answers of those that have no vote, too: while only they
		// answer, it says yes as fast as it is asked.
		select {
		case <-time.After(verifyPause):
		case <-ctx.Done():
		}
	}
	return ErrNotLeader
}
