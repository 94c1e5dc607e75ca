package remoting

import (
	"encoding/json"
	"fmt"
)

// Requests about dead letters that only raftmq has. Each is for one broker group.
const (
	DeadLettersRequest       int32 = 30011 // header DeadLetterQuery, answered by DeadLetterPage and records
	ResendDeadLettersRequest int32 = 30012 // body DeadLetterResend, answered by body DeadLetterResults
)

// MaxResend is how many dead letters one request may send again.
const MaxResend = 32

// DeadLetterQuery is the header of DeadLettersRequest: which dead letters of a consumer group are wanted. With ID or Key those with an
// OffsetMsgID or UNIQ_KEY, or with a key; else those from queue offset From on, in order, a page at a time.
type DeadLetterQuery struct {
	Group string
	ID    string
	Key   string
	From  int64 // queue offset
	Begin int64 // ms, stored then or later; 0: any time
	End   int64 // ms, stored then or before; 0: any time
	Max   int32 // letters on a page; the broker may put fewer on it
}

// Decode reads the header of c.
func (h *DeadLetterQuery) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = DeadLetterQuery{
		Group: r.String("group"),
		ID:    r.StringOr("id", ""),
		Key:   r.StringOr("key", ""),
		From:  r.Int64Or("from", 0),
		Begin: r.Int64Or("beginTimestamp", 0),
		End:   r.Int64Or("endTimestamp", 0),
		Max:   r.Int32Or("maxNum", 0),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *DeadLetterQuery) AppendFields(e *FieldEncoder) {
	e.Int("beginTimestamp", h.Begin)
	e.Int("endTimestamp", h.End)
	e.Int("from", h.From)
	e.String("group", h.Group)
	e.Optional("id", h.ID)
	e.Optional("key", h.Key)
	e.Int("maxNum", int64(h.Max))
}

// DeadLetterPage is the header of the answer to DeadLettersRequest; the letters are the body, as records.
type DeadLetterPage struct {
	Next    int64  // queue offset to go on from
	More    bool   // there is another page
	Handled string // for each letter '1' if it was sent again, or '0'
}

// Decode reads the header of c.
func (h *DeadLetterPage) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = DeadLetterPage{Next: r.Int64("next"), More: r.Bool("more"), Handled: r.StringOr("handled", "")}
	return r.Err()
}

// AppendFields writes the header.
func (h *DeadLetterPage) AppendFields(e *FieldEncoder) {
	e.Optional("handled", h.Handled)
	e.Bool("more", h.More)
	e.Int("next", h.Next)
}

// DeadLetterResend is the body of ResendDeadLettersRequest: a consumer group gets dead letters of its own again. Asked twice with one ID it
// is done once.
type DeadLetterResend struct {
	Group   string   `json:"group"`
	ID      string   `json:"id"`              // letters and digits, made by who asks
	Letters []string `json:"letters"`         // OffsetMsgIDs, MaxResend at most
	Force   bool     `json:"force,omitempty"` // also those that were sent again before
}

// DeadLetterResults is the body of the answer to ResendDeadLettersRequest: what became of each letter, in the order asked.
type DeadLetterResults []DeadLetterResult

// DeadLetterResult is what became of a dead letter that was to be sent again.
type DeadLetterResult struct {
	Letter  string `json:"letter"`  // OffsetMsgID
	Outcome string `json:"outcome"` // Resent ...
	Error   string `json:"error,omitempty"`
}

// The outcomes of sending a dead letter again.
const (
	Resent        = "resent"
	ResentBefore  = "handled" // it was sent again before, and is not now
	ResendFailed  = "failed"  // it is as it was
	ResendUnknown = "unknown" // asking again under the same ID tells
)

// AppendBody appends the body.
func (h *DeadLetterResend) AppendBody(dst []byte) []byte { return appendDLQ(dst, h) }

// DecodeBody reads it.
func (h *DeadLetterResend) DecodeBody(b []byte) error {
	*h = DeadLetterResend{}
	return decodeDLQ(b, h)
}

// AppendBody appends the body.
func (h DeadLetterResults) AppendBody(dst []byte) []byte { return appendDLQ(dst, h) }

// DecodeBody reads it.
func (h *DeadLetterResults) DecodeBody(b []byte) error {
	*h = nil
	return decodeDLQ(b, h)
}

func appendDLQ(dst []byte, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("remoting: %v", err)) // strings and bools
	}
	return append(dst, b...)
}

func decodeDLQ(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: dead letters: %w", ErrBody, err)
	}
	return nil
}
