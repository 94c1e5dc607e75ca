package raftgroup

import (
	"math"
	"slices"
	"sync"
	"time"
)

// logClock gives the times a leader stamps on commands, in ms. It runs on the
// machine's monotonic clock and is slewed to the median of the voters' clocks, its
// own being one of them: setting one of them, or having it run wild, changes
// nothing, however wrong it is, and whoever leads.
//
//	C1  It is never below what the log holds already, and never goes back.
//	C2  It runs at least half as fast as the monotonic clock.
//	C3  It runs at most half as fast again, but for a leap when a term begins, or
//	    when the median is first known well: then the time in which nobody led, or
//	    this process did not run, has passed. A leap ends at the median.
//	C4  Clocks that are not known may be on either side of the median: it is a span
//	    then. Within that the monotonic clock counts. If a majority is not known the
//	    span has no ends, and only time that has passed counts.
//
// Only the first leader of a group that can't hear of a majority of clocks begins
// from its own: there is nothing else.
type logClock struct {
	mu    sync.Mutex
	now   func() time.Time // what is monotonic
	wall  func() time.Time // what shows the time of day
	start time.Time
	last  float64 // when at was true
	at    float64 // log time; 0 before it has begun
	known bool    // the median was known well

	others  []string // the voters but this replica
	self    bool     // this replica is one, too
	samples map[string]clockSample
}

// clockSample is how far another voter's clock is ahead of our monotonic one.
type clockSample struct{ ahead, taken float64 }

// clockSpan is how wide the span may be for the median to be known well, in ms.
const clockSpan = 1000

// clockKept is for how long a voter's clock counts that can't be asked any more.
const clockKept = 10 * time.Minute

func newLogClock(now, wall func() time.Time) logClock {
	return logClock{now: now, wall: wall, start: now(), samples: map[string]clockSample{}}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func msOf(t time.Time) float64 { return float64(t.UnixMicro()) / 1000 }

// mono is the monotonic clock.
func (c *logClock) mono() float64 { return ms(c.now().Sub(c.start)) }

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
	if c.at == 0 {
		return c.wall().UnixMilli()
	}
	return int64(c.at)
}

// begin begins a term (C3).
func (c *logClock) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	if low, _ := c.median(); !math.IsInf(low, -1) {
		c.at = max(c.at, low)
	}
	if c.at == 0 {
		c.at = msOf(c.wall())
	}
}

// advance moves the log time on to now. The lock is held.
func (c *logClock) advance() {
	now := c.mono()
	passed := max(0, now-c.last)
	c.last = now
	low, high := c.median()
	switch {
	case !c.known && high-low <= clockSpan:
		c.known = true
		c.at = max(c.at+passed, low)
	case c.at > 0:
		c.at += passed
		c.at += min(max(low-c.at, 0), passed/2) // it is late
		c.at -= min(max(c.at-high, 0), passed/2)
	}
}

// median is between which times the median of the voters' clocks is, now. The lock
// is held.
func (c *logClock) median() (low, high float64) {
	known := make([]float64, 0, 16)
	if c.self {
		known = append(known, msOf(c.wall()))
	}
	for _, s := range c.samples {
		if c.last-s.taken <= ms(clockKept) {
			known = append(known, c.last+s.ahead)
		}
	}
	slices.Sort(known)
	low, high = math.Inf(-1), math.Inf(1)
	voters := len(c.others)
	if c.self {
		voters++
	}
	unknown := voters - len(known)
	if i := (voters-1)/2 - unknown; voters > 0 && i >= 0 {
		low = known[i] // if all that are not known are lower
	}
	if i := voters / 2; i < len(known) {
		high = known[i] // if all of them are higher
	}
	return low, high
}

// of says whose clocks count: those of the other voters, and perhaps our own.
func (c *logClock) of(others []string, self bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance() // by what counted until now
	c.others, c.self = slices.Clone(others), self
	for id := range c.samples {
		if !slices.Contains(others, id) {
			delete(c.samples, id)
		}
	}
}

// note takes in what another voter's clock showed at some time between a reading
// of the monotonic clock and now. One that is no voter any more by then does not
// count.
func (c *logClock) note(voter string, asked, shown float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	if c.last-asked <= ms(clockTimeout) && slices.Contains(c.others, voter) {
		c.samples[voter] = clockSample{ahead: shown - (asked+c.last)/2, taken: c.last}
	}
}

// settled says whether the median is known well.
func (c *logClock) settled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	low, high := c.median()
	return high-low <= clockSpan
}
