package remoting

// TopicStats is the body of the answer to GetTopicStatsInfo (202).
type TopicStats struct {
	Queues []QueueStats
	PutTPS float64
}

// QueueStats is a queue's range.
type QueueStats struct {
	MessageQueue
	MinOffset           int64
	MaxOffset           int64 // the next one to be written
	LastUpdateTimestamp int64 // ms; 0 if the queue is empty
}

// AppendBody appends the body.
func (t *TopicStats) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.member("offsetTable", '{')
	for i := range t.Queues {
		q := &t.Queues[i]
		w.queueKey(q.MessageQueue)
		w.open('{')
		w.int("lastUpdateTimestamp", q.LastUpdateTimestamp)
		w.int("maxOffset", q.MaxOffset)
		w.int("minOffset", q.MinOffset)
		w.close('}')
	}
	w.close('}')
	w.float("topicPutTps", t.PutTPS)
	return w.end()
}

// DecodeBody reads the body.
func (t *TopicStats) DecodeBody(body []byte) error {
	s := newScanner(body)
	*t = TopicStats{}
	for name := range s.members() {
		switch name {
		case "topicPutTps":
			t.PutTPS = s.float()
		case "offsetTable":
			for mq := range s.queueMap() {
				q := QueueStats{MessageQueue: mq}
				for name := range s.members() {
					switch name {
					case "minOffset":
						q.MinOffset = s.int(64)
					case "maxOffset":
						q.MaxOffset = s.int(64)
					case "lastUpdateTimestamp":
						q.LastUpdateTimestamp = s.int(64)
					}
				}
				t.Queues = append(t.Queues, q)
			}
		}
	}
	return s.done("topic stats")
}

// ConsumeStatsRequest is the header of GetConsumeStats (208).
type ConsumeStatsRequest struct {
	ConsumerGroup string
	Topic         string // "": every topic the group has offsets for
}

// Decode reads the header of c.
func (h *ConsumeStatsRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = ConsumeStatsRequest{r.String("consumerGroup"), r.StringOr("topic", "")}
	return r.Err()
}

// AppendFields writes the header.
func (h *ConsumeStatsRequest) AppendFields(e *FieldEncoder) {
	e.String("consumerGroup", h.ConsumerGroup)
	e.Optional("topic", h.Topic)
}

// ConsumeStats is the body of the answer to GetConsumeStats.
type ConsumeStats struct {
	Queues     []QueueConsumeStats
	ConsumeTPS float64
}

// QueueConsumeStats is how far a group is with a queue.
type QueueConsumeStats struct {
	MessageQueue
	BrokerOffset   int64 // the next one to be written
	ConsumerOffset int64 // committed; 0 if never
	PullOffset     int64
	LastTimestamp  int64 // ms, store time of the last message consumed; 0 if none
}

// AppendBody appends the body.
func (t *ConsumeStats) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.float("consumeTps", t.ConsumeTPS)
	w.member("offsetTable", '{')
	for i := range t.Queues {
		q := &t.Queues[i]
		w.queueKey(q.MessageQueue)
		w.open('{')
		w.int("brokerOffset", q.BrokerOffset)
		w.int("consumerOffset", q.ConsumerOffset)
		w.int("lastTimestamp", q.LastTimestamp)
		w.int("pullOffset", q.PullOffset)
		w.close('}')
	}
	w.close('}')
	return w.end()
}

// DecodeBody reads the body.
func (t *ConsumeStats) DecodeBody(body []byte) error {
	s := newScanner(body)
	*t = ConsumeStats{}
	for name := range s.members() {
		switch name {
		case "consumeTps":
			t.ConsumeTPS = s.float()
		case "offsetTable":
			for mq := range s.queueMap() {
				q := QueueConsumeStats{MessageQueue: mq}
				for name := range s.members() {
					switch name {
					case "brokerOffset":
						q.BrokerOffset = s.int(64)
					case "consumerOffset":
						q.ConsumerOffset = s.int(64)
					case "pullOffset":
						q.PullOffset = s.int(64)
					case "lastTimestamp":
						q.LastTimestamp = s.int(64)
					}
				}
				t.Queues = append(t.Queues, q)
			}
		}
	}
	return s.done("consume stats")
}
