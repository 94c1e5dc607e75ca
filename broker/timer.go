package broker

import (
	"strconv"

	"github.com/raftmq/raftmq/remoting"
)

// Messages that are due at a time wait in the timer topic, each in the queue of
// the minute that it is due in: its bucket. A ring of buckets covers as many
// minutes as it has; of a longer horizon, several share one. The number is a power
// of two, and it only grows, with timerMaxDelaySec: what was put into a smaller
// ring is found in every ring that was ever possible, see wheel.open.
const (
	minuteMs   = 60_000
	minBuckets = 1 << 13 // 5.7 days
	maxBuckets = 1 << 16 // 45.5 days
)

// bucketsFor is how many buckets a horizon is given, in seconds.
func bucketsFor(horizon int) int32 {
	n := int32(minBuckets)
	for n < maxBuckets && int64(n)*60 < int64(horizon) {
		n *= 2
	}
	return n
}

// bucketOf is the bucket, of n, of what is due at a time, ms.
func bucketOf(due int64, n int32) int32 { return int32(due / minuteMs % int64(n)) }

// timers are the properties that say when a message is due, in the order in which
// they count, as text: seconds and milliseconds from now, and a time in ms.
type timers [3]string

// set takes a property, and says whether it is one of them.
func (t *timers) set(name, value string) bool {
	switch name {
	case remoting.PropTimerDelaySec:
		t[0] = value
	case remoting.PropTimerDelayMs:
		t[1] = value
	case remoting.PropTimerDeliverMs:
		t[2] = value
	default:
		return false
	}
	return true
}

// dueOf says when a message is due that has these properties, in ms of log time;
// 0: it does not wait, as it asks for no time, or for one that has passed.
func (b *Broker) dueOf(t timers) (int64, error) {
	horizon := int64(b.cfg.TimerMaxDelaySec) * 1000
	now := b.group.LogTime()
	for i, name := range [...]string{remoting.PropTimerDelaySec, remoting.PropTimerDelayMs, remoting.PropTimerDeliverMs} {
		if t[i] == "" {
			continue
		}
		n, err := strconv.ParseInt(t[i], 10, 64)
		if err != nil {
			return 0, remoting.Errorf(remoting.MessageIllegal, "%s is %.64q, want a number", name, t[i])
		}
		delay, unit := n, int64(1)
		switch name {
		case remoting.PropTimerDelaySec:
			unit = 1000
		case remoting.PropTimerDeliverMs:
			if delay = 0; n > now {
				delay = n - now
			}
		}
		switch {
		case delay <= 0:
			return 0, nil
		case delay > horizon/unit:
			return 0, remoting.Errorf(remoting.MessageIllegal, "%s is %d: a message may be due in %d s at most (timerMaxDelaySec)", name, n, b.cfg.TimerMaxDelaySec)
		}
		return now + delay*unit, nil
	}
	return 0, nil
}

// scheduleAt turns a record into one that waits in the timer topic until it is
// due, ms of log time. Where it belongs is kept in its properties, which are p,
// and when it is due in the record. dueOf says when that is.
func (b *Broker) scheduleAt(r *remoting.Record, p remoting.Properties, due int64) remoting.Properties {
	p = p.AppendExcept(nil, remoting.PropRealTopic, remoting.PropRealQueueID)
	p = remoting.AppendProperty(p, remoting.PropRealTopic, r.Topic)
	p = remoting.AppendProperty(p, remoting.PropRealQueueID, strconv.Itoa(int(r.QueueID)))
	b.putInBucket(r, due)
	return p
}

// putInBucket makes a record that waits already one of the timer topic.
func (b *Broker) putInBucket(r *remoting.Record, due int64) {
	n := bucketsFor(b.cfg.TimerMaxDelaySec)
	if t, ok := b.group.State().Topic(remoting.TopicTimer); ok {
		n = t.Config.WriteQueueNums
	}
	r.Topic, r.QueueID, r.PreparedTransactionOffset = remoting.TopicTimer, bucketOf(due, n), due
}

// recallHandle is by what a producer can recall a message that waits.
func (b *Broker) recallHandle(topic, uniq string, due int64) string {
	return remoting.RecallHandle{Topic: topic, BrokerName: b.name, Due: due, UniqKey: uniq}.String()
}
