package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

const (
	inOrderSenders = 4
	freeSenders    = 8
	loadQueues     = 6 // of each group: four for the in-order senders of the first, all for the others
	// opTimeout is how long a sender tries to get one message stored.
	opTimeout = 1200 * time.Millisecond
	// attemptTimeout is longer, as is the default: a broker may take a repeat that
	// comes within a second of the answer, on one connection, for a deliberate one.
	attemptTimeout = 1500 * time.Millisecond
)

// load is senders that send all the time, through the Go client.
type load struct {
	t     testing.TB
	c     *cluster
	topic string
	h     *history
	kinds []traffic
	// connected are the clients of the kinds.
	connected []*client.Client

	cancel context.CancelFunc
	client *client.Client
	wg     sync.WaitGroup
}

// traffic is a kind of messages beside those that are simply sent.
type traffic interface {
	// send sends until ctx ends.
	send(ctx context.Context)
	// finish waits until what was sent has come to its end, but not for ever, and
	// ends what consumes it.
	finish()
	// check compares, in a cluster that has settled.
	check() []violation
	// history is that of what it sends; nil: it sends nothing.
	history() *history
}

// startLoad makes a topic and sends to it until end.
func startLoad(t testing.TB, c *cluster, topic string, kinds ...func(*load) traffic) *load {
	t.Helper()
	cl, err := client.New(client.Config{NameServers: c.namesrvs(), CallTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	l := &load{t: t, c: c, topic: topic, h: newHistory(), client: cl}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	t.Cleanup(l.end)
	l.makeTopic(topic, loadQueues)
	for _, k := range kinds {
		l.kinds = append(l.kinds, k(l))
	}
	ordered, err := cl.NewProducer(client.ProducerConfig{Group: "ordered", AttemptTimeout: attemptTimeout, InOrder: true})
	if err != nil {
		t.Fatal(err)
	}
	free, err := cl.NewProducer(client.ProducerConfig{Group: "free", AttemptTimeout: attemptTimeout})
	if err != nil {
		t.Fatal(err)
	}
	queues, err := ordered.Queues(ctx, topic)
	if err != nil || len(queues) != loadQueues*c.groups {
		t.Fatalf("%v has %d queues: %v", topic, len(queues), err)
	}
	for i := range inOrderSenders {
		l.wg.Go(func() {
			l.sender(ctx, i, true, func(ctx context.Context, m *client.Message) (*client.SendResult, error) {
				return ordered.SendTo(ctx, queues[i], m)
			})
		})
	}
	for i := range freeSenders {
		l.wg.Go(func() { l.sender(ctx, inOrderSenders+i, false, free.Send) })
	}
	for _, k := range l.kinds {
		l.wg.Go(func() { k.send(ctx) })
	}
	return l
}

func (l *load) makeTopic(topic string, queues int32) {
	l.t.Helper()
	cfg := client.NewTopicConfig(topic)
	cfg.ReadQueueNums, cfg.WriteQueueNums = queues, queues
	eventually(l.t, "topic "+topic, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		route, err := createTopic(ctx, l.client.Admin(), cfg, nil)
		if err == nil && len(route.Queues) != l.c.groups {
			err = fmt.Errorf("the name server knows %d groups", len(route.Queues))
		}
		return err
	})
}

// sender sends one message after the other.
func (l *load) sender(ctx context.Context, id int, inOrder bool, send func(context.Context, *client.Message) (*client.SendResult, error)) {
	pace := time.NewTicker(times2(20*time.Millisecond, 4*time.Millisecond)) // many tests' loads share the processors
	defer pace.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		i, o := l.h.invoke(op{sender: id, n: n, inOrder: inOrder, kind: map[bool]string{true: "in order", false: "plain"}[inOrder]})
		l.h.end(sendOp(i, l.topic, o, send))
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
	}
}

// sendOp sends one message until it is stored, or the time is over. It is the
// same message each time; once one send is unknown, all of it is until it is
// acked. The end of the load doesn't interrupt it.
func sendOp(i int, topic string, o op, send func(context.Context, *client.Message) (*client.SendResult, error)) (int, outcome, place, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	return sendMessage(ctx, i, &client.Message{Topic: topic, Body: []byte(o.body())}, send)
}

func sendMessage(ctx context.Context, i int, m *client.Message, send func(context.Context, *client.Message) (*client.SendResult, error)) (int, outcome, place, string, error) {
	out := failed
	for {
		r, err := send(ctx, m)
		if err == nil && r.Status == client.SendOK {
			return i, acked, place{r.Queue.BrokerName, r.Queue.QueueID, r.QueueOffset}, r.MsgID, nil
		}
		if err == nil {
			err = fmt.Errorf("%v", r.Status)
		}
		if !errors.Is(err, client.ErrNotSent) && !errors.Is(err, client.ErrRejected) {
			out = unknown
		}
		if ctx.Err() != nil {
			return i, out, place{}, "", err
		}
	}
}

// floor waits until so many more sends were acked: that there is a load, before
// a fault or after it.
func (l *load) floor(n int, what string) {
	l.t.Helper()
	want := l.h.acked() + n
	eventually(l.t, fmt.Sprintf("%d acks %s", n, what), func() error {
		if have := l.h.acked(); have < want {
			return fmt.Errorf("%d of them are missing; %v", want-have, l.h)
		}
		return nil
	})
}

// end ends the load: every send gets its outcome.
func (l *load) end() {
	if l.cancel == nil {
		return
	}
	l.cancel()
	l.cancel = nil
	l.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.client.Close(ctx); err != nil {
		l.t.Error(err)
	}
}

// check ends the load, waits until the cluster has settled, drains every queue
// from each replica and compares.
func (l *load) check() {
	l.t.Helper()
	l.end()
	for _, k := range l.kinds {
		k.finish()
	}
	l.c.settled()
	replicas := l.drainAll(l.topic, loadQueues)
	report(l.t, check(l.h.all(), replicas))
	for _, k := range l.kinds {
		report(l.t, k.check())
		if h := k.history(); h != nil {
			l.t.Logf("%T: %v", k, h)
		}
	}
	l.disconnectAll()
	l.t.Logf("%s: %v; %d messages on each replica", l.topic, l.h, len(replicas[l.c.ids[0]]))
}

// count adds the operations to a tally.
func (l *load) count(t *tally) {
	l.h.count(t)
	for _, k := range l.kinds {
		if h := k.history(); h != nil {
			h.count(t)
		}
	}
}

// drainAll reads a topic from each replica. One that a group does not have is
// empty there.
func (l *load) drainAll(topic string, queues int) map[string][]stored {
	l.t.Helper()
	replicas := map[string][]stored{}
	for _, id := range l.c.ids {
		for g := range l.c.groups {
			name := groupName(g)
			all, err := drain(l.c.brokers[name][id], name, topic, queues)
			if err != nil {
				l.t.Fatalf("draining %s from %s: %v", topic, id, err)
			}
			replicas[id] = append(replicas[id], all...)
		}
	}
	return replicas
}

// drain pulls all messages of a topic from one replica, no other: each queue
// from its first offset to the end that the replica says it has.
func drain(addr, broker, topic string, queues int) (all []stored, err error) {
	for q := range int32(queues) {
		for at := int64(0); ; {
			resp, err := ask(addr, &remoting.Command{Code: remoting.PullMessage, Header: &remoting.PullRequest{
				ConsumerGroup: remoting.GroupTools, Topic: topic, QueueID: q, QueueOffset: at, MaxMsgNums: 1000,
				SysFlag: remoting.PullSubscription, Subscription: "*",
			}})
			if resp == nil {
				return nil, err
			}
			if resp.Code == remoting.TopicNotExist {
				return nil, nil // no message of it has come to this group
			}
			var p remoting.PullResponse
			if e := p.Decode(resp); e != nil {
				return nil, errors.Join(err, e)
			}
			switch resp.Code {
			case remoting.Success:
				records, err := remoting.DecodeRecords(resp.Body)
				if err != nil {
					return nil, err
				}
				for _, r := range records {
					if err := r.VerifyBody(); err != nil {
						return nil, err
					}
					all = append(all, stored{place{broker, r.QueueID(), r.QueueOffset()},
						string(r.Properties().Get(remoting.PropUniqKey)), r.PhysicalOffset(), string(r.Body()), r.StoreTimestamp(), r.ReconsumeTimes()})
				}
			case remoting.PullNotFound, remoting.PullRetryImmediately, remoting.PullOffsetMoved:
			default:
				return nil, err
			}
			if p.NextBeginOffset == at && at >= p.MaxOffset {
				break
			}
			if p.NextBeginOffset <= at {
				return nil, fmt.Errorf("queue %d at %d: %v, next %d, end %d", q, at, err, p.NextBeginOffset, p.MaxOffset)
			}
			at = p.NextBeginOffset
		}
	}
	slices.SortFunc(all, func(a, b stored) int { return int(a.queue-b.queue)<<20 + int(min(max(a.offset-b.offset, -1), 1)) })
	return all, nil
}
