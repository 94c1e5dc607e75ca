package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// send is one message, or one batch, on its way from the first attempt to the outcome.
type send struct {
	p        *Producer
	one      [1]*Message
	oneKey   [1]string
	msgs     []*Message
	keys     []string // their ids
	id       string   // of them all
	req      remoting.Command
	header   remoting.SendHeader
	topic    *topic
	queue    writeQueue
	half     bool          // of a transaction
	fixed    bool          // queue was chosen by the caller, or what the caller said
	given    bool          // by the caller
	rerouted bool          // chosen again
	turn     chan struct{} // of InOrder, held
	begun    time.Time     // see left
	deadline time.Time

	state    sendState
	walk     walk
	passed   []*group // groups that were tried before queue's
	attempts int
	failed   error // why there is no result
}

var sends = sync.Pool{New: func() any { return new(send) }}

func newSend(p *Producer) *send {
	s := sends.Get().(*send)
	s.p = p
	return s
}

// free makes s ready for the next one. Connections have copied what they send of it.
func (s *send) free() {
	if s.turn != nil {
		<-s.turn
	}
	*s = send{walk: walk{tried: s.walk.tried[:0]}}
	sends.Put(s)
}

// single fills in the request of one message.
func (s *send) single(m *Message) error {
	cfg := &s.p.cfg
	if err := cfg.check(m); err != nil {
		return notSent(err)
	}
	s.id = s.key(m)
	s.one[0], s.oneKey[0] = m, s.id
	s.msgs, s.keys = s.one[:], s.oneKey[:]
	if err := s.resume(); err != nil {
		return err
	}
	properties, err := encodeProperties(m, s.id)
	if err != nil {
		return notSent(err)
	}
	if s.half {
		p := remoting.AppendProperty(remoting.Properties(properties), remoting.PropTransaction, "true")
		properties = string(remoting.AppendProperty(p, remoting.PropProducerGroup, cfg.Group))
	}
	s.fill(remoting.SendMessageV2, m, properties)
	if s.req.Body = m.Body; s.half {
		s.header.SysFlag = remoting.SysFlagPrepared
	}
	if cfg.CompressOver >= 0 && len(m.Body) >= cfg.CompressOver {
		var compressed int32
		if s.req.Body, compressed, err = s.p.bodies.compress(m.Body); err != nil {
			return notSent(fmt.Errorf("%w: %w", ErrMessage, err))
		}
		s.header.SysFlag |= compressed
	}
	return nil
}

// batchOverhead is what a message of a batch usually takes besides its body.
const batchOverhead = 128

// batch fills in the request of several messages.
func (s *send) batch(ms []*Message) error {
	if len(ms) == 1 {
		return s.single(ms[0])
	}
	if len(ms) == 0 {
		return notSent(fmt.Errorf("%w: the batch is empty", ErrMessage))
	}
	s.msgs, s.keys = ms, make([]string, len(ms))
	size := 0
	for _, m := range ms {
		if m != nil {
			size += len(m.Body) + batchOverhead
		}
	}
	body := make([]byte, 0, min(size, s.p.cfg.MaxMessageSize))
	var w propertyWriter
	for i, m := range ms {
		err := s.p.cfg.check(m)
		switch {
		case err != nil:
		case m.Topic != ms[0].Topic || m.ShardingKey != ms[0].ShardingKey:
			err = fmt.Errorf("%w: a batch has one topic and one sharding key", ErrMessage)
		case m.delays() > 0:
			err = fmt.Errorf("%w: a batch cannot be delayed", ErrMessage)
		default:
			s.keys[i] = s.key(m)
			w.p = w.p[:0]
			if err = appendProperties(&w, m, s.keys[i]); err == nil {
				body, err = remoting.AppendBatch(body, &remoting.BatchMessage{Flag: m.Flag, Body: m.Body, Properties: w.p})
			}
		}
		if err == nil && len(body) > s.p.cfg.MaxMessageSize {
			err = fmt.Errorf("%w: the batch is longer than %d bytes (ProducerConfig.MaxMessageSize)", ErrMessage, s.p.cfg.MaxMessageSize)
		}
		if err != nil {
			return notSent(fmt.Errorf("message %d of %d: %w", i+1, len(ms), err))
		}
	}
	s.id = strings.Join(s.keys, ",")
	if err := s.resume(); err != nil {
		return err
	}
	s.fill(remoting.SendBatchMessage, ms[0], "")
	s.header.Batch, s.header.Flag = true, 0
	s.req.Body = body
	return nil
}

// key returns the id that m is sent under.
func (s *send) key(m *Message) string {
	if key := m.Properties[remoting.PropUniqKey]; key != "" {
		return key
	}
	if m.limbo.id != "" {
		return m.limbo.key
	}
	return s.p.c.keys.Next()
}

// resume takes up a send whose outcome is unknown.
func (s *send) resume() error {
	for _, m := range s.msgs {
		if m.limbo.id == "" {
			continue
		}
		s.state.limbo = true
		if m.limbo.id != s.id {
			return &SendError{Kind: ErrLimbo, Queue: m.limbo.queue, Err: fmt.Errorf(
				"%w: it was sent together with others, as a batch whose outcome is unknown; only the same batch sent again can tell", ErrMessage)}
		}
	}
	return nil
}

func (s *send) fill(code int32, m *Message, properties string) {
	s.begun = time.Now()
	s.req.Code, s.req.Header = code, &s.header
	s.header = remoting.SendHeader{
		ProducerGroup: s.p.cfg.Group, Topic: m.Topic, DefaultTopic: remoting.TopicAutoCreate, DefaultTopicQueueNums: templateQueues,
		BornTimestamp: s.begun.UnixMilli(), Flag: m.Flag, Properties: properties, MaxReconsumeTimes: -1,
	}
}

// do sends, and remembers in the messages if the outcome is unknown.
func (s *send) do(ctx context.Context, queue *MessageQueue) (*SendResult, error) {
	err := s.begin(ctx, queue)
	if err == nil {
		var res *SendResult
		if res, err = s.run(ctx); err == nil {
			s.remember(nil)
			return res, nil
		}
	}
	return nil, s.fail(err)
}

// deliver sends what single or batch have filled in, unless that failed, and tells the interceptors.
func (s *send) deliver(ctx context.Context, in *interception, queue *MessageQueue, err error) (*SendResult, error) {
	in.restore()
	var res *SendResult
	if err == nil {
		res, err = s.do(ctx, queue)
	}
	in.done(res, err)
	return res, err
}

// fail makes the error of a send that has no result.
func (s *send) fail(err error) error {
	e := &SendError{Kind: ErrNotSent, Queue: s.queue.MessageQueue, Attempts: s.attempts, Err: err}
	var refusal *BrokerError
	switch {
	case s.state.limbo:
		e.Kind = ErrLimbo
		if s.queue.g == nil { // it did not come to an attempt this time
			e.Queue = s.msgs[0].limbo.queue
		}
		s.remember(&e.Queue)
		return e
	case s.attempts > 0 && errors.As(err, &refusal):
		e.Kind = ErrRejected
	}
	s.remember(nil)
	return e
}

// remember notes in the messages that they are in limbo, at a queue, or that they are not.
func (s *send) remember(queue *MessageQueue) {
	for i, m := range s.msgs {
		switch {
		case queue != nil:
			m.limbo = limbo{key: s.keys[i], id: s.id, queue: *queue}
		case m.limbo.id != "":
			m.limbo = limbo{}
		}
	}
}
