package remoting

import (
	"fmt"
	"strings"
)

// QueryConsumerOffsetRequest is the header of QueryConsumerOffset (14). The answer is an OffsetResponse, or QueryNotFound, which means
// "never committed" and nothing else.
type QueryConsumerOffsetRequest struct {
	ConsumerGroup string
	Topic         string
	QueueID       int32
	NoZero        bool // setZeroIfNotFound is "false": a young queue without a commit is not found, rather than at 0
}

// Decode reads the header of c.
func (h *QueryConsumerOffsetRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = QueryConsumerOffsetRequest{r.String("consumerGroup"), r.String("topic"), r.Int32("queueId"), !r.BoolOr("setZeroIfNotFound", true)}
	return r.Err()
}

// AppendFields writes the header.
func (h *QueryConsumerOffsetRequest) AppendFields(e *FieldEncoder) {
	e.String("consumerGroup", h.ConsumerGroup)
	e.Int("queueId", int64(h.QueueID))
	if h.NoZero {
		e.Bool("setZeroIfNotFound", false)
	}
	e.String("topic", h.Topic)
}

// UpdateConsumerOffsetRequest is the header of UpdateConsumerOffset (15), usually oneway.
type UpdateConsumerOffsetRequest struct {
	ConsumerGroup string
	Topic         string
	QueueID       int32
	CommitOffset  int64 // < 0 (Node clients send it): nothing to commit
}

// Decode reads the header of c.
func (h *UpdateConsumerOffsetRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = UpdateConsumerOffsetRequest{r.String("consumerGroup"), r.String("topic"), r.Int32("queueId"), r.Int64("commitOffset")}
	return r.Err()
}

// AppendFields writes the header.
func (h *UpdateConsumerOffsetRequest) AppendFields(e *FieldEncoder) {
	e.Int("commitOffset", h.CommitOffset)
	e.String("consumerGroup", h.ConsumerGroup)
	e.Int("queueId", int64(h.QueueID))
	e.String("topic", h.Topic)
}

// QueueRequest is the header of GetMaxOffset (30), GetMinOffset (31) and GetEarliestMsgStoreTime (32). The answer is an OffsetResponse,
// that of 32 a TimestampResponse.
type QueueRequest struct {
	Topic   string
	QueueID int32
}

// Decode reads the header of c.
func (h *QueueRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = QueueRequest{r.String("topic"), r.Int32("queueId")}
	return r.Err()
}

// AppendFields writes the header.
func (h *QueueRequest) AppendFields(e *FieldEncoder) {
	e.Int("queueId", int64(h.QueueID))
	e.String("topic", h.Topic)
}

// SearchOffsetRequest is the header of SearchOffsetByTimestamp (29). The answer is an OffsetResponse.
type SearchOffsetRequest struct {
	Topic     string
	QueueID   int32
	Timestamp int64 // ms
	Upper     bool  // the last offset stored at or before Timestamp, not the first at or after it
}

// Decode reads the header of c.
func (h *SearchOffsetRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = SearchOffsetRequest{
		Topic:     r.String("topic"),
		QueueID:   r.Int32("queueId"),
		Timestamp: r.Int64("timestamp"),
	}
	switch b := r.StringOr("boundaryType", "LOWER"); {
	case strings.EqualFold(b, "UPPER"):
		h.Upper = true
	case !strings.EqualFold(b, "LOWER") && r.err == nil:
		r.err = fmt.Errorf("%w: boundaryType is %.32q, want LOWER or UPPER", ErrField, b)
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *SearchOffsetRequest) AppendFields(e *FieldEncoder) {
	if h.Upper {
		e.String("boundaryType", "UPPER")
	}
	e.Int("queueId", int64(h.QueueID))
	e.Int("timestamp", h.Timestamp)
	e.String("topic", h.Topic)
}

// OffsetResponse answers 14, 29, 30 and 31. Errors must go without it: Go clients read the offset without looking at the code.
type OffsetResponse struct {
	Offset int64
}

// Decode reads the header of c.
func (h *OffsetResponse) Decode(c *Command) error {
	r := c.Ext.Reader()
	h.Offset = r.Int64("offset")
	return r.Err()
}

// AppendFields writes the header.
func (h *OffsetResponse) AppendFields(e *FieldEncoder) { e.Int("offset", h.Offset) }

// TimestampResponse answers 32.
type TimestampResponse struct {
	Timestamp int64 // ms; -1: the queue is empty
}

// Decode reads the header of c.
func (h *TimestampResponse) Decode(c *Command) error {
	r := c.Ext.Reader()
	h.Timestamp = r.Int64("timestamp")
	return r.Err()
}

// AppendFields writes the header.
func (h *TimestampResponse) AppendFields(e *FieldEncoder) { e.Int("timestamp", h.Timestamp) }
