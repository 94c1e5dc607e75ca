package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// sendBack answers CONSUMER_SEND_MSG_BACK (36): a message that a consumer could
// not consume comes again later, to its group only, or goes to the group's dead
// letters. The copy is one entry of the log, so it is there or it is not; asked
// twice for one message and count of tries, it is made once.
func (b *Broker) sendBack(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.SendBackRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if !b.leads() {
		return answer{}, raftgroup.ErrNotLeader
	}
	group, err := b.subscriptionGroup(ctx, h.Group)
	if err != nil {
		return answer{}, err
	}
	if group.RetryQueueNums <= 0 {
		return answer{}, nil // as RocketMQ: the group wants no retries
	}
	original, err := b.group.Store().Record(h.Offset)
	if err != nil {
		return answer{}, remoting.Errorf(remoting.SystemError, "the message at physical offset %d can't be read: %v", h.Offset, err)
	}
	v, err := remoting.ParseRecord(original)
	if err != nil {
		return answer{}, err
	}
	op, err := b.retryCopy(ctx, &h, group, req.Version, v)
	if err != nil {
		return answer{}, err
	}
	r, err := b.store(ctx, op)
	if err != nil {
		return answer{}, err
	}
	return answer{}, refusalOf(r.Status, op.record.Topic)
}

// retryCopy makes the copy of a message that comes again, or is dead.
func (b *Broker) retryCopy(ctx context.Context, h *remoting.SendBackRequest, group remoting.GroupConfig, clientVersion int32, v remoting.RecordView) (*storeOp, error) {
	limit := group.RetryMaxTimes
	if h.MaxReconsumeTimes >= 0 && clientVersion >= versionOwnRetryLimit {
		limit = h.MaxReconsumeTimes
	}
	dead := v.ReconsumeTimes() >= limit || h.DelayLevel < 0
	var topic remoting.TopicConfig
	var err error
	if dead {
		topic, err = b.createTopic(ctx, ownTopic(remoting.DLQTopic(group.Name), 1))
	} else {
		topic, err = b.retryTopic(ctx, group)
	}
	if err != nil {
		return nil, err
	}
	if topic.Perm&remoting.PermWrite == 0 || topic.WriteQueueNums <= 0 {
		return nil, remoting.Errorf(remoting.NoPermission, "the topic %s can't be written", topic.Name)
	}
	op := &storeOp{record: v.Record()}
	r := &op.record
	if retryTopic, ok := r.Properties.Lookup(remoting.PropRetryTopic); !ok || len(retryTopic) == 0 {
		r.Properties = remoting.AppendProperty(r.Properties.AppendExcept(nil), remoting.PropRetryTopic, r.Topic)
	}
	if _, ok := r.Properties.Lookup(remoting.PropOriginMessageID); !ok {
		r.Properties = remoting.AppendProperty(r.Properties, remoting.PropOriginMessageID, v.OffsetMsgID())
	}
	r.Properties = r.Properties.AppendExcept(nil, remoting.PropDelay, remoting.PropWait, remoting.PropRealTopic, remoting.PropRealQueueID)
	r.Properties = remoting.AppendProperty(r.Properties, remoting.PropWait, "false")
	uniq, _ := r.Properties.Lookup(remoting.PropUniqKey)
	r.Topic, r.QueueID, r.StoreHost = topic.Name, 0, b.addr
	r.ReconsumeTimes++
	r.PreparedTransactionOffset = 0
	r.SysFlag &^= remoting.SysFlagTransaction
	if uniq != nil {
		op.key = fsm.SendKey(r.Topic, r.ReconsumeTimes, uniq)
	}
	if dead {
		r.Properties = remoting.AppendProperty(r.Properties, remoting.PropDelay, "0")
		return op, nil
	}
	r.QueueID = rand.Int32N(topic.WriteQueueNums)
	level := int(h.DelayLevel)
	if level == 0 {
		level = 3 + int(v.ReconsumeTimes())
	}
	r.Properties = remoting.AppendProperty(r.Properties, remoting.PropDelay, strconv.Itoa(level))
	r.Properties = b.schedule(r, r.Properties, level, &op.delay)
	if len(r.Properties) > remoting.MaxProperties {
		return nil, remoting.Errorf(remoting.MessageIllegal, "properties of %d bytes with those of a retry, the limit is %d", len(r.Properties), remoting.MaxProperties)
	}
	return op, nil
}

// storeOp is a record that the broker itself stores.
type storeOp struct {
	record remoting.Record
	key    fsm.Key
	delay  int64
	done   chan storeResult
}

type storeResult struct {
	r   fsm.Result
	err error
}

// AppendRecords implements raftgroup.SendOp.
func (op *storeOp) AppendRecords(dst []byte) ([]byte, error) {
	return remoting.AppendRecord(dst, &op.record)
}

// Done implements raftgroup.SendOp.
func (op *storeOp) Done(r fsm.Result, err error) { op.done <- storeResult{r, err} }

// store stores a record and waits for it.
func (b *Broker) store(ctx context.Context, op *storeOp) (fsm.Result, error) {
	op.done = make(chan storeResult, 1)
	err := b.group.Append(raftgroup.Send{
		SendMeta: fsm.SendMeta{Key: op.key, Delay: op.delay}, Count: 1, Size: op.record.Size(), Op: op,
	})
	if err != nil {
		return fsm.Result{}, err
	}
	select {
	case res := <-op.done:
		return res.r, res.err
	case <-ctx.Done():
		return fsm.Result{}, errors.Join(raftgroup.ErrUnknown, ctx.Err())
	}
}
