package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

const (
	// maxBatch bounds the messages of a batch.
	maxBatch = 65536
	// recordOverhead is, about, what a record is larger than its body, topic and
	// properties.
	recordOverhead = 128
)

// sendOp is one send on its way: SEND_MESSAGE (10), SEND_MESSAGE_V2 (310) or
// SEND_BATCH_MESSAGE (320). The answer is SEND_OK once a quorum has the message
// on its disks and this replica has applied it. Of the other outcomes, those
// that mean "not stored" are refusals with RocketMQ's codes, and those that mean
// "not known" are FLUSH_DISK_TIMEOUT or FLUSH_SLAVE_TIMEOUT, which no client
// repeats by itself, with queueOffset -1 and the field raftmqOutcome.
type sendOp struct {
	b         *Broker
	s         *session
	responder remoting.Responder
	h         remoting.SendHeader
	key       fsm.Key
	uniq      string
	delay     int64 // ms
	queue     int32 // the one the client asked for, or that was chosen

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
func (b *Broker) send(s *session, req *remoting.Command) {
	op := sendOps.Get().(*sendOp)
	op.b, op.s, op.responder, op.started = b, s, req.Responder(), time.Now()
	if err := op.h.Decode(req); err != nil {
		op.refuse(err)
		return
	}
	if !b.leads() {
		op.refuse(raftgroup.ErrNotLeader)
		return
	}
	topic, ok := b.group.State().Topic(op.h.Topic)
	if !ok || strings.HasPrefix(op.h.Topic, remoting.RetryPrefix) {
		// What is to be created first needs raft.
		op.later(req)
		return
	}
	op.propose(topic.Config, req.Body)
}

// later goes on with a send on a goroutine that may block.
func (op *sendOp) later(req *remoting.Command) {
	b, body, version := op.b, bytes.Clone(req.Body), req.Version
	if !b.workers.try(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		topic, err := b.sendTopic(ctx, op, version)
		if err != nil {
			op.refuse(err)
			return
		}
		op.propose(topic, body)
	}) {
		op.refuse(errBusy)
	}
}

func (op *sendOp) refuse(err error) {
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
		SendMeta: fsm.SendMeta{Key: op.key, Repeat: op.key != fsm.Key{} && op.s.repeats(op.key, op.started), Delay: op.delay},
		Count:    count, Size: size, Op: op,
	})
	if err != nil {
		op.refuse(err)
	}
}

// prepare makes the record, or the batch, of the request.
func (op *sendOp) prepare(topic remoting.TopicConfig, body []byte) error {
	h, b := &op.h, op.b
	switch {
	case topic.Perm&remoting.PermWrite == 0:
		return remoting.Errorf(remoting.NoPermission, "the topic %s can't be written", h.Topic)
	case remoting.IsReadOnlyTopic(h.Topic):
		return remoting.Errorf(remoting.NoPermission, "the topic %s is for the broker's own use", h.Topic)
	case len(h.Topic) > remoting.MaxTopicName && !strings.HasPrefix(h.Topic, remoting.RetryPrefix):
		return remoting.Errorf(remoting.MessageIllegal, "topic of %d bytes, the limit is %d", len(h.Topic), remoting.MaxTopicName)
	case h.QueueID >= max(topic.ReadQueueNums, topic.WriteQueueNums):
		return remoting.Errorf(remoting.InvalidParameter, "queueId %d: the topic %s has %d queues to write", h.QueueID, h.Topic, topic.WriteQueueNums)
	case int64(len(body)) > int64(b.cfg.MaxMessageSize):
		return remoting.Errorf(remoting.MessageIllegal, "body of %d bytes, the limit is %d (maxMessageSize)", len(body), int64(b.cfg.MaxMessageSize))
	}
	op.queue = h.QueueID
	if op.queue < 0 {
		if topic.WriteQueueNums <= 0 {
			return remoting.Errorf(remoting.NoPermission, "the topic %s has no queue to write", h.Topic)
		}
		op.queue = rand.Int32N(topic.WriteQueueNums)
	}
	op.record = remoting.Record{
		QueueID: op.queue, Flag: h.Flag, SysFlag: h.SysFlag &^ remoting.SysFlagTransaction, BornTimestamp: h.BornTimestamp,
		BornHost: op.s.addr, StoreHost: b.addr,
		ReconsumeTimes: h.ReconsumeTimes, Topic: h.Topic, Body: body,
	}
	if topic.FilterType == "MULTI_TAG" {
		op.record.SysFlag |= remoting.SysFlagMultiTags
	}
	if h.Batch {
		return op.prepareBatch(body)
	}
	return op.prepareMessage()
}

// wanted are the properties of a send that the broker acts on.
type wanted struct {
	uniq, delay []byte
	transaction bool
	timer       string // the name of a timer property
	inner       bool
	checkpoint  bool
}

func scanProperties(p remoting.Properties) (w wanted) {
	for name, value := range p.All() {
		switch string(name) {
		case remoting.PropUniqKey:
			w.uniq = value
		case remoting.PropDelay:
			w.delay = value
		case remoting.PropTransaction:
			w.transaction = bytes.EqualFold(value, []byte("true"))
		case remoting.PropTimerDelaySec, remoting.PropTimerDelayMs, remoting.PropTimerDeliverMs:
			w.timer = string(name)
		case remoting.PropInnerNum:
			w.inner = true
		case remoting.PropPopCheckPoint:
			w.checkpoint = true
		}
	}
	return w
}

// check refuses what this release can't do rather than doing something else.
func (w *wanted) check() error {
	switch {
	case w.transaction:
		return remoting.Errorf(remoting.NoPermission, "transactional messages are not supported by this release")
	case w.timer != "" && w.level() == 0:
		return remoting.Errorf(remoting.MessageIllegal, "%s: only delay levels are supported by this release", w.timer)
	case w.inner:
		return remoting.Errorf(remoting.MessageIllegal, "%s: inner batches are not supported", remoting.PropInnerNum)
	}
	return nil
}

// level is the delay level asked for, 0 for none.
func (w *wanted) level() int {
	n, err := strconv.Atoi(string(w.delay))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

func (op *sendOp) prepareMessage() error {
	p := append(remoting.Properties(op.props[:0]), op.h.Properties...)
	w := scanProperties(p)
	if err := w.check(); err != nil {
		return err
	}
	if w.checkpoint {
		p = p.AppendExcept(nil, remoting.PropPopCheckPoint)
	}
	if w.uniq == nil {
		op.uniq = op.b.node.uniq.Next()
		p = remoting.AppendProperty(p, remoting.PropUniqKey, op.uniq)
	} else {
		op.uniq = string(w.uniq)
		op.key = fsm.SendKey(op.h.Topic, op.h.ReconsumeTimes, w.uniq)
	}
	if level := w.level(); level > 0 {
		p = op.b.schedule(&op.record, p, level, &op.delay)
	}
	op.props = op.b.addProperties(p)
	if len(op.props) > remoting.MaxProperties {
		return remoting.Errorf(remoting.MessageIllegal, "properties of %d bytes with the broker's own, the limit is %d", len(op.props), remoting.MaxProperties)
	}
	op.record.Properties = op.props
	return nil
}

func (op *sendOp) prepareBatch(body []byte) error {
	outer := scanProperties(remoting.Properties(op.h.Properties))
	if outer.level() > 0 || outer.transaction || op.h.SysFlag&remoting.SysFlagTransaction != 0 {
		return remoting.Errorf(remoting.MessageIllegal, "a batch can be neither delayed nor transactional")
	}
	if strings.HasPrefix(op.h.Topic, remoting.RetryPrefix) {
		return remoting.Errorf(remoting.MessageIllegal, "a batch can't be sent to %s", op.h.Topic)
	}
	var err error
	if op.batch, err = remoting.DecodeBatch(body, maxBatch); err != nil {
		return remoting.Errorf(remoting.MessageIllegal, "%v", err)
	}
	op.props = op.b.addProperties(op.props[:0])
	var uniq [][]byte
	for i, m := range op.batch {
		w := scanProperties(m.Properties)
		if err := w.check(); err != nil {
			return err
		}
		if len(m.Properties)+1+len(op.props) > remoting.MaxProperties {
			return remoting.Errorf(remoting.MessageIllegal, "message %d of the batch has properties of %d bytes, the limit is %d with the broker's own",
				i, len(m.Properties), remoting.MaxProperties)
		}
		if w.uniq != nil {
			uniq = append(uniq, w.uniq)
		}
	}
	if len(uniq) == len(op.batch) {
		op.key = fsm.SendKey(op.h.Topic, op.h.ReconsumeTimes, uniq...)
		op.uniq = string(uniq[0])
	}
	return nil
}

// addProperties appends the broker's own properties.
func (b *Broker) addProperties(p remoting.Properties) remoting.Properties {
	p = remoting.AppendProperty(p, remoting.PropRegion, remoting.RegionDefault)
	p = remoting.AppendProperty(p, remoting.PropTraceOn, "true")
	return remoting.AppendProperty(p, remoting.PropCluster, b.cfg.BrokerClusterName)
}

// AppendRecords implements raftgroup.SendOp.
func (op *sendOp) AppendRecords(dst []byte) (out []byte, err error) {
	if op.batch == nil {
		return remoting.AppendRecord(dst, &op.record)
	}
	out = dst
	var props []byte
	for _, m := range op.batch {
		op.record.Flag, op.record.Body = m.Flag, m.Body
		props = append(props[:0], m.Properties...)
		if n := len(props); n > 0 && props[n-1] != 2 {
			props = append(props, 2) // the separator, left out at the end by some
		}
		props = append(props, op.props...)
		op.record.Properties = props
		before := len(out)
		if out, err = remoting.AppendRecord(out, &op.record); err != nil {
			return dst, err
		}
		op.sizes = append(op.sizes, len(out)-before)
		if len(out)-len(dst) > int(op.b.cfg.maxEntry()) {
			return dst, remoting.Errorf(remoting.MessageIllegal, "a batch whose records have more than %d bytes", op.b.cfg.maxEntry())
		}
	}
	return out, nil
}

// Done implements raftgroup.SendOp.
func (op *sendOp) Done(r fsm.Result, err error) {
	defer op.free()
	b, resp := op.b, &op.resp
	op.answer = remoting.SendResponse{
		QueueID: op.queue, QueueOffset: -1, TransactionID: op.uniq, Region: remoting.RegionDefault, TraceOn: true,
		MsgID: remoting.OffsetMsgID(b.addr, -1),
	}
	switch {
	case errors.Is(err, raftgroup.ErrFlushTimeout):
		resp.Code = remoting.FlushDiskTimeout
	case errors.Is(err, raftgroup.ErrUnknown):
		resp.Code = remoting.FlushSlaveTimeout
	case err != nil:
		b.counters.putFailed.Add(1)
		b.refuse(op.responder, err)
		return
	}
	if err != nil {
		b.counters.putUnknown.Add(1)
		resp.Remark = err.Error()
		resp.Ext.Add(extOutcome, "unknown")
		resp.Header = &op.answer
		op.responder.Respond(resp)
		return
	}
	if refusal := refusalOf(r.Status, op.record.Topic); refusal != nil {
		b.counters.putFailed.Add(1)
		b.refuse(op.responder, refusal)
		return
	}
	if op.key != (fsm.Key{}) {
		op.s.wrote(op.key, time.Now())
	}
	if b.alone && b.cfg.BrokerRole == "SYNC_MASTER" {
		resp.Code = remoting.SlaveNotAvailable
	}
	op.answer.MsgID = op.messageIDs(r)
	op.answer.QueueOffset = r.QueueOffset
	if op.delay == 0 {
		op.answer.QueueID = r.Queue
	}
	if r.Status == fsm.Stored {
		b.counters.put.Add(int64(max(1, len(op.sizes))), op.started)
	}
	resp.Header = &op.answer
	op.responder.Respond(resp)
}

// refusalOf is what a client is told of a send that was not stored.
func refusalOf(s fsm.Status, topic string) error {
	switch s {
	case fsm.Stored, fsm.Repeated:
		return nil
	case fsm.NoTopic:
		return remoting.Errorf(remoting.TopicNotExist, "the topic %s does not exist any more", topic)
	case fsm.BadQueue:
		return remoting.Errorf(remoting.InvalidParameter, "the topic %s does not have that queue any more", topic)
	case fsm.TooLarge:
		return remoting.Errorf(remoting.MessageIllegal, "larger than a segment of the CommitLog")
	}
	return fmt.Errorf("not stored: status %d", s)
}

// messageIDs are the offset ids of the records that were stored.
func (op *sendOp) messageIDs(r fsm.Result) string {
	var host netip.AddrPort
	if host.UnmarshalBinary([]byte(r.StoreHost)) != nil {
		host = op.b.addr
	}
	if op.batch == nil {
		return remoting.OffsetMsgID(host, r.Physical)
	}
	var ids strings.Builder
	at := r.Physical
	for i, size := range op.sizes {
		if i > 0 {
			ids.WriteByte(',')
		}
		ids.WriteString(remoting.OffsetMsgID(host, at))
		at += int64(size)
	}
	return ids.String()
}

// addrPort is a connection's address, without the zone of an IPv6 one.
func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return netip.AddrPort{}
}
