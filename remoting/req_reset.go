package remoting

// ResetOffsetRequest is the header of InvokeBrokerToResetOffset (222), by which a tool sets a group's offsets in a topic, and of
// ResetConsumerClientOffset (220), by which a broker tells the group's clients. The answer to 222, and the body of 220, is QueueOffsets, for
// clients in C++ a QueueOffsetList.
type ResetOffsetRequest struct {
	Topic     string
	Group     string
	Timestamp int64 // ms: begin with the first message stored then or later; -1: with the next one to be sent
	Force     bool  // also forward, so that messages are skipped
	QueueID   int32 // -1: all queues
	Offset    int64 // of QueueID; -1: by Timestamp
}

// Decode reads the header of c.
func (h *ResetOffsetRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = ResetOffsetRequest{
		Topic:     r.String("topic"),
		Group:     r.String("group"),
		Timestamp: r.Int64Or("timestamp", -1),
		Force:     r.BoolOr("isForce", false),
		QueueID:   r.Int32Or("queueId", -1),
		Offset:    r.Int64Or("offset", -1),
	}
	if h.QueueID < 0 || h.Offset == -1 {
		r.Int64("timestamp") // else it says nothing of where to
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *ResetOffsetRequest) AppendFields(e *FieldEncoder) {
	e.String("group", h.Group)
	e.Bool("isForce", h.Force)
	e.Int("offset", h.Offset)
	e.Int("queueId", int64(h.QueueID))
	e.Int("timestamp", h.Timestamp)
	e.String("topic", h.Topic)
}

// QueueOffsetList is QueueOffsets as clients in C++ read them: {"offsetTable":[{"brokerName":..,"offset":..,"queueId":..,"topic":..}]}.
type QueueOffsetList []QueueOffset

// AppendBody appends the body.
func (t QueueOffsetList) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.member("offsetTable", '[')
	for _, o := range t {
		w.open('{')
		w.str("brokerName", o.BrokerName)
		w.int("offset", o.Offset)
		w.int("queueId", int64(o.QueueID))
		w.str("topic", o.Topic)
		w.close('}')
	}
	w.close(']')
	return w.end()
}

// CloneOffsetRequest is the header of CloneGroupOffset (314).
type CloneOffsetRequest struct {
	SrcGroup  string
	DestGroup string
	Topic     string // "": all in which SrcGroup has offsets
	Offline   bool   // also topics that the clients of SrcGroup do not subscribe to now
}

// Decode reads the header of c.
func (h *CloneOffsetRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = CloneOffsetRequest{r.String("srcGroup"), r.String("destGroup"), r.StringOr("topic", ""), r.BoolOr("offline", false)}
	return r.Err()
}

// AppendFields writes the header.
func (h *CloneOffsetRequest) AppendFields(e *FieldEncoder) {
	e.String("destGroup", h.DestGroup)
	e.Bool("offline", h.Offline)
	e.String("srcGroup", h.SrcGroup)
	e.Optional("topic", h.Topic)
}

// CorrectionOffsetRequest is the header of QueryCorrectionOffset (308).
type CorrectionOffsetRequest struct {
	FilterGroups string // left out, by commas
	CompareGroup string
	Topic        string
}

// Decode reads the header of c.
func (h *CorrectionOffsetRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = CorrectionOffsetRequest{r.StringOr("filterGroups", ""), r.String("compareGroup"), r.String("topic")}
	return r.Err()
}

// AppendFields writes the header.
func (h *CorrectionOffsetRequest) AppendFields(e *FieldEncoder) {
	e.String("compareGroup", h.CompareGroup)
	e.Optional("filterGroups", h.FilterGroups)
	e.String("topic", h.Topic)
}
