package client

import (
	"context"
	"math"
	"sync/atomic"
)

// gate counts what is under way and can be shut: then nobody comes in any more, and idle is closed when the last has left.
type gate struct {
	n    atomic.Int64 // how many are in; math.MinInt64 more once shut
	idle chan struct{}
}

func newGate() *gate { return &gate{idle: make(chan struct{})} }

// enter reports whether the gate is open; if so, leave must follow.
func (g *gate) enter() bool {
	if g.n.Add(1) > 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.n.Add(-1) == math.MinInt64 {
		g.settle()
	}
}

// settle closes idle. Who finds the gate shut comes and goes too, so the count can fall to its lowest more than once: it is moved away from
// there the first time.
func (g *gate) settle() {
	if g.n.CompareAndSwap(math.MinInt64, math.MinInt64/2) {
		close(g.idle)
	}
}

// shut shuts the gate; false means that it was.
func (g *gate) shut() bool {
	for {
		n := g.n.Load()
		if n < 0 {
			return false
		}
		if g.n.CompareAndSwap(n, n+math.MinInt64) {
			if n == 0 {
				g.settle()
			}
			return true
		}
	}
}

// wait waits until the gate, which is shut, is idle.
func (g *gate) wait(ctx context.Context) error {
	select {
	case <-g.idle:
		return nil
	case <-ctx.Done():
		select {
		case <-g.idle:
			return nil
		default:
			return ctx.Err()
		}
	}
}
