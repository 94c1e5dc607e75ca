package client

import (
	"errors"
	"fmt"
	"math"
)

// ReconsumeError is an error by which a Listener says more of its failure: which messages of the batch are consumed all the same, and when
// the others are to come again. It may be wrapped.
type ReconsumeError struct {
	// Consumed is how many messages from the beginning of the batch are consumed. (Java's ackIndex is one less.)
	Consumed int
	// DelayLevel is when the others come again: by the broker's level of that number (see Message.DelayLevel), 0: by how often they have
	// failed, negative: never, they become dead letters at once. (Java's delayLevelWhenNextConsume.)
	DelayLevel int
	// Err is what happened.
	Err error
}

func (e *ReconsumeError) Error() string {
	return fmt.Sprintf("%d consumed, the rest again with delay level %d: %v", e.Consumed, e.DelayLevel, e.Err)
}

// Unwrap returns Err.
func (e *ReconsumeError) Unwrap() error { return e.Err }

// consumedOf returns how many of n messages a listener that returned err has consumed, and the delay level of the others.
func consumedOf(err error, n int) (consumed int, level int32) {
	var r *ReconsumeError
	switch {
	case err == nil:
		return n, 0
	case errors.As(err, &r):
		return max(0, min(r.Consumed, n)), int32(max(-1, min(r.DelayLevel, math.MaxInt32)))
	}
	return 0, 0
}
