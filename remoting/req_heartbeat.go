package remoting

import "fmt"

// Heartbeat is the body of HeartBeat (34): who a client is and what it produces and consumes.
type Heartbeat struct {
	ClientID    string
	Producers   []string // groups
	Consumers   []ConsumerData
	Fingerprint int32 // not 0: a V2 heartbeat of 5.x
	WithoutSub  bool  // V2: subscriptions left out because unchanged
}

// ConsumerData is a consumer group in a heartbeat.
type ConsumerData struct {
	Group            string
	ConsumeType      string // ConsumeActively ...; any text is let through, see Known
	MessageModel     string // Clustering, Broadcasting
	ConsumeFromWhere string
	UnitMode         bool
	Subscriptions    []Subscription
	// Started is when the instance began to consume, ms, 0 if it does not say so: only raftmq's client does. Then MaxReconsumeTimes is how
	// often a message of the group is to come again, as this instance was told.
	Started           int64
	MaxReconsumeTimes int32
}

// The enum texts of consumers.
const (
	ConsumeActively  = "CONSUME_ACTIVELY"  // pull
	ConsumePassively = "CONSUME_PASSIVELY" // push
	ConsumePop       = "CONSUME_POP"

	Broadcasting = "BROADCASTING"
	Clustering   = "CLUSTERING"

	ConsumeFromLastOffset  = "CONSUME_FROM_LAST_OFFSET"
	ConsumeFromFirstOffset = "CONSUME_FROM_FIRST_OFFSET"
	ConsumeFromTimestamp   = "CONSUME_FROM_TIMESTAMP"

	ExpressionTag   = "TAG"
	ExpressionSQL92 = "SQL92"
)

// Known says whether type and model are ones of the protocol. Old Go clients spell them otherwise: a broker ignores such a group and
// keeps the client.
func (d *ConsumerData) Known() bool {
	switch d.ConsumeType {
	case ConsumeActively, ConsumePassively, ConsumePop:
		return d.MessageModel == Broadcasting || d.MessageModel == Clustering
	}
	return false
}

// Subscription is what a group wants of a topic. Codes of tags are not kept: clients hash non-ASCII tags differently, so a broker must
// take them from Expression.
type Subscription struct {
	Topic           string
	Expression      string // "*", "A || B", or SQL
	Tags            []string
	Version         int64  // ms, in Go clients ns
	ExpressionType  string // "TAG" if the client says nothing
	ClassFilterMode bool
}

// DecodeBody reads the body of a heartbeat, with what real clients do to it: nulls, codes as strings, members missing.
func (h *Heartbeat) DecodeBody(body []byte) error {
	s := newScanner(body)
	*h = Heartbeat{}
	for name := range s.members() {
		switch name {
		case "clientID", "clientId":
			h.ClientID = s.string()
		case "producerDataSet":
			for range s.elements() {
				for name := range s.members() {
					if name == "groupName" {
						h.Producers = append(h.Producers, s.string())
					}
				}
			}
		case "consumerDataSet":
			for range s.elements() {
				h.Consumers = append(h.Consumers, s.consumerData())
			}
		case "heartbeatFingerprint":
			h.Fingerprint = int32(s.int(32))
		case "withoutSub":
			h.WithoutSub = s.bool()
		}
	}
	if err := s.done("heartbeat"); err != nil {
		return err
	}
	if h.ClientID == "" {
		return fmt.Errorf("%w: heartbeat without clientID", ErrBody)
	}
	return nil
}

func (s *scanner) consumerData() ConsumerData {
	var d ConsumerData
	for name := range s.members() {
		switch name {
		case "groupName":
			d.Group = s.string()
		case "consumeType":
			d.ConsumeType = s.string()
		case "messageModel":
			d.MessageModel = s.string()
		case "consumeFromWhere":
			d.ConsumeFromWhere = s.string()
		case "unitMode":
			d.UnitMode = s.bool()
		case "raftmqStarted":
			d.Started = s.int(64)
		case "raftmqMaxReconsumeTimes":
			d.MaxReconsumeTimes = int32(s.int(32))
		case "subscriptionDataSet":
			for range s.elements() {
				d.Subscriptions = append(d.Subscriptions, s.subscription())
			}
		}
	}
	return d
}

func (s *scanner) subscription() Subscription {
	d := Subscription{ExpressionType: ExpressionTag}
	for name := range s.members() {
		switch name {
		case "topic":
			d.Topic = s.string()
		case "subString":
			d.Expression = s.string()
		case "tagsSet":
			d.Tags = s.strings()
		case "subVersion":
			d.Version = s.int(64)
		case "expressionType":
			if t := s.string(); t != "" {
				d.ExpressionType = t
			}
		case "classFilterMode":
			d.ClassFilterMode = s.bool()
		}
	}
	return d
}

// AppendBody appends the body as Java clients write it, with the codes of the tags.
func (h *Heartbeat) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.str("clientID", h.ClientID)
	w.member("consumerDataSet", '[')
	for i := range h.Consumers {
		d := &h.Consumers[i]
		w.open('{')
		w.str("consumeFromWhere", d.ConsumeFromWhere)
		w.str("consumeType", d.ConsumeType)
		w.str("groupName", d.Group)
		w.str("messageModel", d.MessageModel)
		if d.Started > 0 {
			w.int("raftmqMaxReconsumeTimes", int64(d.MaxReconsumeTimes))
			w.int("raftmqStarted", d.Started)
		}
		w.member("subscriptionDataSet", '[')
		for j := range d.Subscriptions {
			w.open('{')
			w.subscription(&d.Subscriptions[j])
			w.close('}')
		}
		w.close(']')
		w.bool("unitMode", d.UnitMode)
		w.close('}')
	}
	w.close(']')
	w.int("heartbeatFingerprint", int64(h.Fingerprint))
	w.member("producerDataSet", '[')
	for _, g := range h.Producers {
		w.open('{')
		w.str("groupName", g)
		w.close('}')
	}
	w.close(']')
	w.bool("withoutSub", h.WithoutSub)
	return w.end()
}

// subscription writes the members of a subscription.
func (w *jsonWriter) subscription(d *Subscription) {
	w.bool("classFilterMode", d.ClassFilterMode)
	w.member("codeSet", '[')
	for _, t := range d.Tags {
		w.number(int64(TagHash(t)))
	}
	w.close(']')
	w.str("expressionType", d.ExpressionType)
	w.str("subString", d.Expression)
	w.int("subVersion", d.Version)
	w.strings("tagsSet", d.Tags)
	w.str("topic", d.Topic)
}

// UnregisterClientRequest is the header of UnregisterClient (35); either group or both.
type UnregisterClientRequest struct {
	ClientID      string
	ProducerGroup string
	ConsumerGroup string
}

// Decode reads the header of c.
func (h *UnregisterClientRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = UnregisterClientRequest{r.String("clientID"), r.StringOr("producerGroup", ""), r.StringOr("consumerGroup", "")}
	return r.Err()
}

// AppendFields writes the header.
func (h *UnregisterClientRequest) AppendFields(e *FieldEncoder) {
	e.String("clientID", h.ClientID)
	e.Optional("consumerGroup", h.ConsumerGroup)
	e.Optional("producerGroup", h.ProducerGroup)
}
