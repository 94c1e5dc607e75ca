package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// floorAcks is the load that has to be there before a fault, and to come back
// after it.
const floorAcks = 150

// long says whether the long forms are wanted.
func long() bool { return os.Getenv("RAFTMQ_LONG") == "1" }

// onlyLong skips a test that takes long where another one does the like.
func onlyLong(t *testing.T, light string) {
	t.Helper()
	if !long() {
		t.Skip("RAFTMQ_LONG=1 runs it; its light form is " + light)
	}
}

// times is how often something is done in the short and the long form.
func times(short, longer int) int {
	if long() {
		return longer
	}
	return short
}

// seeded returns a source of randomness whose seed is printed, and taken from
// RAFTMQ_SEED.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("RAFTMQ_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("RAFTMQ_SEED: %v", err)
		}
	}
	revision := "unknown"
	if out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		revision = strings.TrimSpace(string(out))
	}
	t.Logf("RAFTMQ_SEED=%d long=%v race=%v revision=%s", seed, long(), raceEnabled, revision)
	return rand.New(rand.NewPCG(seed, 0))
}

// chaos is a cluster under load, to which faults are done.
type chaos struct {
	*cluster
	l     *load
	rnd   *rand.Rand
	disks map[string]*faultDisk // of nodes
	power map[string]*powerDisk // likewise; below the former, if there are both
	async bool                  // the power of most nodes may not be cut
	tally *tally
	open  []begun
}

// begun is a fault that has been done and not been healed from yet.
type begun struct {
	kind string
	at   time.Duration // in the load's history
}

func startChaos(t *testing.T) *chaos {
	rnd := seeded(t)
	c := &chaos{cluster: startCluster(t, 3, 1), rnd: rnd, tally: newTally()}
	c.l = startLoad(t, c.cluster, "Chaos")
	return c
}

// startNetChaos is startChaos with links that can be cut.
func startNetChaos(t *testing.T, nodes, groups int) *chaos {
	t.Helper()
	needsWorld(t)
	rnd := seeded(t)
	n := newNetwork(t, rnd.Uint64(), nodeIDs(nodes)...)
	c := &chaos{cluster: newClusterOn(t, n, t.TempDir(), nodes, groups), rnd: rnd, tally: newTally()}
	c.run()
	c.l = startLoad(t, c.cluster, "Chaos")
	return c
}

// end checks everything, last the files.
func (c *chaos) end() {
	c.t.Helper()
	c.l.check()
	c.l.count(c.tally)
	c.stop()
	c.verify()
	c.tally.log(c.t)
}

// begin begins a fault: there is a load.
func (c *chaos) begin(kind string) {
	c.t.Helper()
	c.l.floor(floorAcks, "before: "+kind)
	c.open = append(c.open, begun{kind, c.l.h.now()})
}

// struck says that the fault that began last is there now.
func (c *chaos) struck() { c.open[len(c.open)-1].at = c.l.h.now() }

// heal undoes what was done, starts what is down, and waits until all is well and
// sends are acked.
func (c *chaos) heal() {
	c.t.Helper()
	from := time.Now()
	if c.net != nil {
		c.net.heal()
	}
	for _, d := range c.disks {
		d.heal()
	}
	c.mu.Lock()
	paused := slices.Collect(maps.Keys(c.paused))
	c.mu.Unlock()
	c.resume(paused...)
	c.reach(c.ids...)
	for _, id := range c.ids {
		if !slices.Contains(c.up(), id) {
			c.start(id)
		}
	}
	c.healthy()
	equal := time.Since(from)
	c.l.floor(floorAcks, "after the fault")
	for _, b := range c.open {
		c.tally.fault(b.kind, equal, c.l.h.firstAck(b.at))
	}
	c.open = nil
}

// killLeader kills the leader under load. The others go on without it.
func (c *chaos) killLeader() {
	c.t.Helper()
	c.begin("kill the leader")
	old, term := c.leader("broker-a")
	c.kill(old)
	c.struck()
	if now, newTerm := c.leader("broker-a"); now == old || newTerm <= term {
		c.t.Fatalf("%s led in term %d and was killed, and %s leads in term %d", old, term, now, newTerm)
	}
	c.l.floor(floorAcks, "without the old leader")
	c.heal()
}

// killFollower kills a follower, which is the largest minority of three too.
// Leadership stays.
func (c *chaos) killFollower() {
	c.t.Helper()
	c.begin("kill a follower")
	leader, _ := c.leader("broker-a")
	c.kill(c.pick(c.others(leader)))
	c.struck()
	c.l.floor(floorAcks, "without the follower")
	c.heal()
}

// killMajority kills two, and sometimes all: nothing may be acked until a quorum
// is back.
func (c *chaos) killMajority(n int) {
	c.t.Helper()
	c.begin(fmt.Sprintf("kill %d of %d", n, len(c.ids)))
	victims := slices.Clone(c.ids)
	c.rnd.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	c.kill(victims[:n]...)
	c.struck()
	c.noAcks(fmt.Sprintf("%d of %d are down", n, len(c.ids)))
	c.heal()
}

// noAcks checks that no send is acked that begins now, for there is no quorum:
// until so many have ended that somebody would have been.
func (c *chaos) noAcks(why string) {
	c.t.Helper()
	from := c.l.h.now()
	eventually(c.t, "sends that find no quorum", func() error {
		if _, refused := checkNoQuorum(c.l.h.all(), from, c.l.h.now()); refused < inOrderSenders+freeSenders {
			return fmt.Errorf("%d", refused)
		}
		return nil
	})
	found, refused := checkNoQuorum(c.l.h.all(), from, c.l.h.now())
	report(c.t, found)
	c.t.Logf("%s for %v: %d sends were not acked", why, (c.l.h.now() - from).Round(time.Millisecond), refused)
}

// killRecovering kills nodes while they recover, n times, at random moments.
func (c *chaos) killRecovering(n int, ids ...string) {
	c.t.Helper()
	c.begin("kill in recovery")
	c.kill(ids...)
	early := 0
	for i := range n {
		// Some while the files are opened, some in the election, some behind it.
		at := time.Duration(c.rnd.Int64N(int64([]time.Duration{20 * time.Millisecond, 200 * time.Millisecond, time.Second}[i%3])))
		offset := map[string]int64{}
		for _, id := range ids {
			info, err := os.Stat(c.log(id))
			if err != nil {
				c.t.Fatal(err)
			}
			offset[id] = info.Size()
		}
		c.start(ids...)
		<-time.After(at) // the fault's moment, not a wait for something
		for id, s := range c.signal(syscall.SIGKILL, ids...) {
			if s.Exited() {
				c.t.Fatalf("%s could not start again: %v\n%s", id, s, tail(c.log(id)))
			}
			if text, err := os.ReadFile(c.log(id)); err == nil && !strings.Contains(string(text[offset[id]:]), "the node is up") {
				early++
			}
		}
	}
	if early == 0 && n > 2 {
		c.t.Errorf("%d kills, and none of them came before a node was up", n)
	}
	c.t.Logf("%v were killed %d times in recovery, %d processes before they were up", ids, n, early)
	c.heal()
}

func (c *chaos) pick(ids []string) string { return ids[c.rnd.IntN(len(ids))] }

// Row 1: kill -9 of the leader under load, in a loop.
func TestKillLeader(t *testing.T) {
	t.Parallel()
	c := startChaos(t)
	for range times(3, 30) {
		c.killLeader()
	}
	c.end()
}

// Row 2: kill -9 of a follower, of a majority, of all.
func TestSTORE02KillNodes(t *testing.T) {
	t.Parallel()
	c := startChaos(t)
	for range times(1, 8) {
		c.killFollower()
		c.killMajority(2)
		c.killMajority(3)
	}
	c.end()
}

// Row 3: kill -9 during recovery, at random moments.
func TestKillRecovering(t *testing.T) {
	t.Parallel()
	c := startChaos(t)
	for range times(1, 4) {
		c.killRecovering(times(4, 20), c.ids...)
		leader, _ := c.leader("broker-a")
		c.killRecovering(times(3, 20), c.pick(c.others(leader)))
	}
	c.end()
}

// chaosDuration is how long TestChaos goes on: RAFTMQ_CHAOS, a time span.
func chaosDuration(t testing.TB) time.Duration {
	t.Helper()
	text := os.Getenv("RAFTMQ_CHAOS")
	if text == "" {
		if long() {
			return 2 * time.Minute
		}
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("RAFTMQ_CHAOS: %v", err)
	}
	return d
}
