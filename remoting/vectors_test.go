package remoting

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// The vectors here were made by other implementations: the Java and Go clients' own codecs.

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const routeHeader = `{"code":105,"extFields":{"topic":"T"},"flag":0,"language":"JAVA","opaque":7,"serializeTypeCurrentRPC":"JSON","version":479}`

func routeCommand() Command {
	return Command{Code: GetRouteInfoByTopic, Opaque: 7, Version: 479, Ext: Fields{{"topic", "T"}}}
}

func wantCommand(t *testing.T, got *Command, want Command) {
	t.Helper()
	if len(got.Body) == 0 {
		got.Body = nil
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("decoded %+v\nwant    %+v", *got, want)
	}
}

func TestVectorJSONFrame(t *testing.T) {
	frame := append(unhex(t, "0000007F 0000007B"), routeHeader...)
	var c Command
	if err := DecodeFrame(frame, &c); err != nil {
		t.Fatal(err)
	}
	wantCommand(t, &c, routeCommand())
}

func TestVectorBinaryFrame(t *testing.T) {
	frame := unhex(t, "00000025 01000021 0069 00 01DF 00000007 00000000 00000000 0000000C 0005 746F706963 00000001 54")
	want := routeCommand()
	want.Serialize = Binary
	encoded, err := AppendFrame(nil, &want)
	if err != nil || !bytes.Equal(encoded, frame) {
		t.Errorf("encoded %x, %v\nwant    %x", encoded, err, frame)
	}
	var c Command
	if err := DecodeFrame(frame, &c); err != nil {
		t.Fatal(err)
	}
	wantCommand(t, &c, want)
}

func TestVectorResponses(t *testing.T) {
	for _, tt := range []struct {
		name string
		resp Command
		want string
	}{
		{
			"send",
			Command{Opaque: 7, Flag: FlagResponse, Version: 477, Header: &SendResponse{
				MsgID: "7F00000100002A9F0000000000000400", QueueOffset: 7, TransactionID: "<UNIQ_KEY>", Region: RegionDefault, TraceOn: true,
			}},
			`{"code":0,"extFields":{"MSG_REGION":"DefaultRegion","TRACE_ON":"true","msgId":"7F00000100002A9F0000000000000400","queueId":"0","queueOffset":"7","transactionId":"<UNIQ_KEY>"},"flag":1,"language":"JAVA","opaque":7,"version":477}`,
		},
		{
			"pull, nothing new",
			Command{Code: PullNotFound, Opaque: 8, Flag: FlagResponse, Version: 477, Header: &PullResponse{MaxOffset: 9, NextBeginOffset: 9}},
			`{"code":19,"extFields":{"maxOffset":"9","minOffset":"0","nextBeginOffset":"9","suggestWhichBrokerId":"0"},"flag":1,"language":"JAVA","opaque":8,"version":477}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frame, err := AppendFrame(nil, &tt.resp)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(frame[8:]); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if n := int(getUint32(frame)); n != len(frame)-4 {
				t.Errorf("length word %d in a frame of %d bytes", n, len(frame))
			}
		})
	}
}

func TestVectorRecord(t *testing.T) {
	want := unhex(t, `0000006B DAA320A7 3610A686 00000003 00000000 0000000000000007 0000000000000400 00000000 0000018BCFE56800 7F000001 0000D431
		0000018BCFE56801 7F000001 00002A9F 00000000 0000000000000000 00000005 68656C6C6F 01 54 000A 5441475301 5461674102`)
	r := Record{
		QueueID: 3, QueueOffset: 7, PhysicalOffset: 1024, BornTimestamp: 1700000000000, BornHost: netip.MustParseAddrPort("127.0.0.1:54321"),
		StoreTimestamp: 1700000000001, StoreHost: netip.MustParseAddrPort("127.0.0.1:10911"), Body: []byte("hello"), Topic: "T",
		Properties: AppendProperty(nil, PropTags, "TagA"),
	}
	got, err := AppendRecord(nil, &r)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got  %x, %v\nwant %x", got, err, want)
	}
	v, err := ParseRecord(want)
	if err != nil {
		t.Fatal(err)
	}
	if back := v.Record(); !reflect.DeepEqual(back, r) {
		t.Errorf("parsed %+v\nwant   %+v", back, r)
	}
	if id := v.OffsetMsgID(); id != "7F00000100002A9F0000000000000400" {
		t.Errorf("id %s", id)
	}
	if err := v.VerifyBody(); err != nil {
		t.Error(err)
	}
}

func TestVectorBatch(t *testing.T) {
	want := unhex(t, "00000025 00000000 00000000 00000005 00000005 68656C6C6F 000A 54414753015461674102")
	m := BatchMessage{Flag: 5, Body: []byte("hello"), Properties: AppendProperty(nil, PropTags, "TagA")}
	got, err := AppendBatch(nil, &m)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got  %x, %v\nwant %x", got, err, want)
	}
	list, err := DecodeBatch(append(want, want...), 2)
	if err != nil || !reflect.DeepEqual(list, []BatchMessage{m, m}) {
		t.Errorf("decoded %+v, %v", list, err)
	}
}

func TestVectorChecksumsAndHashes(t *testing.T) {
	if crc := BodyCRC([]byte("hello")); crc != 0x3610A686 {
		t.Errorf("CRC %08X", crc)
	}
	for tag, want := range map[string]int32{"TagA": 2598919, "abcdefghij": -634317659, "": 0, "标签": 857175, "😀": 1772899} {
		if got := TagHash(tag); got != want {
			t.Errorf("TagHash(%q) = %d, want %d", tag, got, want)
		}
		if got := TagHash([]byte(tag)); got != want {
			t.Errorf("TagHash(bytes of %q) = %d, want %d", tag, got, want)
		}
	}
}

func TestVectorBodies(t *testing.T) {
	route := &RouteData{
		Brokers: []BrokerData{{Cluster: "c", BrokerName: "b", Addrs: map[int64]string{0: "10.0.0.1:10911"}}},
		Queues:  []QueueData{{BrokerName: "b", ReadQueueNums: 4, WriteQueueNums: 4, Perm: 6}},
	}
	heartbeat := &Heartbeat{
		ClientID:  "10.0.0.9@1#2",
		Producers: []string{GroupInnerProducer},
		Consumers: []ConsumerData{{
			Group: "g", ConsumeType: ConsumePassively, MessageModel: Clustering, ConsumeFromWhere: ConsumeFromLastOffset,
			Subscriptions: []Subscription{{Topic: "T", Expression: "*", Version: 1700000000000, ExpressionType: ExpressionTag}},
		}},
	}
	stats := &ConsumeStats{Queues: []QueueConsumeStats{{MessageQueue: MessageQueue{"T", "b", 0}, BrokerOffset: 7, ConsumerOffset: 3, PullOffset: 3}}}
	for _, tt := range []struct {
		name string
		got  []byte
		want string
		body interface{ DecodeBody([]byte) error }
		same any
	}{
		{
			"route, standard JSON", route.AppendBody(nil, true),
			`{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.1:10911"},"brokerName":"b","cluster":"c","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"b","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}`,
			new(RouteData), route,
		},
		{
			"route, old client", route.AppendBody(nil, false),
			`{"brokerDatas":[{"brokerAddrs":{0:"10.0.0.1:10911"},"brokerName":"b","cluster":"c","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"b","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}`,
			new(RouteData), route,
		},
		{
			"consume stats", stats.AppendBody(nil),
			`{"consumeTps":0.0,"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:{"brokerOffset":7,"consumerOffset":3,"lastTimestamp":0,"pullOffset":3}}}`,
			new(ConsumeStats), stats,
		},
		{
			"heartbeat", heartbeat.AppendBody(nil),
			`{"clientID":"10.0.0.9@1#2","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"g","messageModel":"CLUSTERING","subscriptionDataSet":[{"classFilterMode":false,"codeSet":[],"expressionType":"TAG","subString":"*","subVersion":1700000000000,"tagsSet":[],"topic":"T"}],"unitMode":false}],"heartbeatFingerprint":0,"producerDataSet":[{"groupName":"CLIENT_INNER_PRODUCER"}],"withoutSub":false}`,
			new(Heartbeat), heartbeat,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if string(tt.got) != tt.want {
				t.Errorf("got  %s\nwant %s", tt.got, tt.want)
			}
			if err := tt.body.DecodeBody([]byte(tt.want)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(tt.body, tt.same) {
				t.Errorf("decoded %+v\nwant    %+v", tt.body, tt.same)
			}
		})
	}
}
