package namesrv

import (
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// FuzzRegister gives a service a registration made of anything, twice under
// different ids, and then asks for every route: no panic, a table that keeps its
// invariants, routes that clients can read.
func FuzzRegister(f *testing.F) {
	for _, form := range []string{"json", "inner", "compressed"} {
		for _, r := range []reg{{addr: "a:1"}, {id: 2, addr: "b:1", raft: "g", topics: "T"}, {id: 1, addr: "c:1", acting: "true", topics: "-"}} {
			req := r.request(form)
			in := r.registration()
			f.Add(in.BrokerName, in.BrokerAddr, in.Cluster, "0", in.raft, form == "compressed", req.Version, req.Body)
		}
	}
	f.Add("b", "h:65535", "c", "9223372036854775807", "", false, int32(0), []byte(`{"topicConfigTable":{"T":{"perm":-1,"readQueueNums":-5},"T":null},"dataVersion":{"stateVersion":-1}}`))
	f.Add("", ":", "c", "-1", "g", true, int32(477), []byte{0x78, 0x9c, 0})
	f.Fuzz(func(t *testing.T, name, addr, cluster, id, raft string, compressed bool, version int32, body []byte) {
		s, err := New(Config{WaitForService: -1, Options: Options{DeleteTopics: len(body)%2 == 0, ActingMaster: true}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		fields := fieldsOf([]string{"brokerName", name, "brokerAddr", addr, "clusterName", cluster, "haServerAddr", addr, FieldGroup, raft})
		if compressed {
			fields.Add("compressed", "true")
		}
		for _, id := range []string{id, "1", "0"} {
			for _, version := range []int32{version, 36, 477} {
				req := remoting.Command{Code: remoting.RegisterBroker, Version: version, Ext: append(fields[:len(fields):len(fields)], remoting.Field{Key: "brokerId", Value: id}), Body: body}
				s.ServeRemoting(nil, &req)
				checkTable(t, s)
				checkRoutes(t, s)
			}
		}
		req := remoting.Command{Code: remoting.UnregisterBroker, Ext: append(fields, remoting.Field{Key: "brokerId", Value: "7"})}
		s.ServeRemoting(nil, &req)
		checkTable(t, s)
		s.mu.RLock()
		defer s.mu.RUnlock()
		if len(s.table.groups) != 0 {
			t.Errorf("%d groups are left", len(s.table.groups))
		}
	})
}

// checkRoutes asks for every topic that is there, in both styles.
func checkRoutes(t *testing.T, s *Service) {
	t.Helper()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for name := range s.table.topics {
		for _, style := range []int{bareIDs, quotedIDs} {
			body := s.encodedRoute(name, style)
			var d remoting.RouteData
			if err := d.DecodeBody(body); err != nil {
				t.Errorf("topic %q: %v: %q", name, err, body)
			}
			if len(d.Brokers) == 0 || len(d.Brokers) != len(d.Queues) || len(d.Brokers[0].Addrs) == 0 {
				t.Errorf("topic %q: %q", name, body)
			}
			want, _ := s.table.route(time.Now(), name)
			if again := want.AppendBody(nil, style == quotedIDs); string(again) != string(body) {
				t.Errorf("topic %q: %q, then %q", name, body, again)
			}
		}
	}
}

// FuzzRequests gives a service any request.
func FuzzRequests(f *testing.F) {
	for code := range handlers {
		f.Add(code, "topic", "T", "brokerName", "broker-a", []byte(`{"queueDatas":[{"brokerName":"broker-a"}]}`))
	}
	f.Add(remoting.PutKVConfig, "namespace", "n", "key", "k", []byte("orderMessageEnable=true"))
	f.Add(int32(12345), "", "", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, code int32, key1, value1, key2, value2 string, body []byte) {
		s, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.ServeRemoting(nil, reg{addr: "a:1"}.decoded())
		fields := fieldsOf([]string{"namespace", "n", "key", "k", "value", "v", "clusterName", "c", "brokerAddr", "a:1", "brokerId", "0", "cluster", "c", key1, value1, key2, value2})
		s.ServeRemoting(nil, &remoting.Command{Code: code, Ext: fields, Body: body})
		checkTable(t, s)
		checkRoutes(t, s)
	})
}

// decoded is a request as a handler gets it.
func (r reg) decoded() *remoting.Command {
	frame, err := remoting.AppendFrame(nil, r.request("json"))
	if err != nil {
		panic(err)
	}
	var c remoting.Command
	if err := remoting.DecodeFrame(frame, &c); err != nil {
		panic(err)
	}
	return &c
}
