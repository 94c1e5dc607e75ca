package raftgroup

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// diskErrors is row 17: which files there are, what is done to them while a replica
// runs, and what an error of that does to the replica: it stops, loudly, or it goes
// on, as nothing that was acknowledged depends on it.
var diskErrors = []struct {
	label disk.Label
	kind  disk.OpKind
	stops bool
}{
	{raftlog.LabelAppend, disk.OpWrite, true},
	{raftlog.LabelAppend, disk.OpSync, true},
	{raftlog.LabelHeader, disk.OpWrite, true},
	{raftlog.LabelHeader, disk.OpSync, true},
	{raftlog.LabelPrepare, disk.OpWrite, true},
	{raftlog.LabelPrepare, disk.OpSync, true},
	{raftlog.LabelSnapshot, disk.OpWrite, false},
	{raftlog.LabelSnapshot, disk.OpSync, false},
	{storage.LabelCommitLog, disk.OpWrite, true},
	{storage.LabelCommitLog, disk.OpSync, true},
	{storage.LabelAllocate, disk.OpAllocate, false},
	{storage.LabelSums, disk.OpWrite, true},
	{storage.LabelSums, disk.OpSync, true},
	{storage.LabelQueue, disk.OpWrite, true},
	{storage.LabelQueue, disk.OpSyncFS, true},
	{storage.LabelQueueSums, disk.OpWrite, true},
	{storage.LabelCheckpoint, disk.OpWrite, true},
	{storage.LabelCheckpoint, disk.OpSync, true},
	{storage.LabelCheckpoint, disk.OpRename, true},
}

// Row 17: each operation on each kind of file fails once, on the leader, under load.
// Whatever becomes of the replica: nothing acknowledged is lost, the others go on,
// and when its operator has started it again it has what they have.
func TestDiskErrorOnce(t *testing.T) {
	for _, e := range diskErrors {
		t.Run(strings.ReplaceAll(fmt.Sprintf("%s %s", e.kind, e.label), " ", "-"), func(t *testing.T) {
			t.Parallel()
			tweak := func(c *Config) {
				// Logs are compacted all the time.
				c.SnapshotBytes, c.TrailingBytes, c.RaftSegmentSize, c.MaxEntry = 64<<10, 1, 128<<10, 64<<10
				c.BatchBytes = 8 << 10
			}
			inCluster(t, 3, tweak, func(t *testing.T, c *testCluster) {
				c.createTopic("T", 1)
				var acked []string
				send := func() {
					var bodies []string
					for range 20 {
						bodies = append(bodies, fmt.Sprintf("%06d", len(acked)+len(bodies))+strings.Repeat("x", 400))
					}
					c.wait("a batch is stored", func() bool {
						_, err := c.leader().sendAll(newTestSend("T", 0, fmt.Sprint("U", len(acked)), bodies...))
						return err == nil
					})
					acked = append(acked, bodies...)
				}
				send()
				c.settle()
				n := c.leader()
				failed := make(chan struct{})
				hook := &onceHook{left: 1, match: func(op disk.Op) bool { return op.Label == e.label && op.Kind == e.kind }, done: func() { close(failed) }}
				n.fs.SetHook(hook.see)
				hit := func() bool {
					select {
					case <-failed:
						return true
					default:
						return false
					}
				}
				for i := 0; !hit() && i < 20; i++ {
					for range 5 {
						send()
					}
					// What fails may be a part of it.
					if err := n.group().Snapshot(); err != nil && !hit() && n.group().Leadership().Self {
						t.Error(err)
					}
				}
				if !hit() {
					t.Fatal("there was no such operation")
				}
				begin := time.Now()
				send() // the others, or it, go on
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("a send took %v", took)
				}
				time.Sleep(2 * time.Second)
				g := n.group()
				if stopped := g.Err() != nil; stopped != e.stops {
					t.Errorf("it has stopped: %v (%v)", stopped, g.Err())
				}
				if s := g.Status(); e.stops && (s.Failure == "" || g.Leadership().Self) {
					t.Errorf("it says of itself %+v", s)
				}
				if g.Err() != nil {
					if len(n.bodies("T", 0)) == 0 {
						t.Error("nothing can be read of it")
					}
					n.stop()
					n.start()
				}
				send()
				c.checkEqual()
				for _, n := range c.nodes {
					have := map[string]bool{}
					for _, b := range n.bodies("T", 0) {
						have[b] = true
					}
					for _, b := range acked {
						if !have[b] {
							t.Fatalf("S1: %s has not got %s", n.id, b[:6])
						}
					}
				}
			})
		})
	}
}
