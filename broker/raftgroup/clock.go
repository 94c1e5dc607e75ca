package raftgroup

import (
	"sync"
	"time"
)

// logClock gives the times a leader stamps on commands, in ms: never below what
// the log holds already, never backwards, and, once begun, never in leaps. It
// runs on the machine's monotonic clock and is slewed to the wall clock, so that
// setting the wall clock changes its pace, not its reading.
type logClock struct {
	mu   sync.Mutex
	now  func() time.Time
	last time.Time // when at was true; zero before the first reading
	at   float64   // log time, ms
}

// raise makes later readings be at least t.
func (c *logClock) raise(t int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	c.at = max(c.at, float64(t))
}

// read returns the log time now.
func (c *logClock) read() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return int64(c.at)
}

// advance moves the log time on to now.
func (c *logClock) advance() {
	now := c.now()
	wall := float64(now.UnixMicro()) / 1000
	if c.last.IsZero() {
		c.at = max(c.at, wall)
	} else {
		passed := float64(max(0, now.Sub(c.last))) / float64(time.Millisecond)
		// At most half as fast again, or half as slow, until wall and log agree.
		c.at += passed + min(max(wall-c.at-passed, -passed/2), passed/2)
	}
	c.last = now
}
