package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// waiter receives one answer. It may be used again once it has.
type waiter struct {
	answer chan answer
	done   func(*remoting.Command, error)
}

type answer struct {
	resp *remoting.Command
	err  error
}

// waiters is a pool of them.
type waiters struct{ pool sync.Pool }

func (ws *waiters) get() *waiter {
	if w, ok := ws.pool.Get().(*waiter); ok {
		return w
	}
	w := &waiter{answer: make(chan answer, 1)}
	w.done = func(resp *remoting.Command, err error) { w.answer <- answer{resp, err} }
	return w
}

func (ws *waiters) put(w *waiter) { ws.pool.Put(w) }

// roundTrip sends req and waits for the answer, no longer than timeout, ctx, and until stop is closed (nil: never). An error wraps
// remoting.ErrNotSent or remoting.ErrLimbo, and the reason; no answer in time is remoting.ErrTimeout.
func (c *Client) roundTrip(ctx context.Context, conn *remoting.Conn, req *remoting.Command, timeout time.Duration, stop <-chan struct{}) (*remoting.Command, error) {
	w := c.waiters.get()
	err := conn.CallAsync(req, timeout, w.done)
	for errors.Is(err, remoting.ErrFull) && timeout > minPause && pause(ctx, minPause) == nil {
		// The peer is slow to take what waits for it already.
		timeout -= minPause
		err = conn.CallAsync(req, timeout, w.done)
	}
	if err != nil {
		c.waiters.put(w)
		return nil, err
	}
	select {
	case a := <-w.answer:
		c.waiters.put(w)
		return a.resp, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", remoting.ErrLimbo, context.Cause(ctx))
	case <-stop:
		return nil, fmt.Errorf("%w: %w", remoting.ErrLimbo, ErrClosed)
	}
}
