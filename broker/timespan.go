package broker

import (
	"context"

	"github.com/raftmq/raftmq/remoting"
)

// timeSpan answers QUERY_CONSUME_TIME_SPAN (303): when the messages of each queue
// were stored, the first, the last and the one that a group has consumed last,
// and how long the next one has been waiting.
func (b *Broker) timeSpan(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.GroupTopicRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	topic, ok := b.group.State().Topic(h.Topic)
	if !ok {
		return answer{}, b.noTopic(h.Topic)
	}
	var spans remoting.ConsumeTimeSpans
	for id := range topic.Config.ReadQueueNums {
		if err := ctx.Err(); err != nil {
			return answer{}, err
		}
		span, err := b.queueTimeSpan(h.Group, h.Topic, id)
		if err != nil {
			return answer{}, err
		}
		spans = append(spans, span)
	}
	return answer{body: spans.AppendBody(nil)}, nil
}

func (b *Broker) queueTimeSpan(group, topic string, id int32) (remoting.QueueTimeSpan, error) {
	s := remoting.QueueTimeSpan{MessageQueue: remoting.MessageQueue{Topic: topic, BrokerName: b.name, QueueID: id}, Min: -1, Max: -1, Consumed: -1}
	q := b.queue(topic, id)
	if q == nil {
		return s, nil
	}
	r, err := rangeOf(q)
	if err != nil || r.first == r.end {
		return s, err
	}
	if s.Min, err = b.storeTimeAt(q, r.first); err != nil {
		return s, err
	}
	if s.Max, err = b.storeTimeAt(q, r.end-1); err != nil {
		return s, err
	}
	next, _ := b.group.State().CommittedOffset(group, topic, id)
	if s.Consumed = s.Min; next > r.first {
		if s.Consumed, err = b.storeTimeAt(q, min(next, r.end)-1); err != nil {
			return s, err
		}
	}
	if next < r.end {
		at, err := b.storeTimeAt(q, max(next, r.first))
		if err != nil {
			return s, err
		}
		s.Delay = max(0, b.group.LogTime()-at)
	}
	return s, nil
}
