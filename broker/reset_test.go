package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// reset asks for a reset of offsets and returns what the broker says they are, by
// queue.
func (c *testClient) reset(h remoting.ResetOffsetRequest) (map[int32]int64, error) {
	c.t.Helper()
	resp, err := c.ask(remoting.InvokeBrokerToResetOffset, &h)
	if err != nil {
		return nil, err
	}
	var list remoting.QueueOffsets
	if err := list.DecodeBody(resp.Body); err != nil {
		c.t.Fatal(err)
	}
	all := map[int32]int64{}
	for _, o := range list {
		if o.Topic != h.Topic || o.BrokerName != "broker-a" {
			c.t.Errorf("%+v is not of %s", o, h.Topic)
		}
		all[o.QueueID] = o.Offset
	}
	return all, nil
}

// toOffset resets one queue.
func (c *testClient) toOffset(group, topic string, queue int32, offset int64) {
	c.t.Helper()
	if got, err := c.reset(remoting.ResetOffsetRequest{Group: group, Topic: topic, QueueID: queue, Offset: offset}); err != nil || got[queue] != offset || len(got) != 1 {
		c.t.Fatalf("reset to %d: %v, %v", offset, got, err)
	}
}

func (c *testClient) wantOffset(group, topic string, queue int32, want int64) {
	c.t.Helper()
	if got, err := c.offset(group, topic, queue); err != nil || got != want {
		c.t.Errorf("queue %d of %s is at %d for %s, want %d: %v", queue, topic, got, group, want, err)
	}
}

// pullFor is a pull of a group.
func pullFor(group string) func(*remoting.PullRequest) {
	return func(h *remoting.PullRequest) { h.ConsumerGroup = group }
}

func (c *testClient) fill(topic string, queue int32, n int) {
	c.t.Helper()
	for i := range n {
		c.mustSend(message(topic, queue), fmt.Sprint(i))
	}
}

func TestOFF07ServerSideReset(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 2)
	c.group(group)
	c.fill(topic, 0, 10)
	if err := c.commit(group, topic, 0, 10); err != nil {
		t.Fatal(err)
	}
	held := c.pulling(pullOf(topic, 0, 10, pullFor(group), held(time.Minute)))
	c.toOffset(group, topic, 0, 3)
	if p := <-held; p.code != remoting.PullOffsetMoved || p.NextBeginOffset != 3 {
		t.Errorf("the held pull: code %d, next %d", p.code, p.NextBeginOffset)
	}
	c.wantOffset(group, topic, 0, 3)
	for _, old := range []int64{10, 4, 0} { // of before: taken, and ignored
		if err := c.commit(group, topic, 0, old); err != nil {
			t.Errorf("commit of %d: %v", old, err)
		}
	}
	c.pull(pullOf(topic, 0, 9, pullFor(group), func(h *remoting.PullRequest) { h.SysFlag |= remoting.PullCommitOffset; h.CommitOffset = 9 }))
	c.wantOffset(group, topic, 0, 3)
	// Other groups and queues are not concerned.
	if p := c.pull(pullOf(topic, 0, 9, pullFor(remoting.GroupTools))); p.code != remoting.Success {
		t.Errorf("another group's pull: %v", p.err)
	}
	if p := c.pull(pullOf(topic, 1, 0, pullFor(group))); p.code != remoting.PullNotFound {
		t.Errorf("another queue's pull: code %d", p.code)
	}
	// It obeys, and all is as ever.
	if p := c.pull(pullOf(topic, 0, 3, pullFor(group))); p.code != remoting.Success || !slices.Equal(p.bodies(), []string{"3", "4", "5", "6", "7", "8", "9"}) {
		t.Errorf("at the new offset: code %d, %q", p.code, p.bodies())
	}
	if err := c.commit(group, topic, 0, 7); err != nil {
		t.Fatal(err)
	}
	c.wantOffset(group, topic, 0, 7)
	if p := c.pull(pullOf(topic, 0, 8, pullFor(group))); p.code != remoting.Success {
		t.Errorf("afterwards: code %d", p.code)
	}
}

// A consumer whose next pull is of the new offset anyway may hold what lies before
// it: it is told as every other, but once.
func TestOFF07ResetToWhereTheConsumerPulls(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.group(group)
	c.fill(topic, 0, 5)
	c.toOffset(group, topic, 0, 5)
	for i, want := range []int32{remoting.PullOffsetMoved, remoting.PullNotFound} {
		if p := c.pull(pullOf(topic, 0, 5, pullFor(group))); p.code != want || p.NextBeginOffset != 5 {
			t.Errorf("pull %d: code %d, next %d, want code %d", i, p.code, p.NextBeginOffset, want)
		}
	}
	c.toOffset(group, topic, 0, 2)
	c.toOffset(group, topic, 0, 4) // the later one counts
	if p := c.pull(pullOf(topic, 0, 2, pullFor(group))); p.code != remoting.PullOffsetMoved || p.NextBeginOffset != 4 {
		t.Errorf("of two resets: code %d, next %d", p.code, p.NextBeginOffset)
	}
	// Who was not told, as another client was, is told as well.
	other := dial(t, shared(t))
	if p := other.pull(pullOf(topic, 0, 4, pullFor(group))); p.code != remoting.PullOffsetMoved {
		t.Errorf("another client: code %d", p.code)
	}
	if p := c.pull(pullOf(topic, 0, 4, pullFor(group))); p.code != remoting.Success {
		t.Errorf("the first one: code %d", p.code)
	}
}

func TestOFF07And09ResetOverLeaderChanges(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 2)
	c.group("g")
	c.fill("T", 0, 10)
	c.toOffset("g", "T", 0, 2)
	// The client is told, but does not hear of it before the leader changes.
	if p := c.pull(pullOf("T", 0, 10)); p.code != remoting.PullOffsetMoved {
		t.Fatalf("code %d", p.code)
	}
	next := cl.transfer(t)
	c = dial(t, next)
	if err := c.commit("g", "T", 0, 10); err != nil {
		t.Fatal(err)
	}
	c.wantOffset("g", "T", 0, 2)
	cl.caughtUp(t)
	for _, f := range cl.followers(t) { // they send the consumer to the leader
		if p := dial(t, f).pull(pullOf("T", 0, 10)); p.code != remoting.PullRetryImmediately || p.SuggestBrokerID != 0 || p.NextBeginOffset != 10 {
			t.Errorf("a follower: code %d, next %d, suggests %d", p.code, p.NextBeginOffset, p.SuggestBrokerID)
		}
	}
	for _, at := range []int64{10, 2} {
		p := c.pull(pullOf("T", 0, at))
		if want := map[int64]int32{10: remoting.PullOffsetMoved, 2: remoting.Success}[at]; p.code != want {
			t.Errorf("pull at %d: code %d, want %d", at, p.code, want)
		}
	}
	if err := c.commit("g", "T", 0, 8); err != nil {
		t.Fatal(err)
	}
	// It is over on every replica: nothing is told again, and nothing goes back.
	for range 2 {
		c = dial(t, cl.transfer(t))
		c.wantOffset("g", "T", 0, 8)
		if p := c.pull(pullOf("T", 0, 8)); p.code != remoting.Success {
			t.Errorf("after the next change: code %d", p.code)
		}
	}
}

func TestOFF08ResetByTime(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 3)
	c.group(group)
	c.fill(topic, 0, 4)
	middle := c.all(topic, 0)[3].StoreTimestamp() + 1
	eventually(t, "a later time", func() bool { return shared(t).group.LogTime() > middle })
	c.fill(topic, 0, 4)
	c.fill(topic, 1, 2)
	at := func(ms int64, force bool) remoting.ResetOffsetRequest {
		return remoting.ResetOffsetRequest{Topic: topic, Group: group, Timestamp: ms, Force: force, QueueID: -1, Offset: -1}
	}
	want := func(what string, got map[int32]int64, err error, want ...int64) {
		t.Helper()
		for queue, offset := range want {
			if err != nil || got[int32(queue)] != offset || len(got) != len(want) {
				t.Errorf("%s: %v, %v, want %d", what, got, err, want)
				return
			}
			c.wantOffset(group, topic, int32(queue), offset)
		}
	}
	// Nobody of the group is there.
	got, err := c.reset(at(middle, true))
	want("offline, by time", got, err, 4, 0, 0)
	got, err = c.reset(at(-1, true))
	want("offline, skip what has accumulated", got, err, 8, 2, 0)
	got, err = c.reset(at(middle, false))
	want("offline, back without force", got, err, 4, 0, 0)
	got, err = c.reset(at(-1, false))
	want("offline, forward without force", got, err, 4, 0, 0)

	// Somebody is.
	c.beat("client-"+group, consumer(group, topic, "*"))
	held := c.pulling(pullOf(topic, 0, 8, pullFor(group), held(time.Minute)))
	if p := <-held; p.code != remoting.PullOffsetMoved || p.NextBeginOffset != 4 {
		t.Errorf("a consumer that comes later: code %d, next %d", p.code, p.NextBeginOffset)
	}
	c.pull(pullOf(topic, 0, 4, pullFor(group)))
	got, err = c.reset(at(0, true))
	want("online, from the first", got, err, 0, 0, 0)
	if p := c.pull(pullOf(topic, 0, 6, pullFor(group))); p.code != remoting.PullOffsetMoved || p.NextBeginOffset != 0 {
		t.Errorf("online: code %d, next %d", p.code, p.NextBeginOffset)
	}
}

func TestOFF08ResetByTheClients(t *testing.T) {
	t.Parallel()
	no := false
	cl := startCluster(t, 1, func(cfg *Config) { cfg.UseServerSideResetOffset = &no })
	c, old, cpp := dial(t, cl.leader(t)), dial(t, cl.leader(t)), dialAs(t, cl.leader(t), remoting.LanguageCPP)
	c.topic("T", 1)
	c.group("g")
	c.fill("T", 0, 5)
	ask := func() (map[int32]int64, error) {
		return c.reset(remoting.ResetOffsetRequest{Topic: "T", Group: "g", Force: true, QueueID: -1, Offset: -1})
	}
	_, err := ask()
	wantCode(t, err, remoting.SystemError) // nothing committed
	if err := c.commit("g", "T", 0, 5); err != nil {
		t.Fatal(err)
	}
	_, err = ask()
	wantCode(t, err, remoting.ConsumerNotOnline)
	old.beat("java", consumer("g", "T", "*"))
	cpp.beat("cpp", consumer("g", "T", "*"))
	if got, err := ask(); err != nil || got[0] != 0 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, client := range []*testClient{old, cpp} {
		req := client.await(remoting.ResetConsumerClientOffset)
		want := `{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:0}}`
		if client == cpp {
			want = `{"offsetTable":[{"brokerName":"broker-a","offset":0,"queueId":0,"topic":"T"}]}`
		}
		if string(req.Body) != want || req.Ext.Get("group") != "g" || req.Ext.Get("isForce") != "true" || !req.IsOneway() {
			t.Errorf("a client is told %v, %s", req.Ext, req.Body)
		}
	}
	c.wantOffset("g", "T", 0, 5) // it is theirs to commit
}

func TestResetsThatAreRefused(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, alone)
	c := dial(t, cl.leader(t))
	c.topic("T", 2)
	c.group("g")
	c.fill("T", 0, 3)
	if err := c.commit("g", "T", 0, 1); err != nil {
		t.Fatal(err)
	}
	base := remoting.ResetOffsetRequest{Topic: "T", Group: "g", Timestamp: -1, Force: true, QueueID: 0, Offset: -1}
	for _, tt := range []struct {
		change func(*remoting.ResetOffsetRequest)
		want   int32
	}{
		{func(h *remoting.ResetOffsetRequest) { h.Topic = "none" }, remoting.TopicNotExist},
		{func(h *remoting.ResetOffsetRequest) { h.Topic = "../../x" }, remoting.TopicNotExist},
		{func(h *remoting.ResetOffsetRequest) { h.Group = "none" }, remoting.SubscriptionGroupNotExist},
		{func(h *remoting.ResetOffsetRequest) { h.Group = "../g" }, remoting.SubscriptionGroupNotExist},
		{func(h *remoting.ResetOffsetRequest) { h.QueueID = 2 }, remoting.InvalidParameter},
		{func(h *remoting.ResetOffsetRequest) { h.QueueID = -2 }, remoting.InvalidParameter},
		{func(h *remoting.ResetOffsetRequest) { h.Timestamp = -2 }, remoting.InvalidParameter},
		{func(h *remoting.ResetOffsetRequest) { h.Offset = -2 }, remoting.InvalidParameter},
		{func(h *remoting.ResetOffsetRequest) { h.Offset = 5 }, remoting.SystemError},
		{func(h *remoting.ResetOffsetRequest) { h.Offset = 1<<63 - 1 }, remoting.SystemError},
	} {
		h := base
		tt.change(&h)
		_, err := c.reset(h)
		wantCode(t, err, tt.want)
	}
	_, err := dial(t, cl.followers(t)[0]).reset(base)
	wantCode(t, err, remoting.ServiceNotAvailable)
	c.wantOffset("g", "T", 0, 1)
	base.Offset = 4 // one beyond the end, which RocketMQ allows
	if got, err := c.reset(base); err != nil || got[0] != 3 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestADM06CloneOffsets(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, other, from, to := named(t), named(t), "from"+named(t), "to"+named(t)
	c.topic(topic, 2)
	c.topic(other, 1)
	c.group(from)
	c.group(to)
	c.fill(topic, 0, 5)
	for _, o := range []struct {
		topic  string
		queue  int32
		offset int64
	}{{topic, 0, 3}, {topic, 1, 0}, {other, 0, 7}} {
		if err := c.commit(from, o.topic, o.queue, o.offset); err != nil {
			t.Fatal(err)
		}
	}
	clone := func(h remoting.CloneOffsetRequest) error {
		_, err := c.ask(remoting.CloneGroupOffset, &h)
		return err
	}
	wantCode(t, clone(remoting.CloneOffsetRequest{SrcGroup: "none", DestGroup: to}), remoting.SubscriptionGroupNotExist)
	wantCode(t, clone(remoting.CloneOffsetRequest{SrcGroup: from, DestGroup: "../x"}), remoting.SubscriptionGroupNotExist)
	wantCode(t, clone(remoting.CloneOffsetRequest{SrcGroup: from, DestGroup: to, Topic: "none"}), remoting.TopicNotExist)
	wantCode(t, clone(remoting.CloneOffsetRequest{SrcGroup: from, DestGroup: from}), remoting.InvalidParameter)
	if err := clone(remoting.CloneOffsetRequest{SrcGroup: from, DestGroup: to, Topic: topic}); err != nil {
		t.Fatal(err)
	}
	c.wantOffset(to, topic, 0, 3)
	c.wantOffset(to, topic, 1, 0)
	_, err := c.offset(to, other, 0)
	wantCode(t, err, remoting.QueryNotFound)
	if p := c.pull(pullOf(topic, 0, 3, pullFor(to))); p.code != remoting.Success {
		t.Errorf("a group that was not there begins there: code %d", p.code)
	}
	c.toOffset(to, topic, 0, 5) // which nobody has heard of
	if err := clone(remoting.CloneOffsetRequest{SrcGroup: from, DestGroup: to, Topic: topic}); err != nil {
		t.Fatal(err)
	}
	c.wantOffset(to, topic, 0, 3)

	// While the source's clients subscribe to one topic only that is cloned, unless
	// it is said otherwise; the other group's clients are told.
	src, dest := dial(t, shared(t)), dial(t, shared(t))
	src.beat("src-"+from, consumer(from, topic, "*"))
	dest.beat("dest-"+to, consumer(to, topic, "*"))
	if err := c.commit(from, topic, 0, 1); err != nil {
		t.Fatal(err)
	}
	if err := clone(remoting.CloneOffsetRequest{SrcGroup: from, DestGroup: to}); err != nil {
		t.Fatal(err)
	}
	if p := dest.pull(pullOf(topic, 0, 5, pullFor(to))); p.code != remoting.PullOffsetMoved || p.NextBeginOffset != 1 {
		t.Errorf("a client: code %d, next %d", p.code, p.NextBeginOffset)
	}
	_, err = c.offset(to, other, 0)
	wantCode(t, err, remoting.QueryNotFound)
	if err := clone(remoting.CloneOffsetRequest{SrcGroup: from, DestGroup: to, Offline: true}); err != nil {
		t.Fatal(err)
	}
	c.wantOffset(to, other, 0, 7)

	resp := c.must(remoting.QueryCorrectionOffset, &remoting.CorrectionOffsetRequest{FilterGroups: to, CompareGroup: to, Topic: other})
	if want := `{"correctionOffsets":{"0":7}}`; string(resp.Body) != want {
		t.Errorf("%s, want %s", resp.Body, want)
	}
}

func TestConsumeTimeSpan(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, group := named(t), "g"+named(t)
	c.topic(topic, 2)
	c.group(group)
	c.fill(topic, 1, 3)
	records := c.all(topic, 1)
	ask := func() (spans remoting.ConsumeTimeSpans) {
		t.Helper()
		if err := spans.DecodeBody(c.must(remoting.QueryConsumeTimeSpan, &remoting.GroupTopicRequest{Topic: topic, Group: group}).Body); err != nil || len(spans) != 2 {
			t.Fatalf("%v, %v", spans, err)
		}
		return spans
	}
	last := records[2].StoreTimestamp()
	eventually(t, "a later time", func() bool { return shared(t).group.LogTime() > last+1 })
	for committed, consumed := range map[int64]int64{0: records[0].StoreTimestamp(), 2: records[1].StoreTimestamp(), 3: last} {
		if err := c.commit(group, topic, 1, committed); err != nil {
			t.Fatal(err)
		}
		s := ask()
		if s[0].Min != -1 || s[0].Max != -1 || s[0].Consumed != -1 || s[0].Delay != 0 {
			t.Errorf("an empty queue: %+v", s[0])
		}
		if s[1].Min != records[0].StoreTimestamp() || s[1].Max != last || s[1].Consumed != consumed || (s[1].Delay > 0) != (committed < 3) {
			t.Errorf("at %d: %+v", committed, s[1])
		}
	}
	_, err := c.ask(remoting.QueryConsumeTimeSpan, &remoting.GroupTopicRequest{Topic: "none", Group: group})
	wantCode(t, err, remoting.TopicNotExist)
}
