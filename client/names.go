package client

import "github.com/raftmq/raftmq/remoting"

// What Admin takes and returns is the protocol's own, under these names too, so that using this package takes no other import.
type (
	// TopicConfig is a topic's configuration; begin with NewTopicConfig.
	TopicConfig = remoting.TopicConfig
	// GroupConfig is a consumer group's configuration; begin with NewGroupConfig.
	GroupConfig = remoting.GroupConfig
	// ClusterInfo lists broker groups, and the clusters they belong to.
	ClusterInfo = remoting.ClusterInfo
	// RouteData is where a topic's queues are.
	RouteData = remoting.RouteData
	// BrokerData is a broker group's addresses.
	BrokerData = remoting.BrokerData
	// QueueData is how many queues of a topic a broker group has.
	QueueData = remoting.QueueData
	// TopicStats has the range of each queue of a topic.
	TopicStats = remoting.TopicStats
	// ConsumeStats is how far a group is with its queues.
	ConsumeStats = remoting.ConsumeStats
	// QueueConsumeStats is how far a group is with a queue.
	QueueConsumeStats = remoting.QueueConsumeStats
	// ConsumerConnections are the clients of a consumer group.
	ConsumerConnections = remoting.ConsumerConnections
	// QueueOffset is an offset of a queue.
	QueueOffset = remoting.QueueOffset
	// ClientOffsets are the offsets of one client of a consumer group.
	ClientOffsets = remoting.ClientOffsets
	// ConsumeResult is what came of a message that was consumed directly.
	ConsumeResult = remoting.ConsumeResult
	// RaftStatus is how a replica sees itself and its group.
	RaftStatus = remoting.RaftStatus
	// RaftMember is a member of a broker group.
	RaftMember = remoting.RaftMember
	// RaftAutopilot is how a leader sees its members.
	RaftAutopilot = remoting.RaftAutopilot
	// RaftAutopilotConfig is what holds for changes of membership that nobody asked for.
	RaftAutopilotConfig = remoting.RaftAutopilotConfig
	// RaftScrub says what a replica has found that searched its disk for damage.
	RaftScrub = remoting.RaftScrub
)

// Bits of TopicConfig.Perm and QueueData.Perm.
const (
	PermInherit = remoting.PermInherit
	PermWrite   = remoting.PermWrite
	PermRead    = remoting.PermRead
)

// NewTopicConfig returns the configuration of a topic about which nothing is said.
func NewTopicConfig(name string) TopicConfig { return remoting.NewTopicConfig(name) }

// NewGroupConfig returns the configuration of a consumer group about which nothing is said.
func NewGroupConfig(name string) GroupConfig { return remoting.NewGroupConfig(name) }

// IsSystemGroup says whether a consumer group is one of RocketMQ's own.
func IsSystemGroup(name string) bool { return remoting.IsSystemGroup(name) }

// GroupTools is the consumer group of tools, which commit no offsets.
const GroupTools = remoting.GroupTools

// IsSystemTopic says whether a topic is one of RocketMQ's own.
func IsSystemTopic(name string) bool { return remoting.IsSystemTopic(name) }

// IsSystemProperty says whether a message's property is one that RocketMQ uses itself, and so none of Message.Properties.
func IsSystemProperty(name string) bool { return systemProperties[name] }
