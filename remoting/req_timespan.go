package remoting

import (
	"maps"
	"slices"
	"strconv"
)

// GroupTopicRequest is the header of QueryConsumeTimeSpan (303).
type GroupTopicRequest struct {
	Group string
	Topic string
}

// Decode reads the header of c.
func (h *GroupTopicRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = GroupTopicRequest{r.String("group"), r.String("topic")}
	return r.Err()
}

// AppendFields writes the header.
func (h *GroupTopicRequest) AppendFields(e *FieldEncoder) {
	e.String("group", h.Group)
	e.String("topic", h.Topic)
}

// ConsumeTimeSpans is the body of the answer to QueryConsumeTimeSpan: store times of messages of each queue.
type ConsumeTimeSpans []QueueTimeSpan

// QueueTimeSpan is one of ConsumeTimeSpans. Times are ms, -1 where there is no such message.
type QueueTimeSpan struct {
	MessageQueue
	Min, Max int64 // of the first and the last message
	Consumed int64 // of the last one that the group has consumed; Min if none
	Delay    int64 // how long the next one has been waiting; 0 if there is none
}

// AppendBody appends the body.
func (t ConsumeTimeSpans) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.member("consumeTimeSpanSet", '[')
	for _, q := range t {
		w.open('{')
		w.int("consumeTimeStamp", q.Consumed)
		w.int("delayTime", q.Delay)
		w.int("maxTimeStamp", q.Max)
		w.member("messageQueue", '{')
		w.messageQueue(q.MessageQueue)
		w.close('}')
		w.int("minTimeStamp", q.Min)
		w.close('}')
	}
	w.close(']')
	return w.end()
}

// DecodeBody reads the body.
func (t *ConsumeTimeSpans) DecodeBody(body []byte) error {
	s := newScanner(body)
	*t = nil
	for name := range s.members() {
		if name != "consumeTimeSpanSet" {
			continue
		}
		for range s.elements() {
			var q QueueTimeSpan
			for name := range s.members() {
				switch name {
				case "messageQueue":
					q.MessageQueue = s.messageQueue()
				case "minTimeStamp":
					q.Min = s.int(64)
				case "maxTimeStamp":
					q.Max = s.int(64)
				case "consumeTimeStamp":
					q.Consumed = s.int(64)
				case "delayTime":
					q.Delay = s.int(64)
				}
			}
			*t = append(*t, q)
		}
	}
	return s.done("consume time spans")
}

// CorrectionOffsets is the body of the answer to QueryCorrectionOffset (308): an offset per queue id.
type CorrectionOffsets map[int32]int64

// AppendBody appends the body, in the order of the ids.
func (t CorrectionOffsets) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.member("correctionOffsets", '{')
	for _, id := range slices.Sorted(maps.Keys(t)) {
		w.int(strconv.Itoa(int(id)), t[id])
	}
	w.close('}')
	return w.end()
}
