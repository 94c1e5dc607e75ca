package raftgroup

import (
	"fmt"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// handClock is a logClock of which the test turns the hands.
type handClock struct {
	logClock
	passed time.Duration // monotonic
	off    time.Duration // of its own wall clock
}

var noon = time.UnixMilli(1_700_000_000_000)

func newHandClock(others int, off time.Duration) *handClock {
	h := &handClock{off: off}
	h.logClock = newLogClock(func() time.Time { return noon.Add(h.passed) }, func() time.Time { return noon.Add(h.passed + h.off) })
	var ids []string
	for i := range others {
		ids = append(ids, fmt.Sprint(i))
	}
	h.of(ids, true)
	return h
}

// other notes another voter's clock.
func (h *handClock) other(i int, off time.Duration) {
	h.note(fmt.Sprint(i), h.mono(), msOf(noon.Add(h.passed+off)))
}

// late is how far the log time is behind the time.
func (h *handClock) late() time.Duration {
	return noon.Add(h.passed).Sub(time.UnixMilli(h.read()))
}

func TestLogClockFollowsTheMedian(t *testing.T) {
	for _, own := range []time.Duration{0, time.Hour, -time.Hour} {
		h := newHandClock(2, own)
		h.other(0, 0)
		h.other(1, 10*time.Millisecond)
		if own == 0 {
			h.other(1, time.Hour) // then another one is wrong
		}
		h.begin()
		for range 100 {
			h.passed += time.Second
			if late := h.late(); late > 11*time.Millisecond || late < -11*time.Millisecond {
				t.Fatalf("own clock off by %v, after %v: late by %v", own, h.passed, late)
			}
		}
	}
}

// C2, C3: what the log holds already is ahead of the median, and behind it.
func TestLogClockIsSlewed(t *testing.T) {
	h := newHandClock(2, 0)
	h.other(0, 0)
	h.other(1, 0)
	h.begin()
	h.raise(noon.Add(10 * time.Second).UnixMilli())
	for range 20 {
		h.passed += time.Second
	}
	if late := h.late(); late != 0 {
		t.Errorf("ahead by 10 s it should have been right after 20 s: late by %v", late)
	}
	// All clocks are put forward: time runs faster, and does not leap.
	h.off = 10 * time.Second
	h.other(0, 10*time.Second)
	h.other(1, 10*time.Second)
	h.passed += 10 * time.Second
	if late := h.late(); late != -5*time.Second {
		t.Errorf("10 s after the clocks were put forward by 10 s: late by %v", late)
	}
	h.begin()
	if late := h.late(); late != -10*time.Second {
		t.Errorf("at the beginning of a term: late by %v", late)
	}
	last := h.read()
	h.off = -time.Hour
	h.other(0, -time.Hour)
	h.other(1, -time.Hour)
	h.begin()
	if now := h.read(); now < last {
		t.Errorf("it goes back by %d ms", last-now)
	}
}

// C4: with too few clocks known only the time that passes counts.
func TestLogClockWithoutAMajority(t *testing.T) {
	h := newHandClock(2, time.Hour)
	h.raise(noon.UnixMilli())
	h.begin()
	h.passed += time.Minute
	if late := h.late(); late != 0 {
		t.Errorf("alone, late by %v", late)
	}
	// One is enough: right is what the two have between them.
	h.other(0, 0)
	h.passed += time.Minute
	if late := h.late(); late != 0 {
		t.Errorf("of two clocks one is ahead: late by %v", late)
	}
	h.off = -time.Hour
	h.begin()
	h.passed += time.Minute
	if late := h.late(); late != 0 {
		t.Errorf("of two clocks one is behind: late by %v", late)
	}
	h.passed += clockKept
	if h.settled() {
		t.Error("a clock that was not heard for long still counts")
	}
	if late := h.late(); late != 0 {
		t.Errorf("alone again, late by %v", late)
	}
}

// A new group's first leader has to begin somewhere; one that restarts makes up
// for the time it did not run once it knows which it is.
func TestLogClockBegins(t *testing.T) {
	h := newHandClock(2, 0)
	h.begin()
	if late := h.late(); late != 0 {
		t.Errorf("a new group's time is late by %v", late)
	}
	h = newHandClock(2, 0)
	h.raise(noon.Add(-time.Hour).UnixMilli())
	if late := h.late(); late != time.Hour {
		t.Errorf("after a restart it is late by %v, and knows no clock", late)
	}
	h.other(0, 0)
	if late := h.late(); late != 0 {
		t.Errorf("late by %v", late)
	}
}

// An answer that took too long is not used.
func TestLogClockIgnoresSlowAnswers(t *testing.T) {
	h := newHandClock(2, 0)
	h.raise(noon.UnixMilli())
	asked := h.mono()
	h.passed += clockTimeout + time.Millisecond
	h.note("0", asked, msOf(noon))
	if h.settled() {
		t.Error("an answer that took more than a second counts")
	}
}

// What a voter answers after it was taken out is not used.
func TestLogClockIgnoresWhoIsNoVoter(t *testing.T) {
	h := newHandClock(0, 0)
	h.begin()
	h.other(0, time.Hour) // asked when it was one
	h.begin()
	if late := h.late(); late != 0 {
		t.Errorf("late by %v", late)
	}
}

// Row 28: one clock is an hour ahead, an hour behind, or changes all the time. As
// every replica leads in turn, the wrong one, too, and after a restart of all, log
// time stays right, and times in a queue never go back.
func TestWrongClocks(t *testing.T) {
	for name, off := range map[string]func() time.Duration{
		"ahead":    func() time.Duration { return time.Hour },
		"behind":   func() time.Duration { return -time.Hour },
		"strobing": func() time.Duration { return time.Duration(time.Now().UnixMilli()/7%3-1) * time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, 3, func(c *Config) {
				if c.Node == "n1" {
					c.Wall = func() time.Time { return time.Now().Add(off()) }
				}
			}, func(t *testing.T, c *testCluster) {
				sent := 0
				ahead := func() time.Duration { return time.Until(time.UnixMilli(c.leader().group().LogTime())) }
				right := func(when string) {
					t.Helper()
					for range 5 {
						c.deliver("T", 0, fmt.Sprint("m", sent))
						sent++
						time.Sleep(300 * time.Millisecond)
					}
					if a := ahead(); a > 50*time.Millisecond || a < -50*time.Millisecond {
						t.Errorf("%s, led by %s: log time is ahead by %v", when, c.leader().id, a)
					}
				}
				c.createTopic("T", 1)
				for _, n := range append(c.nodes, c.nodes[0]) {
					if c.leader() != n {
						c.settle()
						if err := c.leader().group().TransferLeadership(t.Context(), n.id); err != nil {
							t.Fatal(err)
						}
						c.wait("the new leader", func() bool { return c.leading() == n })
					}
					right("in turn")
				}
				// Of two clocks that differ nobody can tell which is right: that no time
				// has passed can't be wrong by being early.
				for _, n := range c.nodes {
					n.kill()
				}
				time.Sleep(10 * time.Minute)
				c.nodes[0].start()
				c.nodes[1].start()
				if a := ahead(); a > 50*time.Millisecond || a < -10*time.Minute-5*time.Second {
					t.Errorf("after a restart of two: log time is ahead by %v", a)
				}
				c.nodes[2].start()
				c.wait("that time is right again", func() bool { return ahead() > -50*time.Millisecond })
				right("after a restart of all")
				c.checkEqual()
				times := c.leader().storeTimes(t, "T", 0)
				if len(times) != sent {
					t.Errorf("%d messages of %d", len(times), sent)
				}
				for i := 1; i < len(times); i++ {
					if times[i] < times[i-1] {
						t.Errorf("message %d is %d ms older than the one before it", i, times[i-1]-times[i])
					}
				}
			})
		})
	}
}

// storeTimes are the times in a queue.
func (n *testNode) storeTimes(t *testing.T, topic string, queue int32) (times []int64) {
	t.Helper()
	g := n.group()
	of, _ := g.State().Topic(topic)
	q := g.Store().Queue(storage.QueueID{Topic: topic, Incarnation: of.Incarnation, Queue: queue})
	units, err := q.Units(0, int(q.Max()), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range units {
		rec, err := g.Store().Read(u.Phys, int(u.Size))
		if err != nil {
			t.Fatal(err)
		}
		v, err := remoting.ParseRecord(rec)
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, v.StoreTimestamp())
	}
	return times
}
