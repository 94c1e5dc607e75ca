package remoting

// ReplyRequest is the header of PushReplyMessageToClient (326), by which a broker gives a client the reply to its request. The body is the
// reply's, as it was sent.
type ReplyRequest struct {
	ProducerGroup         string // of the replier
	Topic                 string
	DefaultTopic          string
	DefaultTopicQueueNums int32
	QueueID               int32
	SysFlag               int32
	BornTimestamp         int64 // ms
	Flag                  int32
	Properties            string // CORRELATION_ID says which request it is about
	ReconsumeTimes        int32
	UnitMode              bool
	BornHost              string // "host:port"
	StoreHost             string
	StoreTimestamp        int64 // ms
}

// Decode reads the header of c.
func (h *ReplyRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = ReplyRequest{
		ProducerGroup:         r.StringOr("producerGroup", ""),
		Topic:                 r.String("topic"),
		DefaultTopic:          r.StringOr("defaultTopic", ""),
		DefaultTopicQueueNums: r.Int32Or("defaultTopicQueueNums", 0),
		QueueID:               r.Int32Or("queueId", 0),
		SysFlag:               r.Int32("sysFlag"),
		BornTimestamp:         r.Int64("bornTimestamp"),
		Flag:                  r.Int32("flag"),
		Properties:            r.StringOr("properties", ""),
		ReconsumeTimes:        r.Int32Or("reconsumeTimes", 0),
		UnitMode:              r.BoolOr("unitMode", false),
		BornHost:              r.StringOr("bornHost", ""),
		StoreHost:             r.StringOr("storeHost", ""),
		StoreTimestamp:        r.Int64Or("storeTimestamp", 0),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *ReplyRequest) AppendFields(e *FieldEncoder) {
	e.String("bornHost", h.BornHost)
	e.Int("bornTimestamp", h.BornTimestamp)
	e.String("defaultTopic", h.DefaultTopic)
	e.Int("defaultTopicQueueNums", int64(h.DefaultTopicQueueNums))
	e.Int("flag", int64(h.Flag))
	e.String("producerGroup", h.ProducerGroup)
	e.Optional("properties", h.Properties)
	e.Int("queueId", int64(h.QueueID))
	e.Int("reconsumeTimes", int64(h.ReconsumeTimes))
	e.String("storeHost", h.StoreHost)
	e.Int("storeTimestamp", h.StoreTimestamp)
	e.Int("sysFlag", int64(h.SysFlag))
	e.String("topic", h.Topic)
	e.Bool("unitMode", h.UnitMode)
}
