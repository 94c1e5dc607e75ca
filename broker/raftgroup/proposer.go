package raftgroup

import (
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
	// Accepted: it is of a message that was accepted before, when MaxEntry may have
	// been more. Its limit is what the raft log can take.
	Accepted bool
	Op       SendOp
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

// proposer turns concurrent sends into few raft entries. What arrives while
// earlier entries are on their way waits and goes together: the busier it gets
// the larger the entries. Senders who wait for each answer come as a herd when a
// batch has its outcome; the first of them would go alone, so it waits for the
// others, a moment. A sender without company is never delayed.
//
//	P1  A send is in exactly one batch, a batch in at most one entry.
//	P2  Every accepted send is told its outcome once: by apply, by an error of
//	    raft, or at a deadline. One that has waited for slaveTimeout and was not
//	    given to raft is refused, definitely; one that was is unknown.
//	P3  At most maxInflight batches are with raft and not told their outcome, and
//	    at most maxBytes in all are accepted and not told.
//	P4  Batches are given to raft in the order they were begun.
//	P5  A batch waits for senders that were told a moment ago, gatherTime at most,
//	    and only while they are more than a third of those who are in it.
type proposer struct {
	cfg proposerConfig

	mu       sync.Mutex
	open     *batch   // being filled
	sealed   []*batch // full, waiting for their turn
	bytes    int      // P3
	inflight map[*batch]struct{}
	closed   error
	estimate int       // of the next command's length, bytes
	told     int       // senders that were told and have not sent again
	gather   time.Time // until when they are waited for (P5)

	wake    chan struct{}
	stop    chan struct{}
	running sync.WaitGroup // run
	waiting sync.WaitGroup // for outcomes
}

type proposerConfig struct {
	raft      applier
	now       func() int64 // log time, ms
	storeHost netip.AddrPort
	// room says why the store can take nothing, if so. It is asked once an entry.
	room func() error
	// pending says since when the disk has been busy with entries, if it is.
	pending      func() (time.Time, bool)
	settled      func(sends int) // is told how many have been told their outcome
	batchBytes   int             // an entry's target size
	maxEntry     int             // an entry's limit
	maxAccepted  int             // that of an entry with what was accepted before
	maxBytes     int
	maxInflight  int
	enqueue      time.Duration
	slaveTimeout time.Duration
	flushTimeout time.Duration
}

func newProposer(cfg proposerConfig) *proposer {
	p := &proposer{cfg: cfg, inflight: map[*batch]struct{}{}, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	p.running.Go(p.run)
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
	limit := p.cfg.maxEntry
	if s.Accepted {
		limit = p.cfg.maxAccepted
	}
	if s.Size > limit {
		return ErrTooLarge
	}
	if p.open != nil && p.open.command.Len()+s.Size > p.cfg.batchBytes {
		p.seal()
	}
	if p.open == nil {
		p.open = &batch{command: fsm.NewAppendCommand(make([]byte, 0, p.estimate), p.cfg.storeHost), expired: make(chan struct{})}
	}
	b := p.open
	before := b.command.Len()
	buf, err := s.Op.AppendRecords(b.command.Begin(s.SendMeta))
	if err == nil && len(buf) > limit {
		// More than it said it would be.
		err = ErrTooLarge
	}
	if err != nil {
		b.command.Abort()
		return err
	}
	b.command.End(buf, s.Count)
	if len(b.ops) == 0 {
		b.born = time.Now()
	}
	b.ops = append(b.ops, s.Op)
	p.told = max(0, p.told-1)
	size := b.command.Len() - before
	b.size += size
	p.bytes += size
	p.signal()
	return nil
}

// signal wakes run.
func (p *proposer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// seal closes the open batch. The lock is held.
func (p *proposer) seal() {
	if p.open != nil && len(p.open.ops) > 0 {
		p.sealed = append(p.sealed, p.open)
		p.open = nil
	}
}

// next takes the batch to go now, if there is one and it may go, and those that
// have waited too long. wait is how long the oldest that stays may do so.
func (p *proposer) next() (b *batch, late []*batch, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if len(p.sealed) == 0 {
			if len(p.inflight) >= p.cfg.maxInflight && p.open != nil && len(p.open.ops) > 0 {
				// It may still grow.
				if wait = p.left(p.open); wait > 0 {
					return nil, late, wait
				}
			}
			if wait = p.gathering(); wait > 0 {
				return nil, late, wait
			}
			p.seal()
		}
		if len(p.sealed) == 0 {
			return nil, late, p.cfg.slaveTimeout
		}
		first := p.sealed[0]
		wait = p.left(first)
		if wait > 0 && len(p.inflight) >= p.cfg.maxInflight {
			return nil, late, wait
		}
		p.sealed[0] = nil
		p.sealed = p.sealed[1:]
		if wait > 0 {
			p.inflight[first] = struct{}{}
			return first, late, 0
		}
		p.bytes -= first.size
		late = append(late, first)
	}
}

// gatherTime is how long a batch waits for senders that were told a moment ago,
// at most: on a busy machine they need about that long. It is no more than half
// the time that the batch before took, so that it pays.
const gatherTime = time.Millisecond

// gathering is how much longer the open batch waits for them.
func (p *proposer) gathering() time.Duration {
	if p.open == nil || p.told <= len(p.open.ops)/3 {
		return 0
	}
	wait := min(time.Until(p.gather), gatherTime-time.Since(p.open.born))
	if wait <= 0 {
		p.told = 0 // they have gone
	}
	return wait
}

// left is how much longer a batch may wait for its turn.
func (p *proposer) left(b *batch) time.Duration {
	return p.cfg.slaveTimeout - time.Since(b.born)
}

func (p *proposer) run() {
	timer := time.NewTimer(p.cfg.slaveTimeout)
	defer timer.Stop()
	for {
		b, late, wait := p.next()
		for _, l := range late {
			p.tell(l, nil, ErrBusy)
		}
		if b != nil {
			if p.cfg.room() == nil {
				p.send(b)
			} else {
				p.drop(b)
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-p.wake:
		case <-timer.C:
		case <-p.stop:
			return
		}
	}
}

// send gives a batch to raft and starts what waits for its outcome.
func (p *proposer) send(b *batch) {
	data := b.command.Bytes()
	fsm.Stamp(data, p.cfg.now())
	future := p.cfg.raft.ApplyLog(raft.Log{Data: data}, p.cfg.enqueue)
	p.mu.Lock()
	p.estimate = len(data) + len(data)/8
	// raft may never answer (issue 498), or late: neither the senders nor the
	// place in flight wait longer than this.
	b.sent = time.Now()
	b.timer = time.AfterFunc(min(p.cfg.slaveTimeout, p.cfg.flushTimeout), func() { p.expire(b) })
	p.mu.Unlock()
	p.waiting.Go(func() {
		r, err := results(future, b.expired)
		p.settle(b, r, err)
	})
}

// drop refuses a batch for which there is no room on the disk. Raft must not see
// it: a leader that can't store an entry stops.
func (p *proposer) drop(b *batch) {
	p.mu.Lock()
	delete(p.inflight, b)
	p.bytes -= b.size
	p.mu.Unlock()
	p.tell(b, nil, ErrNoRoom)
}

// expire ends the wait for a batch when its time is up. While the disk is busy
// the limit is the disk's.
func (p *proposer) expire(b *batch) {
	_, busy := p.cfg.pending()
	limit, late := p.cfg.slaveTimeout, ErrQuorumTimeout
	if busy {
		limit, late = p.cfg.flushTimeout, ErrFlushTimeout
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if left := limit - time.Since(b.sent); left > 0 {
		b.timer.Reset(left)
		return
	}
	b.expire(late)
}

// settle takes a batch off the books and tells its senders the outcome.
func (p *proposer) settle(b *batch, r []fsm.Result, err error) {
	p.mu.Lock()
	b.timer.Stop()
	if b.late != nil && r == nil {
		err = b.late
	}
	delete(p.inflight, b)
	p.bytes -= b.size
	if err == nil {
		p.told += len(b.ops)
		p.gather = time.Now().Add(min(gatherTime, time.Since(b.sent)/2))
	}
	p.mu.Unlock()
	p.signal()
	p.tell(b, r, err)
}

// tell tells a batch's senders its outcome.
func (p *proposer) tell(b *batch, r []fsm.Result, err error) {
	b.tell(r, err)
	p.cfg.settled(len(b.ops))
}

// refuse ends the taking of sends with this error, which those that were not
// given to raft yet are told, too.
func (p *proposer) refuse(err error) {
	p.mu.Lock()
	if p.closed == nil {
		p.closed = err
	}
	unsent := p.takeUnsent()
	p.mu.Unlock()
	for _, b := range unsent {
		p.tell(b, nil, err)
	}
}

// interrupt refuses, with the one error, what was not given to raft yet, and ends
// the wait for what was with the other, which is unknown.
func (p *proposer) interrupt(refusal, unknown error) {
	p.mu.Lock()
	unsent := p.takeUnsent()
	for b := range p.inflight {
		b.expire(unknown)
	}
	p.mu.Unlock()
	for _, b := range unsent {
		p.tell(b, nil, refusal)
	}
}

// takeUnsent takes what was not given to raft off the books. The lock is held.
func (p *proposer) takeUnsent() []*batch {
	p.seal()
	unsent := p.sealed
	p.sealed = nil
	for _, b := range unsent {
		p.bytes -= b.size
	}
	return unsent
}

// close refuses further sends, ends the wait for those that are with raft, and
// returns when everybody was told.
func (p *proposer) close() {
	p.refuse(ErrClosed)
	close(p.stop)
	p.running.Wait()
	p.mu.Lock()
	for b := range p.inflight {
		b.expire(errClosing)
	}
	p.mu.Unlock()
	p.waiting.Wait()
}
