package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
)

// TX-11, S8: our client's transactions while the leader is killed. What the books of
// the transactions say is what is visible, once.
func TestTX11ClientTransactionsOverAKilledLeader(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, checking(300*time.Millisecond, 300*time.Millisecond, 1000))
	b := cl.leader(t)
	dial(t, b).topic("T", 1)
	var servers []string
	for id, n := range cl.cfg.Nodes {
		servers = append(servers, n.Namesrv)
		eventually(t, "the topic's route", func() bool {
			_, err := cl.route(t, id, "T")
			return err == nil
		})
	}
	var mu sync.Mutex
	books := map[string]bool{} // the transactions that have committed, by body
	check := func(_ context.Context, m *client.MessageExt) client.TransactionState {
		mu.Lock()
		defer mu.Unlock()
		if books[string(m.Body)] {
			return client.TransactionCommitted
		}
		return client.TransactionRolledBack
	}
	c, err := client.New(client.Config{NameServers: strings.Join(servers, ";")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	p, err := c.NewTransactionProducer(client.TransactionConfig{ProducerConfig: client.ProducerConfig{Group: "p", Timeout: 10 * time.Second}, Check: check})
	if err != nil {
		t.Fatal(err)
	}
	const senders, each = 4, 60
	sent := make(chan struct{}, senders*each)
	var group sync.WaitGroup
	for s := range senders {
		group.Go(func() {
			for i := range each {
				body := fmt.Sprint(s, "/", i)
				_, err := p.SendInTransaction(t.Context(), &client.Message{Topic: "T", Body: []byte(body)}, func(context.Context, *client.SendResult) client.TransactionState {
					if i%3 == 0 {
						return client.TransactionRolledBack
					}
					mu.Lock()
					books[body] = true
					mu.Unlock()
					if i%3 == 1 {
						return client.TransactionUnknown // as if this process had ended
					}
					return client.TransactionCommitted
				})
				if err != nil {
					t.Logf("%s: %v", body, err)
				}
				sent <- struct{}{}
			}
		})
	}
	for range senders * each / 3 {
		<-sent
	}
	cl.end(t, b.cfg.NodeID)
	group.Wait()
	next := cl.leader(t)
	eventually(t, "every transaction's end", func() bool { return pending(t, next) == 0 })
	got := bodiesOf(dial(t, next).all("T", 0))
	slices.Sort(got)
	if want := slices.Sorted(maps.Keys(books)); !slices.Equal(got, want) {
		t.Errorf("%d are visible, %d have committed", len(got), len(want))
	}
	if len(books) < senders*each/2 {
		t.Errorf("only %d of %d transactions were run", len(books), senders*each)
	}
}
