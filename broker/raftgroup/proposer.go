package raftgroup

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
)

// applier is the part of raft that proposals go to.
type applier interface {
	ApplyLog(log raft.Log, timeout time.Duration) raft.ApplyFuture
}

// Send is one send to be proposed: a message, or a batch that is stored whole.
type Send struct {
	fsm.SendMeta
	Count int // records
	Size  int // of the records, bytes, about
	Op    SendOp
}

// SendOp is who sends.
type SendOp interface {
	// AppendRecords appends the encoded records. It is called once, before
	// Append returns, so it may use the request's buffers.
	AppendRecords(dst []byte) ([]byte, error)
	// Done is told the outcome, once, from any goroutine, unless Append has
	// returned an error. It must not block.
	Done(fsm.Result, error)
}

// batch is a command being filled or on its way, and who waits for it.
type batch struct {
	command *fsm.AppendCommand
	ops     []SendOp
	size    int
	settled bool // the waiters were told; guarded by proposer.mu
}

// proposer turns concurrent sends into few raft entries. What arrives while
// earlier entries are on their way waits and goes together: no timer delays a
// send, and the busier it gets the larger the entries.
//
//	P1  A send is in exactly one batch, a batch in at most one entry.
//	P2  Every accepted send is told its outcome once: by apply, by an error of
//	    raft, or at its deadline.
//	P3  At most inflight batches are with raft, and at most maxBytes in all are
//	    accepted and not settled.
type proposer struct {
	cfg proposerConfig

	mu       sync.Mutex
	open     *batch   // being filled
	sealed   []*batch // full, waiting for their turn
	bytes    int      // accepted and not settled
	inflight int
	closed   error
	wake     chan struct{}
	stop     chan struct{}
	done     sync.WaitGroup
	estimate int // of the next command's length, bytes
}

type proposerConfig struct {
	raft      applier
	now       func() int64 // log time, ms
	storeHost netip.AddrPort
	// pending says since when the disk has been busy with entries, if it is.
	pending      func() (time.Time, bool)
	batchBytes   int // an entry's target size
	maxEntry     int // an entry's limit
	maxBytes     int
	maxInflight  int
	enqueue      time.Duration
	slaveTimeout time.Duration
	flushTimeout time.Duration
}

func newProposer(cfg proposerConfig) *proposer {
	p := &proposer{cfg: cfg, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	p.done.Add(1)
	go p.run()
	return p
}

// propose accepts a send, or refuses it with a definite error.
func (p *proposer) propose(s Send) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return p.closed
	}
	if p.bytes+s.Size > p.cfg.maxBytes && p.bytes > 0 {
		return ErrBusy
	}
	if s.Size > p.cfg.maxEntry {
		return ErrTooLarge
	}
	if p.open != nil && p.open.command.Len()+s.Size > p.cfg.batchBytes {
		p.seal()
	}
	if p.open == nil {
		p.open = &batch{command: fsm.NewAppendCommand(make([]byte, 0, p.estimate), p.cfg.storeHost)}
	}
	b := p.open
	before := b.command.Len()
	buf, err := s.Op.AppendRecords(b.command.Begin(s.SendMeta))
	if err != nil {
		b.command.Abort()
		return err
	}
	b.command.End(buf, s.Count)
	b.ops = append(b.ops, s.Op)
	size := b.command.Len() - before
	b.size += size
	p.bytes += size
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// seal closes the open batch. The lock is held.
func (p *proposer) seal() {
	if p.open != nil && len(p.open.ops) > 0 {
		p.sealed = append(p.sealed, p.open)
		p.open = nil
	}
}

// next takes the batch to go now, if there is one and it may go.
func (p *proposer) next() *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inflight >= p.cfg.maxInflight {
		return nil
	}
	if len(p.sealed) == 0 {
		p.seal()
	}
	if len(p.sealed) == 0 {
		return nil
	}
	b := p.sealed[0]
	p.sealed = p.sealed[1:]
	p.inflight++
	return b
}

func (p *proposer) run() {
	defer p.done.Done()
	for {
		if b := p.next(); b != nil {
			p.send(b)
			continue
		}
		select {
		case <-p.wake:
		case <-p.stop:
			return
		}
	}
}

// send gives a batch to raft and starts what waits for its outcome.
func (p *proposer) send(b *batch) {
	data := b.command.Bytes()
	fsm.Stamp(data, p.cfg.now())
	p.mu.Lock()
	p.estimate = len(data) + len(data)/8
	p.mu.Unlock()
	future := p.cfg.raft.ApplyLog(raft.Log{Data: data}, p.cfg.enqueue)
	// A future of raft may never be answered (issue 498): the waiters have
	// deadlines of their own, and so has the place in flight.
	late := time.AfterFunc(p.cfg.slaveTimeout, func() { p.expire(b) })
	p.done.Add(1)
	go func() {
		defer p.done.Done()
		results, err := await(future, p.stop)
		late.Stop()
		p.settle(b, results, err)
	}()
}

// await waits for a future of raft, or until stop is closed: then the outcome
// stays unknown.
func await(future raft.ApplyFuture, stop <-chan struct{}) ([]fsm.Result, error) {
	answered := make(chan error, 1)
	go func() { answered <- future.Error() }()
	select {
	case err := <-answered:
		if err != nil {
			return nil, outcome(err)
		}
		return applied(future.Response())
	case <-stop:
		return nil, ErrLeadershipLost
	}
}

// applied takes apart what the FSM answered.
func applied(response any) ([]fsm.Result, error) {
	switch r := response.(type) {
	case []fsm.Result:
		return r, nil
	case error:
		// The state machine failed on this entry, here. The others may go on.
		return nil, errors.Join(ErrUnknown, r)
	}
	return nil, ErrUnknown
}

// outcome maps an error of raft. Only those that it gives before the entry is in
// its log are definite.
func outcome(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNotLeader
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrBusy
	case errors.Is(err, raft.ErrLeadershipLost):
		return ErrLeadershipLost
	}
	return errors.Join(ErrUnknown, err)
}

// expire tells a batch's waiters that the time is up. While the disk is busy
// with the entry the limit is the disk's, the longer one.
func (p *proposer) expire(b *batch) {
	if since, busy := p.cfg.pending(); busy {
		if left := p.cfg.flushTimeout - time.Since(since); left > 0 {
			t := time.AfterFunc(left, func() { p.expire(b) })
			p.mu.Lock()
			settled := b.settled
			p.mu.Unlock()
			if settled {
				t.Stop()
			}
			return
		}
		p.settle(b, nil, ErrFlushTimeout)
		return
	}
	p.settle(b, nil, ErrQuorumTimeout)
}

// settle tells a batch's waiters the outcome, once.
func (p *proposer) settle(b *batch, results []fsm.Result, err error) {
	p.mu.Lock()
	if b.settled {
		p.mu.Unlock()
		return
	}
	b.settled = true
	p.inflight--
	p.bytes -= b.size
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	if err == nil && len(results) != len(b.ops) {
		err = ErrUnknown
	}
	for i, op := range b.ops {
		if err != nil {
			op.Done(fsm.Result{}, err)
			continue
		}
		op.Done(results[i], nil)
	}
}

// refuse ends the taking of sends with this error.
func (p *proposer) refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = err
	}
}

// close refuses further sends, and tells the waiters of what is on its way that
// its outcome is unknown, of what is not that it was not sent.
func (p *proposer) close() {
	p.mu.Lock()
	if p.closed == nil {
		p.closed = ErrClosed
	}
	p.seal()
	waiting := p.sealed
	p.sealed = nil
	p.inflight += len(waiting)
	p.mu.Unlock()
	close(p.stop)
	for _, b := range waiting {
		p.settle(b, nil, ErrClosed)
	}
	p.done.Wait()
}
