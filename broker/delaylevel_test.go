package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

func TestDELAY04RestartBeforeItIsDue(t *testing.T) {
	t.Parallel()
	var clock testClock
	cl := startCluster(t, 1, func(c *Config) { levels("1h 2h")(c); clock.set(c) })
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	start := cl.leader(t).group.LogTime()
	c.mustSend(message("T", 0, remoting.PropDelay, "1"), "level 1")
	c.mustSend(message("T", 0, remoting.PropDelay, "2"), "level 2")
	c.mustSend(timed("T", 0, 150*time.Minute), "timer")
	restart := func() {
		cl.end(t, "n1")
		cl.mustStart(t, "n1")
		c = dial(t, cl.leader(t))
	}
	restart()
	clock.forward(time.Hour)
	c.arrived("T", 0, 1)
	restart()
	cl.end(t, "n1")
	clock.forward(2 * time.Hour) // both are overdue when it starts
	cl.mustStart(t, "n1")
	c = dial(t, cl.leader(t))
	c.arrived("T", 0, 3)
	restart()
	records := c.all("T", 0)
	if got := bodiesOf(records); !slices.Equal(got, []string{"level 1", "level 2", "timer"}) && !slices.Equal(got, []string{"level 1", "timer", "level 2"}) {
		t.Errorf("%q", got)
	}
	for _, v := range records {
		after := map[string]int64{"level 1": 60, "level 2": 120, "timer": 150}[string(v.Body())] * minuteMs
		if took := v.StoreTimestamp() - start; took < after {
			t.Errorf("%q came after %d ms", v.Body(), took)
		}
	}
}

// A level that is shorter after a restart: what would be due later than if it were
// sent now comes at once, the rest when it is due. Longer, it changes nothing for
// what waits.
func TestDELAY06LevelsAreChanged(t *testing.T) {
	t.Parallel()
	var clock testClock
	cl := startCluster(t, 1, func(c *Config) { levels("2h 1h")(c); clock.set(c) })
	c := dial(t, cl.leader(t))
	c.topic("T", 2)
	restart := func(text string) {
		cl.end(t, "n1")
		cl.cfg.MessageDelayLevel = text
		cl.mustStart(t, "n1")
		c = dial(t, cl.leader(t))
	}
	start := cl.leader(t).group.LogTime()
	c.mustSend(message("T", 0, remoting.PropDelay, "1"), "soon due")
	c.mustSend(message("T", 1, remoting.PropDelay, "2"), "made longer")
	clock.forward(110 * time.Minute)
	c.arrived("T", 1, 1)
	c.mustSend(message("T", 0, remoting.PropDelay, "1"), "due in 2 h")
	c.mustSend(message("T", 1, remoting.PropDelay, "2"), "due in 1 h")
	restart("30m 3h")
	// Levels are emptied in their order: what is due in 2 h waits for what is before
	// it, 10 min, and would come in 30 if it were sent now.
	c.mustSend(message("T", 0, remoting.PropDelay, "1"), "due in 30 min")
	if got := c.all("T", 0); len(got) != 0 {
		t.Errorf("%q came at once", bodiesOf(got))
	}
	clock.forward(10 * time.Minute)
	records := c.arrived("T", 0, 2)
	if got := bodiesOf(records); !slices.Equal(got, []string{"soon due", "due in 2 h"}) || records[0].StoreTimestamp() < start+120*minuteMs {
		t.Errorf("%q, the first after %d ms", got, records[0].StoreTimestamp()-start)
	}
	clock.forward(20 * time.Minute)
	c.arrived("T", 0, 3)
	if got := c.all("T", 1); len(got) != 1 {
		t.Errorf("%q", bodiesOf(got))
	}
	clock.forward(30 * time.Minute)
	if got := bodiesOf(c.arrived("T", 1, 2)); got[1] != "due in 1 h" {
		t.Errorf("%q", got)
	}
}

// S9: the leader dies before timer messages are due, and while they are delivered.
func TestDELAY05TimersOverLeaderChanges(t *testing.T) {
	t.Parallel()
	const n = 300
	cl := startCluster(t, 3, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	due := b.group.LogTime() + 4000
	for i := range n {
		c.mustSend(message("T", 0, remoting.PropTimerDeliverMs, fmt.Sprint(due+int64(i)*10), remoting.PropUniqKey, fmt.Sprint(i)), fmt.Sprint(i))
	}
	cl.transfer(t)
	old := cl.leader(t)
	eventually(t, "some are delivered", func() bool { q := old.queue("T", 0); return q != nil && q.Max() > n/10 })
	cl.end(t, old.cfg.NodeID)
	eventually(t, "all are delivered", func() bool { return waitingIn(cl.leader(t)) == 0 })
	cl.mustStart(t, old.cfg.NodeID)
	cl.transfer(t)
	cl.caughtUp(t)
	for id, b := range cl.brokers() {
		seen := map[string]bool{}
		for _, v := range dial(t, b).all("T", 0) {
			var i int64
			if _, err := fmt.Sscan(string(v.Body()), &i); err != nil {
				t.Fatal(err)
			}
			if seen[string(v.Body())] || v.StoreTimestamp() < due+i*10 {
				t.Errorf("%s: %d came twice or early", id, i)
			}
			seen[string(v.Body())] = true
		}
		if len(seen) != n {
			t.Errorf("%s has %d of %d", id, len(seen), n)
		}
	}
}
