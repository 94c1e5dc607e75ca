package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// tally counts what was done and how long it took to recover from it.
type tally struct {
	mu         sync.Mutex
	faults     map[string]*recoveries
	operations map[string]*[outcomes]int
	quietOnes  int // rounds
}

// recoveries are those from the faults of a kind.
type recoveries struct {
	equal []time.Duration // from healing until all replicas were equal
	ack   []time.Duration // from the fault until the first send was acked that began behind it
}

func newTally() *tally {
	return &tally{faults: map[string]*recoveries{}, operations: map[string]*[outcomes]int{}}
}

func (t *tally) fault(kind string, equal, ack time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.faults[kind]
	if r == nil {
		r = &recoveries{}
		t.faults[kind] = r
	}
	r.equal = append(r.equal, equal)
	r.ack = append(r.ack, ack)
}

// quiet counts a round without faults.
func (t *tally) quiet() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.quietOnes++
}

// operation counts operations of a kind by their outcome.
func (t *tally) operation(kind string, out outcome, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.operations[kind] == nil {
		t.operations[kind] = &[outcomes]int{}
	}
	t.operations[kind][out] += n
}

// String is the report, as tables.
func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "operations\tacked\tfailed\tunknown")
	for _, kind := range slices.Sorted(maps.Keys(t.operations)) {
		n := t.operations[kind]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", kind, n[acked], n[failed], n[unknown])
	}
	fmt.Fprintln(w, "\t\t\t\nfault\ttimes\thealed to equal p50\tmax\tfault to ack p50\tmax")
	for _, kind := range slices.Sorted(maps.Keys(t.faults)) {
		r := t.faults[kind]
		fmt.Fprintf(w, "%s\t%d\t%v\t%v\t%v\t%v\n", kind, len(r.equal), median(r.equal), highest(r.equal), median(r.ack), highest(r.ack))
	}
	w.Flush() // to a Builder
	if t.quietOnes > 0 {
		fmt.Fprintf(&b, "and %d rounds without faults\n", t.quietOnes)
	}
	return b.String()
}

func (t *tally) log(tb testing.TB) {
	tb.Helper()
	tb.Logf("report\n%s", t)
}

func median(d []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(d))[len(d)/2].Round(time.Millisecond)
}

func highest(d []time.Duration) time.Duration { return slices.Max(d).Round(time.Millisecond) }
