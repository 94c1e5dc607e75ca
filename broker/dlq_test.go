package broker

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// lettersFound is the answer to a question about dead letters.
type lettersFound struct {
	remoting.DeadLetterPage
	records []remoting.RecordView
}

func (c *testClient) letters(h remoting.DeadLetterQuery) (p lettersFound, err error) {
	c.t.Helper()
	resp, err := c.ask(remoting.DeadLettersRequest, &h)
	if err != nil {
		return p, err
	}
	if err := p.Decode(resp); err != nil {
		c.t.Fatal(err)
	}
	if p.records, err = remoting.DecodeRecords(resp.Body); err != nil {
		c.t.Fatal(err)
	}
	if len(p.records) != len(p.Handled) {
		c.t.Fatalf("%d letters, of which %q are handled", len(p.records), p.Handled)
	}
	return p, nil
}

func (c *testClient) mustLetters(h remoting.DeadLetterQuery) lettersFound {
	c.t.Helper()
	p, err := c.letters(h)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// resend sends dead letters again and returns the outcomes.
func (c *testClient) resend(h remoting.DeadLetterResend) (outcomes []string, err error) {
	c.t.Helper()
	resp, err := c.call(&remoting.Command{Code: remoting.ResendDeadLettersRequest, Body: h.AppendBody(nil)})
	if err != nil {
		return nil, err
	}
	var results remoting.DeadLetterResults
	if err := results.DecodeBody(resp.Body); err != nil {
		c.t.Fatal(err)
	}
	for _, r := range results {
		outcomes = append(outcomes, r.Outcome)
	}
	return outcomes, nil
}

// die has a group's message be dead.
func (c *testClient) die(group, topic, body string, props ...string) remoting.RecordView {
	c.t.Helper()
	r := c.mustSend(message(topic, 0, append(props, remoting.PropUniqKey, fmt.Sprint("u", names.Add(1)))...), body)
	v := c.pull(pullOf(topic, 0, r.QueueOffset)).records[0]
	c.must(remoting.ConsumerSendMsgBack, sendBackOf(group, v, -1))
	p := c.mustLetters(remoting.DeadLetterQuery{Group: group, ID: v.Properties().Get(remoting.PropUniqKey)})
	if len(p.records) != 1 {
		c.t.Fatalf("%d dead letters of %s", len(p.records), body)
	}
	return p.records[0]
}

// DLQ-01 to 04: the topic is made with the first letter, one for all topics of a
// group; a letter keeps what it was.
func TestDLQ01And02And03And04Letters(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, other, g, h := named(t), named(t), "g"+named(t), "h"+named(t)
	c.topic(topic, 1)
	c.topic(other, 1)
	c.group(g)
	c.group(h)
	if _, err := c.topicConfig(remoting.DLQTopic(g)); codeOf(err) != remoting.TopicNotExist {
		t.Errorf("before the first dead letter: %v", err)
	}
	sent := time.Now().UnixMilli()
	c.mustSend(message(topic, 0, remoting.PropUniqKey, "u", remoting.PropKeys, "k1 k2", remoting.PropTags, "tag", "own", "x"), "body")
	v := c.all(topic, 0)[0]
	c.must(remoting.ConsumerSendMsgBack, sendBackOf(g, v, -1))
	made, err := c.topicConfig(remoting.DLQTopic(g))
	if err != nil || made.ReadQueueNums != 1 || made.WriteQueueNums != 1 || made.Perm != 6 {
		t.Errorf("made: %+v, %v", made, err)
	}
	c.die(g, other, "other")
	c.die(h, topic, "h's")
	if got := bodiesOf(c.all(remoting.DLQTopic(h), 0)); !slices.Equal(got, []string{"h's"}) {
		t.Errorf("the other group's: %q", got)
	}
	all := c.all(remoting.DLQTopic(g), 0)
	if got := bodiesOf(all); !slices.Equal(got, []string{"body", "other"}) || all[1].Properties().Get(remoting.PropRetryTopic) != other {
		t.Fatalf("%q, properties %q", got, all[1].Properties())
	}
	for name, want := range map[string]string{
		remoting.PropUniqKey: "u", remoting.PropKeys: "k1 k2", remoting.PropTags: "tag", "own": "x",
		remoting.PropRetryTopic: topic, remoting.PropOriginMessageID: v.OffsetMsgID(), remoting.PropDelay: "0",
	} {
		if got := all[0].Properties().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	c.sendBackAs(g, c.tried(topic, 3), 3)
	if got := c.arrived(remoting.DLQTopic(g), 0, 3)[2].ReconsumeTimes(); got != 4 {
		t.Errorf("with a limit of 3 it is dead after %d times", got)
	}
	if b := all[0].BornTimestamp(); b != v.BornTimestamp() || b > sent+1000 || all[0].BornHost() != v.BornHost() || all[0].ReconsumeTimes() != 1 {
		t.Errorf("born at %d in %v, %d times", b, all[0].BornHost(), all[0].ReconsumeTimes())
	}
}

// DLQ-05: a dead letter comes to nobody; who subscribes to the topic gets it like
// any message, and a failure there is of that group.
func TestDLQ05OnlyToWhoAsksForIt(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic, g, reader := named(t), "g"+named(t), "r"+named(t)
	c.topic(topic, 1)
	c.beat("id", consumer(g, topic, "*"))
	letter := c.die(g, topic, "m")
	if got := c.all(remoting.RetryTopic(g), 0); len(got) != 0 {
		t.Errorf("the group gets %q again", bodiesOf(got))
	}
	own := func(h *remoting.PullRequest) { h.SysFlag, h.Subscription, h.SubVersion = 0, "", 1 }
	if p := c.pull(pullOf(remoting.DLQTopic(g), 0, 0, own, func(h *remoting.PullRequest) { h.ConsumerGroup = g })); p.code != remoting.SubscriptionNotExist {
		t.Errorf("a group that has not subscribed: code %d", p.code)
	}
	c.beat("reader", consumer(reader, remoting.DLQTopic(g), "*"))
	p := c.pull(pullOf(remoting.DLQTopic(g), 0, 0, own, func(h *remoting.PullRequest) { h.ConsumerGroup = reader }))
	if len(p.records) != 1 || p.records[0].OffsetMsgID() != letter.OffsetMsgID() {
		t.Fatalf("who has subscribed: code %d, %q", p.code, p.bodies())
	}
	c.must(remoting.ConsumerSendMsgBack, sendBackOf(reader, p.records[0], -1))
	if got := c.mustLetters(remoting.DeadLetterQuery{Group: reader}); len(got.records) != 1 {
		t.Errorf("%d dead letters of who read it", len(got.records))
	}
	if got := c.mustLetters(remoting.DeadLetterQuery{Group: g}); len(got.records) != 1 {
		t.Errorf("%d dead letters of the group", len(got.records))
	}
}

// DLQ-06: dead letters are kept as long as anything else, and go with the
// segment that they are in.
func TestDLQ06Retention(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, func(c *Config) { c.DeleteWhen = fmt.Sprint((time.Now().Hour() + 12) % 24) })
	b := cl.leader(t)
	if b.cfg.FileReservedTime != 72 {
		t.Errorf("kept for %d h", b.cfg.FileReservedTime)
	}
	c := dial(t, b)
	c.topic("T", 1)
	c.group("g")
	letter := c.die("g", "T", "m")
	body := strings.Repeat("x", 1<<20)
	for b.group.Store().End() < 2*b.group.State().Configuration().SegmentSize {
		c.mustSend(message("T", 0), body)
	}
	last := c.die("g", "T", "young")
	trimNow(b, 80, 72*time.Hour)
	if got := c.mustLetters(remoting.DeadLetterQuery{Group: "g"}); len(got.records) != 2 {
		t.Errorf("%d dead letters before they are old", len(got.records))
	}
	trimNow(b, 80, time.Nanosecond)
	got := c.mustLetters(remoting.DeadLetterQuery{Group: "g"})
	if !slices.Equal(bodiesOf(got.records), []string{"young"}) || got.Next != 2 || got.More {
		t.Errorf("left are %q, next %d", bodiesOf(got.records), got.Next)
	}
	outcomes, err := c.resend(remoting.DeadLetterResend{Group: "g", ID: "x", Letters: []string{letter.OffsetMsgID(), last.OffsetMsgID()}})
	if err != nil || !slices.Equal(outcomes, []string{remoting.ResendFailed, remoting.Resent}) {
		t.Errorf("sent again: %q, %v", outcomes, err)
	}
}

// DLQ-07: pages, spans of time, ids and keys.
func TestDLQ07ListAndFind(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic, g := named(t), "g"+named(t)
	c.topic(topic, 1)
	c.group(g)
	if p := c.mustLetters(remoting.DeadLetterQuery{Group: g}); len(p.records) != 0 || p.More {
		t.Errorf("a group without: %+v", p)
	}
	if p := c.mustLetters(remoting.DeadLetterQuery{Group: g, ID: "u"}); len(p.records) != 0 {
		t.Errorf("an id in a group without: %+v", p)
	}
	_, err := c.letters(remoting.DeadLetterQuery{Group: "none" + named(t)})
	wantCode(t, err, remoting.SubscriptionGroupNotExist)
	var all []remoting.RecordView
	for i := range 7 {
		before := b.group.LogTime()
		eventually(t, "another time", func() bool { return b.group.LogTime() > before })
		all = append(all, c.die(g, topic, fmt.Sprint(i), remoting.PropKeys, fmt.Sprintf("all k%d", i)))
	}
	at := func(i int) int64 { return all[i].StoreTimestamp() }
	for name, x := range map[string]struct {
		h    remoting.DeadLetterQuery
		want string
		more bool
	}{
		"all":            {remoting.DeadLetterQuery{}, "0123456", false},
		"a page":         {remoting.DeadLetterQuery{Max: 3}, "012", true},
		"the next":       {remoting.DeadLetterQuery{Max: 3, From: 3}, "345", true},
		"the last":       {remoting.DeadLetterQuery{Max: 3, From: 6}, "6", false},
		"beyond":         {remoting.DeadLetterQuery{From: math.MaxInt64}, "", false},
		"from a time":    {remoting.DeadLetterQuery{Begin: at(2)}, "23456", false},
		"to a time":      {remoting.DeadLetterQuery{End: at(2)}, "012", false},
		"a span":         {remoting.DeadLetterQuery{Begin: at(2), End: at(4)}, "234", false},
		"a span, a page": {remoting.DeadLetterQuery{Begin: at(2), End: at(4), Max: 1, From: 3}, "3", true},
		"no time":        {remoting.DeadLetterQuery{Begin: at(4), End: at(2)}, "", false},
		"any time":       {remoting.DeadLetterQuery{Begin: 1, End: math.MaxInt64, Max: math.MaxInt32}, "0123456", false},
		"an offset id":   {remoting.DeadLetterQuery{ID: all[3].OffsetMsgID()}, "3", false},
		"a UNIQ_KEY":     {remoting.DeadLetterQuery{ID: all[3].Properties().Get(remoting.PropUniqKey)}, "3", false},
		"no id":          {remoting.DeadLetterQuery{ID: "none"}, "", false},
		"a key as id":    {remoting.DeadLetterQuery{ID: "all"}, "", false},
		"a key":          {remoting.DeadLetterQuery{Key: "k5"}, "5", false},
		"a key of all":   {remoting.DeadLetterQuery{Key: "all"}, "0123456", false},
		"key and time":   {remoting.DeadLetterQuery{Key: "all", Begin: at(5)}, "56", false},
		"no key":         {remoting.DeadLetterQuery{Key: "k"}, "", false},
	} {
		x.h.Group = g
		p, err := c.letters(x.h)
		if got := strings.Join(bodiesOf(p.records), ""); err != nil || got != x.want || p.More != x.more {
			t.Errorf("%s: %q, more %v, %v; want %q, %v", name, got, p.More, err, x.want, x.more)
		}
	}
	// What RocketMQ's tools ask for is there, too.
	if got := c.all(remoting.DLQTopic(g), 0); len(got) != 7 {
		t.Errorf("pulled: %q", bodiesOf(got))
	}
	if resp, err := c.ask(remoting.QueryMessage, &remoting.QueryMessageRequest{Topic: remoting.DLQTopic(g), Key: "k5", MaxNum: 32, EndTimestamp: math.MaxInt64}); err != nil || len(resp.Body) != all[5].Size() {
		t.Errorf("queried: %d bytes, %v", len(resp.Body), err)
	}
	// A page ends where it is full of bytes, and one letter has room on any.
	big := strings.Repeat("x", letterBytes/2+1000)
	for range 2 {
		c.die(g, topic, big)
	}
	c.die(g, topic, strings.Repeat("y", 2*letterBytes))
	var sizes []int
	for next, more := int64(7), true; more; {
		p := c.mustLetters(remoting.DeadLetterQuery{Group: g, From: next})
		sizes = append(sizes, len(p.records))
		next, more = p.Next, p.More
	}
	if !slices.Equal(sizes, []int{1, 1, 1}) {
		t.Errorf("pages of %v letters", sizes)
	}
}

// DLQ-08: sent again a letter comes to its group only, as if it had never been
// tried, also if nobody is there now; that is recorded and not done twice.
func TestDLQ08SentAgainToItsGroup(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, func(c *Config) { levels("1s 1s 1s 1s")(c); alone(c) })
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	c.group("g")
	c.group("other")
	first := c.die("g", "T", "first", remoting.PropTags, "tag")
	second := c.die("g", "T", "second")
	before := len(c.all("T", 0))
	again := remoting.DeadLetterResend{Group: "g", ID: "r1", Letters: []string{first.OffsetMsgID()}}
	want := func(what string, h remoting.DeadLetterResend, outcomes ...string) {
		t.Helper()
		if got, err := c.resend(h); err != nil || !slices.Equal(got, outcomes) {
			t.Errorf("%s: %q, %v; want %q", what, got, err, outcomes)
		}
	}
	want("sent again", again, remoting.Resent)
	want("asked twice", again, remoting.Resent) // as after a lost answer
	again.ID = "r2"
	want("another request", again, remoting.ResentBefore)
	if p := c.mustLetters(remoting.DeadLetterQuery{Group: "g"}); p.Handled != "10" {
		t.Errorf("handled: %q", p.Handled)
	}
	v := c.arrived(remoting.RetryTopic("g"), 0, 1)[0]
	p := v.Properties()
	if string(v.Body()) != "first" || v.ReconsumeTimes() != 0 || p.Get(remoting.PropRetryTopic) != "T" || p.Get(remoting.PropTags) != "tag" ||
		p.Get(remoting.PropUniqKey) != first.Properties().Get(remoting.PropUniqKey) || v.BornTimestamp() != first.BornTimestamp() ||
		p.Get(remoting.PropOriginMessageID) != first.Properties().Get(remoting.PropOriginMessageID) ||
		p.Get(remoting.PropResent) != first.OffsetMsgID()+"-r1" {
		t.Errorf("%d times, properties %q", v.ReconsumeTimes(), p)
	}
	if got := c.all("T", 0); len(got) != before {
		t.Errorf("everybody gets %q", bodiesOf(got[before:]))
	}
	// The tries of its new life are not taken for those of its first one, which was
	// a moment ago.
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", v, 1))
	v = c.arrived(remoting.RetryTopic("g"), 0, 2)[1]
	if v.ReconsumeTimes() != 1 {
		t.Errorf("tried %d times", v.ReconsumeTimes())
	}
	c.must(remoting.ConsumerSendMsgBack, sendBackOf("g", c.all(remoting.RetryTopic("g"), 0)[0], -1))
	if p := c.mustLetters(remoting.DeadLetterQuery{Group: "g"}); p.Handled != "100" || string(p.records[2].Body()) != "first" {
		t.Errorf("dead again: %q, %q", p.Handled, bodiesOf(p.records))
	}
	again.Force = true
	want("forced", again, remoting.Resent)
	want("forced, asked twice", again, remoting.Resent)
	c.arrived(remoting.RetryTopic("g"), 0, 3)
	both := remoting.DeadLetterResend{Group: "g", ID: "r3", Letters: []string{first.OffsetMsgID(), second.OffsetMsgID(), second.OffsetMsgID()}}
	want("several", both, remoting.ResentBefore, remoting.Resent, remoting.Resent)
	c.arrived(remoting.RetryTopic("g"), 0, 4)

	// The next leader knows.
	c = dial(t, cl.transfer(t))
	both.ID = "r4"
	want("at another leader", both, remoting.ResentBefore, remoting.ResentBefore, remoting.ResentBefore)
	if p := c.mustLetters(remoting.DeadLetterQuery{Group: "g"}); p.Handled != "110" {
		t.Errorf("handled: %q", p.Handled)
	}
	cl.caughtUp(t)
	for _, b := range cl.followers(t) {
		f := dial(t, b)
		if p := f.mustLetters(remoting.DeadLetterQuery{Group: "g"}); p.Handled != "110" {
			t.Errorf("handled, as a follower has it: %q", p.Handled)
		}
		_, err := f.resend(both)
		wantCode(t, err, remoting.ServiceNotAvailable)
	}
	// Without its group it stays where it is.
	c.must(remoting.DeleteSubscriptionGroup, &remoting.DeleteGroupRequest{Group: "g"})
	both.Force = true
	_, err := c.resend(both)
	wantCode(t, err, remoting.SubscriptionGroupNotExist)
	if p := c.mustLetters(remoting.DeadLetterQuery{Group: "g"}); len(p.records) != 3 {
		t.Errorf("%d letters of a deleted group", len(p.records))
	}
}

// What is not a group's dead letter is not sent to it, and what is no question
// about dead letters is refused.
func TestHostileDeadLetters(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic, g, other := named(t), "g"+named(t), "o"+named(t)
	c.topic(topic, 1)
	c.beat("g", consumer(g, topic, "*"))
	c.beat("o", consumer(other, topic, "*"))
	letter := c.die(other, topic, "another group's", "own", strings.Repeat("x", 100))
	c.die(g, topic, "m")
	for name, h := range map[string]remoting.DeadLetterQuery{
		"offset below 0": {Group: g, From: -1}, "time below 0": {Group: g, Begin: -1}, "end below 0": {Group: g, End: math.MinInt64},
		"page below 0": {Group: g, Max: -1}, "no group": {}, "a path": {Group: "../../x"}, "NUL": {Group: "a\x00b"},
		"long": {Group: strings.Repeat("g", 256)},
	} {
		if _, err := c.letters(h); codeOf(err) != remoting.InvalidParameter {
			t.Errorf("list, %s: %v", name, err)
		}
	}
	id := letter.OffsetMsgID()
	for name, h := range map[string]remoting.DeadLetterResend{
		"a path": {Group: "../../x", ID: "i", Letters: []string{id}}, "no letters": {Group: g, ID: "i"},
		"too many": {Group: g, ID: "i", Letters: make([]string, remoting.MaxResend+1)}, "no id": {Group: g, Letters: []string{id}},
		"an id with a separator": {Group: g, ID: "a\x01b", Letters: []string{id}}, "a long id": {Group: g, ID: strings.Repeat("a", maxResendID+1), Letters: []string{id}},
	} {
		if _, err := c.resend(h); codeOf(err) != remoting.InvalidParameter {
			t.Errorf("resend, %s: %v", name, err)
		}
	}
	if _, err := c.call(&remoting.Command{Code: remoting.ResendDeadLettersRequest, Body: []byte("{")}); codeOf(err) != remoting.InvalidParameter {
		t.Errorf("half a body: %v", err)
	}
	_, err := c.resend(remoting.DeadLetterResend{Group: "none" + named(t), ID: "i", Letters: []string{id}})
	wantCode(t, err, remoting.SubscriptionGroupNotExist)
	sent := c.all(topic, 0)[0]
	foreign := []string{
		id, sent.OffsetMsgID(), "", "x", strings.Repeat("F", 32), strings.Repeat("0", 32),
		remoting.OffsetMsgID(b.addr, letter.PhysicalOffset()+150), remoting.OffsetMsgID(b.addr, -1),
		remoting.OffsetMsgID(netip.MustParseAddrPort("1.2.3.4:5"), letter.PhysicalOffset()),
	}
	outcomes, err := c.resend(remoting.DeadLetterResend{Group: g, ID: "i", Letters: foreign, Force: true})
	if err != nil || !slices.Equal(outcomes, slices.Repeat([]string{remoting.ResendFailed}, len(foreign))) {
		t.Errorf("letters that are not the group's: %q, %v", outcomes, err)
	}
	for _, group := range []string{g, other} {
		if got := c.all(remoting.RetryTopic(group), 0); len(got) != 0 {
			t.Errorf("%s got %q", group, bodiesOf(got))
		}
	}
	for _, x := range foreign {
		if p, err := c.letters(remoting.DeadLetterQuery{Group: g, ID: "x" + x}); err != nil || len(p.records) != 0 {
			t.Errorf("%q finds %q, %v", x, bodiesOf(p.records), err)
		}
	}
}
