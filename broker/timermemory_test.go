package broker

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	scheduledNode = 10_000_000 // messages that a node is to hold
	nodeMemory    = 512 << 20
)

// Memory grows with what is due soon, not with what is scheduled.
func TestHeapOfScheduledMessages(t *testing.T) {
	if os.Getenv("RAFTMQ_LONG") == "" {
		t.Skip("ten million messages: RAFTMQ_LONG=1")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=timers")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// countdown is sends whose outcomes are waited for.
type countdown struct {
	sync.WaitGroup
	mu  sync.Mutex
	err error
}

type timerOp struct {
	c      *countdown
	record remoting.Record
}

func (op *timerOp) AppendRecords(dst []byte) ([]byte, error) {
	return remoting.AppendRecord(dst, &op.record)
}

func (op *timerOp) Done(r fsm.Result, err error) {
	if err == nil {
		err = refusalOf(r.Status, op.record.Topic)
	}
	if err != nil {
		op.c.mu.Lock()
		op.c.err = err
		op.c.mu.Unlock()
	}
	op.c.WaitGroup.Done()
}

// scheduleMany has messages wait, each until its own time.
func scheduleMany(b *Broker, n int, due func(i int) int64) error {
	var c countdown
	for i := range n {
		r := remoting.Record{Topic: "T", Body: []byte("a body"), StoreHost: b.addr, BornHost: b.addr, BornTimestamp: b.group.LogTime()}
		r.Properties = b.scheduleAt(&r, properties(remoting.PropUniqKey, fmt.Sprintf("%032d", i)), due(i))
		c.Add(1)
		send := raftgroup.Send{Count: 1, Size: r.Size(), Op: &timerOp{c: &c, record: r}}
		err := b.group.Append(send)
		for ; errors.Is(err, raftgroup.ErrBusy); err = b.group.Append(send) {
			<-time.After(time.Millisecond)
		}
		if err != nil {
			return err
		}
		if i%4096 == 0 {
			c.Wait()
		}
	}
	c.Wait()
	return c.err
}

func timersChild() (err error) {
	dir, err := os.MkdirTemp("", "raftmq-timers-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := newCluster(filepath.Join(dir, "node"), 1, func(c *Config) {
		c.TimerMaxDelaySec = 40 * 24 * 60 * 60
		c.FlushDiskType = "ASYNC_FLUSH"
		c.MappedFileSizeCommitLog = 256 << 20
		c.RaftSegmentSize = 64 << 20
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	var b *Broker
	leads := func() error {
		return until("a leader", func() bool {
			b = c.nodes["n1"].Brokers()[0]
			return b.leading.ready.Load() != 0
		})
	}
	if err := leads(); err != nil {
		return err
	}
	topic := ownTopic("T", 1)
	if _, err := b.createTopic(b.ctx, topic); err != nil {
		return err
	}
	empty := heapInUse()
	fmt.Printf("a node without messages: %.1f MiB of heap\n", float64(empty)/(1<<20))
	const n, steps = scheduledNode, 4
	began, most := time.Now(), int64(0)
	for i := range steps {
		spread := func(int) int64 { return b.group.LogTime() + 10*minuteMs + rand.Int64N(39*24*60*minuteMs) }
		if err := scheduleMany(b, n/steps, spread); err != nil {
			return err
		}
		most = max(most, heapInUse())
		fmt.Printf("%d messages in %v: %.1f MiB\n", n/steps*(i+1), time.Since(began).Round(time.Second), float64(heapInUse())/(1<<20))
	}
	began = time.Now()
	if err := b.group.Snapshot(); err != nil {
		return err
	}
	fmt.Printf("a snapshot took %v\n", time.Since(began).Round(time.Millisecond))
	if err := c.stop(); err != nil {
		return err
	}
	began = time.Now()
	if err := c.start("n1"); err != nil {
		return err
	}
	if err := leads(); err != nil {
		return err
	}
	took := time.Since(began)
	if err := until("a sweep", func() bool { return b.wheel.sweeps.Load() > 0 }); err != nil {
		return err
	}
	most = max(most, heapInUse())
	fmt.Printf("after a restart in %v, and %v of looking for what is overdue: %.1f MiB\n", took.Round(time.Millisecond),
		(time.Since(began) - took).Round(time.Millisecond), float64(heapInUse())/(1<<20))
	if most > nodeMemory/2 { // the collector doubles it at worst
		return fmt.Errorf("%d messages take %d MiB", n, most>>20)
	}
	return nil
}

// More in one second than are kept of a bucket at once.
func TestMoreInOneSecondThanABucketKeeps(t *testing.T) {
	if os.Getenv("RAFTMQ_LONG") == "" {
		t.Skip("tens of thousands of messages: RAFTMQ_LONG=1")
	}
	const n = 5 * bucketKeep
	cl := startCluster(t, 1, func(c *Config) { c.MappedFileSizeCommitLog = 64 << 20 })
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	due := b.group.LogTime() + 20_000
	if err := scheduleMany(b, n, func(i int) int64 { return due + int64(n-i)*1000/n }); err != nil {
		t.Fatal(err)
	}
	if now := b.group.LogTime(); now > due {
		t.Fatalf("scheduled %d ms late", now-due)
	}
	eventually(t, "all come", func() bool { q := b.queue("T", 0); return q != nil && q.Max() >= n })
	eventually(t, "all is settled", func() bool { return waitingIn(b) == 0 })
	seen := map[string]bool{}
	for _, v := range c.all("T", 0) {
		if seen[v.Properties().Get(remoting.PropUniqKey)] || v.StoreTimestamp() < due {
			t.Fatalf("%q came twice, or %d ms early", v.Properties().Get(remoting.PropUniqKey), due-v.StoreTimestamp())
		}
		seen[v.Properties().Get(remoting.PropUniqKey)] = true
	}
	if len(seen) != n {
		t.Errorf("%d of %d came", len(seen), n)
	}
}

func TestBucketKeepsWhatIsDueFirst(t *testing.T) {
	k := newBucket(storage.QueueID{}, 1<<60)
	seed := [32]byte{1}
	r := rand.New(rand.NewChaCha8(seed))
	var all []dueUnit
	for i := range int64(5 * bucketKeep) {
		u := dueUnit{at: r.Int64N(1_000_000), offset: i}
		all = append(all, u)
		if u.at < k.cut {
			k.add(u)
		}
		if len(k.items) > 2*bucketKeep {
			t.Fatalf("%d items", len(k.items))
		}
	}
	slices.SortFunc(all, compareDue)
	for i := 0; len(k.items) > 0; i++ {
		if u := heap.Pop(&k.items).(dueUnit); u != all[i] && u.at != k.cut {
			t.Fatalf("number %d is %+v, want %+v", i, u, all[i])
		} else if u.at > k.cut {
			t.Fatalf("%+v is beyond the cut at %d", u, k.cut)
		}
	}
	if k.done() {
		t.Error("what was left out is forgotten")
	}
}
