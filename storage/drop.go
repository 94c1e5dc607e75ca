package storage

import (
	"slices"
)

// DropTopic takes a topic's queues out of the store. Their files go when a
// manifest pinned later has been synced: until then a replay needs to find them.
func (s *Store) DropTopic(topic string, incarnation uint64) error {
	if err := s.Err(); err != nil {
		return err
	}
	t := TopicID{topic, incarnation}
	w := &s.writer
	w.order = slices.DeleteFunc(w.order, func(q *Queue) bool {
		if q.id.topic() != t {
			return false
		}
		s.dropQueue(q)
		return true
	})
	s.house.mu.Lock()
	defer s.house.mu.Unlock()
	s.house.topics = append(s.house.topics, t)
	return nil
}

func (s *Store) dropQueue(q *Queue) {
	s.queuesMu.Lock()
	delete(s.queues, q.id)
	s.queuesMu.Unlock()
	q.mu.Lock()
	q.dropped = true
	if q.tail != nil {
		s.house.pending.Add(-int64(len(q.tail.pending)))
	}
	q.mu.Unlock()
	s.repair.forget(q)
}

// topicsDone takes topics that a checkpoint calls doomed off the list.
func (h *housekeeper) topicsDone(done []TopicID) {
	h.mu.Lock()
	h.topics = slices.DeleteFunc(h.topics, func(t TopicID) bool { return slices.Contains(done, t) })
	h.mu.Unlock()
	h.drop.Store(true)
	poke(h.kick)
}

// removeTopics removes the files of the topics that the checkpoint calls doomed.
func (s *Store) removeTopics() {
	c := *s.checkpoint
	if len(c.doomed) == 0 {
		return
	}
	for _, t := range c.doomed {
		s.files.drop(func(k fileKey) bool { return k.queue != nil && k.queue.id.topic() == t })
		if err := s.fs.RemoveAll(LabelTrim, topicPath(s.dir, t)); err != nil {
			s.log.Error("the files of a deleted topic cannot be removed, it is tried again at the next snapshot", "topic", t, "error", err)
			return
		}
	}
	c.doomed = nil
	s.checkpoint = &c // the next one written says so
}
