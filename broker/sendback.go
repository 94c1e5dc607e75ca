package broker

import (
	"context"
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/raftmq/raftmq/remoting"
)

// sendBack answers CONSUMER_SEND_MSG_BACK (36): a message that a consumer could
// not consume comes again later, to its group only, or goes to the group's dead
// letters. The copy, with its count of tries, is one entry of the log, so it is
// there or it is not; asked twice for one message and count of tries, it is made
// once, also if the client has sent the copy itself meanwhile and names the same
// origin.
//
// A stock client takes any answer but SUCCESS, and none, for "not stored": it
// sends a copy itself, to any broker, and of the first copy nothing tells which
// message it is of. So an unknown outcome is not answered while there is time to
// find out (storeSurely); when there is none it is SYSTEM_ERROR, never SUCCESS:
// at worst a message comes twice, which its consumers must bear anyway.
func (b *Broker) sendBack(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.SendBackRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if err := b.writable(); err != nil {
		return answer{}, err
	}
	group, err := b.subscriptionGroup(ctx, h.Group)
	if err != nil {
		return answer{}, err
	}
	if group.RetryQueueNums <= 0 {
		return answer{}, nil // as RocketMQ: the group wants no retries
	}
	v, err := b.message(h.Offset)
	if err != nil {
		return answer{}, remoting.Errorf(remoting.SystemError, "the message at physical offset %d can't be read: %v", h.Offset, err)
	}
	if remoting.IsWaitingTopic(v.Topic()) { // nobody is to see it yet, or ever
		return answer{}, ownUse(v.Topic())
	}
	level := int(h.DelayLevel)
	if v.ReconsumeTimes() < 0 || v.ReconsumeTimes() >= b.retryLimit(group, h.MaxReconsumeTimes, req.Version) {
		level = -1
	}
	topic, err := b.returnTopic(ctx, group, level < 0)
	if err != nil {
		return answer{}, err
	}
	op, err := b.returned(v, topic, level)
	if err != nil {
		return answer{}, err
	}
	return answer{}, b.storeSurely(ctx, op, req)
}

// returnTopic is the topic that a message of a group is returned to.
func (b *Broker) returnTopic(ctx context.Context, group remoting.GroupConfig, dead bool) (topic remoting.TopicConfig, err error) {
	if dead {
		topic, err = b.createTopic(ctx, ownTopic(remoting.DLQTopic(group.Name), 1))
	} else {
		topic, err = b.retryTopic(ctx, group)
	}
	if err == nil && (topic.Perm&remoting.PermWrite == 0 || topic.WriteQueueNums <= 0) {
		err = remoting.Errorf(remoting.NoPermission, "the topic %s can't be written", topic.Name)
	}
	return topic, err
}

// returned makes the copy of a message that comes again after a delay level, 0
// for that of its next try, or is dead, below 0. Its id, keys, tags, body and
// birth are kept.
func (b *Broker) returned(v remoting.RecordView, topic remoting.TopicConfig, level int) (*storeOp, error) {
	op := &storeOp{record: v.Record()}
	r := &op.record
	p := r.Properties.AppendExcept(nil, remoting.PropDelay, remoting.PropWait, remoting.PropRealTopic, remoting.PropRealQueueID)
	if _, ok := p.Lookup(remoting.PropRetryTopic); !ok {
		p = remoting.AppendProperty(p, remoting.PropRetryTopic, r.Topic)
	}
	if _, ok := p.Lookup(remoting.PropOriginMessageID); !ok {
		p = remoting.AppendProperty(p, remoting.PropOriginMessageID, v.OffsetMsgID())
	}
	p = remoting.AppendProperty(p, remoting.PropWait, "false")
	r.Topic, r.QueueID, r.StoreHost = topic.Name, 0, b.addr
	if r.ReconsumeTimes < math.MaxInt32 {
		r.ReconsumeTimes++
	}
	r.PreparedTransactionOffset = 0
	r.SysFlag &^= remoting.SysFlagTransaction
	r.Properties = p
	op.key = keyOfCopy(v, r)
	if level < 0 {
		p = remoting.AppendProperty(p, remoting.PropDelay, "0")
	} else {
		if level == 0 {
			level = 3 + int(v.ReconsumeTimes())
		}
		r.QueueID = rand.Int32N(topic.WriteQueueNums)
		p = b.schedule(r, remoting.AppendProperty(p, remoting.PropDelay, strconv.Itoa(level)), level, &op.delay)
	}
	if r.Properties = p; len(p) > remoting.MaxProperties {
		return nil, remoting.Errorf(remoting.MessageIllegal, "properties of %d bytes with those of a retry, the limit is %d", len(p), remoting.MaxProperties)
	}
	return op, nil
}
