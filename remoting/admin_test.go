package remoting

import (
	"errors"
	"reflect"
	"testing"
)

// TestAdminHeaders: what is written comes back, in both encodings, and what is missing is named.
func TestAdminHeaders(t *testing.T) {
	for _, h := range []headerCodec{
		&ResetOffsetRequest{Topic: "T", Group: "g", Timestamp: 1, Force: true, QueueID: -1, Offset: -1},
		&ResetOffsetRequest{Topic: "T", Group: "g", Timestamp: -1, QueueID: 3, Offset: 7},
		&EndTransactionRequest{"T", "p", 7, 1 << 40, TransactionRolledBack, true, "U", "U", "b"}, &EndTransactionRequest{ProducerGroup: "p"},
		&CheckTransactionRequest{"T", 7, 1 << 40, "U", "U", "O", "b"}, &CheckTransactionRequest{CommitLogOffset: 1},
		&ResumeCheckRequest{"TRANS", "O"}, &ResumeCheckRequest{"", "O"},
		&CloneOffsetRequest{"g", "h", "T", true}, &CloneOffsetRequest{"g", "h", "", false},
		&CorrectionOffsetRequest{"g,h", "i", "T"},
		&ConsumerStatusRequest{"T", "g", "c"}, &ConsumerStatusRequest{"T", "g", ""},
		&RunningInfoRequest{"g", "c", true}, &GroupTopicRequest{"g", "T"},
		&ConsumeDirectlyRequest{"g", "c", "id", "T", "b"},
		&DeadLetterQuery{"g", "id", "", 1, 2, 3, 4}, &DeadLetterQuery{Group: "g", Key: "k"}, &DeadLetterPage{7, true, "010"},
		&ReplyRequest{"p", "R", "TBW102", 4, 1, 1, 5, 6, "k\x01v\x02", 7, true, "1.2.3.4:5", "[::1]:6", 8},
	} {
		for _, s := range []Serialize{JSON, Binary} {
			frame, err := AppendFrame(nil, &Command{Serialize: s, Header: h})
			if err != nil {
				t.Fatal(err)
			}
			var c Command
			if err := DecodeFrame(frame, &c); err != nil {
				t.Fatal(err)
			}
			got := reflect.New(reflect.TypeOf(h).Elem()).Interface().(headerCodec)
			if err := got.Decode(&c); err != nil || !reflect.DeepEqual(got, h) {
				t.Errorf("%+v became %+v, %v", h, got, err)
			}
		}
		got := reflect.New(reflect.TypeOf(h).Elem()).Interface().(headerCodec)
		if err := got.Decode(&Command{}); !errors.Is(err, ErrField) {
			t.Errorf("%T of nothing: %v", h, err)
		}
	}
}

// What RocketMQ's tools of 4.9 send has no queue, and what they send of 5.x may have no time.
func TestResetOffsetRequests(t *testing.T) {
	for _, tt := range []struct {
		ext  Fields
		want ResetOffsetRequest
		ok   bool
	}{
		{Fields{{"topic", "T"}, {"group", "g"}, {"timestamp", "5"}, {"isForce", "true"}}, ResetOffsetRequest{"T", "g", 5, true, -1, -1}, true},
		{Fields{{"topic", "T"}, {"group", "g"}, {"queueId", "2"}, {"offset", "9"}}, ResetOffsetRequest{"T", "g", -1, false, 2, 9}, true},
		{Fields{{"topic", "T"}, {"group", "g"}, {"queueId", "2"}}, ResetOffsetRequest{}, false},
		{Fields{{"topic", "T"}, {"group", "g"}, {"offset", "2"}}, ResetOffsetRequest{}, false},
		{Fields{{"topic", "T"}, {"group", "g"}, {"timestamp", "soon"}}, ResetOffsetRequest{}, false},
	} {
		var got ResetOffsetRequest
		err := got.Decode(&Command{Ext: tt.ext})
		if tt.ok != (err == nil) || tt.ok && got != tt.want || !tt.ok && !errors.Is(err, ErrField) {
			t.Errorf("%v: %+v, %v", tt.ext, got, err)
		}
	}
}

func TestOffsetsForClientsInCPP(t *testing.T) {
	got := string(QueueOffsetList{{MessageQueue{"T", "b", 1}, 5}, {MessageQueue{"T", "b", 2}, 6}}.AppendBody(nil))
	if want := `{"offsetTable":[{"brokerName":"b","offset":5,"queueId":1,"topic":"T"},{"brokerName":"b","offset":6,"queueId":2,"topic":"T"}]}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := string(CorrectionOffsets{2: 5, 10: 6, 0: 7}.AppendBody(nil)); got != `{"correctionOffsets":{"0":7,"2":5,"10":6}}` {
		t.Error(got)
	}
}
