package main

import (
	"fmt"
	"hash/crc32"
	"strings"
	"sync"
	"time"
)

// outcome is what a sender knows of an operation.
type outcome int

const (
	invoked outcome = iota // no answer yet
	acked
	failed  // definitely not stored
	unknown // it timed out: stored or not, or not yet
	outcomes
)

// op is one send, as its sender saw it.
type op struct {
	sender, n int
	inOrder   bool          // the sender's ops go to one queue, one after the other
	kind      string        // of the traffic
	delay     time.Duration // the message is not to be seen before it is so old
	// moves: the message is not seen where the ack says.
	moves bool
	// hidden: the message is never to be seen, as its transaction was rolled back or
	// never began.
	hidden  bool
	outcome outcome
	err     error
	place   place  // of the ack
	key     string // UNIQ_KEY of the ack
	// begun and ended are times since the history began.
	begun, ended time.Duration
	wall         time.Time // of begun
}

// String is all that is known of an operation, for a history that shows what went
// wrong.
func (o op) String() string {
	s := fmt.Sprintf("%s (%s): begun at %v", o.id(), o.kind, o.begun.Round(time.Millisecond))
	if o.delay > 0 {
		s += fmt.Sprintf(" to be seen %v later", o.delay)
	}
	if o.hidden {
		s += " never to be seen"
	}
	if o.outcome == invoked {
		return s + ", no outcome"
	}
	s += fmt.Sprintf(", %s at %v", [outcomes]string{acked: "acked", failed: "failed", unknown: "unknown"}[o.outcome], o.ended.Round(time.Millisecond))
	if o.outcome == acked {
		s += fmt.Sprintf(" as %v, key %s", o.place, o.key)
	}
	if o.err != nil {
		s += fmt.Sprintf(" (%v)", o.err)
	}
	return s
}

func (o op) id() string { return fmt.Sprintf("s%d-%d", o.sender, o.n) }

// body is what the op sends: what a record holds tells whose it is and whether
// it is whole.
func (o op) body() string { return bodyOf(o.id()) }

func bodyOf(id string) string {
	sum := crc32.ChecksumIEEE([]byte(id))
	return fmt.Sprintf("%s %08x %s", id, sum, strings.Repeat("x", int(sum%900)))
}

// place is where a message is stored.
type place struct {
	broker string
	queue  int32
	offset int64
}

func (p place) String() string { return fmt.Sprintf("%s/%d/%d", p.broker, p.queue, p.offset) }

// stored is a message as a replica gave it.
type stored struct {
	place
	key  string // UNIQ_KEY
	phys int64
	body string
	at   int64 // ms, when it was stored
	// times is how often consumers have failed on it.
	times int32
}

// history records what a test's senders did.
type history struct {
	begun time.Time

	mu   sync.Mutex
	ops  []op
	acks int
	last time.Duration // of the last ack
	gap  time.Duration // the longest time between two acks
}

func newHistory() *history { return &history{begun: time.Now()} }

// invoke notes an operation before it begins, and returns its number.
func (h *history) invoke(o op) (int, op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o.wall = time.Now()
	o.begun = o.wall.Sub(h.begun)
	h.ops = append(h.ops, o)
	return len(h.ops) - 1, o
}

// end notes what came of it.
func (h *history) end(i int, out outcome, at place, key string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := &h.ops[i]
	o.outcome, o.place, o.key, o.err, o.ended = out, at, key, err, time.Since(h.begun)
	if out == acked {
		h.acks++
		h.gap = max(h.gap, o.ended-h.last)
		h.last = o.ended
	}
}

// hide notes that an operation's message is never to be seen.
func (h *history) hide(i int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops[i].hidden = true
}

// count adds the operations to a tally.
func (h *history) count(t *tally) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.ops {
		t.operation(o.kind, o.outcome, 1)
	}
}

func (h *history) acked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acks
}

// firstAck is how long after a moment the first send was acked that had begun
// behind it; negative: none was.
func (h *history) firstAck(at time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := time.Duration(-1)
	for _, o := range h.ops {
		if o.outcome == acked && o.begun >= at && (first < 0 || o.ended-at < first) {
			first = o.ended - at
		}
	}
	return first
}

func (h *history) now() time.Duration { return time.Since(h.begun) }

func (h *history) all() []op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]op(nil), h.ops...)
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var n [unknown + 1]int
	for _, o := range h.ops {
		n[o.outcome]++
	}
	return fmt.Sprintf("%d sends: %d acked, %d failed, %d unknown; longest gap %v", len(h.ops), n[acked], n[failed], n[unknown], h.gap.Round(time.Millisecond))
}
