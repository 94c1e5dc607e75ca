package namesrv

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// checkTable checks the invariants of a service's table.
func checkTable(t testing.TB, s *Service) {
	t.Helper()
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.table.check(t)
	bytes := 0
	for space, table := range s.kv.spaces {
		if len(table) == 0 {
			t.Errorf("namespace %q is empty", space)
		}
		for key, value := range table {
			bytes += len(space) + len(key) + len(value)
		}
	}
	if bytes != s.kv.bytes {
		t.Errorf("KV configuration has %d bytes, counted are %d", bytes, s.kv.bytes)
	}
}

func (t *table) check(tb testing.TB) {
	tb.Helper()
	brokers, routes := 0, 0
	for name, g := range t.groups {
		if g.name != name || len(g.members) == 0 {
			tb.Errorf("invariant 1: group %q under %q has %d members", g.name, name, len(g.members))
		}
		seen := map[string]bool{}
		for id, m := range g.members {
			if m.id != id || seen[m.addr] {
				tb.Errorf("invariants 1, 2: %s: %q is id %d under %d, seen %t", name, m.addr, m.id, id, seen[m.addr])
			}
			seen[m.addr] = true
		}
		brokers += len(g.members)
		routes += len(g.queues)
		for topic := range g.queues {
			if tp := t.topics[topic]; tp == nil || !slices.Contains(tp.groups, g) {
				tb.Errorf("invariant 3: topic %q of %s is not indexed", topic, name)
			}
		}
		if (g.members[masterID] == nil) == g.leaderless.IsZero() {
			tb.Errorf("%s: leader %v, leaderless since %v", name, g.members[masterID], g.leaderless)
		}
	}
	for name, tp := range t.topics {
		sorted := slices.IsSortedFunc(tp.groups, func(a, b *group) int { return strings.Compare(a.name, b.name) })
		if len(tp.groups) == 0 || !sorted {
			tb.Errorf("invariant 3: topic %q has %d groups, sorted: %t", name, len(tp.groups), sorted)
		}
		for _, g := range tp.groups {
			if _, ok := g.queues[name]; !ok || t.groups[g.name] != g {
				tb.Errorf("invariant 3: topic %q names group %s, which does not have it or is not there", name, g.name)
			}
		}
	}
	if brokers != t.brokers || routes != t.routes {
		tb.Errorf("invariant 4: %d brokers and %d routes, counted are %d and %d", brokers, routes, t.brokers, t.routes)
	}
}

// event is something that happens to a table, and what must come of it.
type event struct {
	name string
	do   func(t *table, now time.Time) string // an outcome of admit, or ""
	want string
	wait time.Duration // before it
}

// reg registers a broker of broker-a.
type reg struct {
	id      int64
	addr    string
	term    int64 // state version
	counter int64
	raft    string
	topics  string // separated by spaces; "T U" if empty
	acting  string // "", "true", "false"
	lease   time.Duration
	perm    int32
}

func (r reg) registration() *registration {
	if r.topics == "" {
		r.topics = "T U"
	}
	if r.perm == 0 {
		r.perm = remoting.PermRead | remoting.PermWrite
	}
	out := &registration{
		BrokerIdentity: remoting.BrokerIdentity{Cluster: "c", BrokerName: "broker-a", BrokerAddr: r.addr, BrokerID: r.id},
		raft:           r.raft, haAddr: "ha-" + r.addr, lease: r.lease,
	}
	if r.lease == 0 {
		out.lease = 120 * time.Second
	}
	if r.acting != "" {
		acting := r.acting == "true"
		out.acting = &acting
	}
	out.table.Version = remoting.DataVersion{StateVersion: r.term, Counter: r.counter}
	for _, name := range strings.Fields(r.topics) {
		if name == "-" {
			continue
		}
		c := remoting.NewTopicConfig(name)
		c.ReadQueueNums, c.WriteQueueNums, c.Perm = 4, 4, r.perm
		out.table.Topics = append(out.table.Topics, c)
	}
	return out
}

const (
	ok      = "ok"
	ignored = "ignored"
	refused = "refused"
)

func (r reg) is(want string) event {
	return event{name: fmt.Sprintf("register %+v", r), want: want, do: func(t *table, now time.Time) string {
		switch a := t.admit(now, r.registration()); {
		case a.refused != nil:
			return refused
		case a.ignored:
			return ignored
		default:
			return ok
		}
	}}
}

func unreg(addr string) event {
	return event{name: "unregister " + addr, do: func(t *table, now time.Time) string {
		t.unregister(now, "broker-a", addr)
		return ""
	}}
}

func scan() event {
	return event{name: "scan", do: func(t *table, now time.Time) string { t.expire(now); return "" }}
}

func (e event) after(d time.Duration) event {
	e.wait = d
	return e
}

// option changes the options.
func option(change func(*Options)) event {
	return event{name: "option", do: func(t *table, _ time.Time) string { change(&t.options); t.epoch++; return "" }}
}

// show is a route as text: "T: broker-a rw 0=a:1 1=b:1".
func (t *table) show(now time.Time, topics ...string) string {
	var lines []string
	for _, name := range topics {
		if t.topics[name] == nil {
			lines = append(lines, name+": none")
			continue
		}
		route, _ := t.route(now, name)
		line := name + ":"
		for i, b := range route.Brokers {
			line += " " + b.BrokerName + " "
			if route.Queues[i].Perm&remoting.PermRead != 0 {
				line += "r"
			}
			if route.Queues[i].Perm&remoting.PermWrite != 0 {
				line += "w"
			}
			for _, id := range slices.Sorted(maps.Keys(b.Addrs)) {
				line += fmt.Sprintf(" %d=%s", id, b.Addrs[id])
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

func TestRules(t *testing.T) {
	const standIn = 10 * time.Second
	leader := func(addr string, term int64) reg { return reg{id: 0, addr: addr, term: term, raft: "g"} }
	follower := func(id int64, addr string, term int64) reg { return reg{id: id, addr: addr, term: term, raft: "g"} }
	java := func(id int64, addr string) reg { return reg{id: id, addr: addr} }
	wipe := event{name: "wipe", do: func(t *table, _ time.Time) string {
		g := t.groups["broker-a"]
		for name, q := range g.queues {
			q.wiped = true
			t.setQueue(g, name, q)
		}
		return ""
	}}

	for name, c := range map[string]struct {
		events []event
		want   string // show of T, U
	}{
		// Raft groups.
		"leader and followers": {[]event{leader("a:1", 5).is(ok), follower(1, "b:1", 5).is(ok), follower(2, "c:1", 5).is(ok)},
			"T: broker-a rw 0=a:1 1=b:1 2=c:1; U: broker-a rw 0=a:1 1=b:1 2=c:1"},
		"R1 new leader moves the living one out": {[]event{leader("a:1", 5).is(ok), follower(2, "b:1", 5).is(ok), leader("b:1", 6).is(ok)},
			"T: broker-a rw 0=b:1; U: broker-a rw 0=b:1"},
		"R1 and it comes back under its own id": {[]event{leader("a:1", 5).is(ok), leader("b:1", 6).is(ok), follower(1, "a:1", 6).is(ok)},
			"T: broker-a rw 0=b:1 1=a:1; U: broker-a rw 0=b:1 1=a:1"},
		"R1 lower term is ignored": {[]event{leader("b:1", 6).is(ok), leader("a:1", 5).is(ignored)},
			"T: broker-a rw 0=b:1; U: broker-a rw 0=b:1"},
		"R1 lower term that was a follower stays one": {[]event{leader("b:1", 6).is(ok), follower(1, "a:1", 5).is(ok), leader("a:1", 5).is(ignored)},
			"T: broker-a rw 0=b:1 1=a:1; U: broker-a rw 0=b:1 1=a:1"},
		"R1 lower term counts when the higher one is dead": {[]event{leader("b:1", 6).is(ok), leader("a:1", 5).is(ok).after(120 * time.Second)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"R1 lower term counts when the higher one is gone": {[]event{leader("b:1", 6).is(ok), unreg("b:1"), leader("a:1", 5).is(ok)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"R2 stepped down, then an old registration arrives": {[]event{follower(1, "a:1", 6).is(ok), leader("a:1", 5).is(ignored)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"}, // as a stand-in, not as leader
		"R2 a late follower registration": {[]event{leader("a:1", 6).is(ok), follower(1, "a:1", 5).is(ignored)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"R2 same term counts in order of arrival": {[]event{follower(1, "a:1", 6).is(ok), leader("a:1", 6).is(ok)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"R3 another raft group": {[]event{leader("a:1", 5).is(ok), reg{id: 0, addr: "x:1", term: 9, raft: "other"}.is(refused), reg{id: 1, addr: "x:1", term: 9, raft: "other"}.is(refused)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"R3 a RocketMQ broker": {[]event{leader("a:1", 5).is(ok), java(0, "x:1").is(refused)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"R3 a raft group where RocketMQ brokers are": {[]event{java(0, "x:1").is(ok), leader("a:1", 5).is(refused)},
			"T: broker-a rw 0=x:1; U: broker-a rw 0=x:1"},
		"R3 any living member keeps the name": {[]event{leader("a:1", 5).is(ok), follower(1, "b:1", 5).is(ok), unreg("a:1"), reg{addr: "x:1", raft: "other"}.is(refused)},
			"T: broker-a rw 0=b:1; U: broker-a rw 0=b:1"},
		"R3 the name is free when all are dead": {[]event{leader("a:1", 5).is(ok), follower(1, "b:1", 5).is(ok), reg{addr: "x:1", raft: "other", topics: "T V"}.is(ok).after(120 * time.Second)},
			"T: broker-a rw 0=x:1; U: none"},
		"R4 the leader's topics are all": {[]event{leader("a:1", 5).is(ok), reg{id: 0, addr: "a:1", term: 5, counter: 1, raft: "g", topics: "U"}.is(ok)},
			"T: none; U: broker-a rw 0=a:1"},
		"R4 no topic at all": {[]event{leader("a:1", 5).is(ok), reg{id: 0, addr: "a:1", term: 5, counter: 1, raft: "g", topics: "-"}.is(ok)},
			"T: none; U: none"},
		"R4 one topic, first registration": {[]event{reg{id: 0, addr: "a:1", raft: "g", topics: "T"}.is(ok)},
			"T: broker-a rw 0=a:1; U: none"},
		"R4 a follower's topics, no leader yet": {[]event{follower(1, "b:1", 5).is(ok).after(0), scan().after(standIn)},
			"T: broker-a rw 1=b:1; U: broker-a rw 1=b:1"},
		"R4 a follower's topics do not count beside a leader": {[]event{leader("a:1", 5).is(ok), reg{id: 1, addr: "b:1", term: 5, counter: 7, raft: "g", topics: "U"}.is(ok)},
			"T: broker-a rw 0=a:1 1=b:1; U: broker-a rw 0=a:1 1=b:1"},
		"R4 an older follower's topics do not count": {[]event{reg{id: 1, addr: "b:1", term: 5, counter: 7, raft: "g"}.is(ok), reg{id: 2, addr: "c:1", term: 6, counter: 6, raft: "g", topics: "U"}.is(ok), scan().after(standIn)},
			"T: broker-a rw 1=b:1 2=c:1; U: broker-a rw 1=b:1 2=c:1"},
		"R4 a newer follower's topics do": {[]event{reg{id: 1, addr: "b:1", term: 5, counter: 7, raft: "g"}.is(ok), reg{id: 2, addr: "c:1", term: 5, counter: 8, raft: "g", topics: "U"}.is(ok), scan().after(standIn)},
			"T: none; U: broker-a rw 1=b:1 2=c:1"},
		"R4 the leader's topics count over a follower's": {[]event{reg{id: 1, addr: "b:1", term: 5, counter: 8, raft: "g", topics: "T"}.is(ok), reg{id: 0, addr: "a:1", term: 6, counter: 7, raft: "g", topics: "U"}.is(ok)},
			"T: none; U: broker-a rw 0=a:1 1=b:1"},
		"R5 the first follower stands in": {[]event{leader("a:1", 5).is(ok), follower(3, "c:1", 5).is(ok), follower(2, "b:1", 5).is(ok), unreg("a:1")},
			"T: broker-a rw 0=b:1 3=c:1; U: broker-a rw 0=b:1 3=c:1"},
		"R5 rather the one that led": {[]event{leader("a:1", 5).is(ok), follower(2, "b:1", 5).is(ok), follower(3, "a:1", 5).is(ok)},
			"T: broker-a rw 0=a:1 2=b:1; U: broker-a rw 0=a:1 2=b:1"},
		"R5 not for ever": {[]event{leader("a:1", 5).is(ok), follower(2, "b:1", 5).is(ok), unreg("a:1"), follower(2, "b:1", 5).is(ok).after(standIn)},
			"T: broker-a rw 2=b:1; U: broker-a rw 2=b:1"},
		"wiped until the term changes": {[]event{leader("a:1", 5).is(ok), wipe, leader("a:1", 5).is(ok)},
			"T: broker-a r 0=a:1; U: broker-a r 0=a:1"},
		"wiped, and the term has changed": {[]event{leader("a:1", 5).is(ok), wipe, leader("a:1", 6).is(ok)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},

		// RocketMQ's own brokers.
		"master and slave": {[]event{java(0, "a:1").is(ok), java(1, "b:1").is(ok)},
			"T: broker-a rw 0=a:1 1=b:1; U: broker-a rw 0=a:1 1=b:1"},
		"no stand-in for them": {[]event{java(0, "a:1").is(ok), java(1, "b:1").is(ok), unreg("a:1")},
			"T: broker-a rw 1=b:1; U: broker-a rw 1=b:1"},
		"role switch": {[]event{java(0, "a:1").is(ok), java(1, "b:1").is(ok), unreg("a:1"), java(0, "b:1").is(ok)},
			"T: broker-a rw 0=b:1; U: broker-a rw 0=b:1"},
		"conflict, larger state version": {[]event{reg{addr: "a:1", term: 2}.is(ok), reg{addr: "b:1", term: 1}.is(ignored)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"conflict, equal state version": {[]event{java(0, "a:1").is(ok), java(0, "b:1").is(ok)},
			"T: broker-a rw 0=b:1; U: broker-a rw 0=b:1"},
		"conflict, larger but dead": {[]event{reg{addr: "a:1", term: 2, lease: time.Second}.is(ok), reg{addr: "b:1", term: 1}.is(ok).after(time.Second)},
			"T: broker-a rw 0=b:1; U: broker-a rw 0=b:1"},
		"one topic before all": {[]event{reg{addr: "a:1", topics: "T"}.is(refused)}, "T: none; U: none"},
		"one topic after all":  {[]event{java(0, "a:1").is(ok), reg{addr: "a:1", counter: 1, topics: "T", perm: remoting.PermRead}.is(ok)}, "T: broker-a r 0=a:1; U: broker-a rw 0=a:1"},
		"one topic, id taken by another address": {[]event{java(0, "a:1").is(ok), reg{addr: "b:1", topics: "T"}.is(ok)},
			"T: broker-a rw 0=b:1; U: broker-a rw 0=b:1"},
		"a slave has no topics": {[]event{java(1, "b:1").is(ok)}, "T: none; U: none"},
		"a 5.x slave has, without a master": {[]event{reg{id: 1, addr: "b:1", acting: "false"}.is(ok)},
			"T: broker-a rw 1=b:1; U: broker-a rw 1=b:1"},
		"an acting slave is not writable": {[]event{reg{id: 1, addr: "b:1", acting: "true"}.is(ok)},
			"T: broker-a r 1=b:1; U: broker-a r 1=b:1"},
		"nor is one whose master went": {[]event{reg{id: 0, addr: "a:1", acting: "true"}.is(ok), reg{id: 1, addr: "b:1", acting: "true"}.is(ok), unreg("a:1")},
			"T: broker-a r 1=b:1; U: broker-a r 1=b:1"},
		"until the master returns": {[]event{reg{id: 0, addr: "a:1", acting: "true"}.is(ok), reg{id: 1, addr: "b:1", acting: "true"}.is(ok), unreg("a:1"), reg{id: 0, addr: "a:1", acting: "true"}.is(ok)},
			"T: broker-a rw 0=a:1 1=b:1; U: broker-a rw 0=a:1 1=b:1"},
		"acting master shown": {[]event{option(func(o *Options) { o.ActingMaster = true }), reg{id: 0, addr: "a:1", acting: "true"}.is(ok), reg{id: 1, addr: "b:1", acting: "true"}.is(ok), unreg("a:1")},
			"T: broker-a r 0=b:1; U: broker-a r 0=b:1"},
		"same data version changes nothing": {[]event{java(0, "a:1").is(ok), reg{addr: "a:1", perm: remoting.PermRead}.is(ok)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"another data version does": {[]event{java(0, "a:1").is(ok), reg{addr: "a:1", counter: 1, perm: remoting.PermRead}.is(ok)},
			"T: broker-a r 0=a:1; U: broker-a r 0=a:1"},
		"missing topics stay": {[]event{java(0, "a:1").is(ok), reg{addr: "a:1", counter: 1, topics: "U V"}.is(ok)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"missing topics go with the option": {[]event{option(func(o *Options) { o.DeleteTopics = true }), java(0, "a:1").is(ok), reg{addr: "a:1", counter: 1, topics: "U V"}.is(ok)},
			"T: none; U: broker-a rw 0=a:1"},
		"but not for one topic": {[]event{option(func(o *Options) { o.DeleteTopics = true }), java(0, "a:1").is(ok), reg{addr: "a:1", counter: 1, topics: "U"}.is(ok)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"lease over": {[]event{java(0, "a:1").is(ok), scan().after(120 * time.Second)}, "T: none; U: none"},
		"lease not over": {[]event{java(0, "a:1").is(ok), scan().after(120*time.Second - 1)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"a shorter lease": {[]event{java(0, "a:1").is(ok), reg{id: 1, addr: "b:1", lease: 10 * time.Second}.is(ok), scan().after(10 * time.Second)},
			"T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
		"unregister an address that has another id now": {[]event{java(1, "a:1").is(ok), java(0, "a:1").is(ok), unreg("a:1")}, "T: none; U: none"},
		"unregister a stranger":                         {[]event{java(0, "a:1").is(ok), unreg("b:1")}, "T: broker-a rw 0=a:1; U: broker-a rw 0=a:1"},
	} {
		t.Run(name, func(t *testing.T) {
			table := newTable(standIn, Options{})
			now := time.Now()
			for _, e := range c.events {
				now = now.Add(e.wait)
				epoch, before := table.epoch, table.show(now, "T", "U")
				cached := table.caches()
				if got := e.do(table, now); got != e.want {
					t.Errorf("%s: %q, want %q", e.name, got, e.want)
				}
				table.check(t)
				// A route that has changed must not be answered from a cache.
				for name, tp := range cached {
					if table.topics[name] == tp && table.epoch == epoch && tp.cached[0].Load() != nil && table.show(now, name) != showOf(before, name) {
						t.Errorf("%s: the route of %s changed to %q, its cache is still valid", e.name, name, table.show(now, name))
					}
				}
			}
			if got := table.show(now, "T", "U"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// caches fills the cache of every topic, and returns the topics.
func (t *table) caches() map[string]*topic {
	for _, tp := range t.topics {
		tp.cached[0].Store(&encodedRoute{epoch: t.epoch})
	}
	return maps.Clone(t.topics)
}

func showOf(all, topic string) string {
	for line := range strings.SplitSeq(all, "; ") {
		if strings.HasPrefix(line, topic+":") {
			return line
		}
	}
	return ""
}

// TestHA09TermsInEveryOrder has two replicas claim to lead with terms 5 and 6, as
// they and followers come and go in every order. With the replica of term 6
// alive, it is the leader, whoever spoke last.
func TestHA09TermsInEveryOrder(t *testing.T) {
	const a, b = "a:1", "b:1"
	events := []event{
		{name: "a leads term 5", do: func(t *table, now time.Time) string {
			t.admit(now, reg{addr: a, term: 5, raft: "g"}.registration())
			return ""
		}},
		{name: "a leads term 5, again", do: func(t *table, now time.Time) string {
			t.admit(now, reg{addr: a, term: 5, raft: "g"}.registration())
			return ""
		}},
		{name: "b leads term 6", do: func(t *table, now time.Time) string {
			t.admit(now, reg{addr: b, term: 6, raft: "g"}.registration())
			return ""
		}},
		{name: "b follows in term 5", do: func(t *table, now time.Time) string {
			t.admit(now, reg{id: 2, addr: b, term: 5, raft: "g"}.registration())
			return ""
		}},
		{name: "a follows in term 6", do: func(t *table, now time.Time) string {
			t.admit(now, reg{id: 1, addr: a, term: 6, raft: "g"}.registration())
			return ""
		}},
	}
	orders := 0
	permute(events, func(order []event) {
		orders++
		table := newTable(10*time.Second, Options{})
		now := time.Now()
		led, followed := false, false // b in term 6, a in term 6
		for i, e := range order {
			e.do(table, now)
			table.check(t)
			led = led || e.name == "b leads term 6"
			followed = followed || e.name == "a follows in term 6"
			g := table.groups["broker-a"]
			leader, members := "", g.addrs()
			if m := g.members[masterID]; m != nil {
				leader = m.addr
			}
			switch {
			case led && leader != b:
				t.Errorf("after %d of %v the leader is %q, want %q", i+1, names(order), leader, b)
			case followed && leader == a:
				t.Errorf("after %d of %v %q leads a term it has left", i+1, names(order), a)
			case followed && !slices.Contains(slices.Collect(maps.Values(members)), a):
				t.Errorf("after %d of %v follower %q is not registered: %v", i+1, names(order), a, members)
			}
		}
		if got, want := table.show(now, "T"), "T: broker-a rw 0=b:1 1=a:1"; got != want {
			t.Errorf("%v: %s, want %s", names(order), got, want)
		}
	})
	if orders != 120 {
		t.Fatalf("%d orders", orders)
	}
}

func names(list []event) (out []string) {
	for _, e := range list {
		out = append(out, e.name)
	}
	return out
}

// permute calls f with list in every order.
func permute(list []event, f func([]event)) {
	var rec func(int)
	rec = func(i int) {
		if i == len(list) {
			f(list)
			return
		}
		for j := i; j < len(list); j++ {
			list[i], list[j] = list[j], list[i]
			rec(i + 1)
			list[i], list[j] = list[j], list[i]
		}
	}
	rec(0)
}
