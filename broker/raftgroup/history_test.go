package raftgroup

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/raftmq/raftmq/fsm"
)

// history records what clients did and were told, and checks it against what the
// replicas hold in the end.
type history struct {
	mu    sync.Mutex
	clock int64 // orders invocations and answers
	ops   []*operation
	reads []reading
}

// outcome of an attempt, as its client knows it.
type outcomeKind int

const (
	pending outcomeKind = iota // no answer yet; counts as unknown
	acked                      // stored, at this place
	refused                    // definitely not stored
	limbo                      // unknown
)

// operation is one send, with all of its attempts: one client, one key.
type operation struct {
	topic    string
	queue    int32
	key      string
	bodies   []string // unique in a history
	attempts []*attempt
}

type attempt struct {
	node              string
	invoked, answered int64
	kind              outcomeKind
	res               fsm.Result
	err               error
}

// reading is a message that a client saw while the test ran.
type reading struct {
	node   string
	queue  queueName
	offset int64
	body   string
}

type queueName struct {
	topic string
	queue int32
}

// queueLog is a queue as a replica has it; replica is all of them.
type queueLog struct {
	first    int64 // offset of the first message
	messages []queued
}

type queued struct {
	body         string
	offset, phys int64 // as the record says
	unit         int64 // physical offset, as the queue says
	stored       int64 // when, in log time
}

type replica map[queueName]queueLog

func (h *history) begin(topic string, queue int32, key string, bodies ...string) *operation {
	op := &operation{topic: topic, queue: queue, key: key, bodies: bodies}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
	return op
}

func (h *history) invoke(op *operation, node string) *attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	a := &attempt{node: node, invoked: h.clock}
	op.attempts = append(op.attempts, a)
	return a
}

func (h *history) answer(a *attempt, res fsm.Result, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	a.answered, a.res, a.err = h.clock, res, err
	switch {
	case errors.Is(err, ErrUnknown):
		a.kind = limbo
	case err != nil:
		a.kind = refused
	case res.Status == fsm.Stored, res.Status == fsm.Repeated:
		a.kind = acked
	default: // applied, and decided against
		a.kind = refused
	}
}

func (h *history) read(r reading) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads = append(h.reads, r)
}

// count is how many operations were acknowledged.
func (h *history) count() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range h.ops {
		if op.ack() != nil {
			n++
		}
	}
	return n
}

func (op *operation) ack() *attempt {
	for _, a := range op.attempts {
		if a.kind == acked {
			return a
		}
	}
	return nil
}

// possible says whether the operation may have been stored.
func (op *operation) possible() bool {
	for _, a := range op.attempts {
		if a.kind != refused {
			return true
		}
	}
	return false
}

// check returns every violation found, each beginning with the invariant's name.
// Replicas are as they are after healing; dedup says that keys were remembered
// for the whole history.
func (h *history) check(replicas map[string]replica, dedup bool) (bad []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	sent := map[string]*operation{} // by body
	for _, op := range h.ops {
		for _, b := range op.bodies {
			sent[b] = op
		}
	}
	var names []string
	for name := range replicas {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		r := replicas[name]
		h.checkReplica(name, r, sent, dedup, say)
		h.checkAcks(name, r, say)
		for _, read := range h.reads {
			q := r[read.queue]
			i := read.offset - q.first
			switch {
			case i < 0: // trimmed
			case i >= int64(len(q.messages)):
				say("S1: %s read %q at %v offset %d; %s ends at %d", read.node, read.body, read.queue, read.offset, name, q.first+int64(len(q.messages)))
			case q.messages[i].body != read.body:
				say("S2: %s read %q at %v offset %d; there %s has %q", read.node, read.body, read.queue, read.offset, name, q.messages[i].body)
			}
		}
		if name != names[0] {
			compare(names[0], replicas[names[0]], name, r, say)
		}
	}
	h.checkOrder(say)
	return bad
}

// story is the part of a history that shows a violation: what was done with the
// messages that it names, and where the replicas have them.
func (h *history) story(violation string, replicas map[string]replica) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, op := range h.ops {
		for _, body := range op.bodies {
			if !strings.Contains(violation, strconv.Quote(body)) {
				continue
			}
			say("%q was sent to queue %d of %s under key %q", body, op.queue, op.topic, op.key)
			for _, a := range op.attempts {
				say("  %d to %d, at %s: %+v, %v", a.invoked, a.answered, a.node, a.res, a.err)
			}
			for _, name := range slices.Sorted(maps.Keys(replicas)) {
				for i, m := range replicas[name][queueName{op.topic, op.queue}].messages {
					if m.body == body {
						say("  %s has it at offset %d, place %d", name, replicas[name][queueName{op.topic, op.queue}].first+int64(i), m.phys)
					}
				}
			}
		}
	}
	return strings.Join(lines, "\n")
}

// checkReplica looks at what a replica holds: S3, S4, S5.
func (h *history) checkReplica(name string, r replica, sent map[string]*operation, dedup bool, say func(string, ...any)) {
	seen := map[string]int{}
	for q, log := range r {
		phys, stored := int64(-1), int64(0)
		for i, m := range log.messages {
			at := log.first + int64(i)
			op := sent[m.body]
			switch {
			case op == nil:
				say("S3: %s has %q at %v offset %d, which nobody sent", name, m.body, q, at)
			case !op.possible():
				say("S3: %s has %q at %v offset %d, which was refused", name, m.body, q, at)
			case op.topic != q.topic || op.queue != q.queue:
				say("S3: %s has %q in %v, it was sent to queue %d of %s", name, m.body, q, op.queue, op.topic)
			}
			if m.offset != at || m.phys != m.unit {
				say("S4: %s has at %v offset %d the record of offset %d and place %d, by its unit at %d", name, q, at, m.offset, m.phys, m.unit)
			}
			if m.phys <= phys {
				say("S4: %s has %v offset %d at place %d, the one before it at %d", name, q, at, m.phys, phys)
			}
			if m.stored < stored {
				say("S4: %s has %v offset %d of time %d, the one before it is of %d", name, q, at, m.stored, stored)
			}
			phys, stored = m.phys, m.stored
			seen[m.body]++
		}
	}
	for body, n := range seen {
		// Without a key, and without dedup, one attempt still stores once.
		if op := sent[body]; n > 1 && op != nil && (dedup && op.key != "" || n > len(op.attempts)) {
			say("S5: %s has %q %d times", name, body, n)
		}
	}
}

// checkAcks is S1, and of S2 what acknowledgements say.
func (h *history) checkAcks(name string, r replica, say func(string, ...any)) {
	for _, op := range h.ops {
		for _, a := range op.attempts {
			if a.kind != acked {
				continue
			}
			q := queueName{op.topic, op.queue}
			log := r[q]
			for i, body := range op.bodies {
				at := a.res.QueueOffset + int64(i)
				n := at - log.first
				switch {
				case n < 0: // trimmed
				case n >= int64(len(log.messages)):
					say("S1: %q, acknowledged by %s at %v offset %d, is not on %s, which ends at %d", body, a.node, q, at, name, log.first+int64(len(log.messages)))
				case log.messages[n].body != body:
					say("S2: %q was acknowledged by %s at %v offset %d; there %s has %q", body, a.node, q, at, name, log.messages[n].body)
				}
			}
		}
	}
}

// checkOrder is S4 as clients see it: what was acknowledged before something
// else was first sent stands before it in their queue.
func (h *history) checkOrder(say func(string, ...any)) {
	type event struct {
		at     int64 // invoked first, or acknowledged first
		ack    bool
		offset int64
		body   string
	}
	events := map[queueName][]event{}
	for _, op := range h.ops {
		a := op.ack()
		if a == nil {
			continue
		}
		first := a
		for _, b := range op.attempts {
			if b.kind == acked && b.answered < first.answered {
				first = b
			}
		}
		q := queueName{op.topic, op.queue}
		events[q] = append(events[q],
			event{op.attempts[0].invoked, false, first.res.QueueOffset, op.bodies[0]},
			event{first.answered, true, first.res.QueueOffset, op.bodies[0]})
	}
	for q, list := range events {
		sort.Slice(list, func(i, j int) bool { return list[i].at < list[j].at })
		last := event{offset: -1}
		for _, e := range list {
			switch {
			case e.ack && e.offset > last.offset:
				last = e
			case !e.ack && e.offset <= last.offset:
				say("S4: in %v %q was acknowledged at offset %d before %q was sent, which is at %d", q, last.body, last.offset, e.body, e.offset)
			}
		}
	}
}

// compare is S10 as clients see it.
func compare(a string, ra replica, b string, rb replica, say func(string, ...any)) {
	queues := map[queueName]bool{}
	for q := range ra {
		queues[q] = true
	}
	for q := range rb {
		queues[q] = true
	}
	for q := range queues {
		la, lb := ra[q], rb[q]
		if la.first != lb.first || len(la.messages) != len(lb.messages) {
			say("S10: %v is [%d, %d) on %s and [%d, %d) on %s", q, la.first, la.first+int64(len(la.messages)), a, lb.first, lb.first+int64(len(lb.messages)), b)
			continue
		}
		for i := range la.messages {
			if la.messages[i] != lb.messages[i] {
				say("S10: at %v offset %d %s has %v, %s has %v", q, la.first+int64(i), a, la.messages[i], b, lb.messages[i])
				break
			}
		}
	}
}
