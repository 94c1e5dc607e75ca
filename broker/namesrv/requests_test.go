package namesrv

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/raftmq/raftmq/remoting"
)

// twoClusters registers groups of two clusters: broker-a and broker-b in c1,
// broker-x in c2.
func twoClusters(t *testing.T, w *wire, cfg Config) (*Service, *client) {
	t.Helper()
	cfg.WaitForService = -1
	s := w.serve(t, "ns:1", cfg)
	c := w.client(t, "ns:1")
	for _, b := range []struct {
		cluster, name, topics string
		id                    int64
		flag                  int32
	}{
		{"c1", "broker-b", "T U", 0, 0}, {"c1", "broker-a", "T Unit", 0, flagUnit}, {"c1", "broker-a", "T Unit", 1, flagUnit},
		{"c2", "broker-x", "T Sub", 0, flagUnitSub},
	} {
		addr := fmt.Sprintf("%s-%d:1", b.name, b.id)
		req := reg{id: b.id, addr: addr}.request("json")
		h := req.Header.(*remoting.RegisterRequest)
		h.Cluster, h.BrokerName, h.BodyCRC32 = b.cluster, b.name, 0
		var body remoting.RegisterBody
		for _, name := range strings.Fields(b.topics) {
			topic := remoting.NewTopicConfig(name)
			topic.SysFlag = b.flag
			body.Topics = append(body.Topics, topic)
		}
		req.Body = body.AppendBody(nil)
		c.want(remoting.Success, req)
	}
	return s, c
}

func TestAdminRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := twoClusters(t, newWire(), Config{})
		for _, q := range []struct {
			code   int32
			fields string // key=value, separated by blanks
			want   string // code and body
		}{
			{remoting.GetBrokerClusterInfo, "", `0 {"brokerAddrTable":{` +
				`"broker-a":{"brokerAddrs":{"0":"broker-a-0:1","1":"broker-a-1:1"},"brokerName":"broker-a","cluster":"c1","enableActingMaster":false},` +
				`"broker-b":{"brokerAddrs":{"0":"broker-b-0:1"},"brokerName":"broker-b","cluster":"c1","enableActingMaster":false},` +
				`"broker-x":{"brokerAddrs":{"0":"broker-x-0:1"},"brokerName":"broker-x","cluster":"c2","enableActingMaster":false}},` +
				`"clusterAddrTable":{"c1":["broker-a","broker-b"],"c2":["broker-x"]}}`},
			{remoting.GetBrokerMemberGroup, "clusterName=c1 brokerName=broker-a",
				`0 {"brokerMemberGroup":{"brokerAddrs":{"0":"broker-a-0:1","1":"broker-a-1:1"},"brokerName":"broker-a","cluster":"c1"}}`},
			{remoting.GetBrokerMemberGroup, "clusterName=c1 brokerName=none", `0 {"brokerMemberGroup":{"brokerAddrs":{},"brokerName":"none","cluster":"c1"}}`},
			{remoting.GetBrokerMemberGroup, "clusterName=c1", "29 "},
			{remoting.GetAllTopicListFromNameserver, "", `0 {"topicList":["Sub","T","U","Unit"]}`},
			{remoting.GetTopicsByCluster, "cluster=c1", `0 {"topicList":["T","U","Unit"]}`},
			{remoting.GetTopicsByCluster, "cluster=none", `0 {"topicList":[]}`},
			{remoting.GetTopicsByCluster, "", "29 "},
			{remoting.GetSystemTopicListFromNS, "", `0 {"brokerAddr":"broker-a-0:1","topicList":["broker-a","broker-b","broker-x","c1","c2"]}`},
			{remoting.GetUnitTopicList, "", `0 {"topicList":["T","Unit"]}`},
			{remoting.GetHasUnitSubTopicList, "", `0 {"topicList":["Sub"]}`},
			{remoting.GetHasUnitSubUnUnitTopicList, "", `0 {"topicList":["Sub"]}`},
			{remoting.GetRouteInfoByTopic, "", "29 "},
			{remoting.DeleteTopicInNamesrv, "", "29 "},
			{remoting.UnregisterBroker, "brokerName=broker-a", "29 "},
			{remoting.QueryDataVersion, "brokerName=broker-a", "29 "},
			{remoting.BrokerHeartbeat, "brokerName=broker-a", "29 "},
			{remoting.WipeWritePermOfBroker, "", "29 "},
			{remoting.DeleteTopicInNamesrv, "topic=none", "0 "},
			{remoting.DeleteTopicInNamesrv, "topic=T clusterName=c1", "0 "},
			{remoting.GetTopicsByCluster, "cluster=c1", `0 {"topicList":["U","Unit"]}`},
			{remoting.GetTopicsByCluster, "cluster=c2", `0 {"topicList":["Sub","T"]}`},
			{remoting.DeleteTopicInNamesrv, "topic=T", "0 "},
			{remoting.GetTopicsByCluster, "cluster=c2", `0 {"topicList":["Sub"]}`},
			{remoting.GetRouteInfoByTopic, "topic=T", "17 "},
		} {
			var fields []string
			for _, f := range strings.Fields(q.fields) {
				k, v, _ := strings.Cut(f, "=")
				fields = append(fields, k, v)
			}
			resp := c.ask(q.code, fields...)
			if got := fmt.Sprint(resp.Code, " ", string(resp.Body)); got != q.want {
				t.Errorf("%s %s is answered\n%s, want\n%s", remoting.RequestName(q.code), q.fields, got, q.want)
			}
			if (resp.Code == remoting.Success) != (resp.Remark == "") {
				t.Errorf("%s %s: code %d, remark %q", remoting.RequestName(q.code), q.fields, resp.Code, resp.Remark)
			}
		}
	})
}

func TestUnknownCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.serve(t, "ns:1", Config{})
		c := w.client(t, "ns:1")
		for _, code := range []int32{remoting.SendMessageV2, remoting.NotifyMinBrokerIDChange, 9999, -1} {
			if resp := c.ask(code); resp.Code != remoting.RequestCodeNotSupported || !strings.Contains(resp.Remark, itoa(int64(code))) {
				t.Errorf("%d is answered %d %q", code, resp.Code, resp.Remark)
			}
		}
	})
}

func TestWritePerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := twoClusters(t, newWire(), Config{})
		perms := func() string {
			var out []string
			for _, topic := range []string{"T", "Unit"} {
				d, _ := s.Routes(topic)
				for _, q := range d.Queues {
					out = append(out, fmt.Sprintf("%s %s %d", topic, q.BrokerName, q.Perm))
				}
			}
			return strings.Join(out, ", ")
		}
		all := "T broker-a 6, T broker-b 6, T broker-x 6, Unit broker-a 6"
		if got := perms(); got != all {
			t.Error(got)
		}
		if got := c.ok(remoting.WipeWritePermOfBroker, "brokerName", "broker-a").Ext.Get("wipeTopicCount"); got != "2" {
			t.Errorf("wiped %q", got)
		}
		if got := perms(); got != "T broker-a 4, T broker-b 6, T broker-x 6, Unit broker-a 4" {
			t.Error(got)
		}
		if d, _ := c.route("T"); d.Queues[0].Perm != 4 {
			t.Errorf("%+v", d.Queues)
		}
		if got := c.ok(remoting.AddWritePermOfBroker, "brokerName", "broker-a").Ext.Get("addTopicCount"); got != "2" {
			t.Errorf("added %q", got)
		}
		if got := perms(); got != all {
			t.Error(got)
		}
		if got := c.ok(remoting.WipeWritePermOfBroker, "brokerName", "none").Ext.Get("wipeTopicCount"); got != "0" {
			t.Errorf("wiped %q", got)
		}
	})
}

func TestRegisterTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := twoClusters(t, newWire(), Config{})
		raft := reg{addr: "r:1", raft: "g", topics: "R"}.request("json")
		raft.Header.(*remoting.RegisterRequest).BrokerName = "broker-raft"
		c.want(remoting.Success, raft)
		register := func(topic string, brokers ...string) *remoting.Command {
			var d remoting.RouteData
			for _, b := range brokers {
				d.Queues = append(d.Queues, remoting.QueueData{BrokerName: b, ReadQueueNums: 3, WriteQueueNums: 2, Perm: 6, TopicSysFlag: 1})
			}
			return &remoting.Command{Code: remoting.RegisterTopicInNamesrv, Ext: fieldsOf([]string{"topic", topic}), Body: d.AppendBody(nil, true)}
		}
		for _, q := range []struct {
			topic, brokers, want string
		}{
			{"New", "broker-a broker-b", "broker-a broker-b"},
			{"New", "broker-x", "broker-a broker-b broker-x"},
			{"None", "broker-a nobody", ""},
			{"Raft", "broker-raft broker-a", "broker-a"},
		} {
			c.want(remoting.Success, register(q.topic, strings.Fields(q.brokers)...))
			d, _ := s.Routes(q.topic)
			var got []string
			for _, q := range d.Queues {
				got = append(got, q.BrokerName)
				if q.ReadQueueNums != 3 || q.WriteQueueNums != 2 || q.Perm != 6 || q.TopicSysFlag != 1 {
					t.Errorf("%+v", q)
				}
			}
			if strings.Join(got, " ") != q.want {
				t.Errorf("%s registered at %s is at %v, want %s", q.topic, q.brokers, got, q.want)
			}
		}
		c.want(remoting.SystemError, register(strings.Repeat("t", MaxName+1), "broker-a"))
		c.want(remoting.InvalidParameter, &remoting.Command{Code: remoting.RegisterTopicInNamesrv, Ext: fieldsOf([]string{"topic", "T"}), Body: []byte("{")})
	})
}

func TestConfigRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.serve(t, "ns:1", Config{Options: Options{ActingMaster: true}})
		c := w.client(t, "ns:1")
		show := func() string { return string(c.ok(remoting.GetNamesrvConfig).Body) }
		update := func(code int32, text, remark string) {
			t.Helper()
			resp := c.want(code, &remoting.Command{Code: remoting.UpdateNamesrvConfig, Body: []byte(text)})
			if !strings.Contains(resp.Remark, remark) {
				t.Errorf("%q: remark %q", text, resp.Remark)
			}
		}
		const fixed = "kvConfigPath=\nneedWaitForService=true\nwaitSecondsForService=45\n"
		before := fixed + "deleteTopicWithBrokerRegistration=false\norderMessageEnable=false\nreturnOrderTopicConfigToBroker=true\nsupportActingMaster=true\n"
		if got := show(); got != before {
			t.Errorf("%s", got)
		}
		update(remoting.InvalidParameter, "orderMessageEnable=true\nsupportActingMaster=perhaps\n", "supportActingMaster")
		update(remoting.InvalidParameter, "orderMessageEnable=true\nlistenPort=1", "listenPort")
		update(remoting.NoPermission, "orderMessageEnable=true\nkvConfigPath=/etc/passwd", "kvConfigPath")
		update(remoting.NoPermission, "rocketmqHome=/", "rocketmqHome")
		if got := show(); got != before {
			t.Errorf("refused updates left %s", got)
		}
		update(remoting.Success, "# all at once\n\norderMessageEnable = true\r\nreturnOrderTopicConfigToBroker=false\nsupportActingMaster=false", "")
		if got := show(); got != fixed+"deleteTopicWithBrokerRegistration=false\norderMessageEnable=true\nreturnOrderTopicConfigToBroker=false\nsupportActingMaster=false\n" {
			t.Errorf("%s", got)
		}
	})
}

func TestConfigRefused(t *testing.T) {
	for _, cfg := range []Config{
		{Lease: -1}, {Lease: maxLease + 1}, {Expect: []Broker{{"", "a:1"}}}, {Expect: []Broker{{"broker-a", "a"}}},
	} {
		if s, err := New(cfg); err == nil {
			s.Close()
			t.Errorf("%+v is taken", cfg)
		}
	}
}
