package namesrv

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// request makes RegisterBroker out of a reg, with the body in one of its forms.
func (r reg) request(form string) *remoting.Command {
	in := r.registration()
	h := &remoting.RegisterRequest{BrokerIdentity: in.BrokerIdentity, HAServerAddr: in.haAddr, EnableActingMaster: in.acting}
	if r.lease != 0 {
		h.HeartbeatTimeout = r.lease.Milliseconds()
	}
	req := &remoting.Command{Code: remoting.RegisterBroker, Header: h, Version: remoting.Version}
	if r.raft != "" {
		req.Ext = remoting.Fields{{Key: FieldGroup, Value: r.raft}}
	}
	body := remoting.RegisterBody{TopicTable: in.table}
	switch form {
	case "json":
		req.Body = body.AppendBody(nil)
	case "inner": // before 3.0.11
		req.Body, req.Version = in.table.AppendBody(nil), 36
	case "compressed":
		req.Body, h.Compressed = body.AppendCompressed(nil), true
	}
	h.BodyCRC32 = remoting.RegisterCRC(req.Body)
	return req
}

func TestRegisterForms(t *testing.T) {
	for _, form := range []string{"json", "inner", "compressed"} {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire()
				w.serve(t, "ns:1", Config{})
				c := w.client(t, "ns:1")
				resp := c.want(remoting.Success, reg{addr: "a:1", topics: "T U", counter: 3}.request(form))
				if len(resp.Body) != 0 || resp.Ext.Get("masterAddr") != "" {
					t.Errorf("a master is answered %q, %v", resp.Body, resp.Ext)
				}
				d, code := c.route("T")
				if code != remoting.Success || d.Brokers[0].Addrs[0] != "a:1" || d.Brokers[0].Cluster != "c" || d.Queues[0].ReadQueueNums != 4 || d.Queues[0].Perm != 6 {
					t.Errorf("route: code %d, %+v", code, d)
				}
				resp = c.want(remoting.Success, reg{id: 1, addr: "b:1", topics: "T U"}.request(form))
				if resp.Ext.Get("masterAddr") != "a:1" || resp.Ext.Get("haServerAddr") != "ha-a:1" {
					t.Errorf("a slave is answered %v", resp.Ext)
				}
			})
		})
	}
}

// TestRegisterRefused: what is refused says what is wrong, changes nothing, and
// leaves the connection as it was.
func TestRegisterRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := w.serve(t, "ns:1", Config{})
		c := w.client(t, "ns:1")
		good := reg{addr: "a:1"}
		change := func(f func(req *remoting.Command, h *remoting.RegisterRequest)) *remoting.Command {
			req := good.request("json")
			f(req, req.Header.(*remoting.RegisterRequest))
			return req
		}
		tooMany := func() []byte {
			b := []byte(`{"topicConfigTable":{`)
			for i := range MaxTopics + 1 {
				b = append(strconv.AppendInt(append(b, '"'), int64(i), 10), `":{},`...)
			}
			return append(b[:len(b)-1], "}}"...)
		}
		badTopic := good
		badTopic.topics = "T " + strings.Repeat("t", MaxName+1)
		type H = remoting.RegisterRequest
		type C = remoting.Command
		for what, req := range map[string]*remoting.Command{
			"bodyCrc32":             change(func(_ *C, h *H) { h.BodyCRC32++ }),
			"broker name is empty":  change(func(r *C, h *H) { h.BrokerName = "" }),
			"clusterName is miss":   {Code: remoting.RegisterBroker, Ext: fieldsOf([]string{"brokerName", "b", "brokerAddr", "a:1", "brokerId", "0"})},
			"broker id is -1":       change(func(_ *C, h *H) { h.BrokerID = -1 }),
			"is not host:port":      change(func(_ *C, h *H) { h.BrokerAddr = "a" }),
			"65535":                 change(func(_ *C, h *H) { h.BrokerAddr = "a:65536" }),
			"control characters":    change(func(_ *C, h *H) { h.Cluster = "a\nb" }),
			"the limit is 255":      change(func(_ *C, h *H) { h.BrokerName = strings.Repeat("x", MaxName+1) }),
			"topic name":            badTopic.request("json"),
			"the limit is 100000":   change(func(r *C, h *H) { r.Body, h.BodyCRC32 = tooMany(), 0 }),
			FieldGroup:              change(func(r *C, _ *H) { r.Ext.Add(FieldGroup, strings.Repeat("g", MaxGroupID+1)) }),
			"haServerAddr":          change(func(_ *C, h *H) { h.HAServerAddr = strings.Repeat("h", MaxName+1) }),
			"malformed body":        change(func(r *C, h *H) { r.Body, h.BodyCRC32 = []byte(`{"topicConfigSerializeWrapper":{`), 0 }),
			"register body: zlib":   change(func(_ *C, h *H) { h.Compressed = true }),
			"not registered yet, s": reg{addr: "a:1", topics: "T"}.request("json"),
		} {
			if what == "broker name is empty" || what == "malformed body" {
				what = "" // the wording is package remoting's
			}
			resp := c.call(req)
			if resp.Code != remoting.SystemError && resp.Code != remoting.InvalidParameter {
				t.Errorf("%q is answered %d", what, resp.Code)
			}
			if resp.Remark == "" || !strings.Contains(resp.Remark, what) {
				t.Errorf("remark %q, want something about %q", resp.Remark, what)
			}
		}
		if info := s.Clusters(); len(info.Brokers) != 0 {
			t.Errorf("refused registrations left %v", info)
		}
		c.want(remoting.Success, good.request("json"))
	})
}

func TestRegisterLimits(t *testing.T) {
	now := time.Now()
	table := newTable(0, Options{})
	register := func(i int, topics ...string) *remoting.Error {
		r := reg{addr: fmt.Sprintf("a:%d", i+1), raft: "g", topics: strings.Join(append(topics, "-"), " ")}.registration()
		r.BrokerName = fmt.Sprintf("broker-%d", i)
		return table.admit(now, r).refused
	}
	table.maxBrokers = 20
	for i := range table.maxBrokers {
		if err := register(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := register(20); err == nil || !strings.Contains(err.Remark, "20 brokers") {
		t.Errorf("a broker too many: %v", err)
	}
	if err := register(7, "T"); err != nil {
		t.Errorf("one that is registered already: %v", err)
	}
	table.check(t)

	topics := strings.Fields("A B C D E")
	table = newTable(0, Options{})
	table.maxRoutes = 4 * len(topics)
	for i := range 4 {
		if err := register(i, topics...); err != nil {
			t.Fatal(err)
		}
	}
	if err := register(1000, "T"); err == nil || !strings.Contains(err.Remark, "1 more than there is room for, the limit is 20") {
		t.Errorf("a topic too many: %v", err)
	}
	if err := register(3, topics...); err != nil {
		t.Errorf("the same topics again: %v", err)
	}
	table.check(t)
}

// TestRefusalLoggedOnce: a node with a wrong name asks every few seconds.
func TestRefusalLoggedOnce(t *testing.T) {
	table := newTable(0, Options{})
	now := time.Now()
	table.admit(now, reg{addr: "a:1", raft: "g"}.registration())
	var quiet []bool
	for _, addr := range []string{"x:1", "x:1", "y:1", "y:1"} {
		quiet = append(quiet, table.admit(now, reg{addr: addr, raft: "other"}.registration()).quiet)
	}
	if got := fmt.Sprint(quiet); got != "[false true false true]" {
		t.Error(got)
	}
}

// TestConnectionsAndLeases: closing a connection takes along what was registered
// or refreshed over it last, and nothing else.
func TestConnectionsAndLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := w.serve(t, "ns:1", Config{})
		watch := w.client(t, "ns:1")
		shown := func() string {
			synctest.Wait()
			var out []string
			for name, b := range s.Clusters().Brokers {
				out = append(out, fmt.Sprint(name, " ", b.Addrs))
			}
			return strings.Join(out, "; ")
		}
		expect := func(want string) {
			t.Helper()
			if got := shown(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		first, second, slave := w.client(t, "ns:1"), w.client(t, "ns:1"), w.client(t, "ns:1")
		master := reg{addr: "a:1", counter: 1}
		id := func(r reg) *remoting.BrokerIdentity { return &r.registration().BrokerIdentity }
		first.want(remoting.Success, master.request("json"))
		slave.want(remoting.Success, reg{id: 1, addr: "b:1"}.request("json"))
		expect("broker-a map[0:a:1 1:b:1]")
		slave.Close()
		expect("broker-a map[0:a:1]")
		second.want(remoting.Success, master.request("json")) // it has reconnected
		first.Close()
		expect("broker-a map[0:a:1]")

		// A data version query tells what is known, and refreshes the lease.
		query := func(c *client, r reg) (changed string, known remoting.DataVersion) {
			resp := c.want(remoting.Success, &remoting.Command{Code: remoting.QueryDataVersion, Header: id(r), Body: r.registration().table.Version.AppendBody(nil)})
			if len(resp.Body) > 0 {
				if err := known.DecodeBody(resp.Body); err != nil {
					t.Error(err)
				}
			}
			return resp.Ext.Get("changed"), known
		}
		for _, q := range []struct {
			reg     reg
			changed string
			counter int64
		}{
			{master, "false", 1},
			{reg{addr: "a:1", counter: 2}, "true", 1},
			{reg{id: 1, addr: "a:1", counter: 1}, "true", 1},
			{reg{addr: "x:1", counter: 1}, "true", 0},
		} {
			if changed, known := query(second, q.reg); changed != q.changed || known.Counter != q.counter {
				t.Errorf("query %+v: changed %s, counter %d", q.reg, changed, known.Counter)
			}
		}
		time.Sleep(100 * time.Second)
		query(watch, master) // over a third connection
		time.Sleep(100 * time.Second)
		expect("broker-a map[0:a:1]")
		heartbeat := &remoting.Command{Code: remoting.BrokerHeartbeat, Header: &remoting.BrokerHeartbeatRequest{BrokerIdentity: *id(master)}}
		second.Close() // its broker has moved on to watch
		third := w.client(t, "ns:1")
		third.want(remoting.Success, heartbeat)
		time.Sleep(119 * time.Second)
		expect("broker-a map[0:a:1]")
		time.Sleep(7 * time.Second) // 120 s and a scan
		expect("")
		w.client(t, "ns:1").want(remoting.Success, heartbeat) // of an unknown broker
		expect("")

		c := w.client(t, "ns:1")
		c.want(remoting.Success, reg{addr: "a:1", lease: 10 * time.Second}.request("json"))
		time.Sleep(16 * time.Second)
		expect("")
		c.want(remoting.Success, master.request("json"))
		c.want(remoting.Success, &remoting.Command{Code: remoting.UnregisterBroker, Header: id(master)})
		expect("")
	})
}
