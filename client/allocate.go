package client

import (
	"cmp"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Allocator shares the queues of a topic among the clients of a group: it returns those of self. queues and clients are sorted, and must not be
// changed. Every client of a group must use the same one, and it must depend on nothing else: nobody coordinates. What it returns beyond
// queues, or twice, is left out.
//
// The ones here share as those of RocketMQ's Java client do, so its clients can be in the group too.
type Allocator func(self string, queues []MessageQueue, clients []string) []MessageQueue

// AllocateAverage gives each client a run of neighbours; the first ones get one more where it does not divide. It is what RocketMQ calls
// AVG.
func AllocateAverage(self string, queues []MessageQueue, clients []string) []MessageQueue {
	i, ok := slices.BinarySearch(clients, self)
	if !ok {
		return nil
	}
	n, more := len(queues)/len(clients), len(queues)%len(clients)
	// The clients before this one have i*n queues, and one more each of the first ones.
	from := i*n + min(i, more)
	to := from + n
	if i < more {
		to++
	}
	return queues[from:to]
}

// AllocateByCircle deals the queues out one by one, as cards. It is what RocketMQ calls AVG_BY_CIRCLE.
func AllocateByCircle(self string, queues []MessageQueue, clients []string) []MessageQueue {
	i, ok := slices.BinarySearch(clients, self)
	if !ok {
		return nil
	}
	var mine []MessageQueue
	for ; i < len(queues); i += len(clients) {
		mine = append(mine, queues[i])
	}
	return mine
}

// virtualNodes is how many points of the ring a client has.
const virtualNodes = 10

// AllocateConsistentHash puts the clients on a ring of hashes, ten times each, and gives each queue to the one that follows it there: when a
// client comes or goes few queues move, but shares differ in size. It is what RocketMQ calls CONSISTENT_HASH. (The official Go client has
// another hash under this name.)
func AllocateConsistentHash(self string, queues []MessageQueue, clients []string) []MessageQueue {
	type point struct {
		hash   uint32
		client string
	}
	var ring []point
	for _, c := range clients {
		for k := range virtualNodes {
			ring = append(ring, point{ringHash(fmt.Sprintf("%s-%d", c, k)), c})
		}
	}
	// Of points with one hash the last one put in counts.
	slices.SortStableFunc(ring, func(a, b point) int { return cmp.Compare(a.hash, b.hash) })
	var mine []MessageQueue
	for _, q := range queues {
		h := ringHash(fmt.Sprintf("MessageQueue [topic=%s, brokerName=%s, queueId=%d]", q.Topic, q.BrokerName, q.QueueID))
		i, _ := slices.BinarySearchFunc(ring, h, func(p point, h uint32) int { return cmp.Compare(p.hash, h) })
		if i == len(ring) {
			i = 0
		}
		for i+1 < len(ring) && ring[i+1].hash == ring[i].hash {
			i++
		}
		if len(ring) > 0 && ring[i].client == self {
			mine = append(mine, q)
		}
	}
	return mine
}

// ringHash is the place of a name on the ring.
func ringHash(name string) uint32 {
	sum := md5.Sum([]byte(name))
	return binary.BigEndian.Uint32(sum[:])
}

// AllocateMachineRoom returns an Allocator that shares the queues of the brokers of some rooms: those whose name is "room@name". Queues of
// other brokers nobody gets. It is what RocketMQ calls MACHINE_ROOM.
func AllocateMachineRoom(rooms ...string) Allocator {
	return func(self string, queues []MessageQueue, clients []string) []MessageQueue {
		i, ok := slices.BinarySearch(clients, self)
		if !ok {
			return nil
		}
		var ours []MessageQueue
		for _, q := range queues {
			if room, name, ok := strings.Cut(q.BrokerName, "@"); ok && name != "" && !strings.Contains(name, "@") && slices.Contains(rooms, room) {
				ours = append(ours, q)
			}
		}
		n, more := len(ours)/len(clients), len(ours)%len(clients)
		mine := slices.Clone(ours[i*n : (i+1)*n])
		if i < more {
			mine = append(mine, ours[n*len(clients)+i])
		}
		return mine
	}
}
