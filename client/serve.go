package client

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// serve answers what brokers ask of a push consumer.
func (p *PushConsumer) serve(req *remoting.Command) bool {
	switch req.Code {
	case remoting.NotifyConsumerIDsChanged:
		p.rebalanceNow()
	case remoting.ResetConsumerClientOffset:
		p.serveReset(req)
	case remoting.GetConsumerStatusFromClient:
		p.serveStatus(req)
	case remoting.GetConsumerRunningInfo:
		p.serveRunningInfo(req)
	case remoting.ConsumeMessageDirectly:
		p.serveDirect(req)
	default:
		return false
	}
	return true
}

// later runs f, which may block, on a goroutine that Close waits for. It refuses if there are too many of them already.
func (p *PushConsumer) later(r remoting.Responder, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == pushRunning {
		select {
		case p.asked <- struct{}{}:
			p.loops.Go(func() {
				f()
				<-p.asked
			})
			return
		default:
		}
	}
	r.Error(remoting.Errorf(remoting.SystemBusy, "the consumer is closing, or too much is asked of it at once"))
}

// serveReset (220) sets the group's offsets of some queues, of which those that we have begin anew there.
func (p *PushConsumer) serveReset(req *remoting.Command) {
	var offsets remoting.QueueOffsets
	if err := offsets.DecodeBody(req.Body); err != nil {
		p.c.log.Warn("reset of offsets", "group", p.cfg.Group, "error", err)
		req.Responder().Error(err)
		return
	}
	p.later(req.Responder(), func() {
		for _, o := range offsets {
			p.mu.Lock()
			q := p.queues[o.MessageQueue]
			p.mu.Unlock()
			if q != nil && o.Offset >= 0 {
				p.c.log.Info("offset reset", "group", p.cfg.Group, "topic", o.Topic, "broker", o.BrokerName, "queue", o.QueueID, "from", q.commitOffset(), "to", o.Offset)
				p.restart(q, o.Offset)
			}
		}
	})
}

// serveStatus (221) tells how far we are with the queues of a topic.
func (p *PushConsumer) serveStatus(req *remoting.Command) {
	topic := req.Ext.Get("topic")
	table := newQueueTable(nil, "messageQueueTable")
	for _, q := range p.held() {
		if topic == "" || q.mq.Topic == topic {
			table.add(q.mq, strconv.AppendInt(nil, q.commitOffset(), 10))
		}
	}
	req.Responder().Respond(&remoting.Command{Body: append(table.end(), '}')})
}

// queueTable writes a JSON member whose value is a map with queues as keys, as RocketMQ's tools read it: the key is an object.
type queueTable struct {
	b    []byte
	more bool
}

// newQueueTable begins the first member of an object, or one behind others.
func newQueueTable(b []byte, name string) *queueTable {
	if b == nil {
		b = append(b, '{')
	} else {
		b = append(b, ',')
	}
	return &queueTable{b: append(strconv.AppendQuote(b, name), ":{"...)}
}

func (t *queueTable) add(mq MessageQueue, value []byte) {
	if t.more {
		t.b = append(t.b, ',')
	}
	t.more = true
	// Names of topics and brokers need no escape.
	t.b = fmt.Appendf(t.b, `{"brokerName":%q,"queueId":%d,"topic":%q}:%s`, mq.BrokerName, mq.QueueID, mq.Topic, value)
}

func (t *queueTable) end() []byte { return append(t.b, '}') }

// processQueueInfo is what running info says of a queue.
type processQueueInfo struct {
	CommitOffset         int64 `json:"commitOffset"`
	CachedMsgMinOffset   int64 `json:"cachedMsgMinOffset"`
	CachedMsgMaxOffset   int64 `json:"cachedMsgMaxOffset"`
	CachedMsgCount       int   `json:"cachedMsgCount"`
	CachedMsgSizeInMiB   int64 `json:"cachedMsgSizeInMiB"`
	Locked               bool  `json:"locked"`
	Dropped              bool  `json:"droped"` // so it is spelled
	LastPullTimestamp    int64 `json:"lastPullTimestamp"`
	LastConsumeTimestamp int64 `json:"lastConsumeTimestamp"`
}

func (q *processQueue) info() processQueueInfo {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := processQueueInfo{CommitOffset: q.commitOffsetLocked(), CachedMsgCount: q.count, CachedMsgSizeInMiB: q.bytes >> 20, Dropped: q.dropped,
		LastPullTimestamp: q.pulled.UnixMilli(), LastConsumeTimestamp: q.consumed.UnixMilli()}
	if q.order != nil {
		i.Locked = q.trustedLocked()
	}
	if len(q.tasks) > 0 {
		i.CachedMsgMinOffset, i.CachedMsgMaxOffset = q.tasks[0].offset, q.tasks[len(q.tasks)-1].offset
	}
	return i
}

// serveRunningInfo (307) tells what the consumer does. Rates are not kept, so statusTable is empty.
func (p *PushConsumer) serveRunningInfo(req *remoting.Command) {
	type subscriptionInfo struct {
		Topic      string   `json:"topic"`
		Expression string   `json:"subString"`
		Tags       []string `json:"tagsSet"`
		Version    int64    `json:"subVersion"`
		Type       string   `json:"expressionType"`
	}
	subs := []subscriptionInfo{}
	for _, s := range p.subscriptions() {
		subs = append(subs, subscriptionInfo{s.topic, s.expression, append([]string{}, s.tags...), s.version, s.kind})
	}
	head, err := json.Marshal(map[string]any{
		"properties": map[string]string{
			"PROP_NAMESERVER_ADDR":          p.c.cfg.NameServers,
			"PROP_CONSUME_TYPE":             remoting.ConsumePassively,
			"PROP_CONSUMEORDERLY":           strconv.FormatBool(p.cfg.Ordered),
			"PROP_THREADPOOL_CORE_SIZE":     strconv.Itoa(p.cfg.Workers),
			"PROP_CLIENT_VERSION":           strconv.Itoa(int(remoting.Version)),
			"PROP_CONSUMER_START_TIMESTAMP": strconv.FormatInt(p.started.UnixMilli(), 10),
			"consumed":                      strconv.FormatInt(p.consumed.Load(), 10),
			"failed":                        strconv.FormatInt(p.unconsumed.Load(), 10),
		},
		"subscriptionSet": subs, "statusTable": struct{}{}, "mqPopTable": struct{}{}, "userConsumerInfo": struct{}{},
	})
	if err != nil {
		req.Responder().Error(err)
		return
	}
	table := newQueueTable(head[:len(head)-1], "mqTable")
	for _, q := range p.held() {
		value, err := json.Marshal(q.info())
		if err != nil {
			req.Responder().Error(err)
			return
		}
		table.add(q.mq, value)
	}
	req.Responder().Respond(&remoting.Command{Body: append(table.end(), '}')})
}

// serveDirect (309) gives a message to the listener because a tool asks for it, and answers what came of that. A dead letter goes to the
// listener of the topic it was sent to, unless the dead letters' topic has one.
func (p *PushConsumer) serveDirect(req *remoting.Command) {
	r := req.Responder()
	msgs, err := p.c.decodeMessages(append([]byte(nil), req.Body...), req.Ext.Get("brokerName"))
	if err != nil || len(msgs) != 1 {
		r.Error(remoting.Errorf(remoting.InvalidParameter, "want one message, got %d: %v", len(msgs), err))
		return
	}
	if m := msgs[0]; p.subscription(m.Topic) == nil && strings.HasPrefix(m.Topic, remoting.DLQPrefix) {
		if topic := m.Property(remoting.PropRetryTopic); topic != "" {
			m.Topic = topic
		}
	}
	p.later(r, func() {
		began := time.Now()
		result := remoting.ConsumeResult{Order: p.cfg.Ordered, AutoCommit: true, Result: remoting.ConsumeSuccess}
		if err := p.listen(p.listening, msgs); err != nil {
			result.Result, result.Remark = remoting.ConsumeLater, err.Error()
		}
		result.Spent = time.Since(began).Milliseconds()
		r.Respond(&remoting.Command{Body: result.AppendBody(nil)})
	})
}
