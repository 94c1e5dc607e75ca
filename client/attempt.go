package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// run makes attempts until the message has an outcome.
func (s *send) run(ctx context.Context) (*SendResult, error) {
	for {
		if err := s.late(ctx); err != nil {
			return nil, err
		}
		p := s.walk.next()
		var resp *remoting.Command
		var err error
		if p != nil {
			s.walk.try(p)
			resp, err = s.attempt(ctx, p)
		} else {
			err = s.nobody()
		}
		res, err, done := s.after(ctx, p, resp, err)
		if done {
			return res, err
		}
	}
}

// nobody is the error of a group of which no replica is known.
func (s *send) nobody() error { return fmt.Errorf("%w: %s", errNoLeader, s.queue.g.name) }

// late returns an error if there is no time for another attempt.
func (s *send) late(ctx context.Context) error {
	err := ctx.Err()
	if err == nil && s.left() <= 0 {
		err = context.DeadlineExceeded
	}
	if err == nil {
		select {
		case <-s.p.dying:
			err = ErrClosed
		default:
			return nil
		}
	}
	if s.failed != nil {
		return fmt.Errorf("%w: %w", err, s.failed)
	}
	return err
}

// left returns how much time is left. As long as nothing has failed next to none has passed since begun, and reading the clock costs.
func (s *send) left() time.Duration {
	if s.failed == nil {
		return s.deadline.Sub(s.begun)
	}
	return time.Until(s.deadline)
}

// after decides what follows an attempt: the end, or another one, for which it makes everything ready.
func (s *send) after(ctx context.Context, p *peer, resp *remoting.Command, err error) (*SendResult, error, bool) {
	v, g := judge(resp, err), s.queue.g
	if v == stored {
		return s.result(p, resp), nil, true
	}
	if resp != nil {
		err = resp.Err()
	}
	s.failed = err
	s.learn(v, p, resp, err)
	if v == rejected && s.reroute(ctx, resp) {
		return nil, nil, false
	}
	s.state.over = s.walk.over()
	s.state.others = !s.fixed && s.topic.route.Load().groups > 1
	next := s.p.policy.next(v, &s.state)
	s.p.c.log.Debug("send", "topic", s.header.Topic, "broker", g.name, "queue", s.header.QueueID, "id", s.id, "verdict", v, "next", next, "error", err)
	wait := time.Duration(0)
	switch next {
	case finish:
		return nil, err, true
	case sameLater:
		wait = s.walk.again(maxPause)
	case elsewhere:
		// Where it was before nothing will have changed in no time.
		if s.elsewhere(); slices.Contains(s.passed[:len(s.passed)-1], s.queue.g) {
			wait = s.walk.again(maxPause)
		}
	}
	if wait > 0 {
		// Its error is for late to say.
		s.sleep(ctx, min(wait, s.left()))
	}
	return nil, nil, false
}

// reroute chooses anew, once, if the queue was one of those that the template topic promised and the topic, which exists by now, has none
// such.
func (s *send) reroute(ctx context.Context, resp *remoting.Command) bool {
	r := s.topic.route.Load()
	if resp.Code != remoting.InvalidParameter || s.given || s.rerouted || s.state.limbo || s.p.cfg.InOrder || !r.borrowed {
		return false
	}
	for s.rerouted = true; r.borrowed; r = s.topic.route.Load() {
		// The name servers may not have heard of it yet.
		f := s.p.c.refresh(s.topic, true, 0)
		if f == nil || s.late(ctx) != nil {
			return false
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return false
		}
		if s.topic.route.Load().borrowed {
			s.sleep(ctx, min(maxPause, s.left()))
		}
	}
	return s.choose(r, nil) == nil
}

// learn notes what a failed attempt says of the group and its replicas.
func (s *send) learn(v verdict, p *peer, resp *remoting.Command, err error) {
	c, g := s.p.c, s.queue.g
	if resp != nil {
		if l := c.leaderIn(resp); l != nil {
			g.lead(l)
			s.walk.redirected(l)
		}
	}
	if errors.Is(err, remoting.ErrTimeout) {
		p.suspect()
	}
	switch v {
	case redirected, rejected, refusedHere:
	default:
		g.failed()
	}
	if v != rejected && v != busy {
		c.refresh(s.topic, true, refreshGap)
	}
}

func (s *send) sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.p.dying:
	}
}

// result makes the result of an answer that says "stored".
func (s *send) result(p *peer, resp *remoting.Command) *SendResult {
	g := s.queue.g
	g.worked()
	if l := s.p.c.leaderIn(resp); l != nil {
		g.lead(l)
	} else {
		g.lead(p)
	}
	res := &SendResult{MsgID: s.id, Queue: s.queue.MessageQueue, Attempts: s.attempts}
	switch resp.Code {
	case remoting.FlushDiskTimeout:
		res.Status = FlushDiskTimeout
	case remoting.FlushSlaveTimeout:
		res.Status = FlushSlaveTimeout
	case remoting.SlaveNotAvailable:
		res.Status = SlaveNotAvailable
	}
	var h remoting.SendResponse
	if err := h.Decode(resp); err != nil {
		// It is stored all the same, which is what the caller has to know.
		s.p.c.log.Warn("send: stored, but the answer does not say where", "broker", g.name, "peer", p.addr, "id", s.id, "error", err)
		h.QueueID, h.QueueOffset = s.queue.QueueID, -1
	}
	res.OffsetMsgID, res.Queue.QueueID, res.QueueOffset = h.MsgID, h.QueueID, h.QueueOffset
	res.RecallHandle = h.RecallHandle
	return res
}

// attempt sends the request to a replica and waits for the answer.
func (s *send) attempt(ctx context.Context, p *peer) (*remoting.Command, error) {
	conn := p.conn.Load()
	if conn == nil {
		var err error
		// Not all of the time: another replica may be quicker to reach.
		if conn, err = p.get(ctx, min(s.left(), s.p.cfg.AttemptTimeout/2)); err != nil {
			return nil, err
		}
		s.begun = time.Now()
	}
	timeout := min(s.left(), s.p.cfg.AttemptTimeout)
	if timeout <= 0 {
		return nil, context.DeadlineExceeded
	}
	s.count()
	p.sending(s.queue.g)
	resp, err := s.p.c.roundTrip(ctx, conn, &s.req, timeout, s.p.dying)
	p.answered()
	if errors.Is(err, remoting.ErrNotSent) {
		s.attempts--
	}
	return resp, err
}

// count notes that another attempt is made.
func (s *send) count() {
	if s.attempts > 0 || s.state.limbo {
		s.req.Ext = repeat
	}
	s.attempts++
}

var repeat = remoting.Fields{{Key: extRepeat, Value: "true"}}

// oneway gives the message to a connection, of any group that can be reached.
func (s *send) oneway(ctx context.Context) error {
	if err := s.begin(ctx, nil); err != nil {
		return s.fail(err)
	}
	for {
		if err := s.late(ctx); err != nil {
			return s.fail(err)
		}
		p, err := s.walk.next(), error(nil)
		if p == nil {
			err = s.nobody()
		} else {
			s.walk.try(p)
			var conn *remoting.Conn
			if conn, err = p.get(ctx, min(s.left(), s.p.cfg.AttemptTimeout/2)); err == nil {
				if err = conn.Notify(&s.req); err == nil {
					return nil
				}
			}
		}
		if _, err, done := s.after(ctx, p, nil, err); done {
			return s.fail(err)
		}
	}
}
