package remoting

import (
	"fmt"
	"strconv"
)

// Response codes. The names are RocketMQ's.
const (
	Success                   int32 = 0
	SystemError               int32 = 1
	SystemBusy                int32 = 2
	RequestCodeNotSupported   int32 = 3
	TransactionFailed         int32 = 4
	FlushDiskTimeout          int32 = 10
	SlaveNotAvailable         int32 = 11
	FlushSlaveTimeout         int32 = 12
	MessageIllegal            int32 = 13
	ServiceNotAvailable       int32 = 14
	VersionNotSupported       int32 = 15
	NoPermission              int32 = 16
	TopicNotExist             int32 = 17
	TopicExistAlready         int32 = 18
	PullNotFound              int32 = 19
	PullRetryImmediately      int32 = 20
	PullOffsetMoved           int32 = 21
	QueryNotFound             int32 = 22
	SubscriptionParseFailed   int32 = 23
	SubscriptionNotExist      int32 = 24
	SubscriptionNotLatest     int32 = 25
	SubscriptionGroupNotExist int32 = 26
	FilterDataNotExist        int32 = 27
	FilterDataNotLatest       int32 = 28
	InvalidParameter          int32 = 29
	NoBuyerID                 int32 = 204
	NotInCurrentUnit          int32 = 205
	ConsumerNotOnline         int32 = 206
	ConsumeMsgTimeout         int32 = 207
	NoMessage                 int32 = 208
	PollingFull               int32 = 209
	PollingTimeout            int32 = 210
	BrokerNotExist            int32 = 211
	BrokerDispatchNotComplete int32 = 212
	BroadcastConsumption      int32 = 213
	FlowControl               int32 = 215
	NotLeaderForQueue         int32 = 501
	IllegalOperation          int32 = 604
	GoAway                    int32 = 1500
	UserNotExist              int32 = 3001
	PolicyNotExist            int32 = 3002
)

// ResponseInfo is what is known of a response code.
type ResponseInfo struct {
	Name      string // RocketMQ's
	Stored    bool   // as the answer to a send, clients take the message as stored
	Retriable bool   // stock producers send again to another broker, so it must never follow a message that was stored
	Text      string
}

// ResponseInfoOf returns what is known of code; an unknown one gets a name made of its number.
func ResponseInfoOf(code int32) ResponseInfo {
	if info, ok := responseInfos[code]; ok {
		return info
	}
	return ResponseInfo{Name: "RESPONSE_" + strconv.Itoa(int(code)), Text: "unknown response code"}
}

// Error is a response that says no: its code and the peer's remark. errors.As finds it; Is compares codes only.
type Error struct {
	Code   int32
	Remark string
}

// Errorf returns an *Error with a formatted remark.
func Errorf(code int32, format string, args ...any) *Error {
	return &Error{Code: code, Remark: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	info := ResponseInfoOf(e.Code)
	if e.Remark == "" {
		return fmt.Sprintf("%s (%d): %s", info.Name, e.Code, info.Text)
	}
	return fmt.Sprintf("%s (%d): %s", info.Name, e.Code, e.Remark)
}

// Is says whether target is an *Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

var responseInfos = map[int32]ResponseInfo{
	Success:                   {"SUCCESS", true, false, "done"},
	SystemError:               {"SYSTEM_ERROR", false, true, "the broker failed"},
	SystemBusy:                {"SYSTEM_BUSY", false, false, "the broker is overloaded, try again later"},
	RequestCodeNotSupported:   {"REQUEST_CODE_NOT_SUPPORTED", false, false, "the peer does not know this request"},
	TransactionFailed:         {"TRANSACTION_FAILED", false, false, "the transaction failed"},
	FlushDiskTimeout:          {"FLUSH_DISK_TIMEOUT", true, false, "stored, the disk sync was not confirmed in time"},
	SlaveNotAvailable:         {"SLAVE_NOT_AVAILABLE", true, false, "stored, no replica was in sync"},
	FlushSlaveTimeout:         {"FLUSH_SLAVE_TIMEOUT", true, false, "stored, or being stored: the replicas did not confirm in time"},
	MessageIllegal:            {"MESSAGE_ILLEGAL", false, false, "the message is too large or malformed"},
	ServiceNotAvailable:       {"SERVICE_NOT_AVAILABLE", false, true, "the broker does not take writes now; nothing was stored"},
	VersionNotSupported:       {"VERSION_NOT_SUPPORTED", false, false, "the client's version is not supported"},
	NoPermission:              {"NO_PERMISSION", false, true, "not allowed"},
	TopicNotExist:             {"TOPIC_NOT_EXIST", false, true, "no such topic"},
	TopicExistAlready:         {"TOPIC_EXIST_ALREADY", false, false, "the topic exists"},
	PullNotFound:              {"PULL_NOT_FOUND", false, false, "no new message"},
	PullRetryImmediately:      {"PULL_RETRY_IMMEDIATELY", false, false, "nothing matched, pull again from the next offset"},
	PullOffsetMoved:           {"PULL_OFFSET_MOVED", false, false, "the offset is outside the queue"},
	QueryNotFound:             {"QUERY_NOT_FOUND", false, false, "nothing found"},
	SubscriptionParseFailed:   {"SUBSCRIPTION_PARSE_FAILED", false, false, "the subscription expression is malformed"},
	SubscriptionNotExist:      {"SUBSCRIPTION_NOT_EXIST", false, false, "the broker has no subscription of this group"},
	SubscriptionNotLatest:     {"SUBSCRIPTION_NOT_LATEST", false, false, "the broker's subscription is older than the request's"},
	SubscriptionGroupNotExist: {"SUBSCRIPTION_GROUP_NOT_EXIST", false, false, "no such consumer group"},
	FilterDataNotExist:        {"FILTER_DATA_NOT_EXIST", false, false, "no filter data"},
	FilterDataNotLatest:       {"FILTER_DATA_NOT_LATEST", false, false, "the filter data is outdated"},
	InvalidParameter:          {"INVALID_PARAMETER", false, false, "a parameter is invalid"},
	NoBuyerID:                 {"NO_BUYER_ID", false, true, "no buyer id"},
	NotInCurrentUnit:          {"NOT_IN_CURRENT_UNIT", false, true, "not in this unit"},
	ConsumerNotOnline:         {"CONSUMER_NOT_ONLINE", false, false, "no consumer of the group is connected"},
	ConsumeMsgTimeout:         {"CONSUME_MSG_TIMEOUT", false, false, "the consumer did not answer in time"},
	NoMessage:                 {"NO_MESSAGE", false, false, "no such message"},
	PollingFull:               {"POLLING_FULL", false, false, "too many held requests"},
	PollingTimeout:            {"POLLING_TIMEOUT", false, false, "no message within the polling time"},
	BrokerNotExist:            {"BROKER_NOT_EXIST", false, false, "no such broker"},
	BrokerDispatchNotComplete: {"BROKER_DISPATCH_NOT_COMPLETE", false, false, "the index is not up to date"},
	BroadcastConsumption:      {"BROADCAST_CONSUMPTION", false, false, "the group consumes in broadcasting mode"},
	FlowControl:               {"FLOW_CONTROL", false, false, "slow down"},
	NotLeaderForQueue:         {"NOT_LEADER_FOR_QUEUE", false, false, "another broker has the queue"},
	IllegalOperation:          {"ILLEGAL_OPERATION", false, false, "not allowed in this state"},
	GoAway:                    {"GO_AWAY", false, true, "the broker is shutting down, connect again"},
	UserNotExist:              {"USER_NOT_EXIST", false, false, "no such user"},
	PolicyNotExist:            {"POLICY_NOT_EXIST", false, false, "no such policy"},
}
