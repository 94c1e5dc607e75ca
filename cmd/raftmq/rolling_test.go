package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
)

// TestHA13RollingRestart stops and starts each node of a cluster of two groups
// in good order, under load. No send fails. (Row 4)
func TestHA13RollingRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, 2)
	cl, err := client.New(client.Config{NameServers: c.namesrvs()})
	if err != nil {
		t.Fatal(err)
	}
	p, err := cl.NewProducer(client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := client.NewTopicConfig("Rolling")
	eventually(t, "the topic", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		route, err := createTopic(ctx, cl.Admin(), cfg, nil)
		if err == nil && len(route.Queues) != c.groups {
			err = fmt.Errorf("the name server knows %d groups", len(route.Queues))
		}
		return err
	})
	var sent atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				begin := time.Now()
				if _, err := p.Send(t.Context(), &client.Message{Topic: "Rolling", Body: []byte("m")}); err != nil {
					t.Errorf("a send failed: %v", err)
					return
				}
				sent.Add(1)
				mu.Lock()
				took = append(took, time.Since(begin))
				mu.Unlock()
			}
		})
	}
	more := func(what string) {
		t.Helper()
		from := sent.Load()
		eventually(t, what, func() error {
			if sent.Load() < from+50 {
				return errors.New("too few sends")
			}
			return nil
		})
	}
	for _, id := range c.ids {
		more("sends before " + id + " stops")
		for _, s := range c.signal(syscall.SIGTERM, id) {
			if !s.Success() {
				t.Errorf("%s ended with %v", id, s)
			}
		}
		more("sends without " + id)
		c.start(id)
		c.healthy()
	}
	close(stop)
	senders.Wait()
	if err := cl.Close(t.Context()); err != nil {
		t.Error(err)
	}
	slices.Sort(took)
	t.Logf("%d sends, of which half took up to %v, 99 %% up to %v, all up to %v", len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
}
