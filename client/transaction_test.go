package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// executeEndTransaction commits what is committed. The group's lock is held.
func (r *fakeReplica) executeEndTransaction(req *remoting.Command) *remoting.Command {
	g := r.g
	var h remoting.EndTransactionRequest
	if err := h.Decode(req); err != nil {
		g.c.t.Error(err)
		return &remoting.Command{Code: remoting.SystemError, Remark: err.Error()}
	}
	g.ended = append(g.ended, h)
	half := g.queues[MessageQueue{Topic: remoting.TopicHalf, BrokerName: g.name}]
	v, err := remoting.ParseRecord(half.records[h.TranStateTableOffset])
	if err != nil || v.PhysicalOffset() != h.CommitLogOffset {
		g.c.t.Errorf("the half message %d is not at %d: %v", h.TranStateTableOffset, h.CommitLogOffset, err)
	}
	if h.State == TransactionCommitted {
		p := v.Properties()
		g.put(&remoting.SendHeader{Topic: p.Get(remoting.PropRealTopic), SysFlag: v.SysFlag(), BornTimestamp: v.BornTimestamp()}, v.Body(), p, v.Flag())
		g.wake()
	}
	return &remoting.Command{}
}

// askAbout asks a producer of the group about a half message.
func (r *fakeReplica) askAbout(group string, offset int64) error {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	rec := slices.Clone(r.g.queues[MessageQueue{Topic: remoting.TopicHalf, BrokerName: r.g.name}].records[offset])
	v, err := remoting.ParseRecord(rec)
	if err != nil {
		return err
	}
	real := v.Record()
	real.Topic = real.Properties.Get(remoting.PropRealTopic)
	body, err := remoting.AppendRecord(nil, &real)
	if err != nil {
		return err
	}
	uniq := real.Properties.Get(remoting.PropUniqKey)
	conn := r.producers[group]
	if conn == nil {
		return fmt.Errorf("no producer of group %s", group)
	}
	return conn.Notify(&remoting.Command{Code: remoting.CheckTransactionState, Body: body, Header: &remoting.CheckTransactionRequest{
		Topic: real.Topic, TranStateTableOffset: offset, CommitLogOffset: real.PhysicalOffset, MsgID: uniq, TransactionID: uniq, BrokerName: r.g.name,
	}})
}

// endings are what producers have said, in words.
func (g *fakeGroup) endings() (all []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.ended {
		all = append(all, fmt.Sprint(h.TranStateTableOffset, " ", h.State, " by ", h.ProducerGroup, ", asked ", h.FromCheck))
	}
	return all
}

// returns is a local transaction with this end.
func returns(s TransactionState) func(context.Context, *SendResult) TransactionState {
	return func(context.Context, *SendResult) TransactionState { return s }
}

func TestSendInTransaction(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		cl := c.client(Config{})
		p, err := cl.NewTransactionProducer(TransactionConfig{ProducerConfig: ProducerConfig{Group: "tx"}, Check: func(context.Context, *MessageExt) TransactionState { return TransactionUnknown }})
		if err != nil {
			t.Fatal(err)
		}
		visible := func() int { return len(g.records(MessageQueue{Topic: "T", BrokerName: "broker-a"})) }
		res, err := p.SendInTransaction(t.Context(), &Message{Topic: "T", Body: []byte("a")}, func(_ context.Context, half *SendResult) TransactionState {
			if visible() != 0 || half.MsgID == "" || half.QueueOffset != 0 {
				t.Errorf("%d messages visible before the end; the half message is %+v", visible(), half)
			}
			return TransactionCommitted
		})
		if err != nil || res.State != TransactionCommitted || res.Status != SendOK {
			t.Fatalf("%+v, %v", res, err)
		}
		synctest.Wait()
		if visible() != 1 {
			t.Error("not visible")
		}
		g.mu.Lock()
		h := g.ended[0]
		half, err := remoting.ParseRecord(g.queues[MessageQueue{Topic: remoting.TopicHalf, BrokerName: "broker-a"}].records[0])
		g.mu.Unlock()
		if err != nil || h.MsgID != res.MsgID || h.TransactionID != res.MsgID || h.BrokerName != "broker-a" || h.Topic != "T" {
			t.Errorf("the end: %+v, %v", h, err)
		}
		if half.Properties().Get(remoting.PropProducerGroup) != "tx" || half.SysFlag()&remoting.SysFlagTransaction != remoting.SysFlagPrepared {
			t.Errorf("the half message: %q, sysFlag %d", half.Properties(), half.SysFlag())
		}
		for _, s := range []TransactionState{TransactionRolledBack, TransactionUnknown} {
			if res, err := p.SendInTransaction(t.Context(), &Message{Topic: "T"}, returns(s)); err != nil || res.State != s {
				t.Errorf("%v: %+v, %v", s, res, err)
			}
		}
		// What is not stored, or not for sure, has no transaction.
		never := func(context.Context, *SendResult) TransactionState {
			t.Error("the transaction was run")
			return TransactionCommitted
		}
		g.replicas[0].next(remoting.SendMessageV2, script{answer: &remoting.Command{Code: remoting.MessageIllegal, Remark: "no"}})
		if _, err := p.SendInTransaction(t.Context(), &Message{Topic: "T"}, never); !errors.Is(err, ErrRejected) {
			t.Error(err)
		}
		g.replicas[0].next(remoting.SendMessageV2, script{store: true, answer: &remoting.Command{Code: remoting.SlaveNotAvailable, Header: &remoting.SendResponse{
			MsgID: res.OffsetMsgID, QueueOffset: 0}}})
		if _, err := p.SendInTransaction(t.Context(), &Message{Topic: "T"}, never); !errors.Is(err, ErrHalfUnsafe) {
			t.Error(err)
		}
		// An ordinary one is one.
		mustSend(t, p.Producer, &Message{Topic: "T"})
		synctest.Wait()
		if got, want := g.endings(), []string{"0 committed by tx, asked false", "1 rolled back by tx, asked false", "0 rolled back by tx, asked false"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if visible() != 2 {
			t.Errorf("%d visible", visible())
		}
		// Close waits for a transaction.
		running, finish := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			_, err := p.SendInTransaction(t.Context(), &Message{Topic: "T"}, func(context.Context, *SendResult) TransactionState {
				close(running)
				<-finish
				return TransactionCommitted
			})
			done <- err
		}()
		<-running
		go func() { pass(time.Second); close(finish) }()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := p.SendInTransaction(t.Context(), &Message{Topic: "T"}, never); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestTransactionChecks(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		c.topic(remoting.TopicHalf, 1)
		g := c.groups[0]
		sender, err := c.client(Config{}).NewTransactionProducer(TransactionConfig{ProducerConfig: ProducerConfig{Group: "tx"},
			Check: func(context.Context, *MessageExt) TransactionState { return TransactionUnknown }})
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range []string{"committed", "unknown", "panics", "waits"} {
			if _, err := sender.SendInTransaction(t.Context(), &Message{Topic: "T", Body: []byte(text), Tags: "tag", Properties: map[string]string{"n": fmt.Sprint(i)}}, returns(TransactionUnknown)); err != nil {
				t.Fatal(err)
			}
		}
		if err := sender.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan struct{})
		p, err := c.client(Config{}).NewTransactionProducer(TransactionConfig{ProducerConfig: ProducerConfig{Group: "tx"}, Checkers: 1,
			Check: func(ctx context.Context, m *MessageExt) TransactionState {
				if m.Topic != "T" || m.Tags != "tag" || m.MsgID == "" || m.Properties["n"] == "" {
					t.Errorf("asked about %+v", m)
				}
				switch string(m.Body) {
				case "committed":
					return TransactionCommitted
				case "panics":
					panic("on purpose")
				case "waits":
					close(waiting)
					<-ctx.Done()
					return TransactionRolledBack
				}
				return TransactionUnknown
			}})
		if err != nil {
			t.Fatal(err)
		}
		// It has sent nothing, and all replicas know it.
		synctest.Wait()
		for i, r := range g.replicas {
			if err := r.askAbout("tx", int64(i)); err != nil {
				t.Errorf("replica %d: %v", i, err)
			}
		}
		synctest.Wait()
		want := []string{"0 committed by tx, asked true", "1 unknown by tx, asked true", "2 unknown by tx, asked true"}
		got := g.endings()
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if n := len(g.records(MessageQueue{Topic: "T", BrokerName: "broker-a"})); n != 1 {
			t.Errorf("%d visible", n)
		}
		// One that waits ends with the producer; one behind it is not begun.
		for _, offset := range []int64{3, 0} {
			if err := g.replicas[0].askAbout("tx", offset); err != nil {
				t.Fatal(err)
			}
		}
		<-waiting
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := g.endings(); len(got) != 4 || got[3] != "3 rolled back by tx, asked true" {
			t.Errorf("%q", got)
		}
	})
}

// A broker's question that makes no sense harms nobody.
func TestHostileTransactionCheck(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		cl := c.client(Config{})
		p, err := cl.NewTransactionProducer(TransactionConfig{ProducerConfig: ProducerConfig{Group: "tx"}, Check: func(context.Context, *MessageExt) TransactionState {
			t.Error("asked")
			return TransactionCommitted
		}})
		if err != nil {
			t.Fatal(err)
		}
		mustSend(t, p.Producer, &Message{Topic: "T"})
		synctest.Wait()
		r := c.groups[0].replicas[0]
		r.g.mu.Lock()
		conn := r.producers["tx"]
		r.g.mu.Unlock()
		stranger, err := remoting.AppendRecord(nil, &remoting.Record{Topic: "T", Properties: remoting.AppendProperty(nil, remoting.PropProducerGroup, "other")})
		if err != nil {
			t.Fatal(err)
		}
		for _, req := range []*remoting.Command{
			{Code: remoting.CheckTransactionState},
			{Code: remoting.CheckTransactionState, Header: &remoting.CheckTransactionRequest{}},
			{Code: remoting.CheckTransactionState, Header: &remoting.CheckTransactionRequest{}, Body: []byte("garbage")},
			{Code: remoting.CheckTransactionState, Header: &remoting.CheckTransactionRequest{}, Body: stranger},
			{Code: remoting.CheckTransactionState, Header: &remoting.CheckTransactionRequest{}, Body: slices.Concat(stranger, stranger)},
		} {
			if err := conn.Notify(req); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		mustSend(t, p.Producer, &Message{Topic: "T"})
	})
}

func TestTransactionConfig(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		cl := c.client(Config{})
		check := func(context.Context, *MessageExt) TransactionState { return TransactionUnknown }
		group := ProducerConfig{Group: "tx"}
		for _, cfg := range []TransactionConfig{{ProducerConfig: group}, {Check: check}, {ProducerConfig: group, Check: check, Checkers: -1},
			{ProducerConfig: ProducerConfig{Group: "not a group"}, Check: check}} {
			if _, err := cl.NewTransactionProducer(cfg); !errors.Is(err, ErrConfig) {
				t.Errorf("%+v: %v", cfg, err)
			}
		}
	})
}
