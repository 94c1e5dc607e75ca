package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

// What a group knows of its clients and what it promised them goes on with the next
// leader: consumer ids here; locks TestORDER02And07LockOutlivesTheLeader, delayed
// messages TestDELAY05OverLeaderChanges, transactions TestTX11..., the window of
// sends TestSEND22..., offsets TestOFF09OffsetsOverLeaderChanges.

// Consumers send heartbeats to all replicas, so the next leader knows them; one
// that was started a moment ago, and has not heard of all, asks the others.
func TestConsumerIDsOverAFailover(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	old, next := cl.leader(t), cl.followers(t)[0]
	beat := func(b *Broker, ids ...string) {
		for _, id := range ids {
			dial(t, b).beat(id, consumer("g", "T", "*"))
		}
	}
	dial(t, old).topic("T", 1)
	for _, b := range cl.brokers() {
		beat(b, "c1", "c2", "c3")
	}
	id := next.cfg.NodeID
	cl.end(t, id)
	cl.mustStart(t, id)
	next = cl.brokers()[id]
	beat(next, "c1") // the others have yet to notice
	cl.caughtUp(t)
	eventually(t, "the transfer", func() bool { return old.group.TransferLeadership(t.Context(), id) == nil })
	eventually(t, "the new leader", next.leads)
	if got := dial(t, next).ids("g"); !slices.Equal(got, []string{"c1", "c2", "c3"}) {
		t.Errorf("the new leader knows %q", got)
	}
	cl.end(t, id) // as if it was killed
	last := cl.leader(t)
	if got := dial(t, last).ids("g"); !slices.Equal(got, []string{"c1", "c2", "c3"}) {
		t.Errorf("the leader after it knows %q", got)
	}
}

// Reads go on while nobody leads, from whoever is left, and nothing is skipped or
// read twice.
func TestHA11ReadsGoOnWithoutALeader(t *testing.T) {
	t.Parallel()
	const n = 300
	cl := startCluster(t, 3, nil)
	leader := cl.leader(t)
	c := dial(t, leader)
	c.topic("T", 1)
	for i := range n {
		c.mustSend(message("T", 0), fmt.Sprint(i))
	}
	cl.caughtUp(t)
	for _, id := range cl.ids() {
		eventually(t, "the topic's route", func() bool {
			_, err := cl.route(t, id, "T")
			return err == nil
		})
	}
	pc, err := cl.ours(t, client.Config{}).NewPullConsumer(client.PullConfig{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	queue := client.MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: 0}
	left := cl.followers(t)[0]
	next := int64(0)
	for next < n {
		if next >= n/3 && len(cl.brokers()) == 3 {
			for _, id := range cl.ids() {
				if id != left.cfg.NodeID {
					cl.end(t, id)
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		r, err := pc.Pull(ctx, client.PullRequest{Queue: queue, Offset: next, Max: 10})
		cancel()
		if err != nil {
			t.Fatalf("from offset %d: %v", next, err)
		}
		if r.Status == client.PullOffsetMoved {
			t.Fatalf("offset %d is said to be wrong: go on at %d", next, r.NextOffset)
		}
		for _, m := range r.Messages {
			if m.QueueOffset != next || string(m.Body) != fmt.Sprint(next) {
				t.Fatalf("at offset %d there is %q, of offset %d", next, m.Body, m.QueueOffset)
			}
			next++
		}
		if r.NextOffset != next {
			t.Fatalf("after offset %d comes %d", next, r.NextOffset)
		}
	}
	if left.leads() {
		t.Error("the one that is left leads")
	}
}

// A consumer that is behind is sent to a follower, and back when it has caught up;
// it gets everything once.
func TestConsumerGoesToAFollowerAndBack(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, func(c *Config) { c.AccessMessageInMemory = 64 << 10 })
	leader := cl.leader(t)
	c := dial(t, leader)
	c.topic("T", 1)
	const behind, fresh = 60, 5
	for i := range behind {
		c.mustSend(message("T", 0), fmt.Sprint(i, " ", strings.Repeat("x", 10<<10)))
	}
	cl.caughtUp(t)
	for _, id := range cl.ids() {
		eventually(t, "the topic's route, with all replicas", func() bool {
			r, err := cl.route(t, id, "T")
			return err == nil && len(r.Brokers) == 1 && len(r.Brokers[0].Addrs) == 3
		})
	}
	followers := cl.followers(t)
	served := func(all ...*Broker) (n int64) {
		for _, b := range all {
			n += b.counters.get.n.Load()
		}
		return n
	}
	// It takes no more than a few messages before all replicas know its group: a
	// follower that does not sends it back, and all would come from the leader.
	var got inbox
	known := make(chan struct{})
	listen := func(ctx context.Context, ms []*client.MessageExt) error {
		<-known
		return got.listen(ctx, ms)
	}
	p := consume(t, cl.ours(t, client.Config{}), "T", client.PushConfig{Group: "g", From: client.FromFirst, MaxMessages: 4}, listen)
	for _, b := range append(followers, leader) {
		eventually(t, "that all replicas know the consumer and its group", func() bool {
			_, ok := b.group.State().Group("g")
			return ok && len(b.clients.consumerIDs("g")) == 1
		})
	}
	close(known)
	eventually(t, "what it is behind", func() bool { return len(got.all()) >= behind })
	if served(followers...) == 0 || served(leader) == 0 {
		t.Errorf("the leader has served %d messages, followers %d", served(leader), served(followers...))
	}
	before := served(leader)
	for i := range fresh {
		c.mustSend(message("T", 0), fmt.Sprint(behind+i, " "))
		eventually(t, "the next message", func() bool { return len(got.all()) > behind+i })
	}
	if served(leader) == before {
		t.Error("it has not come back to the leader")
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	offsets := map[int64]int{}
	for _, m := range got.all() {
		offsets[m.QueueOffset]++
		if offsets[m.QueueOffset] > 1 || !strings.HasPrefix(string(m.Body), fmt.Sprint(m.QueueOffset, " ")) {
			t.Errorf("offset %d came %d times, with %.20q", m.QueueOffset, offsets[m.QueueOffset], m.Body)
		}
	}
	if len(offsets) != behind+fresh {
		t.Errorf("%d messages came, want %d", len(offsets), behind+fresh)
	}
}

// A replica that lacks the messages says so by sending the client elsewhere, never
// by calling the offset wrong.
func TestHA04ReplicaThatLacksMessagesSendsElsewhere(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, func(c *Config) {
		c.RaftSegmentSize, c.RaftSnapshotBytes, c.RaftTrailingBytes = 16<<20, 1<<20, 64<<10
		c.CatchUpBytesPerSec = 64 << 10 // it takes its time
	})
	leader := cl.leader(t)
	c := dial(t, leader)
	c.topic("T", 1)
	id := cl.followers(t)[0].cfg.NodeID
	cl.caughtUp(t)
	cl.end(t, id)
	const n = 400
	for i := range n {
		c.mustSend(message("T", 0), fmt.Sprint(i, " ", strings.Repeat("x", 10<<10)))
	}
	if err := leader.group.Snapshot(); err != nil {
		t.Fatal(err)
	}
	cl.mustStart(t, id)
	b := cl.brokers()[id]
	eventually(t, "a replica that lacks something", func() bool { return b.group.Status().Missing > 0 })
	f := dial(t, b)
	tools := func(h *remoting.PullRequest) { h.ConsumerGroup = remoting.GroupTools }
	asked, elsewhere := 0, 0
	for at := int64(0); at < n; at += 37 {
		if b.group.Status().Missing == 0 {
			break
		}
		asked++
		switch p := f.pull(pullOf("T", 0, at, tools)); p.code {
		case remoting.Success:
			if !strings.HasPrefix(p.bodies()[0], fmt.Sprint(at, " ")) {
				t.Errorf("at %d it serves %.20q", at, p.bodies()[0])
			}
		case remoting.PullRetryImmediately:
			elsewhere++
			if p.NextBeginOffset != at || p.SuggestBrokerID != 0 {
				t.Errorf("at %d it says: go on at %d of broker %d", at, p.NextBeginOffset, p.SuggestBrokerID)
			}
		default:
			t.Errorf("at %d it answers %d: %+v", at, p.code, p.PullResponse)
		}
	}
	if elsewhere == 0 {
		t.Errorf("of %d pulls none was sent elsewhere", asked)
	}
}
