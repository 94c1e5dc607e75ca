package remoting

// LockRequest is the body of LockBatchMQ (41) and UnlockBatchMQ (42), by which a client owns queues of a group it consumes in order.
// The answer to 41 is a LockResponse.
type LockRequest struct {
	ConsumerGroup  string
	ClientID       string
	OnlyThisBroker bool
	Queues         []MessageQueue
}

// AppendBody appends the body.
func (l *LockRequest) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.str("clientId", l.ClientID)
	w.str("consumerGroup", l.ConsumerGroup)
	w.queues("mqSet", l.Queues)
	w.bool("onlyThisBroker", l.OnlyThisBroker)
	return w.end()
}

// DecodeBody reads the body.
func (l *LockRequest) DecodeBody(body []byte) error {
	s := newScanner(body)
	*l = LockRequest{}
	for name := range s.members() {
		switch name {
		case "consumerGroup":
			l.ConsumerGroup = s.string()
		case "clientId":
			l.ClientID = s.string()
		case "onlyThisBroker":
			l.OnlyThisBroker = s.bool()
		case "mqSet":
			l.Queues = s.queues()
		}
	}
	return s.done("lock request")
}

// LockResponse is the body of the answer to LockBatchMQ: all queues that the client now owns.
type LockResponse []MessageQueue

// AppendBody appends the body.
func (l LockResponse) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.queues("lockOKMQSet", l)
	return w.end()
}

// DecodeBody reads the body.
func (l *LockResponse) DecodeBody(body []byte) error {
	s := newScanner(body)
	*l = nil
	for name := range s.members() {
		if name == "lockOKMQSet" {
			*l = s.queues()
		}
	}
	return s.done("lock response")
}

func (w *jsonWriter) queues(k string, list []MessageQueue) {
	w.member(k, '[')
	for _, q := range list {
		w.open('{')
		w.messageQueue(q)
		w.close('}')
	}
	w.close(']')
}

func (s *scanner) queues() []MessageQueue {
	var list []MessageQueue
	for range s.elements() {
		list = append(list, s.messageQueue())
	}
	return list
}
