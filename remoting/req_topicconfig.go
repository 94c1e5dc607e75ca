package remoting

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// TopicConfig is a topic's configuration. Start from NewTopicConfig: the zero value forbids everything.
type TopicConfig struct {
	Name           string
	ReadQueueNums  int32
	WriteQueueNums int32
	Perm           int32  // PermRead ...
	FilterType     string // "SINGLE_TAG", "MULTI_TAG"
	SysFlag        int32
	Order          bool
	Attributes     map[string]string
}

// NewTopicConfig returns the configuration of a topic about which nothing is said.
func NewTopicConfig(name string) TopicConfig {
	return TopicConfig{Name: name, ReadQueueNums: 16, WriteQueueNums: 16, Perm: PermRead | PermWrite, FilterType: "SINGLE_TAG"}
}

// DataVersion tells whether two holders of a table have the same one.
type DataVersion struct {
	StateVersion int64
	Timestamp    int64 // ms
	Counter      int64
}

func (w *jsonWriter) dataVersion(k string, v DataVersion) {
	w.member(k, '{')
	w.int("counter", v.Counter)
	w.int("stateVersion", v.StateVersion)
	w.int("timestamp", v.Timestamp)
	w.close('}')
}

func (s *scanner) dataVersion() DataVersion {
	var v DataVersion
	for name := range s.members() {
		switch name {
		case "stateVersion":
			v.StateVersion = s.int(64)
		case "timestamp":
			v.Timestamp = s.int(64)
		case "counter":
			v.Counter = s.int(64)
		}
	}
	return v
}

// AppendBody appends the version as the body of QueryDataVersion (322) and its answer.
func (v DataVersion) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.int("counter", v.Counter)
	w.int("stateVersion", v.StateVersion)
	w.int("timestamp", v.Timestamp)
	return w.end()
}

// DecodeBody reads the body of QueryDataVersion and its answer.
func (v *DataVersion) DecodeBody(body []byte) error {
	s := newScanner(body)
	*v = s.dataVersion()
	return s.done("data version")
}

// Decode reads the header of UpdateAndCreateTopic (17). Attributes come as they are said: names begin with + (set) or - (remove).
func (t *TopicConfig) Decode(c *Command) error {
	r := c.Ext.Reader()
	*t = TopicConfig{
		Name:           r.String("topic"),
		ReadQueueNums:  r.Int32("readQueueNums"),
		WriteQueueNums: r.Int32("writeQueueNums"),
		Perm:           r.Int32("perm"),
		FilterType:     r.StringOr("topicFilterType", "SINGLE_TAG"),
		SysFlag:        r.Int32Or("topicSysFlag", 0),
		Order:          r.BoolOr("order", false),
	}
	if text := r.StringOr("attributes", ""); text != "" {
		t.Attributes = map[string]string{}
		for _, pair := range strings.Split(text, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if len(name) < 2 || name[0] != '+' && name[0] != '-' {
				return fmt.Errorf("%w: attributes is %.128q, want +name=value,-name", ErrField, text)
			}
			t.Attributes[name] = value
		}
	}
	return r.Err()
}

// AppendFields writes the header of UpdateAndCreateTopic.
func (t *TopicConfig) AppendFields(e *FieldEncoder) {
	if len(t.Attributes) > 0 {
		var list []string
		for _, name := range slices.Sorted(maps.Keys(t.Attributes)) {
			if strings.HasPrefix(name, "-") {
				list = append(list, name)
			} else {
				list = append(list, name+"="+t.Attributes[name])
			}
		}
		e.String("attributes", strings.Join(list, ","))
	}
	e.String("defaultTopic", TopicAutoCreate)
	e.Bool("order", t.Order)
	e.Int("perm", int64(t.Perm))
	e.Int("readQueueNums", int64(t.ReadQueueNums))
	e.String("topic", t.Name)
	e.String("topicFilterType", t.FilterType)
	e.Int("topicSysFlag", int64(t.SysFlag))
	e.Int("writeQueueNums", int64(t.WriteQueueNums))
}

// AppendBody appends the body of the answer to GetTopicConfig (351).
func (t *TopicConfig) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.topicConfig(t)
	return w.end()
}

// DecodeBody reads it.
func (t *TopicConfig) DecodeBody(body []byte) error {
	s := newScanner(body)
	*t = s.topicConfig()
	return s.done("topic config")
}

func (w *jsonWriter) topicConfig(t *TopicConfig) {
	w.member("attributes", '{')
	for _, name := range slices.Sorted(maps.Keys(t.Attributes)) {
		w.str(name, t.Attributes[name])
	}
	w.close('}')
	w.bool("order", t.Order)
	w.int("perm", int64(t.Perm))
	w.int("readQueueNums", int64(t.ReadQueueNums))
	w.str("topicFilterType", t.FilterType)
	w.str("topicName", t.Name)
	w.int("topicSysFlag", int64(t.SysFlag))
	w.int("writeQueueNums", int64(t.WriteQueueNums))
}

func (s *scanner) topicConfig() TopicConfig {
	t := NewTopicConfig("")
	for name := range s.members() {
		switch name {
		case "topicName":
			t.Name = s.string()
		case "readQueueNums":
			t.ReadQueueNums = int32(s.int(32))
		case "writeQueueNums":
			t.WriteQueueNums = int32(s.int(32))
		case "perm":
			t.Perm = int32(s.int(32))
		case "topicFilterType":
			t.FilterType = s.string()
		case "topicSysFlag":
			t.SysFlag = int32(s.int(32))
		case "order":
			t.Order = s.bool()
		case "attributes":
			for key := range s.members() {
				if t.Attributes == nil {
					t.Attributes = map[string]string{}
				}
				t.Attributes[key] = s.string()
			}
		}
	}
	return t
}

// TopicTable is the body of the answer to GetAllTopicConfig (21), and the greater part of RegisterBroker's (103).
type TopicTable struct {
	Topics  []TopicConfig
	Version DataVersion
}

// AppendBody appends the body.
func (t *TopicTable) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.topicTable(t)
	return w.end()
}

// DecodeBody reads the body.
func (t *TopicTable) DecodeBody(body []byte) error {
	s := newScanner(body)
	*t = s.topicTable()
	return s.done("topic table")
}

func (w *jsonWriter) topicTable(t *TopicTable) {
	w.dataVersion("dataVersion", t.Version)
	w.member("topicConfigTable", '{')
	for i := range t.Topics {
		w.member(t.Topics[i].Name, '{')
		w.topicConfig(&t.Topics[i])
		w.close('}')
	}
	w.close('}')
}

func (s *scanner) topicTable() TopicTable {
	var t TopicTable
	for name := range s.members() {
		switch name {
		case "dataVersion":
			t.Version = s.dataVersion()
		case "topicConfigTable":
			for topic := range s.members() {
				c := s.topicConfig()
				if c.Name == "" {
					c.Name = topic
				}
				t.Topics = append(t.Topics, c)
			}
		}
	}
	return t
}
