package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// recordOverhead is, about, what a record is larger than its body, topic and
// properties.
const recordOverhead = 128

// maxReconsumeTimes is more often than anything can have been consumed again.
const maxReconsumeTimes = 1 << 20

// sendOp is one send on its way: SEND_MESSAGE (10), SEND_MESSAGE_V2 (310) or
// SEND_BATCH_MESSAGE (320). What it is answered with is in outcome.go.
//
// Deviations from RocketMQ: a topic without the write permission is not written;
// an empty body is stored; a template other than TBW102 makes no topic if
// autoCreateTopicEnable is off. Not in this release, and refused: inner batches
// (MESSAGE_ILLEGAL).
type sendOp struct {
	b         *Broker
	s         *session
	req       *remoting.Command // of no use after Append
	responder remoting.Responder
	h         remoting.SendHeader
	born      netip.AddrPort // the client
	from      origin
	key       fsm.Key
	repeat    bool   // the client says so
	limbo     bool   // this replica has passed it on, and may have had it stored
	uniq      string // the UNIQ_KEY, of a batch the first one's
	delay     int64  // ms
	recall    string // the handle of a message that is due at a time
	queue     int32  // the one the client asked for, or that was chosen

	record  remoting.Record
	batch   []remoting.BatchMessage // lies in the request: of no use after AppendRecords
	sizes   []int                   // of the batch's records
	props   []byte
	started time.Time

	resp   remoting.Command
	answer remoting.SendResponse
}

var sendOps = sync.Pool{New: func() any { return new(sendOp) }}

func (op *sendOp) free() {
	*op = sendOp{props: op.props[:0], sizes: op.sizes[:0]}
	sendOps.Put(op)
}

// send answers a send request. The message is encoded before it returns.
func (b *Broker) send(s *session, req *remoting.Command) { b.sendAfter(s, req, false) }

// sendAfter is send; limbo says that the message was passed on before, and may be
// stored.
func (b *Broker) sendAfter(s *session, req *remoting.Command, limbo bool) {
	op := sendOps.Get().(*sendOp)
	op.b, op.s, op.req, op.responder, op.started, op.limbo = b, s, req, req.Responder(), time.Now(), limbo
	if err := op.h.Decode(req); err != nil {
		op.refuse(err)
		return
	}
	op.born, op.from = s.from(req)
	op.repeat = req.Ext.Get(extRepeat) == "true"
	if err := b.writable(); err != nil {
		op.refuseNow(err)
		return
	}
	h := &op.h
	topic, ok := b.group.State().Topic(h.Topic)
	_, retry := strings.CutPrefix(h.Topic, remoting.RetryPrefix)
	if ok && !retry {
		op.propose(topic.Config, req.Body)
		return
	}
	if err := remoting.CheckTopic(h.Topic); err != nil {
		op.refuse(err)
		return
	}
	if remoting.IsReadOnlyTopic(h.Topic) {
		op.refuse(ownUse(h.Topic))
		return
	}
	if _, may := b.template(h); !retry && !may {
		op.refuse(b.noTopic(h.Topic))
		return
	}
	// What is to be created first needs raft.
	op.req = req.Clone()
	b.run(b.workers, requestBytes(req), op.refuse, func(ctx context.Context) {
		topic, err := b.sendTopic(ctx, op, op.req.Version)
		if err != nil {
			op.refuseNow(err)
			return
		}
		op.propose(topic, op.req.Body)
	})
}

// writable says whether this replica takes what is to be stored.
func (b *Broker) writable() error {
	switch {
	case !b.leads():
		return raftgroup.ErrNotLeader
	case b.leading.retain.full.Load():
		return raftgroup.ErrNoRoom
	}
	return nil
}

// refuseNow is refuse while the request is there: if this replica leads no more, it
// is passed on.
func (op *sendOp) refuseNow(err error) {
	if b := op.b; errors.Is(err, raftgroup.ErrNotLeader) && !op.limbo && b.relaysAfter(op.req) {
		b.relay(op.s, op.req, (*Broker).send)
		op.free()
		return
	}
	op.refuse(err)
}

func (op *sendOp) refuse(err error) {
	if op.limbo { // that this one is refused says nothing of the first
		op.unknown(fmt.Errorf("%w: the leader before did not answer, this one refuses it: %w", raftgroup.ErrUnknown, err))
		return
	}
	op.b.counters.putFailed.Add(1)
	op.b.refuse(op.responder, err)
	op.free()
}

// propose checks the send, encodes it and gives it to raft.
func (op *sendOp) propose(topic remoting.TopicConfig, body []byte) {
	if err := op.prepare(topic, body); err != nil {
		op.refuse(err)
		return
	}
	size := len(body) + len(op.props) + len(op.record.Topic) + recordOverhead
	count := 1
	if op.batch != nil {
		count = len(op.batch)
		size = len(body) + count*(len(op.props)+len(op.record.Topic)+recordOverhead)
	}
	err := op.b.group.Append(raftgroup.Send{
		SendMeta: fsm.SendMeta{Key: op.key, Repeat: op.deliberate(), Delay: op.delay},
		Count:    count, Size: size, Op: op,
	})
	if err != nil {
		op.refuseNow(err)
	}
}

func (op *sendOp) deliberate() bool {
	return !op.repeat && op.key != fsm.Key{} && op.b.repeats.deliberate(sentKey{op.from, op.key}, op.started)
}

func ownUse(topic string) error {
	return remoting.Errorf(remoting.NoPermission, "the topic %s is for the broker's own use", topic)
}

// prepare makes the record, or the batch, of the request.
func (op *sendOp) prepare(topic remoting.TopicConfig, body []byte) error {
	h, b := &op.h, op.b
	switch {
	case remoting.IsReadOnlyTopic(h.Topic):
		return ownUse(h.Topic)
	case topic.Perm&remoting.PermWrite == 0:
		return remoting.Errorf(remoting.NoPermission, "the topic %s can't be written", h.Topic)
	case len(h.Topic) > remoting.MaxTopicName && !strings.HasPrefix(h.Topic, remoting.RetryPrefix):
		return remoting.Errorf(remoting.MessageIllegal, "topic of %d bytes, the limit is %d", len(h.Topic), remoting.MaxTopicName)
	case h.QueueID >= max(topic.ReadQueueNums, topic.WriteQueueNums):
		return remoting.Errorf(remoting.InvalidParameter, "queueId %d: the topic %s has %d queues to write", h.QueueID, h.Topic, topic.WriteQueueNums)
	case h.ReconsumeTimes < 0 || h.ReconsumeTimes > maxReconsumeTimes:
		return remoting.Errorf(remoting.InvalidParameter, "reconsumeTimes is %d, want 0 to %d", h.ReconsumeTimes, maxReconsumeTimes)
	case int64(len(body)) > int64(b.cfg.MaxMessageSize):
		return remoting.Errorf(remoting.MessageIllegal, "body of %d bytes, the limit is %d (maxMessageSize)", len(body), int64(b.cfg.MaxMessageSize))
	case h.SysFlag&remoting.SysFlagInnerBatch != 0:
		return remoting.Errorf(remoting.MessageIllegal, "sysFlag %d: inner batches are not supported", h.SysFlag)
	}
	op.queue = h.QueueID
	if op.queue < 0 {
		if topic.WriteQueueNums <= 0 {
			return remoting.Errorf(remoting.NoPermission, "the topic %s has no queue to write", h.Topic)
		}
		op.queue = rand.Int32N(topic.WriteQueueNums)
	}
	op.record = remoting.Record{
		QueueID: op.queue, Flag: h.Flag, BornTimestamp: h.BornTimestamp,
		SysFlag:  h.SysFlag &^ (remoting.SysFlagTransaction | remoting.SysFlagNeedUnwrap),
		BornHost: op.born, StoreHost: b.addr,
		ReconsumeTimes: h.ReconsumeTimes, Topic: h.Topic, Body: body,
	}
	if topic.FilterType == "MULTI_TAG" {
		op.record.SysFlag |= remoting.SysFlagMultiTags
	}
	dedup := topic.Attributes[fsm.AttributeDedup] != "false"
	if h.Batch {
		return op.prepareBatch(body, dedup)
	}
	return op.prepareMessage(dedup)
}

// addrPort is a connection's address, without the zone of an IPv6 one.
func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return netip.AddrPort{}
}
