package namesrv

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// TestRouteStyles checks the bytes of routes: sorted, compact, with the broker
// ids quoted for who reads standard JSON.
func TestRouteStyles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.serve(t, "ns:1", Config{})
		c := w.client(t, "ns:1")
		other := reg{addr: "z:1", raft: "h", topics: "T"}.request("json")
		other.Header.(*remoting.RegisterRequest).BrokerName = "broker-Z"
		c.want(remoting.Success, reg{id: 2, addr: "c:1", raft: "g"}.request("json"))
		c.want(remoting.Success, reg{id: 0, addr: "a:1", raft: "g"}.request("json"))
		c.want(remoting.Success, other)
		quoted := `{"brokerDatas":[` +
			`{"brokerAddrs":{"0":"z:1"},"brokerName":"broker-Z","cluster":"c","enableActingMaster":false},` +
			`{"brokerAddrs":{"0":"a:1","2":"c:1"},"brokerName":"broker-a","cluster":"c","enableActingMaster":false}],` +
			`"filterServerTable":{},"queueDatas":[` +
			`{"brokerName":"broker-Z","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4},` +
			`{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}`
		bare := regexp.MustCompile(`"(\d)":`).ReplaceAllString(quoted, "$1:")
		for range 2 { // the second is from the cache
			for _, q := range []struct {
				version int32
				ask     string
				want    string
			}{
				{remoting.VersionStandardJSON, "", quoted},
				{remoting.VersionStandardJSON - 1, "", bare},
				{317, "", bare}, // Go
				{317, "true", quoted},
				{121, "false", bare}, // Node
			} {
				req := &remoting.Command{Code: remoting.GetRouteInfoByTopic, Version: q.version, Ext: fieldsOf([]string{"topic", "T"})}
				if q.ask != "" {
					req.Ext.Add("acceptStandardJsonOnly", q.ask)
				}
				if got := string(c.want(remoting.Success, req).Body); got != q.want {
					t.Errorf("version %d, acceptStandardJsonOnly %q:\n%s\nwant\n%s", q.version, q.ask, got, q.want)
				}
			}
		}
	})
}

// TestGoldenRequests plays what real clients asked a name server, and wants what
// made them go on. The stub that answered them then did not sort.
func TestGoldenRequests(t *testing.T) {
	var paths []string
	for _, code := range []string{"105*", "106*", "206*", "216*", "224*"} {
		found, err := filepath.Glob(filepath.Join("../../testdata/golden/*", code+".req.hex"))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	if len(paths) < 20 {
		t.Fatalf("%d golden requests", len(paths))
	}
	for _, path := range paths {
		t.Run(strings.TrimPrefix(path, "../../testdata/golden/"), func(t *testing.T) {
			req, want := golden(t, path), golden(t, strings.Replace(path, ".req.", ".ans.", 1))
			synctest.Test(t, func(t *testing.T) {
				w := newWire()
				s := w.serve(t, "ns:1", Config{WaitForService: -1})
				c := w.client(t, "ns:1")
				// The answer says what was registered.
				var route remoting.RouteData
				var list remoting.TopicList
				var info remoting.ClusterInfo
				register := reg{addr: "127.0.0.1:10911", topics: "-"}.request("json")
				h := register.Header.(*remoting.RegisterRequest)
				h.Cluster, h.BrokerName = "c1", "b1"
				var body remoting.RegisterBody
				deleted := ""
				switch req.Code {
				case remoting.GetRouteInfoByTopic:
					if want.Code != remoting.Success {
						break
					}
					if err := route.DecodeBody(want.Body); err != nil {
						t.Fatal(err)
					}
					h.BrokerAddr = route.Brokers[0].Addrs[0]
					q := route.Queues[0]
					body.Topics = []remoting.TopicConfig{{Name: req.Ext.Get("topic"), ReadQueueNums: q.ReadQueueNums, WriteQueueNums: q.WriteQueueNums, Perm: q.Perm}, {Name: "another"}}
				case remoting.GetAllTopicListFromNameserver, remoting.GetTopicsByCluster:
					if err := list.DecodeBody(want.Body); err != nil {
						t.Fatal(err)
					}
					for _, name := range list.Topics {
						body.Topics = append(body.Topics, remoting.NewTopicConfig(name))
					}
				case remoting.GetBrokerClusterInfo:
					if err := info.DecodeBody(want.Body); err != nil {
						t.Fatal(err)
					}
					h.BrokerAddr = info.Brokers["b1"].Addrs[0]
				case remoting.DeleteTopicInNamesrv:
					if deleted = req.Ext.Get("topic"); deleted == "c1" { // of 4.9.8
						deleted = req.Ext.Get("clusterName")
					}
					body.Topics = []remoting.TopicConfig{remoting.NewTopicConfig(deleted), remoting.NewTopicConfig("another")}
				}
				register.Body = body.AppendBody(nil)
				h.BodyCRC32 = 0
				c.want(remoting.Success, register)

				resp := c.want(want.Code, req)
				switch {
				case list.Topics != nil:
					var got remoting.TopicList
					if err := got.DecodeBody(resp.Body); err != nil || len(got.Topics) != len(list.Topics) {
						t.Errorf("%v, %v", got.Topics, err)
					}
				case want.Code == remoting.Success && string(resp.Body) != string(want.Body):
					t.Errorf("answered\n%s\nwant\n%s", resp.Body, want.Body)
				}
				if req.Code == remoting.DeleteTopicInNamesrv {
					if _, ok := s.Routes(deleted); ok {
						t.Error("the topic is still there")
					}
					if _, ok := s.Routes("another"); !ok {
						t.Error("another topic is gone")
					}
				}
			})
		})
	}
}

func golden(t *testing.T, path string) *remoting.Command {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	var c remoting.Command
	if err := remoting.DecodeFrame(frame, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestUnknownTopicBeforeReady(t *testing.T) {
	for _, c := range []struct {
		cfg   Config
		ready time.Duration // without anybody registering; < 0: from the start
	}{
		{Config{}, 45 * time.Second},
		{Config{WaitForService: 5 * time.Second}, 5 * time.Second},
		{Config{WaitForService: -1}, -1},
		{Config{Expect: []Broker{{"broker-a", "a:1"}}}, 45 * time.Second},
	} {
		t.Run(fmt.Sprintf("%+v", c.cfg.WaitForService), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire()
				s := w.serve(t, "ns:1", c.cfg)
				client := w.client(t, "ns:1")
				if c.ready >= 0 {
					before := c.ready - 1
					if len(c.cfg.Expect) > 0 {
						before -= routeHold
					}
					time.Sleep(before)
					resp := client.want(remoting.SystemError, &remoting.Command{Code: remoting.GetRouteInfoByTopic, Ext: fieldsOf([]string{"topic", "T"})})
					if !strings.Contains(resp.Remark, "name server not ready") || s.Ready() {
						t.Errorf("remark %q, ready: %t", resp.Remark, s.Ready())
					}
					time.Sleep(time.Nanosecond)
				}
				if _, code := client.route("T"); code != remoting.TopicNotExist || !s.Ready() {
					t.Errorf("code %d, ready: %t", code, s.Ready())
				}
			})
		})
	}
}

// TestReadyByExpectation: with the last of the expected brokers there, the
// service knows what there is. Requests wait for that a moment, and known topics
// are then answered without it.
func TestReadyByExpectation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := w.serve(t, "ns:1", Config{Expect: []Broker{{"broker-a", "a:1"}, {"broker-a", "b:1"}}})
		c := w.client(t, "ns:1")
		c.want(remoting.Success, reg{id: 2, addr: "b:1", raft: "g", topics: "T"}.request("json"))
		c.want(remoting.Success, reg{id: 3, addr: "x:1", raft: "g", topics: "T"}.request("json"))
		c.want(remoting.SystemError, reg{addr: "a:1", raft: "other"}.request("json")) // refused: not there
		c.want(remoting.Success, reg{id: 3, addr: "x:1", raft: "g", topics: "T"}.request("json"))
		if _, code := c.route("T"); code != remoting.Success {
			t.Errorf("known topic: code %d", code)
		}
		if _, code := c.route("U"); code != remoting.SystemError || s.Ready() {
			t.Errorf("unknown topic: code %d, ready: %t", code, s.Ready())
		}
		c.want(remoting.Success, reg{id: 1, addr: "a:1", raft: "g", topics: "T"}.request("json"))
		if _, code := c.route("U"); code != remoting.TopicNotExist || !s.Ready() {
			t.Errorf("unknown topic with all there: code %d, ready: %t", code, s.Ready())
		}
		c.Close()
		synctest.Wait()
		if _, code := w.client(t, "ns:1").route("T"); code != remoting.TopicNotExist {
			t.Errorf("when all have left: code %d", code)
		}
	})
}

// TestRouteIsHeldUntilReady: a service that has just started gives nobody half of
// a route.
func TestRouteIsHeldUntilReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.serve(t, "ns:1", Config{Expect: []Broker{{"broker-a", "a:1"}, {"broker-b", "b:1"}}})
		one, other := w.client(t, "ns:1"), w.client(t, "ns:1")
		one.want(remoting.Success, reg{addr: "a:1", raft: "g", topics: "T"}.request("json"))
		start := time.Now()
		got := make(chan string, 2)
		for _, topic := range []string{"T", "U"} {
			c := w.client(t, "ns:1")
			go func() {
				d, code := c.route(topic)
				got <- fmt.Sprintf("%s: code %d, %d groups after %v", topic, code, len(d.Brokers), time.Since(start))
			}()
		}
		time.Sleep(routeHold / 2)
		second := reg{addr: "b:1", raft: "h", topics: "T"}.request("json")
		second.Header.(*remoting.RegisterRequest).BrokerName = "broker-b"
		other.want(remoting.Success, second)
		answers := []string{<-got, <-got}
		slices.Sort(answers)
		if want := []string{"T: code 0, 2 groups after 1s", "U: code 17, 0 groups after 1s"}; !slices.Equal(answers, want) {
			t.Errorf("%q, want %q", answers, want)
		}
	})
}

// TestHeldRoutesAreForgotten: what was answered takes no memory any more, however
// long the service waits, nor does what names no topic.
func TestHeldRoutesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := w.serve(t, "ns:1", Config{Expect: []Broker{{"broker-a", "a:1"}}})
		held := func() int {
			s.held.mu.Lock()
			defer s.held.mu.Unlock()
			return len(s.held.waiting)
		}
		start := time.Now()
		ask := func(topic string) time.Duration {
			if _, code := w.client(t, "ns:1").route(topic); code != remoting.SystemError {
				t.Errorf("code %d", code)
			}
			return time.Since(start)
		}
		if took := ask(strings.Repeat("T", remoting.MaxGroupTopicName+1)); took != 0 {
			t.Errorf("what names no topic is answered after %v", took)
		}
		for range 3 {
			go ask("T")
		}
		synctest.Wait()
		if n := held(); n != 3 {
			t.Errorf("%d are held, want 3", n)
		}
		time.Sleep(routeHold)
		synctest.Wait()
		if n := held(); n != 0 {
			t.Errorf("%d are held after they were answered", n)
		}
	})
}

// TestReadyByLeaders: the leader of a raft group knows what its members do, so one
// that is down is not waited for. RocketMQ's master does not speak for its slaves.
func TestReadyByLeaders(t *testing.T) {
	for _, raft := range []string{"g", ""} {
		synctest.Test(t, func(t *testing.T) {
			w := newWire()
			s := w.serve(t, "ns:1", Config{Expect: []Broker{{"broker-a", "a:1"}, {"broker-a", "b:1"}}})
			c := w.client(t, "ns:1")
			c.want(remoting.Success, reg{addr: "b:1", raft: raft, topics: "T U"}.request("json"))
			if s.Ready() != (raft != "") {
				t.Errorf("group %q: ready: %t", raft, s.Ready())
			}
		})
	}
}

// TestStandInEnds: a cached route with a stand-in ends with it.
func TestStandInEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.serve(t, "ns:1", Config{StandIn: 7 * time.Second})
		leader, follower, c := w.client(t, "ns:1"), w.client(t, "ns:1"), w.client(t, "ns:1")
		leader.want(remoting.Success, reg{addr: "a:1", raft: "g"}.request("json"))
		follower.want(remoting.Success, reg{id: 2, addr: "b:1", raft: "g"}.request("json"))
		expect := func(want string) {
			t.Helper()
			d, code := c.route("T")
			if got := fmt.Sprint(d.Brokers[0].Addrs); code != remoting.Success || got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		expect("map[0:a:1 2:b:1]")
		leader.Close()
		synctest.Wait()
		expect("map[0:b:1]")
		time.Sleep(7*time.Second - 1)
		expect("map[0:b:1]")
		time.Sleep(time.Nanosecond)
		expect("map[2:b:1]")
		follower.want(remoting.Success, reg{addr: "b:1", raft: "g", term: 1}.request("json"))
		expect("map[0:b:1]")
	})
}

func TestOrderConf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.serve(t, "ns:1", Config{})
		c := w.client(t, "ns:1")
		register := func() string { return string(c.want(remoting.Success, reg{addr: "a:1"}.request("json")).Body) }
		conf := func() string { d, _ := c.route("T"); return d.OrderTopicConf }
		register()
		c.ok(remoting.PutKVConfig, "namespace", "ORDER_TOPIC_CONFIG", "key", "T", "value", "broker-a:4;")
		if got := register(); got != `{"table":{"T":"broker-a:4;"}}` {
			t.Errorf("a registration is answered %q", got)
		}
		if got := conf(); got != "" {
			t.Errorf("off by default, but %q", got)
		}
		c.want(remoting.Success, &remoting.Command{Code: remoting.UpdateNamesrvConfig, Body: []byte("orderMessageEnable=true\nreturnOrderTopicConfigToBroker=false\n")})
		if got := conf(); got != "broker-a:4" {
			t.Errorf("%q", got)
		}
		if got := register(); got != "" {
			t.Errorf("a registration is answered %q", got)
		}
		c.ok(remoting.PutKVConfig, "namespace", "ORDER_TOPIC_CONFIG", "key", "T", "value", "broker-a:8")
		if got := conf(); got != "broker-a:8" {
			t.Errorf("%q", got)
		}
		c.ok(remoting.DeleteKVConfig, "namespace", "ORDER_TOPIC_CONFIG", "key", "T")
		if got := conf(); got != "" {
			t.Errorf("%q", got)
		}
	})
}

func BenchmarkRoute(b *testing.B) {
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for _, name := range []string{"broker-a", "broker-b", "broker-c"} {
		r := reg{addr: name + ":1", raft: name}.registration()
		r.BrokerName = name
		s.table.admit(time.Now(), r)
	}
	req := &remoting.Command{Code: remoting.GetRouteInfoByTopic, Ext: fieldsOf([]string{"topic", "T"})}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if resp, err := s.handleRoute(req); err != nil || len(resp.Body) == 0 {
				b.Fatal(err)
			}
		}
	})
}
