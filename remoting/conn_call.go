package remoting

import (
	"context"
	"fmt"
	"time"
)

// call is a request of this side that waits for its answer.
type call struct {
	start  int64                 // where its frame begins in the stream
	done   func(*Command, error) // of CallAsync; nil: answer is used
	timer  *time.Timer
	answer chan answer // room for one
}

type answer struct {
	resp *Command
	err  error
}

func (k *call) complete(resp *Command, err error) {
	if k.done == nil {
		k.answer <- answer{resp, err}
		return
	}
	if k.timer != nil {
		k.timer.Stop()
	}
	k.done(resp, err)
}

// because says how far a request came, and why no further.
func because(kind, reason error) error { return fmt.Errorf("%w: %w", kind, reason) }

// Call sends req and waits for the answer, which the caller owns. An answer is returned whatever its code; see Command.Err. Opaque, flag and
// encoding of req are the connection's to choose; req is not changed and is free again when Call returns.
//
// An error wraps ErrNotSent or ErrLimbo, and the reason: ctx's error, ErrClosed, io.EOF and so on. A request that cannot be encoded is ErrNotSent
// with ErrFrameTooLarge or ErrTooLong.
func (c *Conn) Call(ctx context.Context, req *Command) (*Command, error) {
	if err := ctx.Err(); err != nil {
		return nil, because(ErrNotSent, err)
	}
	for {
		c.mu.Lock()
		if c.err != nil || c.pending <= c.cfg.MaxPending {
			break
		}
		room := c.roomWanted()
		c.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return nil, because(ErrNotSent, because(ErrFull, ctx.Err()))
		}
	}
	k := c.takeCall()
	opaque, err := c.start(k, req)
	if err != nil {
		c.freeCalls = append(c.freeCalls, k)
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var a answer
	select {
	case a = <-k.answer:
	case <-ctx.Done():
		if c.forget(opaque) {
			// Its bytes are in the outbox or beyond: they may still be written.
			a.err = because(ErrLimbo, ctx.Err())
		} else {
			a = <-k.answer
		}
	}
	c.mu.Lock()
	c.freeCalls = append(c.freeCalls, k)
	c.mu.Unlock()
	return a.resp, a.err
}

// takeCall returns a call of a Call that has ended, or a new one. The lock is held. There is no pool for all connections, as a channel made in
// a synctest bubble must stay there.
func (c *Conn) takeCall() *call {
	n := len(c.freeCalls)
	if n == 0 {
		return &call{answer: make(chan answer, 1)}
	}
	k := c.freeCalls[n-1]
	c.freeCalls = c.freeCalls[:n-1]
	return k
}

// CallAsync sends req and calls done exactly once: with the answer, or after timeout (0: never) with ErrLimbo and ErrTimeout, or when the
// connection ends, with an error as Call returns it. done runs on the reading goroutine or a timer's, so it must not block. If CallAsync
// itself returns an error, which wraps ErrNotSent, done is not called. It never waits: with more than MaxPending bytes unwritten it
// returns ErrFull.
func (c *Conn) CallAsync(req *Command, timeout time.Duration, done func(*Command, error)) error {
	k := &call{done: done}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.pending > c.cfg.MaxPending {
		return because(ErrNotSent, ErrFull)
	}
	opaque, err := c.start(k, req)
	if err == nil && timeout > 0 {
		k.timer = time.AfterFunc(timeout, func() {
			if c.forget(opaque) {
				done(nil, because(ErrLimbo, ErrTimeout))
			}
		})
	}
	return err
}

// Notify sends req oneway. nil means it was accepted for writing, no more; an error wraps ErrNotSent.
func (c *Conn) Notify(req *Command) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return because(ErrNotSent, c.err)
	case c.draining:
		return because(ErrNotSent, ErrClosed)
	case c.pending > c.cfg.MaxPending:
		return because(ErrNotSent, ErrFull)
	}
	_, err := c.request(req, FlagOneway)
	return err
}

// start enqueues a request and registers its call. The lock is held.
func (c *Conn) start(k *call, req *Command) (opaque int32, err error) {
	switch {
	case c.err != nil:
		return 0, because(ErrNotSent, c.err)
	case c.draining:
		return 0, because(ErrNotSent, ErrClosed)
	}
	k.start = c.enqueued
	if opaque, err = c.request(req, 0); err == nil {
		c.calls[opaque] = k
	}
	return opaque, err
}

// request enqueues a request under the next opaque that no call has. The lock is held.
func (c *Conn) request(req *Command, flag int32) (opaque int32, err error) {
	for {
		c.opaque = (c.opaque + 1) & (1<<31 - 1)
		if _, taken := c.calls[c.opaque]; !taken {
			break
		}
	}
	q := *req
	q.Opaque, q.Flag, q.Serialize = c.opaque, flag, c.cfg.Serialize
	if err := c.enqueue(&q, nil, nil); err != nil {
		return 0, because(ErrNotSent, err)
	}
	return c.opaque, nil
}

// forget removes a call; false means that somebody else did, who completes it.
func (c *Conn) forget(opaque int32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.calls[opaque]; !ok {
		return false
	}
	delete(c.calls, opaque)
	c.checkQuiet()
	return true
}

// response is an answer with room for the fields of an ordinary one.
type response struct {
	Command
	fields [8]Field
}

// dispatchResponse completes the call that resp answers. An answer that nobody waits for is dropped: it came too late, or answers a Notify
// to a peer that does not know oneway.
func (c *Conn) dispatchResponse(cmd *Command, owned bool) {
	c.mu.Lock()
	k, ok := c.calls[cmd.Opaque]
	if ok {
		delete(c.calls, cmd.Opaque)
		c.checkQuiet()
	}
	c.mu.Unlock()
	if !ok {
		return
	}
	r := &response{Command: *cmd}
	r.Ext = append(r.fields[:0], cmd.Ext...)
	if !owned && len(cmd.Body) > 0 {
		r.Body = append([]byte(nil), cmd.Body...)
	}
	k.complete(&r.Command, nil)
}
