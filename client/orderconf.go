package client

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// maxOrderedQueues bounds the queues of a topic whose queues name servers list.
const maxOrderedQueues = math.MaxUint16

// orderedQueues reads "broker:queues;broker:queues", what name servers say of a topic that they were told is ordered. Its messages go to these
// queues, also while a broker is away and registered nowhere: a key then has no queue that takes it, rather than another one. Without that text
// the keys of all are dealt out anew.
func orderedQueues(conf, topic string) ([]MessageQueue, error) {
	var list []MessageQueue
	for part := range strings.SplitSeq(conf, ";") {
		if part == "" {
			continue
		}
		broker, number, ok := strings.Cut(part, ":")
		n, err := strconv.ParseUint(number, 10, 16)
		if !ok || broker == "" || err != nil || len(list)+int(n) > maxOrderedQueues {
			return nil, fmt.Errorf("%q is not broker:queues, or more than %d queues in all", part, maxOrderedQueues)
		}
		for id := range int32(n) {
			list = append(list, MessageQueue{Topic: topic, BrokerName: broker, QueueID: id})
		}
	}
	return list, nil
}
