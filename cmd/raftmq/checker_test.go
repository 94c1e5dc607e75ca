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
)

type violation struct{ kind, text string }

func (v violation) String() string { return v.kind + ": " + v.text }

// check compares what senders saw with what each replica holds.
func check(ops []op, replicas map[string][]stored) (found []violation) {
	byID := map[string]op{}
	for _, o := range ops {
		byID[o.id()] = o
		if o.outcome == invoked {
			found = append(found, violation{pending, o.id()})
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
			return violation{differing, fmt.Sprintf("%s has %v %.40q, %s %v %.40q", a, as[i].place, as[i].body, b, bs[i].place, bs[i].body)}
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
	last := map[int]int{}     // acked n of each in-order sender
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
			add(doubled, "%s at %v and %v", id, p, s.place)
			continue
		}
		at[id] = s.place
		if s.key == "" || keys[s.key] {
			add(doubled, "UNIQ_KEY %q, again at %v", s.key, s.place)
		}
		keys[s.key] = true
		switch o.outcome {
		case failed:
			add(ghost, "%s at %v: %v", id, s.place, o.err)
		case acked:
			if o.place != s.place || o.key != s.key {
				add(misplaced, "%s at %v, key %s, acked at %v, key %s", id, s.place, s.key, o.place, o.key)
			}
			if before, ok := last[o.sender]; ok && o.inOrder && before > o.n {
				add(reordered, "%s at %v, behind s%d-%d", id, s.place, o.sender, before)
			}
			last[o.sender] = o.n
		}
	}
	for id, o := range ops {
		if _, ok := at[id]; !ok && o.outcome == acked {
			add(lost, "%s, acked at %v", id, o.place)
		}
	}
	return found
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
			found = append(found, violation{noQuorum, fmt.Sprintf("%s, begun at %v, acked at %v", o.id(), o.begun, o.ended)})
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
				all = append(all, stored{o.place, o.key, int64(len(all)) * 1000, o.body()})
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
			return renumber(append(all, stored{place{"broker-a", 0, 0}, "K", 1, bodyOf("s1-999")}))
		}},
		"damaged":   {invented, func(all []stored) []stored { all[3].body += "y"; return all }},
		"misplaced": {misplaced, func(all []stored) []stored { all[0].key = "other"; return all }},
		"ghost": {ghost, func(all []stored) []stored {
			return renumber(append(all, stored{place{"broker-a", 2, 0}, "K", 1, bodyOf("s1-7")}))
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
