package remoting

// TransactionState is what became of the local transaction of a half message. Its values are those of the message's sysFlag.
type TransactionState int32

// The states. The wire has no others.
const (
	TransactionUnknown    TransactionState = 0 // not known yet: ask again later
	TransactionCommitted                   = TransactionState(SysFlagCommit)
	TransactionRolledBack                  = TransactionState(SysFlagRollback)
)

// String returns the state in a word.
func (s TransactionState) String() string {
	switch s {
	case TransactionCommitted:
		return "committed"
	case TransactionRolledBack:
		return "rolled back"
	}
	return "unknown"
}

// EndTransactionRequest is the header of EndTransaction (37): what is to become of a half message. Java sends it oneway; nobody looks at
// the answer.
type EndTransactionRequest struct {
	Topic                string
	ProducerGroup        string
	TranStateTableOffset int64 // queue offset of the half message
	CommitLogOffset      int64 // its physical offset
	State                TransactionState
	FromCheck            bool   // the answer to CheckTransactionState
	MsgID                string // UNIQ_KEY
	TransactionID        string // as in the answer to the send, or in the check
	BrokerName           string
}

// Decode reads the header of c.
func (h *EndTransactionRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = EndTransactionRequest{
		Topic:                r.StringOr("topic", ""),
		ProducerGroup:        r.String("producerGroup"),
		TranStateTableOffset: r.Int64("tranStateTableOffset"),
		CommitLogOffset:      r.Int64("commitLogOffset"),
		State:                TransactionState(r.Int32("commitOrRollback")),
		FromCheck:            r.BoolOr("fromTransactionCheck", false),
		MsgID:                r.StringOr("msgId", ""),
		TransactionID:        r.StringOr("transactionId", ""),
		BrokerName:           r.StringOr("bname", ""),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *EndTransactionRequest) AppendFields(e *FieldEncoder) {
	e.Optional("bname", h.BrokerName)
	e.Int("commitLogOffset", h.CommitLogOffset)
	e.Int("commitOrRollback", int64(h.State))
	e.Bool("fromTransactionCheck", h.FromCheck)
	e.String("msgId", h.MsgID)
	e.String("producerGroup", h.ProducerGroup)
	e.Optional("topic", h.Topic)
	e.Int("tranStateTableOffset", h.TranStateTableOffset)
	e.Optional("transactionId", h.TransactionID)
}

// CheckTransactionRequest is the header of CheckTransactionState (39), which a broker sends oneway to a producer of the half message's
// group. The body is the message, as a record with the topic and queue it is for.
type CheckTransactionRequest struct {
	Topic                string
	TranStateTableOffset int64 // these two are for EndTransactionRequest
	CommitLogOffset      int64
	MsgID                string // UNIQ_KEY
	TransactionID        string
	OffsetMsgID          string
	BrokerName           string
}

// Decode reads the header of c.
func (h *CheckTransactionRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = CheckTransactionRequest{
		Topic:                r.StringOr("topic", ""),
		TranStateTableOffset: r.Int64("tranStateTableOffset"),
		CommitLogOffset:      r.Int64("commitLogOffset"),
		MsgID:                r.StringOr("msgId", ""),
		TransactionID:        r.StringOr("transactionId", ""),
		OffsetMsgID:          r.StringOr("offsetMsgId", ""),
		BrokerName:           r.StringOr("bname", ""),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *CheckTransactionRequest) AppendFields(e *FieldEncoder) {
	e.Optional("bname", h.BrokerName)
	e.Int("commitLogOffset", h.CommitLogOffset)
	e.Optional("msgId", h.MsgID)
	e.Optional("offsetMsgId", h.OffsetMsgID)
	e.Optional("topic", h.Topic)
	e.Int("tranStateTableOffset", h.TranStateTableOffset)
	e.Optional("transactionId", h.TransactionID)
}

// ResumeCheckRequest is the header of ResumeCheckHalfMessage (323): a half message that was given up is to be asked about again.
type ResumeCheckRequest struct {
	Topic string // the one it was moved to
	MsgID string // the offset id it has there
}

// Decode reads the header of c.
func (h *ResumeCheckRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = ResumeCheckRequest{Topic: r.StringOr("topic", ""), MsgID: r.String("msgId")}
	return r.Err()
}

// AppendFields writes the header.
func (h *ResumeCheckRequest) AppendFields(e *FieldEncoder) {
	e.String("msgId", h.MsgID)
	e.Optional("topic", h.Topic)
}
