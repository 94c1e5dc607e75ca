package remoting

import (
	"bytes"
	"compress/zlib"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestBodies encodes what the golden frames do not have, and decodes what other implementations write.
func TestBodies(t *testing.T) {
	mq := func(id int32) MessageQueue { return MessageQueue{"T", "b", id} }
	topic := NewTopicConfig("T")
	topic.Attributes = map[string]string{"message.type": "NORMAL", "a": "1"}
	group := NewGroupConfig("g")
	group.Attributes = map[string]string{"x": "y"}
	group.RetryMaxTimes = 3
	for _, tt := range []struct {
		name, text string
		want       any
	}{
		{"queue map, object keys", `{"offsetTable":{{"queueId":1,"topic":"T","brokerName":"b"}:5,{"brokerName":"b","queueId":2,"topic":"T"}:-1}}`,
			QueueOffsets{{mq(1), 5}, {mq(2), -1}}},
		{"queue map, text keys", `{"offsetTable":{"{\"brokerName\":\"b\",\"queueId\":1,\"topic\":\"T\"}":"5"}}`, QueueOffsets{{mq(1), 5}}},
		{"queue map, pairs", `{"offsetTable":[[{"brokerName":"b","queueId":1,"topic":"T"},5],[{"brokerName":"b","queueId":2,"topic":"T"},6]]}`,
			QueueOffsets{{mq(1), 5}, {mq(2), 6}}},
		{"queue map, white space", "{ \"messageQueueTable\" : { { \"brokerName\" : \"b\" , \"queueId\" : 1, \"topic\":\"T\" } : 5 } }", QueueOffsets{{mq(1), 5}}},
		{"queue map, empty", `{"offsetTable":{}}`, QueueOffsets(nil)},
		{"queue map, null", `{"offsetTable":null}`, QueueOffsets(nil)},
		{"heartbeat with nulls", `{"clientID":"c","consumerDataSet":[{"groupName":"g","consumeType":"PULL?","subscriptionDataSet":[{"topic":"T","subString":"*","tagsSet":null,"codeSet":null,"expressionType":null}]}],"producerDataSet":null,"unknown":[{}]}`,
			Heartbeat{ClientID: "c", Consumers: []ConsumerData{{Group: "g", ConsumeType: "PULL?",
				Subscriptions: []Subscription{{Topic: "T", Expression: "*", ExpressionType: "TAG"}}}}}},
		{"client check of Java", `{"clientId":"10.0.0.9@1","group":"g","subscriptionData":{"classFilterMode":false,"codeSet":[],"expressionType":"SQL92","subString":"a > 5","subVersion":1700000000000,"tagsSet":[],"topic":"T"}}`,
			CheckClientRequest{ClientID: "10.0.0.9@1", ConsumerGroup: "g", Subscription: Subscription{Topic: "T", Expression: "a > 5", Version: 1700000000000, ExpressionType: "SQL92"}}},
		{"client check of nothing", `{"subscriptionData":null}`, CheckClientRequest{Subscription: Subscription{ExpressionType: "TAG"}}},
		{"heartbeat, others' spelling", `{"clientId":"c","heartbeatFingerprint":"5","withoutSub":"true"}`, Heartbeat{ClientID: "c", Fingerprint: 5, WithoutSub: true}},
		{"route, mixed", `{"queueDatas":[{"brokerName":"b","perm":6,"readQueueNums":"4","topicSynFlag":1,"writeQueueNums":4}],"brokerDatas":[{"brokerName":"b","brokerAddrs":{0:"a:1",12:"[::1]:2"},"cluster":"c"}],"orderTopicConf":null,"filterServerTable":{}}`,
			RouteData{Brokers: []BrokerData{{Cluster: "c", BrokerName: "b", Addrs: map[int64]string{0: "a:1", 12: "[::1]:2"}}},
				Queues: []QueueData{{"b", 4, 4, 6, 1}}}},
		{"topic config by default", `{"topicName":"T"}`, NewTopicConfig("T")},
		{"group config by default", `{"groupName":"g"}`, NewGroupConfig("g")},
		{"topic table named by key", `{"topicConfigTable":{"T":{"perm":2}},"dataVersion":{"counter":"7","timestamp":1.7e12}}`,
			TopicTable{Topics: []TopicConfig{{Name: "T", ReadQueueNums: 16, WriteQueueNums: 16, Perm: 2, FilterType: "SINGLE_TAG"}},
				Version: DataVersion{Timestamp: 1700000000000, Counter: 7}}},
		{"register body of an old broker", `{"topicConfigTable":{"T":{"topicName":"T"}},"dataVersion":{"counter":1}}`,
			RegisterBody{TopicTable: TopicTable{Topics: []TopicConfig{NewTopicConfig("T")}, Version: DataVersion{Counter: 1}}}},
		{"KV table", `{"table":{"a":"b","n":1}}`, KVTable{"a": "b", "n": "1"}},
		{"topic stats", `{"offsetTable":{{"brokerName":"b","queueId":1,"topic":"T"}:{"lastUpdateTimestamp":9,"maxOffset":8,"minOffset":7}},"topicPutTps":1.5}`,
			TopicStats{Queues: []QueueStats{{mq(1), 7, 8, 9}}, PutTPS: 1.5}},
		{"consumer status", `{"consumerTable":{"c":{{"brokerName":"b","queueId":1,"topic":"T"}:5},"d":{}}}`,
			ConsumerStatus{{"c", QueueOffsets{{mq(1), 5}}}, {"d", nil}}},
		{"consume result of Java", `{"autoCommit":true,"consumeResult":"CR_LATER","order":false,"remark":"r","spentTimeMills":7}`,
			ConsumeResult{AutoCommit: true, Result: ConsumeLater, Remark: "r", Spent: 7}},
		{"consume result of Go", `{"order":true,"autoCommit":false,"consumeResult":4,"remark":"","spentTimeMills":0}`, ConsumeResult{Order: true, Result: ConsumeException}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := reflect.New(reflect.TypeOf(tt.want))
			text := []byte(tt.text)
			if err := got.Interface().(bodyCodec).DecodeBody(text); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Elem().Interface(), tt.want) {
				t.Errorf("got  %+v\nwant %+v", got.Elem().Interface(), tt.want)
			}
			if string(text) != tt.text {
				t.Error("the body was overwritten")
			}
		})
	}

	// What we write is JSON to a strict parser, the object keys apart, and comes back.
	for _, b := range []bodyCodec{
		&topic, &group, &GroupTable{Groups: []GroupConfig{group}, Version: DataVersion{1, 2, 3}},
		&RegisterBody{TopicTable: TopicTable{Topics: []TopicConfig{topic, NewTopicConfig("U")}}, FilterServers: []string{"a", "b"}},
		&ClusterInfo{Brokers: map[string]BrokerData{"b": {BrokerName: "b", Addrs: map[int64]string{0: "x:1", 10: "y:2", 2: "z:3"}}}, Clusters: map[string][]string{"c": {"b"}}},
		&ConsumerConnections{Connections: []ClientConnection{{"id", "1.2.3.4:5", LanguageGo, 477}}, ConsumeType: ConsumePassively,
			Subscriptions: []Subscription{{Topic: "T", Expression: "\x01\"*", Tags: []string{"a", "b"}, ExpressionType: "TAG"}}},
		&LockRequest{ConsumerGroup: "g", ClientID: "c", OnlyThisBroker: true, Queues: []MessageQueue{mq(1)}},
		&Heartbeat{ClientID: "c", Consumers: []ConsumerData{{Group: "g", Started: 5, MaxReconsumeTimes: 3}, {Group: "h"}}},
		&DeadLetterResend{"g", "id", []string{"a"}, true}, &DeadLetterResults{{"a", ResendFailed, "e"}, {"b", Resent, ""}},
		&ConsumeResult{AutoCommit: true, Result: ConsumeSuccess, Spent: 3}, &ConsumeTimeSpans{{mq(1), 1, 2, -1, 4}}, &ConsumerStatus{{ClientID: "c"}},
		&CheckClientRequest{ClientID: "c", ConsumerGroup: "g", Namespace: "n", Subscription: Subscription{Topic: "T", Expression: "a > '\"'", Version: 7, ExpressionType: "SQL92"}},
		&DataVersion{1, 2, 3}, &KVTable{}, &LockResponse{}, &ConsumerList{}, &TopicList{Topics: []string{}}, &GroupList{"a"}, &ProducerConnections{},
	} {
		text := b.(interface{ AppendBody([]byte) []byte }).AppendBody(nil)
		if !json.Valid(text) || bytes.Contains(text, []byte("null")) {
			t.Errorf("%T: %s", b, text)
		}
		again := reflect.New(reflect.TypeOf(b).Elem())
		if err := again.Interface().(bodyCodec).DecodeBody(text); err != nil {
			t.Errorf("%T: %v", b, err)
		}
		if more := again.Interface().(interface{ AppendBody([]byte) []byte }).AppendBody(nil); !bytes.Equal(more, text) {
			t.Errorf("%T: %s, again %s", b, text, more)
		}
	}
}

func TestBodyRefusals(t *testing.T) {
	for _, tt := range []struct {
		body bodyCodec
		text string
	}{
		{new(Heartbeat), ``}, {new(Heartbeat), `{}`}, {new(Heartbeat), `{"clientID":"c"`}, {new(Heartbeat), `{"clientID":"c","consumerDataSet":{}}`},
		{new(Heartbeat), "{\"clientID\":\"\xff\"}"}, {new(Heartbeat), strings.Repeat(`{"x":`, 100_000)},
		{new(Heartbeat), `{"clientID":"c","consumerDataSet":` + strings.Repeat(`[`, 100_000) + `}`},
		{new(RouteData), `{"brokerDatas":[{"brokerAddrs":{"x":"a:1"}}]}`}, {new(RouteData), `{"queueDatas":[{"perm":"x"}]}`},
		{new(QueueOffsets), `{"offsetTable":{"x":1}}`}, {new(QueueOffsets), `{"offsetTable":{{"queueId":{}}:1}}`},
		{new(QueueOffsets), `{"offsetTable":{{"queueId":1}:"x"}}`}, {new(TopicStats), `{"topicPutTps":"x"}`},
		{new(LockRequest), `{"mqSet":[1]}`}, {new(ConsumerStatus), `{"consumerTable":{"c":[1]}}`}, {new(ConsumeResult), `{}`},
		{new(ConsumeTimeSpans), `{"consumeTimeSpanSet":[{"messageQueue":1}]}`}, {new(DataVersion), `{"counter":1e30}`}, {new(KVTable), `{"table":[]}`},
		{new(ConsumerList), `{"consumerIdList":[` + strings.Repeat(`0,`, maxJSONItems) + `0]}`},
	} {
		if err := tt.body.DecodeBody([]byte(tt.text)); !errors.Is(err, ErrBody) || len(err.Error()) > 400 {
			t.Errorf("%T %.60q: %v", tt.body, tt.text, err)
		}
	}
}

func TestRegisterCompressed(t *testing.T) {
	topic := NewTopicConfig("T")
	topic.Attributes = map[string]string{"message.type": "FIFO with space"}
	want := RegisterBody{TopicTable: TopicTable{Topics: []TopicConfig{topic, NewTopicConfig("U")}, Version: DataVersion{1, 2, 3}}, FilterServers: []string{"f"}}
	body := want.AppendCompressed(nil)
	var got RegisterBody
	if err := got.DecodeCompressed(body); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	deflate := func(plain []byte) []byte {
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		z.Write(plain)
		z.Close()
		return b.Bytes()
	}
	sized := func(text string) string { return string(appendUint32(nil, uint32(len(text)))) + text }
	version := sized(`{"counter":1}`)
	if err := got.DecodeCompressed(deflate([]byte(version + "\x00\x00\x00\x01" + sized("T 4 5 6 MULTI_TAG") + sized("[]")))); err != nil ||
		!reflect.DeepEqual(got.Topics, []TopicConfig{{Name: "T", ReadQueueNums: 4, WriteQueueNums: 5, Perm: 6, FilterType: "MULTI_TAG"}}) {
		t.Errorf("old form: %+v, %v", got, err)
	}
	for name, body := range map[string][]byte{
		"not zlib": []byte("hello"), "cut off": body[:len(body)-5], "empty": deflate(nil), "version cut": deflate([]byte(version[:8])),
		"version negative": deflate([]byte("\xff\xff\xff\xff")), "count without topics": deflate([]byte(version + "\x7f\xff\xff\xff")),
		"topic broken":  deflate([]byte(version + "\x00\x00\x00\x01" + sized("T 4") + sized("[]"))),
		"number broken": deflate([]byte(version + "\x00\x00\x00\x01" + sized("T 4 x 6 S") + sized("[]"))),
		"bomb":          deflate(make([]byte, maxRegisterBody+1)),
	} {
		if err := got.DecodeCompressed(body); !errors.Is(err, ErrBody) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if crc := RegisterCRC([]byte("hello")); crc != 0x3610A686 {
		t.Errorf("CRC %08X", crc)
	}
}

func TestRegisterHeaders(t *testing.T) {
	acting := false
	identity := BrokerIdentity{"c", "b", "1.2.3.4:10911", 0}
	for _, h := range []headerCodec{
		&RegisterRequest{BrokerIdentity: identity, HAServerAddr: "1.2.3.4:10912", HeartbeatTimeout: 5, EnableActingMaster: &acting, Compressed: true, BodyCRC32: 7, ZoneName: "z"},
		&RegisterRequest{BrokerIdentity: identity}, &identity, &BrokerHeartbeatRequest{identity, 9}, &RegisterResponse{}, &RegisterResponse{"h", "m"},
		&QueryDataVersionResponse{true}, &SearchOffsetRequest{"T", 1, 2, true}, &QueryConsumerOffsetRequest{"g", "T", 1, true},
		&TopicConfig{Name: "T", ReadQueueNums: 1, WriteQueueNums: 2, Perm: 6, FilterType: "SINGLE_TAG", Order: true, Attributes: map[string]string{"+a": "b", "-c": ""}},
	} {
		for _, s := range []Serialize{JSON, Binary} {
			frame, err := AppendFrame(nil, &Command{Header: h, Serialize: s})
			if err != nil {
				t.Fatal(err)
			}
			var c Command
			if err := DecodeFrame(frame, &c); err != nil {
				t.Fatal(err)
			}
			again := reflect.New(reflect.TypeOf(h).Elem())
			if err := again.Interface().(headerCodec).Decode(&c); err != nil || !reflect.DeepEqual(again.Interface(), h) {
				t.Errorf("%+v comes back as %+v, %v", h, again.Interface(), err)
			}
		}
	}
	for _, ext := range []Fields{{{"topic", "T"}}, {{"boundaryType", "MIDDLE"}, {"topic", "T"}, {"queueId", "0"}, {"timestamp", "1"}}} {
		if err := new(SearchOffsetRequest).Decode(&Command{Ext: ext}); !errors.Is(err, ErrField) {
			t.Errorf("%v: %v", ext, err)
		}
	}
	if err := new(TopicConfig).Decode(&Command{Ext: Fields{{"topic", "T"}, {"attributes", "a=b"}}}); !errors.Is(err, ErrField) {
		t.Errorf("attributes without sign: %v", err)
	}
	if err := new(SendHeader).Decode(&Command{Ext: Fields{{"a", "g"}, {"b", "T"}, {"d", "4"}, {"f", "0"}, {"g", "0"}, {"h", "0"}}}); !errors.Is(err, ErrField) || !strings.Contains(err.Error(), "queueId") {
		t.Errorf("send without a queue: %v", err)
	}
}

func TestErrorText(t *testing.T) {
	err := error(Errorf(TopicNotExist, "no topic %s", "T"))
	if err.Error() != "TOPIC_NOT_EXIST (17): no topic T" || !errors.Is(err, &Error{Code: 17}) || errors.Is(err, &Error{Code: 16}) {
		t.Errorf("%v", err)
	}
	if got := (&Error{Code: 12345}).Error(); got != "RESPONSE_12345 (12345): unknown response code" {
		t.Error(got)
	}
	if RequestName(310) != "SEND_MESSAGE_V2" || RequestName(9999) != "REQUEST_9999" {
		t.Error("request names")
	}
	for code, info := range responseInfos {
		if info.Stored && info.Retriable {
			t.Errorf("%d is stored and retriable: duplicates", code)
		}
	}
}
