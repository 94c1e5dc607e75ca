package remoting

// SendBackRequest is the header of ConsumerSendMsgBack (36): a consumer failed on a message and wants it again later.
type SendBackRequest struct {
	Offset            int64 // physical, of the message
	Group             string
	DelayLevel        int32 // < 0: dead letter; 0: the broker chooses
	OriginMsgID       string
	OriginTopic       string
	UnitMode          bool
	MaxReconsumeTimes int32 // -1: not given
	BrokerName        string
}

// Decode reads the header of c.
func (h *SendBackRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = SendBackRequest{
		Offset:            r.Int64("offset"),
		Group:             r.String("group"),
		DelayLevel:        r.Int32("delayLevel"),
		OriginMsgID:       r.StringOr("originMsgId", ""),
		OriginTopic:       r.StringOr("originTopic", ""),
		UnitMode:          r.BoolOr("unitMode", false),
		MaxReconsumeTimes: r.Int32Or("maxReconsumeTimes", -1),
		BrokerName:        r.StringOr("bname", ""),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *SendBackRequest) AppendFields(e *FieldEncoder) {
	e.Optional("bname", h.BrokerName)
	e.Int("delayLevel", int64(h.DelayLevel))
	e.String("group", h.Group)
	if h.MaxReconsumeTimes >= 0 {
		e.Int("maxReconsumeTimes", int64(h.MaxReconsumeTimes))
	}
	e.Int("offset", h.Offset)
	e.Optional("originMsgId", h.OriginMsgID)
	e.Optional("originTopic", h.OriginTopic)
	e.Bool("unitMode", h.UnitMode)
}
