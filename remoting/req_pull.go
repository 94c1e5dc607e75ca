package remoting

// PullRequest is the header of PullMessage (11) and LitePullMessage (361). There is no body.
type PullRequest struct {
	ConsumerGroup        string
	Topic                string
	QueueID              int32
	QueueOffset          int64 // of the first message wanted
	MaxMsgNums           int32
	SysFlag              int32 // PullCommitOffset and so on
	CommitOffset         int64
	SuspendTimeoutMillis int64
	Subscription         string // counts only with PullSubscription
	SubVersion           int64
	ExpressionType       string // "TAG" (also ""), "SQL92"; counts only with PullSubscription
	MaxMsgBytes          int32  // 0: not given
	BrokerName           string
}

// Decode reads the header of c.
func (h *PullRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = PullRequest{
		ConsumerGroup:        r.String("consumerGroup"),
		Topic:                r.String("topic"),
		QueueID:              r.Int32("queueId"),
		QueueOffset:          r.Int64("queueOffset"),
		MaxMsgNums:           r.Int32("maxMsgNums"),
		SysFlag:              r.Int32("sysFlag"),
		CommitOffset:         r.Int64("commitOffset"),
		SuspendTimeoutMillis: r.Int64("suspendTimeoutMillis"),
		Subscription:         r.StringOr("subscription", ""),
		SubVersion:           r.Int64("subVersion"),
		ExpressionType:       r.StringOr("expressionType", ""),
		MaxMsgBytes:          r.Int32Or("maxMsgBytes", 0),
		BrokerName:           r.StringOr("bname", ""),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *PullRequest) AppendFields(e *FieldEncoder) {
	e.Optional("bname", h.BrokerName)
	e.Int("commitOffset", h.CommitOffset)
	e.String("consumerGroup", h.ConsumerGroup)
	e.Optional("expressionType", h.ExpressionType)
	if h.MaxMsgBytes > 0 {
		e.Int("maxMsgBytes", int64(h.MaxMsgBytes))
	}
	e.Int("maxMsgNums", int64(h.MaxMsgNums))
	e.Int("queueId", int64(h.QueueID))
	e.Int("queueOffset", h.QueueOffset)
	e.Int("subVersion", h.SubVersion)
	e.Optional("subscription", h.Subscription)
	e.Int("suspendTimeoutMillis", h.SuspendTimeoutMillis)
	e.Int("sysFlag", int64(h.SysFlag))
	e.String("topic", h.Topic)
}

// PullResponse is the header of the answer to a pull: all of it on Success, PullNotFound, PullRetryImmediately and PullOffsetMoved, as
// clients read it without looking. On Success the body is records, one behind the other (see DecodeRecords).
type PullResponse struct {
	SuggestBrokerID int64 // where to pull next; 0 is the master
	NextBeginOffset int64
	MinOffset       int64
	MaxOffset       int64 // the next one to be written
}

// Decode reads the header of c.
func (h *PullResponse) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = PullResponse{
		SuggestBrokerID: r.Int64("suggestWhichBrokerId"),
		NextBeginOffset: r.Int64("nextBeginOffset"),
		MinOffset:       r.Int64("minOffset"),
		MaxOffset:       r.Int64("maxOffset"),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *PullResponse) AppendFields(e *FieldEncoder) {
	e.Int("maxOffset", h.MaxOffset)
	e.Int("minOffset", h.MinOffset)
	e.Int("nextBeginOffset", h.NextBeginOffset)
	e.Int("suggestWhichBrokerId", h.SuggestBrokerID)
}
