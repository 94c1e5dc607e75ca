package remoting

// ConsumerGroupRequest is the header of GetConsumerListByGroup (38), GetConsumerConnectionList (203), and of NotifyConsumerIDsChanged (40),
// which a broker sends oneway to the consumers of a group.
type ConsumerGroupRequest struct {
	ConsumerGroup string
}

// Decode reads the header of c.
func (h *ConsumerGroupRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	h.ConsumerGroup = r.String("consumerGroup")
	return r.Err()
}

// AppendFields writes the header.
func (h *ConsumerGroupRequest) AppendFields(e *FieldEncoder) {
	e.String("consumerGroup", h.ConsumerGroup)
}

// ConsumerList is the body of the answer to GetConsumerListByGroup: the ids of the group's clients.
type ConsumerList []string

// AppendBody appends the body.
func (l ConsumerList) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.strings("consumerIdList", l)
	return w.end()
}

// DecodeBody reads the body.
func (l *ConsumerList) DecodeBody(body []byte) error {
	s := newScanner(body)
	*l = nil
	for name := range s.members() {
		if name == "consumerIdList" {
			*l = s.strings()
		}
	}
	return s.done("consumer list")
}
