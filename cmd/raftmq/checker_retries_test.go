package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// idOf is the id of the op whose body this is.
func idOf(body string) string {
	id, _, _ := strings.Cut(body, " ")
	return id
}

// checkRetries compares what came of messages on which their consumer failed with
// the group's retries and dead letters on each replica: each failure made one
// retry, or was redone where it was, the last one made a dead letter, and what
// came through was consumed.
func checkRetries(ops []op, done map[string]bool, redone map[string][]int32, retries, dead map[string][]stored) (found []violation) {
	for _, o := range ops {
		if o.outcome == acked && failuresOf(o) <= mostRetries && !done[o.id()] {
			found = append(found, violation{skipped, o.String()})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(retries)) {
		times, letters := map[string][]int32{}, map[string]int{}
		for _, s := range retries[name] {
			times[idOf(s.body)] = append(times[idOf(s.body)], s.times)
		}
		for _, s := range dead[name] {
			letters[idOf(s.body)]++
		}
		for _, o := range ops {
			if o.outcome != acked {
				continue
			}
			got := slices.Sorted(slices.Values(times[o.id()]))
			if want := wantRetries(o, redone[o.id()], got); !slices.Equal(got, want) {
				found = append(found, violation{unretried, fmt.Sprintf("%s: retries %v, want %v, redone %v: %v", name, got, want, redone[o.id()], o)})
			}
			wantDead := 0
			if failuresOf(o) > mostRetries {
				wantDead = 1
			}
			if n := letters[o.id()]; n != wantDead {
				found = append(found, violation{unretried, fmt.Sprintf("%s: %d dead letters, want %d: %v", name, n, wantDead, o)})
			}
		}
	}
	return found
}

// wantRetries are the retries that an operation's message is to have: one of each
// count, but those that were redone may be missing, as got says.
func wantRetries(o op, redone, got []int32) (want []int32) {
	for i := range int32(min(failuresOf(o), mostRetries)) {
		if slices.Contains(got, i+1) || !slices.Contains(redone, i+1) {
			want = append(want, i+1)
		}
	}
	return want
}

// TestRetryCheckerCatches seeds what checkRetries looks for.
func TestRetryCheckerCatches(t *testing.T) {
	sound := func() (ops []op, done map[string]bool, retries, dead map[string][]stored) {
		done = map[string]bool{}
		var again, letters []stored
		for n := range 4 {
			o := op{sender: 1, n: n, outcome: acked}
			ops = append(ops, o)
			for i := range min(n, mostRetries) {
				again = append(again, stored{body: o.body(), times: int32(i + 1)})
			}
			if n > mostRetries {
				letters = append(letters, stored{body: o.body()})
			} else {
				done[o.id()] = true
			}
		}
		return ops, done, map[string][]stored{"n1": again}, map[string][]stored{"n1": letters}
	}
	ops, done, retries, dead := sound()
	if found := checkRetries(ops, done, nil, retries, dead); len(found) > 0 {
		t.Fatalf("a sound history: %v", found)
	}
	retries["n1"] = retries["n1"][1:]
	if found := checkRetries(ops, done, map[string][]int32{"s1-1": {1}}, retries, dead); len(found) > 0 {
		t.Fatalf("a sound history with a retry that was redone: %v", found)
	}
	for name, c := range map[string]struct {
		kind string
		seed func(done map[string]bool, retries, dead map[string][]stored)
	}{
		"not consumed": {skipped, func(done map[string]bool, _, _ map[string][]stored) { delete(done, "s1-1") }},
		"a retry less": {unretried, func(_ map[string]bool, retries, _ map[string][]stored) { retries["n1"] = retries["n1"][1:] }},
		"a retry twice": {unretried, func(_ map[string]bool, retries, _ map[string][]stored) {
			retries["n1"] = append(retries["n1"], retries["n1"][0])
		}},
		"no dead letter": {unretried, func(_ map[string]bool, _, dead map[string][]stored) { dead["n1"] = nil }},
		"a dead letter twice": {unretried, func(_ map[string]bool, _, dead map[string][]stored) {
			dead["n1"] = append(dead["n1"], dead["n1"][0])
		}},
		"a dead letter too soon": {unretried, func(_ map[string]bool, _, dead map[string][]stored) {
			dead["n1"] = append(dead["n1"], stored{body: op{sender: 1, n: 1}.body()})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ops, done, retries, dead := sound()
			c.seed(done, retries, dead)
			wantKind(t, checkRetries(ops, done, nil, retries, dead), c.kind)
		})
	}
}
