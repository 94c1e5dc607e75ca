package fsm

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// Store is where a State keeps what it appends: *storage.Store, or one that
// compares with what is there instead of writing. An error stops the State.
type Store interface {
	// Write appends to the CommitLog and the queues. What it is given is the
	// caller's again when it returns.
	Write(*storage.Batch) error
	// CreateQueue returns a queue, new if there is none of that name.
	CreateQueue(storage.QueueID) (*storage.Queue, error)
	// Trim forgets the CommitLog below an offset.
	Trim(physical int64) error
	// DropTopic forgets a topic's queues.
	DropTopic(topic string, incarnation uint64) error
	// Pin describes what the store holds now, for a snapshot; nil if it is one that
	// only compares.
	Pin() *storage.Manifest
	// Resume makes the store hold what a snapshot describes.
	Resume(*storage.Manifest) error
}

// Topic is a topic as the group's members agree on it. It is not changed after
// it was handed out.
type Topic struct {
	Config remoting.TopicConfig
	// Incarnation tells a topic from a deleted one of the same name.
	Incarnation uint64
	// Birth is the CommitLog's end at creation: a record before it that names
	// the topic is of an earlier incarnation.
	Birth int64
}

// topic is a Topic and what only apply touches.
type topic struct {
	Topic
	dedup   bool
	waiting bool // its messages are for other topics
	queues  []queue
}

// queue is the state of one queue: the offset that its next message gets.
type queue struct {
	id     storage.QueueID
	next   int64
	handle *storage.Queue // nil before the first message, and after a restore
}

type offsetKey struct{ topic, group string }

// noOffset stands for a queue in which a group has committed nothing.
const noOffset = -1

// State is the replicated state of a group. Apply, Snapshot and Restore are for
// one goroutine; the other methods may be called from any.
type State struct {
	store       Store
	segmentSize int64 // of the store

	// Apply's own.
	applied  uint64 // index of the last entry applied
	end      int64  // of the CommitLog
	min      int64  // of the CommitLog
	logTime  int64  // ms; F4
	sequence uint64 // incarnations and ids of resets given out
	sends    *window
	hosts    []string // store hosts of the sends in the window
	failed   error    // F6: latched
	batch    storage.Batch

	digests atomic.Pointer[Digests] // the last that were taken

	mu      sync.RWMutex // guards what follows; apply writes, anyone reads
	config  Configuration
	leader  Leader
	topics  map[string]*topic
	groups  map[string]*remoting.GroupConfig
	offsets map[offsetKey][]int64 // by queue id; noOffset where none
	resets  map[queueKey]Reset
	starts  map[string]Start  // by group
	members map[string]Member // by node
	// memberList is members, sorted. It is replaced, not changed.
	memberList []Member
	autopilot  Autopilot
	// incidents are the latest, the last one last.
	incidents []Incident
	// schedule says up to which offset each queue of the schedule topic was
	// emptied.
	schedule []int64
	settled  map[storage.QueueID]*marks // of queues with settled messages
	locks    map[offsetKey]map[int32]Lock
	// lockChanges counts the changes of locks, from anywhere: it is not replicated.
	lockChanges uint64
	// Changes counts the changes of topics and groups, for DataVersions.
	topicChanges, groupChanges Changes
	resetChanges               int64
	memberChanges              int64 // is not replicated
}

// Changes says how often a table was changed, and when last in log time, ms.
type Changes struct {
	Count int64 `json:"count"`
	Time  int64 `json:"time"`
}

// New returns the state before the first entry, over an empty store whose
// CommitLog has segments of this many bytes.
func New(store Store, segmentSize int64) *State {
	s := &State{store: store, segmentSize: segmentSize}
	s.reset()
	return s
}

func (s *State) reset() {
	s.applied, s.end, s.min, s.logTime, s.sequence = 0, 0, 0, 0, 0
	s.sends = newWindow(0, 0)
	s.hosts = nil
	s.config, s.leader = Configuration{}, Leader{}
	s.topics = map[string]*topic{}
	s.groups = map[string]*remoting.GroupConfig{}
	s.offsets = map[offsetKey][]int64{}
	s.resets = map[queueKey]Reset{}
	s.starts = map[string]Start{}
	s.members, s.memberList, s.autopilot = map[string]Member{}, nil, Autopilot{}
	s.schedule, s.incidents = nil, nil
	s.settled = map[storage.QueueID]*marks{}
	s.locks = map[offsetKey]map[int32]Lock{}
	s.topicChanges, s.groupChanges, s.resetChanges = Changes{}, Changes{}, 0
}

// Configuration returns what the group has agreed on; its GroupID is empty while
// it has not.
func (s *State) Configuration() Configuration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.config
}

// Leader returns the last leader whose first entry was applied.
func (s *State) Leader() Leader {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.leader
}

// LogTime is the time of the last command applied, in ms. For apply's goroutine.
func (s *State) LogTime() int64 { return s.logTime }

// Topic returns a topic by name.
func (s *State) Topic(name string) (Topic, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t, ok := s.topics[name]
	if !ok {
		return Topic{}, false
	}
	return t.Topic, true
}

// Topics returns all topics, sorted by name, and the count of changes.
func (s *State) Topics() ([]Topic, Changes) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Topic, 0, len(s.topics))
	for _, name := range slices.Sorted(maps.Keys(s.topics)) {
		out = append(out, s.topics[name].Topic)
	}
	return out, s.topicChanges
}

// TableChanges counts the changes of topics, groups and members, and the resets of
// offsets, together.
func (s *State) TableChanges() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.topicChanges.Count + s.groupChanges.Count + s.resetChanges + s.memberChanges
}

// Group returns a subscription group by name.
func (s *State) Group(name string) (remoting.GroupConfig, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	g, ok := s.groups[name]
	if !ok {
		return remoting.GroupConfig{}, false
	}
	return *g, true
}

// Groups returns all groups, sorted by name, and the count of changes.
func (s *State) Groups() ([]remoting.GroupConfig, Changes) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]remoting.GroupConfig, 0, len(s.groups))
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		out = append(out, *s.groups[name])
	}
	return out, s.groupChanges
}

// CommittedOffset returns a group's position in a queue, if it has one.
func (s *State) CommittedOffset(group, topic string, queue int32) (int64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	offsets := s.offsets[offsetKey{topic, group}]
	if queue < 0 || int(queue) >= len(offsets) || offsets[queue] == noOffset {
		return 0, false
	}
	return offsets[queue], true
}

// CommittedOffsets calls f with every committed offset, sorted by topic, group
// and queue.
func (s *State) CommittedOffsets(f func(Offset)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, k := range s.sortedOffsets() {
		for queue, offset := range s.offsets[k] {
			if offset != noOffset {
				f(Offset{Group: k.group, Topic: k.topic, Queue: int32(queue), Offset: offset})
			}
		}
	}
}

func (s *State) sortedOffsets() []offsetKey {
	keys := slices.Collect(maps.Keys(s.offsets))
	slices.SortFunc(keys, func(a, b offsetKey) int {
		if c := strings.Compare(a.topic, b.topic); c != 0 {
			return c
		}
		return strings.Compare(a.group, b.group)
	})
	return keys
}

// Locate says which queue a record is in, at which offset, and with which unit:
// that of the topic it names, unless the record is older than the topic.
func (s *State) Locate(record []byte) (q storage.QueueID, offset int64, u storage.Unit, ok bool) {
	v, err := remoting.ParseRecord(record)
	if err != nil {
		return q, 0, u, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	t, ok := s.topics[v.Topic()]
	if !ok || v.PhysicalOffset() < t.Birth {
		return q, 0, u, false
	}
	q = storage.QueueID{Topic: t.Config.Name, Incarnation: t.Incarnation, Queue: v.QueueID()}
	return q, v.QueueOffset(), unitOf(v), true
}
