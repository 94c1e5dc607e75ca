package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/raftmq/raftmq/remoting"
)

func TestSendAndPull(t *testing.T) {
	c := startCluster(t, 3, nil)
	leader := c.leader()
	conn := c.dial(leader.addr.String())
	createTopic(t, conn, "T", 2)
	var want []string
	for i := range 10 {
		body := fmt.Sprint("message ", i)
		want = append(want, body)
		r, err := send(t, conn, sendHeader("T", 1), body)
		if err != nil {
			t.Fatal(err)
		}
		if r.QueueOffset != int64(i) || r.QueueID != 1 || len(r.MsgID) != 32 {
			t.Errorf("send %d: %+v", i, r)
		}
	}
	code, r, got := pull(t, conn, pullRequest("T", 1, 0))
	if code != remoting.Success || !slices.Equal(got, want) || r.NextBeginOffset != 10 || r.MaxOffset != 10 {
		t.Errorf("code %d, %+v, %q", code, r, got)
	}
	for id, n := range c.nodes {
		eventually(t, id+" has them all", func() bool {
			conn := c.dial(n.brokers[0].addr.String())
			_, _, got := pull(t, conn, pullRequest("T", 1, 0))
			return slices.Equal(got, want)
		})
	}
}
