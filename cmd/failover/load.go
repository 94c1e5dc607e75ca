package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/client"
)

// load is what senders have done. Message seq of a sender has the body
// "sender-seq ...".
type load struct {
	mu      sync.Mutex
	acks    []time.Time       // in the order they were noted
	sent    map[int]int       // by sender: messages 0 .. sent-1 have an outcome
	other   map[[2]int]string // by sender and seq: those that were not acknowledged
	failed  int
	unknown int

	end func() error
}

// The outcomes that are no acknowledgement.
const (
	failed  = "failed"  // not stored, as the client says
	unknown = "unknown" // may be stored
)

func newLoad() *load { return &load{sent: map[int]int{}, other: map[[2]int]string{}} }

// stop ends the senders, whose outcomes are complete then.
func (l *load) stop() error { return l.end() }

func (l *load) acked(sender, seq int, at ...time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks = append(l.acks, at...)
	l.sent[sender] = max(l.sent[sender], seq+1)
}

func (l *load) not(outcome string, sender, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.other[[2]int{sender, seq}] = outcome
	l.sent[sender] = max(l.sent[sender], seq+1)
	if outcome == failed {
		l.failed++
	} else {
		l.unknown++
	}
}

func (l *load) counts() (acked, failed, unknown int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acks), l.failed, l.unknown
}

// since are the acknowledgements since a moment, and the last one before it.
func (l *load) since(from time.Time) []time.Time {
	l.mu.Lock()
	i := len(l.acks)
	for i > 0 && l.acks[i-1].After(from.Add(-time.Second)) { // the order of notes is about that of time
		i--
	}
	recent := slices.Clone(l.acks[max(0, i-1):])
	l.mu.Unlock()
	slices.SortFunc(recent, time.Time.Compare)
	first, _ := slices.BinarySearchFunc(recent, from, time.Time.Compare)
	return recent[max(0, first-1):]
}

// gap is the longest time without an acknowledgement, from the last one before a
// moment on.
func (l *load) gap(from time.Time) (longest time.Duration) {
	acks := l.since(from)
	for i := 1; i < len(acks); i++ {
		longest = max(longest, acks[i].Sub(acks[i-1]))
	}
	return longest
}

// startLoad has senders of our own client send until stop.
func startLoad(ctx context.Context, c *cluster, o options) (*load, error) {
	cl, err := client.New(client.Config{NameServers: c.names})
	if err != nil {
		return nil, err
	}
	p, err := cl.NewProducer(client.ProducerConfig{Group: "failover"})
	if err != nil {
		return nil, err
	}
	l := newLoad()
	ctx, cancel := context.WithCancel(ctx)
	filler := strings.Repeat(".", o.size)
	var senders sync.WaitGroup
	for sender := range o.senders {
		senders.Go(func() {
			for seq := 0; ctx.Err() == nil; seq++ {
				body := fmt.Sprintf("%d-%d %s", sender, seq, filler)[:o.size]
				_, err := p.Send(context.Background(), &client.Message{Topic: c.topic, Body: []byte(body)})
				switch {
				case err == nil:
					l.acked(sender, seq, time.Now())
				case errors.Is(err, client.ErrLimbo):
					l.not(unknown, sender, seq)
				default:
					l.not(failed, sender, seq)
				}
			}
		})
	}
	l.end = func() error {
		cancel()
		senders.Wait()
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return errors.Join(p.Close(closing), cl.Close(closing))
	}
	return l, nil
}
