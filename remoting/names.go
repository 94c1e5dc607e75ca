package remoting

import (
	"fmt"
	"strings"
)

// Prefixes of topics that belong to consumer groups.
const (
	RetryPrefix = "%RETRY%"
	DLQPrefix   = "%DLQ%"
)

// Limits of names in bytes.
const (
	MaxTopicName      = 127
	MaxGroupTopicName = 255 // of a %RETRY% or %DLQ% topic
	MaxGroupName      = 120 // so that the topics of a group fit
)

// Topics that every broker has or may have.
const (
	TopicAutoCreate    = "TBW102" // template of auto-created topics
	TopicSchedule      = "SCHEDULE_TOPIC_XXXX"
	TopicHalf          = "RMQ_SYS_TRANS_HALF_TOPIC"
	TopicHalfOp        = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
	TopicTrace         = "RMQ_SYS_TRACE_TOPIC"
	TopicTransCheckMax = "TRANS_CHECK_MAX_TIME_TOPIC"
	TopicSelfTest      = "SELF_TEST_TOPIC"
	TopicBenchmark     = "BenchmarkTest"
	TopicOffsetMoved   = "OFFSET_MOVED_EVENT"
	TopicCheckpoint    = "CHECKPOINT_TOPIC"
	TopicTimer         = "rmq_sys_wheel_timer" // messages that are due at a time
)

// Other names of the protocol.
const (
	GroupTools         = "TOOLS_CONSUMER"        // mqadmin's
	GroupInnerProducer = "CLIENT_INNER_PRODUCER" // of a client that sends a message back by itself
	RegionDefault      = "DefaultRegion"

	systemTopicPrefix = "rmq_sys_"
	systemGroupPrefix = "CID_RMQ_SYS_"
	replyTopicSuffix  = "_REPLY_TOPIC"
)

// RetryTopic returns the topic that holds a group's messages to be consumed again.
func RetryTopic(group string) string { return RetryPrefix + group }

// DLQTopic returns the topic that holds a group's dead letters.
func DLQTopic(group string) string { return DLQPrefix + group }

// ReplyTopic returns the topic that answers of request-reply travel by.
func ReplyTopic(cluster string) string { return cluster + replyTopicSuffix }

// CheckTopic says whether RocketMQ allows the name of a topic.
func CheckTopic(name string) error {
	limit := MaxTopicName
	if strings.HasPrefix(name, RetryPrefix) || strings.HasPrefix(name, DLQPrefix) {
		limit = MaxGroupTopicName
	}
	return checkName("topic", name, limit)
}

// CheckGroup says whether RocketMQ allows the name of a producer or consumer group.
func CheckGroup(name string) error { return checkName("group", name, MaxGroupName) }

func checkName(kind, name string, limit int) error {
	if name == "" {
		return fmt.Errorf("%w: the %s is empty", ErrName, kind)
	}
	if len(name) > limit {
		return fmt.Errorf("%w: %s %.32q... has %d bytes, the limit is %d", ErrName, kind, name, len(name), limit)
	}
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '%', c == '|':
		default:
			return fmt.Errorf("%w: %s %q: only letters, digits, _, -, %% and | are allowed", ErrName, kind, name)
		}
	}
	return nil
}

// readOnlyTopics are those that no client may send to.
var readOnlyTopics = map[string]bool{
	TopicSchedule: true, TopicHalf: true, TopicHalfOp: true, TopicTransCheckMax: true, TopicSelfTest: true, TopicOffsetMoved: true,
	TopicTimer: true,
}

var systemTopics = map[string]bool{
	TopicAutoCreate: true, TopicBenchmark: true, TopicTrace: true, TopicCheckpoint: true,
}

var systemGroups = map[string]bool{
	GroupTools: true, GroupInnerProducer: true, "DEFAULT_PRODUCER": true, "DEFAULT_CONSUMER": true, "SCHEDULE_CONSUMER": true,
	"FILTERSRV_CONSUMER": true, "SELF_TEST_P_GROUP": true, "SELF_TEST_C_GROUP": true, "CID_ONS-HTTP-PROXY": true, "CID_ONSAPI_PULL": true,
	"CID_ONSAPI_PERMISSION": true, "CID_ONSAPI_OWNER": true,
}

// IsSystemTopic says whether users may neither create nor delete the topic. A broker adds the names that it derives from its own and its
// cluster's name.
func IsSystemTopic(name string) bool {
	return systemTopics[name] || readOnlyTopics[name] || strings.HasPrefix(name, systemTopicPrefix)
}

// IsReadOnlyTopic says whether clients may not send to the topic.
func IsReadOnlyTopic(name string) bool { return readOnlyTopics[name] }

// IsWaitingTopic says whether the topic's messages wait for a time or a decision to go to the topic they are for.
func IsWaitingTopic(name string) bool {
	return name == TopicSchedule || name == TopicHalf || name == TopicTimer
}

// IsSystemGroup says whether the group is one of RocketMQ's own.
func IsSystemGroup(name string) bool {
	return systemGroups[name] || strings.HasPrefix(name, systemGroupPrefix)
}
