package broker

import (
	"context"
	"errors"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// storeOp is a record that the broker itself stores, or, without a topic, none:
// then it settles a message, or asks about it, and no more.
type storeOp struct {
	record  remoting.Record
	key     fsm.Key
	delay   int64
	settles *fsm.Waiting
	waited  bool // the record says where it has waited
	asks    bool // about what it would settle
	done    chan storeResult
}

type storeResult struct {
	r   fsm.Result
	err error
}

// AppendRecords implements raftgroup.SendOp.
func (op *storeOp) AppendRecords(dst []byte) ([]byte, error) {
	if op.record.Topic == "" {
		return dst, nil
	}
	return remoting.AppendRecord(dst, &op.record)
}

// Done implements raftgroup.SendOp.
func (op *storeOp) Done(r fsm.Result, err error) { op.done <- storeResult{r, err} }

// store stores a record and waits for it.
func (b *Broker) store(ctx context.Context, op *storeOp) (fsm.Result, error) {
	if err := b.propose(op); err != nil {
		return fsm.Result{}, err
	}
	return op.wait(ctx)
}

// propose proposes to store a record, unless its error says otherwise: op.wait
// tells what has become of it.
func (b *Broker) propose(op *storeOp) error {
	op.done = make(chan storeResult, 1)
	send := raftgroup.Send{
		SendMeta: fsm.SendMeta{Key: op.key, Delay: op.delay, Settles: op.settles, Waited: op.waited, Asks: op.asks}, Accepted: true, Op: op,
	}
	if op.record.Topic != "" {
		send.Count, send.Size = 1, op.record.Size()
	}
	return b.group.Append(send)
}

// wait waits for a record that was proposed.
func (op *storeOp) wait(ctx context.Context) (fsm.Result, error) {
	select {
	case res := <-op.done:
		return res.r, res.err
	case <-ctx.Done():
		return fsm.Result{}, errors.Join(raftgroup.ErrUnknown, ctx.Err())
	}
}

// storeSurely stores a record for a request, and does not leave it at an unknown
// outcome while there is time: whoever leads next either has the record or never
// will, and says which when it is asked under the same key. That may be this
// replica again, or another, to which the request is passed on.
func (b *Broker) storeSurely(ctx context.Context, op *storeOp, req *remoting.Command) error {
	topic := op.record.Topic
	var unknown error
	for {
		r, err := b.store(ctx, op)
		switch {
		case err == nil:
			return refusalOf(r.Status, topic)
		case errors.Is(err, raftgroup.ErrUnknown):
			unknown = err
		case unknown == nil:
			return err
		case !errors.Is(err, raftgroup.ErrNotLeader):
			return unknown // that this one was refused says nothing of the first
		}
		if !b.remembers(op.key) {
			return unknown
		}
		lead := b.nextLeader(ctx)
		if ctx.Err() != nil {
			return unknown
		}
		if lead.Self {
			continue // it is the same record: a send does not change it
		}
		resp, err := b.askLeader(ctx, lead.Address, &remoting.Command{Code: req.Code, Language: req.Language, Version: req.Version, Ext: req.Ext}, false)
		switch {
		case err != nil:
			return errors.Join(unknown, err)
		case resp.Code == remoting.ServiceNotAvailable || resp.Code == remoting.SystemBusy:
			return unknown
		}
		return resp.Err()
	}
}

// remembers says whether a send that is repeated under its key is stored once.
func (b *Broker) remembers(k fsm.Key) bool {
	c := b.group.State().Configuration()
	return k != fsm.Key{} && c.DedupSpan > requestTimeout.Milliseconds() && c.DedupMax > 0
}

// leaderPoll is how often it is looked who leads.
const leaderPoll = 10 * time.Millisecond

// nextLeader waits until somebody leads; the zero Leadership if ctx ends first.
func (b *Broker) nextLeader(ctx context.Context) raftgroup.Leadership {
	tick := time.NewTicker(leaderPoll)
	defer tick.Stop()
	for {
		if l := b.group.Leadership(); l.Self || l.Address != "" {
			return l
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return raftgroup.Leadership{}
		}
	}
}
