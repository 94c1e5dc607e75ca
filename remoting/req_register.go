package remoting

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
)

// BrokerIdentity is the header of UnregisterBroker (104) and QueryDataVersion (322), and a part of the other requests by which a broker
// makes itself known to a name server.
type BrokerIdentity struct {
	Cluster    string
	BrokerName string // of the group
	BrokerAddr string // "host:port"
	BrokerID   int64  // 0 is the master
}

// Decode reads the header of c.
func (h *BrokerIdentity) Decode(c *Command) error {
	r := c.Ext.Reader()
	h.read(&r)
	return r.Err()
}

func (h *BrokerIdentity) read(r *FieldReader) {
	*h = BrokerIdentity{r.String("clusterName"), r.String("brokerName"), r.String("brokerAddr"), r.Int64("brokerId")}
}

// AppendFields writes the header.
func (h *BrokerIdentity) AppendFields(e *FieldEncoder) {
	e.String("brokerAddr", h.BrokerAddr)
	e.Int("brokerId", h.BrokerID)
	e.String("brokerName", h.BrokerName)
	e.String("clusterName", h.Cluster)
}

// RegisterRequest is the header of RegisterBroker (103). The body is a RegisterBody.
type RegisterRequest struct {
	BrokerIdentity
	HAServerAddr       string
	HeartbeatTimeout   int64 // ms; 0: the name server's own
	EnableActingMaster *bool // nil: not said
	Compressed         bool
	BodyCRC32          uint32 // see RegisterCRC; 0: not checked
	ZoneName           string
}

// Decode reads the header of c.
func (h *RegisterRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = RegisterRequest{
		HAServerAddr:     r.StringOr("haServerAddr", ""),
		HeartbeatTimeout: r.Int64Or("heartbeatTimeoutMillis", 0),
		Compressed:       r.BoolOr("compressed", false),
		BodyCRC32:        uint32(r.Int32Or("bodyCrc32", 0)),
		ZoneName:         r.StringOr("__ZONE_NAME", ""),
	}
	h.read(&r)
	if _, ok := c.Ext.Lookup("enableActingMaster"); ok {
		acting := r.BoolOr("enableActingMaster", false)
		h.EnableActingMaster = &acting
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *RegisterRequest) AppendFields(e *FieldEncoder) {
	e.Optional("__ZONE_NAME", h.ZoneName)
	e.Int("bodyCrc32", int64(h.BodyCRC32))
	h.BrokerIdentity.AppendFields(e)
	e.Bool("compressed", h.Compressed)
	if h.EnableActingMaster != nil {
		e.Bool("enableActingMaster", *h.EnableActingMaster)
	}
	e.String("haServerAddr", h.HAServerAddr)
	if h.HeartbeatTimeout > 0 {
		e.Int("heartbeatTimeoutMillis", h.HeartbeatTimeout)
	}
}

// RegisterCRC is the checksum of a RegisterBroker body.
func RegisterCRC(body []byte) uint32 { return crc32.ChecksumIEEE(body) & 0x7FFFFFFF }

// RegisterResponse is the header of the answer to RegisterBroker; empty unless a slave's master is known.
type RegisterResponse struct {
	HAServerAddr string
	MasterAddr   string
}

// Decode reads the header of c.
func (h *RegisterResponse) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = RegisterResponse{r.StringOr("haServerAddr", ""), r.StringOr("masterAddr", "")}
	return r.Err()
}

// AppendFields writes the header.
func (h *RegisterResponse) AppendFields(e *FieldEncoder) {
	e.Optional("haServerAddr", h.HAServerAddr)
	e.Optional("masterAddr", h.MasterAddr)
}

// QueryDataVersionResponse is the header of the answer to QueryDataVersion; the body is the name server's DataVersion.
type QueryDataVersionResponse struct {
	Changed bool
}

// Decode reads the header of c.
func (h *QueryDataVersionResponse) Decode(c *Command) error {
	r := c.Ext.Reader()
	h.Changed = r.Bool("changed")
	return r.Err()
}

// AppendFields writes the header.
func (h *QueryDataVersionResponse) AppendFields(e *FieldEncoder) { e.Bool("changed", h.Changed) }

// BrokerHeartbeatRequest is the header of BrokerHeartbeat (904).
type BrokerHeartbeatRequest struct {
	BrokerIdentity
	HeartbeatTimeout int64 // ms; 0: the name server's own
}

// Decode reads the header of c. A broker id is optional here and 0 then.
func (h *BrokerHeartbeatRequest) Decode(c *Command) error {
	r := c.Ext.Reader()
	*h = BrokerHeartbeatRequest{
		BrokerIdentity{r.String("clusterName"), r.String("brokerName"), r.String("brokerAddr"), r.Int64Or("brokerId", 0)},
		r.Int64Or("heartbeatTimeoutMills", 0), // spelled so in the protocol
	}
	return r.Err()
}

// AppendFields writes the header.
func (h *BrokerHeartbeatRequest) AppendFields(e *FieldEncoder) {
	h.BrokerIdentity.AppendFields(e)
	if h.HeartbeatTimeout > 0 {
		e.Int("heartbeatTimeoutMills", h.HeartbeatTimeout)
	}
}

// RegisterBody is the body of RegisterBroker: the broker's topics.
type RegisterBody struct {
	TopicTable
	FilterServers []string
}

// AppendBody appends the body as JSON, for compressed = false.
func (b *RegisterBody) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.strings("filterServerList", b.FilterServers)
	w.member("topicConfigSerializeWrapper", '{')
	w.topicTable(&b.TopicTable)
	w.close('}')
	return w.end()
}

// DecodeBody reads the JSON body, and the one of brokers before 3.0.11, which is the topic table alone.
func (b *RegisterBody) DecodeBody(body []byte) error {
	s := newScanner(body)
	*b = RegisterBody{}
	wrapped := false
	for name := range s.members() {
		switch name {
		case "topicConfigSerializeWrapper":
			wrapped = true
			b.TopicTable = s.topicTable()
		case "filterServerList":
			wrapped = true
			b.FilterServers = s.strings()
		}
	}
	if err := s.done("register body"); err != nil || wrapped {
		return err
	}
	return b.TopicTable.DecodeBody(body)
}

// The compressed body is a zlib stream of
//
//	+---------+------------------+---------+---------------------------------------------------------+---------+---------+----------+
//	| len i32 | DataVersion JSON | n i32   | n x { len i32 | "name read write perm filterType attrs" } | len i32 | filters | mappings |
//	+---------+------------------+---------+---------------------------------------------------------+---------+---------+----------+
//
// filters is a JSON array. Brokers since 5.0 end with static topic mappings, n x { len i32 | JSON }, which are not read.

// maxRegisterBody bounds what a compressed body may inflate to.
const maxRegisterBody = 16 << 20

// AppendCompressed appends the body for compressed = true and a broker of this package's Version.
func (b *RegisterBody) AppendCompressed(dst []byte) []byte {
	var plain []byte
	sized := func(text []byte) { plain = append(appendUint32(plain, uint32(len(text))), text...) }
	sized(b.Version.AppendBody(nil))
	plain = appendUint32(plain, uint32(len(b.Topics)))
	for i := range b.Topics {
		t := &b.Topics[i]
		text := fmt.Sprintf("%s %d %d %d %s", t.Name, t.ReadQueueNums, t.WriteQueueNums, t.Perm, t.FilterType)
		if len(t.Attributes) > 0 {
			w := jsonWriter{append([]byte(text), " {"...)}
			for name, value := range t.Attributes {
				w.str(name, value)
			}
			text = string(w.end())
		}
		sized([]byte(text))
	}
	w := jsonWriter{[]byte{'['}}
	for _, f := range b.FilterServers {
		w.element(f)
	}
	sized(append(w.b, ']'))
	plain = appendUint32(plain, 0) // no static topic mappings

	out := bytes.NewBuffer(dst)
	z := zlib.NewWriter(out)
	z.Write(plain) // a bytes.Buffer takes everything
	z.Close()
	return out.Bytes()
}

// DecodeCompressed reads it.
func (b *RegisterBody) DecodeCompressed(body []byte) error {
	*b = RegisterBody{}
	z, err := zlib.NewReader(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: register body: %w", ErrBody, err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxRegisterBody+1))
	if err != nil {
		return fmt.Errorf("%w: register body: %w", ErrBody, err)
	}
	if len(plain) > maxRegisterBody {
		return fmt.Errorf("%w: register body inflates to over %d bytes", ErrBody, maxRegisterBody)
	}
	r := recordReader{b: plain}
	piece := func(name string) []byte {
		p := r.field(name, 4)
		return plain[p.from:p.to]
	}
	if text := piece("data version"); r.err == nil {
		if err := b.Version.DecodeBody(text); err != nil {
			return err
		}
	}
	n := 0
	if r.err == nil && len(plain)-r.at >= 4 {
		n = int(int32(getUint32(plain[r.at:])))
		r.at += 4
	}
	for i := 0; i < n && r.err == nil; i++ {
		if text := piece("topic"); r.err == nil {
			t, err := parseTopicText(string(text))
			if err != nil {
				return err
			}
			b.Topics = append(b.Topics, t)
		}
	}
	if text := piece("filter servers"); r.err == nil && len(text) > 0 {
		s := newScanner(text)
		b.FilterServers = s.strings()
		if err := s.done("filter servers"); err != nil {
			return err
		}
	}
	if r.err != nil {
		return fmt.Errorf("%w: register body: %w", ErrBody, r.err)
	}
	return nil
}

// parseTopicText reads "name read write perm filterType [attributes JSON]".
func parseTopicText(text string) (TopicConfig, error) {
	parts := strings.SplitN(text, " ", 6)
	if len(parts) < 5 {
		return TopicConfig{}, fmt.Errorf("%w: topic %.160q: want name, read, write, perm, filter type", ErrBody, text)
	}
	t := TopicConfig{Name: parts[0], FilterType: parts[4]}
	for i, to := range []*int32{&t.ReadQueueNums, &t.WriteQueueNums, &t.Perm} {
		n, err := strconv.ParseInt(parts[i+1], 10, 32)
		if err != nil {
			return t, fmt.Errorf("%w: topic %.160q: %.32q is not a number", ErrBody, text, parts[i+1])
		}
		*to = int32(n)
	}
	if len(parts) == 6 && parts[5] != "" {
		s := newScanner([]byte(parts[5]))
		for key := range s.members() {
			if t.Attributes == nil {
				t.Attributes = map[string]string{}
			}
			t.Attributes[key] = s.string()
		}
		if err := s.done("topic attributes"); err != nil {
			return t, err
		}
	}
	return t, nil
}
