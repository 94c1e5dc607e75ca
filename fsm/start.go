package fsm

import (
	"maps"
	"slices"

	"github.com/raftmq/raftmq/remoting"
)

// StartSkew is how far ahead of the log's time the start of a consumer may be, in
// ms: as far as clocks that are kept right are apart. What claims to have started
// later than that has not, and counts when the log's time has come there.
const StartSkew = 5000

// Start is who said last how often messages of a group come again: an instance
// that has told so when it started, or an operator. Of two instances the one that
// started later is right, whenever they are heard of: so a client that registers
// again, as it does every half a minute and with each new leader, changes nothing.
//
//	T1  The time never goes back while the group exists.
//	T2  It is never more than StartSkew ahead of the log's time: however wrong a
//	    client's clock is, the next start counts.
type Start struct {
	Time int64 // ms, by the clock of who started
	Told bool  // by an instance: the group's RetryMaxTimes is its word
}

// StartConsumer says that an instance of a group started at a time and wants its
// messages to come again so many times.
func StartConsumer(group string, started int64, limit int32) []byte {
	b := appendString(header(nil, KindStartConsumer), group)
	return appendI32(appendI64(b, started), limit)
}

func (s *State) startConsumer(r *reader) (Status, error) {
	name, started, limit := r.string(), r.i64(), r.i32()
	if err := r.end(); err != nil {
		return 0, wrap(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.groups[name]
	if !ok || limit < 0 || started <= s.starts[name].Time || started > s.logTime+StartSkew { // (F7)
		return Stale, nil
	}
	s.starts[name] = Start{Time: started, Told: true}
	if g.RetryMaxTimes != limit {
		changed := *g // who was given the old one may still read it
		changed.RetryMaxTimes = limit
		s.groups[name] = &changed
		s.groupChanges.add(s.logTime)
	}
	return Stored, nil
}

// overrule notes that a group gets another limit from an operator than it had: it
// holds until the next start. The lock is held.
func (s *State) overrule(c remoting.GroupConfig) {
	old := remoting.DefaultRetryMaxTimes
	if g, ok := s.groups[c.Name]; ok {
		old = g.RetryMaxTimes
	}
	if c.RetryMaxTimes != old {
		s.starts[c.Name] = Start{Time: max(s.starts[c.Name].Time, s.logTime)}
	}
}

// LastStart is who said last how often messages of a group come again; zero if
// nobody has.
func (s *State) LastStart(group string) Start {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.starts[group]
}

func (s *State) appendStarts(b []byte) []byte {
	b = appendCount(b, len(s.starts))
	for _, name := range slices.Sorted(maps.Keys(s.starts)) {
		b = appendI64(appendString(b, name), s.starts[name].Time)
		b = appendBool(b, s.starts[name].Told)
	}
	return b
}

func (s *State) readStarts(r *reader) {
	for range r.count(4 + 8 + 1) {
		name := r.string()
		s.starts[name] = Start{Time: r.i64(), Told: r.bool()}
	}
}
