package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// TransactionState is what became of a local transaction, and so what becomes of its half message.
type TransactionState = remoting.TransactionState

// The states.
const (
	// TransactionUnknown leaves the message as it is: the broker will ask.
	TransactionUnknown = remoting.TransactionUnknown
	// TransactionCommitted lets consumers have it.
	TransactionCommitted = remoting.TransactionCommitted
	// TransactionRolledBack drops it.
	TransactionRolledBack = remoting.TransactionRolledBack
)

// ErrHalfUnsafe: the half message was stored, but might be lost if a machine crashed right then, so it was rolled back and the transaction not
// run. Brokers of RocketMQ say so of a broker without replicas or with slow disks, raftmq's of a group of one with brokerRole SYNC_MASTER.
var ErrHalfUnsafe = errors.New("the half message is not stored safely")

// TransactionConfig configures a TransactionProducer.
type TransactionConfig struct {
	// ProducerConfig is that of the half messages. Group is required: brokers ask any producer of the group about its messages, so all of them
	// must be able to tell.
	ProducerConfig
	// Check says what became of the transaction of a half message: as the broker asks, because nobody has said so in time, and more than once
	// if the answer is TransactionUnknown. The message may be one that another process of the group has sent. Its context ends with the producer. Required.
	//
	// A message whose transaction never began, for its producer ended before or the send was in limbo, is to be rolled back.
	Check func(ctx context.Context, m *MessageExt) TransactionState
	// Checkers is how many calls of Check may be under way. Default: 4.
	Checkers int
}

// maxChecks bounds the questions that wait for Check. Brokers repeat those beyond it.
const maxChecks = 1024

func (cfg *TransactionConfig) validate() error {
	setDefault(&cfg.Checkers, 4)
	switch {
	case cfg.Group == "":
		return fmt.Errorf("%w: TransactionConfig.Group is required", ErrConfig)
	case cfg.Check == nil:
		return fmt.Errorf("%w: TransactionConfig.Check is required", ErrConfig)
	case cfg.Checkers < 0:
		return fmt.Errorf("%w: TransactionConfig.Checkers is negative", ErrConfig)
	}
	return nil
}

// TransactionProducer sends messages that become visible together with what a transaction of the caller's own has done, or never. It is a
// Producer, too: its other methods send ordinary messages.
type TransactionProducer struct{ *Producer }

// TransactionResult is a half message that was stored, and what became of its transaction.
type TransactionResult struct {
	*SendResult
	State TransactionState
}

// NewTransactionProducer returns a producer that uses c's connections. It answers brokers until it is closed.
func (c *Client) NewTransactionProducer(cfg TransactionConfig) (*TransactionProducer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p, err := c.newProducer(cfg.ProducerConfig, newChecks(c, &cfg))
	if err != nil {
		return nil, err
	}
	// Brokers may have something to ask before the first message is sent. The topic is one that each of them has.
	c.spawn(func() {
		if _, err := c.routeOf(c.ctx, c.topic(remoting.TopicHalf), false); err != nil {
			c.log.Info("brokers can't ask about transactions yet", "group", cfg.Group, "error", err)
			return
		}
		c.beatNow()
	})
	return &TransactionProducer{p}, nil
}

// SendInTransaction sends a message that nobody sees yet, runs the local transaction, and tells the broker what it returns.
//
// An error says that the transaction was not run: it is that of Send, or matches ErrHalfUnsafe. After ErrLimbo the half message may be stored;
// sending the same *Message again asks, and runs the transaction if it is, else the broker asks Check. Without an error the message goes the
// way of State. The broker is told so without waiting for an answer: if that does not reach it, it asks Check.
//
// The context given to local is ctx, which does not end it.
func (p *TransactionProducer) SendInTransaction(ctx context.Context, m *Message, local func(context.Context, *SendResult) TransactionState) (*TransactionResult, error) {
	if !p.gate.enter() {
		return nil, notSent(ErrClosed)
	}
	defer p.gate.leave()
	res, err := p.sendOne(ctx, m, nil, true)
	if err != nil {
		return nil, err
	}
	if res.Status != SendOK {
		p.endTransaction(res, TransactionRolledBack)
		return nil, fmt.Errorf("%w: %v", ErrHalfUnsafe, res.Status)
	}
	state := local(ctx, res)
	p.endTransaction(res, state)
	return &TransactionResult{res, state}, nil
}

// endTransaction tells the leader of the half message's broker group what became of it.
func (p *TransactionProducer) endTransaction(res *SendResult, state TransactionState) {
	if state == TransactionUnknown {
		return
	}
	err := errNoLeader
	if l := p.c.group(res.Queue.BrokerName).leader.Load(); l != nil {
		var phys int64
		if _, phys, err = remoting.ParseOffsetMsgID(res.OffsetMsgID); err == nil {
			err = l.endTransaction(p.c.ctx, p.cfg.AttemptTimeout, &remoting.EndTransactionRequest{
				Topic: res.Queue.Topic, ProducerGroup: p.cfg.Group, TranStateTableOffset: res.QueueOffset, CommitLogOffset: phys, State: state,
				MsgID: res.MsgID, TransactionID: res.MsgID, BrokerName: res.Queue.BrokerName,
			})
		}
	}
	if err != nil {
		p.c.log.Info("the broker was not told of a transaction, it will ask", "broker", res.Queue.BrokerName, "id", res.MsgID, "state", state, "error", err)
	}
}

func (p *peer) endTransaction(ctx context.Context, patience time.Duration, h *remoting.EndTransactionRequest) error {
	conn, err := p.get(ctx, patience)
	if err != nil {
		return err
	}
	return conn.Notify(&remoting.Command{Code: remoting.EndTransaction, Header: h})
}

// checks answers brokers' questions about the half messages of a group.
type checks struct {
	c       *Client
	group   string
	check   func(context.Context, *MessageExt) TransactionState
	ctx     context.Context // Check's
	cancel  context.CancelFunc
	workers sync.WaitGroup
	limit   int

	mu      sync.Mutex
	waiting []question
	running int
	closed  bool
}

// question is one of a broker's.
type question struct {
	conn *remoting.Conn // where it came from, and the answer goes
	h    remoting.CheckTransactionRequest
	m    *MessageExt
}

func newChecks(c *Client, cfg *TransactionConfig) *checks {
	k := &checks{c: c, group: cfg.Group, check: cfg.Check, limit: cfg.Checkers}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// serveCheck (39) has one of the producers of the message's group asked what became of it.
func (c *Client) serveCheck(conn *remoting.Conn, req *remoting.Command) {
	var q question
	err := q.h.Decode(req)
	var msgs []*MessageExt
	if err == nil {
		msgs, err = c.decodeMessages(bytes.Clone(req.Body), q.h.BrokerName)
	}
	if err == nil && len(msgs) != 1 {
		err = fmt.Errorf("%d messages", len(msgs))
	}
	if err != nil {
		c.log.Warn("check of a transaction", "broker", conn.RemoteAddr(), "error", err)
		return
	}
	q.conn, q.m = conn, msgs[0]
	group := q.m.Property(remoting.PropProducerGroup)
	c.mu.Lock()
	var k *checks
	for p := range c.producers {
		if p.checks != nil && p.cfg.Group == group {
			k = p.checks
		}
	}
	c.mu.Unlock()
	if k == nil || !k.add(q) {
		c.log.Info("check of a transaction not served, the broker will ask again", "group", group, "id", q.h.MsgID, "broker", conn.RemoteAddr())
	}
}

// add has a question answered, or says that there are too many.
func (k *checks) add(q question) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || len(k.waiting) >= maxChecks {
		return false
	}
	k.waiting = append(k.waiting, q)
	if k.running < k.limit {
		k.running++
		k.workers.Go(k.work)
	}
	return true
}

// work answers what waits until nothing does.
func (k *checks) work() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.waiting) > 0 {
		q := k.waiting[0]
		k.waiting[0] = question{}
		k.waiting = k.waiting[1:]
		k.mu.Unlock()
		k.answer(q)
		k.mu.Lock()
	}
	k.running--
}

func (k *checks) answer(q question) {
	state := k.ask(q)
	h := &remoting.EndTransactionRequest{
		Topic: q.h.Topic, ProducerGroup: k.group, TranStateTableOffset: q.h.TranStateTableOffset, CommitLogOffset: q.h.CommitLogOffset, State: state,
		FromCheck: true, MsgID: q.m.MsgID, TransactionID: q.h.TransactionID, BrokerName: q.h.BrokerName,
	}
	if err := q.conn.Notify(&remoting.Command{Code: remoting.EndTransaction, Header: h}); err != nil {
		k.c.log.Info("the broker was not told of a transaction, it will ask again", "broker", q.h.BrokerName, "id", q.m.MsgID, "state", state, "error", err)
	}
}

func (k *checks) ask(q question) (state TransactionState) {
	defer func() {
		if r := recover(); r != nil {
			state = TransactionUnknown
			k.c.log.Error("TransactionConfig.Check panicked", "group", k.group, "id", q.m.MsgID, "panic", r, "stack", string(debug.Stack()))
		}
	}()
	return k.check(k.ctx, q.m)
}

// close drops what waits, ends Check's context, and waits for the calls under way.
func (k *checks) close() {
	k.mu.Lock()
	k.closed = true
	k.waiting = nil
	k.mu.Unlock()
	k.cancel()
	k.workers.Wait()
}
