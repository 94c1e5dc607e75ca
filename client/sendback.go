package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// giveBack sends a message that was not consumed back to the broker, which delivers it again later. Only when it has it is the task done; if
// no broker takes it the message goes to the listener again.
func (p *PushConsumer) giveBack(q *processQueue, t *task, m *MessageExt, level int32) {
	if q.ctx.Err() != nil && p.ctx.Err() == nil {
		return // dropped: whoever has the queue now gets the message too
	}
	if !q.pending(t) {
		return // it was given back already, as its listener took too long
	}
	if p.cfg.Broadcasting {
		// Every client has its own copy of it, and there is no topic to bring it again.
		p.c.log.Warn("message skipped", "group", p.cfg.Group, "topic", m.Topic, "id", m.MsgID)
		q.done(t)
		return
	}
	ctx, cancel := context.WithTimeout(p.listening, 2*p.c.cfg.CallTimeout)
	defer cancel()
	err := p.sendBack(ctx, m, level)
	if err == nil {
		q.done(t)
		return
	}
	p.c.log.Warn("send back", "group", p.cfg.Group, "topic", m.Topic, "id", m.MsgID, "error", err)
	time.AfterFunc(p.cfg.RedoDelay, func() {
		if q.redo(t) {
			p.work.add(q)
		}
	})
}

// sendBack asks the broker group that has the message to deliver it again. If it says no, or nothing, a copy is produced: in the same group,
// where repeats of one message for one retry are stored once.
func (p *PushConsumer) sendBack(ctx context.Context, m *MessageExt, level int32) error {
	g, err := p.c.groupOf(ctx, m.Queue)
	if err != nil {
		return err
	}
	_, err = p.c.callGroup(ctx, g, &remoting.Command{Code: remoting.ConsumerSendMsgBack, Header: &remoting.SendBackRequest{
		Offset: m.PhysicalOffset, Group: p.cfg.Group, DelayLevel: level, OriginMsgID: m.MsgID, OriginTopic: m.Topic,
		MaxReconsumeTimes: p.retryLimit(), BrokerName: m.Queue.BrokerName,
	}})
	if err == nil {
		return nil
	}
	if copyErr := p.sendCopy(ctx, g, m, level); copyErr != nil {
		return fmt.Errorf("%w; as a copy: %w", err, copyErr)
	}
	return nil
}

// retryLimit is how often requests say that messages are to come again; -1: as often as the group says.
func (p *PushConsumer) retryLimit() int32 {
	if !p.cfg.ownLimit {
		return -1
	}
	return int32(p.cfg.MaxReconsumeTimes)
}

// sendCopy produces a message to the group's retry topic.
func (p *PushConsumer) sendCopy(ctx context.Context, g *group, m *MessageExt, level int32) error {
	limit := p.retryLimit()
	switch {
	case level < 0:
		limit = 0 // which makes it a dead letter
	case level == 0:
		level = 3 + int32(m.ReconsumeTimes)
	}
	props := m.raw.AppendExcept(nil, remoting.PropDelay, remoting.PropRetryTopic, remoting.PropOriginMessageID, remoting.PropReconsumeTime,
		remoting.PropMaxReconsumeTimes, remoting.PropTransaction, remoting.PropRealTopic, remoting.PropRealQueueID)
	origin := m.Property(remoting.PropOriginMessageID)
	if origin == "" {
		origin = m.OffsetMsgID
	}
	props = remoting.AppendProperty(props, remoting.PropRetryTopic, m.Topic)
	props = remoting.AppendProperty(props, remoting.PropOriginMessageID, origin)
	props = remoting.AppendProperty(props, remoting.PropDelay, strconv.Itoa(int(level)))
	if m.raw.Get(remoting.PropUniqKey) == "" {
		props = remoting.AppendProperty(props, remoting.PropUniqKey, m.MsgID)
	}
	body, sysFlag := m.Body, int32(0)
	if m.Compressed { // as it was
		sysFlag = m.SysFlag & (remoting.SysFlagCompressed | remoting.SysFlagCompressionType)
	}
	h := &remoting.SendHeader{
		ProducerGroup: remoting.GroupInnerProducer, Topic: remoting.RetryTopic(p.cfg.Group), DefaultTopic: remoting.TopicAutoCreate,
		DefaultTopicQueueNums: 1, QueueID: 0, SysFlag: sysFlag, BornTimestamp: m.BornTime.UnixMilli(), Flag: m.Flag, Properties: string(props),
		ReconsumeTimes: int32(m.ReconsumeTimes) + 1, MaxReconsumeTimes: limit, BrokerName: g.name,
	}
	resp, err := p.c.callGroup(ctx, g, &remoting.Command{Code: remoting.SendMessageV2, Header: h, Body: body})
	var refusal *BrokerError
	if errors.As(err, &refusal) && resp != nil && judge(resp, nil) == stored {
		return nil
	}
	return err
}
