package remoting

import (
	"maps"
	"slices"
	"strconv"
)

// TopicRequest is the header of every request that names a topic and nothing else that matters: DeleteTopicInBroker (215),
// DeleteTopicInNamesrv (216), GetTopicStatsInfo (202), GetTopicConfig (351), QueryTopicConsumeByWho (300).
type TopicRequest struct {
	Topic string
}

// Decode reads the header of c.
func (h *TopicRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	h.Topic = r.String("topic")
	return r.Err()
}

// AppendFields writes the header.
func (h *TopicRequest) AppendFields(e *FieldEncoder) { e.String("topic", h.Topic) }

// RouteRequest is the header of GetRouteInfoByTopic (105). The answer's body is a RouteData, or the code is TopicNotExist.
type RouteRequest struct {
	Topic string
	// StandardJSON asks for quoted broker ids. Decode sets it also for clients new enough to read them, whatever they ask.
	StandardJSON bool
}

// Decode reads the header of c.
func (h *RouteRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = RouteRequest{r.String("topic"), r.BoolOr("acceptStandardJsonOnly", false) || c.Version >= VersionStandardJSON}
	return r.Err()
}

// AppendFields writes the header.
func (h *RouteRequest) AppendFields(e *FieldEncoder) {
	if h.StandardJSON {
		e.Bool("acceptStandardJsonOnly", true)
	}
	e.String("topic", h.Topic)
}

// RouteData is where a topic's queues are.
type RouteData struct {
	OrderTopicConf string // "broker:queues;broker:queues", replaces Queues for producers; usually ""
	Brokers        []BrokerData
	Queues         []QueueData
}

// BrokerData is a broker group's addresses.
type BrokerData struct {
	Cluster            string
	BrokerName         string
	Addrs              map[int64]string // "host:port" by broker id; 0 is the master
	EnableActingMaster bool
}

// QueueData is how many queues of a topic a broker group has.
type QueueData struct {
	BrokerName     string
	ReadQueueNums  int32
	WriteQueueNums int32
	Perm           int32 // PermRead ...
	TopicSysFlag   int32
}

// AppendBody appends the body. Broker ids are quoted for who reads standard JSON, and bare for old clients: Go clients up to 2.1.1 take
// every quoted id for 0.
func (d *RouteData) AppendBody(dst []byte, standardJSON bool) []byte {
	w := newObject(dst)
	w.member("brokerDatas", '[')
	for i := range d.Brokers {
		w.open('{')
		w.brokerData(&d.Brokers[i], standardJSON)
		w.close('}')
	}
	w.close(']')
	w.member("filterServerTable", '{')
	w.close('}')
	w.optional("orderTopicConf", d.OrderTopicConf)
	w.member("queueDatas", '[')
	for i := range d.Queues {
		q := &d.Queues[i]
		w.open('{')
		w.str("brokerName", q.BrokerName)
		w.int("perm", int64(q.Perm))
		w.int("readQueueNums", int64(q.ReadQueueNums))
		w.int("topicSysFlag", int64(q.TopicSysFlag))
		w.int("writeQueueNums", int64(q.WriteQueueNums))
		w.close('}')
	}
	w.close(']')
	return w.end()
}

// DecodeBody reads the body, with bare and with quoted broker ids.
func (d *RouteData) DecodeBody(body []byte) error {
	s := newScanner(body)
	*d = RouteData{}
	for name := range s.members() {
		switch name {
		case "orderTopicConf":
			d.OrderTopicConf = s.string()
		case "brokerDatas":
			for range s.elements() {
				d.Brokers = append(d.Brokers, s.brokerData())
			}
		case "queueDatas":
			for range s.elements() {
				d.Queues = append(d.Queues, s.queueData())
			}
		}
	}
	return s.done("route")
}

func (s *scanner) queueData() QueueData {
	var q QueueData
	for name := range s.members() {
		switch name {
		case "brokerName":
			q.BrokerName = s.string()
		case "readQueueNums":
			q.ReadQueueNums = int32(s.int(32))
		case "writeQueueNums":
			q.WriteQueueNums = int32(s.int(32))
		case "perm":
			q.Perm = int32(s.int(32))
		case "topicSysFlag", "topicSynFlag": // the latter up to 4.x
			q.TopicSysFlag = int32(s.int(32))
		}
	}
	return q
}

func (w *jsonWriter) brokerData(b *BrokerData, standardJSON bool) {
	w.member("brokerAddrs", '{')
	for _, id := range slices.Sorted(maps.Keys(b.Addrs)) {
		if standardJSON {
			w.str(strconv.FormatInt(id, 10), b.Addrs[id])
		} else {
			w.number(id)
			w.b = append(w.b, ':')
			w.b = appendJSONString(w.b, b.Addrs[id])
		}
	}
	w.close('}')
	w.str("brokerName", b.BrokerName)
	w.str("cluster", b.Cluster)
	w.bool("enableActingMaster", b.EnableActingMaster)
}

func (s *scanner) brokerData() BrokerData {
	b := BrokerData{Addrs: map[int64]string{}}
	for name := range s.members() {
		switch name {
		case "cluster":
			b.Cluster = s.string()
		case "brokerName":
			b.BrokerName = s.string()
		case "brokerAddrs":
			for id := range s.members() {
				if n, err := strconv.ParseInt(id, 10, 64); err == nil {
					b.Addrs[n] = s.string()
				} else {
					s.fail("broker id " + strconv.Quote(id))
				}
			}
		case "enableActingMaster":
			b.EnableActingMaster = s.bool()
		}
	}
	return b
}
