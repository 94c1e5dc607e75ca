package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// isHeld waits until a broker holds as many pulls, so that what a test does next
// finds them held. The broker must be the test's own.
func isHeld(t testing.TB, b *Broker, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " pulls held"), func() bool { return b.holds.count() == n })
}

func TestPULL04HeldUntilAMessageComes(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 2)
	c.mustSend(message("T", 0), "old")
	// At the end of a queue that never had a message, and of one that has.
	for _, queue := range []int32{1, 0} {
		end := int64(len(c.all("T", queue)))
		answer := c.pulling(pullOf("T", queue, end, held(time.Minute)))
		isHeld(t, b, 1)
		c.mustSend(message("T", 1-queue), "elsewhere")
		sent := time.Now()
		c.mustSend(message("T", queue), "new")
		if p := <-answer; !slices.Equal(p.bodies(), []string{"new"}) || p.NextBeginOffset != end+1 {
			t.Errorf("queue %d: %q, code %d", queue, p.bodies(), p.code)
		}
		t.Logf("woken %v after the send began", time.Since(sent))
		isHeld(t, b, 0)
	}
}

func TestPULL04HeldUntilItsTimeIsUp(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	c.topic(topic, 1)
	begin := time.Now()
	p := c.pull(pullOf(topic, 0, 0, held(300*time.Millisecond)))
	took := time.Since(begin)
	if p.code != remoting.PullNotFound || p.NextBeginOffset != 0 || took < 300*time.Millisecond || took > 5300*time.Millisecond {
		t.Errorf("after %v: code %d, %+v", took, p.code, p.PullResponse)
	}
}

func TestPULL05HeldPullIsNotAnsweredWithOtherTags(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	quick := pullOf("T", 0, 0, held(400*time.Millisecond), tagged("A"))
	long := pullOf("T", 0, 0, held(time.Minute), tagged("A||C"))
	atItsTime, whenItComes := c.pulling(quick), c.pulling(long)
	isHeld(t, b, 2)
	for range 3 {
		c.mustSend(message("T", 0, remoting.PropTags, "B"), "b")
	}
	c.mustSend(message("T", 0), "without a tag")
	// Once all have passed it is at its end and finds nothing.
	if p := c.found(t, quick, atItsTime); p.code != remoting.PullNotFound || quick.QueueOffset != 4 || len(p.records) != 0 {
		t.Errorf("at its time: code %d, next %d", p.code, quick.QueueOffset)
	}
	c.mustSend(message("T", 0, remoting.PropTags, "C"), "c")
	if p := c.found(t, long, whenItComes); !slices.Equal(p.bodies(), []string{"c"}) || p.NextBeginOffset != 5 {
		t.Errorf("when its tag came: %q, next %d", p.bodies(), p.NextBeginOffset)
	}
}

// Many pulls on many queues, each woken by its own queue's message, whatever the
// order of holding and sending.
func TestNoWakeIsLost(t *testing.T) {
	t.Parallel()
	c := dial(t, shared(t))
	topic := named(t)
	const queues, rounds = 16, 30
	c.topic(topic, queues)
	for round := range int64(rounds) {
		var answers []<-chan testPulled
		for q := range int32(queues) {
			answers = append(answers, c.pulling(pullOf(topic, q, round, held(time.Minute))))
			c.mustSend(message(topic, q), fmt.Sprint(round, " ", q))
		}
		for q, answer := range answers {
			if p := <-answer; !slices.Equal(p.bodies(), []string{fmt.Sprint(round, " ", q)}) {
				t.Fatalf("round %d, queue %d: %q, code %d", round, q, p.bodies(), p.code)
			}
		}
	}
}

func TestHeldPullOfATopicThatIsDeleted(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	c.mustSend(message("T", 0), "m")
	answer := c.pulling(pullOf("T", 0, 1, held(time.Minute)))
	isHeld(t, b, 1)
	c.must(remoting.DeleteTopicInBroker, &remoting.TopicRequest{Topic: "T"})
	c.topic("T", 1) // made again before anybody looks: it is another topic
	wantCode(t, (<-answer).err, remoting.TopicNotExist)
}

func TestHeldPullThatIsNotAllowedAnyMore(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 2)
	c.group("g")
	for what, forbid := range map[string]func(){
		"consumeEnable":  func() { c.group("g", func(g *remoting.GroupConfig) { g.ConsumeEnable = false }) },
		"read permision": func() { c.topic("T", 2, func(tc *remoting.TopicConfig) { tc.Perm = remoting.PermWrite }) },
	} {
		answer := c.pulling(pullOf("T", 1, 0, held(time.Minute)))
		isHeld(t, b, 1)
		forbid()
		if p := <-answer; p.code != remoting.NoPermission {
			t.Errorf("%s: code %d", what, p.code)
		}
		c.topic("T", 2)
		c.group("g")
	}
	answer := c.pulling(pullOf("T", 1, 0, held(time.Minute)))
	isHeld(t, b, 1)
	c.topic("T", 1)
	wantCode(t, (<-answer).err, remoting.InvalidParameter)
}

// A pull that is held survives a change of leaders, and gets what the next one
// stores.
func TestHeldPullOverALeaderChange(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	old := cl.leader(t)
	c := dial(t, old)
	c.topic("T", 1)
	answer := c.pulling(pullOf("T", 0, 0, held(time.Minute)))
	isHeld(t, old, 1)
	next := cl.transfer(t)
	dial(t, next).mustSend(message("T", 0), "by the next")
	if p := <-answer; !slices.Equal(p.bodies(), []string{"by the next"}) {
		t.Errorf("%q, code %d", p.bodies(), p.code)
	}
}

func TestHeldPullsOfAConnectionThatIsGone(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c, other := dial(t, b), dial(t, b)
	c.topic("T", 1)
	for range 50 {
		c.pulling(pullOf("T", 0, 0, held(time.Minute)))
	}
	answer := other.pulling(pullOf("T", 0, 0, held(time.Minute)))
	isHeld(t, b, 51)
	c.conn.Close()
	isHeld(t, b, 1)
	other.mustSend(message("T", 0), "m")
	if p := <-answer; len(p.records) != 1 {
		t.Errorf("the other connection's: code %d", p.code)
	}
}

// A closing node answers what it holds.
func TestHeldPullsWhenTheNodeCloses(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	answer := c.pulling(pullOf("T", 0, 0, held(time.Minute)))
	isHeld(t, b, 1)
	closed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		closed <- cl.nodes["n1"].Close(ctx)
	}()
	if p := <-answer; p.code != remoting.PullNotFound || p.NextBeginOffset != 0 {
		t.Errorf("code %d, %v", p.code, p.err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// More pulls than may be held are refused, and not kept.
func TestTooManyHeldPulls(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, func(c *Config) { c.MaxHeldPulls = 10 })
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	var answers []<-chan testPulled
	for range 10 {
		answers = append(answers, c.pulling(pullOf("T", 0, 0, held(time.Minute))))
	}
	isHeld(t, b, 10)
	wantCode(t, c.pull(pullOf("T", 0, 0, held(time.Minute))).err, remoting.SystemBusy)
	c.mustSend(message("T", 0), "m")
	for _, answer := range answers {
		if p := <-answer; len(p.records) != 1 {
			t.Errorf("code %d", p.code)
		}
	}
}

// What this replica has lost is waited for, without looking again and again, and
// then the client is sent to another one.
func TestPullOfWhatIsMissing(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, nil).leader(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	c.mustSend(message(topic, 0), "m")
	c.pull(pullOf(topic, 0, 0)) // makes the consumer group
	s := b.sessions.of(sessionConn(t, b, c))
	op := &pullOp{b: b, s: s, index: -1, h: *pullOf(topic, 0, 0, held(time.Minute)), deadline: time.Now().Add(time.Minute)}
	if err := op.check(); err != nil {
		t.Fatal(err)
	}
	before := b.holds.count()
	if !op.hold(time.Now().Add(time.Hour), false) {
		t.Fatal("not held")
	}
	// There is a message for it: one that waits for messages would be looked at.
	c.mustSend(message(topic, 0), "another")
	b.holds.recheck(false)
	if got := b.holds.count(); got != before+1 {
		t.Errorf("%d pulls are held, there were %d and one that waits for what is missing", got, before)
	}
	c.conn.Close()
	eventually(t, "it is forgotten with its connection", func() bool {
		b.holds.mu.Lock()
		defer b.holds.mu.Unlock()
		return !op.held
	})
}

// sessionConn finds the broker's end of a client's connection.
func sessionConn(t testing.TB, b *Broker, c *testClient) *remoting.Conn {
	t.Helper()
	for _, conn := range b.server.Conns() {
		if conn.RemoteAddr().String() == c.conn.LocalAddr().String() {
			return conn
		}
	}
	t.Fatal("the broker does not have the connection")
	return nil
}

func TestSuggestionOfAnotherReplica(t *testing.T) {
	for _, x := range []struct {
		replicas   int
		self, want int64
		other      int64
	}{
		{1, 1, 1, 0}, {3, 1, 1, 2}, {3, 2, 1, 1}, {3, 3, 0, 1}, {3, 3, 2, 2}, {3, 2, 7, 3}, {2, 2, -1, 1},
	} {
		var members []fsm.Member
		for id := range x.replicas {
			members = append(members, fsm.Member{BrokerID: int64(id) + 1})
		}
		if got := anotherOf(members, x.self, x.want); got != x.other {
			t.Errorf("replica %d of %d, %d is wanted: %d, want %d", x.self, x.replicas, x.want, got, x.other)
		}
	}
}

// Row 16: a client that pulls and does not read costs itself only.
func TestReaderThatNeverReads(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, func(c *Config) {
		c.ServerMaxPendingBytes = 1 << 20
		c.TransferBytesOnMessageInMem = 4 << 20
	})
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	for range 4 {
		c.mustSend(message("T", 0), strings.Repeat("x", 1<<20))
	}
	// The greedy one asks for 3 GiB and reads nothing. Its requests may be taken or
	// left; what it makes the broker keep is what counts.
	greedy := rawDial(t, b.addr.String())
	frame := rawFrame(t, &remoting.Command{Code: remoting.PullMessage, Header: pullOf("T", 0, 0)})
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for range 1000 {
			if _, err := greedy.Write(frame); err != nil {
				return
			}
		}
	}()
	eventually(t, "answers that wait for it", func() bool { return b.pulling.bytes.Load() > 0 })
	for range 20 {
		if p := c.pull(pullOf("T", 0, 0)); len(p.records) != 3 {
			t.Fatalf("another client gets %d messages, code %d", len(p.records), p.code)
		}
		c.mustSend(message("T", 0), "and sends")
		// What waits: answers up to the limit, and one for each that looked at once.
		if kept := b.pulling.bytes.Load(); kept > int64(1+b.cfg.MaxBlockingRequests)*5<<20 {
			t.Fatalf("%d bytes are kept for a client that does not read", kept)
		}
	}
	greedy.Close()
	<-wrote
	eventually(t, "all of it given back", func() bool { return b.pulling.bytes.Load() == 0 })
}
