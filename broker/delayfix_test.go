package broker

import (
	"slices"
	"testing"

	"github.com/raftmq/raftmq/remoting"
)

// What waits for a topic that is deleted does not come in a later one of that
// name, and does not make sends to that one repeats.
func TestDelayedMessageOfADeletedTopic(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("2s"))
	send := func(body string) {
		// A connection of its own: on the same one it would be meant as another.
		dial(t, cl.leader(t)).mustSend(message("T", 0, remoting.PropDelay, "1", remoting.PropUniqKey, "u"), body)
	}
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	send("of the deleted topic")
	c.must(remoting.DeleteTopicInBroker, &remoting.TopicRequest{Topic: "T"})
	c.topic("T", 1)
	send("of the new topic")
	send("again")
	// They would come in the order of the sends.
	if got := bodiesOf(c.arrived("T", 0, 1)); !slices.Equal(got, []string{"of the new topic"}) {
		t.Errorf("in the new topic: %q", got)
	}
	if got := len(c.all(remoting.TopicSchedule, 0)); got != 2 {
		t.Errorf("%d messages were delayed", got)
	}
}

// S9: a topic without queues when the message is due.
func TestDelayedMessageOutlivesItsQueue(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, levels("2s"))
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 2)
	c.mustSend(message("T", 1, remoting.PropDelay, "1"), "acknowledged")
	c.topic("T", 0)
	eventually(t, "the message is delivered", func() bool { return b.group.State().Delivered(0) == 1 })
	c.topic("T", 2)
	if got := bodiesOf(c.arrived("T", 1, 1)); !slices.Equal(got, []string{"acknowledged"}) {
		t.Errorf("%q", got)
	}
}
