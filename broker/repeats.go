package broker

import (
	"sync"
	"time"

	"github.com/raftmq/raftmq/fsm"
)

const (
	// repeatSpan is for how long after a send began the same message on the same
	// connection counts as sent again on purpose: less than the 3 s that stock
	// clients wait for an answer before they repeat by themselves, if they are not
	// told otherwise.
	repeatSpan = 2400 * time.Millisecond
	// promptly is within what time it must have been answered OK for that: a
	// client that waits less may have stopped waiting.
	promptly = time.Second
	// maxRecent bounds the OKs that are remembered per span. What is beyond it
	// can't be repeated on purpose.
	maxRecent = 1 << 18
)

// repeats tells a message that is sent twice on purpose from one that a client
// repeats for want of an answer: both carry one UNIQ_KEY, as stock clients make
// one only for a Message that has none. A client that repeats by itself has got
// no answer in time, and often has another connection; so a send is taken for
// deliberate if it comes on the connection on which its predecessor was answered
// OK, promptly, a moment ago, and does not say that it is none (extRepeat). All
// else is left to the window of sends.
type repeats struct {
	mu sync.Mutex
	// recent are the sends answered OK in this span, older those of the one
	// before, with the time they began since epoch: the collector need not look
	// into them.
	recent, older map[sentKey]time.Duration
	since, epoch  time.Time
}

// sentKey is a send on a connection.
type sentKey struct {
	from origin
	send fsm.Key
}

// wrote notes that a send, begun at a time, is answered OK now.
func (r *repeats) wrote(k sentKey, begun, now time.Time) {
	if now.Sub(begun) > promptly {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	if len(r.recent) < maxRecent {
		r.recent[k] = begun.Sub(r.epoch)
	}
}

// deliberate says whether a send that comes now was answered OK a moment ago.
func (r *repeats) deliberate(k sentKey, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	at, ok := r.recent[k]
	if !ok {
		at, ok = r.older[k]
	}
	return ok && now.Sub(r.epoch)-at <= repeatSpan
}

// turn forgets what is too old. The lock is held.
func (r *repeats) turn(now time.Time) {
	switch since := now.Sub(r.since); {
	case since > 2*repeatSpan:
		// What a busy time has made them grow to is given back.
		r.recent, r.older = map[sentKey]time.Duration{}, map[sentKey]time.Duration{}
		r.since, r.epoch = now, now
	case since > repeatSpan:
		r.recent, r.older, r.since = r.older, r.recent, now
		clear(r.recent)
	}
}
