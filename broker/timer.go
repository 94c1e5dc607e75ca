package broker

import (
	"strconv"

	"github.com/raftmq/raftmq/remoting"
)

// Messages that are due at a time wait in the timer topic, each in the queue of
// the minute that it is due in: its bucket. The buckets are a ring of 5.7 days.
// What is due in more shares its bucket with other minutes, and is passed over
// when they are due: that costs a look at 20 bytes of each message every 5.7 days,
// and saves tens of thousands of files. The ring is as large as the topic was made:
// its size must not change while messages wait in it.
const (
	minuteMs     = 60_000
	timerBuckets = 1 << 13
)

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
	n := int32(timerBuckets)
	if t, ok := b.group.State().Topic(remoting.TopicTimer); ok {
		n = t.Config.WriteQueueNums
	}
	r.Topic, r.QueueID, r.PreparedTransactionOffset = remoting.TopicTimer, bucketOf(due, n), due
}

// recallHandle is by what a producer can recall a message that waits.
func (b *Broker) recallHandle(topic, uniq string, due int64) string {
	return remoting.RecallHandle{Topic: topic, BrokerName: b.name, Due: due, UniqKey: uniq}.String()
}
