package main

import (
	"testing"
	"time"
)

// Rows 29, 30 and 31: leaders are killed while messages wait for their time, for
// the end of their transactions, or to be consumed again, and while consumers
// join, leave and are killed.
func TestTrafficOfAllKinds(t *testing.T) {
	t.Parallel()
	rnd := seeded(t)
	c := &chaos{cluster: startCluster(t, 3, 1), rnd: rnd, tally: newTally()}
	c.l = startLoad(t, c.cluster, "Kinds", delayedTraffic, transactionTraffic, retriedTraffic, func(l *load) traffic { return newMembers(l, 500*time.Millisecond) })
	for range times(2, 10) {
		c.killLeader()
	}
	c.end()
}
