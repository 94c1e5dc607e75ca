package broker

import (
	"context"
	"slices"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// putGroup answers UPDATE_AND_CREATE_SUBSCRIPTION_GROUP (200).
func (b *Broker) putGroup(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var g remoting.GroupConfig
	if err := g.DecodeBody(req.Body); err != nil {
		return answer{}, err
	}
	if err := remoting.CheckGroup(g.Name); err != nil {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "%v", err)
	}
	if g.RetryQueueNums < 0 || g.RetryQueueNums > maxQueueNums || g.RetryMaxTimes < -1 {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "retryQueueNums %d, retryMaxTimes %d: want 0 to %d, and -1 or more", g.RetryQueueNums, g.RetryMaxTimes, maxQueueNums)
	}
	if size := sizeOf(g.Attributes); size > maxAttributes {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "attributes of %d bytes, the limit is %d", size, maxAttributes)
	}
	_, err := b.group.Propose(ctx, fsm.PutGroup(g, false))
	return answer{}, err
}

// deleteGroup answers DELETE_SUBSCRIPTION_GROUP (207). Its retry and dead letter
// topics are topics: tools delete them by themselves.
func (b *Broker) deleteGroup(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.DeleteGroupRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	_, err := b.group.Propose(ctx, fsm.DeleteGroup(h.Group, h.CleanOffset))
	return answer{}, err
}

// allGroups answers GET_ALL_SUBSCRIPTION_GROUP_CONFIG (201), on one page.
func (b *Broker) allGroups(context.Context, *session, *remoting.Command) (answer, error) {
	groups, changes := b.group.State().Groups()
	t := remoting.GroupTable{Groups: groups, Version: b.dataVersion(changes)}
	return answer{body: t.AppendBody(nil)}, nil
}

// groupConfig answers GET_SUBSCRIPTION_GROUP_CONFIG (352).
func (b *Broker) subscriptionGroupConfig(_ context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.GroupRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	g, ok := b.group.State().Group(h.Group)
	if !ok {
		return answer{}, b.noGroup(h.Group)
	}
	return answer{body: g.AppendBody(nil)}, nil
}

// consumeStats answers GET_CONSUME_STATS (208): how far a group is, in a topic or
// in all it has committed offsets for.
func (b *Broker) consumeStats(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.ConsumeStatsRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if b.leads() {
		if err := b.offsets.flushed(ctx); err != nil {
			return answer{}, err
		}
	}
	topics := []string{h.Topic}
	if h.Topic == "" {
		topics = b.committedTopics(h.ConsumerGroup)
	}
	var stats remoting.ConsumeStats
	for _, topic := range topics {
		t, ok := b.group.State().Topic(topic)
		if !ok {
			continue
		}
		for id := range t.Config.ReadQueueNums {
			s := remoting.QueueConsumeStats{MessageQueue: remoting.MessageQueue{Topic: topic, BrokerName: b.name, QueueID: id}}
			s.ConsumerOffset, _ = b.group.State().CommittedOffset(h.ConsumerGroup, topic, id)
			s.PullOffset = s.ConsumerOffset
			if q := b.queue(topic, id); q != nil {
				s.BrokerOffset = q.Max()
				first, err := q.Min()
				if err != nil {
					return answer{}, err
				}
				if last := s.ConsumerOffset - 1; last >= first && last < s.BrokerOffset {
					if s.LastTimestamp, err = b.storeTimeAt(q, last); err != nil {
						return answer{}, err
					}
				}
			}
			stats.Queues = append(stats.Queues, s)
		}
	}
	return answer{body: stats.AppendBody(nil)}, nil
}

// committedTopics are the topics that a group has committed offsets for.
func (b *Broker) committedTopics(group string) []string {
	var topics []string
	b.group.State().CommittedOffsets(func(o fsm.Offset) {
		if o.Group == group && (len(topics) == 0 || topics[len(topics)-1] != o.Topic) {
			topics = append(topics, o.Topic)
		}
	})
	return topics
}

// topicConsumers answers QUERY_TOPIC_CONSUME_BY_WHO (300): the groups that are
// subscribed to a topic, or have committed offsets in it.
func (b *Broker) topicConsumers(_ context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.TopicRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	groups := b.clients.consumersOf(h.Topic)
	b.group.State().CommittedOffsets(func(o fsm.Offset) {
		if o.Topic == h.Topic {
			groups = append(groups, o.Group)
		}
	})
	slices.Sort(groups)
	return answer{body: remoting.GroupList(slices.Compact(groups)).AppendBody(nil)}, nil
}
