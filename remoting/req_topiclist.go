package remoting

// TopicsByClusterRequest is the header of GetTopicsByCluster (224).
type TopicsByClusterRequest struct {
	Cluster string
}

// Decode reads the header of c.
func (h *TopicsByClusterRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	h.Cluster = r.String("cluster")
	return r.Err()
}

// AppendFields writes the header.
func (h *TopicsByClusterRequest) AppendFields(e *FieldEncoder) { e.String("cluster", h.Cluster) }

// TopicList is the body of the answers to GetAllTopicListFromNameserver (206), GetTopicsByCluster (224), GetSystemTopicListFromNS (304)
// and GetSystemTopicListFromBroker (305).
type TopicList struct {
	Topics     []string
	BrokerAddr string // 304: a broker to ask for its own system topics
}

// AppendBody appends the body.
func (l *TopicList) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.optional("brokerAddr", l.BrokerAddr)
	w.strings("topicList", l.Topics)
	return w.end()
}

// DecodeBody reads the body.
func (l *TopicList) DecodeBody(body []byte) error {
	s := newScanner(body)
	*l = TopicList{}
	for name := range s.members() {
		switch name {
		case "topicList":
			l.Topics = s.strings()
		case "brokerAddr":
			l.BrokerAddr = s.string()
		}
	}
	return s.done("topic list")
}

// GroupList is the body of the answer to QueryTopicConsumeByWho (300).
type GroupList []string

// AppendBody appends the body.
func (l GroupList) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.strings("groupList", l)
	return w.end()
}

// DecodeBody reads the body.
func (l *GroupList) DecodeBody(body []byte) error {
	s := newScanner(body)
	*l = nil
	for name := range s.members() {
		if name == "groupList" {
			*l = s.strings()
		}
	}
	return s.done("group list")
}
