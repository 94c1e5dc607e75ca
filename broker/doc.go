// Package broker is the process: a Node hosts replicas of broker groups, the
// peer port that joins them to the other nodes, and a name service. For each
// group a Broker answers RocketMQ's requests on an address of its own, as old
// clients do not say which broker they mean.
//
// One file holds one request or a small family of them; its comment says what
// the request carries and where raftmq answers otherwise than RocketMQ. Requests
// are answered on the connection's reading goroutine if that can't block, and
// else by a bounded number of others (see blocking).
package broker
