package client

import "slices"

// Allocator shares the queues of a topic among the clients of a group: it returns those of self. queues and clients are sorted, and must not be
// changed. Every client of a group must use the same one, and it must depend on nothing else: nobody coordinates.
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
