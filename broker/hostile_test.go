package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// rawDial connects without a client's manners.
func rawDial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) // it may be closed already
	return c
}

func rawFrame(t testing.TB, cmd *remoting.Command) []byte {
	t.Helper()
	frame, err := remoting.AppendFrame(nil, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// jsonFrame is a frame around a header's text.
func jsonFrame(header, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(header)+len(body)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(header)))
	return append(append(b, header...), body...)
}

// closesWithoutAnswer wants a broker to close a connection over what it was sent.
func closesWithoutAnswer(t testing.TB, c net.Conn, what string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(callTimeout)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(make([]byte, 1))
	if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: %d bytes, %v; want the connection closed", what, n, err)
	}
}

// Row 34: frames that make no sense end their connection, and no other.
func TestBadFrames(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	valid := `{"code":105,"extFields":{"topic":"T"},"flag":0,"language":"JAVA","opaque":7,"version":479}`
	unknown := jsonFrame(valid, "")
	unknown[4] = 9
	for what, frame := range map[string][]byte{
		"length 0":              {0, 0, 0, 0},
		"length 3":              {0, 0, 0, 3, 0, 0, 0},
		"length -1":             {0xFF, 0xFF, 0xFF, 0xFF},
		"length -2^31":          {0x80, 0, 0, 0},
		"length 2^31-1":         {0x7F, 0xFF, 0xFF, 0xFF},
		"over the limit":        {0x01, 0, 0, 0},
		"shorter than header":   {0, 0, 0, 8, 0, 0, 1, 0, '{', '}', ' ', ' '},
		"unknown serialization": unknown,
		"empty header":          jsonFrame("", ""),
		"TLS":                   []byte("\x16\x03\x01\x02\x00\x01\x00\x01"),
		"HTTP":                  []byte("GET / HTTP/1.1\r\n\r\n"),
		"binary header, cut":    {0, 0, 0, 8, 1, 0, 0, 4, 0, 1, 2, 3},
	} {
		raw := rawDial(t, b.addr.String())
		if _, err := raw.Write(frame); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		closesWithoutAnswer(t, raw, what)
		c.mustSend(message(topic, 0), "others go on")
	}
}

// Row 34: a header that comes byte by byte is waited for, and holds up nobody.
func TestSlowHeader(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	raw := rawDial(t, b.addr.String())
	frame := jsonFrame(`{"code":28,"flag":0,"opaque":7}`, "")
	for i := range frame {
		if _, err := raw.Write(frame[i : i+1]); err != nil {
			t.Fatal(err)
		}
		c.must(remoting.GetBrokerRuntimeInfo, nil)
	}
	if resp, err := readFrame(raw); err != nil || resp.Opaque != 7 || resp.Code != remoting.Success {
		t.Errorf("%+v, %v", resp, err)
	}
}

// Row 35: JSON headers made to hurt.
func TestBadHeaders(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	keys := new(strings.Builder)
	for i := range 1_000_000 {
		fmt.Fprintf(keys, `"k%d":"v",`, i)
	}
	for what, header := range map[string]string{
		"depth 10^5":      `{"code":105,"extFields":{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}}`,
		"depth 10^5 open": `{"code":105,"x":` + strings.Repeat(`{"a":`, 100_000),
		"10^6 fields":     `{"code":105,"extFields":{` + strings.TrimSuffix(keys.String(), ",") + `}}`,
		"10^6 members":    `{` + keys.String() + `"code":105}`,
		"invalid UTF-8":   "{\"code\":105,\"remark\":\"\xff\xfe\"}",
		"huge code":       `{"code":99999999999999999999}`,
		"huge exponent":   `{"code":1e999999999}`,
		"text as code":    `{"code":"many"}`,
		"an array":        `[1,2,3]`,
		"no end":          `{"code":105`,
		"rest":            `{"code":105} {"code":105}`,
		"NUL":             "{\"code\":105}\x00",
	} {
		raw := rawDial(t, b.addr.String())
		if _, err := raw.Write(jsonFrame(header, "")); err != nil {
			t.Logf("%s: %v", what, err) // it was refused before all of it was sent
		}
		closesWithoutAnswer(t, raw, what)
		c.must(remoting.GetBrokerRuntimeInfo, nil)
	}
	// What is only unusual is answered.
	for what, header := range map[string]string{
		"numbers and booleans":  `{"code":30,"opaque":1,"extFields":{"topic":"TBW102","queueId":0,"committed":true}}`,
		"numbers as strings":    `{"code":"30","opaque":"1","extFields":{"topic":"TBW102","queueId":"0"}}`,
		"unknown members, null": `{"code":30,"opaque":1,"remark":null,"language":"COBOL","x":[{"y":{}}],"extFields":{"topic":"TBW102","queueId":0,"z":null}}`,
	} {
		raw := rawDial(t, b.addr.String())
		if _, err := raw.Write(jsonFrame(header, "")); err != nil {
			t.Fatal(err)
		}
		if resp, err := readFrame(raw); err != nil || resp.Opaque != 1 || resp.Code != remoting.Success {
			t.Errorf("%s: %+v, %v", what, resp, err)
		}
	}
}

func TestUnknownRequestCode(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	_, err := c.ask(29999, nil)
	wantCode(t, err, remoting.RequestCodeNotSupported)
	if !strings.Contains(err.Error(), "29999") {
		t.Errorf("%v does not say which", err)
	}
}

// Every request there is, with nothing in it and with rubbish in it, is answered,
// with an error or, where there is nothing to say, without.
func TestEveryRequestIsAnswered(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	c := dial(t, cl.leader(t))
	rubbish := remoting.Fields{}
	for _, key := range []string{"topic", "queueId", "consumerGroup", "group", "offset", "queueOffset", "commitOffset", "a", "b", "d", "e", "f", "g", "h",
		"maxMsgNums", "sysFlag", "subVersion", "suspendTimeoutMillis", "timestamp", "readQueueNums", "perm", "clientID", "key", "maxNum", "to", "isForce", "srcGroup", "destGroup", "compareGroup", "clientId", "msgId", "i"} {
		rubbish.Add(key, "\x01<rubbish>\x02")
	}
	numbers := remoting.Fields{}
	for _, f := range rubbish {
		numbers.Add(f.Key, "-9223372036854775808")
	}
	for _, code := range slices.Sorted(func(yield func(int32) bool) {
		for code := range handlers {
			if !yield(code) {
				return
			}
		}
	}) {
		for _, req := range []*remoting.Command{
			{Code: code},
			{Code: code, Ext: rubbish, Body: []byte("{]rubbish")},
			{Code: code, Ext: numbers, Body: []byte(`{"a":` + strings.Repeat("[", 100))},
			{Code: code, Body: bytes.Repeat([]byte{0xFF}, 2<<20)},
		} {
			if resp, _ := c.call(req); resp == nil {
				t.Errorf("request %d is not answered", code)
			}
		}
	}
	c.topic("T", 1)
	c.mustSend(message("T", 0), "it goes on")
}

// Row 37: names that mean something elsewhere.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	long := strings.Repeat("x", 255)
	names := []string{"../../x", "..", ".", "/etc/passwd", "a\x00b", "a/b", `a\b`, "a@1", "a b", "%2e%2e/", "ü", long, remoting.RetryPrefix + "../x", remoting.DLQPrefix + "a/b"}
	for _, name := range append(names, "") {
		for what, err := range map[string]error{
			"create topic":   second(c.ask(remoting.UpdateAndCreateTopic, func() *remoting.TopicConfig { t := ownTopic(name, 1); return &t }())),
			"send":           second(c.send(message(name, 0), "m")),
			"send to retry":  second(c.send(message(remoting.RetryTopic(name), 0), "m")),
			"pull":           c.pull(pullOf(name, 0, 0)).err,
			"pull for group": c.pull(pullOf("T", 0, 0, func(h *remoting.PullRequest) { h.ConsumerGroup = name })).err,
			"commit":         c.commit(name, "T", 0, 0),
			"create group": second(c.call(&remoting.Command{Code: remoting.UpdateAndCreateSubscriptionGroup,
				Body: func() []byte { g := remoting.NewGroupConfig(name); return g.AppendBody(nil) }()})),
			"send back": second(c.ask(remoting.ConsumerSendMsgBack, &remoting.SendBackRequest{Group: name, MaxReconsumeTimes: -1})),
		} {
			if err == nil {
				t.Errorf("%s with the name %.40q is taken", what, name)
			}
		}
		c.beat("client", consumer(name, "T", "*")) // taken, as the client has other groups too; this one is not
		if _, ok := b.group.State().Group(name); ok {
			t.Errorf("a heartbeat has made the group %.40q", name)
		}
	}
	for _, name := range []string{"TBW102", "SCHEDULE_TOPIC_XXXX", "rmq_sys_x", "DefaultCluster", "broker-a", "DefaultCluster_REPLY_TOPIC"} {
		topic := ownTopic(name, 1)
		_, err := c.ask(remoting.UpdateAndCreateTopic, &topic)
		wantCode(t, err, remoting.InvalidParameter) // TOPIC-02
		_, err = c.ask(remoting.DeleteTopicInBroker, &remoting.TopicRequest{Topic: name})
		wantCode(t, err, remoting.InvalidParameter)
	}
	// The longest names that are allowed do work, also as directories.
	group := strings.Repeat("g", 120)
	c.group(group)
	for _, topic := range []string{remoting.RetryTopic(group), remoting.DLQTopic(group), strings.Repeat("t", 127)} {
		c.topic(topic, 1)
		h := message(topic, 0)
		h.MaxReconsumeTimes = 1
		c.mustSend(h, "m")
	}
	// Nothing is outside of the data directory.
	cl.end(t, "n1")
	entries, err := os.ReadDir(cl.cfg.StorePathRootDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "n1" {
			t.Errorf("%s has appeared", filepath.Join(cl.cfg.StorePathRootDir, e.Name()))
		}
	}
	entries, err = os.ReadDir(filepath.Join(cl.cfg.StorePathRootDir, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "broker-a" && e.Name() != namesrvDir {
			t.Errorf("%s has appeared in the data directory", e.Name())
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Row 38: a batch of 10^6.
func TestHugeBatch(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	const small = 22 // a message without a body
	batch := func(n int) *remoting.Command {
		body := make([]byte, 0, n*small)
		for range n {
			body, _ = remoting.AppendBatch(body, &remoting.BatchMessage{}) // an empty one always fits
		}
		return &remoting.Command{Code: remoting.SendBatchMessage, Header: message(topic, 0), Body: body}
	}
	_, err := c.call(batch(700_000)) // as many as a frame holds: 15 MiB
	wantCode(t, err, remoting.MessageIllegal)
	_, err = c.call(batch(100_000)) // over the number
	wantCode(t, err, remoting.MessageIllegal)
	_, err = c.call(batch(60_000)) // over what it becomes in the log
	wantCode(t, err, remoting.MessageIllegal)
	if got := c.all(topic, 0); len(got) != 0 {
		t.Errorf("%d messages are there", len(got))
	}
	if _, err := c.call(batch(10_000)); err != nil {
		t.Error(err)
	}
	// 10^6 do not go through a frame: the connection ends, others do not.
	big := batch(1_000_000)
	raw := rawDial(t, shared(t).addr.String())
	go raw.Write(rawFrame(t, big)) // cut off somewhere
	closesWithoutAnswer(t, raw, "a frame of 22 MB")
	if got := c.all(topic, 0); len(got) != 10_000 {
		t.Errorf("%d messages are there", len(got))
	}
}

// Row 16: a connection that is reset inside a frame stores nothing.
func TestConnectionResetInsideAFrame(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	frame := rawFrame(t, &remoting.Command{Code: remoting.SendMessageV2, Header: message(topic, 0), Body: []byte("half")})
	for cut := 1; cut < len(frame); cut += 17 {
		raw := rawDial(t, b.addr.String())
		if _, err := raw.Write(frame[:cut]); err != nil {
			t.Fatal(err)
		}
		if err := raw.(*net.TCPConn).SetLinger(0); err != nil { // a reset, not a close
			t.Fatal(err)
		}
		if err := raw.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.mustSend(message(topic, 0), "whole")
	if got := bodiesOf(c.all(topic, 0)); !slices.Equal(got, []string{"whole"}) {
		t.Errorf("%q", got)
	}
}

// Row 16: a half-open connection, of which only one direction is left.
func TestHalfOpenConnection(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, func(c *Config) { c.ServerChannelMaxIdle = 1 })
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	// It says that it will send no more: what it has asked is answered.
	raw := rawDial(t, b.addr.String())
	if _, err := raw.Write(rawFrame(t, &remoting.Command{Code: remoting.SendMessageV2, Opaque: 3, Header: message("T", 0), Body: []byte("m")})); err != nil {
		t.Fatal(err)
	}
	if resp, err := readFrame(raw); err != nil || resp.Opaque != 3 || resp.Code != remoting.Success {
		t.Errorf("%+v, %v", resp, err)
	}
	if err := raw.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(raw); err != nil {
		t.Errorf("the broker did not close its direction: %v", err)
	}
	// One that says nothing any more, with a pull held, is given up.
	idle := rawDial(t, b.addr.String())
	if _, err := idle.Write(rawFrame(t, &remoting.Command{Code: remoting.PullMessage, Header: pullOf("T", 0, 1, held(time.Minute))})); err != nil {
		t.Fatal(err)
	}
	isHeld(t, b, 1)
	closesWithoutAnswer(t, idle, "a silent connection")
	isHeld(t, b, 0)
}

// SEND-11: a one-way send gets no answer, and is stored.
func TestSEND11OnewaySend(t *testing.T) {
	t.Parallel()
	b := shared(t)
	topic := named(t)
	dial(t, b).topic(topic, 1)
	raw := rawDial(t, b.addr.String())
	h := message(topic, 0)
	for _, req := range []*remoting.Command{
		{Code: remoting.SendMessageV2, Opaque: 1, Flag: remoting.FlagOneway, Header: h, Body: []byte("one-way")},
		{Code: remoting.SendMessageV2, Opaque: 2, Flag: remoting.FlagOneway, Header: message("no such/name", 0)},
		{Code: 29999, Opaque: 3, Flag: remoting.FlagOneway},
		{Code: remoting.UpdateConsumerOffset, Opaque: 4, Flag: remoting.FlagOneway, Header: &remoting.UpdateConsumerOffsetRequest{ConsumerGroup: "g", Topic: topic}},
		{Code: remoting.SendMessageV2, Opaque: 5, Header: h, Body: []byte("two-way")},
	} {
		if _, err := raw.Write(rawFrame(t, req)); err != nil {
			t.Fatal(err)
		}
	}
	if resp, err := readFrame(raw); err != nil || resp.Opaque != 5 {
		t.Errorf("the first answer is %+v, %v", resp, err)
	}
	if got := bodiesOf(dial(t, b).all(topic, 0)); !slices.Equal(got, []string{"one-way", "two-way"}) {
		t.Errorf("%q", got)
	}
}

// What is too large for the raft log is refused before the log has it: a leader that
// can't store an entry resigns.
func TestHugeAdministration(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, func(c *Config) { c.RaftSegmentSize = 9 << 20 }).leader(t)
	c := dial(t, b)
	term := b.group.Leadership().Term
	huge := strings.Repeat("x", 12<<20)
	_, err := c.ask(remoting.DeleteTopicInBroker, &remoting.TopicRequest{Topic: huge})
	wantCode(t, err, remoting.MessageIllegal)
	_, err = c.ask(remoting.DeleteSubscriptionGroup, &remoting.DeleteGroupRequest{Group: huge})
	wantCode(t, err, remoting.MessageIllegal)
	g := remoting.NewGroupConfig("g")
	g.Attributes = map[string]string{"a": huge[:maxAttributes]}
	_, err = c.call(&remoting.Command{Code: remoting.UpdateAndCreateSubscriptionGroup, Body: g.AppendBody(nil)})
	wantCode(t, err, remoting.InvalidParameter)
	if l := b.group.Leadership(); !l.Self || l.Term != term {
		t.Errorf("the leader has resigned: %+v, the term was %d", l, term)
	}
}
