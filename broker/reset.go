package broker

import (
	"context"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// versionReset is the first client release (3.0.7) that knows resets of offsets
// and questions about them.
const versionReset = 28

// resetOffset answers INVOKE_BROKER_TO_RESET_OFFSET (222): a group's offsets in a
// topic are set by time or, for one queue, to an offset; without force only back.
// With useServerSideResetOffset the broker does it, whether the group has clients
// now or not: each queue's next pull is told to go on at the new offset, and
// until a consumer has begun there, commits for the queue are passed over. It is
// replicated, so it holds over a change of the leader. Without, the group's
// clients are told to do it, as RocketMQ 4 does, and there have to be some.
//
// Deviations: RocketMQ 5 takes every reset for a forced one. An offset one beyond
// a queue's end, which it allows, is the end.
func (b *Broker) resetOffset(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.ResetOffsetRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	// Only who leads knows where a queue ends.
	if err := b.upToDate(ctx); err != nil {
		return answer{}, err
	}
	topic, ok := b.group.State().Topic(h.Topic)
	if !ok {
		return answer{}, b.noTopic(h.Topic)
	}
	if _, ok := b.group.State().Group(h.Group); !ok {
		return answer{}, b.noGroup(h.Group)
	}
	resets, result, err := b.resetTargets(ctx, &h, topic.Config.ReadQueueNums)
	if err != nil {
		return answer{}, err
	}
	if *b.cfg.UseServerSideResetOffset {
		err = b.proposeOffsets(ctx, resets, fsm.ResetOffsets)
	} else {
		err = b.tellReset(&h, result)
	}
	if err != nil {
		return answer{}, err
	}
	b.logger.Info("offsets reset", "consumerGroup", h.Group, "topic", h.Topic, "queues", len(resets))
	return answer{body: result.AppendBody(nil)}, nil
}

// resetTargets finds where the queues are to be consumed from: what is to be
// reset, and what the group's offset is then in each queue asked about.
func (b *Broker) resetTargets(ctx context.Context, h *remoting.ResetOffsetRequest, queues int32) (resets []fsm.Offset, all remoting.QueueOffsets, err error) {
	if h.Timestamp < -1 || h.Offset < -1 || h.QueueID < -1 || h.QueueID >= queues {
		return nil, nil, remoting.Errorf(remoting.InvalidParameter,
			"timestamp %d, offset %d, queueId %d: want -1 or more, and %s has %d queues to read", h.Timestamp, h.Offset, h.QueueID, h.Topic, queues)
	}
	from, to := int32(0), queues
	if h.QueueID >= 0 {
		from, to = h.QueueID, h.QueueID+1
	}
	for id := from; id < to; id++ {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		target, err := b.resetTarget(h, id)
		if err != nil {
			return nil, nil, err
		}
		committed, ok := b.group.State().CommittedOffset(h.Group, h.Topic, id)
		switch {
		case !ok && !*b.cfg.UseServerSideResetOffset:
			return nil, nil, remoting.Errorf(remoting.SystemError, "the group %s has committed nothing in queue %d of %s: consume first, or switch useServerSideResetOffset on", h.Group, id, h.Topic)
		case ok && target >= committed && !h.Force && h.Offset < 0:
			target = committed
		default:
			resets = append(resets, fsm.Offset{Group: h.Group, Topic: h.Topic, Queue: id, Offset: target})
		}
		all = append(all, remoting.QueueOffset{MessageQueue: remoting.MessageQueue{Topic: h.Topic, BrokerName: b.name, QueueID: id}, Offset: target})
	}
	return resets, all, nil
}

// resetTarget is where a queue is to be consumed from.
func (b *Broker) resetTarget(h *remoting.ResetOffsetRequest, id int32) (int64, error) {
	var r queueRange
	q := b.queue(h.Topic, id)
	if q != nil {
		var err error
		if r, err = rangeOf(q); err != nil {
			return 0, err
		}
	}
	switch {
	case h.QueueID >= 0 && h.Offset >= 0:
		if h.Offset < r.first || h.Offset > r.end+1 {
			return 0, remoting.Errorf(remoting.SystemError, "offset %d: queue %d of %s has [%d, %d)", h.Offset, id, h.Topic, r.first, r.end)
		}
		return min(h.Offset, r.end), nil
	case h.Timestamp < 0 || q == nil:
		return r.end, nil
	}
	return q.OffsetByTime(h.Timestamp, storage.Lower)
}

// tellReset tells a group's clients to reset their offsets.
func (b *Broker) tellReset(h *remoting.ResetOffsetRequest, offsets remoting.QueueOffsets) error {
	members := b.clients.membersOf(h.Group)
	if len(members) == 0 {
		return b.notOnline(h.Group)
	}
	for _, m := range members {
		if m.version < versionReset {
			return remoting.Errorf(remoting.SystemError, "the client %s is too old to reset offsets", m.id)
		}
	}
	for _, m := range members {
		cmd := &remoting.Command{Code: remoting.ResetConsumerClientOffset, Header: h, Body: offsets.AppendBody(nil)}
		if m.language == remoting.LanguageCPP {
			cmd.Body = remoting.QueueOffsetList(offsets).AppendBody(nil)
		}
		if err := m.s.conn.Notify(cmd); err != nil {
			b.logger.Warn("a consumer was not told of a reset", "client", m.id, "consumerGroup", h.Group, "error", err)
		}
	}
	return nil
}

// proposeOffsets has offsets applied, by as many commands as it takes.
func (b *Broker) proposeOffsets(ctx context.Context, offsets []fsm.Offset, command func([]fsm.Offset) []byte) error {
	for len(offsets) > 0 {
		n := offsetsAtOnce(offsets)
		if _, err := b.group.Propose(ctx, command(offsets[:n])); err != nil {
			return err
		}
		offsets = offsets[n:]
	}
	return nil
}

func (b *Broker) noGroup(name string) error {
	return remoting.Errorf(remoting.SubscriptionGroupNotExist, "consumer group %s does not exist on %s", name, b.name)
}

func (b *Broker) notOnline(group string) error {
	return remoting.Errorf(remoting.ConsumerNotOnline, "no consumer of group %s is connected to this broker", group)
}
