// Package client is a client of raftmq, and of any other broker that speaks the RocketMQ remoting protocol.
//
// A Client owns the connections, the routes and the heartbeats; producers and consumers are made from it:
//
//	Client        New, Close
//	Producer      Send, SendTo, SendAsync, SendOneway, SendBatch; Request and Reply; a TransactionProducer also SendInTransaction:
//	              such a message is visible when a transaction of the caller's own has committed
//	PushConsumer  Subscribe, Start: messages are given to listeners, queues are shared by the consumers of a group
//	PullConsumer  Subscribe or Assign, then Poll: the caller takes messages when it likes, and can Seek and Pause;
//	              Pull, Commit, View, QueryByKey: the caller chooses queues and offsets
//	Admin         topics, groups and their offsets, what consumers say of themselves, cluster
//	Tracer        writes message traces
//
// Every call takes a context and ends with it. Close waits for what is under way, and no goroutine outlives it.
//
// # What became of a message
//
// A send that returns a result is stored. One that returns an error tells how far it came: errors.Is matches exactly one of the first three.
//
//	error        the message is            it happens when                      what to do
//	ErrNotSent   stored nowhere            no broker could be reached, no       send it again, when and where you like
//	                                       route, ctx ended before, closed
//	ErrLimbo     stored or not, perhaps    the answer was lost, or did not      send the same *Message again: it is asked about under
//	             not yet                   come in time                         its id, and stored once; or live with either
//	ErrRejected  stored nowhere            a broker said no: BrokerError has    by code: mend the message (13, 29), make the topic (17),
//	                                       its code and remark                  or send it again later (2, 14)
//	ErrMessage   as its kind says          it cannot be sent as it is: ErrNotSent; or only
//	                                       together with its batch: ErrLimbo    mend the message; send the whole batch again
//	ErrNoRoute   stored nowhere, also      the topic does not exist, or has     make it, or allow brokers to make topics by themselves
//	             matches ErrNotSent        no queue to write to
//	ErrClosed    as its kind says          the producer was closed
//
// Before it returns an error a producer has made several attempts; see ProducerConfig.Retries. What makes them safe is that they all carry one
// id, the property UNIQ_KEY, and that a raftmq broker group stores an id once within its window (two minutes by default), also when its
// leader dies in between: so an attempt whose answer was lost is repeated in its group until the answer comes. Groups know nothing of each
// other's ids. Therefore a message goes to another group only if the first one has definitely not stored it, and one in limbo stays where it
// is, unless LeaveInLimbo prefers perhaps twice to not knowing. Brokers that do not look at ids (RocketMQ's own) may store a repeated
// message twice: there NoRetries is "at most once".
//
// Within that window the order of the messages of one queue is kept, too, by ProducerConfig.InOrder and a caller that sends a failed message
// again before the next one.
//
// # When a leader dies
//
// Only the leader of a broker group takes writes. Routes say who that is, but can be late, so the client finds out by itself: a connection
// that breaks or is refused makes it ask the other replicas, and one that does not lead names the leader. Between rounds of such questions it
// waits for 5 to 50 ms. A leader whose host is lost breaks no connection: when it has answered no send for 0.2 s the other replicas are asked
// who leads, ten times a second, and it is left as soon as they name another one. Sends go on as soon as there is a new leader; reads are
// answered by any replica.
//
// # Consuming
//
// Messages are delivered at least once: again after a failure of the listener, and possibly after a crash or when queues move from one
// consumer to another. An offset is committed only when all messages below it were consumed, or sent back to the broker to come again later.
//
// With PushConfig.Broadcasting every client of the group gets all messages. Each keeps its offsets in a file; what its listener fails on is
// skipped.
//
// With PushConfig.Ordered the messages of a queue are consumed one after the other, by one client of the group at a time: brokers lock queues
// for clients, and a client that can't renew its lock in 30 s ends the context of its listener, who has as long again to return before another
// client can get the queue. A producer keeps the order of a key by Message.ShardingKey and ProducerConfig.InOrder.
//
// # Bodies
//
// Producers compress bodies of 4 KiB and more; consumers undo every compression of RocketMQ's clients. A body that would become longer than
// Config.MaxDecompressed, or is damaged, makes its message one that failed, and no other: MessageExt.Err says so to those who pull.
//
// # Interceptors
//
// ProducerConfig.Interceptors and PushConfig.Interceptors see each send and each call of a listener, with its context and the messages'
// properties: that is where tracing goes.
package client
