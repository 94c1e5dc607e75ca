package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

const (
	// calm is how long sends go on undisturbed before a fault, and at least how
	// long a cycle looks on after they have gone on.
	calm = 300 * time.Millisecond
	// floor is how many acknowledgements have to come in that time, or the fault
	// would prove nothing.
	floor = 64
	// resumeTimeout is how long sends may take to go on.
	resumeTimeout = 2 * time.Minute
	// away is how long a node that does not answer stays so after that.
	away = 2 * time.Second
)

// faults are the kinds of faults. Each makes one happen and mends it; resumed,
// which it calls between the two, waits until sends go on.
var faults = map[string]func(ctx context.Context, c *cluster, cycle int, resumed func() error) error{
	"quiet": func(ctx context.Context, c *cluster, cycle int, resumed func() error) error {
		time.Sleep(time.Second)
		return resumed()
	},
	"kill": func(ctx context.Context, c *cluster, cycle int, resumed func() error) error {
		return onLeader(ctx, c, cycle, resumed, func(n *node, resumed func() error) error {
			if err := n.signal(syscall.SIGKILL); err != nil {
				return err
			}
			n.end() // by the signal
			return errors.Join(resumed(), c.start(n))
		})
	},
	"pause": func(ctx context.Context, c *cluster, cycle int, resumed func() error) error {
		return onLeader(ctx, c, cycle, resumed, func(n *node, resumed func() error) error {
			if err := n.signal(syscall.SIGSTOP); err != nil {
				return err
			}
			err := resumed()
			time.Sleep(away)
			return errors.Join(err, n.signal(syscall.SIGCONT))
		})
	},
	"partition": func(ctx context.Context, c *cluster, cycle int, resumed func() error) error {
		return onLeader(ctx, c, cycle, resumed, func(n *node, resumed func() error) error {
			if err := c.net.cut(n.id, true); err != nil {
				return err
			}
			err := resumed()
			time.Sleep(away)
			return errors.Join(err, c.net.cut(n.id, false))
		})
	},
	"transfer": func(ctx context.Context, c *cluster, cycle int, resumed func() error) error {
		return onLeader(ctx, c, cycle, resumed, func(n *node, resumed func() error) error {
			if err := c.cl.Admin().RaftTransfer(ctx, n.brokers[cycle%len(n.brokers)], ""); err != nil {
				return err
			}
			return resumed()
		})
	},
	"rolling": func(ctx context.Context, c *cluster, cycle int, resumed func() error) error {
		n := c.nodes[cycle%nodes]
		if err := n.signal(syscall.SIGTERM); err != nil {
			return err
		}
		if err := n.end(); err != nil {
			return fmt.Errorf("%s: %w", n.id, err)
		}
		if err := c.start(n); err != nil {
			return err
		}
		return errors.Join(c.healthy(ctx, len(n.brokers)), resumed())
	},
}

// onLeader does something to the leader of a group, each in turn. What it calls
// resumed also makes sure that another one leads then.
func onLeader(ctx context.Context, c *cluster, cycle int, resumed func() error, do func(n *node, resumed func() error) error) error {
	g := cycle % len(c.nodes[0].brokers)
	n, err := c.leads(ctx, g)
	if err != nil {
		return err
	}
	return do(n, func() error { return errors.Join(resumed(), c.replaced(ctx, g, n)) })
}

// cycles makes the cycles of one kind.
func (c *cluster) cycles(ctx context.Context, kind string, o options, l *load) (*kindStats, error) {
	s := &kindStats{Kind: kind}
	acked, failed, unknown := l.counts()
	n := o.cycles
	if kind == "kill" {
		n = o.kills
	}
	for i := range n {
		if err := errors.Join(c.healthy(ctx, o.groups), c.spread(ctx, o.groups)); err != nil {
			return nil, err
		}
		// Not in step with anything.
		time.Sleep(time.Duration(rand.Int64N(int64(calm))))
		if err := c.busy(ctx, l); err != nil {
			return nil, err
		}
		var gap time.Duration
		began := time.Now()
		if err := faults[kind](ctx, c, i, func() error {
			err := c.resumed(ctx, l, o.senders, time.Now())
			gap = l.gap(began)
			return err
		}); err != nil {
			return nil, fmt.Errorf("cycle %d: %w", i+1, err)
		}
		s.Gaps = append(s.Gaps, milliseconds(gap))
		fmt.Fprintf(os.Stderr, "%s %d of %d: %.1f ms\n", kind, i+1, n, milliseconds(gap))
	}
	s.summarize()
	s.Acked, s.Failed, s.Unknown = l.counts()
	s.Acked, s.Failed, s.Unknown = s.Acked-acked, s.Failed-failed, s.Unknown-unknown
	return s, nil
}

// busy waits until the load is what it should be.
func (c *cluster) busy(ctx context.Context, l *load) error {
	return until(ctx, resumeTimeout, "too few sends are acknowledged", func() error {
		before, _, _ := l.counts()
		time.Sleep(calm)
		after, _, _ := l.counts()
		if after-before < floor {
			return fmt.Errorf("%d in %v", after-before, calm)
		}
		return nil
	})
}

// resumed waits until sends are acknowledged by whoever leads now, and a moment
// longer. Each sender may have had one acknowledgement on its way when the fault
// happened: so one more is a new one.
func (c *cluster) resumed(ctx context.Context, l *load, senders int, from time.Time) error {
	err := until(ctx, resumeTimeout, "sends do not go on", func() error {
		if n := len(l.since(from)); n <= senders+2 {
			return fmt.Errorf("%d acknowledgements", n)
		}
		return nil
	})
	time.Sleep(calm)
	return err
}
