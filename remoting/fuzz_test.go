package remoting

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"testing"
	"unicode/utf8"
)

// Each target checks, besides not crashing, that what was taken can be said again and taken again with the same meaning.

func FuzzFrames(f *testing.F) {
	for _, path := range goldenFiles(f)[:20] {
		f.Add(readGolden(f, path), uint16(7))
	}
	f.Add([]byte{0, 255, 255, 252, 0, 0, 0, 0}, uint16(1))
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		const limit = 100_000
		whole, err := split(stream, limit, 1<<20)
		pieces, err2 := split(stream, limit, int(size), int(size)/3, 5)
		if !reflect.DeepEqual(whole, pieces) || errors.Is(err, io.EOF) != errors.Is(err2, io.EOF) {
			t.Fatalf("%d frames, %v; in pieces %d, %v", len(whole), err, len(pieces), err2)
		}
		var cut []byte
		for _, frame := range whole {
			cut = append(cut, frame...)
			var c Command
			if err := DecodeFrame(frame, &c); err != nil && !errors.Is(err, ErrFrame) && !errors.Is(err, ErrHeader) {
				t.Errorf("error of no kind: %v", err)
			}
		}
		if len(cut) > len(stream) || !errors.Is(err, io.EOF) && !errors.Is(err, ErrFrame) && !errors.Is(err, ErrFrameTooLarge) {
			t.Errorf("%d bytes of %d, %v", len(cut), len(stream), err)
		}
	})
}

// again encodes what was decoded and decodes it.
func again(t *testing.T, c *Command) {
	t.Helper()
	if !utf8.ValidString(c.Remark) {
		t.Errorf("remark %q", c.Remark)
	}
	frame, err := AppendFrame(nil, c)
	if err != nil {
		if errors.Is(err, ErrTooLong) {
			return // escapes made it longer
		}
		t.Fatal(err)
	}
	if c.Serialize == JSON && !json.Valid(frame[8:len(frame)-len(c.Body)]) {
		t.Fatalf("not JSON: %q", frame[8:])
	}
	var d Command
	if err := DecodeFrame(frame, &d); err != nil {
		t.Fatalf("%v: %q", err, frame)
	}
	d.Body, d.Ext = append([]byte(nil), d.Body...), append(Fields(nil), d.Ext...)
	e := *c
	e.Body, e.Ext = append([]byte(nil), c.Body...), append(Fields(nil), c.Ext...)
	if !reflect.DeepEqual(d, e) {
		t.Fatalf("%+v\nbecame %+v", e, d)
	}
}

func FuzzJSONHeader(f *testing.F) {
	f.Add([]byte(routeHeader))
	f.Add([]byte(`{"extFields":{"a":1,"b":true,"i":"\u0001\ud83d\ude00\ud83d"},"remark":null,"x":[{"y":1e5}]}`))
	f.Fuzz(func(t *testing.T, header []byte) {
		frame := jsonFrame(string(header))
		var c Command
		if err := DecodeFrame(frame, &c); err != nil {
			if !errors.Is(err, ErrHeader) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		// What a strict parser takes must mean the same to it, where the shapes are those of the protocol.
		var strict struct {
			Remark    *string
			ExtFields map[string]*string `json:"extFields"`
			Code      *int32             `json:"code"`
		}
		if json.Unmarshal(header, &strict) == nil && strict.ExtFields != nil && !caseFolded(header) {
			for _, field := range c.Ext {
				if v := strict.ExtFields[field.Key]; v != nil && *v != c.Ext.Get(field.Key) {
					t.Errorf("%q is %q, strictly %q", field.Key, c.Ext.Get(field.Key), *v)
				}
			}
		}
		again(t, &c)
	})
}

// caseFolded says that a header has members that encoding/json takes for ours because it ignores case, or ours twice.
func caseFolded(header []byte) bool {
	return bytes.Count(bytes.ToLower(header), []byte("extfields")) != 1 || bytes.ContainsAny(header, "\\\u017f")
}

func FuzzBinaryHeader(f *testing.F) {
	for _, c := range []Command{routeCommand(), {Code: PopMessage, Remark: "r", Ext: Fields{{"k", "v"}, {"k2", "v2"}}}} {
		c.Serialize = Binary
		frame, err := AppendFrame(nil, &c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame[8:])
	}
	f.Fuzz(func(t *testing.T, header []byte) {
		frame := jsonFrame(string(header))
		frame[4] = byte(Binary)
		var c Command
		if err := DecodeFrame(frame, &c); err != nil {
			if !errors.Is(err, ErrHeader) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		again(t, &c)
	})
}

func FuzzRecord(f *testing.F) {
	r := testRecord()
	b, err := AppendRecord(nil, &r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(bytes.Clone(b), b...))
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := DecodeRecords(body)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		n := 0
		for _, v := range list {
			n += v.Size()
			r := v.Record()
			r.Properties.Get("TAGS")
			v.OffsetMsgID()
			v.VerifyBody()
			again, err := AppendRecord(nil, &r)
			if err != nil {
				t.Fatal(err)
			}
			// The same bytes, but for the checksum, a V2 record of a short topic, and the ports' upper halves.
			w, err := ParseRecord(again)
			if err != nil {
				t.Fatal(err)
			}
			s := w.Record()
			if r.BornHost.Addr().Is4In6() || r.StoreHost.Addr().Is4In6() {
				continue
			}
			if !reflect.DeepEqual(r, s) {
				t.Errorf("%+v\nbecame %+v", r, s)
			}
		}
		if n != len(body) {
			t.Errorf("%d bytes of %d", n, len(body))
		}
	})
}

func FuzzBatch(f *testing.F) {
	b, err := AppendBatch(nil, &BatchMessage{Flag: 5, Body: []byte("hello"), Properties: AppendProperty(nil, "k", "v")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := DecodeBatch(body, 100)
		if err != nil {
			if !errors.Is(err, ErrBody) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		var again []byte
		for i := range list {
			if again, err = AppendBatch(again, &list[i]); err != nil {
				t.Fatal(err)
			}
		}
		back, err := DecodeBatch(again, 100)
		if err != nil || len(again) != len(body) || !reflect.DeepEqual(back, list) {
			t.Errorf("%+v\nbecame %+v, %v", list, back, err)
		}
	})
}

func FuzzProperties(f *testing.F) {
	f.Add([]byte("TAGS\x01TagA\x02KEYS\x01a b\x02"), "TAGS")
	f.Add([]byte("\x01\x02\x01a\x02k\x01v"), "")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		p := Properties(b)
		last := map[string]string{}
		for n, v := range p.All() {
			last[string(n)] = string(v)
		}
		if p.Get(name) != last[name] {
			t.Errorf("Get %q, All has %q", p.Get(name), last[name])
		}
		if whole := p.AppendExcept(nil); !bytes.Equal(whole, p) {
			t.Errorf("%q without nothing is %q", p, whole)
		}
		rest := p.AppendExcept(nil, name)
		if rest.Get(name) != "" {
			t.Errorf("%q without %q is %q", p, name, rest)
		}
		if CheckProperty(name, "value") != nil {
			return
		}
		set := AppendProperty(rest, name, "value")
		last[name] = "value"
		for n, v := range last {
			if set.Get(n) != v {
				t.Errorf("%q of %q is %q, want %q", n, set, set.Get(n), v)
			}
		}
	})
}

func FuzzQueueMap(f *testing.F) {
	f.Add([]byte(`{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:3}}`))
	f.Add([]byte(`{"offsetTable":{"{\"queueId\":1}":"5"}}`))
	f.Add([]byte(`{"offsetTable":[[{"queueId":1},5],[{}]]}`))
	f.Fuzz(func(t *testing.T, body []byte) { fuzzBody[QueueOffsets](t, body) })
}

func FuzzBodies(f *testing.F) {
	for _, path := range goldenFiles(f) {
		if c := decodeGolden(f, path); len(c.Body) > 0 && c.Body[0] == '{' {
			f.Add(c.Body)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzBody[Heartbeat](t, body)
		fuzzBody[LockRequest](t, body)
		fuzzBody[CheckClientRequest](t, body)
		fuzzBody[RouteData](t, body)
		fuzzBody[ClusterInfo](t, body)
		fuzzBody[TopicTable](t, body)
		fuzzBody[RegisterBody](t, body)
		fuzzBody[GroupTable](t, body)
		fuzzBody[TopicStats](t, body)
		fuzzBody[ConsumeStats](t, body)
		fuzzBody[ConsumerConnections](t, body)
		fuzzBody[KVTable](t, body)
		fuzzBody[ConsumerStatus](t, body)
		fuzzBody[ConsumeResult](t, body)
		fuzzBody[ConsumeTimeSpans](t, body)
	})
}

func fuzzBody[T any, P interface {
	*T
	bodyCodec
}](t *testing.T, body []byte) {
	before := bytes.Clone(body)
	b := P(new(T))
	err := b.DecodeBody(body)
	if !bytes.Equal(body, before) {
		t.Fatalf("%T overwrote its body", b)
	}
	if err != nil {
		if !errors.Is(err, ErrBody) {
			t.Errorf("%T: error of no kind: %v", b, err)
		}
		return
	}
	text := appendBody(b, []byte(`{"0":`))
	c := P(new(T))
	if err := c.DecodeBody(text); err != nil {
		t.Fatalf("%T %+v\nis written %s\nwhich is %v", b, b, text, err)
	}
	if more := appendBody(c, []byte(`{"0":`)); !bytes.Equal(text, more) {
		t.Errorf("%T %s\nbecame %s", b, text, more)
	}
}

func FuzzRegisterCompressed(f *testing.F) {
	b := RegisterBody{TopicTable: TopicTable{Topics: []TopicConfig{NewTopicConfig("T")}}, FilterServers: []string{"f"}}
	f.Add(b.AppendCompressed(nil))
	f.Add([]byte("\x78\x9c\x63\x60\x60"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var b, c RegisterBody
		if err := b.DecodeCompressed(body); err != nil {
			if !errors.Is(err, ErrBody) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if err := c.DecodeCompressed(b.AppendCompressed(nil)); err != nil || !reflect.DeepEqual(b.Version, c.Version) || len(b.Topics) != len(c.Topics) {
			t.Errorf("%+v\nbecame %+v, %v", b, c, err)
		}
	})
}
