package broker

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// maxResendID bounds the id of a request to send dead letters again.
const maxResendID = 64

// resendDeadLetters answers raftmq's RESEND_DEAD_LETTERS (30012): a group gets dead
// letters of its own again, at once or when it is there, and no other group does.
// Each goes to the group's retry topic as a message that was never tried: its
// consumers see the topic that it was first sent to, its id, keys, tags and birth,
// and reconsumeTimes 0, and if they fail again it comes again like any other, and
// is dead again in the end, as a letter of its own. That it was sent again is
// recorded in the same entry of the log; then it is not, unless forced.
func (b *Broker) resendDeadLetters(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.DeadLetterResend
	if err := h.DecodeBody(req.Body); err != nil {
		return answer{}, err
	}
	switch {
	case len(h.Letters) == 0 || len(h.Letters) > remoting.MaxResend:
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "%d dead letters to send again, want 1 to %d", len(h.Letters), remoting.MaxResend)
	case !isResendID(h.ID):
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "id %.64q of the request: want 1 to %d letters and digits", h.ID, maxResendID)
	}
	if !b.leads() {
		return answer{}, raftgroup.ErrNotLeader
	}
	from, err := b.lettersOf(h.Group)
	if err != nil {
		return answer{}, err
	}
	if from == nil {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "consumer group %s has no dead letters on %s", h.Group, b.name)
	}
	group, ok := b.group.State().Group(h.Group)
	if !ok {
		return answer{}, remoting.Errorf(remoting.SubscriptionGroupNotExist, "consumer group %s does not exist on %s any more: create it, and send its dead letters again then", h.Group, b.name)
	}
	if err := b.writable(); err != nil {
		return answer{}, err
	}
	topic, err := b.returnTopic(ctx, group, false)
	if err != nil {
		return answer{}, err
	}
	results := make(remoting.DeadLetterResults, len(h.Letters))
	ops := make([]*storeOp, len(h.Letters))
	for i, id := range h.Letters {
		results[i] = remoting.DeadLetterResult{Letter: id}
		v, err := b.letter(from.Config.Name, id)
		if err == nil {
			ops[i], err = b.resent(v, from, topic, &h)
		}
		if err == nil {
			err = b.propose(ops[i])
		}
		if err != nil {
			ops[i] = nil
			results[i].Outcome, results[i].Error = remoting.ResendFailed, err.Error()
		}
	}
	for i, op := range ops {
		if op != nil {
			op.outcome(ctx, &results[i])
		}
	}
	return answer{body: results.AppendBody(nil)}, nil
}

// isResendID says whether an id is one that can be part of a property.
func isResendID(id string) bool {
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(id) > 0 && len(id) <= maxResendID
}

// resent makes the message that a dead letter comes again as. What it is known by
// from then on has the letter and the request in it: the tries of its first life
// may not be over for long, and these are others.
func (b *Broker) resent(v remoting.RecordView, from *fsm.Topic, topic remoting.TopicConfig, h *remoting.DeadLetterResend) (*storeOp, error) {
	op := &storeOp{record: v.Record()}
	r := &op.record
	p := r.Properties.AppendExcept(nil, remoting.PropDelay, remoting.PropWait, remoting.PropRealTopic, remoting.PropRealQueueID,
		remoting.PropReconsumeTime, remoting.PropMaxReconsumeTimes, remoting.PropResent)
	if _, ok := p.Lookup(remoting.PropOriginMessageID); !ok {
		p = remoting.AppendProperty(p, remoting.PropOriginMessageID, v.OffsetMsgID())
	}
	p = remoting.AppendProperty(p, remoting.PropWait, "false")
	p = remoting.AppendProperty(p, remoting.PropResent, v.OffsetMsgID()+"-"+h.ID)
	if r.Properties = p; len(p) > remoting.MaxProperties {
		return nil, remoting.Errorf(remoting.MessageIllegal, "properties of %d bytes with those of a resend, the limit is %d", len(p), remoting.MaxProperties)
	}
	r.Topic, r.QueueID, r.StoreHost = topic.Name, rand.Int32N(topic.WriteQueueNums), b.addr
	r.ReconsumeTimes, r.PreparedTransactionOffset = 0, 0
	r.SysFlag &^= remoting.SysFlagTransaction
	op.key = keyOfCopy(v, r)
	q := storage.QueueID{Topic: from.Config.Name, Incarnation: from.Incarnation, Queue: v.QueueID()}
	if !h.Force || !b.group.State().Settled(q, v.QueueOffset()) {
		op.settles = &fsm.Waiting{Queue: q, Offset: v.QueueOffset()}
	}
	return op, nil
}

// outcome waits for what becomes of a dead letter that is sent again.
func (op *storeOp) outcome(ctx context.Context, res *remoting.DeadLetterResult) {
	r, err := op.wait(ctx)
	switch {
	case errors.Is(err, raftgroup.ErrUnknown):
		res.Outcome, res.Error = remoting.ResendUnknown, err.Error()
	case err != nil:
		res.Outcome, res.Error = remoting.ResendFailed, err.Error()
	case r.Status == fsm.Stored || r.Status == fsm.Repeated:
		res.Outcome = remoting.Resent
	case r.Status == fsm.Stale:
		res.Outcome, res.Error = remoting.ResentBefore, "it was sent again before"
	case r.Status == fsm.NotWaiting:
		res.Outcome, res.Error = remoting.ResendFailed, "it is gone"
	default:
		res.Outcome, res.Error = remoting.ResendFailed, refusalOf(r.Status, op.record.Topic).Error()
	}
}
