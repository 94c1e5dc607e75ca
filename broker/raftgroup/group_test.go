package raftgroup

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMessagesSurviveTheirLeader(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 2)
		var want []string
		for round := range 5 {
			for i := range 20 {
				body := fmt.Sprintf("%d-%d", round, i)
				c.deliver("T", 0, body)
				want = append(want, body)
			}
			old := c.leader()
			old.kill()
			c.deliver("T", 1, fmt.Sprint("between", round))
			old.start()
		}
		c.checkEqual()
		for _, n := range c.nodes {
			equalBodies(t, n.id, n.bodies("T", 0), want)
		}
	})
}
