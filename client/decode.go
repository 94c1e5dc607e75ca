package client

import (
	"fmt"
	"strings"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// systemProperties are the properties that RocketMQ uses itself: not the user's.
var systemProperties = map[string]bool{
	remoting.PropKeys: true, remoting.PropTags: true, remoting.PropWait: true, remoting.PropUniqKey: true, remoting.PropDelay: true,
	remoting.PropRealTopic: true, remoting.PropRealQueueID: true, remoting.PropRetryTopic: true, remoting.PropOriginMessageID: true,
	remoting.PropReconsumeTime: true, remoting.PropMaxReconsumeTimes: true, remoting.PropTransaction: true, remoting.PropProducerGroup: true,
	remoting.PropRegion: true, remoting.PropTraceOn: true, remoting.PropCluster: true, remoting.PropMinOffset: true,
	remoting.PropMaxOffset: true, remoting.PropInstanceID: true, remoting.PropInnerNum: true, remoting.PropPopCheckPoint: true,
	remoting.PropCorrelationID: true, remoting.PropReplyToClient: true, remoting.PropTTL: true, remoting.PropMessageType: true,
	remoting.PropPushReplyTime: true, remoting.PropArriveTime: true,
	remoting.PropDLQOriginTopic: true, remoting.PropDLQOriginMessageID: true, remoting.PropResent: true, propShardingKey: true,
	"CONSUME_START_TIME": true, remoting.PropTransactionID: true, remoting.PropPreparedOffset: true, remoting.PropCheckTimes: true,
	remoting.PropTimerDelaySec: true, remoting.PropTimerDelayMs: true, remoting.PropTimerDeliverMs: true, remoting.PropCheckImmunity: true, "TIMER_OUT_MS": true, "TIMER_ENQUEUE_MS": true, "TIMER_DEQUEUE_MS": true,
	"TIMER_ROLL_TIMES": true, "TIMER_DELAY_LEVEL": true,
}

// answerRoom is how much memory, in bodies of the longest kind, the compressed bodies of one answer may become together, give or take one.
const answerRoom = 4

// errAnswerFull is Err of messages that come behind those that took all the room of an answer.
var errAnswerFull = fmt.Errorf("%w: the bodies before it in the answer are long", ErrUndecodable)

// decodeMessages decodes the body of an answer. broker is the group it came from. Everything returned that was not compressed lies in body.
func (c *Client) decodeMessages(body []byte, broker string) ([]*MessageExt, error) {
	records, err := remoting.DecodeRecords(body)
	if err != nil {
		return nil, fmt.Errorf("messages from broker %s: %w", broker, err)
	}
	list := make([]*MessageExt, len(records))
	all := make([]MessageExt, len(records))
	room := answerRoom * c.cfg.MaxDecompressed
	for i, r := range records {
		m := &all[i]
		decodeMessage(m, r, broker)
		if m.SysFlag&remoting.SysFlagCompressed != 0 {
			if room <= 0 {
				m.Compressed, m.Err = true, errAnswerFull
			} else if m.decompress(c.bodies); !m.Compressed {
				room -= len(m.Body)
			}
		}
		list[i] = m
	}
	return list, nil
}

// decodeMessage decodes a record. Its body stays as it is.
func decodeMessage(m *MessageExt, r remoting.RecordView, broker string) {
	topic := r.Topic()
	*m = MessageExt{
		Message:        Message{Topic: topic, Body: r.Body(), Flag: r.Flag()},
		OffsetMsgID:    r.OffsetMsgID(),
		Queue:          MessageQueue{Topic: topic, BrokerName: broker, QueueID: r.QueueID()},
		QueueOffset:    r.QueueOffset(),
		PhysicalOffset: r.PhysicalOffset(),
		BornTime:       time.UnixMilli(r.BornTimestamp()),
		StoreTime:      time.UnixMilli(r.StoreTimestamp()),
		BornHost:       r.BornHost(),
		StoreHost:      r.StoreHost(),
		ReconsumeTimes: int(r.ReconsumeTimes()),
		SysFlag:        r.SysFlag(),
		StoreSize:      r.Size(),
		raw:            r.Properties(),
	}
	retryTopic := ""
	for name, value := range m.raw.All() {
		switch string(name) {
		case remoting.PropTags:
			m.Tags = string(value)
		case remoting.PropKeys:
			m.Keys = strings.Fields(string(value))
		case remoting.PropUniqKey:
			m.MsgID = string(value)
		case propShardingKey:
			m.ShardingKey = string(value)
		case remoting.PropRetryTopic:
			retryTopic = string(value)
		default:
			if !systemProperties[string(name)] {
				if m.Properties == nil {
					m.Properties = map[string]string{}
				}
				m.Properties[string(name)] = string(value)
			}
		}
	}
	if m.MsgID == "" {
		m.MsgID = m.OffsetMsgID
	}
	if retryTopic != "" && strings.HasPrefix(topic, remoting.RetryPrefix) {
		m.Topic = retryTopic
	}
}

// decompress replaces Body by what was compressed, or says in Err why it cannot.
func (m *MessageExt) decompress(d *decompressor) {
	body, err := d.decompress(m.Body, m.SysFlag)
	if err != nil {
		m.Compressed, m.Err = true, err
		return
	}
	m.Body = body
}
