// Package namesrv tells clients where topics are: a name service that speaks
// RocketMQ's protocol (Service), and the part of a broker that makes itself
// known to name services, this one or RocketMQ's own (Registrar).
//
// A name service holds soft state only. Brokers register their addresses and
// topics over a connection, and again whenever something changes; what is not
// refreshed expires, and a closed connection takes what was registered over it
// along. Name services do not know each other, so every broker registers with
// each of them. Brokers that are not raftmq's are served by RocketMQ's rules.
//
// A broker group of raftmq is a raft group. Its registrations carry the group's
// random id in the field FieldGroup and the raft term as the state version of
// their data version, and these rules hold:
//
//	R1 At most one address is broker id 0, the leader. A registration as id 0
//	   moves another address out at once, unless that one has a higher term and
//	   is alive: then the registration changes nothing, and is answered Success.
//	R2 Of one address the registration with the highest term counts, so one that
//	   was on its way over a broken connection undoes nothing.
//	R3 A broker name belongs to one group id while any member of it is alive.
//	   Others are refused, also RocketMQ's own brokers, and they us.
//	R4 The leader's topics are the group's, all of them: what is missing is
//	   deleted. While there is no leader, a follower's count if they are newer.
//	R5 For StandIn after a group lost its leader, one of its followers takes the
//	   leader's place in routes: it forwards writes to the next leader, while a
//	   stock client that sees a group without id 0 leaves it for 30 s.
//
// A name service that has just started knows little, and to a client "no such
// topic" is not "ask again": until Config.Expect have registered or
// Config.WaitForService is over, an unknown topic is answered SystemError.
package namesrv

// FieldGroup is the header field in which a raftmq broker's registration has the
// random id of its raft group.
const FieldGroup = "raftmqGroup"
