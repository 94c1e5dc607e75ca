package broker

import (
	"context"
	"maps"
	"slices"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// maxQueueNums bounds the queues of a topic on one group.
	maxQueueNums = 1 << 16
	maxTopicPerm = remoting.PermPriority | remoting.PermRead | remoting.PermWrite | remoting.PermInherit
	// maxAttributes bounds what the attributes of a topic or group have together, in
	// bytes.
	maxAttributes = 16 << 10
)

// putTopic answers UPDATE_AND_CREATE_TOPIC (17): on this group only, as in
// RocketMQ; tools send it to every group. SUCCESS means that a quorum has it.
func (b *Broker) putTopic(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var c remoting.TopicConfig
	if err := c.Decode(req); err != nil {
		return answer{}, err
	}
	if err := b.checkTopicConfig(&c); err != nil {
		return answer{}, err
	}
	if !b.leads() {
		return answer{}, raftgroup.ErrNotLeader
	}
	if err := b.mergeAttributes(&c); err != nil {
		return answer{}, err
	}
	if old, ok := b.group.State().Topic(c.Name); ok && equalTopics(old.Config, c) {
		return answer{}, nil // as in RocketMQ no change, and no new version
	}
	_, err := b.group.Propose(ctx, fsm.PutTopic(c, false))
	return answer{}, err
}

func (b *Broker) checkTopicConfig(c *remoting.TopicConfig) error {
	bad := func(format string, args ...any) error {
		return remoting.Errorf(remoting.InvalidParameter, format, args...)
	}
	if err := remoting.CheckTopic(c.Name); err != nil {
		return bad("%v", err)
	}
	switch {
	case len(c.Name) > storage.MaxTopicLen:
		return bad("a topic of %d bytes can't be kept, the limit is %d", len(c.Name), storage.MaxTopicLen)
	case b.isSystemTopic(c.Name):
		return bad("%s is a system topic: it can't be changed", c.Name)
	case c.ReadQueueNums < 0 || c.ReadQueueNums > maxQueueNums || c.WriteQueueNums < 0 || c.WriteQueueNums > maxQueueNums:
		return bad("readQueueNums %d, writeQueueNums %d: want 0 to %d", c.ReadQueueNums, c.WriteQueueNums, maxQueueNums)
	case c.Perm&^maxTopicPerm != 0:
		return bad("perm %d: want a sum of 2 (write), 4 (read), 1 (inherit), 8 (priority)", c.Perm)
	case c.FilterType != "SINGLE_TAG" && c.FilterType != "MULTI_TAG":
		return bad("topicFilterType %q: want SINGLE_TAG or MULTI_TAG", c.FilterType)
	}
	return nil
}

// mergeAttributes applies the request's changes (+name=value, -name) to the
// attributes that the topic has.
func (b *Broker) mergeAttributes(c *remoting.TopicConfig) error {
	merged := map[string]string{}
	if old, ok := b.group.State().Topic(c.Name); ok {
		merged = maps.Clone(old.Config.Attributes)
		if merged == nil {
			merged = map[string]string{}
		}
	}
	for _, change := range slices.Sorted(maps.Keys(c.Attributes)) {
		name := change[1:]
		if change[0] == '-' {
			delete(merged, name)
			continue
		}
		value := c.Attributes[change]
		if name == fsm.AttributeDedup && value != "true" && value != "false" {
			return remoting.Errorf(remoting.InvalidParameter, "attribute %s is %q: want true or false", name, value)
		}
		merged[name] = value
	}
	if size := sizeOf(merged); size > maxAttributes {
		return remoting.Errorf(remoting.InvalidParameter, "attributes of %d bytes, the limit is %d", size, maxAttributes)
	}
	c.Attributes = merged
	return nil
}

func sizeOf(attributes map[string]string) (size int) {
	for name, value := range attributes { // any order: it is a sum
		size += len(name) + len(value)
	}
	return size
}

func equalTopics(a, b remoting.TopicConfig) bool {
	return string(a.AppendBody(nil)) == string(b.AppendBody(nil))
}

// deleteTopic answers DELETE_TOPIC_IN_BROKER (215): its messages, queues and the
// groups' offsets in it are gone. A topic of that name that is created later
// begins at offset 0.
func (b *Broker) deleteTopic(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.TopicRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if b.isSystemTopic(h.Topic) {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "%s is a system topic: it can't be deleted", h.Topic)
	}
	_, err := b.group.Propose(ctx, fsm.DeleteTopic(h.Topic))
	return answer{}, err
}

// topicTable is all topics and their version.
func (b *Broker) topicTable() remoting.TopicTable {
	topics, changes := b.group.State().Topics()
	t := remoting.TopicTable{Version: b.dataVersion(changes)}
	for _, topic := range topics {
		c := topic.Config
		if c.Name == remoting.TopicTimer { // it has one queue for all who do not know its buckets
			c.ReadQueueNums, c.WriteQueueNums = 1, 1
		}
		t.Topics = append(t.Topics, c)
	}
	return t
}

// dataVersion is equal on all replicas that have applied the same commands.
func (b *Broker) dataVersion(c fsm.Changes) remoting.DataVersion {
	return remoting.DataVersion{StateVersion: int64(b.group.State().Leader().Term), Timestamp: c.Time, Counter: c.Count}
}

// allTopics answers GET_ALL_TOPIC_CONFIG (21), on one page.
func (b *Broker) allTopics(context.Context, *session, *remoting.Command) (answer, error) {
	t := b.topicTable()
	return answer{body: t.AppendBody(nil)}, nil
}

// topicConfig answers GET_TOPIC_CONFIG (351).
func (b *Broker) topicConfig(_ context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.TopicRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	t, ok := b.group.State().Topic(h.Topic)
	if !ok {
		return answer{}, b.noTopic(h.Topic)
	}
	return answer{body: t.Config.AppendBody(nil)}, nil
}

// systemTopics answers GET_SYSTEM_TOPIC_LIST_FROM_BROKER (305).
func (b *Broker) systemTopics(context.Context, *session, *remoting.Command) (answer, error) {
	topics, _ := b.group.State().Topics()
	l := remoting.TopicList{Topics: []string{}}
	for _, t := range topics {
		if b.isSystemTopic(t.Config.Name) {
			l.Topics = append(l.Topics, t.Config.Name)
		}
	}
	return answer{body: l.AppendBody(nil)}, nil
}

// topicStats answers GET_TOPIC_STATS_INFO (202).
func (b *Broker) topicStats(_ context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.TopicRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	t, ok := b.group.State().Topic(h.Topic)
	if !ok {
		return answer{}, b.noTopic(h.Topic)
	}
	var stats remoting.TopicStats
	for id := range max(t.Config.ReadQueueNums, t.Config.WriteQueueNums) {
		s := remoting.QueueStats{MessageQueue: remoting.MessageQueue{Topic: h.Topic, BrokerName: b.name, QueueID: id}}
		if q := b.queue(h.Topic, id); q != nil {
			var err error
			if s.MinOffset, err = q.Min(); err != nil {
				return answer{}, err
			}
			if s.MaxOffset = q.Max(); s.MaxOffset > s.MinOffset {
				if s.LastUpdateTimestamp, err = b.storeTimeAt(q, s.MaxOffset-1); err != nil {
					return answer{}, err
				}
			}
		}
		stats.Queues = append(stats.Queues, s)
	}
	return answer{body: stats.AppendBody(nil)}, nil
}
