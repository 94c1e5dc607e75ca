package client

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// TestAllocateAverage compares with RocketMQ's formula.
func TestAllocateAverage(t *testing.T) {
	for q := range 40 {
		var queues []MessageQueue
		for i := range q {
			queues = append(queues, MessageQueue{Topic: "T", BrokerName: "b", QueueID: int32(i)})
		}
		for c := 1; c < 12; c++ {
			var clients []string
			for i := range c {
				clients = append(clients, fmt.Sprintf("c%02d", i))
			}
			for i, self := range clients {
				m := q % c
				n := q / c
				if q <= c {
					n = 1
				} else if m > 0 && i < m {
					n++
				}
				from := i*n + m
				if m > 0 && i < m {
					from = i * n
				}
				var want []MessageQueue
				if k := min(n, q-from); k > 0 {
					want = queues[from : from+k]
				}
				if got := AllocateAverage(self, queues, clients); !slices.Equal(got, want) {
					t.Errorf("%d queues, client %d of %d: %v, want %v", q, i, c, got, want)
				}
			}
			if got := AllocateAverage("stranger", queues, clients); len(got) != 0 {
				t.Errorf("a client that is not in the list gets %v", got)
			}
		}
	}
}

// sharesOf returns what each of some clients gets of queues, by index.
func sharesOf(allocate Allocator, queues []MessageQueue, clients []string) (shares [][]int) {
	for _, self := range clients {
		share := []int{}
		for _, q := range allocate(self, queues, clients) {
			share = append(share, slices.Index(queues, q))
		}
		shares = append(shares, share)
	}
	return shares
}

// queuesOf returns n queues of T at each of some brokers.
func queuesOf(n int, brokers ...string) (queues []MessageQueue) {
	for _, b := range brokers {
		for i := range n {
			queues = append(queues, MessageQueue{Topic: "T", BrokerName: b, QueueID: int32(i)})
		}
	}
	return queues
}

func TestREBAL01And02Shares(t *testing.T) {
	for _, row := range []struct {
		allocate        Allocator
		queues, clients int
		want            string
	}{
		{AllocateAverage, 8, 3, "[[0 1 2] [3 4 5] [6 7]]"}, {AllocateByCircle, 8, 3, "[[0 3 6] [1 4 7] [2 5]]"},
		{AllocateAverage, 4, 5, "[[0] [1] [2] [3] []]"}, {AllocateByCircle, 4, 5, "[[0] [1] [2] [3] []]"},
	} {
		clients := []string{"a", "b", "c", "d", "e"}[:row.clients]
		if got := fmt.Sprint(sharesOf(row.allocate, queuesOf(row.queues, "b"), clients)); got != row.want {
			t.Errorf("%d queues, %d clients: %s, want %s", row.queues, row.clients, got, row.want)
		}
	}
}

// TestREBAL07JavaShares: the shares that Java's client 5.3.3 computes.
func TestREBAL07JavaShares(t *testing.T) {
	queues := queuesOf(4, "hz@broker-a", "hz@broker-b", "sh@broker-c")
	clients := []string{"10.0.0.1@100#1", "10.0.0.2@100#2", "10.0.0.3@100#3"}
	for name, row := range map[string]struct {
		allocate Allocator
		want     string
	}{
		"AVG":             {AllocateAverage, "[[0 1 2 3] [4 5 6 7] [8 9 10 11]]"},
		"AVG_BY_CIRCLE":   {AllocateByCircle, "[[0 3 6 9] [1 4 7 10] [2 5 8 11]]"},
		"CONSISTENT_HASH": {AllocateConsistentHash, "[[7 8 9] [0 1 2 10 11] [3 4 5 6]]"},
		"MACHINE_ROOM":    {AllocateMachineRoom("hz"), "[[0 1 6] [2 3 7] [4 5]]"},
	} {
		if got := fmt.Sprint(sharesOf(row.allocate, queues, clients)); got != row.want {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
	// Whatever there is, each queue goes to one client, of MACHINE_ROOM those of the rooms.
	rng := seeded(t)
	for range 200 {
		queues := queuesOf(rng.IntN(20), "r@a", "r@b", "s@c", "d")
		var clients []string
		for range 1 + rng.IntN(8) {
			clients = append(clients, fmt.Sprintf("10.0.0.1@%d", rng.Uint32()))
		}
		slices.Sort(clients)
		clients = slices.Compact(clients)
		for name, allocate := range map[string]Allocator{"average": AllocateAverage, "circle": AllocateByCircle, "hash": AllocateConsistentHash, "room": AllocateMachineRoom("r", "s")} {
			times := map[MessageQueue]int{}
			for _, c := range clients {
				for _, q := range allocate(c, queues, clients) {
					times[q]++
				}
			}
			for _, q := range queues {
				want := 1
				if name == "room" && q.BrokerName == "d" {
					want = 0
				}
				if times[q] != want {
					t.Fatalf("%s: %v is given to %d of %d clients", name, q, times[q], len(clients))
				}
			}
			if got := allocate("stranger", queues, clients); len(got) != 0 {
				t.Errorf("%s: a client that is not in the list gets %v", name, got)
			}
		}
	}
}

// TestOwnAllocator: a function of the user's decides, but only among the topic's queues, and each once.
func TestOwnAllocator(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 4)
		last := func(self string, queues []MessageQueue, clients []string) []MessageQueue {
			if queues[0].Topic != "T" {
				return nil
			}
			return []MessageQueue{queues[3], queues[3], {Topic: "T", BrokerName: "broker-a", QueueID: 99}, queues[1]}
		}
		p := c.push(PushConfig{Allocate: last}, "*", new(received).listen)
		pass(time.Second)
		want := queuesOf(4, "broker-a")
		if got := p.Queues(); !slices.Equal(got, []MessageQueue{want[1], want[3]}) {
			t.Errorf("got %v", got)
		}
	})
}

// TestRebalance: 1 to 5 consumers come and go, and have the shares of the formula (REBAL-01: 8 queues; REBAL-02: 4).
func TestRebalance(t *testing.T) {
	for _, queues := range []int{8, 4} {
		t.Run(fmt.Sprintf("queues=%d", queues), func(t *testing.T) {
			bubble(t, 1, 3, func(t *testing.T, c *cluster) {
				c.topic("T", queues)
				var list []*PushConsumer
				var r received
				check := func() {
					t.Helper()
					pass(100 * time.Millisecond)
					ids := []string{}
					for _, p := range list {
						ids = append(ids, p.c.ID())
					}
					slices.Sort(ids)
					var all []MessageQueue
					for i := range queues {
						all = append(all, MessageQueue{Topic: "T", BrokerName: "broker-a", QueueID: int32(i)})
					}
					for _, p := range list {
						got := slices.DeleteFunc(p.Queues(), func(q MessageQueue) bool { return q.Topic != "T" })
						if want := AllocateAverage(p.c.ID(), all, ids); !slices.Equal(got, want) {
							t.Errorf("%d consumers, %s: %v, want %v", len(list), p.c.ID(), got, want)
						}
					}
				}
				for range 5 {
					list = append(list, c.push(PushConfig{}, "*", r.listen))
					check()
				}
				// One leaves, one crashes: the others share what it had at once.
				if err := list[2].Close(t.Context()); err != nil {
					t.Error(err)
				}
				list = slices.Delete(list, 2, 3)
				check()
				crashed := list[0]
				list = list[1:]
				for _, p := range crashed.c.peers {
					if conn := p.conn.Load(); conn != nil {
						c.net.(*pipes).hole(p.addr, true)
						conn.Fail(errors.New("crash"))
					}
				}
				check()
				for addr := range c.net.(*pipes).holes {
					c.net.(*pipes).hole(addr, false)
				}
				pass(30 * time.Second)
			})
		})
	}
}

// TestRebalanceUnderLoad: consumers come and go while messages flow; none is lost.
func TestRebalanceUnderLoad(t *testing.T) {
	bubble(t, 2, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 4)
		rng := seeded(t)
		prod := c.producer(ProducerConfig{})
		var r received
		var list []*PushConsumer
		const n = 400
		for i := range n {
			if i%25 == 0 {
				if len(list) > 0 && (len(list) == 4 || rng.IntN(2) == 0) {
					if err := list[0].Close(t.Context()); err != nil {
						t.Error(err)
					}
					list = list[1:]
				} else {
					list = append(list, c.push(PushConfig{From: FromFirst}, "*", r.listen))
				}
			}
			mustSend(t, prod, &Message{Topic: "T", Body: fmt.Append(nil, i)})
			pass(time.Duration(rng.IntN(50)) * time.Millisecond)
		}
		if len(list) == 0 {
			c.push(PushConfig{From: FromFirst}, "*", r.listen)
		}
		pass(time.Minute)
		times := r.times()
		for i := range n {
			if times[fmt.Sprint(i)] == 0 {
				t.Errorf("message %d was lost", i)
			}
		}
	})
}

// TestClientListErrors: without an answer the queues are kept; a broker that has forgotten the client is told; a list without the client
// means no queues.
func TestClientListErrors(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 2)
		var r received
		p := c.push(PushConfig{}, "*", r.listen)
		pass(2 * time.Second)
		r0 := c.groups[0].replicas[0]
		if n := len(p.Queues()); n != 3 {
			t.Fatalf("%d queues", n)
		}
		r0.next(remoting.GetConsumerListByGroup, slices.Repeat([]script{answerWith(remoting.SystemError)}, 4)...)
		p.rebalanceNow()
		synctest.Wait()
		if n := len(p.Queues()); n != 3 {
			t.Errorf("%d queues after errors", n)
		}
		c.groups[0].mu.Lock()
		r0.clients = map[string]map[string]*remoting.Conn{}
		beats := len(r0.beats)
		c.groups[0].mu.Unlock()
		pass(2 * time.Second)
		p.rebalanceNow()
		synctest.Wait()
		if n := len(p.Queues()); n != 3 || len(r0.beats) == beats {
			t.Errorf("%d queues after the broker has forgotten us, %d heartbeats", n, len(r0.beats)-beats)
		}
		others := remoting.ConsumerList{"somebody", "else"}
		r0.next(remoting.GetConsumerListByGroup, slices.Repeat([]script{{answer: &remoting.Command{Body: others.AppendBody(nil)}}}, 4)...)
		p.rebalanceNow()
		synctest.Wait()
		if n := len(p.Queues()); n != 0 {
			t.Errorf("%d queues, though the list does not have us", n)
		}
		pass(30 * time.Second)
		if n := len(p.Queues()); n != 3 {
			t.Errorf("%d queues in the end", n)
		}
	})
}

// TestSubscriptions: subscriptions come and go while the consumer runs, and brokers hear of them at once.
func TestSubscriptions(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		c.topic("U", 1)
		var r, u received
		p := c.push(PushConfig{From: FromFirst}, "*", r.listen)
		prod := c.producer(ProducerConfig{})
		mustSend(t, prod, &Message{Topic: "U", Body: []byte("0")})
		pass(time.Second)
		if err := p.Subscribe("U", "*", u.listen); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		u.all(t, 1)
		r0 := c.groups[0].replicas[0]
		last := func() string {
			c.groups[0].mu.Lock()
			defer c.groups[0].mu.Unlock()
			var topics []string
			for _, s := range r0.beats[len(r0.beats)-1].Consumers[0].Subscriptions {
				topics = append(topics, s.Topic)
			}
			return strings.Join(topics, " ")
		}
		if got := last(); got != "%RETRY%g T U" {
			t.Errorf("heartbeat tells of %s", got)
		}
		p.Unsubscribe("U")
		synctest.Wait()
		if got := last(); got != "%RETRY%g T" {
			t.Errorf("heartbeat tells of %s", got)
		}
		if o, _ := c.groups[0].offset("g", MessageQueue{Topic: "U"}); o != 1 {
			t.Errorf("committed %d when the queue was released", o)
		}
		mustSend(t, prod, &Message{Topic: "U", Body: []byte("1")})
		pass(time.Second)
		u.all(t, 1)
		p.Unsubscribe("T")
		if err := p.Subscribe("T", "*", r.listen); err != nil {
			t.Fatal(err)
		}
		if err := p.Subscribe("U", "*", u.listen); err != nil {
			t.Fatal(err)
		}
		mustSend(t, prod, &Message{Topic: "T", Body: []byte("0")})
		pass(2 * time.Second)
		u.all(t, 2)
		r.all(t, 1)
		// A topic that comes to be later.
		var v received
		if err := p.Subscribe("V", "*", v.listen); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		c.topic("V", 1)
		mustSend(t, prod, &Message{Topic: "V", Body: []byte("0")})
		pass(31 * time.Second)
		v.all(t, 1)
	})
}
