package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(benchServerEnv) != "" {
		if err := benchServer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	examples.stop()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bubble runs a test in fake time over connections in memory.
func bubble(t *testing.T, groups, replicas int, f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, newCluster(t, newPipes(), groups, replicas))
	})
}

// pass lets fake time pass, and everything happen that is due.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// producer returns a producer of a new client.
func (c *cluster) producer(cfg ProducerConfig) *Producer {
	c.t.Helper()
	p, err := c.client(Config{}).NewProducer(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// kind returns which of the three kinds an error is, and fails unless it is exactly one.
func kind(t testing.TB, err error) error {
	t.Helper()
	var found []error
	for _, k := range []error{ErrNotSent, ErrLimbo, ErrRejected} {
		if errors.Is(err, k) {
			found = append(found, k)
		}
	}
	if len(found) != 1 {
		t.Fatalf("error %v is of %d kinds: %v", err, len(found), found)
	}
	return found[0]
}

func mustSend(t testing.TB, p *Producer, m *Message) *SendResult {
	t.Helper()
	res, err := p.Send(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// seeded returns a source of randomness that RAFTMQ_SEED reproduces.
func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64() // not the time, which may be fake
	if s := os.Getenv("RAFTMQ_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RAFTMQ_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// until waits for a condition, in real time, and fails if it does not come true.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}
