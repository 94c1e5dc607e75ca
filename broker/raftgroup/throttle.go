package raftgroup

import (
	"context"
	"sync"
	"time"
)

// throttleBurst is how much may pass at once after a quiet time, in time at full
// rate.
const throttleBurst = 50 * time.Millisecond

// throttle lets bytes through at a rate. The zero value lets all through.
type throttle struct {
	mu   sync.Mutex
	rate int64 // bytes per second; 0 or less: no bound
	free time.Time
}

// take waits until n bytes more may pass.
func (t *throttle) take(ctx context.Context, n int) error {
	t.mu.Lock()
	wait := time.Duration(0)
	if t.rate > 0 {
		now := time.Now()
		if earliest := now.Add(-throttleBurst); t.free.Before(earliest) {
			t.free = earliest
		}
		wait = t.free.Sub(now)
		t.free = t.free.Add(time.Duration(float64(n) / float64(t.rate) * float64(time.Second)))
	}
	t.mu.Unlock()
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
