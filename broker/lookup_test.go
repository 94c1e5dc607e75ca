package broker

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

func (c *testClient) queueNumber(code int32, topic string, queue int32) int64 {
	c.t.Helper()
	var r remoting.OffsetResponse
	if err := r.Decode(c.must(code, &remoting.QueueRequest{Topic: topic, QueueID: queue})); err != nil {
		c.t.Error(err)
	}
	return r.Offset
}

func (c *testClient) offsetAt(topic string, ms int64, upper bool) int64 {
	c.t.Helper()
	var r remoting.OffsetResponse
	if err := r.Decode(c.must(remoting.SearchOffsetByTimestamp, &remoting.SearchOffsetRequest{Topic: topic, Timestamp: ms, Upper: upper})); err != nil {
		c.t.Error(err)
	}
	return r.Offset
}

func TestSTORE13OffsetByTime(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	if got := c.offsetAt(topic, 0, false); got != 0 {
		t.Errorf("an empty queue: %d", got)
	}
	for i := range 5 { // each in a millisecond of its own
		c.mustSend(message(topic, 0), fmt.Sprint(i))
		last := c.all(topic, 0)[i].StoreTimestamp()
		eventually(t, "the next millisecond", func() bool { return shared(t).group.LogTime() > last })
	}
	var times []int64
	for _, v := range c.all(topic, 0) {
		times = append(times, v.StoreTimestamp())
	}
	for i, at := range times {
		for _, x := range []struct {
			ms    int64
			upper bool
			want  int
		}{{at, false, i}, {at + 1, false, i + 1}, {at, true, i}, {at - 1, true, max(0, i-1)}} {
			// What lies between two messages belongs to the next one below, to the last above.
			if got := c.offsetAt(topic, x.ms, x.upper); got != int64(x.want) {
				t.Errorf("message %d at %d: offset of %d, upper %v, is %d, want %d", i, at, x.ms, x.upper, got, x.want)
			}
		}
	}
	if got := c.offsetAt(topic, math.MaxInt64, false); got != 5 {
		t.Errorf("after the end: %d", got)
	}
	if got := c.offsetAt(topic, math.MinInt64, false); got != 0 {
		t.Errorf("before the begin: %d", got)
	}
	if _, err := c.call(&remoting.Command{Code: remoting.SearchOffsetByTimestamp, Ext: remoting.Fields{{Key: "topic", Value: topic}, {Key: "queueId", Value: "0"},
		{Key: "timestamp", Value: "1"}, {Key: "boundaryType", Value: "SIDEWAYS"}}}); codeOf(err) != remoting.InvalidParameter {
		t.Errorf("an unknown boundary: %v", err)
	}
}

func TestOffsetsOfAQueue(t *testing.T) {
	t.Parallel()
	c, first, end := trimmed(t)
	if lo, hi := c.queueNumber(remoting.GetMinOffset, "T", 0), c.queueNumber(remoting.GetMaxOffset, "T", 0); lo != first || hi != end {
		t.Errorf("the queue has [%d, %d), the broker says [%d, %d)", first, end, lo, hi)
	}
	if lo, hi := c.queueNumber(remoting.GetMinOffset, "T", 1), c.queueNumber(remoting.GetMaxOffset, "T", 1); lo != 0 || hi != 0 {
		t.Errorf("of an empty queue the broker says [%d, %d)", lo, hi)
	}
	earliest := func(queue int32) int64 {
		var r remoting.TimestampResponse
		if err := r.Decode(c.must(remoting.GetEarliestMsgStoreTime, &remoting.QueueRequest{Topic: "T", QueueID: queue})); err != nil {
			t.Error(err)
		}
		return r.Timestamp
	}
	if want := c.pull(pullOf("T", 0, first)).records[0].StoreTimestamp(); earliest(0) != want || earliest(1) != -1 {
		t.Errorf("earliest store times %d and %d, want %d and -1", earliest(0), earliest(1), want)
	}
	for _, code := range []int32{remoting.GetMinOffset, remoting.GetMaxOffset, remoting.GetEarliestMsgStoreTime} {
		resp, err := c.ask(code, &remoting.QueueRequest{Topic: "T", QueueID: 9})
		wantCode(t, err, remoting.InvalidParameter)
		if _, ok := resp.Ext.Lookup("offset"); ok {
			t.Error("Go clients take the offset of an error for one") // they do not look at the code
		}
		_, err = c.ask(code, &remoting.QueueRequest{Topic: "nobody_made_this"})
		wantCode(t, err, remoting.TopicNotExist)
	}
}

func TestSTORE14And15AnyReplicaHasTheRecordAtItsPlace(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 3)
	var ids []string
	for i := range 20 {
		ids = append(ids, c.mustSend(message("T", int32(i%3)), fmt.Sprint("before ", i)).MsgID)
	}
	next := cl.transfer(t) // ids stay valid over a failover
	c = dial(t, next)
	for i := range 20 {
		ids = append(ids, c.mustSend(message("T", int32(i%3)), fmt.Sprint("after ", i)).MsgID)
	}
	cl.caughtUp(t)
	want := map[string][]byte{}
	for name, b := range cl.brokers() {
		r := dial(t, b)
		for _, id := range ids {
			_, phys, err := remoting.ParseOffsetMsgID(id)
			if err != nil {
				t.Fatal(err)
			}
			resp := r.must(remoting.ViewMessageByID, &remoting.ViewMessageRequest{Offset: phys})
			v, err := remoting.ParseRecord(resp.Body)
			if err != nil || v.OffsetMsgID() != id {
				t.Errorf("%s: %s is %s, %v", name, id, v.OffsetMsgID(), err)
			}
			if have, ok := want[id]; ok && !bytes.Equal(have, resp.Body) {
				t.Errorf("%s has other bytes at %d", name, phys)
			}
			want[id] = resp.Body
		}
		for _, phys := range []int64{-1, 1, math.MaxInt64, b.group.Store().End(), b.group.Store().End() - 1} {
			_, err := r.ask(remoting.ViewMessageByID, &remoting.ViewMessageRequest{Offset: phys})
			wantCode(t, err, remoting.SystemError)
		}
	}
}

// A body can look like a record. What it says of itself is not believed.
func TestViewOfARecordWithinABody(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	for what, spoil := range map[string]func(fake []byte, at int64){
		"elsewhere":    func(fake []byte, _ int64) {},
		"of a GiB":     func(fake []byte, _ int64) { copy(fake, "\x40\x00\x00\x00") },
		"of -1 byte":   func(fake []byte, _ int64) { copy(fake, "\xff\xff\xff\xff") },
		"of one byte":  func(fake []byte, _ int64) { copy(fake, "\x00\x00\x00\x01") },
		"of too much":  func(fake []byte, _ int64) { copy(fake, "\x00\x10\x00\x00") },
		"cut in bytes": func(fake []byte, at int64) { remoting.SetPhysicalOffset(fake, at); copy(fake[84:], "\x7f") },
	} {
		fake, err := remoting.AppendRecord(nil, &remoting.Record{Topic: topic, Body: []byte("fake")})
		if err != nil {
			t.Fatal(err)
		}
		end := shared(t).group.Store().End()
		spoil(fake, end+88)
		r := c.mustSend(message(topic, 0), string(fake))
		_, phys, err := remoting.ParseOffsetMsgID(r.MsgID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.ask(remoting.ViewMessageByID, &remoting.ViewMessageRequest{Offset: phys + 88}); codeOf(err) != remoting.SystemError {
			t.Errorf("a record in a body, %s: %v", what, err)
		}
	}
}

// query asks by key, for what there is when the index has caught up.
func (c *testClient) query(h remoting.QueryMessageRequest) ([]remoting.RecordView, error) {
	c.t.Helper()
	if h.EndTimestamp == 0 {
		h.EndTimestamp = math.MaxInt64
	}
	resp, err := c.ask(remoting.QueryMessage, &h)
	if err != nil {
		return nil, err
	}
	var r remoting.QueryMessageResponse
	if err := r.Decode(resp); err != nil {
		c.t.Error(err)
	}
	records, err := remoting.DecodeRecords(resp.Body)
	if err != nil {
		c.t.Error(err)
	}
	return records, nil
}

func TestINDEX01And02And05QueryByKey(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	for _, name := range []string{topic, topic + "2"} {
		c.topic(name, 1)
		c.mustSend(message(name, 0, remoting.PropKeys, "order-1 user-7  x", remoting.PropUniqKey, "UNIQ1"), name+" 1")
		c.mustSend(message(name, 0, remoting.PropKeys, "order-2 user-7", remoting.PropUniqKey, "UNIQ2"), name+" 2")
	}
	for key, want := range map[string][]string{
		"order-1": {topic + " 1"}, "x": {topic + " 1"}, "user-7": {topic + " 1", topic + " 2"}, "UNIQ2": {topic + " 2"},
	} {
		got, err := c.query(remoting.QueryMessageRequest{Topic: topic, Key: key, MaxNum: 32, UniqKey: key == "UNIQ2"})
		if err != nil || !slices.Equal(bodiesOf(got), want) {
			t.Errorf("by %s: %q, %v; want %q", key, bodiesOf(got), err, want)
		}
	}
	for _, key := range []string{"order-3", "order-1 user-7", "", " "} {
		if _, err := c.query(remoting.QueryMessageRequest{Topic: topic, Key: key, MaxNum: 32}); codeOf(err) != remoting.QueryNotFound && codeOf(err) != remoting.InvalidParameter {
			t.Errorf("by %q: %v", key, err)
		}
	}
	_, err := c.query(remoting.QueryMessageRequest{Topic: "nobody_made_this", Key: "x", MaxNum: 1})
	wantCode(t, err, remoting.TopicNotExist)
}

func TestINDEX04NumberOrderAndTime(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	for i := range 100 {
		c.mustSend(message(topic, 0, remoting.PropKeys, "k"), fmt.Sprint(i))
	}
	for asked, want := range map[int32]int{10: 10, 64: 64, 1000: 64} {
		got, err := c.query(remoting.QueryMessageRequest{Topic: topic, Key: "k", MaxNum: asked})
		if err != nil || len(got) != want {
			t.Errorf("asked for %d: %d, %v", asked, len(got), err)
		}
		for i, v := range got {
			if string(v.Body()) != fmt.Sprint(100-want+i) { // the newest, ascending
				t.Fatalf("asked for %d: number %d is %s", asked, i, v.Body())
			}
		}
	}
	at := c.all(topic, 0)[0].StoreTimestamp()
	for _, span := range [][2]int64{{0, at - 2000}, {at + time.Hour.Milliseconds(), math.MaxInt64}} {
		if _, err := c.query(remoting.QueryMessageRequest{Topic: topic, Key: "k", MaxNum: 10, BeginTimestamp: span[0], EndTimestamp: span[1]}); codeOf(err) != remoting.QueryNotFound {
			t.Errorf("in %v: %v", span, err)
		}
	}
}

func TestTopicAndConsumeStats(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 2)
	for i := range 3 {
		c.mustSend(message(topic, 1), strings.Repeat("x", i))
	}
	last := c.all(topic, 1)[2].StoreTimestamp()
	var stats remoting.TopicStats
	if err := stats.DecodeBody(c.must(remoting.GetTopicStatsInfo, &remoting.TopicRequest{Topic: topic}).Body); err != nil {
		t.Fatal(err)
	}
	for _, q := range stats.Queues {
		want := remoting.QueueStats{MessageQueue: q.MessageQueue}
		if q.QueueID == 1 {
			want.MaxOffset, want.LastUpdateTimestamp = 3, last
		}
		if q != want || q.BrokerName != "broker-a" || q.Topic != topic {
			t.Errorf("%+v, want %+v", q, want)
		}
	}
	group := named(t)
	c.group(group)
	if err := c.commit(group, topic, 1, 2); err != nil {
		t.Fatal(err)
	}
	var progress remoting.ConsumeStats
	if err := progress.DecodeBody(c.must(remoting.GetConsumeStats, &remoting.ConsumeStatsRequest{ConsumerGroup: group}).Body); err != nil {
		t.Fatal(err)
	}
	if len(stats.Queues) != 2 || len(progress.Queues) != 2 {
		t.Fatalf("%+v, %+v", stats, progress)
	}
	for _, q := range progress.Queues {
		if want := int64(q.QueueID); q.BrokerOffset != 3*want || q.ConsumerOffset != 2*want {
			t.Errorf("%+v", q)
		}
	}
	var groups remoting.GroupList
	if err := groups.DecodeBody(c.must(remoting.QueryTopicConsumeByWho, &remoting.TopicRequest{Topic: topic}).Body); err != nil || !slices.Equal(groups, remoting.GroupList{group}) {
		t.Errorf("groups of the topic: %v, %v", groups, err)
	}
}

func TestINDEX06OverRestartFailoverAndRebuild(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 2)
	for i := range 20 {
		c.mustSend(message("T", int32(i%2), remoting.PropKeys, fmt.Sprintf("all k%d", i)), fmt.Sprint(i))
	}
	found := func(what string, b *Broker) {
		t.Helper()
		c := dial(t, b)
		var all, one []remoting.RecordView
		eventually(t, what, func() bool {
			all, _ = c.query(remoting.QueryMessageRequest{Topic: "T", Key: "all", MaxNum: 64})
			one, _ = c.query(remoting.QueryMessageRequest{Topic: "T", Key: "k7", MaxNum: 64})
			return len(all) == 20 && len(one) == 1
		})
		if string(one[0].Body()) != "7" {
			t.Errorf("%s: k7 is %s", what, one[0].Body())
		}
	}
	cl.caughtUp(t)
	for id, b := range cl.brokers() {
		found("the index of "+id, b)
	}
	found("the index of the next leader", cl.transfer(t))
	id := cl.followers(t)[0].cfg.NodeID
	cl.end(t, id)
	cl.mustStart(t, id)
	found("the index after a restart", cl.brokers()[id])
	if err := cl.brokers()[id].group.Snapshot(); err != nil { // with which it is written
		t.Fatal(err)
	}
	cl.end(t, id)
	dir := filepath.Join(cl.config(id).StorePathRootDir, "broker-a", "store", "index")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		t.Fatalf("there is no index to be lost: %v, %v", entries, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	cl.mustStart(t, id)
	found("the index made again", cl.brokers()[id])
}
