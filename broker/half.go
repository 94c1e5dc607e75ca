package broker

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// A half message waits in the half topic for its producer to commit it or to roll
// it back. It does so at one place all its life, so that what the producer was told
// of it stays true:
//
//	        send                    END_TRANSACTION: commit
//	producer ---> half topic, queue 0 ---> real topic, schedule or timer topic
//	                      |   \----------> nowhere              rollback
//	                      |
//	                      \--------------> TRANS_CHECK_MAX_TIME_TOPIC
//	                       nobody knew what became of it, transactionCheckMax times
//
// Each way out of the half topic is one entry of the log that stores the message at
// its end and settles the half message, both or neither, and only if it was not
// settled before. So it goes one way, once, however often and by whichever leader
// that is tried. Which half messages are settled, and how often was asked about the
// others, is state of the group; RocketMQ's second topic, which says the same by
// messages, stays empty.

// halve turns a record into a half message. Where it belongs is kept in its
// properties, and so is the delay it is to have once it is committed.
func (b *Broker) halve(r *remoting.Record, p remoting.Properties, delay *int64) remoting.Properties {
	*delay = b.immunity(p).Milliseconds()
	p = p.AppendExcept(nil, remoting.PropRealTopic, remoting.PropRealQueueID, remoting.PropCheckTimes, remoting.PropPreparedOffset)
	p = remoting.AppendProperty(p, remoting.PropRealTopic, r.Topic)
	p = remoting.AppendProperty(p, remoting.PropRealQueueID, strconv.Itoa(int(r.QueueID)))
	r.Topic, r.QueueID = remoting.TopicHalf, 0
	return p
}

// immunity is how old a half message has to be before its producer is asked: as old
// as the message says, or the configuration.
func (b *Broker) immunity(p remoting.Properties) time.Duration {
	seconds, err := strconv.ParseInt(p.Get(remoting.PropCheckImmunity), 10, 64)
	if err != nil || seconds < 0 {
		return time.Duration(b.cfg.TransactionTimeout)
	}
	if most := int64(b.cfg.FileReservedTime) * 3600; seconds > most {
		seconds = most // then it is given up
	}
	return max(time.Duration(seconds)*time.Second, time.Millisecond)
}

// whole makes the record that a half message becomes. Its physical offset stays
// that of the half message, by which apply tells its topic from a later one of that
// name.
func whole(v remoting.RecordView) (remoting.Record, error) {
	r := v.Record()
	topic, id := r.Properties.Get(remoting.PropRealTopic), r.Properties.Get(remoting.PropRealQueueID)
	queue, err := strconv.ParseInt(id, 10, 32)
	if topic == "" || err != nil || remoting.IsReadOnlyTopic(topic) {
		return r, fmt.Errorf("the half message at %d does not say where it belongs: topic %q, queue %q", v.PhysicalOffset(), topic, id)
	}
	r.Topic, r.QueueID = topic, int32(queue)
	r.Properties = r.Properties.AppendExcept(nil, remoting.PropRealTopic, remoting.PropRealQueueID)
	return r, nil
}

// commitOp stores what a half message becomes and settles it.
func (b *Broker) commitOp(v remoting.RecordView, half fsm.Waiting) (*storeOp, error) {
	r, err := whole(v)
	if err != nil {
		return nil, err
	}
	r.StoreHost = b.addr
	r.SysFlag = r.SysFlag&^remoting.SysFlagTransaction | remoting.SysFlagCommit
	r.PreparedTransactionOffset = v.PhysicalOffset()
	op := &storeOp{record: r, settles: &half, waited: true}
	w := scanProperties(string(r.Properties))
	if level := w.level(); level > 0 {
		op.record.Properties = b.schedule(&op.record, r.Properties, level, &op.delay)
		return op, nil
	}
	due, err := b.dueOf(w.timers)
	if err != nil {
		return nil, err
	}
	if due > 0 {
		op.record.Properties = b.scheduleAt(&op.record, r.Properties, due)
	}
	return op, nil
}

// giveUpOp moves a half message that nobody knows anything of out of the way.
func (b *Broker) giveUpOp(v remoting.RecordView, half fsm.Waiting, times int32) *storeOp {
	r := v.Record()
	r.Topic, r.QueueID, r.StoreHost, r.PreparedTransactionOffset = remoting.TopicTransCheckMax, 0, b.addr, 0
	r.Properties = withCheckTimes(r.Properties, times)
	return &storeOp{record: r, settles: &half}
}

// withCheckTimes says in a message's properties how often was asked about it, if
// there is room for that: a message that is as large as one may be is asked about,
// and given up, as any other.
func withCheckTimes(p remoting.Properties, times int32) remoting.Properties {
	p = p.AppendExcept(nil, remoting.PropCheckTimes)
	if counted := remoting.AppendProperty(p, remoting.PropCheckTimes, strconv.Itoa(int(times))); len(counted) <= remoting.MaxProperties {
		return counted
	}
	return p
}

// waitingAt names the message at an offset of a system topic's only queue.
func (b *Broker) waitingAt(topic string, offset int64) (fsm.Waiting, bool) {
	t, ok := b.group.State().Topic(topic)
	return fsm.Waiting{Queue: storage.QueueID{Topic: topic, Incarnation: t.Incarnation}, Offset: offset}, ok
}

// resumeCheck answers RESUME_CHECK_HALF_MESSAGE (323): a half message that was
// given up is one again, a new one of which nobody was asked yet, with the id it was
// sent with. Deviation: asked twice for one message, it is resumed once.
func (b *Broker) resumeCheck(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.ResumeCheckRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if err := b.writable(); err != nil {
		return answer{}, err
	}
	_, phys, err := remoting.ParseOffsetMsgID(h.MsgID)
	if err != nil {
		return answer{}, err
	}
	v, err := b.message(phys)
	if err != nil {
		return answer{}, remoting.Errorf(remoting.SystemError, "the message %s can't be read: %v", h.MsgID, err)
	}
	given, ok := b.waitingAt(remoting.TopicTransCheckMax, v.QueueOffset())
	if !ok || v.Topic() != remoting.TopicTransCheckMax || v.QueueID() != 0 {
		return answer{}, remoting.Errorf(remoting.SystemError, "the message %s is of topic %s: only what is in %s can be resumed", h.MsgID, v.Topic(), remoting.TopicTransCheckMax)
	}
	r, err := whole(v)
	if err != nil {
		return answer{}, err
	}
	op := &storeOp{record: r, settles: &given}
	op.record.StoreHost = b.addr
	op.record.Properties = b.halve(&op.record, r.Properties, &op.delay)
	res, err := b.store(ctx, op)
	if err != nil || res.Status == fsm.Stale {
		return answer{}, err
	}
	return answer{}, refusalOf(res.Status, r.Topic)
}
