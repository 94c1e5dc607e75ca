package remoting

import (
	"fmt"
	"iter"
)

// MessageQueue names a queue.
type MessageQueue struct {
	Topic      string
	BrokerName string // of the broker group
	QueueID    int32
}

// messageQueue writes q as an object.
func (w *jsonWriter) messageQueue(q MessageQueue) {
	w.str("brokerName", q.BrokerName)
	w.int("queueId", int64(q.QueueID))
	w.str("topic", q.Topic)
}

func (s *scanner) messageQueue() MessageQueue {
	var q MessageQueue
	for name := range s.members() {
		switch name {
		case "topic":
			q.Topic = s.string()
		case "brokerName":
			q.BrokerName = s.string()
		case "queueId":
			q.QueueID = int32(s.int(32))
		}
	}
	return q
}

// Maps whose keys are queues. fastjson writes the key as an object, which is not JSON, and Java clients read nothing else:
//
//	{{"brokerName":"b","queueId":0,"topic":"T"}:VALUE,{...}:VALUE}
//
// No white space: Go clients split the text at ",{" and "}:".

// queueKey begins a member whose key is q.
func (w *jsonWriter) queueKey(q MessageQueue) {
	w.open('{')
	w.messageQueue(q)
	w.b = append(w.b, '}', ':')
}

// queueMap iterates over such a map, and over the forms other implementations make of it: keys as strings holding JSON, and an array of
// pairs. The loop body reads the value or leaves it.
func (s *scanner) queueMap() iter.Seq[MessageQueue] {
	return func(yield func(MessageQueue) bool) {
		if s.peek() == '[' {
			for range s.elements() {
				var q MessageQueue
				for i := range s.elements() {
					if i == 0 {
						q = s.messageQueue()
					} else if i == 1 && !yield(q) {
						return
					}
				}
			}
			return
		}
		for name := range s.members() {
			key := scanner{b: []byte(name), left: 64}
			q := key.messageQueue()
			if err := key.end(); err != nil {
				s.fail(fmt.Sprintf("map key %.64q is not a queue", name))
				return
			}
			if !yield(q) {
				return
			}
		}
	}
}

// QueueOffsets is an offset per queue: the body of ResetConsumerClientOffset (220) and of its answers.
type QueueOffsets []QueueOffset

// QueueOffset is one of QueueOffsets.
type QueueOffset struct {
	MessageQueue
	Offset int64
}

// AppendBody appends {"offsetTable":...}.
func (t QueueOffsets) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.member("offsetTable", '{')
	w.queueOffsets(t)
	w.close('}')
	return w.end()
}

func (w *jsonWriter) queueOffsets(t QueueOffsets) {
	for _, o := range t {
		w.queueKey(o.MessageQueue)
		w.number(o.Offset)
	}
}

// DecodeBody reads {"offsetTable":...} and {"messageQueueTable":...}, which answers GetConsumerStatusFromClient (221).
func (t *QueueOffsets) DecodeBody(body []byte) error {
	s := newScanner(body)
	*t = nil
	for name := range s.members() {
		if name == "offsetTable" || name == "messageQueueTable" {
			for q := range s.queueMap() {
				*t = append(*t, QueueOffset{q, s.int(64)})
			}
		}
	}
	return s.done("queue offsets")
}
