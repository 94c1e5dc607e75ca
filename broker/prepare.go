package broker

import (
	"strconv"
	"strings"
	"unsafe"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// maxBatch bounds the messages of a batch.
const maxBatch = 65536

// wanted are the properties of a send that the broker acts on. The strings lie in
// the properties.
type wanted struct {
	uniq        string
	delay       string
	transaction bool
	group       string // the producer's
	timers      timers
	inner       bool
	replaced    bool // it has properties that the broker sets itself, or takes out
}

func scanProperties(p string) (w wanted) {
	for p != "" {
		var entry string
		entry, p, _ = strings.Cut(p, "\x02")
		name, value, _ := strings.Cut(entry, "\x01")
		if value == "" {
			continue
		}
		switch name {
		case remoting.PropUniqKey:
			w.uniq = value
		case remoting.PropDelay:
			w.delay = value
		case remoting.PropTransaction:
			w.transaction = strings.EqualFold(value, "true")
		case remoting.PropProducerGroup:
			w.group = value
		case remoting.PropInnerNum:
			w.inner = true
		case remoting.PropPopCheckPoint, remoting.PropRegion, remoting.PropTraceOn, remoting.PropCluster:
			w.replaced = true
		default:
			w.timers.set(name, value)
		}
	}
	return w
}

// half says whether the message is to be committed before anybody sees it. A copy
// that a consumer sends to have it again is of a message that was.
func (w *wanted) half(reconsumeTimes int32) bool {
	return w.transaction && !(reconsumeTimes > 0 && w.level() > 0)
}

// check refuses what this release can't do rather than doing something else.
func (w *wanted) check() error {
	switch {
	case w.inner:
		return remoting.Errorf(remoting.MessageIllegal, "%s: inner batches are not supported", remoting.PropInnerNum)
	}
	return nil
}

// level is the delay level asked for, 0 for none.
func (w *wanted) level() int {
	if w.delay == "" {
		return 0
	}
	n, err := strconv.Atoi(w.delay)
	if err != nil {
		return 0
	}
	return max(0, n)
}

// messageKey identifies a message for the window of sends. A copy in a retry or
// dead letter topic is that of one stored message, of several that may have one
// UNIQ_KEY. Java clients that send the copy themselves name the UNIQ_KEY as the
// origin: then nothing tells which one it is of, and it is stored whatever there
// is, as one too many is consumed twice, but one too few is lost.
func messageKey(topic string, reconsumeTimes int32, uniq string, p remoting.Properties) fsm.Key {
	if strings.HasPrefix(topic, remoting.RetryPrefix) || strings.HasPrefix(topic, remoting.DLQPrefix) {
		origin := p.Get(remoting.PropOriginMessageID)
		if origin == "" || origin == uniq {
			return fsm.Key{}
		}
		return copyKey(topic, reconsumeTimes, uniq, origin, p)
	}
	return fsm.SendKey(topic, reconsumeTimes, []byte(uniq))
}

// copyKey identifies a copy of the stored message that origin names: in the life
// that it has now, if it was dead and has been sent again.
func copyKey(topic string, reconsumeTimes int32, uniq, origin string, p remoting.Properties) fsm.Key {
	if resent, ok := p.Lookup(remoting.PropResent); ok {
		return fsm.SendKey(topic, reconsumeTimes, []byte(uniq), []byte(origin), resent)
	}
	return fsm.SendKey(topic, reconsumeTimes, []byte(uniq), []byte(origin))
}

// keyOfCopy is copyKey for a copy that the broker makes of v. It knows which
// message that is, also if the record does not say.
func keyOfCopy(v remoting.RecordView, r *remoting.Record) fsm.Key {
	uniq, origin := r.Properties.Get(remoting.PropUniqKey), r.Properties.Get(remoting.PropOriginMessageID)
	if origin == "" || origin == uniq {
		origin = v.OffsetMsgID()
	}
	return copyKey(r.Topic, r.ReconsumeTimes, uniq, origin, r.Properties)
}

// prepareMessage makes the record of a single message.
func (op *sendOp) prepareMessage(dedup bool) error {
	w := scanProperties(op.h.Properties)
	if err := w.check(); err != nil {
		return err
	}
	level, half := w.level(), w.half(op.h.ReconsumeTimes)
	switch {
	case half && op.b.cfg.RejectTransaction:
		return remoting.Errorf(remoting.NoPermission, "transactional messages are refused here (rejectTransactionMessage)")
	case !half && op.h.SysFlag&remoting.SysFlagTransaction == remoting.SysFlagPrepared && op.h.ReconsumeTimes == 0:
		return remoting.Errorf(remoting.MessageIllegal, "sysFlag %d says that the message is transactional, its properties do not (%s)", op.h.SysFlag, remoting.PropTransaction)
	}
	p := remoting.Properties(op.props[:0])
	except := []string{remoting.PropPopCheckPoint, remoting.PropRegion, remoting.PropTraceOn, remoting.PropCluster}
	timed := w.timers != timers{}
	if timed && level > 0 {
		// The level counts, and the message is not to be timed again later.
		except = append(except, remoting.PropTimerDelaySec, remoting.PropTimerDelayMs, remoting.PropTimerDeliverMs)
		timed, w.replaced = false, true
	}
	if w.replaced {
		p = remoting.Properties(op.h.Properties).AppendExcept(p, except...)
	} else {
		p = append(p, op.h.Properties...)
	}
	if op.uniq = w.uniq; op.uniq == "" {
		op.uniq = op.b.node.uniq.Next()
		p = remoting.AppendProperty(p, remoting.PropUniqKey, op.uniq)
	} else if dedup {
		op.key = messageKey(op.h.Topic, op.h.ReconsumeTimes, w.uniq, remoting.Properties(op.h.Properties))
	}
	var due int64
	if timed && op.h.ReconsumeTimes == 0 { // a copy for a retry had its time
		var err error
		if due, err = op.b.dueOf(w.timers); err != nil {
			return err
		}
	}
	switch {
	case half: // it is due that long after it was committed
		if w.group == "" {
			p = remoting.AppendProperty(p, remoting.PropProducerGroup, op.h.ProducerGroup)
		}
		p = op.b.halve(&op.record, p, &op.delay)
	case level > 0:
		p = op.b.schedule(&op.record, p, level, &op.delay)
	case due > 0:
		p = op.b.scheduleAt(&op.record, p, due)
		op.recall = op.b.recallHandle(op.h.Topic, op.uniq, due)
	}
	op.props = op.b.addProperties(p)
	if len(op.props) > remoting.MaxProperties {
		return remoting.Errorf(remoting.MessageIllegal, "properties of %d bytes with the broker's own, the limit is %d", len(op.props), remoting.MaxProperties)
	}
	op.record.Properties = op.props
	return nil
}

// prepareBatch cuts a batch into its messages. Each keeps its own properties: of
// the header's, which Java clients fill with a UNIQ_KEY for all of them, none is
// taken.
func (op *sendOp) prepareBatch(body []byte, dedup bool) error {
	outer := scanProperties(op.h.Properties)
	switch {
	case outer.level() > 0 || outer.timers != timers{} || outer.transaction:
		return remoting.Errorf(remoting.MessageIllegal, "a batch can be neither delayed nor transactional")
	case outer.inner:
		return outer.check()
	case strings.HasPrefix(op.h.Topic, remoting.RetryPrefix):
		return remoting.Errorf(remoting.MessageIllegal, "a batch can't be sent to %s", op.h.Topic)
	}
	var err error
	if op.batch, err = remoting.DecodeBatch(body, maxBatch); err != nil {
		return remoting.Errorf(remoting.MessageIllegal, "%v", err)
	}
	op.props = op.b.addProperties(op.props[:0])
	var uniq [][]byte
	for i, m := range op.batch {
		w := scanProperties(unsafe.String(unsafe.SliceData(m.Properties), len(m.Properties)))
		if err := w.check(); err != nil {
			return err
		}
		if w.transaction {
			return remoting.Errorf(remoting.MessageIllegal, "message %d of the batch is transactional, which can't be in a batch", i)
		}
		if w.timers != (timers{}) {
			return remoting.Errorf(remoting.MessageIllegal, "message %d of the batch is to be due at a time: send it by itself", i)
		}
		if w.replaced {
			op.batch[i].Properties = m.Properties.AppendExcept(nil, remoting.PropPopCheckPoint, remoting.PropRegion, remoting.PropTraceOn, remoting.PropCluster)
		}
		if len(m.Properties)+1+len(op.props) > remoting.MaxProperties {
			return remoting.Errorf(remoting.MessageIllegal, "message %d of the batch has properties of %d bytes, the limit is %d with the broker's own",
				i, len(m.Properties), remoting.MaxProperties)
		}
		if w.uniq != "" {
			uniq = append(uniq, unsafe.Slice(unsafe.StringData(w.uniq), len(w.uniq)))
		}
	}
	if len(uniq) > 0 {
		op.uniq = string(uniq[0])
	}
	if len(uniq) == len(op.batch) && dedup {
		op.key = fsm.SendKey(op.h.Topic, op.h.ReconsumeTimes, uniq...)
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
