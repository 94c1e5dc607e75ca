package fsm

import (
	"encoding/json"
	"fmt"

	"github.com/raftmq/raftmq/remoting"
)

// Entry is one committed raft entry.
type Entry struct {
	Index uint64
	Term  uint64
	Data  []byte
}

// Status is what became of a command, or of one send in it.
type Status uint8

// The statuses. Only Stored and Repeated mean that the message is there.
const (
	Stored        Status = iota
	Repeated             // it was stored before: the result is the first one's
	NoTopic              // the topic does not exist, or not any more; nor does the one a delayed message is for
	BadQueue             // the topic has no such queue
	TooLarge             // the records do not fit in one segment
	NotConfigured        // the group has no configuration yet
	Stale                // it was done before: the message is settled, or delivered
	NotWaiting           // the message to be settled does not exist, or not any more
)

// Result is what apply answers for one send, and, with only a status, for any
// other command.
type Result struct {
	Status      Status
	Queue       int32
	QueueOffset int64  // of the first record
	Physical    int64  // of the first record
	StoreHost   string // of the records, in netip.AddrPort's binary form
}

// Apply applies entries in order. It returns for each one the results of its
// sends, or a single one. The data is not kept and not changed. An error is
// final: the state is not what the log says any more, nothing may be applied to
// it or read from it as of a later index.
func (s *State) Apply(entries []Entry) ([][]Result, error) {
	if s.failed != nil {
		return nil, s.failed
	}
	results := make([][]Result, len(entries))
	for i, e := range entries {
		if e.Index <= s.applied {
			return nil, s.fail(fmt.Errorf("%w: entry %d after entry %d", ErrCommand, e.Index, s.applied))
		}
		var err error
		if results[i], err = s.apply(e); err != nil {
			return nil, s.fail(fmt.Errorf("entry %d: %w", e.Index, err))
		}
		s.applied = e.Index
	}
	if err := s.flush(); err != nil {
		return nil, s.fail(err)
	}
	return results, nil
}

// Applied is the index of the last entry applied. For apply's goroutine.
func (s *State) Applied() uint64 { return s.applied }

func (s *State) fail(err error) error {
	s.failed = fmt.Errorf("fsm stopped: %w", err)
	return s.failed
}

// flush writes what was staged.
func (s *State) flush() error {
	if len(s.batch.Log) == 0 {
		return nil
	}
	err := s.store.Write(&s.batch)
	s.batch.Log, s.batch.Units, s.batch.Keys = s.batch.Log[:0], s.batch.Units[:0], s.batch.Keys[:0]
	return err
}

func (s *State) apply(e Entry) ([]Result, error) {
	r := reader{b: e.Data}
	version, kind := r.u8(), Kind(r.u8())
	stamp := r.i64()
	if r.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCommand, r.err)
	}
	if version != commandVersion {
		return nil, fmt.Errorf("%w: version %d, this release knows %d: run the release the leader runs", ErrCommand, version, commandVersion)
	}
	s.logTime = max(s.logTime, stamp)
	switch kind {
	case KindAppend:
		return s.applyAppend(&r)
	case KindDeliver:
		return s.applyDeliver(&r)
	case KindLock:
		return []Result{{}}, s.applyLocks(&r, e.Index)
	}
	// What follows may take queues and segments away from under what is staged.
	if err := s.flush(); err != nil {
		return nil, err
	}
	if kind == KindDigest {
		status, err := s.takeDigests(&r, e.Index)
		return []Result{{Status: status}}, err
	}
	status, err := s.applyOther(kind, &r, e.Term)
	if err != nil {
		return nil, fmt.Errorf("kind %d: %w", kind, err)
	}
	return []Result{{Status: status}}, nil
}

func (s *State) applyOther(kind Kind, r *reader, term uint64) (Status, error) {
	switch kind {
	case KindConfigure:
		var c Configuration
		if err := decodeJSON(r, &c); err != nil {
			return 0, err
		}
		if err := s.fits(c); err != nil {
			return 0, wrap(err)
		}
		return s.configure(c), nil
	case KindLead:
		var l Leader
		if err := decodeJSON(r, &l); err != nil {
			return 0, err
		}
		s.lead(l, term)
		return Stored, nil
	case KindPutTopic:
		var c remoting.TopicConfig
		createOnly := r.bool()
		if r.body(r.rest(), &c); r.err != nil {
			return 0, wrap(r.err)
		}
		return s.putTopic(c, createOnly), nil
	case KindDeleteTopic:
		name := r.string()
		if err := r.end(); err != nil {
			return 0, wrap(err)
		}
		return s.deleteTopic(name)
	case KindPutGroup:
		var c remoting.GroupConfig
		createOnly := r.bool()
		if r.body(r.rest(), &c); r.err != nil {
			return 0, wrap(r.err)
		}
		return s.putGroup(c, createOnly), nil
	case KindDeleteGroup:
		name, offsets := r.string(), r.bool()
		if err := r.end(); err != nil {
			return 0, wrap(err)
		}
		return s.deleteGroup(name, offsets), nil
	case KindCommitOffsets:
		return s.commitOffsets(r, false)
	case KindResetOffsets:
		return s.commitOffsets(r, true)
	case KindEndReset:
		return s.endReset(r)
	case KindStartConsumer:
		return s.startConsumer(r)
	case KindPutMember:
		var m Member
		if err := decodeJSON(r, &m); err != nil {
			return 0, err
		}
		return Stored, s.putMember(m)
	case KindDropMember:
		id := r.string()
		if err := r.end(); err != nil {
			return 0, wrap(err)
		}
		return s.dropMember(id), nil
	case KindPutAutopilot:
		var a Autopilot
		if err := decodeJSON(r, &a); err != nil {
			return 0, err
		}
		s.putAutopilot(a)
		return Stored, nil
	case KindRegroup:
		return s.regroup(r)
	case KindIncident:
		return s.noteIncident(r)
	case KindTrim:
		physical := r.i64()
		if err := r.end(); err != nil {
			return 0, wrap(err)
		}
		return Stored, s.trim(physical)
	}
	return 0, fmt.Errorf("%w: this release does not know it: run the release the leader runs", ErrCommand)
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrCommand, err)
}

func decodeJSON(r *reader, v any) error {
	return wrap(json.Unmarshal(r.rest(), v))
}

// fits says whether the store is made for a configuration.
func (s *State) fits(c Configuration) error {
	if c.SegmentSize != 0 && c.SegmentSize != s.segmentSize {
		return fmt.Errorf("the group's CommitLog segments have %d bytes, those of this replica %d: set mappedFileSizeCommitLog to what the other nodes have, and begin with an empty data directory",
			c.SegmentSize, s.segmentSize)
	}
	return nil
}

func (s *State) configure(c Configuration) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.GroupID == "" {
		s.config.GroupID = c.GroupID
		s.config.SegmentSize = c.SegmentSize
	}
	s.config.DedupSpan, s.config.DedupMax = c.DedupSpan, c.DedupMax
	s.sends.span, s.sends.max = c.DedupSpan, c.DedupMax
	s.sends.expire(s.logTime)
	return Stored
}

func (s *State) lead(l Leader, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.Term = term
	s.leader = l
}

func (s *State) putGroup(c remoting.GroupConfig, createOnly bool) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.groups[c.Name]; ok && createOnly {
		return Stored
	}
	s.overrule(c)
	s.groups[c.Name] = &c
	s.groupChanges.add(s.logTime)
	return Stored
}

func (s *State) deleteGroup(name string, offsets bool) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.groups[name]; ok {
		delete(s.groups, name)
		delete(s.starts, name)
		s.groupChanges.add(s.logTime)
	}
	s.dropResets(func(k offsetKey) bool { return k.group == name })
	s.dropLocks(func(k offsetKey) bool { return k.group == name })
	if offsets {
		for k := range s.offsets { // any order: each is deleted on its own
			if k.group == name {
				delete(s.offsets, k)
			}
		}
	}
	return Stored
}

func (c *Changes) add(now int64) {
	c.Count++
	c.Time = now
}

// maxQueues bounds the queues of a topic: a queue id indexes a slice.
const maxQueues = 1 << 16

// commitOffsets sets offsets as consumers commit them, or resets them.
func (s *State) commitOffsets(r *reader, reset bool) (Status, error) {
	n := r.count(4 + 4 + 4 + 8)
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		group, name := r.string(), r.string()
		queue, offset := r.i32(), r.i64()
		if r.err != nil {
			break
		}
		// The topic may have been deleted since the client sent this: its
		// offsets must not come back. (F7)
		if _, ok := s.topics[name]; !ok || queue < 0 || queue >= maxQueues || offset < 0 {
			continue
		}
		k := offsetKey{name, group}
		at := queueKey{k, queue}
		if reset {
			if _, ok := s.groups[group]; !ok { // (F7)
				continue
			}
			s.beginReset(at, offset)
		} else if _, pending := s.resets[at]; pending {
			continue
		}
		for len(s.offsets[k]) <= int(queue) {
			s.offsets[k] = append(s.offsets[k], noOffset)
		}
		s.offsets[k][queue] = offset
	}
	return Stored, wrap(r.end())
}

// trim forgets whole segments only, and never the last one.
func (s *State) trim(physical int64) error {
	if s.config.SegmentSize <= 0 || physical <= s.min {
		return nil
	}
	last := s.end - s.end%s.config.SegmentSize
	physical = min(physical-physical%s.config.SegmentSize, last)
	if physical <= s.min {
		return nil
	}
	s.min = physical
	return s.store.Trim(physical)
}

func (s *State) putTopic(c remoting.TopicConfig, createOnly bool) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.topics[c.Name]
	if ok && createOnly {
		return Stored
	}
	var t *topic
	if ok {
		t = newTopic(c, old.Incarnation, old.Birth)
		t.queues = old.queues
	} else {
		s.sequence++
		t = newTopic(c, s.sequence, s.end)
	}
	s.topics[c.Name] = t
	s.topicChanges.add(s.logTime)
	return Stored
}

func newTopic(c remoting.TopicConfig, incarnation uint64, birth int64) *topic {
	return &topic{
		Topic:   Topic{Config: c, Incarnation: incarnation, Birth: birth},
		dedup:   c.Attributes[AttributeDedup] != "false",
		waiting: remoting.IsWaitingTopic(c.Name),
	}
}

// AttributeDedup is a topic attribute: "false" stores every send, repeats too.
const AttributeDedup = "message.dedup"

func (s *State) deleteTopic(name string) (Status, error) {
	s.mu.Lock()
	t, ok := s.topics[name]
	if ok {
		delete(s.topics, name)
		for k := range s.offsets { // any order: each is deleted on its own
			if k.topic == name {
				delete(s.offsets, k)
			}
		}
		s.dropResets(func(k offsetKey) bool { return k.topic == name })
		for id := range s.settled { // any order, too
			if id.Topic == name {
				delete(s.settled, id)
			}
		}
		s.dropLocks(func(k offsetKey) bool { return k.topic == name })
		s.topicChanges.add(s.logTime)
	}
	s.mu.Unlock()
	if !ok {
		return NoTopic, nil
	}
	return Stored, s.store.DropTopic(name, t.Incarnation)
}
