package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/mutant"
)

// maxStaged bounds what is staged before it is written.
const maxStaged = 4 << 20

// send is one send of an append or deliver command.
type send struct {
	SendMeta
	n       int // records
	records []byte
}

func (r *reader) send() (s send) {
	flags := r.u8()
	copy(s.Key[:], r.take(len(s.Key)))
	s.Repeat = flags&flagRepeat != 0
	s.Delay = r.i64()
	s.Waited, s.Asks = flags&flagWaited != 0, flags&flagAsks != 0
	s.n = int(r.u32())
	size := int(r.u32())
	if flags&flagSettles != 0 {
		s.Settles = &Waiting{Queue: storage.QueueID{Topic: r.string(), Incarnation: r.u64(), Queue: r.i32()}, Offset: r.i64()}
	}
	s.records = r.take(size)
	return s
}

// applyAppend stores the sends of an append command.
func (s *State) applyAppend(r *reader) ([]Result, error) {
	host := string(r.bytes())
	var results []Result
	for len(r.b) > 0 && r.err == nil {
		next := r.send()
		if r.err != nil {
			break
		}
		res, err := s.act(next, host)
		if err != nil {
			return nil, err
		}
		results = append(results, res)
		if len(s.batch.Log) >= maxStaged {
			if err := s.flush(); err != nil {
				return nil, err
			}
		}
	}
	return results, wrap(r.err)
}

// act does what one send of an append command asks for.
func (s *State) act(next send, host string) (Result, error) {
	switch {
	case next.Settles != nil:
		return s.settle(next, host)
	case next.Waited:
		return s.deliver(next, host)
	}
	return s.appendSend(next, host)
}

// appendSend stores one send, whole or not at all.
func (s *State) appendSend(next send, host string) (Result, error) {
	first, err := remoting.ParseRecord(next.records)
	if err != nil {
		return Result{}, wrap(err)
	}
	t, ok := s.topics[string(first.TopicBytes())]
	if !ok {
		return Result{Status: NoTopic}, nil
	}
	of, ok := s.topicFor(t, first)
	if !ok {
		return Result{Status: NoTopic}, nil
	}
	id := first.QueueID()
	if id < 0 || id >= t.size() {
		return Result{Status: BadQueue}, nil
	}
	return s.appendTo(t.queue(id), of, next, host)
}

// topicFor is the topic that a record of topic t is for: another one if t is where
// messages wait.
func (s *State) topicFor(t *topic, v remoting.RecordView) (*topic, bool) {
	if !t.waiting {
		return t, true
	}
	name, ok := v.Properties().Lookup(remoting.PropRealTopic)
	if !ok {
		return t, true
	}
	of, ok := s.topics[string(name)]
	return of, ok
}

// appendTo stores a send in a queue, unless its key is known in the topic it is of.
func (s *State) appendTo(q *queue, of *topic, next send, host string) (Result, error) {
	switch {
	case s.config.SegmentSize == 0:
		return Result{Status: NotConfigured}, nil
	case int64(len(next.records)) > s.config.SegmentSize-storage.BlankSize:
		return Result{Status: TooLarge}, nil
	}
	known := next.Key != Key{} && of.dedup && s.sends.max > 0
	if known {
		// What a topic of that name had before it was deleted is no repeat.
		if res, ok := s.repeated(next.Key, of.Birth); ok && !next.Repeat {
			return res, nil
		}
	}
	s.place(len(next.records))
	res := Result{Status: Stored, Queue: q.id.Queue, QueueOffset: q.next, Physical: s.end, StoreHost: host}
	if err := s.stage(q, next); err != nil {
		return Result{}, err
	}
	if known {
		s.sends.add(sent{key: next.Key, at: s.logTime, queue: res.Queue, queueOffset: res.QueueOffset, phys: res.Physical, host: s.host(host)})
	}
	return res, nil
}

// repeated is the answer to a send whose key is known, stored at an offset of the
// CommitLog or later.
func (s *State) repeated(k Key, since int64) (Result, bool) {
	s.sends.expire(s.logTime)
	e, ok := s.sends.find(k)
	if k == (Key{}) || !ok || e.phys < since || mutant.On("dedup") {
		return Result{}, false
	}
	return Result{Status: Repeated, Queue: e.queue, QueueOffset: e.queueOffset, Physical: e.phys, StoreHost: s.hosts[e.host]}, true
}

// applyDeliver appends delayed messages where they belong and notes that they
// were: both, or neither.
func (s *State) applyDeliver(r *reader) ([]Result, error) {
	queue, from := r.i32(), r.i64()
	host := string(r.bytes())
	if r.err == nil && (queue < 0 || queue >= maxQueues) {
		return nil, fmt.Errorf("%w: schedule queue %d", ErrCommand, queue)
	}
	// Proposed twice, it acts once.
	stale := r.err == nil && s.delivered(queue) != from
	var results []Result
	for len(r.b) > 0 && r.err == nil {
		next := r.send()
		if r.err != nil {
			break
		}
		res := Result{Status: Stale}
		switch {
		case next.Settles != nil:
			r.fail(errors.New("a settlement in a deliver command"))
		case stale:
		case next.n == 0:
			res.Status = Stored
		default:
			var err error
			if res, err = s.deliver(next, host); err != nil {
				return nil, err
			}
		}
		results = append(results, res)
	}
	if !stale && r.err == nil {
		s.setDelivered(queue, from+int64(len(results)))
	}
	return results, wrap(r.err)
}

// deliver appends a message that has waited, to its topic or to where it waits on.
// It was acknowledged, so it is refused only if the topic is gone that it is for.
func (s *State) deliver(next send, host string) (Result, error) {
	v, err := remoting.ParseRecord(next.records)
	if err != nil {
		return Result{}, wrap(err)
	}
	t, ok := s.topics[string(v.TopicBytes())]
	if !ok {
		return Result{Status: NoTopic}, nil
	}
	of, ok := s.topicFor(t, v)
	if !ok || v.PhysicalOffset() < of.Birth { // where it waited
		return Result{Status: NoTopic}, nil
	}
	id := t.home(v.QueueID())
	if id != v.QueueID() {
		next.records = bytes.Clone(next.records) // an entry is not changed
		remoting.SetQueueID(next.records, id)
	}
	return s.appendTo(t.queue(id), of, next, host)
}

// size is one more than the highest queue that can be sent to.
func (t *topic) size() int32 {
	return min(max(t.Config.ReadQueueNums, t.Config.WriteQueueNums), maxQueues)
}

// home is the queue for a delayed message that was sent to queue id: another one
// if the topic has fewer now. If it has none, id itself: what is in it is there
// again once the topic has queues.
func (t *topic) home(id int32) int32 {
	n := min(t.Config.WriteQueueNums, maxQueues)
	if n <= 0 {
		n = t.size()
	}
	switch {
	case id >= 0 && id < t.size():
		return id
	case n > 0:
		return int32(uint32(id) % uint32(n))
	case id >= 0 && id < maxQueues:
		return id
	}
	return 0 // no queue that a topic can have
}

// Delivered is up to which offset a queue of the schedule topic was emptied.
func (s *State) Delivered(queue int32) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.delivered(queue)
}

func (s *State) delivered(queue int32) int64 {
	if int(queue) >= len(s.schedule) {
		return 0
	}
	return s.schedule[queue]
}

func (s *State) setDelivered(queue int32, offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.schedule) <= int(queue) {
		s.schedule = append(s.schedule, 0)
	}
	s.schedule[queue] = offset
}

// queue returns the state of a queue, which may be its first use.
func (t *topic) queue(id int32) *queue {
	for len(t.queues) <= int(id) {
		n := int32(len(t.queues))
		t.queues = append(t.queues, queue{id: storage.QueueID{Topic: t.Config.Name, Incarnation: t.Incarnation, Queue: n}})
	}
	return &t.queues[id]
}

// place fills up the segment if size bytes and the filler behind them do not fit
// in it. (F3)
func (s *State) place(size int) {
	if len(s.batch.Log) == 0 {
		s.batch.Pos = s.end
	}
	room := s.config.SegmentSize - s.end%s.config.SegmentSize
	if int64(size)+storage.BlankSize <= room {
		return
	}
	s.batch.Log = storage.AppendBlank(s.batch.Log, room)
	s.end += room
}

// stage copies the records of a send behind what is staged, and gives them what
// apply assigns.
func (s *State) stage(q *queue, next send) error {
	if q.handle == nil {
		handle, err := s.store.CreateQueue(q.id)
		if err != nil {
			return err
		}
		q.handle = handle
	}
	at := len(s.batch.Log)
	s.batch.Log = append(s.batch.Log, next.records...)
	b, n := s.batch.Log[at:], next.n
	for len(b) > 0 {
		v, err := remoting.ParseRecord(b)
		if err != nil {
			return wrap(err)
		}
		if v.QueueID() != q.id.Queue || !bytes.Equal(v.TopicBytes(), topicBytes(q)) {
			return fmt.Errorf("%w: a send for more than one queue", ErrCommand)
		}
		remoting.SetQueueOffset(b, q.next)
		remoting.SetPhysicalOffset(b, s.end)
		remoting.SetStoreTimestamp(b, s.logTime)
		if next.Delay > 0 {
			remoting.SetPreparedTransactionOffset(b, s.logTime+next.Delay)
		}
		unit := unitOf(v)
		s.batch.Units = append(s.batch.Units, storage.QueueUnit{Queue: q.handle, Offset: q.next, Unit: unit})
		s.batch.Keys = appendKeys(s.batch.Keys, v)
		q.next++
		s.end += int64(v.Size())
		b = b[v.Size():]
		n--
	}
	if n != 0 {
		return fmt.Errorf("%w: a send announces %d records too many", ErrCommand, n)
	}
	return nil
}

func topicBytes(q *queue) []byte {
	return unsafe.Slice(unsafe.StringData(q.id.Topic), len(q.id.Topic))
}

// unitOf derives a queue's unit from its record, and from nothing else: lost
// queues are rebuilt by it.
func unitOf(v remoting.RecordView) storage.Unit {
	u := storage.Unit{Phys: v.PhysicalOffset(), Size: int32(v.Size())}
	if remoting.IsWaitingTopic(text(v.TopicBytes())) {
		// When it is due, or to be asked about. The field has no other use before a
		// commit.
		u.Tag = v.PreparedTransactionOffset()
		return u
	}
	if tag, ok := v.Properties().Lookup(remoting.PropTags); ok {
		u.Tag = int64(remoting.TagHash(tag))
	}
	return u
}

// KeysOf derives the keys a record can be found by.
func KeysOf(record []byte) []storage.IndexKey {
	v, err := remoting.ParseRecord(record)
	if err != nil {
		return nil
	}
	return appendKeys(nil, v)
}

// appendKeys appends the keys a record can be found by. They point into it.
func appendKeys(dst []storage.IndexKey, v remoting.RecordView) []storage.IndexKey {
	topic := text(v.TopicBytes())
	add := func(key []byte) {
		if len(key) > 0 {
			dst = append(dst, storage.IndexKey{Topic: topic, Key: text(key), Phys: v.PhysicalOffset(), Time: v.StoreTimestamp()})
		}
	}
	var uniq, keys []byte
	for name, value := range v.Properties().All() {
		switch string(name) {
		case remoting.PropUniqKey:
			uniq = value
		case remoting.PropKeys:
			keys = value
		}
	}
	add(uniq)
	for key := range bytes.SplitSeq(keys, []byte(" ")) {
		add(key)
	}
	return dst
}

// text views bytes as a string without copying them. The index hashes a key
// while it is added and keeps nothing of it.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// host returns the number of a store host, giving it one if it is new.
func (s *State) host(h string) uint32 {
	for i, known := range s.hosts {
		if known == h {
			return uint32(i)
		}
	}
	s.hosts = append(s.hosts, h)
	return uint32(len(s.hosts) - 1)
}
