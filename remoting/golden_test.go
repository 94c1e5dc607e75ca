package remoting

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// Golden frames: what real clients sent, and the answers that made them go on. testdata/golden/README.md says how they were taken.
const goldenDir = "../testdata/golden"

type headerCodec interface {
	Decode(*Command) error
	Header
}

type bodyCodec interface{ DecodeBody([]byte) error }

// codecs says what the requests and answers of a code consist of.
var codecs = map[int32]struct {
	request, answer         func() headerCodec
	requestBody, answerBody func() bodyCodec
}{
	SendMessage:                      {request: header[SendHeader], answer: header[SendResponse]},
	SendMessageV2:                    {request: header[SendHeader], answer: header[SendResponse]},
	SendBatchMessage:                 {request: header[SendHeader], answer: header[SendResponse]},
	PullMessage:                      {request: header[PullRequest], answer: header[PullResponse]},
	LitePullMessage:                  {request: header[PullRequest], answer: header[PullResponse]},
	QueryMessage:                     {request: header[QueryMessageRequest], answer: header[QueryMessageResponse]},
	QueryConsumerOffset:              {request: header[QueryConsumerOffsetRequest], answer: header[OffsetResponse]},
	UpdateConsumerOffset:             {request: header[UpdateConsumerOffsetRequest]},
	UpdateAndCreateTopic:             {request: header[TopicConfig]},
	GetAllTopicConfig:                {answerBody: body[TopicTable]},
	GetBrokerRuntimeInfo:             {answerBody: body[KVTable]},
	SearchOffsetByTimestamp:          {request: header[SearchOffsetRequest], answer: header[OffsetResponse]},
	GetMaxOffset:                     {request: header[QueueRequest], answer: header[OffsetResponse]},
	GetMinOffset:                     {request: header[QueueRequest], answer: header[OffsetResponse]},
	GetEarliestMsgStoreTime:          {request: header[QueueRequest], answer: header[TimestampResponse]},
	ViewMessageByID:                  {request: header[ViewMessageRequest]},
	HeartBeat:                        {requestBody: body[Heartbeat]},
	UnregisterClient:                 {request: header[UnregisterClientRequest]},
	RecallMessage:                    {request: header[RecallMessageRequest], answer: header[RecallMessageResponse]},
	ConsumerSendMsgBack:              {request: header[SendBackRequest]},
	EndTransaction:                   {request: header[EndTransactionRequest]},
	CheckTransactionState:            {request: header[CheckTransactionRequest]},
	ResumeCheckHalfMessage:           {request: header[ResumeCheckRequest]},
	GetConsumerListByGroup:           {request: header[ConsumerGroupRequest], answerBody: body[ConsumerList]},
	NotifyConsumerIDsChanged:         {request: header[ConsumerGroupRequest]},
	LockBatchMQ:                      {requestBody: body[LockRequest], answerBody: body[LockResponse]},
	UnlockBatchMQ:                    {requestBody: body[LockRequest]},
	GetRouteInfoByTopic:              {request: header[RouteRequest], answerBody: body[RouteData]},
	GetBrokerClusterInfo:             {answerBody: body[ClusterInfo]},
	UpdateAndCreateSubscriptionGroup: {requestBody: body[GroupConfig]},
	GetAllSubscriptionGroupConfig:    {answerBody: body[GroupTable]},
	GetTopicStatsInfo:                {request: header[TopicRequest], answerBody: body[TopicStats]},
	GetConsumerConnectionList:        {request: header[ConsumerGroupRequest], answerBody: body[ConsumerConnections]},
	GetProducerConnectionList:        {request: header[ProducerGroupRequest], answerBody: body[ProducerConnections]},
	GetAllTopicListFromNameserver:    {answerBody: body[TopicList]},
	DeleteSubscriptionGroup:          {request: header[DeleteGroupRequest]},
	GetConsumeStats:                  {request: header[ConsumeStatsRequest], answerBody: body[ConsumeStats]},
	DeleteTopicInBroker:              {request: header[TopicRequest]},
	DeleteTopicInNamesrv:             {request: header[TopicRequest]},
	GetConsumerStatusFromClient:      {answerBody: body[QueueOffsets]},
	GetTopicsByCluster:               {request: header[TopicsByClusterRequest], answerBody: body[TopicList]},
	QueryTopicConsumeByWho:           {request: header[TopicRequest], answerBody: body[GroupList]},
	GetConsumerRunningInfo:           {},
	GetTopicConfig:                   {request: header[TopicRequest], answerBody: body[TopicConfig]},
}

func header[T any, P interface {
	*T
	headerCodec
}]() headerCodec {
	return P(new(T))
}

func body[T any, P interface {
	*T
	bodyCodec
}]() bodyCodec {
	return P(new(T))
}

func readGolden(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return unhex(t, string(text))
}

func decodeGolden(t testing.TB, path string) *Command {
	t.Helper()
	var c Command
	if err := DecodeFrame(readGolden(t, path), &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

func goldenFiles(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(goldenDir, "*", "*.hex"))
	if err != nil || len(paths) < 300 {
		t.Fatalf("%d golden frames, %v", len(paths), err)
	}
	return paths
}

// appendBody encodes a body as the answer of the golden frame does.
func appendBody(b bodyCodec, raw []byte) []byte {
	switch b := b.(type) {
	case *RouteData:
		return b.AppendBody(nil, bytes.Contains(raw, []byte(`{"0":`)))
	case interface{ AppendBody([]byte) []byte }:
		return b.AppendBody(nil)
	}
	panic(fmt.Sprintf("%T has no AppendBody", b))
}

// TestGoldenFrames decodes every frame, and checks that the encoders say the same: answers that clients took byte for byte, requests by
// decoding them again.
func TestGoldenFrames(t *testing.T) {
	for _, path := range goldenFiles(t) {
		client, file := filepath.Base(filepath.Dir(path)), filepath.Base(path)
		t.Run(client+"/"+file, func(t *testing.T) {
			c := decodeGolden(t, path)
			name, fromBroker := strings.CutPrefix(file, "to-client-")
			isAnswer := strings.HasSuffix(name, ".ans.hex")
			n, _, _ := strings.Cut(name, ".")
			n, _, _ = strings.Cut(n, "-")
			code, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			codec, ok := codecs[int32(code)]
			if !ok {
				t.Fatalf("no codec for %s", RequestName(int32(code)))
			}
			if isAnswer != c.IsResponse() || !isAnswer && c.Code != int32(code) {
				t.Fatalf("code %d, flag %d", c.Code, c.Flag)
			}
			if client == "java-5.3.3-binary" && !fromBroker && c.Serialize != Binary {
				t.Error("not a binary header")
			}
			newHeader, newBody := codec.request, codec.requestBody
			if isAnswer {
				newHeader, newBody = codec.answer, codec.answerBody
				if c.Code != Success && c.Code != PullNotFound && c.Code != PullOffsetMoved {
					newHeader, newBody = nil, nil
				}
			}
			ours := isAnswer != fromBroker // we made it, the client took it
			again := Command{Code: c.Code, Opaque: c.Opaque, Flag: c.Flag, Version: c.Version, Language: c.Language, Serialize: c.Serialize,
				Remark: c.Remark, Ext: c.Ext, Body: c.Body}
			if newHeader != nil {
				h := newHeader()
				if err := h.Decode(c); err != nil {
					t.Fatal(err)
				}
				again.Header, again.Ext = h, nil
				if s, ok := h.(*SendHeader); ok && c.Code == SendMessage {
					again.Header = s.LongNames()
				}
			}
			if newBody != nil {
				b := newBody()
				if err := b.DecodeBody(c.Body); err != nil {
					t.Fatal(err)
				}
				again.Body = appendBody(b, c.Body)
				b2 := newBody()
				if err := b2.DecodeBody(again.Body); err != nil || !reflect.DeepEqual(b, b2) {
					t.Errorf("%+v\nencoded and decoded is\n%+v, %v", b, b2, err)
				}
			}
			frame, err := AppendFrame(nil, &again)
			if err != nil {
				t.Fatal(err)
			}
			if want := readGolden(t, path); ours && !bytes.Equal(frame, want) {
				t.Errorf("we encode %q\nthe client took %q", frame, want)
			}
			if newHeader != nil {
				var back Command
				if err := DecodeFrame(frame, &back); err != nil {
					t.Fatal(err)
				}
				h, h2 := newHeader(), newHeader()
				if err := h2.Decode(&back); err != nil {
					t.Fatal(err)
				}
				if h.Decode(c); !reflect.DeepEqual(h, h2) {
					t.Errorf("%+v\nencoded and decoded is\n%+v", h, h2)
				}
			}
		})
	}
}

// TestGoldenFields checks what was read out of the frames against what the clients were told to send.
func TestGoldenFields(t *testing.T) {
	sub := func(topic, expression string, version int64, tags ...string) Subscription {
		return Subscription{Topic: topic, Expression: expression, Version: version, Tags: tags, ExpressionType: ExpressionTag}
	}
	for file, want := range map[string]any{
		"java-4.9.8/310-1": SendHeader{ProducerGroup: "pg1", Topic: "T", DefaultTopic: "TBW102", DefaultTopicQueueNums: 4, MaxReconsumeTimes: -1, BrokerName: "b1"},
		"java-5.3.3/310-1": SendHeader{ProducerGroup: "pg1", Topic: "T", DefaultTopic: "TBW102", DefaultTopicQueueNums: 4, QueueID: 1,
			MaxReconsumeTimes: -1, BrokerName: "b1"},
		"java-5.3.3-binary/310-1": SendHeader{ProducerGroup: "pg1", Topic: "T", DefaultTopic: "TBW102", DefaultTopicQueueNums: 4,
			MaxReconsumeTimes: -1, BrokerName: "b1"},
		"java-5.3.3/320": SendHeader{ProducerGroup: "pg1", Topic: "T", DefaultTopic: "TBW102", DefaultTopicQueueNums: 4, QueueID: 1,
			MaxReconsumeTimes: -1, BrokerName: "b1", Batch: true},
		"go-2.1.2/10-1": SendHeader{ProducerGroup: "gp1", Topic: "T", DefaultTopic: "TBW102", DefaultTopicQueueNums: 4, QueueID: 1,
			BrokerName: "b1"},
		"go-2.1.2/320":       SendHeader{ProducerGroup: "gp1", Topic: "T", DefaultTopic: "TBW102", DefaultTopicQueueNums: 4, BrokerName: "b1", Batch: true},
		"ali-ons-3.12.0/310": SendHeader{ProducerGroup: "np1", Topic: "T", DefaultTopic: "TBW102", DefaultTopicQueueNums: 4, QueueID: 1, MaxReconsumeTimes: -1},

		"ali-ons-3.12.0/11-2": PullRequest{ConsumerGroup: "ng1", Topic: "T", QueueOffset: 1, MaxMsgNums: 32,
			SysFlag: PullCommitOffset | PullSuspend | PullSubscription, CommitOffset: 1, SuspendTimeoutMillis: 15000, Subscription: "*",
			SubVersion: 1795297064091},
		"go-2.1.2/11-1": PullRequest{ConsumerGroup: "gc1", Topic: "T", QueueID: 1, MaxMsgNums: 32, SysFlag: PullSuspend, CommitOffset: -1,
			SuspendTimeoutMillis: 20000, ExpressionType: "TAG", BrokerName: "b1"},
		"java-5.3.3/361-2": PullRequest{ConsumerGroup: "cg3", Topic: "T", QueueOffset: 3, MaxMsgNums: 10, SysFlag: PullSuspend | PullSubscription | PullLite,
			SuspendTimeoutMillis: 20000, Subscription: "*", ExpressionType: "TAG", MaxMsgBytes: 1<<31 - 1, BrokerName: "b1"},

		"go-2.1.2/36": SendBackRequest{Group: "gc1", OriginMsgID: "C00002025842000000006ba348580001", OriginTopic: "T", MaxReconsumeTimes: 16, BrokerName: "b1"},
		"java-5.3.3/36-2": SendBackRequest{Offset: 1352, Group: "cg1", OriginMsgID: "FD000000000000000000000000000002584530946E096BA35A250007",
			OriginTopic: "T", MaxReconsumeTimes: 16, BrokerName: "b1"},
		"ali-ons-3.12.0/36": SendBackRequest{Group: "ng1", OriginMsgID: "7F00000100004DA70000000000000000", OriginTopic: "T", MaxReconsumeTimes: 16},
		"ali-ons-3.12.0/15": UpdateConsumerOffsetRequest{ConsumerGroup: "ng1", Topic: "T", CommitOffset: 1},
		"ali-ons-3.12.0/35": UnregisterClientRequest{ClientID: "192.0.2.2@22593", ProducerGroup: "np1"},
		"java-4.9.8/12-2": QueryMessageRequest{Topic: "T", Key: "FD000000000000000000000000000002584430946E096BA3C5050009", MaxNum: 32,
			BeginTimestamp: 1795297093917, EndTimestamp: 1<<63 - 1, UniqKey: true},
		"java-5.3.3/105-1": RouteRequest{Topic: "T", StandardJSON: true},
		"go-2.1.2/105-1":   RouteRequest{Topic: "T"},
		"java-4.9.8/17":    TopicConfig{Name: "AdmTopic", ReadQueueNums: 8, WriteQueueNums: 8, Perm: 6, FilterType: "SINGLE_TAG"},
		"java-5.3.3/207":   DeleteGroupRequest{Group: "g1"},

		"go-2.1.2/34-1": Heartbeat{ClientID: "192.0.2.2@gcons", Consumers: []ConsumerData{{
			Group: "gc1", ConsumeType: ConsumePassively, MessageModel: Clustering, ConsumeFromWhere: ConsumeFromFirstOffset,
			Subscriptions: []Subscription{
				sub("T", "TagA || TagB || 标签 || *", 1795297063340530104, "*", "TagA", "TagB", "标签"),
				sub("%RETRY%gc1", "*", 1795297063340562064),
			},
		}}},
		"java-5.3.3/34-2": Heartbeat{ClientID: "10.0.0.9@cons", Producers: []string{GroupInnerProducer}, Consumers: []ConsumerData{{
			Group: "cg1", ConsumeType: ConsumePassively, MessageModel: Clustering, ConsumeFromWhere: ConsumeFromFirstOffset,
			Subscriptions: []Subscription{
				sub("%RETRY%cg1", "*", 1795297088954),
				sub("T", "TagA || TagB || 标签 || *", 1795297068939, "TagA", "标签", "*", "TagB"),
			},
		}}},
		"ali-ons-3.12.0/34-2": Heartbeat{ClientID: "192.0.2.2@22593", Producers: []string{"np1"}, Consumers: []ConsumerData{{
			Group: "ng1", ConsumeType: ConsumePassively, MessageModel: Clustering, ConsumeFromWhere: ConsumeFromFirstOffset,
			Subscriptions: []Subscription{sub("T", "*", 1795297064091), sub("%RETRY%ng1", "*", 1795297064246)},
		}}},
		"go-2.1.2/42": LockRequest{ConsumerGroup: "gc2", ClientID: "192.0.2.2@gord", Queues: []MessageQueue{{"T", "b1", 1}, {"T", "b1", 0}}},
	} {
		t.Run(file, func(t *testing.T) {
			c := decodeGolden(t, filepath.Join(goldenDir, file+".req.hex"))
			got := reflect.New(reflect.TypeOf(want))
			var err error
			switch d := got.Interface().(type) {
			case headerCodec:
				err = d.Decode(c)
			case bodyCodec:
				err = d.DecodeBody(c.Body)
			}
			if err != nil {
				t.Fatal(err)
			}
			if s, ok := got.Interface().(*SendHeader); ok {
				// These two differ from run to run.
				if s.BornTimestamp < 1795297060000 || s.BornTimestamp > 1795297100000 {
					t.Errorf("born %d", s.BornTimestamp)
				}
				if !s.Batch && Properties(s.Properties).Get(PropTags) != "TagA" {
					t.Errorf("properties %q", s.Properties)
				}
				s.BornTimestamp, s.Properties = 0, ""
			}
			if !reflect.DeepEqual(got.Elem().Interface(), want) {
				t.Errorf("got  %+v\nwant %+v", got.Elem().Interface(), want)
			}
		})
	}
}

func TestGoldenProperties(t *testing.T) {
	for file, want := range map[string]map[string]string{
		"java-5.3.3/310-1":        {"KEYS": "k1 k2", "TAGS": "TagA", "WAIT": "true", "user": `值"quoted\`, "UNIQ_KEY": "FD000000000000000000000000000002584530946E096BA359430000"},
		"java-5.3.3-binary/310-1": {"KEYS": "k1 k2", "TAGS": "TagA", "WAIT": "true", "user": `值"quoted\`, "UNIQ_KEY": "FD000000000000000000000000000002584730946E096BA35A0D0000"},
		"go-2.1.2/10-1":           {"KEYS": "k1 k2", "TAGS": "TagA", "user": `值"q\`, "UNIQ_KEY": "C00002025842000000006ba348580001"},
		"ali-ons-3.12.0/310":      {"KEYS": "k0", "TAGS": "TagA"},
	} {
		var h SendHeader
		if err := h.Decode(decodeGolden(t, filepath.Join(goldenDir, file+".req.hex"))); err != nil {
			t.Fatal(file, err)
		}
		got := map[string]string{}
		for name, value := range Properties(h.Properties).All() {
			got[string(name)] = string(value)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q", file, got)
		}
	}
}

func TestGoldenBatches(t *testing.T) {
	for file, want := range map[string][]string{
		"java-4.9.8/320": {"batch0", "batch1", "batch2"},
		"java-5.3.3/320": {"batch0", "batch1", "batch2"},
		"go-2.1.2/320":   {"b1", "b2"},
	} {
		list, err := DecodeBatch(decodeGolden(t, filepath.Join(goldenDir, file+".req.hex")).Body, 10)
		if err != nil {
			t.Fatal(file, err)
		}
		var bodies []string
		for i, m := range list {
			bodies = append(bodies, string(m.Body))
			if strings.HasPrefix(file, "java") && m.Properties.Get(PropKeys) != "kb"+strconv.Itoa(i) {
				t.Errorf("%s: properties %q", file, m.Properties)
			}
		}
		if !reflect.DeepEqual(bodies, want) {
			t.Errorf("%s: %q", file, bodies)
		}
	}
}

// TestGoldenRecords reads the records of pull answers that the clients consumed.
func TestGoldenRecords(t *testing.T) {
	pulled := 0
	for _, path := range goldenFiles(t) {
		if !strings.HasPrefix(filepath.Base(path), "11-") || !strings.HasSuffix(path, ".ans.hex") {
			continue
		}
		c := decodeGolden(t, path)
		if c.Code != Success {
			continue
		}
		list, err := DecodeRecords(c.Body)
		if err != nil {
			t.Fatal(path, err)
		}
		for _, v := range list {
			pulled++
			r := v.Record()
			again, err := AppendRecord(nil, &r)
			if err != nil || !bytes.Equal(again, v.Bytes()) {
				t.Errorf("%s: %s\nencoded again is %s, %v", path, hex.EncodeToString(v.Bytes()), hex.EncodeToString(again), err)
			}
			host, offset, err := ParseOffsetMsgID(v.OffsetMsgID())
			if err != nil || host != v.StoreHost() || offset != v.PhysicalOffset() || host.Addr() != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("%s: id %s is of %v at %d, %v", path, v.OffsetMsgID(), host, offset, err)
			}
		}
	}
	if pulled < 5 {
		t.Errorf("only %d records", pulled)
	}
}
