package broker

import (
	"sync"
	"sync/atomic"
	"time"
)

// counters count what clients did at this replica.
type counters struct {
	put        rate // messages stored
	putFailed  atomic.Int64
	putUnknown atomic.Int64
	readErrors atomic.Int64 // pulls that met an error of the disk
	get        rate         // messages pulled
	getMiss    rate         // pulls that found nothing
}

// rate is a count and how fast it grows.
type rate struct {
	n       atomic.Int64
	slowest atomic.Int64 // ns, of what was counted with a start

	mu      sync.Mutex
	samples [61]sample // one each 10 s, the newest first
}

type sample struct {
	at time.Time
	n  int64
}

// Add counts n, which took since started unless that is zero.
func (r *rate) Add(n int64, started time.Time) {
	r.n.Add(n)
	if started.IsZero() {
		return
	}
	took := int64(time.Since(started))
	for {
		slowest := r.slowest.Load()
		if took <= slowest || r.slowest.CompareAndSwap(slowest, took) {
			return
		}
	}
}

// sample notes the count, every 10 s.
func (r *rate) sample(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.samples[1:], r.samples[:len(r.samples)-1])
	r.samples[0] = sample{now, r.n.Load()}
}

// perSecond is the rate over the last 10 s, minute and ten minutes, as far as it
// was sampled.
func (r *rate) perSecond() (out [3]float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, back := range [...]int{1, 6, 60} {
		newest, oldest := r.samples[0], r.samples[back]
		if span := newest.at.Sub(oldest.at).Seconds(); !oldest.at.IsZero() && span > 0 {
			out[i] = float64(newest.n-oldest.n) / span
		}
	}
	return out
}

const samplePeriod = 10 * time.Second

// sampleRates runs until the broker is closed.
func (b *Broker) sampleRates() {
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			b.counters.put.sample(now)
			b.counters.get.sample(now)
			b.counters.getMiss.sample(now)
		case <-b.ctx.Done():
			return
		}
	}
}
