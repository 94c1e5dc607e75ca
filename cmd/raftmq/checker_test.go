package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// The kinds of violation that the checker knows.
const (
	lost      = "lost"      // acked, and not there
	misplaced = "misplaced" // there, but not where the ack said
	doubled   = "doubled"   // there twice, or two messages of one UNIQ_KEY
	reordered = "reordered" // of one in-order sender, behind a later one
	invented  = "invented"  // nobody sent it, or it is damaged
	ghost     = "ghost"     // said not to be stored, and there
	gap       = "gap"       // a queue has an offset without a message
	differing = "differing" // replicas are not equal
	noQuorum  = "no quorum" // acked while no quorum was there
	pending   = "pending"   // a send without any outcome
	early     = "early"     // seen before its time
	visible   = "visible"   // of a transaction that was rolled back or never began
	skipped   = "skipped"   // never consumed
	backwards = "backwards" // a committed offset, or what a new consumer got, goes back
	unretried = "unretried" // a retry is missing, or there twice
)

type violation struct{ kind, text string }

func (v violation) String() string { return v.kind + ": " + v.text }

// check compares what senders saw with what each replica holds.
func check(ops []op, replicas map[string][]stored) (found []violation) {
	byID := map[string]op{}
	for _, o := range ops {
		byID[o.id()] = o
		if o.outcome == invoked {
			found = append(found, violation{pending, o.String()})
		}
	}
	var first string
	for _, name := range slices.Sorted(maps.Keys(replicas)) {
		all := slices.SortedFunc(slices.Values(replicas[name]), func(a, b stored) int {
			return cmp.Or(cmp.Compare(a.broker, b.broker), cmp.Compare(a.queue, b.queue), cmp.Compare(a.offset, b.offset))
		})
		found = append(found, checkReplica(name, byID, all)...)
		if first == "" {
			first = name
		} else if !slices.Equal(all, replicas[first]) {
			found = append(found, difference(first, replicas[first], name, all))
		}
		replicas[name] = all
	}
	return found
}

func difference(a string, as []stored, b string, bs []stored) violation {
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return violation{differing, fmt.Sprintf("%s has %v, %s %v", a, as[i], b, bs[i])}
		}
	}
	return violation{differing, fmt.Sprintf("%s has %d messages, %s %d", a, len(as), b, len(bs))}
}

// checkReplica checks one replica's messages, sorted by place.
func checkReplica(name string, ops map[string]op, all []stored) (found []violation) {
	add := func(kind, format string, args ...any) {
		found = append(found, violation{kind, name + ": " + fmt.Sprintf(format, args...)})
	}
	at := map[string]place{}  // of each op
	keys := map[string]bool{} // UNIQ_KEYs
	last := map[int]op{}      // acked, of each in-order sender
	for i, s := range all {
		if want := wantOffset(all, i); s.offset != want {
			add(gap, "%v follows offset %d", s.place, want-1)
		}
		id, _, _ := strings.Cut(s.body, " ")
		o, known := ops[id]
		if !known || s.body != o.body() {
			add(invented, "%v: %.40q", s.place, s.body)
			continue
		}
		if p, twice := at[id]; twice {
			add(doubled, "at %v and %v: %v", p, s.place, o)
			continue
		}
		at[id] = s.place
		if s.key == "" || keys[s.key] {
			add(doubled, "UNIQ_KEY %q, again at %v: %v", s.key, s.place, o)
		}
		keys[s.key] = true
		if o.hidden {
			add(visible, "at %v: %v", s.place, o)
			continue
		}
		if due := o.wall.Add(o.delay - clockSlack); o.delay > 0 && time.UnixMilli(s.at).Before(due) {
			add(early, "at %v, stored %v before its time: %v", s.place, due.Sub(time.UnixMilli(s.at)), o)
		}
		switch o.outcome {
		case failed:
			add(ghost, "at %v: %v", s.place, o)
		case acked:
			if !o.moves && o.place != s.place || o.key != s.key {
				add(misplaced, "at %v, key %s: %v", s.place, s.key, o)
			}
			if before, ok := last[o.sender]; ok && o.inOrder && before.n > o.n {
				add(reordered, "at %v: %v\n\tbehind %v", s.place, o, before)
			}
			last[o.sender] = o
		}
	}
	for _, id := range missing(ops, at) {
		add(lost, "%v", ops[id])
	}
	return found
}

// clockSlack is how far the clock that stamps messages may be behind that of the
// tests: it follows those of the nodes, as they tell each other over links that
// may take half a second.
const clockSlack = 500 * time.Millisecond

// missing are the acked operations whose messages are not among those seen,
// sorted.
func missing[V any](ops map[string]op, seen map[string]V) (ids []string) {
	for id, o := range ops {
		if _, ok := seen[id]; !ok && o.outcome == acked && !o.hidden {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(ops[a].begun, ops[b].begun) })
	return ids
}

// wantOffset is the offset that follows the message before.
func wantOffset(all []stored, i int) int64 {
	if i > 0 && all[i-1].broker == all[i].broker && all[i-1].queue == all[i].queue {
		return all[i-1].offset + 1
	}
	return 0
}

// checkNoQuorum looks for sends that began and were acked while no quorum was
// up. It says how many began in that time and ended without an ack, too: without
// any, there was nothing to see.
func checkNoQuorum(ops []op, from, to time.Duration) (found []violation, refused int) {
	for _, o := range ops {
		switch {
		case o.begun < from || o.begun > to:
		case o.outcome == acked && o.ended < to:
			found = append(found, violation{noQuorum, o.String()})
		case o.outcome > acked && o.ended < to:
			refused++
		}
	}
	return found, refused
}

// report fails a test with what was found.
func report(t testing.TB, found []violation) {
	t.Helper()
	for _, v := range found[:min(len(found), 20)] {
		t.Error(v)
	}
	if len(found) > 20 {
		t.Errorf("and %d violations more", len(found)-20)
	}
}

// soundHistory is a history without any violation, and what three replicas hold
// after it: two in-order senders on a queue each and one that takes any, some of
// whose sends are failed or unknown.
func soundHistory() (ops []op, replicas map[string][]stored) {
	var all []stored
	next := map[int32]int64{}
	for n := range 30 {
		for sender := range 3 {
			o := op{sender: sender, n: n, inOrder: sender < 2, outcome: acked, key: fmt.Sprintf("K%d-%d", sender, n)}
			queue := int32(sender)
			if sender == 2 {
				queue = int32(n % 3)
			}
			switch n % 10 {
			case 7:
				o.outcome = failed
			case 8, 9:
				o.outcome = unknown
			}
			if o.outcome != failed && n%10 != 9 {
				o.place = place{"broker-a", queue, next[queue]}
				next[queue]++
				all = append(all, stored{place: o.place, key: o.key, phys: int64(len(all)) * 1000, body: o.body()})
			}
			ops = append(ops, o)
		}
	}
	return ops, map[string][]stored{"n1": all, "n2": slices.Clone(all), "n3": slices.Clone(all)}
}

// TestCheckerCatches seeds each kind of violation in a sound history, on all
// replicas unless it is one of a single replica.
func TestCheckerCatches(t *testing.T) {
	ops, replicas := soundHistory()
	if found := check(ops, replicas); len(found) > 0 {
		t.Fatalf("a sound history: %v", found)
	}
	// renumber gives the messages of a queue the offsets of their order.
	renumber := func(all []stored) []stored {
		next := map[int32]int64{}
		for i := range all {
			all[i].offset = next[all[i].queue]
			next[all[i].queue]++
		}
		return all
	}
	on := func(body string) func(stored) bool { return func(s stored) bool { return s.body == bodyOf(body) } }
	for name, c := range map[string]struct {
		kind string
		seed func(all []stored) []stored
	}{
		"lost":              {lost, func(all []stored) []stored { return renumber(slices.DeleteFunc(all, on("s1-3"))) }},
		"lost, hole":        {gap, func(all []stored) []stored { return slices.DeleteFunc(all, on("s1-3")) }},
		"doubled":           {doubled, func(all []stored) []stored { return renumber(append(all, all[4])) }},
		"doubled elsewhere": {doubled, func(all []stored) []stored { s := all[4]; s.queue = 2; return renumber(append(all, s)) }},
		"doubled key":       {doubled, func(all []stored) []stored { all[5].key = all[4].key; return all }},
		"reordered": {reordered, func(all []stored) []stored {
			i, j := slices.IndexFunc(all, on("s1-3")), slices.IndexFunc(all, on("s1-4"))
			all[i], all[j] = all[j], all[i]
			return renumber(all)
		}},
		"invented": {invented, func(all []stored) []stored {
			return renumber(append(all, stored{place: place{"broker-a", 0, 0}, key: "K", phys: 1, body: bodyOf("s1-999")}))
		}},
		"damaged":   {invented, func(all []stored) []stored { all[3].body += "y"; return all }},
		"misplaced": {misplaced, func(all []stored) []stored { all[0].key = "other"; return all }},
		"ghost": {ghost, func(all []stored) []stored {
			return renumber(append(all, stored{place: place{"broker-a", 2, 0}, key: "K", phys: 1, body: bodyOf("s1-7")}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ops, replicas := soundHistory()
			for r := range replicas {
				replicas[r] = c.seed(replicas[r])
			}
			wantKind(t, check(ops, replicas), c.kind)
		})
	}
	for name, seed := range map[string]func(all []stored) []stored{
		"one is behind":       func(all []stored) []stored { return all[:len(all)-1] },
		"other bytes":         func(all []stored) []stored { all[7].body += "y"; return all },
		"another log offset":  func(all []stored) []stored { all[7].phys++; return all },
		"one holds no record": func([]stored) []stored { return nil },
	} {
		t.Run("replica, "+name, func(t *testing.T) {
			ops, replicas := soundHistory()
			replicas["n2"] = seed(replicas["n2"])
			wantKind(t, check(ops, replicas), differing)
		})
	}
	t.Run("pending", func(t *testing.T) {
		ops, replicas := soundHistory()
		wantKind(t, check(append(ops, op{sender: 9}), replicas), pending)
	})
	t.Run("early", func(t *testing.T) {
		ops, replicas := soundHistory()
		ops[0].wall, ops[0].delay = time.UnixMilli(1_000_000), time.Second
		at := func(ms int64) {
			for _, all := range replicas {
				all[slices.IndexFunc(all, on(ops[0].id()))].at = ms
			}
		}
		if at(1_001_000); len(check(ops, replicas)) > 0 {
			t.Error("in time is too early")
		}
		at(1_000_400)
		wantKind(t, check(ops, replicas), early)
	})
	t.Run("visible", func(t *testing.T) {
		ops, replicas := soundHistory()
		ops[3].hidden = true
		wantKind(t, check(ops, replicas), visible)
	})
	t.Run("no quorum", func(t *testing.T) {
		during := op{outcome: acked, begun: 2 * time.Second, ended: 3 * time.Second}
		before := op{outcome: acked, begun: time.Second / 2, ended: 2 * time.Second}
		after := op{outcome: acked, begun: 2 * time.Second, ended: 6 * time.Second}
		timedOut := op{outcome: unknown, begun: 2 * time.Second, ended: 4 * time.Second}
		under := op{begun: 2 * time.Second}
		found, refused := checkNoQuorum([]op{during, before, after, timedOut, under}, time.Second, 5*time.Second)
		if len(found) != 1 || refused != 1 {
			t.Errorf("%v, %d refused", found, refused)
		}
	})
}

func wantKind(t *testing.T, found []violation, kind string) {
	t.Helper()
	if !slices.ContainsFunc(found, func(v violation) bool { return v.kind == kind }) {
		t.Errorf("found %v, want %s", found, kind)
	}
}
