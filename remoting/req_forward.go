package remoting

import (
	"fmt"
	"strconv"
)

// What a tool asks a broker to find out from clients of a consumer group, and the broker asks them.

// ConsumerStatusRequest is the header of InvokeBrokerToGetConsumerStatus (223), which a ConsumerStatus answers, and of
// GetConsumerStatusFromClient (221), which QueueOffsets answer.
type ConsumerStatusRequest struct {
	Topic    string
	Group    string
	ClientID string // its field is called clientAddr; "": all clients of the group
}

// Decode reads the header of c.
func (h *ConsumerStatusRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = ConsumerStatusRequest{r.String("topic"), r.String("group"), r.StringOr("clientAddr", "")}
	return r.Err()
}

// AppendFields writes the header.
func (h *ConsumerStatusRequest) AppendFields(e *FieldEncoder) {
	e.Optional("clientAddr", h.ClientID)
	e.String("group", h.Group)
	e.String("topic", h.Topic)
}

// ConsumerStatus is the body of the answer to InvokeBrokerToGetConsumerStatus: how far each client is.
type ConsumerStatus []ClientOffsets

// ClientOffsets are the offsets of one client.
type ClientOffsets struct {
	ClientID string
	Offsets  QueueOffsets
}

// AppendBody appends the body.
func (t ConsumerStatus) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.member("consumerTable", '{')
	for _, c := range t {
		w.member(c.ClientID, '{')
		w.queueOffsets(c.Offsets)
		w.close('}')
	}
	w.close('}')
	return w.end()
}

// DecodeBody reads the body.
func (t *ConsumerStatus) DecodeBody(body []byte) error {
	s := newScanner(body)
	*t = nil
	for name := range s.members() {
		if name != "consumerTable" {
			continue
		}
		for id := range s.members() {
			c := ClientOffsets{ClientID: id}
			for q := range s.queueMap() {
				c.Offsets = append(c.Offsets, QueueOffset{q, s.int(64)})
			}
			*t = append(*t, c)
		}
	}
	return s.done("consumer status")
}

// RunningInfoRequest is the header of GetConsumerRunningInfo (307). The body of the answer is the client's own: brokers pass it through.
type RunningInfoRequest struct {
	ConsumerGroup string
	ClientID      string
	Stacks        bool // with the client's stack traces
}

// Decode reads the header of c.
func (h *RunningInfoRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = RunningInfoRequest{r.String("consumerGroup"), r.String("clientId"), r.BoolOr("jstackEnable", false)}
	return r.Err()
}

// AppendFields writes the header.
func (h *RunningInfoRequest) AppendFields(e *FieldEncoder) {
	e.String("clientId", h.ClientID)
	e.String("consumerGroup", h.ConsumerGroup)
	e.Bool("jstackEnable", h.Stacks)
}

// ConsumeDirectlyRequest is the header of ConsumeMessageDirectly (309). From a broker to a client it comes with one record. The answer is a
// ConsumeResult.
type ConsumeDirectlyRequest struct {
	ConsumerGroup string
	ClientID      string // "": whichever client of the group
	MsgID         string // offset id
	Topic         string // of the record
	BrokerName    string
}

// Decode reads the header of c.
func (h *ConsumeDirectlyRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = ConsumeDirectlyRequest{
		ConsumerGroup: r.String("consumerGroup"),
		ClientID:      r.StringOr("clientId", ""),
		MsgID:         r.StringOr("msgId", ""),
		Topic:         r.StringOr("topic", ""),
		BrokerName:    r.StringOr("brokerName", ""),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *ConsumeDirectlyRequest) AppendFields(e *FieldEncoder) {
	e.Optional("brokerName", h.BrokerName)
	e.Optional("clientId", h.ClientID)
	e.String("consumerGroup", h.ConsumerGroup)
	e.Optional("msgId", h.MsgID)
	e.Optional("topic", h.Topic)
}

// What came of a message that was consumed directly.
const (
	ConsumeSuccess   = "CR_SUCCESS"
	ConsumeLater     = "CR_LATER"
	ConsumeRollback  = "CR_ROLLBACK"
	ConsumeCommit    = "CR_COMMIT"
	ConsumeException = "CR_THROW_EXCEPTION"
	ConsumeNull      = "CR_RETURN_NULL"
)

var consumeResults = [...]string{ConsumeSuccess, ConsumeLater, ConsumeRollback, ConsumeCommit, ConsumeException, ConsumeNull}

// ConsumeResult is the body of the answer to ConsumeMessageDirectly.
type ConsumeResult struct {
	Order      bool
	AutoCommit bool
	Result     string // one of the above
	Remark     string
	Spent      int64 // ms
}

// AppendBody appends the body.
func (c *ConsumeResult) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.bool("autoCommit", c.AutoCommit)
	w.str("consumeResult", c.Result)
	w.bool("order", c.Order)
	w.optional("remark", c.Remark)
	w.int("spentTimeMills", c.Spent) // so it is spelled
	return w.end()
}

// DecodeBody reads the body. Go clients send the result's number.
func (c *ConsumeResult) DecodeBody(body []byte) error {
	s := newScanner(body)
	*c = ConsumeResult{}
	for name := range s.members() {
		switch name {
		case "order":
			c.Order = s.bool()
		case "autoCommit":
			c.AutoCommit = s.bool()
		case "consumeResult":
			t, _ := s.text()
			c.Result = string(t)
			if n, err := strconv.Atoi(c.Result); err == nil && n >= 0 && n < len(consumeResults) {
				c.Result = consumeResults[n]
			}
		case "remark":
			c.Remark = s.string()
		case "spentTimeMills":
			c.Spent = s.int(64)
		}
	}
	if err := s.done("consume result"); err != nil {
		return err
	}
	if c.Result == "" {
		return fmt.Errorf("%w: consume result without consumeResult", ErrBody)
	}
	return nil
}
