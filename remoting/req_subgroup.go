package remoting

import (
	"maps"
	"slices"
)

// GroupConfig is a consumer group's configuration (RocketMQ's SubscriptionGroupConfig): the body of UpdateAndCreateSubscriptionGroup (200)
// and of the answer to GetSubscriptionGroupConfig (352).
type GroupConfig struct {
	Name                    string
	ConsumeEnable           bool
	ConsumeFromMinEnable    bool
	ConsumeBroadcastEnable  bool
	ConsumeOrderly          bool
	RetryQueueNums          int32
	RetryMaxTimes           int32
	BrokerID                int64 // to pull from
	WhichBrokerWhenSlow     int64 // to pull from when lagging
	NotifyConsumerIDsChange bool
	SysFlag                 int32
	ConsumeTimeoutMinute    int32
	Attributes              map[string]string
}

// DefaultRetryMaxTimes is how often a message comes again in a group about which nothing is said.
const DefaultRetryMaxTimes int32 = 16

// NewGroupConfig returns the configuration of a group about which nothing is said.
func NewGroupConfig(name string) GroupConfig {
	return GroupConfig{
		Name: name, ConsumeEnable: true, ConsumeFromMinEnable: true, ConsumeBroadcastEnable: true, RetryQueueNums: 1, RetryMaxTimes: DefaultRetryMaxTimes,
		WhichBrokerWhenSlow: 1, NotifyConsumerIDsChange: true, ConsumeTimeoutMinute: 15,
	}
}

// AppendBody appends the body.
func (g *GroupConfig) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.groupConfig(g)
	return w.end()
}

// DecodeBody reads the body; members that are missing have the defaults of NewGroupConfig.
func (g *GroupConfig) DecodeBody(body []byte) error {
	s := newScanner(body)
	*g = s.groupConfig()
	return s.done("group config")
}

func (w *jsonWriter) groupConfig(g *GroupConfig) {
	w.member("attributes", '{')
	for _, name := range slices.Sorted(maps.Keys(g.Attributes)) {
		w.str(name, g.Attributes[name])
	}
	w.close('}')
	w.int("brokerId", g.BrokerID)
	w.bool("consumeBroadcastEnable", g.ConsumeBroadcastEnable)
	w.bool("consumeEnable", g.ConsumeEnable)
	w.bool("consumeFromMinEnable", g.ConsumeFromMinEnable)
	w.bool("consumeMessageOrderly", g.ConsumeOrderly)
	w.int("consumeTimeoutMinute", int64(g.ConsumeTimeoutMinute))
	w.str("groupName", g.Name)
	w.member("groupRetryPolicy", '{')
	w.str("type", "CUSTOMIZED")
	w.close('}')
	w.int("groupSysFlag", int64(g.SysFlag))
	w.bool("notifyConsumerIdsChangedEnable", g.NotifyConsumerIDsChange)
	w.int("retryMaxTimes", int64(g.RetryMaxTimes))
	w.int("retryQueueNums", int64(g.RetryQueueNums))
	w.int("whichBrokerWhenConsumeSlowly", g.WhichBrokerWhenSlow)
}

func (s *scanner) groupConfig() GroupConfig {
	g := NewGroupConfig("")
	for name := range s.members() {
		switch name {
		case "groupName":
			g.Name = s.string()
		case "consumeEnable":
			g.ConsumeEnable = s.bool()
		case "consumeFromMinEnable":
			g.ConsumeFromMinEnable = s.bool()
		case "consumeBroadcastEnable":
			g.ConsumeBroadcastEnable = s.bool()
		case "consumeMessageOrderly":
			g.ConsumeOrderly = s.bool()
		case "retryQueueNums":
			g.RetryQueueNums = int32(s.int(32))
		case "retryMaxTimes":
			g.RetryMaxTimes = int32(s.int(32))
		case "brokerId":
			g.BrokerID = s.int(64)
		case "whichBrokerWhenConsumeSlowly":
			g.WhichBrokerWhenSlow = s.int(64)
		case "notifyConsumerIdsChangedEnable":
			g.NotifyConsumerIDsChange = s.bool()
		case "groupSysFlag":
			g.SysFlag = int32(s.int(32))
		case "consumeTimeoutMinute":
			g.ConsumeTimeoutMinute = int32(s.int(32))
		case "attributes":
			for key := range s.members() {
				if g.Attributes == nil {
					g.Attributes = map[string]string{}
				}
				g.Attributes[key] = s.string()
			}
		}
	}
	return g
}

// GroupRequest is the header of GetSubscriptionGroupConfig (352).
type GroupRequest struct {
	Group string
}

// Decode reads the header of c.
func (h *GroupRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	h.Group = r.String("group")
	return r.Err()
}

// AppendFields writes the header.
func (h *GroupRequest) AppendFields(e *FieldEncoder) { e.String("group", h.Group) }

// DeleteGroupRequest is the header of DeleteSubscriptionGroup (207).
type DeleteGroupRequest struct {
	Group       string
	CleanOffset bool // forget its offsets too
}

// Decode reads the header of c; 4.x has another name for CleanOffset.
func (h *DeleteGroupRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = DeleteGroupRequest{r.String("groupName"), r.BoolOr("cleanOffset", false) || r.BoolOr("removeOffset", false)}
	return r.Err()
}

// AppendFields writes the header.
func (h *DeleteGroupRequest) AppendFields(e *FieldEncoder) {
	e.Bool("cleanOffset", h.CleanOffset)
	e.String("groupName", h.Group)
}

// GroupTable is the body of the answer to GetAllSubscriptionGroupConfig (201).
type GroupTable struct {
	Groups  []GroupConfig
	Version DataVersion
}

// AppendBody appends the body.
func (t *GroupTable) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.dataVersion("dataVersion", t.Version)
	w.member("forbiddenTable", '{')
	w.close('}')
	w.member("subscriptionGroupTable", '{')
	for i := range t.Groups {
		w.member(t.Groups[i].Name, '{')
		w.groupConfig(&t.Groups[i])
		w.close('}')
	}
	w.close('}')
	return w.end()
}

// DecodeBody reads the body.
func (t *GroupTable) DecodeBody(body []byte) error {
	s := newScanner(body)
	*t = GroupTable{}
	for name := range s.members() {
		switch name {
		case "dataVersion":
			t.Version = s.dataVersion()
		case "subscriptionGroupTable":
			for group := range s.members() {
				g := s.groupConfig()
				if g.Name == "" {
					g.Name = group
				}
				t.Groups = append(t.Groups, g)
			}
		}
	}
	return s.done("group table")
}
