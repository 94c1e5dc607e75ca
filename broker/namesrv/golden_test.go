package namesrv

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/raftmq/raftmq/remoting"
)

// TestGoldenRegistrations plays what RocketMQ's own brokers sent.
func TestGoldenRegistrations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := w.serve(t, "ns:1", Config{WaitForService: -1})
		c := w.client(t, "ns:1")
		play := func(name string, want int32) *remoting.Command {
			t.Helper()
			return c.want(want, golden(t, "testdata/golden/"+name+".hex"))
		}
		state := func() string {
			all := c.ok(remoting.GetAllTopicListFromNameserver)
			var list remoting.TopicList
			if err := list.DecodeBody(all.Body); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(s.Clusters().Brokers["jb"].Addrs, len(list.Topics))
		}
		expect := func(want string) {
			t.Helper()
			if got := state(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		play("java-5.3.3-103-one-topic", remoting.SystemError) // before all topics
		expect("map[] 0")
		play("java-5.3.3-103-slave", remoting.Success) // 5.x: its topics count while there is no master
		expect("map[1:127.0.0.1:31911] 13")
		play("java-5.3.3-103-master", remoting.Success)
		expect("map[0:127.0.0.1:30911 1:127.0.0.1:31911] 13")
		if resp := play("java-5.3.3-103-slave", remoting.Success); resp.Ext.Get("masterAddr") != "127.0.0.1:30911" || resp.Ext.Get("haServerAddr") == "" {
			t.Errorf("the slave is answered %v", resp.Ext)
		}
		play("java-5.3.3-103-one-topic", remoting.Success)
		expect("map[0:127.0.0.1:30911 1:127.0.0.1:31911] 14")
		if d, _ := s.Routes("Demo"); len(d.Queues) != 1 || d.Queues[0] != (remoting.QueueData{BrokerName: "jb", ReadQueueNums: 4, WriteQueueNums: 4, Perm: 6}) {
			t.Errorf("%+v", d)
		}
		play("java-5.3.3-104-slave", remoting.Success)
		expect("map[0:127.0.0.1:30911] 14")
		play("java-4.9.7-103-compressed", remoting.Success)
		expect("map[0:127.0.0.1:30911] 14")
		if d, _ := s.Routes(remoting.TopicAutoCreate); len(d.Queues) != 1 || d.Queues[0].Perm != 7 || d.Queues[0].ReadQueueNums != 8 {
			t.Errorf("%+v", d)
		}
	})
}
