package remoting

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// RecallMessageRequest is the header of RecallMessage (370): a message that waits for its time is not to be delivered.
type RecallMessageRequest struct {
	ProducerGroup string
	Topic         string
	RecallHandle  string // of the answer to the send
	BrokerName    string
}

// Decode reads the header of c.
func (h *RecallMessageRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = RecallMessageRequest{
		ProducerGroup: r.StringOr("producerGroup", ""),
		Topic:         r.String("topic"),
		RecallHandle:  r.String("recallHandle"),
		BrokerName:    r.StringOr("bname", ""),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *RecallMessageRequest) AppendFields(e *FieldEncoder) {
	e.Optional("bname", h.BrokerName)
	e.Optional("producerGroup", h.ProducerGroup)
	e.String("recallHandle", h.RecallHandle)
	e.String("topic", h.Topic)
}

// RecallMessageResponse is the header of the answer to it.
type RecallMessageResponse struct {
	MsgID string // the UNIQ_KEY of the message
}

// Decode reads the header of c.
func (h *RecallMessageResponse) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = RecallMessageResponse{MsgID: r.String("msgId")}
	return r.Err()
}

// AppendFields writes the header.
func (h *RecallMessageResponse) AppendFields(e *FieldEncoder) { e.String("msgId", h.MsgID) }

// RecallHandle names a message that waits for its time. Clients pass it back as they got it: the base64, for URLs, of
//
//	v1 SP topic SP broker name SP due, ms SP UNIQ_KEY
type RecallHandle struct {
	Topic      string
	BrokerName string
	Due        int64 // ms
	UniqKey    string
}

const recallVersion = "v1"

// String encodes the handle.
func (h RecallHandle) String() string {
	return base64.URLEncoding.EncodeToString([]byte(strings.Join([]string{recallVersion, h.Topic, h.BrokerName, strconv.FormatInt(h.Due, 10), h.UniqKey}, " ")))
}

// ParseRecallHandle is its inverse. Padding may be missing. An error wraps ErrField.
func ParseRecallHandle(text string) (h RecallHandle, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return h, fmt.Errorf("%w: recall handle: %w", ErrField, err)
	}
	parts := strings.SplitN(string(raw), " ", 5)
	if len(parts) != 5 || parts[0] != recallVersion || parts[1] == "" || parts[2] == "" || parts[4] == "" {
		return h, fmt.Errorf("%w: recall handle: want %s, topic, broker name, time and UNIQ_KEY", ErrField, recallVersion)
	}
	h = RecallHandle{Topic: parts[1], BrokerName: parts[2], UniqKey: parts[4]}
	if h.Due, err = strconv.ParseInt(parts[3], 10, 64); err != nil {
		return RecallHandle{}, fmt.Errorf("%w: recall handle: the time is %q", ErrField, parts[3])
	}
	return h, nil
}
