package broker

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// checking makes half messages be asked about soon and often.
func checking(timeout, interval time.Duration, most int) func(*Config) {
	return func(c *Config) {
		c.TransactionTimeout, c.TransactionCheckInterval, c.TransactionCheckMax = Duration(timeout), Duration(interval), most
	}
}

// never is a time after which nobody is asked in a test.
const never = time.Hour

// halfOf is the send of a half message of group p.
func halfOf(topic string, queue int32, props ...string) *remoting.SendHeader {
	return message(topic, queue, append([]string{remoting.PropTransaction, "true", remoting.PropProducerGroup, "p"}, props...)...)
}

// ending is the request that ends the half message of an answer.
func ending(t testing.TB, r remoting.SendResponse, state remoting.TransactionState, change ...func(*remoting.EndTransactionRequest)) *remoting.EndTransactionRequest {
	t.Helper()
	_, phys, err := remoting.ParseOffsetMsgID(r.MsgID)
	if err != nil {
		t.Fatal(err)
	}
	h := &remoting.EndTransactionRequest{
		ProducerGroup: "p", TranStateTableOffset: r.QueueOffset, CommitLogOffset: phys, State: state, MsgID: r.TransactionID, TransactionID: r.TransactionID,
	}
	for _, f := range change {
		f(h)
	}
	return h
}

func (c *testClient) end(r remoting.SendResponse, state remoting.TransactionState, change ...func(*remoting.EndTransactionRequest)) error {
	c.t.Helper()
	_, err := c.ask(remoting.EndTransaction, ending(c.t, r, state, change...))
	return err
}

// produce registers the client as a producer of groups.
func (c *testClient) produce(id string, groups ...string) {
	c.t.Helper()
	h := remoting.Heartbeat{ClientID: id, Producers: groups}
	if _, err := c.call(&remoting.Command{Code: remoting.HeartBeat, Body: h.AppendBody(nil)}); err != nil {
		c.t.Fatal(err)
	}
}

// check is a question of the broker's.
type check struct {
	remoting.CheckTransactionRequest
	v  remoting.RecordView
	at time.Time
}

func (c *testClient) checkOf(req *remoting.Command) (q check) {
	c.t.Helper()
	q.at = time.Now()
	if req.Code != remoting.CheckTransactionState || req.Flag&remoting.FlagOneway == 0 {
		c.t.Fatalf("request %d, flag %d", req.Code, req.Flag)
	}
	if err := q.Decode(req); err != nil {
		c.t.Fatal(err)
	}
	all, err := remoting.DecodeRecords(req.Body)
	if err != nil || len(all) != 1 {
		c.t.Fatalf("%d messages, %v", len(all), err)
	}
	q.v = all[0]
	return q
}

// checked waits for the next question.
func (c *testClient) checked() check {
	c.t.Helper()
	select {
	case req := <-c.told:
		return c.checkOf(req)
	case <-time.After(callTimeout):
		c.t.Fatal("no question came")
		return check{}
	}
}

// answerTo ends a half message as its producer does that was asked.
func (c *testClient) answerTo(q check, state remoting.TransactionState) {
	c.t.Helper()
	c.must(remoting.EndTransaction, &remoting.EndTransactionRequest{
		Topic: q.Topic, ProducerGroup: "p", TranStateTableOffset: q.TranStateTableOffset, CommitLogOffset: q.CommitLogOffset,
		State: state, FromCheck: true, MsgID: q.MsgID, TransactionID: q.TransactionID, BrokerName: q.BrokerName,
	})
}

// pending is how many half messages were not ended.
func pending(t testing.TB, b *Broker) (n int) {
	t.Helper()
	w, ok := b.waitingAt(remoting.TopicHalf, 0)
	q := b.group.Store().Queue(w.Queue)
	if !ok || q == nil {
		return 0
	}
	for at := int64(0); ; at++ {
		if at = b.group.State().Unsettled(w.Queue, at); at >= q.Max() {
			return n
		}
		n++
	}
}

// givenUp waits until a half message was given up.
func (c *testClient) givenUp(b *Broker) []remoting.RecordView {
	c.t.Helper()
	eventually(c.t, "the topic of what is given up", func() bool {
		_, ok := b.group.State().Topic(remoting.TopicTransCheckMax)
		return ok
	})
	return c.arrived(remoting.TopicTransCheckMax, 0, 1)
}

func TestTX01And02CommitAndRollback(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(never, never, 1)).leader(t)
	c := dial(t, b)
	c.topic("T", 2)
	h := halfOf("T", 1, remoting.PropUniqKey, "U1", remoting.PropKeys, "k1 k2", remoting.PropTags, "tag", "mine", "x",
		remoting.PropRealTopic, "elsewhere", remoting.PropRealQueueID, "7")
	h.Flag, h.SysFlag = 5, remoting.SysFlagPrepared
	half := c.mustSend(h, "committed")
	if half.QueueID != 1 || half.QueueOffset != 0 || half.TransactionID != "U1" || len(half.MsgID) != 32 {
		t.Errorf("answer %+v", half)
	}
	back := c.mustSend(halfOf("T", 0), "rolled back")
	if back.QueueOffset != 1 || len(back.TransactionID) != 32 {
		t.Errorf("answer %+v", back)
	}
	// The client has lost the answer, and asks on another connection.
	if again := dial(t, b).mustSend(h, "committed"); again.QueueOffset != 0 || again.MsgID != half.MsgID {
		t.Errorf("the same again: %+v, want %+v", again, half)
	}
	nothing := func() {
		t.Helper()
		if n := len(c.all("T", 0)) + len(c.all("T", 1)); n != 0 {
			t.Errorf("%d messages are visible", n)
		}
	}
	nothing()
	if err := c.end(half, remoting.TransactionUnknown); err != nil {
		t.Error(err)
	}
	if err := c.end(back, remoting.TransactionRolledBack); err != nil {
		t.Error(err)
	}
	nothing()
	if n := pending(t, b); n != 1 {
		t.Errorf("%d half messages are pending", n)
	}
	if err := c.end(half, remoting.TransactionCommitted); err != nil {
		t.Fatal(err)
	}
	got := c.all("T", 1)
	if len(got) != 1 || len(c.all("T", 0)) != 0 || pending(t, b) != 0 {
		t.Fatalf("%d messages, %d pending", len(got), pending(t, b))
	}
	v := got[0]
	p := v.Properties()
	if string(v.Body()) != "committed" || v.Topic() != "T" || v.Flag() != 5 || v.BornTimestamp() != h.BornTimestamp ||
		p.Get(remoting.PropKeys) != "k1 k2" || p.Get(remoting.PropTags) != "tag" || p.Get(remoting.PropUniqKey) != "U1" || p.Get("mine") != "x" ||
		p.Get(remoting.PropTransaction) != "true" || p.Get(remoting.PropProducerGroup) != "p" {
		t.Errorf("the message: %+v %q", v.Record(), p)
	}
	if phys := ending(t, half, 0).CommitLogOffset; v.PreparedTransactionOffset() != phys || v.SysFlag()&remoting.SysFlagTransaction != remoting.SysFlagCommit {
		t.Errorf("prepared at %d, want %d; sysFlag %d", v.PreparedTransactionOffset(), phys, v.SysFlag())
	}
	if got := c.pull(pullOf("T", 1, 0, tagged("tag"))); len(got.records) != 1 {
		t.Error("the tag does not find it")
	}
	// A consumer of it fails: the copy is no transaction any more.
	c.group("g")
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", v, -1))
	if dead := c.arrived(remoting.DLQTopic("g"), 0, 1); len(dead) != 1 || string(dead[0].Body()) != "committed" {
		t.Errorf("%d dead letters", len(dead))
	}
}

func TestTX03UnknownIsAskedAbout(t *testing.T) {
	t.Parallel()
	cfg := Config{}
	if cfg.setDefaults(); cfg.TransactionTimeout != Duration(6*time.Second) || cfg.TransactionCheckInterval != Duration(30*time.Second) || cfg.TransactionCheckMax != 15 {
		t.Errorf("asked after %v, again after %v, %d times", cfg.TransactionTimeout, cfg.TransactionCheckInterval, cfg.TransactionCheckMax)
	}
	const timeout = 200 * time.Millisecond
	b := startCluster(t, 1, checking(timeout, never, 15)).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	c.produce("c1", "p")
	began := time.Now()
	half := c.mustSend(halfOf("T", 0, remoting.PropUniqKey, "U", "mine", "x"), "asked about")
	if err := c.end(half, remoting.TransactionUnknown); err != nil {
		t.Error(err)
	}
	q := c.checked()
	if d := q.at.Sub(began); d < timeout-time.Millisecond {
		t.Errorf("asked after %v", d)
	}
	want := remoting.CheckTransactionRequest{Topic: "T", TranStateTableOffset: 0, CommitLogOffset: ending(t, half, 0).CommitLogOffset,
		MsgID: "U", TransactionID: "U", OffsetMsgID: half.MsgID, BrokerName: "broker-a"}
	if q.CheckTransactionRequest != want {
		t.Errorf("asked %+v, want %+v", q.CheckTransactionRequest, want)
	}
	p := q.v.Properties()
	if q.v.Topic() != "T" || q.v.QueueID() != 0 || string(q.v.Body()) != "asked about" || p.Get(remoting.PropProducerGroup) != "p" ||
		p.Get(remoting.PropUniqKey) != "U" || p.Get("mine") != "x" || p.Get(remoting.PropCheckTimes) != "1" || q.v.QueueOffset() != want.TranStateTableOffset {
		t.Errorf("asked about %+v %q", q.v.Record(), p)
	}
	c.answerTo(q, remoting.TransactionCommitted)
	if got := bodiesOf(c.all("T", 0)); !slices.Equal(got, []string{"asked about"}) {
		t.Errorf("%q", got)
	}
}

// TX-04, 12: whom nobody knows is given up, and resumed.
func TestTX04And12GivenUpAndResumed(t *testing.T) {
	t.Parallel()
	const most = 3
	b := startCluster(t, 1, checking(20*time.Millisecond, 20*time.Millisecond, most)).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	c.produce("c1", "p")
	half := c.mustSend(halfOf("T", 0, remoting.PropUniqKey, "U"), "nobody knows")
	given := c.givenUp(b)
	asked := func() (n int) {
		t.Helper()
		c.produce("c1", "p") // whose answer comes behind all that was asked
		for {
			select {
			case req := <-c.told:
				n++
				if q := c.checkOf(req); q.v.Properties().Get(remoting.PropCheckTimes) != strconv.Itoa(n) {
					t.Errorf("question %d says it is the %qth", n, q.v.Properties().Get(remoting.PropCheckTimes))
				}
			default:
				return n
			}
		}
	}
	if n := asked(); n != most {
		t.Errorf("asked %d times", n)
	}
	p := given[0].Properties()
	if p.Get(remoting.PropCheckTimes) != strconv.Itoa(most) || p.Get(remoting.PropRealTopic) != "T" || p.Get(remoting.PropUniqKey) != "U" {
		t.Errorf("given up: %q", p)
	}
	// Too late: nothing comes of it.
	if err := c.end(half, remoting.TransactionCommitted); err != nil {
		t.Error(err)
	}
	if n := len(c.all("T", 0)); n != 0 || pending(t, b) != 0 {
		t.Errorf("%d messages are visible, %d pending", n, pending(t, b))
	}
	for _, id := range []string{half.MsgID, remoting.OffsetMsgID(b.addr, 1<<40), remoting.OffsetMsgID(b.addr, -1)} {
		_, err := c.ask(remoting.ResumeCheckHalfMessage, &remoting.ResumeCheckRequest{MsgID: id})
		wantCode(t, err, remoting.SystemError)
	}
	_, err := c.ask(remoting.ResumeCheckHalfMessage, &remoting.ResumeCheckRequest{MsgID: "U"})
	wantCode(t, err, remoting.InvalidParameter)
	for range 2 { // the second time it was resumed
		c.must(remoting.ResumeCheckHalfMessage, &remoting.ResumeCheckRequest{Topic: remoting.TopicTransCheckMax, MsgID: given[0].OffsetMsgID()})
	}
	q := c.checked()
	if q.MsgID != "U" || q.v.Properties().Get(remoting.PropCheckTimes) != "1" || q.v.Topic() != "T" {
		t.Errorf("asked %+v, %q", q.CheckTransactionRequest, q.v.Properties())
	}
	c.answerTo(q, remoting.TransactionCommitted)
	if got := bodiesOf(c.all("T", 0)); !slices.Equal(got, []string{"nobody knows"}) || pending(t, b) != 0 {
		t.Errorf("%q, %d pending", got, pending(t, b))
	}
}

// TX-05, 08: who is asked, and what counts as asking.
func TestTX05And08AnyProducerAndRealQuestions(t *testing.T) {
	t.Parallel()
	const immunity, most = time.Second, 3
	b := startCluster(t, 1, checking(10*time.Millisecond, 10*time.Millisecond, most)).leader(t)
	sender := dial(t, b)
	sender.topic("T", 1)
	sender.produce("sender", "p")
	began := time.Now()
	half := sender.mustSend(halfOf("T", 0, remoting.PropCheckImmunity, "1"), "immune")
	sender.conn.Close()
	stranger := dial(t, b)
	stranger.produce("stranger", "other")
	eventually(t, "the sender has gone", func() bool { return !b.clients.produces("p") })
	// Passes go by, but there is nobody to ask.
	eventually(t, "the message is old enough", func() bool { return time.Since(began) > immunity+100*time.Millisecond })
	w, _ := b.waitingAt(remoting.TopicHalf, half.QueueOffset)
	if n := b.group.State().Asked(w.Queue, w.Offset).Times; n != 0 {
		t.Errorf("%d questions are counted, and nobody was there", n)
	}
	others := []*testClient{dial(t, b), dial(t, b)}
	for i, c := range others {
		c.produce(fmt.Sprint("other", i), "p")
	}
	dial(t, b).givenUp(b)
	for i, c := range others {
		c.produce(fmt.Sprint("other", i), "p") // whose answer comes behind all that was asked
	}
	asked := len(others[0].told) + len(others[1].told)
	if asked != most || len(stranger.told) != 0 {
		t.Errorf("asked %d times, strangers %d times", asked, len(stranger.told))
	}
	// While one is there from the start, it is not asked before.
	began = time.Now()
	others[0].mustSend(halfOf("T", 0, remoting.PropCheckImmunity, "1"), "immune")
	var first time.Time
	eventually(t, "a question", func() bool { first = time.Now(); return len(others[0].told)+len(others[1].told) > asked })
	if d := first.Sub(began); d < immunity {
		t.Errorf("asked after %v", d)
	}
}

// Two producers of a group are both asked.
func TestTX05ProducersTakeTurns(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(20*time.Millisecond, 20*time.Millisecond, 1000)).leader(t)
	one, two := dial(t, b), dial(t, b)
	one.topic("T", 1)
	one.produce("one", "p")
	two.produce("two", "p")
	one.mustSend(halfOf("T", 0), "x")
	one.checked()
	two.checked()
}

func TestTX06ForgedEndings(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(never, never, 1)).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	plain := c.mustSend(message("T", 0), "a message")
	half := c.mustSend(halfOf("T", 0, remoting.PropUniqKey, "U"), "half")
	other := c.mustSend(halfOf("T", 0, remoting.PropUniqKey, "V", remoting.PropProducerGroup, "q"), "other")
	// A body that looks like a half message.
	fake, err := remoting.AppendRecord(nil, &remoting.Record{Topic: remoting.TopicHalf, QueueOffset: 0, Body: []byte("forged"),
		Properties: properties(remoting.PropRealTopic, "T", remoting.PropRealQueueID, "0", remoting.PropProducerGroup, "p")})
	if err != nil {
		t.Fatal(err)
	}
	at := ending(t, c.mustSend(message("T", 0), string(fake)), 0).CommitLogOffset + 88
	remoting.SetPhysicalOffset(fake, at)
	inside := c.mustSend(message("T", 0), string(fake))
	at = ending(t, inside, 0).CommitLogOffset
	for _, state := range []remoting.TransactionState{remoting.TransactionCommitted, remoting.TransactionRolledBack} {
		for name, change := range map[string]func(*remoting.EndTransactionRequest){
			"another group":            func(h *remoting.EndTransactionRequest) { h.ProducerGroup = "q" },
			"another queue offset":     func(h *remoting.EndTransactionRequest) { h.TranStateTableOffset = other.QueueOffset },
			"a negative queue offset":  func(h *remoting.EndTransactionRequest) { h.TranStateTableOffset = -1 },
			"another half's place":     func(h *remoting.EndTransactionRequest) { h.CommitLogOffset = ending(t, other, 0).CommitLogOffset },
			"a message's place":        func(h *remoting.EndTransactionRequest) { h.CommitLogOffset = ending(t, plain, 0).CommitLogOffset },
			"no record's place":        func(h *remoting.EndTransactionRequest) { h.CommitLogOffset++ },
			"a place in a body":        func(h *remoting.EndTransactionRequest) { h.CommitLogOffset = at + 88 },
			"before the log":           func(h *remoting.EndTransactionRequest) { h.CommitLogOffset = -1 },
			"behind the log":           func(h *remoting.EndTransactionRequest) { h.CommitLogOffset = 1 << 62 },
			"another transaction's id": func(h *remoting.EndTransactionRequest) { h.TransactionID = "V" },
			"a state there is not":     func(h *remoting.EndTransactionRequest) { h.State = 4 },
		} {
			if err := c.end(half, state, change); codeOf(err) != remoting.SystemError {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := c.call(&remoting.Command{Code: remoting.EndTransaction}); codeOf(err) != remoting.InvalidParameter {
		t.Errorf("a request of nothing: %v", err)
	}
	if n := pending(t, b); n != 2 || len(c.all("T", 0)) != 3 {
		t.Errorf("%d half messages are pending, %d messages visible", n, len(c.all("T", 0)))
	}
	// Nobody writes there by himself.
	for _, topic := range []string{remoting.TopicHalf, remoting.TopicHalfOp, remoting.TopicTransCheckMax} {
		_, err := c.send(message(topic, 0), "x")
		wantCode(t, err, remoting.NoPermission)
	}
	// And the true one still goes.
	if err := c.end(half, remoting.TransactionCommitted); err != nil || len(c.all("T", 0)) != 4 {
		t.Errorf("%v, %d messages", err, len(c.all("T", 0)))
	}
}

// TX-07: on both leaders, too.
func TestTX07CommittedTwice(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, checking(never, never, 1))
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	half := c.mustSend(halfOf("T", 0), "once")
	for range 2 {
		if err := c.end(half, remoting.TransactionCommitted); err != nil {
			t.Error(err)
		}
	}
	c2 := dial(t, cl.transfer(t))
	for _, state := range []remoting.TransactionState{remoting.TransactionCommitted, remoting.TransactionRolledBack} {
		if err := c2.end(half, state); err != nil {
			t.Error(err)
		}
	}
	// The old leader passes it on.
	if err := c.end(half, remoting.TransactionCommitted); err != nil {
		t.Error(err)
	}
	if got := bodiesOf(c2.all("T", 0)); !slices.Equal(got, []string{"once"}) {
		t.Errorf("%q", got)
	}
}

// TX-07: many at a time, by all connections, while the leader changes: each is
// visible once if one commit was confirmed, and whatever else it was.
func TestTX07ConcurrentEndsOverALeaderChange(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, checking(never, never, 1))
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	const n = 60
	var halves []remoting.SendResponse
	for i := range n {
		halves = append(halves, c.mustSend(halfOf("T", 0), strconv.Itoa(i)))
	}
	var confirmed [n]bool
	var mu sync.Mutex
	var group sync.WaitGroup
	started := make(chan struct{}, 4*n)
	for _, target := range cl.brokers() {
		conn := dial(t, target)
		for i, half := range halves {
			h := ending(t, half, remoting.TransactionCommitted)
			group.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
				defer cancel()
				for ctx.Err() == nil {
					resp, err := conn.conn.Call(ctx, &remoting.Command{Code: remoting.EndTransaction, Header: h})
					if err != nil {
						t.Error(err)
						return
					}
					started <- struct{}{}
					if resp.Code == remoting.Success {
						mu.Lock()
						confirmed[i] = true
						mu.Unlock()
						return
					}
					mu.Lock()
					done := confirmed[i]
					mu.Unlock()
					if done {
						return
					}
					select { // not faster than anything can change
					case <-time.After(5 * time.Millisecond):
					case <-ctx.Done():
					}
				}
			})
		}
		if target == b {
			<-started
		}
	}
	go func() {
		for range started {
		}
	}()
	cl.transfer(t)
	group.Wait()
	close(started)
	got := bodiesOf(dial(t, cl.leader(t)).all("T", 0))
	slices.Sort(got)
	if want := slices.Compact(slices.Clone(got)); len(want) != len(got) || len(got) != n {
		t.Errorf("%d messages of %d, %d different", len(got), n, len(want))
	}
	if slices.Contains(confirmed[:], false) {
		t.Error("some were never confirmed")
	}
}

func TestTX09Rejected(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, func(c *Config) { c.RejectTransaction = true }).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	_, err := c.send(halfOf("T", 0), "x")
	wantCode(t, err, remoting.NoPermission)
	if n := len(c.all(remoting.TopicHalf, 0)); n != 0 {
		t.Errorf("%d were stored", n)
	}
	c.mustSend(message("T", 0), "an ordinary one")
}

func TestTX10DelayedAfterCommit(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, func(c *Config) { checking(never, never, 1)(c); c.MessageDelayLevel = "1s 2s" }).leader(t)
	c := dial(t, b)
	c.topic("T", 2)
	half := c.mustSend(halfOf("T", 1, remoting.PropDelay, "1", remoting.PropTags, "tag"), "later")
	if n := len(c.all(remoting.TopicSchedule, 0)); n != 0 {
		t.Errorf("%d are delayed before they are committed", n)
	}
	if err := c.end(half, remoting.TransactionCommitted); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if n := len(c.all("T", 1)); n != 0 && time.Since(began) < 900*time.Millisecond {
		t.Errorf("%d are visible at once", n)
	}
	for range 2 { // committed is committed
		if err := c.end(half, remoting.TransactionCommitted); err != nil {
			t.Error(err)
		}
	}
	got := c.arrived("T", 1, 1)
	v := got[0]
	if d := v.StoreTimestamp() - c.all(remoting.TopicSchedule, 0)[0].StoreTimestamp(); d < 1000 {
		t.Errorf("after %d ms", d)
	}
	if p := v.Properties(); p.Get(remoting.PropTags) != "tag" || p.Get(remoting.PropTransaction) != "true" || string(v.Body()) != "later" || len(c.all(remoting.TopicSchedule, 0)) != 1 {
		t.Errorf("%q %q", v.Body(), p)
	}
}

// TX-10: a time instead of a level, counted from the commit.
func TestTX10TimedAfterCommit(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(never, never, 1)).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	_, err := c.send(halfOf("T", 0, remoting.PropTimerDelaySec, "soon"), "x")
	wantCode(t, err, remoting.MessageIllegal)
	half := c.mustSend(halfOf("T", 0, remoting.PropTimerDelaySec, "1"), "later")
	if n := waitingIn(b); n != 0 || half.QueueOffset != 0 {
		t.Errorf("%d wait for their time before they are committed; answer %+v", n, half)
	}
	committed := b.group.LogTime()
	for range 2 {
		if err := c.end(half, remoting.TransactionCommitted); err != nil {
			t.Fatal(err)
		}
	}
	got := c.arrived("T", 0, 1)
	if d := got[0].StoreTimestamp() - committed; d < 1000 || string(got[0].Body()) != "later" || waitingIn(b) != 0 {
		t.Errorf("%q after %d ms, %d wait", got[0].Body(), d, waitingIn(b))
	}
}

// TX-11: the leader is killed between the half message and its commit.
func TestTX11LeaderKilledBetweenHalfAndCommit(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, checking(50*time.Millisecond, 50*time.Millisecond, 10_000))
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	handle := c.mustSend(halfOf("T", 0, remoting.PropCheckImmunity, "3600"), "by its handle")
	lost := c.mustSend(halfOf("T", 0, remoting.PropCheckImmunity, "3600"), "rolled back")
	c.mustSend(halfOf("T", 0, remoting.PropUniqKey, "asked"), "by a question")
	c.produce("c", "p")
	for range 2 {
		c.checked()
	}
	cl.end(t, b.cfg.NodeID)
	next := cl.leader(t)
	asked := len(c.told) + 2
	c2 := dial(t, next)
	c2.produce("c", "p")
	q := c2.checked()
	if n, err := strconv.Atoi(q.v.Properties().Get(remoting.PropCheckTimes)); err != nil || n <= asked {
		t.Errorf("the next leader asks for the %dth time, the one before has asked %d times", n, asked)
	}
	c2.answerTo(q, remoting.TransactionCommitted)
	for range 2 {
		if err := c2.end(handle, remoting.TransactionCommitted); err != nil {
			t.Error(err)
		}
		if err := c2.end(lost, remoting.TransactionRolledBack); err != nil {
			t.Error(err)
		}
	}
	got := bodiesOf(c2.all("T", 0))
	if slices.Sort(got); !slices.Equal(got, []string{"by a question", "by its handle"}) || pending(t, next) != 0 {
		t.Errorf("%q, %d pending", got, pending(t, next))
	}
	// The one that comes back knows it all.
	cl.mustStart(t, b.cfg.NodeID)
	cl.caughtUp(t)
	for id, b := range cl.brokers() {
		if n := pending(t, b); n != 0 {
			t.Errorf("%s: %d pending", id, n)
		}
	}
}

// A topic that was deleted does not get what was half of it, nor does a later one of
// its name.
func TestHalfMessageOfADeletedTopic(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(never, never, 1)).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	half := c.mustSend(halfOf("T", 0), "of the deleted topic")
	c.must(remoting.DeleteTopicInBroker, &remoting.TopicRequest{Topic: "T"})
	wantCode(t, c.end(half, remoting.TransactionCommitted), remoting.TopicNotExist)
	c.topic("T", 1)
	wantCode(t, c.end(half, remoting.TransactionCommitted), remoting.TopicNotExist)
	if n := len(c.all("T", 0)); n != 0 || pending(t, b) != 1 {
		t.Errorf("%d messages, %d pending", n, pending(t, b))
	}
	if err := c.end(half, remoting.TransactionRolledBack); err != nil || pending(t, b) != 0 {
		t.Errorf("%v, %d pending", err, pending(t, b))
	}
}

// More than one pass reads come one after the other.
func TestManyHalfMessagesAreAskedAbout(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(20*time.Millisecond, never, 15)).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	const n = 2*unitsAtOnce + 10
	var halves []remoting.SendResponse
	for i := range n {
		halves = append(halves, c.mustSend(halfOf("T", 0), strconv.Itoa(i)))
	}
	for i := 0; i < n; i += 3 {
		if err := c.end(halves[i], remoting.TransactionRolledBack); err != nil {
			t.Fatal(err)
		}
	}
	c.produce("c", "p")
	seen := map[int64]bool{}
	for i := range n {
		if i%3 != 0 {
			seen[c.checked().TranStateTableOffset] = true
		}
	}
	for i := range n {
		if seen[halves[i].QueueOffset] != (i%3 != 0) {
			t.Errorf("%d: asked %v", i, seen[halves[i].QueueOffset])
		}
	}
}

// What is to be committed yet is not trimmed.
func TestRetentionSparesHalfMessages(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(never, never, 1)).leader(t)
	c := dial(t, b)
	c.topic("D", 1)
	half := c.mustSend(halfOf("D", 0), "half")
	filled(t, c, "T")
	trimNow(b, 90, time.Hour)
	if got := b.group.Store().Min(); got != 0 {
		t.Errorf("the log begins at %d", got)
	}
	if err := c.end(half, remoting.TransactionRolledBack); err != nil {
		t.Fatal(err)
	}
	trimNow(b, 90, time.Hour)
	if got := b.group.Store().Min(); got == 0 {
		t.Error("what was rolled back keeps the log")
	}
}

// On a full disk nothing is committed, but half messages come to an end.
func TestHalfMessagesOnAFullDisk(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(200*time.Millisecond, 20*time.Millisecond, 2)).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	c.produce("c", "p")
	committed, back := c.mustSend(halfOf("T", 0), "committed"), c.mustSend(halfOf("T", 0), "rolled back")
	b.leading.retain.full.Store(true)
	wantCode(t, c.end(committed, remoting.TransactionCommitted), remoting.ServiceNotAvailable)
	if err := c.end(back, remoting.TransactionRolledBack); err != nil {
		t.Error(err)
	}
	if got := bodiesOf(c.givenUp(b)); !slices.Equal(got, []string{"committed"}) || pending(t, b) != 0 {
		t.Errorf("given up: %q, %d pending", got, pending(t, b))
	}
}

// A message whose transaction failed is sent again, the same object: what was rolled
// back is no reason to swallow it.
func TestRolledBackMessageIsSentAgain(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, checking(never, never, 1))
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	h := halfOf("T", 0, remoting.PropUniqKey, "U")
	if err := c.end(c.mustSend(h, "m"), remoting.TransactionRolledBack); err != nil {
		t.Fatal(err)
	}
	c = dial(t, cl.transfer(t))
	again := c.mustSend(h, "m")
	if r := dial(t, cl.leader(t)).mustSend(h, "m"); r.QueueOffset != again.QueueOffset { // for want of an answer
		t.Errorf("its repeat is answered with offset %d, it with %d", r.QueueOffset, again.QueueOffset)
	}
	if err := c.end(again, remoting.TransactionCommitted); err != nil {
		t.Fatal(err)
	}
	if got := bodiesOf(c.all("T", 0)); !slices.Equal(got, []string{"m"}) {
		t.Errorf("%q", got)
	}
}

// A half message as large as one may be holds up no others: there is no room in its
// properties for how often was asked about it.
func TestLargestHalfMessageIsGivenUp(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, checking(time.Millisecond, 20*time.Millisecond, 1)).leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	size, h := remoting.MaxProperties, (*remoting.SendHeader)(nil)
	for err := error(remoting.Errorf(remoting.MessageIllegal, "")); err != nil; size-- {
		wantCode(t, err, remoting.MessageIllegal)
		h = halfOf("T", 0, "own", strings.Repeat("x", size))
		_, err = c.send(h, "large")
	}
	c.mustSend(halfOf("T", 0), "behind it")
	c.produce("c1", "p")
	if q := c.checked(); string(q.v.Body()) != "large" {
		t.Errorf("asked about %q", q.v.Body())
	}
	eventually(t, "the topic of what is given up", func() bool {
		_, ok := b.group.State().Topic(remoting.TopicTransCheckMax)
		return ok
	})
	if got := bodiesOf(c.arrived(remoting.TopicTransCheckMax, 0, 2)); !slices.Equal(got, []string{"large", "behind it"}) {
		t.Errorf("given up: %q", got)
	}
	if n := pending(t, b); n != 0 {
		t.Errorf("%d pending", n)
	}
}
