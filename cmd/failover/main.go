// Command failover measures for how long nothing is acknowledged when a leader
// goes: it starts a cluster of processes, has 64 senders send without a pause, and
// again and again does something to the leader.
//
//	quiet      nothing, for comparison: a second
//	kill       kill -9; it is started again when another one leads
//	pause      SIGSTOP, as a host that is lost without a word; SIGCONT later
//	partition  its node's network interface is taken down, and up later; needs root
//	transfer   leadership is transferred
//	rolling    each node in turn gets SIGTERM, and is started again when it has ended
//
// A cycle's gap is the longest time without any acknowledgement, from the last one
// before the fault to when sends go on as before (rolling: to when the node is
// back). The next one begins when all replicas are healthy. In the end everything
// is consumed: it exits with 1 unless every acknowledged message is there once.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

type options struct {
	binary  string
	kinds   string
	cycles  int
	kills   int
	groups  int
	senders int
	size    int
	java    string
	dir     string
	output  string
}

func main() {
	var o options
	flag.StringVar(&o.binary, "raftmq", "bin/raftmq", "the raftmq `binary`")
	flag.StringVar(&o.kinds, "kinds", "quiet,kill,pause,partition,transfer,rolling", "what to do, in this order")
	flag.IntVar(&o.cycles, "cycles", 50, "cycles of each kind but kill")
	flag.IntVar(&o.kills, "kills", 200, "cycles of kill")
	flag.IntVar(&o.groups, "groups", 1, "broker groups, each with a replica on each of three nodes")
	flag.IntVar(&o.senders, "senders", 64, "senders, each of which waits for the outcome before it sends again")
	flag.IntVar(&o.size, "size", 100, "size of a message's body in bytes")
	flag.StringVar(&o.java, "java", "", "`version` of the official Java client to send with; default: our own client. It needs a JDK and Maven")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the cluster, which stays; default: one that is removed")
	flag.StringVar(&o.output, "o", "table", "table, or json")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

// report is what -o json prints.
type report struct {
	Client  string      `json:"client"`
	Nodes   int         `json:"nodes"`
	Groups  int         `json:"groups"`
	Senders int         `json:"senders"`
	Size    int         `json:"bodyBytes"`
	Network string      `json:"network"`
	Kinds   []kindStats `json:"kinds"`
	Check   comparison  `json:"check"`
}

// kindStats is what came of the cycles of one kind. Gaps are in milliseconds.
type kindStats struct {
	Kind    string    `json:"kind"`
	Cycles  int       `json:"cycles"`
	P50     float64   `json:"p50ms"`
	P99     float64   `json:"p99ms"`
	Max     float64   `json:"maxMs"`
	Acked   int       `json:"acked"`
	Failed  int       `json:"failedSends"`
	Unknown int       `json:"unknownOutcomes"`
	Gaps    []float64 `json:"gapsMs"`
}

// summarize finds the percentiles: the smallest gap that so many do not exceed.
func (k *kindStats) summarize() {
	sorted := slices.Sorted(slices.Values(k.Gaps))
	at := func(percent int) float64 { return sorted[max(0, (len(sorted)*percent+99)/100-1)] }
	k.Cycles, k.P50, k.P99, k.Max = len(sorted), at(50), at(99), sorted[len(sorted)-1]
}

func run(ctx context.Context, o options) (ok bool, err error) {
	kinds := strings.Split(o.kinds, ",")
	for _, k := range kinds {
		if faults[k] == nil {
			return false, fmt.Errorf("-kinds: there is no %q; see failover -h", k)
		}
	}
	if flag.NArg() > 0 || o.cycles < 1 || o.kills < 1 || o.groups < 1 || o.groups > 26 || o.senders < 1 || o.size < 20 ||
		o.output != "table" && o.output != "json" {
		return false, errors.New("unknown or impossible argument; see failover -h")
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "raftmq-failover-"); err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	} else if _, err := os.Stat(filepath.Join(o.dir, "cluster.yaml")); err == nil {
		return false, fmt.Errorf("-dir %s has a cluster already: give an empty directory", o.dir)
	}
	c, err := startCluster(ctx, o, slices.Contains(kinds, "partition"))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	r := report{Client: "raftmq", Nodes: nodes, Groups: o.groups, Senders: o.senders, Size: o.size, Network: c.network()}
	start := startLoad
	if o.java != "" {
		r.Client, start = "java "+o.java, startJava
	}
	l, err := start(ctx, c, o)
	if err != nil {
		return false, err
	}
	for _, k := range kinds {
		s, err := c.cycles(ctx, k, o, l)
		if err != nil {
			return false, errors.Join(fmt.Errorf("%s: %w", k, err), l.stop())
		}
		r.Kinds = append(r.Kinds, *s)
	}
	if err := l.stop(); err != nil {
		return false, err
	}
	if r.Check, err = c.compare(ctx, l); err != nil {
		return false, err
	}
	r.Check.Excused = o.java != ""
	if o.output == "json" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		err = r.print()
	}
	return r.Check.ok(), err
}

func (r *report) print() error {
	fmt.Printf("%d nodes, %d groups, %d senders of the %s client, bodies of %d bytes, %s\n\n", r.Nodes, r.Groups, r.Senders, r.Client, r.Size, r.Network)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "kind\tcycles\tgap p50 ms\tp99 ms\tmax ms\tacked\tfailed sends\tunknown outcomes\t")
	for _, k := range r.Kinds {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.0f\t%d\t%d\t%d\t\n", k.Kind, k.Cycles, k.P50, k.P99, k.Max, k.Acked, k.Failed, k.Unknown)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Println("\n" + r.Check.String())
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
