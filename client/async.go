package client

import (
	"context"
	"fmt"

	"github.com/raftmq/raftmq/remoting"
)

// completions calls the callbacks of SendAsync, one after the other, on a goroutine of the producer: connections must not wait for them.
type completions struct {
	slots   chan struct{}   // has one for each message that has not come to its callback
	ready   chan completion // never full: what is in it has a slot
	stopped chan struct{}
}

type completion struct {
	callback func(*SendResult, error)
	res      *SendResult
	err      error
}

func (a *completions) start(inFlight int) {
	a.slots = make(chan struct{}, inFlight)
	a.ready = make(chan completion, inFlight)
	a.stopped = make(chan struct{})
	go a.run()
}

func (a *completions) run() {
	defer close(a.stopped)
	for done := range a.ready {
		<-a.slots
		done.callback(done.res, done.err)
	}
}

// stop ends the goroutine when all callbacks have returned. No send may be under way.
func (a *completions) stop() {
	close(a.ready)
	<-a.stopped
}

// SendAsync sends a message and calls callback, exactly once, with what Send would return. It waits while MaxInFlight messages are under way;
// if ctx ends meanwhile the outcome is ErrNotSent. Messages sent by one goroutine to one queue are stored in their order unless an attempt
// fails, or a replica passes them on to a new leader; with ProducerConfig.InOrder then, too.
//
// Callbacks are called one at a time, so a slow one holds up the others, and never by SendAsync itself. A callback may call SendAsync, with a
// context that ends if MaxInFlight could be reached: only other callbacks make room. An attempt that is under way when ctx ends goes on to
// its own timeout.
func (p *Producer) SendAsync(ctx context.Context, m *Message, callback func(*SendResult, error)) {
	p.sendAsync(ctx, m, nil, callback)
}

// SendAsyncTo is SendAsync to a queue, with retries on that queue only.
func (p *Producer) SendAsyncTo(ctx context.Context, queue MessageQueue, m *Message, callback func(*SendResult, error)) {
	p.sendAsync(ctx, m, &queue, callback)
}

func (p *Producer) sendAsync(ctx context.Context, m *Message, queue *MessageQueue, callback func(*SendResult, error)) {
	if !p.gate.enter() {
		go callback(nil, notSent(ErrClosed))
		return
	}
	var noRoom error
	select {
	case p.async.slots <- struct{}{}:
	case <-ctx.Done():
		noRoom = fmt.Errorf("waiting for room among %d messages in flight: %w", p.cfg.MaxInFlight, ctx.Err())
	case <-p.dying:
		noRoom = ErrClosed
	}
	if noRoom != nil {
		go func() {
			callback(nil, notSent(noRoom))
			p.gate.leave()
		}()
		return
	}
	s := newSend(p)
	ctx, in := p.intercept(ctx, m)
	if in != nil {
		own := callback
		callback = func(res *SendResult, err error) {
			in.done(res, err)
			own(res, err)
		}
	}
	a := &asyncSend{send: s, ctx: ctx, callback: callback}
	err := s.single(m)
	in.restore()
	if err != nil {
		a.complete(nil, err)
		return
	}
	// With its route known and its replica connected the message goes out right here, so that messages leave in the order of the calls.
	if s.topic = p.c.topic(m.Topic); s.topic.route.Load() == nil && !p.cfg.InOrder {
		go a.finish(queue)
		return
	}
	if err := s.begin(ctx, queue); err != nil {
		a.complete(nil, s.fail(err))
		return
	}
	a.begun = true
	peer := s.walk.next()
	if peer == nil {
		go a.finish(nil)
		return
	}
	conn := peer.conn.Load()
	if conn == nil || s.late(ctx) != nil {
		go a.finish(nil)
		return
	}
	s.walk.try(peer)
	s.count()
	peer.sending(s.queue.g)
	err = conn.CallAsync(&s.req, min(s.left(), p.cfg.AttemptTimeout), func(resp *remoting.Command, err error) {
		peer.answered()
		if judge(resp, err) == stored {
			a.complete(s.result(peer, resp), nil)
			return
		}
		go a.resume(peer, resp, err)
	})
	if err != nil {
		peer.answered()
		s.attempts--
		go a.resume(peer, nil, err)
	}
}

// asyncSend is a send whose caller does not wait.
type asyncSend struct {
	*send
	ctx      context.Context
	callback func(*SendResult, error)
	begun    bool
}

// complete hands the outcome over to the callbacks.
func (a *asyncSend) complete(res *SendResult, err error) {
	if err == nil {
		a.remember(nil)
	}
	p, callback := a.p, a.callback
	a.free()
	p.async.ready <- completion{callback, res, err}
	p.gate.leave()
}

// finish does the send from the beginning.
func (a *asyncSend) finish(queue *MessageQueue) {
	if !a.begun {
		if err := a.begin(a.ctx, queue); err != nil {
			a.complete(nil, a.fail(err))
			return
		}
	}
	a.end(a.run(a.ctx))
}

// resume goes on after a first attempt that did not store the message.
func (a *asyncSend) resume(p *peer, resp *remoting.Command, err error) {
	res, err, done := a.after(a.ctx, p, resp, err)
	if !done {
		res, err = a.run(a.ctx)
	}
	a.end(res, err)
}

func (a *asyncSend) end(res *SendResult, err error) {
	if err != nil {
		err = a.fail(err)
	}
	a.complete(res, err)
}
