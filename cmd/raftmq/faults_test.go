package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// steady checks that leadership did not go round: few terms have passed.
func (c *chaos) steady(from uint64, most uint64) {
	c.t.Helper()
	if leader, term := c.leader("broker-a"); term > from+most {
		c.t.Errorf("an election storm: from term %d to %d, that of %s", from, term, leader)
	}
}

// seen checks that links had something to do to packets.
func (c *chaos) seen(what string, links []*link, n func(*link) int64) {
	c.t.Helper()
	eventually(c.t, what, func() error {
		for _, l := range links {
			if n(l) > 0 {
				return nil
			}
		}
		return fmt.Errorf("none on %d links", len(links))
	})
}

func dropped(l *link) int64 { return l.dropped.Load() }
func held(l *link) int64    { return l.held.Load() }
func refusals(l *link) int64 {
	return l.refused.Load()
}

// lose takes a node off the network: its peers and the clients hear nothing more
// of it. The others go on.
func (c *chaos) lose(id string) {
	c.t.Helper()
	leader, term := c.leader("broker-a")
	kind := "lose a follower's host"
	if id == leader {
		kind = "lose the leader's host"
	}
	c.begin(kind)
	c.leave(id)
	links := c.net.between(rule{cut: true}, []string{id}, append(c.others(id), clients))
	c.struck()
	c.seen("lost packets", links, dropped)
	if now, newTerm := c.leader("broker-a"); id == leader && (now == id || newTerm <= term) {
		c.t.Fatalf("%s led in term %d and is off the network, and %s leads in term %d", id, term, now, newTerm)
	}
	c.l.floor(floorAcks, "without "+id)
	c.heal()
}

// cutFromPeers cuts the leader from its peers, not from the clients: it acks
// nothing more, and they find the new one.
func (c *chaos) cutFromPeers() {
	c.t.Helper()
	c.begin("cut the leader from its peers")
	leader, term := c.leader("broker-a")
	c.leave(leader)
	links := c.net.between(rule{cut: true}, []string{leader}, c.others(leader))
	c.struck()
	c.seen("lost packets", links, dropped)
	if now, newTerm := c.leader("broker-a"); now == leader || newTerm <= term {
		c.t.Fatalf("%s led in term %d and is alone, and %s leads in term %d", leader, term, now, newTerm)
	}
	eventually(c.t, "the old leader knows that it does not lead", func() error {
		s, err := c.status("broker-a", leader)
		if err == nil && s.Leader == s.ServerID {
			err = fmt.Errorf("it leads in term %d", s.Term)
		}
		return err
	})
	c.l.floor(floorAcks, "from the new leader")
	c.heal()
}

// scatter cuts every link between nodes: nobody has a quorum.
func (c *chaos) scatter() {
	c.t.Helper()
	c.begin("cut all links")
	links := c.net.between(rule{cut: true}, c.ids, c.ids)
	c.struck()
	c.seen("lost packets", links, dropped)
	c.leave(c.ids...)
	eventually(c.t, "nobody leads", func() error {
		for _, id := range c.ids {
			if s, err := c.status("broker-a", id); err != nil || s.Leader == s.ServerID {
				return fmt.Errorf("%s: %s, %v", id, s.State, err)
			}
		}
		return nil
	})
	c.noAcks("all links are cut")
	c.heal()
}

// cutLink cuts one link, which leaves everybody a majority: there is a leader,
// and not a new one all the time.
func (c *chaos) cutLink() {
	c.t.Helper()
	c.begin("cut one link")
	leader, term := c.leader("broker-a")
	other := c.pick(c.others(leader))
	links := c.net.between(rule{cut: true}, []string{leader}, []string{other})
	c.struck()
	c.seen("lost packets", links, dropped)
	c.leave(other)
	c.l.floor(4*floorAcks, "with a link that is cut")
	c.reach(other)
	c.heal()
	c.steady(term, 10)
}

// oneWay makes a node deaf or mute: what its peers send does not reach it, or
// what it sends does not reach them.
func (c *chaos) oneWay(id string, deaf bool) {
	c.t.Helper()
	kind := map[bool]string{true: "deaf", false: "mute"}[deaf]
	leader, term := c.leader("broker-a")
	if id == leader {
		kind += " leader"
	} else {
		kind += " follower"
	}
	c.begin(kind)
	c.leave(id)
	var links []*link
	for _, o := range c.others(id) {
		if deaf {
			links = append(links, c.net.set(rule{cut: true}, o, id))
		} else {
			links = append(links, c.net.set(rule{cut: true}, id, o))
		}
	}
	c.struck()
	c.seen("lost packets", links, dropped)
	c.l.floor(4*floorAcks, "with a "+kind)
	c.heal()
	c.steady(term, 10)
}

// worse makes the links between nodes worse for as long as a number of sends
// take.
func (c *chaos) worse(kind string, r rule, most uint64) {
	c.t.Helper()
	_, term := c.leader("broker-a")
	c.begin(kind)
	links := c.net.between(r, c.ids, c.ids)
	c.struck()
	c.seen("packets held up or lost", links, func(l *link) int64 { return held(l) + dropped(l) })
	c.l.floor(2*floorAcks, "with "+kind)
	c.heal()
	c.steady(term, most)
}

func (c *chaos) delays() {
	c.worse("delay of 50-150 ms", rule{delay: 50 * time.Millisecond, jitter: 100 * time.Millisecond}, 10)
}

func (c *chaos) drops() {
	c.worse("3% of packets lost, 3% doubled, reordered", rule{jitter: 10 * time.Millisecond, reorder: true, drop: 0.03, double: 0.03}, 10)
}

// spikes delay everything by half a second, now and then.
func (c *chaos) spikes() {
	c.t.Helper()
	_, term := c.leader("broker-a")
	c.begin("spikes of 500 ms")
	var links []*link
	for range 3 {
		links = c.net.between(rule{delay: 500 * time.Millisecond}, c.ids, c.ids)
		<-time.After(700 * time.Millisecond) // how long a spike is
		c.net.between(rule{}, c.ids, c.ids)
		c.l.floor(floorAcks, "after a spike")
	}
	c.seen("packets held up", links, held)
	c.heal()
	c.steady(term, 12)
}

// refuse makes one link refuse connections, while the rest is healthy: the leader
// stays.
func (c *chaos) refuse() {
	c.t.Helper()
	c.begin("one link refuses connections")
	leader, term := c.leader("broker-a")
	other := c.pick(c.others(leader))
	l := c.net.set(rule{refuse: true}, other, leader)
	c.struck()
	c.seen("refused packets", []*link{l}, refusals)
	c.leave(other)
	c.l.floor(2*floorAcks, "with a link that refuses")
	if now, newTerm := c.leader("broker-a"); now != leader && newTerm > term+1 { // it may be given to the preferred one
		c.t.Errorf("%s led in term %d, now %s in term %d: one refusing link deposed it", leader, term, now, newTerm)
	}
	c.reach(other)
	c.heal()
}

// resets breaks all connections of a node, whatever is on them, again and again.
func (c *chaos) resets(id string) {
	c.t.Helper()
	c.begin("connections reset")
	for range 3 {
		links := c.net.between(rule{refuse: true}, []string{id}, append(c.others(id), clients))
		c.seen("resets", links, refusals)
		c.net.between(rule{}, []string{id}, append(c.others(id), clients))
		c.l.floor(floorAcks, "after resets")
	}
	c.heal()
}

// halfOpen kills a node whose peers do not hear of it, so that they keep
// connections to nobody, and starts it again.
func (c *chaos) halfOpen(id string) {
	c.t.Helper()
	c.begin("half-open connections")
	all := append(c.others(id), clients)
	links := c.net.between(rule{cut: true}, []string{id}, all)
	c.struck()
	c.seen("lost packets", links, dropped)
	c.kill(id)
	c.leader("broker-a")
	c.net.heal()
	c.start(id)
	c.heal()
}

// wipe kills a follower and takes its data away. It comes back as another
// replica, which takes the place of the old one when it has everything.
func (c *chaos) wipe() {
	c.t.Helper()
	c.begin("wiped node")
	leader, _ := c.leader("broker-a")
	id := c.pick(c.others(leader))
	was, err := c.status("broker-a", id)
	if err != nil {
		c.t.Fatal(err)
	}
	c.kill(id)
	c.struck()
	entries, err := os.ReadDir(c.dataDir(id)) // it may be where something is mounted
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(c.dataDir(id), e.Name())))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.l.floor(floorAcks, "without the wiped node")
	c.heal()
	if is, err := c.status("broker-a", id); err != nil || is.ServerID == was.ServerID {
		c.t.Errorf("the wiped node was %s, is %s, %v", was.ServerID, is.ServerID, err)
	}
}

// slowCatchUp kills a follower, and lets it catch up over a line of 200 kbit/s,
// on which it is killed again.
func (c *chaos) slowCatchUp() {
	c.t.Helper()
	c.begin("catch-up over 200 kbit/s")
	leader, term := c.leader("broker-a")
	id := c.pick(c.others(leader))
	c.kill(id)
	c.l.floor(2*floorAcks, "without the follower")
	links := c.net.between(rule{rate: 200_000}, []string{id}, c.others(id))
	c.struck()
	from := c.net.link(leader, id)
	grows := func(what string) {
		c.t.Helper()
		// Of entries, not of heartbeats. Until they are applied may take three minutes:
		// that long takes a request of 4 MiB.
		was := from.bytes.Load()
		eventually(c.t, what, func() error {
			if n := from.bytes.Load() - was; n < 100_000 {
				return fmt.Errorf("%d bytes have come", n)
			}
			return nil
		})
	}
	c.start(id)
	c.leave(id)
	grows("a follower on a slow line gets on")
	c.kill(id)
	c.start(id)
	grows("a follower that was killed on a slow line gets on")
	c.seen("packets held up", links, held)
	c.l.floor(floorAcks, "with a follower on a slow line")
	c.reach(id)
	c.heal()
	c.steady(term, 5)
}

// pauseLeader stops the leader by SIGSTOP and lets it go on later.
func (c *chaos) pauseLeader(d time.Duration) {
	c.t.Helper()
	c.begin("pause the leader")
	leader, term := c.leader("broker-a")
	c.pause(leader)
	c.struck()
	end := time.After(d)
	if now, newTerm := c.leader("broker-a"); now == leader || newTerm <= term {
		c.t.Fatalf("%s led in term %d and is paused, and %s leads in term %d", leader, term, now, newTerm)
	}
	c.l.floor(floorAcks, "without the paused leader")
	<-end // how long the pause is
	c.heal()
}

// pauseMost stops n nodes: nothing is acked by the others alone.
func (c *chaos) pauseMost(n int) {
	c.t.Helper()
	c.begin(fmt.Sprintf("pause %d of %d", n, len(c.ids)))
	victims := slices.Clone(c.ids)
	c.rnd.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	c.pause(victims[:n]...)
	c.struck()
	c.noAcks(fmt.Sprintf("%d of %d are paused", n, len(c.ids)))
	c.heal()
}

// transfers gives leadership to another node n times, at intervals.
func (c *chaos) transfers(n int, every time.Duration) {
	c.t.Helper()
	c.begin("leadership transferred")
	for range n {
		leader, term := c.leader("broker-a")
		to := c.pick(c.others(leader))
		req := &remoting.Command{Code: remoting.RaftTransferRequest}
		req.Ext.Add("to", to)
		if _, err := ask(c.brokers["broker-a"][leader], req); err != nil {
			c.t.Logf("leadership was not transferred: %v", err) // its peer may not be fit at the moment
		} else if now, newTerm := c.leader("broker-a"); newTerm <= term {
			c.t.Errorf("leadership went from %s to %s, %s leads in term %d", leader, to, now, newTerm)
		}
		<-time.After(every)
	}
	c.heal()
}

// restart stops and starts each node in good order.
func (c *chaos) restart() {
	c.t.Helper()
	c.begin("rolling restart")
	for _, id := range c.ids {
		for _, s := range c.signal(syscall.SIGTERM, id) {
			if !s.Success() {
				c.t.Errorf("%s ended with %v\n%s", id, s, tail(c.log(id)))
			}
		}
		c.l.floor(floorAcks, "without "+id)
		c.start(id)
		c.healthy()
	}
	c.heal()
}
