package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// shortLocks has locks end soon.
func shortLocks(live time.Duration) func(*Config) {
	return func(c *Config) { c.RebalanceLockMaxLiveTime = Duration(live) }
}

// locking is a request for queues of the group broker-a.
func locking(code int32, group, client, topic string, queues ...int32) *remoting.Command {
	r := remoting.LockRequest{ConsumerGroup: group, ClientID: client}
	for _, q := range queues {
		r.Queues = append(r.Queues, remoting.MessageQueue{Topic: topic, BrokerName: "broker-a", QueueID: q})
	}
	return &remoting.Command{Code: code, Body: r.AppendBody(nil)}
}

// lock asks for queues and returns those that the client has then.
func (c *testClient) lock(group, client, topic string, queues ...int32) (held []int32) {
	c.t.Helper()
	resp, err := c.call(locking(remoting.LockBatchMQ, group, client, topic, queues...))
	if err != nil {
		c.t.Fatal(err)
	}
	var ok remoting.LockResponse
	if err := ok.DecodeBody(resp.Body); err != nil {
		c.t.Fatal(err)
	}
	for _, q := range ok {
		if q.Topic != topic || q.BrokerName != "broker-a" {
			c.t.Errorf("locked %+v, which is none of those asked for", q)
		}
		held = append(held, q.QueueID)
	}
	return held
}

func (c *testClient) unlock(group, client, topic string, queues ...int32) {
	c.t.Helper()
	if _, err := c.call(locking(remoting.UnlockBatchMQ, group, client, topic, queues...)); err != nil {
		c.t.Fatal(err)
	}
}

func TestORDER02And03LocksOfOneClient(t *testing.T) {
	b := shared(t)
	c, topic, group := dial(t, b), named(t), named(t)
	c.topic(topic, 4)
	if got := c.lock(group, "one", topic, 0, 1, 2, 3, 1); !slices.Equal(got, []int32{0, 1, 2, 3}) {
		t.Fatalf("locked %v, want all", got)
	}
	if got := c.lock(group, "two", topic, 0, 3); got != nil {
		t.Errorf("a second client has locked %v", got)
	}
	if got := c.lock(named(t), "two", topic, 0, 3); len(got) != 2 {
		t.Errorf("another group has locked %v, want both", got)
	}
	before, _ := b.group.State().QueueLock(group, topic, 2)
	for range 20 {
		if got := c.lock(group, "one", topic, 0, 2); !slices.Equal(got, []int32{0, 2}) {
			t.Errorf("renewed %v, want both", got)
		}
	}
	if after, ok := b.group.State().QueueLock(group, topic, 2); !ok || after != before {
		t.Errorf("renewals took entries: the lock was %+v and is %+v", before, after)
	}
	c.unlock(group, "two", topic, 0, 1)
	if got := c.lock(group, "two", topic, 0, 1); got != nil {
		t.Errorf("what another client unlocked was free: %v", got)
	}
	c.unlock(group, "one", topic, 0)
	if got := c.lock(group, "two", topic, 0, 1); !slices.Equal(got, []int32{0}) {
		t.Errorf("a second client has locked %v, want what was unlocked", got)
	}
	if got := c.lock(group, "one", topic, 0, 1); !slices.Equal(got, []int32{1}) {
		t.Errorf("the first client has %v, want what it did not unlock", got)
	}
}

func TestORDER02LockEndsWithoutRenewal(t *testing.T) {
	t.Parallel()
	const live = time.Second
	cluster := startCluster(t, 1, shortLocks(live))
	b := cluster.leader(t)
	c, topic, group := dial(t, b), named(t), named(t)
	c.topic(topic, 2)
	start := time.Now()
	c.lock(group, "one", topic, 0, 1)
	eventually(t, "a second client has the lock", func() bool { return len(c.lock(group, "two", topic, 0)) == 1 })
	if d := time.Since(start); d < live {
		t.Errorf("the lock was given away after %v", d)
	}
	if got := c.lock(group, "one", topic, 0); got != nil {
		t.Errorf("the first client has %v back", got)
	}
	// What nobody asks for is not kept: the next leader would let it again.
	eventually(t, "the other lock has ended", func() bool { _, ok := b.group.State().QueueLock(group, topic, 1); return !ok })
}

func TestORDER02And07LockOutlivesTheLeader(t *testing.T) {
	t.Parallel()
	const live = 2 * time.Second
	cluster := startCluster(t, 3, func(c *Config) { shortLocks(live)(c); alone(c) })
	b := cluster.leader(t)
	c, topic, group := dial(t, b), named(t), named(t)
	c.topic(topic, 1)
	c.lock(group, "one", topic, 0)
	for _, end := range []func() *Broker{
		func() *Broker { return cluster.transfer(t) },
		func() *Broker {
			cluster.end(t, cluster.leader(t).cfg.NodeID)
			return cluster.leader(t)
		},
	} {
		b = end()
		changed := time.Now()
		c = dial(t, b)
		if got := c.lock(group, "two", topic, 0); got != nil && time.Since(changed) < live {
			t.Fatalf("after a leader change another client has %v", got)
		}
		if got := c.lock(group, "one", topic, 0); len(got) != 1 && time.Since(changed) < live {
			t.Fatalf("after a leader change the holder has %v", got)
		}
		if wrong, err := dial(t, cluster.followers(t)[0]).call(locking(remoting.LockBatchMQ, group, "two", topic, 0)); codeOf(err) != remoting.ServiceNotAvailable ||
			wrong.Ext.Get(extLeader) != b.addr.String() {
			t.Errorf("a follower answers %v, naming %q", err, wrong.Ext.Get(extLeader))
		}
	}
	renewed := time.Now()
	c.lock(group, "one", topic, 0)
	eventually(t, "a second client has the lock", func() bool { return len(c.lock(group, "two", topic, 0)) == 1 })
	if d := time.Since(renewed); d < live {
		t.Errorf("the lock was given away %v after its renewal", d)
	}
}

func TestLockRequestsThatMayNotBe(t *testing.T) {
	b := shared(t)
	c, topic, group := dial(t, b), named(t), named(t)
	c.topic(topic, 2)
	for name, req := range map[string]*remoting.Command{
		"no client":     locking(remoting.LockBatchMQ, group, "", topic, 0),
		"long client":   locking(remoting.LockBatchMQ, group, strings.Repeat("x", maxClientID+1), topic, 0),
		"bad group":     locking(remoting.LockBatchMQ, "a/b", "one", topic, 0),
		"no group":      locking(remoting.UnlockBatchMQ, "", "one", topic, 0),
		"too many":      locking(remoting.LockBatchMQ, group, "one", topic, make([]int32, maxLockQueues+1)...),
		"long body":     {Code: remoting.LockBatchMQ, Body: []byte(`{"clientId":"c","consumerGroup":"g"}` + strings.Repeat(" ", maxLockRequest))},
		"no body":       {Code: remoting.LockBatchMQ},
		"no JSON":       {Code: remoting.UnlockBatchMQ, Body: []byte("lock")},
		"queues a text": {Code: remoting.LockBatchMQ, Body: []byte(`{"clientId":"c","consumerGroup":"g","mqSet":"all"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.call(req)
			wantCode(t, err, remoting.InvalidParameter)
		})
	}
	if got := c.lock(group, "one", topic, -1, 0, 2, 1<<30); !slices.Equal(got, []int32{0}) {
		t.Errorf("locked %v, want the only queue that exists", got)
	}
	if got := c.lock(group, "one", named(t), 0); got != nil {
		t.Errorf("locked %v of a topic that does not exist", got)
	}
	other := remoting.LockRequest{ConsumerGroup: group, ClientID: "one", Queues: []remoting.MessageQueue{{Topic: topic, BrokerName: "broker-z", QueueID: 1}}}
	resp, err := c.call(&remoting.Command{Code: remoting.LockBatchMQ, Body: other.AppendBody(nil)})
	if err != nil || string(resp.Body) != `{"lockOKMQSet":[]}` {
		t.Errorf("the queue of another broker: %s, %v", resp.Body, err)
	}
}

// A group that holds a queue consumes in order: what it sends back as a copy is
// dead, whatever its count, and comes back to it no more.
func TestCopyOfAnOrderedGroupIsDead(t *testing.T) {
	b := shared(t)
	c, topic, group := dial(t, b), named(t), named(t)
	c.topic(topic, 1)
	c.group(group)
	h := message(remoting.RetryTopic(group), 0, remoting.PropRetryTopic, topic, remoting.PropDelay, "1")
	h.ReconsumeTimes, h.MaxReconsumeTimes = 1, 16
	c.lock(group, "one", topic, 0)
	c.mustSend(h, "dead")
	if got := bodiesOf(c.arrived(remoting.DLQTopic(group), 0, 1)); !slices.Equal(got, []string{"dead"}) {
		t.Errorf("dead letters %q", got)
	}
	c.unlock(group, "one", topic, 0)
	c.mustSend(h, "again")
	if got := bodiesOf(c.all(remoting.DLQTopic(group), 0)); !slices.Equal(got, []string{"dead"}) {
		t.Errorf("without a lock dead letters are %q", got)
	}
}

func TestLocksAreBounded(t *testing.T) {
	b := shared(t)
	c, topic, group := dial(t, b), named(t), named(t)
	c.topic(topic, 100)
	queues := make([]int32, 100)
	for i := range queues {
		queues[i] = int32(i)
	}
	for i := range 50 {
		c.lock(group, fmt.Sprint("client-", i), topic, queues...)
	}
	n := 0
	b.group.State().QueueLocks(func(l fsm.QueueLock) {
		if l.Group == group {
			n++
		}
	})
	if n != len(queues) {
		t.Errorf("%d locks for %d queues", n, len(queues))
	}
}

// TestORDER07ClientsCompete has clients lock, renew and unlock one queue while
// leaders change and die. Each relies on a lock for its whole life, from the
// request on; no two may at once.
func TestORDER07ClientsCompete(t *testing.T) {
	t.Parallel()
	const live = time.Second
	seed := rand.Uint64()
	if s := os.Getenv("RAFTMQ_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RAFTMQ_SEED=%d", seed)
	cluster := startCluster(t, 3, func(c *Config) {
		shortLocks(live)(c)
		c.ElectionTimeout = Duration(300 * time.Millisecond)
	})
	c, topic, group := dial(t, cluster.leader(t)), named(t), named(t)
	c.topic(topic, 1)
	c.group(group)
	var addrs []string
	for _, b := range cluster.brokers() {
		addrs = append(addrs, b.addr.String())
	}

	var mu sync.Mutex
	holder, until, handovers := "", time.Time{}, 0
	got := func(client string, asked time.Time) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if holder != client {
			if now.Before(until) {
				t.Errorf("%s has the lock while %s relies on it for %v more", client, holder, until.Sub(now))
			}
			holder = client
			handovers++
		}
		until = asked.Add(live)
	}
	release := func(client string) { // before it asks the broker
		mu.Lock()
		defer mu.Unlock()
		if holder == client {
			until = time.Time{}
		}
	}

	span := 5 * time.Second
	if os.Getenv("RAFTMQ_LONG") != "" {
		span = time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), span)
	defer cancel()
	var clients sync.WaitGroup
	for i := range 3 {
		name, rng := fmt.Sprint("client-", i), rand.New(rand.NewPCG(seed, uint64(i)))
		clients.Go(func() {
			compete(ctx, rng, addrs, name, locking(remoting.LockBatchMQ, group, name, topic, 0),
				locking(remoting.UnlockBatchMQ, group, name, topic, 0), got, release)
		})
	}
	rng := rand.New(rand.NewPCG(seed, 99))
	for ctx.Err() == nil {
		if rng.IntN(2) == 0 {
			cluster.transfer(t)
		} else {
			id := cluster.leader(t).cfg.NodeID
			cluster.end(t, id)
			cluster.leader(t)
			cluster.mustStart(t, id)
		}
		cluster.caughtUp(t)
		select {
		case <-time.After(time.Duration(rng.Int64N(int64(live)))):
		case <-ctx.Done():
		}
	}
	clients.Wait()
	if handovers < 2 {
		t.Errorf("the lock went from hand to hand %d times only", handovers)
	}
	t.Logf("%d handovers", handovers)
}

// compete asks replica after replica for a lock. What it does not hear about it
// does not rely on.
func compete(ctx context.Context, rng *rand.Rand, addrs []string, name string, lock, unlock *remoting.Command, got func(string, time.Time), release func(string)) {
	call := func(addr string, req *remoting.Command) (*remoting.Command, error) {
		nc, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return nil, err
		}
		conn := remoting.NewConn(nc, remoting.ConnConfig{}, nil)
		defer conn.Close() // its error is always nil
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		return conn.Call(ctx, &remoting.Command{Code: req.Code, Body: req.Body})
	}
	for ctx.Err() == nil {
		asked := time.Now()
		resp, err := call(addrs[rng.IntN(len(addrs))], lock)
		var held remoting.LockResponse
		if err == nil && resp.Code == remoting.Success && held.DecodeBody(resp.Body) == nil && len(held) == 1 {
			got(name, asked)
			if rng.IntN(4) == 0 {
				release(name)
				for range 3 {
					if resp, err := call(addrs[rng.IntN(len(addrs))], unlock); err == nil && resp.Code == remoting.Success {
						break
					}
				}
			} else if rng.IntN(12) == 0 {
				// Gone without a word: the lock has to run out.
				select {
				case <-time.After(1500 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
		select {
		case <-time.After(time.Duration(20+rng.IntN(80)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
