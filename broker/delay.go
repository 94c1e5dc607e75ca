package broker

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// defaultDelayLevels are RocketMQ's delays, level 1 first.
const defaultDelayLevels = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"

// parseDelayLevels reads messageDelayLevel: spans of s, m, h or d, by spaces.
func parseDelayLevels(text string) ([]time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}
	var levels []time.Duration
	for field := range strings.FieldsSeq(text) {
		unit, ok := units[field[len(field)-1]]
		n, err := strconv.ParseUint(field[:len(field)-1], 10, 16)
		if !ok || err != nil || n == 0 {
			return nil, fmt.Errorf("%q: want numbers with s, m, h or d, like 10s", field)
		}
		levels = append(levels, time.Duration(n)*unit)
	}
	if len(levels) == 0 || len(levels) > maxQueueNums {
		return nil, fmt.Errorf("%d levels: want 1 to %d", len(levels), maxQueueNums)
	}
	return levels, nil
}

// schedule turns a record into one that waits in the schedule topic until its
// delay level has passed. Where it belongs is kept in its properties.
func (b *Broker) schedule(r *remoting.Record, p remoting.Properties, level int, delay *int64) remoting.Properties {
	level = min(max(level, 1), len(b.node.delays))
	*delay = b.node.delays[level-1].Milliseconds()
	p = p.AppendExcept(nil, remoting.PropRealTopic, remoting.PropRealQueueID)
	p = remoting.AppendProperty(p, remoting.PropRealTopic, r.Topic)
	p = remoting.AppendProperty(p, remoting.PropRealQueueID, strconv.Itoa(int(r.QueueID)))
	r.Topic, r.QueueID = remoting.TopicSchedule, int32(level-1)
	return p
}

// unschedule is the reverse, for a record that is due. The physical offset stays
// that of where it waited, which a deliver command has to say.
func unschedule(v remoting.RecordView) (remoting.Record, error) {
	r := v.Record()
	topic := r.Properties.Get(remoting.PropRealTopic)
	queue, err := strconv.ParseInt(r.Properties.Get(remoting.PropRealQueueID), 10, 32)
	if topic == "" || err != nil || remoting.IsReadOnlyTopic(topic) {
		return r, fmt.Errorf("the delayed message at %d does not say where it belongs: topic %q, queue %q", v.PhysicalOffset(), topic, r.Properties.Get(remoting.PropRealQueueID))
	}
	r.Topic, r.QueueID, r.PreparedTransactionOffset = topic, int32(queue), 0
	r.Properties = r.Properties.AppendExcept(nil, remoting.PropRealTopic, remoting.PropRealQueueID, remoting.PropDelay)
	return r, nil
}
