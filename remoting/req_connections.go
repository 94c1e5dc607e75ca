package remoting

// ClientConnection is one client of a group, as tools list it.
type ClientConnection struct {
	ClientID   string
	ClientAddr string // "host:port"
	Language   Language
	Version    int32
}

// ProducerGroupRequest is the header of GetProducerConnectionList (204).
type ProducerGroupRequest struct {
	ProducerGroup string
}

// Decode reads the header of c.
func (h *ProducerGroupRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	h.ProducerGroup = r.String("producerGroup")
	return r.Err()
}

// AppendFields writes the header.
func (h *ProducerGroupRequest) AppendFields(e *FieldEncoder) {
	e.String("producerGroup", h.ProducerGroup)
}

// ProducerConnections is the body of the answer to GetProducerConnectionList.
type ProducerConnections []ClientConnection

// AppendBody appends the body.
func (l ProducerConnections) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.connections(l)
	return w.end()
}

// DecodeBody reads the body.
func (l *ProducerConnections) DecodeBody(body []byte) error {
	s := newScanner(body)
	*l = nil
	for name := range s.members() {
		if name == "connectionSet" {
			*l = s.connections()
		}
	}
	return s.done("producer connections")
}

// ConsumerConnections is the body of the answer to GetConsumerConnectionList (203).
type ConsumerConnections struct {
	Connections      []ClientConnection
	Subscriptions    []Subscription // one per topic
	ConsumeType      string
	MessageModel     string
	ConsumeFromWhere string
}

// AppendBody appends the body.
func (l *ConsumerConnections) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.connections(l.Connections)
	w.str("consumeFromWhere", l.ConsumeFromWhere)
	w.str("consumeType", l.ConsumeType)
	w.str("messageModel", l.MessageModel)
	w.member("subscriptionTable", '{')
	for i := range l.Subscriptions {
		w.member(l.Subscriptions[i].Topic, '{')
		w.subscription(&l.Subscriptions[i])
		w.close('}')
	}
	w.close('}')
	return w.end()
}

// DecodeBody reads the body.
func (l *ConsumerConnections) DecodeBody(body []byte) error {
	s := newScanner(body)
	*l = ConsumerConnections{}
	for name := range s.members() {
		switch name {
		case "connectionSet":
			l.Connections = s.connections()
		case "consumeType":
			l.ConsumeType = s.string()
		case "messageModel":
			l.MessageModel = s.string()
		case "consumeFromWhere":
			l.ConsumeFromWhere = s.string()
		case "subscriptionTable":
			for topic := range s.members() {
				d := s.subscription()
				if d.Topic == "" {
					d.Topic = topic
				}
				l.Subscriptions = append(l.Subscriptions, d)
			}
		}
	}
	return s.done("consumer connections")
}

func (w *jsonWriter) connections(list []ClientConnection) {
	w.member("connectionSet", '[')
	for i := range list {
		w.open('{')
		w.str("clientAddr", list[i].ClientAddr)
		w.str("clientId", list[i].ClientID)
		w.str("language", list[i].Language.String())
		w.int("version", int64(list[i].Version))
		w.close('}')
	}
	w.close(']')
}

func (s *scanner) connections() []ClientConnection {
	var list []ClientConnection
	for range s.elements() {
		var c ClientConnection
		for name := range s.members() {
			switch name {
			case "clientAddr":
				c.ClientAddr = s.string()
			case "clientId":
				c.ClientID = s.string()
			case "language":
				t, _ := s.text()
				c.Language = parseLanguage(t)
			case "version":
				c.Version = int32(s.int(32))
			}
		}
		list = append(list, c)
	}
	return list
}
