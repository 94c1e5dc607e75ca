package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
)

// senders send one message after the other, of which none may fail.
type senders struct {
	t      *testing.T
	client *client.Client
	stop   chan struct{}
	wg     sync.WaitGroup

	mu   sync.Mutex
	took []time.Duration
}

// startSenders makes a topic and sends to it.
func startSenders(t *testing.T, c *cluster, topic string, n int) *senders {
	t.Helper()
	cl, err := client.New(client.Config{NameServers: c.namesrvs()})
	if err != nil {
		t.Fatal(err)
	}
	p, err := cl.NewProducer(client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := client.NewTopicConfig(topic)
	eventually(t, "the topic", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		route, err := createTopic(ctx, cl.Admin(), cfg, nil)
		if err == nil && len(route.Queues) != c.groups {
			err = fmt.Errorf("the name server knows %d groups", len(route.Queues))
		}
		return err
	})
	s := &senders{t: t, client: cl, stop: make(chan struct{})}
	for range n {
		s.wg.Go(func() {
			for {
				select {
				case <-s.stop:
					return
				default:
				}
				begin := time.Now()
				if _, err := p.Send(t.Context(), &client.Message{Topic: topic, Body: []byte("m")}); err != nil {
					t.Errorf("a send failed: %v", err)
					return
				}
				s.mu.Lock()
				s.took = append(s.took, time.Since(begin))
				s.mu.Unlock()
			}
		})
	}
	return s
}

func (s *senders) sent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.took)
}

// more waits until some more were sent.
func (s *senders) more(what string) {
	s.t.Helper()
	from := s.sent()
	eventually(s.t, what, func() error {
		if s.sent() < from+50 {
			return errors.New("too few sends")
		}
		return nil
	})
}

// end stops sending and says how long sends took.
func (s *senders) end() {
	close(s.stop)
	s.wg.Wait()
	if err := s.client.Close(s.t.Context()); err != nil {
		s.t.Error(err)
	}
	slices.Sort(s.took)
	if n := len(s.took); n > 0 {
		s.t.Logf("%d sends, of which half took up to %v, 99 %% up to %v, all up to %v", n, s.took[n/2], s.took[n*99/100], s.took[n-1])
	}
}

// TestHA13RollingRestart stops and starts each node of a cluster in good order,
// under load. No send fails. (Row 4)
func TestHA13RollingRestart(t *testing.T) {
	t.Parallel()
	for _, groups := range []int{1, 2} {
		t.Run(fmt.Sprint(groups, " groups"), func(t *testing.T) {
			c := startCluster(t, 3, groups)
			s := startSenders(t, c, "Rolling", 4)
			for _, id := range c.ids {
				s.more("sends before " + id + " stops")
				begin := time.Now()
				for _, st := range c.signal(syscall.SIGTERM, id) {
					if !st.Success() {
						t.Errorf("%s ended with %v", id, st)
					}
				}
				if d := time.Since(begin); d > 40*time.Second {
					t.Errorf("%s has taken %v to end", id, d)
				}
				s.more("sends without " + id)
				c.start(id)
				c.healthy()
			}
			s.end()
		})
	}
}

// TestTransfersFailNoSend has leadership go round under load. No send fails.
// (Row 27)
func TestTransfersFailNoSend(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, 1)
	s := startSenders(t, c, "Transfers", 4)
	for i := range times(5, 60) {
		s.more("sends before a transfer")
		leader, _ := c.leader("broker-a")
		to := c.ids[(slices.Index(c.ids, leader)+1+i%2)%3]
		eventually(t, "the transfer from "+leader+" to "+to, func() error {
			return s.client.Admin().RaftTransfer(t.Context(), c.brokers["broker-a"][leader], to)
		})
		eventually(t, to+" leads", func() error {
			if now, _ := c.leader("broker-a"); now != to {
				return fmt.Errorf("%s leads", now)
			}
			return nil
		})
		<-time.After(times2(time.Second, 2*time.Second))
	}
	s.end()
}
