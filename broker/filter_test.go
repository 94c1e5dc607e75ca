package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// bySQL has a pull bring an expression.
func bySQL(expression string) func(*remoting.PullRequest) {
	return func(h *remoting.PullRequest) {
		h.Subscription, h.ExpressionType = expression, remoting.ExpressionSQL92
	}
}

// sqlConsumer is a consumer group with an expression in a heartbeat.
func sqlConsumer(group, topic, expression string, version int64) remoting.ConsumerData {
	d := consumer(group, topic, expression)
	d.Subscriptions[0].ExpressionType, d.Subscriptions[0].Version = remoting.ExpressionSQL92, version
	return d
}

// withFilters is a broker that filters by SQL.
var withFilters = func() func(testing.TB) *Broker {
	enable := func(c *Config) { c.EnablePropertyFilter = true }
	return func(t testing.TB) *Broker { return startCluster(t, 1, enable).leader(t) }
}()

// found awaits the answer to a held pull. If that is that others have passed, which
// each 5 s it may be, the client goes on behind them.
func (c *testClient) found(t testing.TB, h *remoting.PullRequest, answer <-chan testPulled) testPulled {
	t.Helper()
	for {
		p := <-answer
		if p.code != remoting.PullRetryImmediately {
			return p
		}
		if p.NextBeginOffset <= h.QueueOffset || len(p.records) > 0 {
			t.Fatalf("held at %d: next %d, %d messages", h.QueueOffset, p.NextBeginOffset, len(p.records))
		}
		h.QueueOffset = p.NextBeginOffset
		answer = c.pulling(h)
	}
}

// pullAll pulls a queue from its begin to its end as a consumer does, and checks
// that the offset always moves.
func (c *testClient) pullAll(t testing.TB, h *remoting.PullRequest) (bodies []string, end int64) {
	t.Helper()
	for {
		p := c.pull(h)
		switch p.code {
		case remoting.Success, remoting.PullRetryImmediately:
			if p.NextBeginOffset <= h.QueueOffset || len(p.records) > 0 != (p.code == remoting.Success) {
				t.Fatalf("at %d: code %d, %d messages, next %d", h.QueueOffset, p.code, len(p.records), p.NextBeginOffset)
			}
			bodies = append(bodies, p.bodies()...)
			h.QueueOffset = p.NextBeginOffset
		case remoting.PullNotFound:
			return bodies, h.QueueOffset
		default:
			t.Fatalf("at %d: %v", h.QueueOffset, p.err)
		}
	}
}

func TestFILT01And03And05TagExpressions(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	for _, tag := range []string{"A", "B", "a", "中文", "a && b", "C", "A"} {
		c.mustSend(message(topic, 0, remoting.PropTags, tag), tag)
	}
	c.mustSend(message(topic, 0), "untagged")
	all := []string{"A", "B", "a", "中文", "a && b", "C", "A", "untagged"}
	for expression, want := range map[string][]string{
		"*": all, "": all, "  * ": all,
		"A || B": {"A", "B", "A"}, "B||A": {"A", "B", "A"}, "  B||  ||A||": {"A", "B", "A"}, "A": {"A", "A"}, "a": {"a"}, "b": nil,
		"中文 || C": {"中文", "C"}, "a && b": {"a && b"},
	} {
		// By the request, and by a heartbeat of a group of its own. (FILT-05)
		if got, _ := c.pullAll(t, pullOf(topic, 0, 0, tagged(expression))); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", expression, got, want)
		}
		group := named(t)
		c.beat(group, consumer(group, topic, expression))
		if got, end := c.pullAll(t, pullOf(topic, 0, 0, registered(group, 0))); !slices.Equal(got, want) || end != int64(len(all)) {
			t.Errorf("%q by heartbeat: %q, want %q", expression, got, want)
		}
	}
	for _, expression := range []string{"||", " || || ", strings.Repeat("A", maxExpression+1)} {
		wantCode(t, c.pull(pullOf(topic, 0, 0, tagged(expression))).err, remoting.SubscriptionParseFailed)
	}
}

// A broker tells tags apart by their hashes: it lets through what a client drops.
// (The client's part is tested with it.)
func TestFILT02EqualHashes(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	for _, tag := range []string{"AaAa", "BBBB", "AaBB", "CCCC"} {
		c.mustSend(message(topic, 0, remoting.PropTags, tag), tag)
	}
	if got, _ := c.pullAll(t, pullOf(topic, 0, 0, tagged("BBBB"))); !slices.Equal(got, []string{"AaAa", "BBBB", "AaBB"}) {
		t.Errorf("%q", got)
	}
}

// What is filtered away is behind the consumer for good, by tag and by SQL, on the
// leader and on followers.
func TestFILT04OffsetsAdvanceOverFilteredMessages(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, func(c *Config) { c.EnablePropertyFilter = true })
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	const n = 2000
	for from := 0; from < n; from += 500 {
		var batch []remoting.Properties
		for i := from; i < from+500; i++ {
			tag := map[bool]string{true: "hit", false: "other"}[i%700 == 699]
			batch = append(batch, properties(remoting.PropTags, tag, "n", fmt.Sprint(i)))
		}
		if _, err := c.call(batchOf(t, "T", 0, batch...)); err != nil {
			t.Fatal(err)
		}
	}
	cl.caughtUp(t)
	for _, b := range append(cl.followers(t), cl.leader(t)) {
		client := dial(t, b)
		for what, filter := range map[string]func(*remoting.PullRequest){
			"tag": tagged("hit"), "SQL": bySQL("n = 699 OR n BETWEEN 1399 AND 1399"), "SQL of the tag": bySQL("TAGS = 'hit'"),
		} {
			p := client.pull(pullOf("T", 0, 0, filter, tools))
			if p.code != remoting.Success || len(p.records) == 0 || p.records[0].QueueOffset() != 699 {
				t.Errorf("%s, leader %t: code %d, %d messages: %v", what, b.leads(), p.code, len(p.records), p.err)
			}
			got, end := client.pullAll(t, pullOf("T", 0, 0, filter, tools))
			if len(got) != 2 || end != n {
				t.Errorf("%s, leader %t: %d messages, the end is %d", what, b.leads(), len(got), end)
			}
			// A consumer that wants nothing of it commits what it was told.
			p = client.pull(pullOf("T", 0, 1400, filter, tools))
			if p.code != remoting.PullRetryImmediately || p.NextBeginOffset != n {
				t.Errorf("%s, leader %t, the rest: code %d, next %d", what, b.leads(), p.code, p.NextBeginOffset)
			}
		}
	}
}

func tools(h *remoting.PullRequest) { h.ConsumerGroup = remoting.GroupTools }

func TestFILT06SQLIsOffByDefault(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	c.mustSend(message(topic, 0, "a", "1"), "m")
	wantOff := func(err error) {
		t.Helper()
		wantCode(t, err, remoting.SystemError)
		if err == nil || !strings.Contains(err.Error(), "enablePropertyFilter") {
			t.Errorf("%v does not say what to switch on", err)
		}
	}
	wantOff(c.checkClient("a = 1", remoting.ExpressionSQL92))
	wantOff(c.pull(pullOf(topic, 0, 0, bySQL("a = 1"))).err)
	c.beat("c1", sqlConsumer(topic, topic, "a = 1", 1))
	wantOff(c.pull(pullOf(topic, 0, 0, registered(topic, 1))).err)
}

// checkClient sends what Java consumers send at their start.
func (c *testClient) checkClient(expression, kind string) error {
	c.t.Helper()
	h := remoting.CheckClientRequest{ClientID: "c", ConsumerGroup: "g", Subscription: remoting.Subscription{Topic: "T", Expression: expression, ExpressionType: kind, Version: 1}}
	_, err := c.call(&remoting.Command{Code: remoting.CheckClientConfig, Body: h.AppendBody(nil)})
	return err
}

// The language has its own tests; here are its parts end to end, in one pull each.
func TestFILT06And07And09Expressions(t *testing.T) {
	t.Parallel()
	c := dial(t, withFilters(t))
	c.topic("T", 1)
	for _, m := range [][]string{
		{"five", "a", "5", "region", "eu"}, {"seven and a half", "a", "7.5", "region", "us"}, {"large", "a", "3000000000"},
		{"word", "a", "five", "ok", "true"}, {"nothing"}, {"tagged", remoting.PropTags, "TagA", remoting.PropKeys, "k1 k2"},
		{"chinese", "name", "你好 ☂"},
	} {
		c.mustSend(message("T", 0, m[1:]...), m[0])
	}
	for expression, want := range map[string][]string{
		"a = 5": {"five"}, "a <> 5": nil, "a <> 6": {"five"}, "a > 4": {"five"}, "a >= 5": {"five"}, "a < 6": {"five"}, "a <= 5": {"five"},
		"a > 4.0": {"five", "seven and a half", "large"}, "a BETWEEN 5 AND 7": {"five"}, "a BETWEEN 5.0 AND 7.5": {"five", "seven and a half"},
		"a NOT BETWEEN 6.0 AND 10.0": {"five", "large"}, "a = 3000000000": {"large"},
		// FILT-07
		"a <> 1": {"five"}, "a IS NULL": {"nothing", "tagged", "chinese"}, "a IS NOT NULL": {"five", "seven and a half", "large", "word"},
		"a NOT CONTAINS 'x'": {"five", "seven and a half", "large", "word"}, "missing NOT CONTAINS 'x'": nil, "1 <> a": {"five", "nothing", "tagged", "chinese"},
		// FILT-09
		"a > 1 OR region = 'us'": {"five"}, "region = 'us' OR a > 1": {"five", "seven and a half"}, "NOT (a > 6)": {"five"},
		"region IN ('eu', 'us')": {"five", "seven and a half"}, "region NOT IN ('eu')": {"seven and a half"},
		"a CONTAINS 'iv'": {"word"}, "a STARTSWITH '3'": {"large"}, "a ENDSWITH '5'": {"five", "seven and a half"},
		"ok = TRUE": {"word"}, "a = 'five'": {"word"}, "TAGS = 'TagA'": {"tagged"}, "KEYS CONTAINS 'k2'": {"tagged"}, "name ENDSWITH '☂'": {"chinese"},
		"(region = 'us' OR a = 5) AND NOT (region IS NULL)": {"five", "seven and a half"},
		"TRUE": {"five", "seven and a half", "large", "word", "nothing", "tagged", "chinese"}, "FALSE": nil, "NULL": nil, "a": nil,
	} {
		if got, end := c.pullAll(t, pullOf("T", 0, 0, bySQL(expression))); !slices.Equal(got, want) || end != 7 {
			t.Errorf("%s: %q, want %q", expression, got, want)
		}
	}
	if err := c.checkClient("a > 5", remoting.ExpressionSQL92); err != nil {
		t.Error(err)
	}
	if err := c.checkClient("A || B", remoting.ExpressionTag); err != nil {
		t.Error(err)
	}
}

func TestFILT08ExpressionsThatAreRefused(t *testing.T) {
	t.Parallel()
	c := dial(t, withFilters(t))
	c.topic("T", 1)
	c.mustSend(message("T", 0, "a", "6"), "m")
	says := func(err error, code int32, part string) {
		t.Helper()
		wantCode(t, err, code)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
	for i, x := range []struct{ expression, part string }{
		{"a > 'x'", "at character 5: 'x'"}, {"a = NULL", "IS NULL"}, {"a BETWEEN 5 AND 1", "at character 11: BETWEEN 5 AND 1"}, {"", "the end"},
		{"a LIKE 'x'", "CONTAINS"}, {"a > 5 junk", "at character 7"}, {strings.Repeat("(", 20_000), "levels"}, {"a = 1" + strings.Repeat(" ", 40<<10), "32768"},
	} {
		says(c.checkClient(x.expression, remoting.ExpressionSQL92), remoting.SubscriptionParseFailed, x.part)
		// The heartbeat is answered well, the group is there, and its pulls get nothing.
		group := fmt.Sprint("g", i)
		c.beat("c1", sqlConsumer(group, "T", x.expression, 1))
		says(c.pull(pullOf("T", 0, 0, registered(group, 1))).err, remoting.FilterDataNotExist, x.part)
		if _, err := c.ask(remoting.GetConsumerListByGroup, &remoting.ConsumerGroupRequest{ConsumerGroup: group}); err != nil {
			t.Errorf("after a bad expression the group is gone: %v", err)
		}
		// RocketMQ would send everything here.
		says(c.pull(pullOf("T", 0, 0, bySQL(x.expression))).err, remoting.SubscriptionParseFailed, x.part)
	}
	// A better one helps.
	c.beat("c1", sqlConsumer("g0", "T", "a > 5", 2))
	if p := c.pull(pullOf("T", 0, 0, registered("g0", 2))); len(p.records) != 1 {
		t.Errorf("after a better one: %v", p.err)
	}
	says(c.checkClient("x", "XPATH"), remoting.SubscriptionParseFailed, "XPATH")
	wantCode(t, c.pull(pullOf("T", 0, 0, func(h *remoting.PullRequest) { h.ExpressionType = "XPATH" })).err, remoting.SubscriptionParseFailed)
	_, err := c.call(&remoting.Command{Code: remoting.CheckClientConfig, Body: []byte("{")})
	wantCode(t, err, remoting.InvalidParameter)
	_, err = c.call(&remoting.Command{Code: remoting.CheckClientConfig, Body: make([]byte, maxHeartbeat+1)})
	wantCode(t, err, remoting.InvalidParameter)
}

// A new expression goes for the next pull, and for those that are held.
func TestFILT10ExpressionChanges(t *testing.T) {
	t.Parallel()
	b := withFilters(t)
	c := dial(t, b)
	c.topic("T", 1)
	next := int64(0)
	send := func(a string) int64 {
		c.mustSend(message("T", 0, "a", a, remoting.PropTags, "t"+a), a)
		next++
		return next - 1
	}
	version := int64(0)
	subscribe := func(d remoting.ConsumerData) {
		version++
		d.Subscriptions[0].Version = version
		c.beat("c1", d)
	}
	for i, change := range []struct {
		d       remoting.ConsumerData
		wants   string
		refuses string
	}{
		{sqlConsumer("g", "T", "a = 1", 0), "1", "2"}, {sqlConsumer("g", "T", "a = 2", 0), "2", "1"}, {consumer("g", "T", "t3"), "3", "2"},
		{sqlConsumer("g", "T", "a IN ('1', '2')", 0), "1", "3"}, {consumer("g", "T", "*"), "3", ""},
	} {
		before := pullOf("T", 0, next, registered("g", version), held(time.Minute))
		var answer <-chan testPulled
		if i > 0 { // this one is held with the expression before
			answer = c.pulling(before)
			isHeld(t, b, 1)
		}
		subscribe(change.d)
		var passed int64
		if change.refuses != "" {
			passed = send(change.refuses)
		}
		at := send(change.wants)
		if i > 0 {
			if p := c.found(t, before, answer); !slices.Equal(p.bodies(), []string{change.wants}) {
				t.Errorf("change %d: held over it: %q, code %d, next %d", i, p.bodies(), p.code, p.NextBeginOffset)
			}
		}
		from := at
		if change.refuses != "" {
			from = passed
		}
		if p := c.pull(pullOf("T", 0, from, registered("g", version))); !slices.Equal(p.bodies(), []string{change.wants}) {
			t.Errorf("change %d: %q, code %d", i, p.bodies(), p.code)
		}
	}
	// An older version changes nothing.
	c.beat("c1", sqlConsumer("g", "T", "FALSE", 1))
	if p := c.pull(pullOf("T", 0, next-1, registered("g", 0))); len(p.records) != 1 {
		t.Errorf("after a heartbeat of before: code %d", p.code)
	}
}

// Held pulls by tag and SQL: what they do not want does not wake them, and within
// 5 s they are told that it has passed.
func TestPULL05PassedByWhatItDoesNotWant(t *testing.T) {
	t.Parallel()
	b := withFilters(t)
	c := dial(t, b)
	c.topic("T", 1)
	c.mustSend(message("T", 0), "before")
	var answers []<-chan testPulled
	for _, filter := range []func(*remoting.PullRequest){tagged("A"), bySQL("a = 1"), bySQL("a = 'x' OR TAGS = 'A'")} {
		answers = append(answers, c.pulling(pullOf("T", 0, 1, filter, held(time.Minute))))
	}
	isHeld(t, b, 3)
	begun := time.Now()
	for range 3 {
		c.mustSend(message("T", 0, remoting.PropTags, "B", "a", "7"), "b")
	}
	for i, answer := range answers {
		p := <-answer
		if took := time.Since(begun); p.code != remoting.PullRetryImmediately || p.NextBeginOffset <= 1 || p.NextBeginOffset > 4 || len(p.records) != 0 || took > 2*holdSweep {
			t.Errorf("pull %d after %v: code %d, next %d", i, took, p.code, p.NextBeginOffset)
		}
	}
}

// Of pulls held for one queue a message wakes those that want it, and no others:
// these are moved on.
func TestPULL05OnlyMatchesWake(t *testing.T) {
	t.Parallel()
	b := withFilters(t)
	c := dial(t, b)
	c.topic("T", 1)
	filters := []func(*remoting.PullRequest){tagged("A"), tagged("A || B"), bySQL("a > 5"), bySQL("a < 5"), bySQL("word = 'x'")}
	var pulls []*remoting.PullRequest
	var answers []<-chan testPulled
	for _, filter := range filters {
		h := pullOf("T", 0, 0, filter, held(time.Minute))
		pulls, answers = append(pulls, h), append(answers, c.pulling(h))
	}
	isHeld(t, b, len(filters))
	for i, m := range []struct {
		props []string
		wakes int
	}{
		{[]string{remoting.PropTags, "C", "a", "5"}, -1}, {[]string{remoting.PropTags, "C", "a", "5.5"}, -1}, {[]string{remoting.PropTags, "B", "a", "5"}, 1},
		{[]string{"a", "6"}, 2}, {[]string{"a", "4"}, 3}, {[]string{"word", "x"}, 4}, {[]string{remoting.PropTags, "A"}, 0},
	} {
		c.mustSend(message("T", 0, m.props...), fmt.Sprint(i))
		if m.wakes < 0 {
			continue
		}
		if p := c.found(t, pulls[m.wakes], answers[m.wakes]); !slices.Equal(p.bodies(), []string{fmt.Sprint(i)}) || p.NextBeginOffset != int64(i+1) {
			t.Errorf("message %d woke pull %d: code %d, %q, next %d", i, m.wakes, p.code, p.bodies(), p.NextBeginOffset)
		}
	}
}

func (b *Broker) incarnation(t testing.TB, topic string) uint64 {
	t.Helper()
	st, ok := b.group.State().Topic(topic)
	if !ok {
		t.Fatalf("there is no topic %s", topic)
	}
	return st.Incarnation
}

func TestPULL12NothingMatchesSQL(t *testing.T) {
	t.Parallel()
	c := dial(t, withFilters(t))
	c.topic("T", 1)
	for range 2 {
		props := make([]remoting.Properties, 500)
		for i := range props {
			props[i] = properties("a", fmt.Sprint(i))
		}
		if _, err := c.call(batchOf(t, "T", 0, props...)); err != nil {
			t.Fatal(err)
		}
	}
	pulls := 0
	for at := int64(0); at < 1000; pulls++ {
		p := c.pull(pullOf("T", 0, at, bySQL("a > 500"), held(time.Minute)))
		if p.code != remoting.PullRetryImmediately || p.NextBeginOffset <= at || p.NextBeginOffset > at+scanUnits {
			t.Fatalf("at %d: code %d, next %d: %v", at, p.code, p.NextBeginOffset, p.err)
		}
		at = p.NextBeginOffset
	}
	t.Logf("%d pulls over 1000 messages", pulls)
}

// Properties are read from wherever messages lie: across segments, behind large
// bodies, close together and far apart; cold ones, too, after a restart.
func TestPropertiesOfScatteredMessages(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, func(c *Config) {
		c.MaxMessageSize, c.MappedFileSizeCommitLog, c.AccessMessageInMemory = 256<<10, 1<<20, 64<<10
		c.EnablePropertyFilter = true
	})
	c := dial(t, cl.leader(t))
	c.topic("T", 3)
	var want []string
	for i := range 150 {
		body := fmt.Sprintf("%d %s", i, strings.Repeat("x", []int{10, 3000, 100_000, 0, 200}[i%5]))
		r := c.mustSend(message("T", int32(i*7%3), "n", fmt.Sprint(i%4)), body)
		if r.QueueID == 0 && i%4 > 1 {
			want = append(want, body)
		}
	}
	for range 2 {
		if got, _ := c.pullAll(t, pullOf("T", 0, 0, bySQL("n > 1"))); !slices.Equal(got, want) {
			t.Errorf("%d messages came, %d were sent, or others", len(got), len(want))
		}
		cl.end(t, "n1")
		cl.mustStart(t, "n1")
		c = dial(t, cl.leader(t))
	}
}

// Pulls that are held with SQL, on many queues and in many ways at once, lose
// nothing and get nothing else, whatever the order of holding and sending.
func TestNoMatchIsLost(t *testing.T) {
	t.Parallel()
	b := withFilters(t)
	c := dial(t, b)
	const queues, each, residues = 3, 300, 5
	c.topic("T", queues)
	var group sync.WaitGroup
	got := make([][queues][]string, residues)
	for r := range residues {
		client := dial(t, b)
		for q := range int32(queues) {
			group.Go(func() {
				filter := []func(*remoting.PullRequest){tagged(fmt.Sprint("t", r)), bySQL(fmt.Sprint("r = ", r)), bySQL(fmt.Sprintf("TAGS = 't%d'", r))}[q]
				for at := int64(0); at < each; {
					p := <-client.pulling(pullOf("T", q, at, filter, held(2*time.Second)))
					if p.code != remoting.Success && p.code != remoting.PullRetryImmediately && p.code != remoting.PullNotFound {
						t.Errorf("code %d: %v", p.code, p.err)
						return
					}
					got[r][q] = append(got[r][q], p.bodies()...)
					at = p.NextBeginOffset
				}
			})
		}
	}
	for i := range each {
		for q := range int32(queues) {
			c.mustSend(message("T", q, "r", fmt.Sprint(i*i%residues), remoting.PropTags, fmt.Sprint("t", i*i%residues)), fmt.Sprint(i))
		}
	}
	group.Wait()
	for r := range residues {
		var want []string
		for i := range each {
			if i*i%residues == r {
				want = append(want, fmt.Sprint(i))
			}
		}
		for q := range queues {
			if !slices.Equal(got[r][q], want) {
				t.Errorf("queue %d, residue %d: %q, want %q", q, r, got[r][q], want)
			}
		}
	}
	if n := len(b.holds.filters); n != 0 || b.holds.filterSize != 0 || b.holds.ready != 0 {
		t.Errorf("%d filters of %d bytes and %d ready pulls are counted when none is held", n, b.holds.filterSize, b.holds.ready)
	}
}

// 10,000 pulls are parked for one queue. Whoever appends does not do their work:
// it hands over one job. And the message that nobody wants is looked at once for
// each expression.
func TestWakingManyIsNotTheAppendersWork(t *testing.T) {
	t.Parallel()
	b := withFilters(t)
	c := dial(t, b)
	c.topic("T", 1)
	c.pull(pullOf("T", 0, 0)) // makes the consumer group
	s := b.sessions.of(sessionConn(t, b, c))
	const pulls, expressions = 10_000, 10
	for i := range pulls {
		op := &pullOp{b: b, s: s, index: -1, deadline: time.Now().Add(time.Minute),
			h: *pullOf("T", 0, 0, bySQL(fmt.Sprint("a = ", i%expressions+1)), held(time.Minute))}
		if err := op.check(); err != nil {
			t.Fatal(err)
		}
		if !op.hold(op.deadline, true) {
			t.Fatal("not held")
		}
	}
	h := b.holds
	q := b.queue("T", 0)
	if q != nil {
		t.Fatal("the queue has messages already")
	}
	id := storage.QueueID{Topic: "T", Incarnation: b.incarnation(t, "T"), Queue: 0}
	hq := h.byQueue[id]
	if n := len(hq.byFilter); n != expressions {
		t.Fatalf("%d filters for %d expressions", n, expressions)
	}
	c.mustSend(message("T", 0, "a", "0"), "nobody's")
	moved := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		for op := range hq.all() {
			if op.next != 1 {
				return false
			}
		}
		return !hq.sifting && len(h.byTime) == pulls
	}
	eventually(t, "all are moved on", moved)
	// As apply does while a sift is under way: it marks the queue, no more.
	h.mu.Lock()
	hq.sifting = true
	h.mu.Unlock()
	h.wake([]*storage.Queue{b.queue("T", 0)})
	h.mu.Lock()
	if !hq.again || len(h.jobs) != 0 || len(h.byTime) != pulls {
		t.Errorf("again %t, %d jobs, %d parked", hq.again, len(h.jobs), len(h.byTime))
	}
	hq.sifting = false
	h.mu.Unlock()
	c.conn.Close()
	eventually(t, "all are forgotten", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.byTime) == 0 && len(h.byQueue) == 0 && len(h.filters) == 0 && h.filterSize == 0
	})
}

// The filters that are held are bounded by their size, and one that many share
// counts once.
func TestHeldFiltersAreBounded(t *testing.T) {
	t.Parallel()
	b := withFilters(t)
	c := dial(t, b)
	c.topic("T", 1)
	large := func(i int) func(*remoting.PullRequest) {
		return bySQL(fmt.Sprintf("a = %d%s", i, strings.Repeat(" OR a=1", 1300)))
	}
	for range 5 {
		c.pulling(pullOf("T", 0, 0, large(0), held(time.Minute)))
	}
	isHeld(t, b, 5)
	b.holds.mu.Lock()
	size := b.holds.filterSize
	b.holds.mu.Unlock()
	one, err := b.filters.get(remoting.ExpressionSQL92, pullOf("T", 0, 0, large(0)).Subscription)
	if err != nil || size != one.size {
		t.Fatalf("5 pulls with one filter of %d bytes hold %d bytes: %v", one.size, size, err)
	}
	n := maxHeldFilters/one.size + 10
	answers := make(chan testPulled, n)
	for i := range n {
		answer := c.pulling(pullOf("T", 0, 0, large(i+1), held(time.Minute)))
		go func() { answers <- <-answer }()
	}
	for refused := 0; refused < 9; refused++ {
		if p := <-answers; p.code != remoting.SystemBusy {
			t.Fatalf("code %d: %v", p.code, p.err)
		}
	}
	b.holds.mu.Lock()
	size = b.holds.filterSize
	b.holds.mu.Unlock()
	if size > maxHeldFilters {
		t.Errorf("held filters take %d bytes, the limit is %d", size, maxHeldFilters)
	}
	// Others go on.
	if p := c.pull(pullOf("T", 0, 0, tagged("A"))); p.code != remoting.PullNotFound {
		t.Errorf("another pull: %v", p.err)
	}
	c.conn.Close()
	eventually(t, "nothing is held", func() bool { return b.holds.count() == 0 })
}

func TestFilterCache(t *testing.T) {
	t.Parallel()
	c := &filters{enabled: true}
	get := func(kind, expression string) *filter {
		t.Helper()
		f, err := c.get(kind, expression)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a := get(remoting.ExpressionSQL92, "a = 1")
	if get(remoting.ExpressionSQL92, "a = 1") != a || get("", "a = 1") == a || get("", "A") != get(remoting.ExpressionTag, "A") || get("", "*") != allMessages {
		t.Error("one expression has two filters, or two have one")
	}
	for i := range 3 * maxFilterCache / 400_000 {
		get(remoting.ExpressionSQL92, fmt.Sprintf("b = %d%s", i, strings.Repeat(" OR b=1", 1300)))
		get(remoting.ExpressionSQL92, "a = 1")
	}
	if get(remoting.ExpressionSQL92, "a = 1") != a {
		t.Error("a filter in use was forgotten")
	}
	total := 0
	for _, m := range []map[filterKey]*filter{c.young, c.old} {
		for k, f := range m {
			total += f.size + len(k.expression)
		}
	}
	if total > 2*maxFilterCache+1<<20 {
		t.Errorf("%d bytes are kept", total)
	}
}
