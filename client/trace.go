package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

const (
	traceGroup = "_INNER_TRACE_PRODUCER"
	// maxTraces bounds the records that wait to be sent; tracesAtOnce and traceBytes are how many go in one message, and about how large
	// that may be.
	maxTraces    = 2048
	tracesAtOnce = 100
	traceBytes   = 128_000
	// maxTraceKeys bounds the keys of a message, which are one of its properties: a record beyond it can't be found by all of its own.
	maxTraceKeys = remoting.MaxProperties / 2
)

// TraceConfig configures a Tracer. The zero value is the default.
type TraceConfig struct {
	// Topic is where the records go: the brokers' msgTraceTopicName. It must exist, see traceTopicEnable. Default: RMQ_SYS_TRACE_TOPIC.
	Topic string
}

// Tracer writes RocketMQ's message traces, which its console shows: who sent a message, who consumed it, when, and what came of it. Its
// Producer and Consumer methods make interceptors. Sending and listening never wait for it: records that the trace topic does not take in time
// are lost, and counted.
type Tracer struct {
	c       *Client
	p       *Producer
	topic   string
	records chan trace
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	ended   chan struct{} // closed when the sender has ended
	dropped atomic.Int64
}

// trace is a record and what it is found by.
type trace struct {
	text string
	keys []string
}

// NewTracer returns a tracer that uses c's connections.
func (c *Client) NewTracer(cfg TraceConfig) (*Tracer, error) {
	setDefault(&cfg.Topic, remoting.TopicTrace)
	if err := remoting.CheckTopic(cfg.Topic); err != nil {
		return nil, fmt.Errorf("%w: TraceConfig.Topic: %w", ErrConfig, err)
	}
	p, err := c.NewProducer(ProducerConfig{Group: traceGroup})
	if err != nil {
		return nil, err
	}
	t := &Tracer{c: c, p: p, topic: cfg.Topic, records: make(chan trace, maxTraces), ended: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(c.ctx)
	if !c.spawn(t.send) { // Close is under way, and closes p
		t.cancel()
		return nil, ErrClosed
	}
	return t, nil
}

// Dropped returns how many records were lost.
func (t *Tracer) Dropped() int64 { return t.dropped.Load() }

// Close sends the records there are, until ctx ends, and closes the tracer. Its interceptors may go on to be called.
func (t *Tracer) Close(ctx context.Context) error {
	t.cancel()
	select {
	case <-t.ended:
	case <-ctx.Done():
	}
	return t.p.Close(ctx)
}

func (t *Tracer) add(keys []string, fields ...string) {
	select {
	case t.records <- trace{strings.Join(fields, "\x01") + "\x02", slices.DeleteFunc(keys, func(k string) bool { return k == "" })}:
	default:
		t.dropped.Add(1)
	}
}

// send sends the records, as many at once as there are. After Close it goes on until none is left, but waits for no further ones.
func (t *Tracer) send() {
	defer close(t.ended)
	for {
		select {
		case r := <-t.records:
			t.sendAll(r)
			continue
		default:
		}
		select {
		case r := <-t.records:
			t.sendAll(r)
		case <-t.ctx.Done():
			if len(t.records) == 0 || t.c.ctx.Err() != nil {
				return
			}
		}
	}
}

func (t *Tracer) sendAll(first trace) {
	m := &Message{Topic: t.topic}
	keys, n := 0, int64(0)
	add := func(r trace) {
		m.Body = append(m.Body, r.text...)
		n++
		for _, k := range r.keys {
			if keys += len(k) + 1; keys <= maxTraceKeys {
				m.Keys = append(m.Keys, k)
			}
		}
	}
	add(first)
	for more := true; more && n < tracesAtOnce && len(m.Body) < traceBytes && keys < maxTraceKeys; {
		select {
		case r := <-t.records:
			add(r)
		default:
			more = false
		}
	}
	if _, err := t.p.Send(t.c.ctx, m); err != nil && !errors.Is(err, ErrLimbo) {
		t.dropped.Add(n)
		t.c.log.Debug("message traces are lost", "count", n, "error", err)
	}
}

// traced says whether a message is to be traced: not those of traces.
func (t *Tracer) traced(topic, traceOn string) bool { return topic != t.topic && traceOn != "false" }

// Kinds of message in a trace, and what a listener made of one: RocketMQ's numbers.
const (
	traceNormal  = "0"
	traceDelayed = "3"

	traceSuccess   = "0"
	traceException = "2"
	traceFailed    = "4"
)

// Producer returns an interceptor for ProducerConfig.Interceptors, of producers of a group.
//
//	Pub 1 time 1 region 1 group 1 topic 1 msgId 1 tags 1 keys 1 storeHost 1 bodyLength 1 cost 1 kind 1 offsetMsgId 1 success 1 clientHost 2
func (t *Tracer) Producer(group string) SendInterceptor {
	return func(ctx context.Context, msgs []*Message) (context.Context, func(*SendResult, error)) {
		if len(msgs) == 0 || !t.traced(msgs[0].Topic, "") {
			return ctx, nil
		}
		begun := time.Now()
		return ctx, func(res *SendResult, err error) {
			cost := strconv.FormatInt(time.Since(begun).Milliseconds(), 10)
			var ids, offsetIDs []string
			if res != nil {
				ids, offsetIDs = strings.Split(res.MsgID, ","), strings.Split(res.OffsetMsgID, ",")
			}
			for i, m := range msgs {
				id, offsetID, host := m.limbo.key, "", ""
				if i < len(ids) {
					id = ids[i]
				}
				if i < len(offsetIDs) {
					offsetID = offsetIDs[i]
					if addr, _, err := remoting.ParseOffsetMsgID(offsetID); err == nil {
						host = addr.String()
					}
				}
				kind := traceNormal
				if m.DelayLevel > 0 {
					kind = traceDelayed
				}
				keys := strings.Join(m.Keys, " ")
				t.add(append([]string{id}, m.Keys...), "Pub", strconv.FormatInt(begun.UnixMilli(), 10), remoting.RegionDefault, group, m.Topic, id, m.Tags, keys,
					host, strconv.Itoa(len(m.Body)), cost, kind, offsetID, strconv.FormatBool(err == nil), t.c.cfg.ClientID)
			}
		}
	}
}

// Consumer returns an interceptor for PushConfig.Interceptors, of consumers of a group.
//
//	SubBefore 1 time 1 region 1 group 1 requestId 1 msgId 1 retryTimes 1 keys 2
//	SubAfter 1 requestId 1 msgId 1 cost 1 success 1 keys 1 code 1 time 1 group 2
func (t *Tracer) Consumer(group string) ConsumeInterceptor {
	return func(next Listener) Listener {
		return func(ctx context.Context, msgs []*MessageExt) (err error) {
			request, begun := t.c.keys.Next(), time.Now()
			each := func(f func(m *MessageExt, keys string)) {
				for _, m := range msgs {
					if t.traced(m.Topic, m.Property(remoting.PropTraceOn)) {
						f(m, strings.Join(m.Keys, " "))
					}
				}
			}
			each(func(m *MessageExt, keys string) {
				t.add(append([]string{m.MsgID}, m.Keys...), "SubBefore", strconv.FormatInt(begun.UnixMilli(), 10), m.Property(remoting.PropRegion), group,
					request, m.MsgID, strconv.Itoa(m.ReconsumeTimes), keys)
			})
			code := traceException // if it panics
			defer func() {
				now := time.Now()
				cost := strconv.FormatInt(now.Sub(begun).Milliseconds()/int64(len(msgs)), 10)
				each(func(m *MessageExt, keys string) {
					t.add(append([]string{m.MsgID}, m.Keys...), "SubAfter", request, m.MsgID, cost, strconv.FormatBool(code == traceSuccess), keys, code,
						strconv.FormatInt(now.UnixMilli(), 10), group)
				})
			}()
			if err = next(ctx, msgs); err != nil {
				code = traceFailed
			} else {
				code = traceSuccess
			}
			return err
		}
	}
}
