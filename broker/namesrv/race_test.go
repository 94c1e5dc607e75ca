package namesrv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// TestManyAtOnce has the replicas of many groups come, change leaders, lose
// connections and go over real sockets, while clients poll routes and operators
// ask for everything. In the end every group has its last leader.
func TestManyAtOnce(t *testing.T) {
	const groups, replicas, clients = 8, 3, 4
	rounds := 30
	if os.Getenv("RAFTMQ_LONG") != "" {
		rounds = 600
	}
	s, err := New(Config{WaitForService: -1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()

	base := seed(t)
	var brokers, churned, pollers sync.WaitGroup
	churned.Add(groups)
	done := make(chan struct{})
	for g := range groups {
		brokers.Go(func() {
			churn(t, rand.New(rand.NewPCG(base, uint64(g))), &churned, s, l.Addr().String(), fmt.Sprintf("broker-%d", g), replicas, rounds)
		})
	}
	var polls atomic.Int64
	for range clients {
		pollers.Go(func() { polls.Add(poll(t, l.Addr().String(), done)) })
	}
	brokers.Wait()
	close(done)
	pollers.Wait()
	t.Logf("%d routes polled", polls.Load())
	checkTable(t, s)
	s.Close()
	if err := <-served; err != remoting.ErrClosed {
		t.Error(err)
	}
	if info := s.Clusters(); len(info.Brokers) != 0 {
		t.Errorf("left over: %v", info.Brokers)
	}
}

// churn is the life of one group: elections, new topics, cut connections,
// restarts of replicas. At the end it wants the last leader to be known.
func churn(t *testing.T, rng *rand.Rand, churned *sync.WaitGroup, s *Service, ns, name string, replicas, rounds int) {
	cfg := RegistrarConfig{NameServers: []string{ns}, Heartbeat: 20 * time.Millisecond, Lease: time.Minute}
	list := make([]*Registrar, replicas)
	open := func(i int) {
		r, err := NewRegistrar(cfg)
		if err != nil {
			t.Error(err)
			return
		}
		list[i] = r
	}
	for i := range list {
		open(i)
	}
	registration := func(i, leader int, term uint64, topics int) Registration {
		reg := Registration{Cluster: "c", BrokerName: name, BrokerAddr: fmt.Sprintf("%s-%d:1", name, i), BrokerID: int64(i + 1), Group: name, Term: term}
		if i == leader {
			reg.BrokerID = 0
		}
		for n := range topics {
			reg.Topics.Topics = append(reg.Topics.Topics, remoting.NewTopicConfig(fmt.Sprintf("T%d", n)))
		}
		reg.Topics.Version.Counter = int64(topics)
		return reg
	}
	topics, leader := 1, 0
	for term := range uint64(rounds) {
		leader = rng.IntN(replicas)
		for _, i := range rng.Perm(replicas) {
			list[i].Update(registration(i, leader, term, topics))
		}
		switch rng.IntN(4) {
		case 0:
			topics++
			list[leader].Update(registration(leader, leader, term, topics))
		case 1:
			i := rng.IntN(replicas)
			list[i].Close(context.Background())
			open(i)
			list[i].Update(registration(i, leader, term, topics))
		case 2:
			for _, c := range s.server.Conns() {
				if rng.IntN(10) == 0 {
					c.Fail(errors.New("cut"))
				}
			}
		case 3:
			settled(t, list[leader])
		}
		if err := list[leader].Wait(context.Background()); err != nil {
			t.Error(err)
		}
	}
	churned.Done()
	churned.Wait() // nobody cuts connections any more
	for _, r := range list {
		settled(t, r)
	}
	d, _ := s.Routes(fmt.Sprintf("T%d", topics-1))
	i := 0
	for i < len(d.Brokers) && d.Brokers[i].BrokerName != name {
		i++
	}
	want := registration(leader, leader, 0, 0).BrokerAddr
	if i == len(d.Brokers) || len(d.Brokers[i].Addrs) != replicas || d.Brokers[i].Addrs[0] != want {
		t.Errorf("%s: the route is %+v, want leader %s and %d replicas", name, d.Brokers, want, replicas)
	}
	for _, r := range list {
		r.Close(context.Background())
	}
}

// settled waits until the latest Update is accepted.
func settled(t *testing.T, r *Registrar) {
	timeout := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		moved := r.moved
		r.mu.Unlock()
		if r.Status()[0].Current {
			return
		}
		select {
		case <-moved:
		case <-timeout:
			t.Errorf("not registered: %+v", r.Status())
			return
		}
	}
}

// poll asks for routes and everything else until done.
func poll(t *testing.T, ns string, done <-chan struct{}) (n int64) {
	var c *remoting.Conn
	call := func(req *remoting.Command) *remoting.Command {
		for {
			if c == nil {
				nc, err := net.Dial("tcp", ns)
				if err != nil {
					t.Error(err)
					return &remoting.Command{}
				}
				c = remoting.NewConn(nc, remoting.ConnConfig{}, nil)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			resp, err := c.Call(ctx, req)
			cancel()
			if err == nil {
				return resp
			}
			c.Close() // cut, as the brokers' are
			c = nil
		}
	}
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for ; ; n++ {
		select {
		case <-done:
			return n
		default:
		}
		resp := call(&remoting.Command{Code: remoting.GetRouteInfoByTopic, Ext: fieldsOf([]string{"topic", "T0"})})
		if resp.Code == remoting.Success {
			var d remoting.RouteData
			if err := d.DecodeBody(resp.Body); err != nil {
				t.Errorf("%v: %s", err, resp.Body)
			}
			for i, b := range d.Brokers {
				seen := map[string]bool{}
				for _, addr := range b.Addrs {
					if seen[addr] {
						t.Errorf("address twice: %+v", b)
					}
					seen[addr] = true
				}
				if i > 0 && d.Brokers[i-1].BrokerName >= b.BrokerName || d.Queues[i].BrokerName != b.BrokerName {
					t.Errorf("not sorted: %s", resp.Body)
				}
			}
		} else if resp.Code != remoting.TopicNotExist {
			t.Errorf("code %d %q", resp.Code, resp.Remark)
		}
		for _, code := range []int32{remoting.GetBrokerClusterInfo, remoting.GetAllTopicListFromNameserver, remoting.GetSystemTopicListFromNS} {
			if resp := call(&remoting.Command{Code: code}); resp.Code != remoting.Success {
				t.Errorf("%s: %d %q", remoting.RequestName(code), resp.Code, resp.Remark)
			}
		}
	}
}
