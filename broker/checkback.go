package broker

import (
	"context"
	"errors"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// checkTick is how often the leader looks for half messages to ask about.
	checkTick = time.Second
	// checkUnits bounds the half messages that one pass looks at, checkRecords
	// those it reads, and checkBytes what it reads of them: the next pass goes on
	// where it ended.
	checkUnits   = 65536
	checkRecords = 1024
	checkBytes   = 4 << 20
	// unitsAtOnce is how many queue entries are read together.
	unitsAtOnce = 64
)

// checkback asks producers about half messages that they have not ended:
// CHECK_TRANSACTION_STATE (39), one-way, to any producer of the group that is
// connected. A half message is asked about when it is transactionTimeOut old, or as
// old as it says itself, and then every transactionCheckInterval; when that was done
// transactionCheckMax times, or it is older than fileReservedTime, it is given up.
//
// A question is counted, in the state of the group, before it is asked: so no leader
// asks more often than it should, and a question that a leader died over counts. One
// that there was nobody for does not. All that a pass counts and gives up is proposed
// together.
//
// Deviations from RocketMQ: age is time since the broker has stored the message, not
// since the client has made it; the message is not stored anew for each question, so
// its offsets stay; passes without a producer of the group are not counted; a young
// half message does not hide old ones behind it.
type checkback struct {
	b     *Broker
	next  int64 // offset in the half queue where the pass goes on
	units []storage.Unit
}

// question is a half message to be asked about, or to be given up.
type question struct {
	v     remoting.RecordView
	times int32 // it was asked about, this time included
	op    *storeOp
}

func (c *checkback) run() {
	cfg := c.b.cfg
	tick := time.NewTicker(min(checkTick, time.Duration(cfg.TransactionTimeout), time.Duration(cfg.TransactionCheckInterval)))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.b.ctx.Done():
			return
		}
		if !c.b.leads() {
			c.next = 0
			continue
		}
		// On a full disk, too: what is ended or given up lets the CommitLog be trimmed.
		if err := c.pass(c.b.ctx); err != nil && c.b.ctx.Err() == nil && !errors.Is(err, raftgroup.ErrNotLeader) {
			c.b.logger.Warn("not all producers can be asked about their half messages now", "error", err)
		}
	}
}

// pass asks about some half messages and gives up others.
func (c *checkback) pass(ctx context.Context) error {
	b := c.b
	questions, err := c.find()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	proposed := questions[:0]
	for _, q := range questions {
		var e error
		if !q.op.asks {
			_, e = b.createTopic(ctx, ownTopic(remoting.TopicTransCheckMax, 1))
		}
		if e == nil {
			e = b.propose(q.op)
		}
		if e != nil {
			err = e // the others are not to wait for it
			continue
		}
		proposed = append(proposed, q)
	}
	for _, q := range proposed {
		r, e := q.op.wait(ctx)
		switch {
		case e != nil:
			err = e // that of one says enough of all
		case r.Status == fsm.Stale: // ended meanwhile
		case r.Status != fsm.Stored:
			b.logger.Error("a half message is neither asked about nor given up", "offset", q.v.QueueOffset(), "because", refusalOf(r.Status, q.op.record.Topic))
		case q.op.asks:
			c.ask(q)
		default:
			b.logger.Warn("a half message was given up: nobody said what is to become of it", "offset", q.v.QueueOffset(), "now", r.Physical, "asked", q.times, "producerGroup", q.v.Properties().Get(remoting.PropProducerGroup))
		}
	}
	return err
}

// find finds half messages that are due, from where the last pass ended. What it
// finds is good, whatever the error.
func (c *checkback) find() (due []question, err error) {
	b := c.b
	w, ok := b.waitingAt(remoting.TopicHalf, 0)
	q := b.group.Store().Queue(w.Queue)
	if !ok || q == nil {
		return nil, nil
	}
	first, err := q.Min()
	if err != nil {
		return nil, err
	}
	now := b.group.LogTime()
	at, end, from := max(first, c.next), q.Max(), int64(0)
	c.units = c.units[:0]
	for looked, read, size := 0, 0, 0; looked < checkUnits && read < checkRecords && size < checkBytes; looked++ {
		if at = b.group.State().Unsettled(w.Queue, at); at >= end {
			c.next = 0
			return due, err
		}
		if at >= from+int64(len(c.units)) {
			if c.units, err = q.Units(at, unitsAtOnce, c.units[:0]); err != nil {
				return due, err
			}
			from = at
		}
		u := c.units[at-from]
		w.Offset = at
		at++
		asked := b.group.State().Asked(w.Queue, w.Offset)
		if u.Tag > now || asked.Times > 0 && now-asked.Last < time.Duration(b.cfg.TransactionCheckInterval).Milliseconds() {
			continue
		}
		v, e := b.record(u.Phys)
		if e != nil {
			err = e // the others are not to wait for it
			continue
		}
		read, size = read+1, size+v.Size()
		switch {
		case int(asked.Times) >= b.cfg.TransactionCheckMax || now-v.StoreTimestamp() > int64(b.cfg.FileReservedTime)*time.Hour.Milliseconds():
			due = append(due, question{v, asked.Times, b.giveUpOp(v, w, asked.Times)})
		case b.clients.produces(v.Properties().Get(remoting.PropProducerGroup)):
			due = append(due, question{v, asked.Times + 1, &storeOp{settles: &fsm.Waiting{Queue: w.Queue, Offset: w.Offset}, asks: true}})
		}
	}
	c.next = at
	return due, err
}

// ask asks a producer.
func (c *checkback) ask(q question) {
	b := c.b
	v := q.v
	r, err := whole(v)
	if err != nil {
		b.logger.Error("nobody is asked about a half message", "error", err)
		return
	}
	group, uniq := r.Properties.Get(remoting.PropProducerGroup), r.Properties.Get(remoting.PropUniqKey)
	r.Properties, r.PreparedTransactionOffset = withCheckTimes(r.Properties, q.times), 0
	body, err := remoting.AppendRecord(nil, &r)
	if err != nil {
		b.logger.Error("nobody is asked about a half message", "error", err)
		return
	}
	if !b.clients.tellProducer(group, &remoting.Command{
		Code: remoting.CheckTransactionState,
		Header: &remoting.CheckTransactionRequest{
			Topic: r.Topic, TranStateTableOffset: v.QueueOffset(), CommitLogOffset: v.PhysicalOffset(),
			MsgID: uniq, TransactionID: uniq, OffsetMsgID: v.OffsetMsgID(), BrokerName: b.name,
		},
		Body: body,
	}) {
		b.logger.Info("a producer group was left before it could be asked about a half message", "producerGroup", group, "id", uniq)
	}
}
