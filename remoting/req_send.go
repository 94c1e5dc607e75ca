package remoting

import "strings"

// SendHeader is the header of SendMessage (10), SendMessageV2 (310), SendBatchMessage (320) and the two SendReplyMessage (324, 325)
// requests. The body is the message's body, or a batch (see DecodeBatch).
//
//	a producerGroup          e queueId         i properties
//	b topic                  f sysFlag         j reconsumeTimes
//	c defaultTopic           g bornTimestamp   k unitMode
//	d defaultTopicQueueNums  h flag            l maxReconsumeTimes    m batch    n bname
//
// 310, 320 and 325 have the letters, 10 and 324 the long names; Decode takes both under any code.
type SendHeader struct {
	ProducerGroup         string
	Topic                 string
	DefaultTopic          string // template of an auto-created topic
	DefaultTopicQueueNums int32
	QueueID               int32 // < 0: the broker picks one
	SysFlag               int32
	BornTimestamp         int64 // ms
	Flag                  int32 // the user's
	Properties            string
	ReconsumeTimes        int32
	UnitMode              bool
	MaxReconsumeTimes     int32 // -1: not given
	Batch                 bool
	BrokerName            string
}

// sendNames are the long names, by letter.
var sendNames = [...]string{"producerGroup", "topic", "defaultTopic", "defaultTopicQueueNums", "queueId", "sysFlag", "bornTimestamp", "flag",
	"properties", "reconsumeTimes", "unitMode", "maxReconsumeTimes", "batch", "bname"}

const sendRequired = "abdefgh" // defaultTopic, which Java also wants, only matters for auto-creation

// Decode reads the header of c.
func (h *SendHeader) Decode(c *Command) error {
	*h = SendHeader{MaxReconsumeTimes: -1, Batch: c.Code == SendBatchMessage}
	var r FieldReader
	var seen uint32
	for i := range c.Ext { // one walk: this is the busiest header
		v := c.Ext[i].Value
		if v == "" {
			continue
		}
		letter := sendLetter(c.Ext[i].Key)
		switch letter {
		case 'a':
			h.ProducerGroup = v
		case 'b':
			h.Topic = v
		case 'c':
			h.DefaultTopic = v
		case 'd':
			h.DefaultTopicQueueNums = int32(r.parse("defaultTopicQueueNums", v, 32))
		case 'e':
			h.QueueID = int32(r.parse("queueId", v, 32))
		case 'f':
			h.SysFlag = int32(r.parse("sysFlag", v, 32))
		case 'g':
			h.BornTimestamp = r.parse("bornTimestamp", v, 64)
		case 'h':
			h.Flag = int32(r.parse("flag", v, 32))
		case 'i':
			h.Properties = v
		case 'j':
			h.ReconsumeTimes = int32(r.parse("reconsumeTimes", v, 32))
		case 'k':
			h.UnitMode = strings.EqualFold(v, "true")
		case 'l':
			h.MaxReconsumeTimes = int32(r.parse("maxReconsumeTimes", v, 32))
		case 'm':
			h.Batch = h.Batch || strings.EqualFold(v, "true")
		case 'n':
			h.BrokerName = v
		default:
			continue
		}
		seen |= 1 << (letter - 'a')
	}
	for i := range len(sendRequired) {
		if n := sendRequired[i] - 'a'; seen&(1<<n) == 0 {
			r.missing(sendNames[n])
		}
	}
	return r.err
}

// sendLetter returns the letter of a field, 0 if it is none of the send request's.
func sendLetter(key string) byte {
	if len(key) == 1 {
		return key[0]
	}
	for i, name := range sendNames {
		if key == name {
			return byte('a' + i)
		}
	}
	return 0
}

// AppendFields writes the header with the letters, for 310, 320 and 325.
func (h *SendHeader) AppendFields(e *FieldEncoder) {
	e.String("a", h.ProducerGroup)
	e.String("b", h.Topic)
	e.String("c", h.DefaultTopic)
	e.Int("d", int64(h.DefaultTopicQueueNums))
	e.Int("e", int64(h.QueueID))
	e.Int("f", int64(h.SysFlag))
	e.Int("g", h.BornTimestamp)
	e.Int("h", int64(h.Flag))
	e.Optional("i", h.Properties)
	e.Int("j", int64(h.ReconsumeTimes))
	e.Bool("k", h.UnitMode)
	if h.MaxReconsumeTimes >= 0 {
		e.Int("l", int64(h.MaxReconsumeTimes))
	}
	if h.Batch {
		e.Bool("m", true)
	}
	e.Optional("n", h.BrokerName)
}

// LongNames returns the header as 10 and 324 want it.
func (h *SendHeader) LongNames() Header { return (*sendHeaderV1)(h) }

type sendHeaderV1 SendHeader

func (h *sendHeaderV1) AppendFields(e *FieldEncoder) {
	e.String("producerGroup", h.ProducerGroup)
	e.String("topic", h.Topic)
	e.String("defaultTopic", h.DefaultTopic)
	e.Int("defaultTopicQueueNums", int64(h.DefaultTopicQueueNums))
	e.Int("queueId", int64(h.QueueID))
	e.Int("sysFlag", int64(h.SysFlag))
	e.Int("bornTimestamp", h.BornTimestamp)
	e.Int("flag", int64(h.Flag))
	e.Optional("properties", h.Properties)
	e.Int("reconsumeTimes", int64(h.ReconsumeTimes))
	e.Bool("unitMode", h.UnitMode)
	if h.MaxReconsumeTimes >= 0 {
		e.Int("maxReconsumeTimes", int64(h.MaxReconsumeTimes))
	}
	if h.Batch {
		e.Bool("batch", true)
	}
	e.Optional("bname", h.BrokerName)
}

// SendResponse is the header of the answer to a send, for the codes that mean "stored" too (0, 10, 11, 12). There is no body.
type SendResponse struct {
	MsgID         string // offset id, of a batch all of them joined by commas
	QueueID       int32
	QueueOffset   int64 // of a batch the first one's
	TransactionID string
	RecallHandle  string
	Region        string
	TraceOn       bool
}

// Decode reads the header of c.
func (h *SendResponse) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = SendResponse{
		MsgID:         r.String("msgId"),
		QueueID:       r.Int32("queueId"),
		QueueOffset:   r.Int64("queueOffset"),
		TransactionID: r.StringOr("transactionId", ""),
		RecallHandle:  r.StringOr("recallHandle", ""),
		Region:        r.StringOr("MSG_REGION", ""),
		TraceOn:       r.BoolOr("TRACE_ON", false),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *SendResponse) AppendFields(e *FieldEncoder) {
	e.Optional("MSG_REGION", h.Region)
	e.Bool("TRACE_ON", h.TraceOn)
	e.String("msgId", h.MsgID)
	e.Int("queueId", int64(h.QueueID))
	e.Int("queueOffset", h.QueueOffset)
	e.Optional("recallHandle", h.RecallHandle)
	e.Optional("transactionId", h.TransactionID)
}
