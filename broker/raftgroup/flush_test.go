package raftgroup

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// TestFLUSH01SyncOnAQuorumBeforeTheAnswer has the syncs of two of three replicas
// take as long as the test likes.
func TestFLUSH01SyncOnAQuorumBeforeTheAnswer(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		leader := c.leader()
		release := map[*testNode]chan struct{}{}
		for _, n := range c.followers() {
			ch := make(chan struct{})
			release[n] = ch
			n.fs.SetHook(func(op disk.Op) error {
				if op.Kind == disk.OpSync && op.Label == raftlog.LabelAppend {
					<-ch
				}
				return nil
			})
		}
		answered := make(chan error, 1)
		go func() {
			_, err := leader.send("T", 0, "m", "U")
			answered <- err
		}()
		time.Sleep(time.Second) // fake: less than any limit
		synctest.Wait()
		select {
		case err := <-answered:
			t.Errorf("answered with %v while only the leader has synced", err)
		default:
		}
		if got := leader.bodies("T", 0); len(got) != 0 {
			t.Errorf("%q can be read while only the leader has synced", got)
		}
		followers := c.followers()
		close(release[followers[0]])
		if err := <-answered; err != nil {
			t.Errorf("a quorum has synced: %v", err)
		}
		close(release[followers[1]])
	})
}

// TestFLUSH09SendsShareSyncs counts the leader's syncs under concurrent sends.
func TestFLUSH09SendsShareSyncs(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		leader := c.leader()
		var syncs atomic.Int64
		leader.fs.SetHook(func(op disk.Op) error {
			if op.Kind == disk.OpSync && op.Label == raftlog.LabelAppend {
				syncs.Add(1)
			}
			return nil
		})
		const senders, each = 50, 4
		var all sync.WaitGroup
		for s := range senders {
			all.Go(func() {
				for i := range each {
					if _, err := leader.send("T", 0, "m", fmt.Sprint(s, " ", i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if n := syncs.Load(); n == 0 || n > senders*each/4 {
			t.Errorf("%d syncs for %d sends of %d at once", n, senders*each, senders)
		}
	})
}
