package main

import (
	"context"
	"fmt"
	"time"

	"github.com/raftmq/raftmq/client"
)

// comparison is how what is stored differs from what senders were told.
type comparison struct {
	Acked    int `json:"acked"`
	Stored   int `json:"stored"`
	Lost     int `json:"lost"`     // acknowledged, and not there
	Doubled  int `json:"doubled"`  // there more than once
	Returned int `json:"returned"` // there, though the client said that they were not stored
	Foreign  int `json:"foreign"`  // sent by nobody
	Unknown  int `json:"unknown"`  // of unknown outcome
	// Excused: a stock client repeats on another group what one may have stored.
	Excused bool `json:"excused"`
}

func (c comparison) ok() bool {
	return c.Acked > 0 && c.Lost == 0 && c.Foreign == 0 && (c.Excused || c.Doubled == 0 && c.Returned == 0)
}

func (c comparison) String() string {
	return fmt.Sprintf("acknowledged %d, of unknown outcome %d, stored %d: lost %d, doubled %d, stored though refused %d, foreign %d",
		c.Acked, c.Unknown, c.Stored, c.Lost, c.Doubled, c.Returned, c.Foreign)
}

// compare reads every queue to its end.
func (c *cluster) compare(ctx context.Context, l *load) (comparison, error) {
	p, err := c.cl.NewPullConsumer(client.PullConfig{Group: "compares"})
	if err != nil {
		return comparison{}, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		p.Close(ctx) // it only reads
	}()
	queues, err := p.FetchQueues(ctx, c.topic)
	if err != nil {
		return comparison{}, err
	}
	times := map[[2]int]int{}
	foreign := 0
	for _, q := range queues {
		end, err := p.MaxOffset(ctx, q)
		if err != nil {
			return comparison{}, err
		}
		for at := int64(0); at < end; {
			r, err := p.Pull(ctx, client.PullRequest{Queue: q, Offset: at, Max: 1024})
			if err != nil {
				return comparison{}, err
			}
			if r.Status != client.PullFound || r.NextOffset <= at {
				return comparison{}, fmt.Errorf("%v at offset %d of %d: %v", q, at, end, r.Status)
			}
			for _, m := range r.Messages {
				var id [2]int
				if _, err := fmt.Sscanf(string(m.Body), "%d-%d ", &id[0], &id[1]); err != nil {
					foreign++
					continue
				}
				times[id]++
			}
			at = r.NextOffset
		}
	}
	return l.compare(times, foreign), nil
}

// compare compares how often each message is stored with its outcome.
func (l *load) compare(times map[[2]int]int, foreign int) comparison {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := comparison{Foreign: foreign, Unknown: l.unknown}
	for sender, n := range l.sent {
		for seq := range n {
			id := [2]int{sender, seq}
			stored := times[id]
			delete(times, id)
			out.Stored += stored
			out.Doubled += max(0, stored-1)
			switch l.other[id] {
			case "":
				out.Acked++
				if stored == 0 {
					out.Lost++
				}
			case failed:
				out.Returned += min(stored, 1)
			}
		}
	}
	for _, n := range times { // in any order
		out.Foreign += n
	}
	return out
}
