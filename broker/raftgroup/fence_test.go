package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// hangDisk has the operations that match hang until the function it returns is
// called.
func (n *testNode) hangDisk(match func(disk.Op) bool) (release func()) {
	hung := make(chan struct{})
	n.fs.SetHook(func(op disk.Op) error {
		if match(op) {
			<-hung
		}
		return nil
	})
	return func() {
		n.fs.SetHook(nil)
		close(hung)
	}
}

func logSync(op disk.Op) bool {
	return op.Kind == disk.OpSync && op.Label == raftlog.LabelAppend
}

// Row 19: the disk of the leader hangs for a minute. raft's heartbeats go on; the
// replica is fenced all the same, and another one leads within 2 seconds.
func TestHungDiskOfTheLeader(t *testing.T) {
	const minute = "log sync" // the one that takes so long
	for name, match := range map[string]func(disk.Op) bool{
		"all":         func(op disk.Op) bool { return op.Kind != disk.OpRead && op.Kind != disk.OpOpen }, // what is read is in memory
		minute:        logSync,
		"log write":   steps["frame write"],
		"apply write": steps["apply write"],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
				testHungLeader(t, c, match, map[bool]time.Duration{true: time.Minute, false: 5 * time.Second}[name == minute])
			})
		})
	}
}

func testHungLeader(t *testing.T, c *testCluster, match func(disk.Op) bool, hang time.Duration) {
	c.createTopic("T", 1)
	c.deliver("T", 0, "before")
	old := c.leader()
	c.settle()
	release := old.hangDisk(match)
	begin := time.Now()
	caught := make(chan error, 1)
	go func() {
		_, err := old.send("T", 0, "caught", "Ucaught")
		caught <- err
	}()
	c.wait("the fence", func() bool { return old.group().Fenced() != "" })
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("fenced after %v", took)
	}
	if l := old.group().Leadership(); l.Self {
		t.Errorf("it leads: %+v", l)
	}
	c.wait("another leader", func() bool { l := c.leading(); return l != nil && l != old })
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("another one leads after %v", took)
	}
	if err := <-caught; !errors.Is(err, ErrUnknown) {
		t.Errorf("what was with raft ended with %v", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("who sent it was told after %v", took)
	}
	if err := old.group().Append(newTestSend("T", 0, "U", "refused").send()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a send is refused with %v", err)
	}
	c.deliver("T", 0, "meanwhile")
	if got := old.bodies("T", 0); len(got) == 0 || got[0] != "before" {
		t.Errorf("of what it has in memory can be read: %q", got)
	}
	// It says so, at once, to operators and to its peers, and to raft nothing.
	asked := time.Now()
	if s := old.group().Status(); s.Fenced == "" || s.Fences != 1 || s.Leader == s.ServerID {
		t.Errorf("its status says %+v", s)
	}
	s, err := c.leader().group().ask(context.Background(), old.addr)
	if err != nil || s.Fenced == "" || s.Leader == s.ServerID {
		t.Errorf("asked, it says %+v, %v", s, err)
	}
	if took := time.Since(asked); took > 200*time.Millisecond {
		t.Errorf("that took %v", took)
	}
	if _, err := c.leader().group().cfg.Port.connect(context.Background(), old.addr, hello{
		Kind: streamRaft, Group: "broker-a", From: "x", To: old.group().ID()}, time.Second); !errors.Is(err, ErrRefused) {
		t.Errorf("a dial ends with %v", err)
	}
	time.Sleep(hang)
	if old.group().Fenced() == "" {
		t.Error("it is not fenced any more")
	}
	release()
	c.wait("the end of the fence", func() bool { return old.group().Fenced() == "" })
	c.deliver("T", 0, "after")
	c.checkEqual()
	if err := old.group().standing.mayVote(); err != nil {
		t.Error(err)
	}
	time.Sleep(2 * shakyFor)
	synctest.Wait()
	if err := old.group().standing.restrained(); err != nil {
		t.Error(err)
	}
}

// A follower whose disk hangs is fenced as well. The group has two others.
func TestHungDiskOfAFollower(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		leader := c.leader()
		hung := c.followers()[0]
		release := hung.hangDisk(func(disk.Op) bool { return true })
		for _, body := range []string{"a", "b", "c"} {
			begin := time.Now()
			if _, err := leader.send("T", 0, body, "U"+body); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > 100*time.Millisecond {
				t.Errorf("%s was acknowledged after %v", body, took)
			}
		}
		c.wait("the fence", func() bool { return hung.group().Fenced() != "" })
		term := c.leader().group().Leadership().Term
		time.Sleep(10 * time.Second)
		release()
		c.wait("the end of the fence", func() bool { return hung.group().Fenced() == "" })
		c.checkEqual()
		if now := c.leader().group().Leadership(); now.Term != term {
			t.Errorf("term %d has become %d", term, now.Term)
		}
	})
}

// When all disks hang, nobody leads. When they answer again, somebody does.
func TestHungDisksOfAll(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.deliver("T", 0, "before")
		old := c.leader()
		var release []func()
		for _, n := range c.nodes {
			release = append(release, n.hangDisk(logSync))
		}
		go old.send("T", 0, "caught", "Ucaught")
		c.wait("the leader's fence", func() bool { return old.group().Fenced() != "" })
		time.Sleep(5 * time.Second)
		if l := c.leading(); l != nil {
			t.Errorf("%s leads", l.id)
		}
		for _, r := range release {
			r()
		}
		c.deliver("T", 0, "after")
		c.checkEqual()
	})
}

// A group of one has nobody else: its replica waits for its disk, and what waits
// with it is stored.
func TestHungDiskOfOne(t *testing.T) {
	inCluster(t, 1, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		release := c.leader().hangDisk(logSync)
		caught := make(chan error, 1)
		go func() {
			_, err := c.nodes[0].send("T", 0, "caught", "Ucaught")
			caught <- err
		}()
		time.Sleep(2 * time.Second)
		if g := c.nodes[0].group(); g.Fenced() != "" || !g.Leadership().Self || g.Status().DiskHung == "" {
			t.Errorf("fenced %q, %+v, hung %q", g.Fenced(), g.Leadership(), g.Status().DiskHung)
		}
		release()
		if err := <-caught; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if s := c.nodes[0].group().Status(); s.DiskHung != "" {
			t.Errorf("hung: %q", s.DiskHung)
		}
	})
}

// Large operations may take long on a disk that is well: a probe tells.
func TestLongOperationIsNoHang(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		leader := c.leader()
		c.deliver("T", 0, "m")
		c.settle()
		synctest.Wait() // the second segment is made
		release := leader.hangDisk(func(op disk.Op) bool { return op.Kind == disk.OpAllocate })
		for i := range 3 { // so that the third one is to be made
			if _, err := leader.send("T", 0, strings.Repeat("x", 100<<10), fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(10 * time.Second)
		if g := leader.group(); g.Fenced() != "" || g.Status().Fences != 0 || g.DiskHung(5*time.Second) == "" {
			t.Errorf("fenced %q, %d times, hung %q", g.Fenced(), g.Status().Fences, g.DiskHung(5*time.Second))
		}
		release()
		c.checkEqual()
	})
}

// However many readers hang with the disk, and before anything else does, the
// replica is fenced.
func TestHungReadersHideNothing(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.deliver("T", 0, "before")
		old := c.leader()
		c.settle()
		f, err := old.group().disk.OpenFile("pull", "data/"+IdentityFile, os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		release := old.hangDisk(func(disk.Op) bool { return true })
		var readers sync.WaitGroup
		for range 1000 {
			readers.Go(func() {
				if _, err := f.ReadAt(make([]byte, 8), 0); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		begin := time.Now()
		c.wait("the fence", func() bool { return old.group().Fenced() != "" })
		c.wait("another leader", func() bool { l := c.leading(); return l != nil && l != old })
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if what := old.group().Status().Fenced; strings.Contains(what, "pull") {
			t.Errorf("it says that %s", what)
		}
		c.deliver("T", 0, "meanwhile")
		release()
		readers.Wait()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		c.wait("the end of the fence", func() bool { return old.group().Fenced() == "" })
		c.checkEqual()
	})
}

// A probe tells by itself what it waits for, and since when.
func TestProbeTellsWhereItHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := disk.NewMem(1)
		release := make(chan struct{})
		m.SetHook(func(op disk.Op) error {
			if op.Kind == disk.OpSync {
				<-release
			}
			return nil
		})
		var p prober
		p.init(m, "/")
		begin := time.Now()
		ended := make(chan error)
		go func() { ended <- p.probe() }()
		time.Sleep(time.Minute)
		if op := p.step.Load(); op == nil || op.Kind != disk.OpSync || !op.Since.Equal(begin) || !urgent(op.Kind, op.Label) {
			t.Errorf("it is at %+v", op)
		}
		close(release)
		if err := <-ended; err != nil || p.step.Load() != nil {
			t.Errorf("it ended with %v, and is at %+v", err, p.step.Load())
		}
	})
}
