package broker

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

func TestSEND01AnswerNamesTheMessage(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 2)
	for i := range 5 {
		uniq := fmt.Sprint("UNIQ", i)
		r := c.mustSend(message(topic, 1, remoting.PropUniqKey, uniq), "m")
		if _, err := hex.DecodeString(r.MsgID); err != nil || len(r.MsgID) != 32 {
			t.Errorf("msgId %q is not 32 hex digits", r.MsgID)
		}
		if r.QueueID != 1 || r.QueueOffset != int64(i) || r.TransactionID != uniq || r.Region != "DefaultRegion" || !r.TraceOn {
			t.Errorf("send %d: %+v", i, r)
		}
		host, phys, err := remoting.ParseOffsetMsgID(r.MsgID)
		if err != nil || host != b.addr {
			t.Errorf("msgId %s names %v, %v; the broker is %v", r.MsgID, host, err, b.addr)
		}
		if v, err := b.record(phys); err != nil || v.Properties().Get(remoting.PropUniqKey) != uniq {
			t.Errorf("at msgId %s: %v", r.MsgID, err)
		}
	}
	if r := c.mustSend(message(topic, 0), "m"); r.QueueOffset != 0 {
		t.Errorf("the other queue's first message has offset %d", r.QueueOffset)
	}
}

func TestSEND01OverIPv6(t *testing.T) {
	t.Parallel()
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("no IPv6 loopback: ", err)
	} else if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cl := startCluster(t, 1, func(c *Config) {
		addr := c.Groups[0].Replicas["n1"]
		c.Groups[0].Replicas["n1"] = "[::1]" + addr[strings.LastIndexByte(addr, ':'):]
	})
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	r := c.mustSend(message("T", 0), "m")
	if _, err := hex.DecodeString(r.MsgID); err != nil || len(r.MsgID) != 56 {
		t.Errorf("msgId %q is not 56 hex digits", r.MsgID)
	}
	v := c.all("T", 0)[0]
	if v.SysFlag()&(remoting.SysFlagBornHostV6|remoting.SysFlagStoreHostV6) != remoting.SysFlagBornHostV6|remoting.SysFlagStoreHostV6 || v.OffsetMsgID() != r.MsgID {
		t.Errorf("sysFlag %#x, id %s", v.SysFlag(), v.OffsetMsgID())
	}
}

func TestSEND02QueueIsChosen(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 8, func(tc *remoting.TopicConfig) { tc.WriteQueueNums = 3 })
	seen := map[int32]bool{}
	for range 100 {
		r := c.mustSend(message(topic, -1), "m")
		if r.QueueID < 0 || r.QueueID >= 3 {
			t.Fatalf("queue %d of 3 to write", r.QueueID)
		}
		seen[r.QueueID] = true
	}
	if len(seen) != 3 {
		t.Errorf("100 messages went to the queues %v only", seen)
	}
}

func TestSEND03QueueBeyondTheTopic(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 4, func(tc *remoting.TopicConfig) { tc.WriteQueueNums = 2 })
	c.mustSend(message(topic, 3), "m") // max(read, write) counts
	for _, queue := range []int32{4, 1 << 30} {
		_, err := c.send(message(topic, queue), "m")
		wantCode(t, err, remoting.InvalidParameter)
	}
}

func TestSEND05BadTopicNames(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	for _, name := range []string{"with space", "with/slash", "with.dot", "ünïcode", "t\x00", "..", "../../x", "a@b", "a#b"} {
		_, err := c.send(message(name, 0), "m")
		wantCode(t, err, remoting.InvalidParameter)
	}
}

func TestSEND06TopicNameLength(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	c.mustSend(message(strings.Repeat("x", 127), 0), "m")
	_, err := c.send(message(strings.Repeat("x", 128), 0), "m")
	wantCode(t, err, remoting.InvalidParameter)
}

func TestSEND07BodySize(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	body := strings.Repeat("x", 4<<20)
	c.mustSend(message(topic, 0), body)
	_, err := c.send(message(topic, 0), body+"x")
	wantCode(t, err, remoting.MessageIllegal)
	c.mustSend(message(topic, 0), "")
	if got := c.all(topic, 0); len(got) != 2 || string(got[0].Body()) != body || len(got[1].Body()) != 0 {
		t.Errorf("%d messages came back", len(got))
	}
}

func TestSEND08PropertiesSize(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	// fill makes properties that have this size with the broker's own.
	fill := func(size int) string {
		p := properties(remoting.PropUniqKey, fmt.Sprint(size), "f", "x")
		return string(properties(remoting.PropUniqKey, fmt.Sprint(size), "f", strings.Repeat("x", 1+size-len(p)-len(b.addProperties(nil)))))
	}
	h := message(topic, 0)
	h.Properties = fill(32767)
	c.mustSend(h, "m")
	if v := c.all(topic, 0)[0]; len(v.Properties()) != 32767 {
		t.Fatalf("the test has made properties of %d bytes", len(v.Properties()))
	}
	h.Properties = fill(32768)
	_, err := c.send(h, "m")
	wantCode(t, err, remoting.MessageIllegal)
	// In a batch none may have more either.
	var batch []byte
	for _, m := range []remoting.BatchMessage{{Body: []byte("a")}, {Body: []byte("b"), Properties: remoting.Properties(fill(32768))}} {
		if batch, err = remoting.AppendBatch(batch, &m); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.call(&remoting.Command{Code: remoting.SendBatchMessage, Header: message(topic, 0), Body: batch})
	wantCode(t, err, remoting.MessageIllegal)
	if got := c.all(topic, 0); len(got) != 1 {
		t.Errorf("%d messages are there", len(got))
	}
}

func TestSEND09ProtectedTopics(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	for _, topic := range []string{"SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC",
		"TRANS_CHECK_MAX_TIME_TOPIC", "SELF_TEST_TOPIC", "OFFSET_MOVED_EVENT"} {
		_, err := c.send(message(topic, 0), "m")
		wantCode(t, err, remoting.NoPermission)
	}
}

func TestSEND10TopicThatCanNotBeWritten(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1, func(tc *remoting.TopicConfig) { tc.Perm = remoting.PermRead })
	_, err := c.send(message(topic, 0), "m")
	wantCode(t, err, remoting.NoPermission)
	if got := c.all(topic, 0); len(got) != 0 {
		t.Errorf("stored all the same: %q", bodiesOf(got))
	}
}

// batchOf is a send of a batch with these properties of each message.
func batchOf(t testing.TB, topic string, queue int32, props ...remoting.Properties) *remoting.Command {
	t.Helper()
	h := message(topic, queue)
	h.Batch = true
	var body []byte
	for i, p := range props {
		var err error
		if body, err = remoting.AppendBatch(body, &remoting.BatchMessage{Flag: int32(i), Body: fmt.Append(nil, "body ", i), Properties: p}); err != nil {
			t.Fatal(err)
		}
	}
	return &remoting.Command{Code: remoting.SendBatchMessage, Header: h, Body: body}
}

func TestSEND12Batch(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	c.mustSend(message(topic, 0), "before")
	req := batchOf(t, topic, 0, properties(remoting.PropTags, "A"), nil, properties("k", "v"), remoting.Properties("open\x01end"))
	resp, err := c.call(req)
	if err != nil {
		t.Fatal(err)
	}
	var r remoting.SendResponse
	if err := r.Decode(resp); err != nil {
		t.Fatal(err)
	}
	ids := strings.Split(r.MsgID, ",")
	if len(ids) != 4 || r.QueueOffset != 1 || resp.Ext.Get("batchUniqId") != "" {
		t.Errorf("%+v", resp.Ext)
	}
	got := c.all(topic, 0)[1:]
	for i, v := range got {
		if v.OffsetMsgID() != ids[i] || v.QueueOffset() != int64(1+i) || v.Flag() != int32(i) || string(v.Body()) != fmt.Sprint("body ", i) {
			t.Errorf("message %d: %s at %d, %q", i, v.OffsetMsgID(), v.QueueOffset(), v.Body())
		}
		if v.Properties().Get(remoting.PropCluster) != "DefaultCluster" || v.Properties().Get(remoting.PropRegion) != "DefaultRegion" {
			t.Errorf("message %d has properties %q", i, v.Properties())
		}
		if i > 0 && v.PhysicalOffset() != got[i-1].PhysicalOffset()+int64(got[i-1].Size()) {
			t.Errorf("message %d does not lie behind the one before", i)
		}
	}
	if len(got) != 4 || got[0].Properties().Get(remoting.PropTags) != "A" || got[2].Properties().Get("k") != "v" || got[3].Properties().Get("open") != "end" {
		t.Errorf("%d messages, or other properties", len(got))
	}
	// The same under the code of single messages, and without the flag under its own.
	req.Code = remoting.SendMessageV2
	if _, err := c.call(req); err != nil {
		t.Error(err)
	}
	req.Code, req.Header.(*remoting.SendHeader).Batch = remoting.SendBatchMessage, false
	if _, err := c.call(req); err != nil {
		t.Error(err)
	}
	if got := c.all(topic, 0); len(got) != 13 {
		t.Errorf("%d messages after three batches of 4 and one message", len(got))
	}
}

func TestSEND12BatchIsStoredWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	good := batchOf(t, topic, 0, nil, nil)
	for name, spoil := range map[string]func(*remoting.Command){
		"cut in a message":  func(r *remoting.Command) { r.Body = r.Body[:len(r.Body)-1] },
		"rest behind":       func(r *remoting.Command) { r.Body = append(r.Body, 0) },
		"negative size":     func(r *remoting.Command) { r.Body[len(r.Body)/2] = 0xFF },
		"no message":        func(r *remoting.Command) { r.Body = nil },
		"body over the top": func(r *remoting.Command) { r.Body = append(r.Body, make([]byte, 4<<20)...) },
	} {
		req := *good
		req.Body = bytes.Clone(good.Body)
		spoil(&req)
		if _, err := c.call(&req); codeOf(err) != remoting.MessageIllegal {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := c.all(topic, 0); len(got) != 0 {
		t.Errorf("stored: %q", bodiesOf(got))
	}
}

func TestSEND13BatchesThatMayNotBe(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	group := named(t)
	c.group(group)
	delayed := batchOf(t, topic, 0, nil, nil)
	delayed.Header.(*remoting.SendHeader).Properties = string(properties(remoting.PropDelay, "1"))
	retry := batchOf(t, remoting.RetryTopic(group), 0, nil, nil)
	for _, req := range []*remoting.Command{delayed, retry} {
		_, err := c.call(req)
		wantCode(t, err, remoting.MessageIllegal)
	}
	if got := c.all(topic, 0); len(got) != 0 {
		t.Errorf("stored: %q", bodiesOf(got))
	}
}

func TestSEND14CompressedBodyIsStoredAsSent(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	// It says that it is compressed and is not: nobody looks. (fault row 36)
	for _, flag := range []int32{remoting.SysFlagCompressed, remoting.SysFlagCompressed | 0x200} {
		h := message(topic, 0)
		h.SysFlag = flag
		c.mustSend(h, "\x78\x9c garbage")
	}
	for i, v := range c.all(topic, 0) {
		if want := []int32{0x1, 0x201}[i]; v.SysFlag() != want || string(v.Body()) != "\x78\x9c garbage" {
			t.Errorf("sysFlag %#x, body %q", v.SysFlag(), v.Body())
		}
	}
}

func TestSEND15MessageComesBackUnchanged(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	h := message(topic, 0, remoting.PropKeys, "k1 k2", remoting.PropTags, "标签", "用户", "值 with spaces 🚀", "empty after", "")
	h.BornTimestamp, h.Flag = 1234567890123, -77
	c.mustSend(h, "正文 🚀\x00\x01\x02")
	v := c.all(topic, 0)[0]
	p := v.Properties()
	if v.BornTimestamp() != h.BornTimestamp || v.Flag() != -77 || v.BornHost().String() != c.conn.LocalAddr().String() || v.StoreHost() != b.addr ||
		string(v.Body()) != "正文 🚀\x00\x01\x02" || v.Topic() != topic || v.ReconsumeTimes() != 0 {
		t.Errorf("%+v", v.Record())
	}
	if !bytes.HasPrefix(p, []byte(h.Properties)) {
		t.Errorf("properties %q do not begin with those sent, %q", p, h.Properties)
	}
	if err := v.VerifyBody(); err != nil {
		t.Error(err)
	}
}

func TestSEND16UniqKeyOfTheBroker(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	one, two := c.mustSend(message(topic, 0), "m"), c.mustSend(message(topic, 0), "m")
	if _, err := c.call(batchOf(t, topic, 0, nil, properties(remoting.PropUniqKey, "mine"))); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range c.all(topic, 0) {
		got = append(got, v.Properties().Get(remoting.PropUniqKey))
	}
	if len(one.TransactionID) != 32 || one.TransactionID == two.TransactionID || !slices.Equal(got, []string{one.TransactionID, two.TransactionID, "", "mine"}) {
		t.Errorf("keys %q; the answers say %s and %s", got, one.TransactionID, two.TransactionID)
	}
}

// Rows 36 and 46 of the fault matrix, and what the broker sets itself.
func TestPropertiesAreKeptByteForByte(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	uniq := remoting.PropUniqKey + "\x01u\x02"
	sent := []string{"", "\x01", "\x02", "\x01\x02\x01\x02", "\x02\x02", "name", "a\x01b\x01c\x02" + uniq, uniq + "open", "ü\x01\x02"}
	for _, p := range sent {
		h := message(topic, 0)
		h.Properties = p
		c.mustSend(h, "m")
	}
	for i, v := range c.all(topic, 0) {
		if !bytes.HasPrefix(v.Properties(), []byte(sent[i])) || !bytes.HasSuffix(v.Properties(), b.addProperties(nil)) {
			t.Errorf("%q came back as %q", sent[i], v.Properties())
		}
	}
	// What was received and is sent on does not pile up the broker's own.
	h := message(topic, 0)
	h.Properties = string(b.addProperties(b.addProperties(properties("k", "v", remoting.PropPopCheckPoint, "x", remoting.PropUniqKey, "again"))))
	c.mustSend(h, "m")
	got := c.all(topic, 0)
	if p, want := got[len(got)-1].Properties(), string(b.addProperties(properties("k", "v", remoting.PropUniqKey, "again"))); string(p) != want {
		t.Errorf("properties %q, want %q", p, want)
	}
}

func TestUnsupportedMessagesAreRefused(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	flagged := func(flag int32) *remoting.SendHeader {
		h := message(topic, 0)
		h.SysFlag = flag
		return h
	}
	for _, x := range []struct {
		what string
		h    *remoting.SendHeader
		code int32
	}{
		{"a half message by its flag alone", flagged(remoting.SysFlagPrepared), remoting.MessageIllegal},
		{"an inner batch", message(topic, 0, remoting.PropInnerNum, "2"), remoting.MessageIllegal},
		{"an inner batch by its flag", flagged(remoting.SysFlagInnerBatch), remoting.MessageIllegal},
	} {
		if _, err := c.send(x.h, "m"); codeOf(err) != x.code {
			t.Errorf("%s: %v, want code %d", x.what, err, x.code)
		}
	}
	if got := c.all(topic, 0); len(got) != 0 {
		t.Errorf("stored: %q", bodiesOf(got))
	}
}

func TestSEND22RetryIsStoredOnce(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	first := c.mustSend(message(topic, 0, remoting.PropUniqKey, "u"), "m")
	// The answer was lost with its connection, and the client asks again.
	for range 3 {
		if again := dial(t, b).mustSend(message(topic, 0, remoting.PropUniqKey, "u"), "m"); again != first {
			t.Errorf("asked again: %+v, the first answer was %+v", again, first)
		}
	}
	dial(t, b).mustSend(message(topic, 0, remoting.PropUniqKey, "v"), "m")
	if got := c.all(topic, 0); len(got) != 2 {
		t.Errorf("%d messages under two keys", len(got))
	}
	// A batch is one send.
	batch := func() *remoting.Command {
		return batchOf(t, topic, 0, properties(remoting.PropUniqKey, "b1"), properties(remoting.PropUniqKey, "b2"))
	}
	one, err1 := c.call(batch())
	two, err2 := dial(t, b).call(batch())
	if err1 != nil || err2 != nil || one.Ext.Get("msgId") != two.Ext.Get("msgId") {
		t.Errorf("a batch twice: %v, %v; ids %s and %s", err1, err2, one.Ext.Get("msgId"), two.Ext.Get("msgId"))
	}
	if got := c.all(topic, 0); len(got) != 4 {
		t.Errorf("%d messages after a batch of two, sent twice", len(got))
	}
}

func TestSEND22DedupOffForATopic(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1, func(tc *remoting.TopicConfig) { tc.Attributes = map[string]string{"+" + fsm.AttributeDedup: "false"} })
	for i := range 3 {
		if r := dial(t, b).mustSend(message(topic, 0, remoting.PropUniqKey, "u"), "m"); r.QueueOffset != int64(i) {
			t.Errorf("send %d has offset %d", i, r.QueueOffset)
		}
		dial(t, b).mustSend(message(topic, 0, remoting.PropUniqKey, "d", remoting.PropDelay, "1"), "m")
	}
	eventually(t, "the delayed ones, all of them", func() bool { return len(c.all(topic, 0)) == 6 })
}

// Row 46 of the fault matrix: one Message object sent twice has one UNIQ_KEY.
func TestMessageSentTwiceOnPurposeIsStoredTwice(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	one := c.mustSend(message(topic, 0, remoting.PropUniqKey, "u"), "m")
	two := c.mustSend(message(topic, 0, remoting.PropUniqKey, "u"), "m")
	if one.QueueOffset != 0 || two.QueueOffset != 1 {
		t.Errorf("offsets %d and %d", one.QueueOffset, two.QueueOffset)
	}
	// The answer to the second got lost: asked again, it tells of the second.
	if again := dial(t, b).mustSend(message(topic, 0, remoting.PropUniqKey, "u"), "m"); again != two {
		t.Errorf("asked again: %+v, the answer was %+v", again, two)
	}
	// So it does on the same connection, if it says that it is asked again.
	resp, err := c.call(&remoting.Command{Code: remoting.SendMessageV2, Header: message(topic, 0, remoting.PropUniqKey, "u"), Body: []byte("m"),
		Ext: remoting.Fields{{Key: extRepeat, Value: "true"}}})
	var again remoting.SendResponse
	if derr := again.Decode(resp); err != nil || derr != nil || again != two {
		t.Errorf("asked again: %+v, %v, %v; the answer was %+v", again, err, derr, two)
	}
	if got := c.all(topic, 0); len(got) != 2 {
		t.Errorf("%d messages", len(got))
	}
}
