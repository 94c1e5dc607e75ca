package remoting

// QueryMessageRequest is the header of QueryMessage (12): messages by key or by UNIQ_KEY. The answer's body is records; none found is
// QueryNotFound.
type QueryMessageRequest struct {
	Topic          string
	Key            string
	MaxNum         int32
	BeginTimestamp int64 // ms
	EndTimestamp   int64
	UniqKey        bool // Key is a UNIQ_KEY
}

// fieldUniqKeyQuery is not among the fields that old clients sign.
const fieldUniqKeyQuery = "_UNIQUE_KEY_QUERY"

// Decode reads the header of c.
func (h *QueryMessageRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = QueryMessageRequest{
		Topic:          r.String("topic"),
		Key:            r.String("key"),
		MaxNum:         r.Int32("maxNum"),
		BeginTimestamp: r.Int64("beginTimestamp"),
		EndTimestamp:   r.Int64("endTimestamp"),
		UniqKey:        r.BoolOr(fieldUniqKeyQuery, false),
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *QueryMessageRequest) AppendFields(e *FieldEncoder) {
	e.Bool(fieldUniqKeyQuery, h.UniqKey)
	e.Int("beginTimestamp", h.BeginTimestamp)
	e.Int("endTimestamp", h.EndTimestamp)
	e.String("key", h.Key)
	e.Int("maxNum", int64(h.MaxNum))
	e.String("topic", h.Topic)
}

// QueryMessageResponse is the header of the answer to QueryMessage.
type QueryMessageResponse struct {
	IndexLastUpdateTimestamp int64 // ms
	IndexLastUpdatePhyOffset int64
}

// Decode reads the header of c.
func (h *QueryMessageResponse) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = QueryMessageResponse{r.Int64("indexLastUpdateTimestamp"), r.Int64("indexLastUpdatePhyoffset")}
	return r.Err()
}

// AppendFields writes the header.
func (h *QueryMessageResponse) AppendFields(e *FieldEncoder) {
	e.Int("indexLastUpdatePhyoffset", h.IndexLastUpdatePhyOffset)
	e.Int("indexLastUpdateTimestamp", h.IndexLastUpdateTimestamp)
}

// ViewMessageRequest is the header of ViewMessageByID (33). The answer's body is one record.
type ViewMessageRequest struct {
	Offset int64  // physical
	Topic  string // 5.x
}

// Decode reads the header of c.
func (h *ViewMessageRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = ViewMessageRequest{r.Int64("offset"), r.StringOr("topic", "")}
	return r.Err()
}

// AppendFields writes the header.
func (h *ViewMessageRequest) AppendFields(e *FieldEncoder) {
	e.Int("offset", h.Offset)
	e.Optional("topic", h.Topic)
}
