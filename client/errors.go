package client

import (
	"errors"
	"fmt"
	"strings"

	"github.com/raftmq/raftmq/remoting"
)

// What can go wrong. The first three are the kinds of a failed send: exactly one of them matches it.
var (
	// ErrNotSent: the message is stored nowhere, as no broker got it.
	ErrNotSent = errors.New("not sent")
	// ErrLimbo: the message may be stored, now or yet. Sending the same *Message again asks about it.
	ErrLimbo = errors.New("outcome unknown")
	// ErrRejected: a broker got the request and said no. Nothing was stored. errors.As finds the BrokerError.
	ErrRejected = errors.New("rejected by the broker")

	// ErrMessage: a message that cannot be sent as it is.
	ErrMessage = errors.New("invalid message")
	// ErrNoRoute: no name server knows a broker for the topic.
	ErrNoRoute = errors.New("no route to the topic")
	// ErrNotTold: a name server could not be told of what the brokers have done. It hears of it from raftmq brokers when they register there.
	ErrNotTold = errors.New("done by the brokers, but a name server could not be told")
	// ErrNoOffset: the group has never committed an offset of the queue.
	ErrNoOffset = errors.New("no offset committed")
	// ErrOffsetFile: the file in which a broadcasting consumer keeps its offsets cannot be read or written.
	ErrOffsetFile = errors.New("offset file")
	// ErrNotAssigned: the PullConsumer does not have the queue.
	ErrNotAssigned = errors.New("the consumer does not have the queue")
	// ErrUndecodable: a body is compressed in a way that this client cannot undo, or is longer than Config.MaxDecompressed. See
	// MessageExt.Err.
	ErrUndecodable = errors.New("the body cannot be decompressed")
	// ErrNoReply: nobody has replied to a request in time, or got the reply.
	ErrNoReply = errors.New("no reply")
	// ErrNotFound: no such message.
	ErrNotFound = errors.New("message not found")
	// ErrHandled: the dead letter was sent again before.
	ErrHandled = errors.New("handled before")
	// ErrClosed: the client, producer or consumer was closed.
	ErrClosed = errors.New("closed")
	// ErrConfig: a configuration or argument that makes no sense.
	ErrConfig = errors.New("invalid configuration")
)

var (
	errNoLeader     = errors.New("no replica of the broker group leads it now")
	errUnresponsive = errors.New("the peer does not answer")
	errNoListener   = errors.New("no listener for the topic")
)

// Refusals by brokers that programs tell apart: errors.Is goes by their codes.
var (
	// ErrNoGroup: the consumer group does not exist.
	ErrNoGroup error = &BrokerError{Code: remoting.SubscriptionGroupNotExist, Remark: "no such consumer group"}
	// ErrNotOnline: the consumer group has no client now.
	ErrNotOnline error = &BrokerError{Code: remoting.ConsumerNotOnline, Remark: "the consumer group has no client"}
)

// BrokerError is a refusal by a broker or name server: its response code and remark. See remoting for the codes.
type BrokerError = remoting.Error

// SendError is why a send failed.
type SendError struct {
	// Kind is ErrNotSent, ErrLimbo or ErrRejected.
	Kind error
	// Queue is where it was tried last; the zero MessageQueue if it did not come to that.
	Queue MessageQueue
	// Attempts is how many requests with the message went out.
	Attempts int
	// Err is what ended the last attempt.
	Err error
}

func (e *SendError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "send: %v", e.Kind)
	if e.Queue.Topic != "" {
		fmt.Fprintf(&b, ": topic %s, broker %s, queue %d, %d attempts", e.Queue.Topic, e.Queue.BrokerName, e.Queue.QueueID, e.Attempts)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// Unwrap returns Kind and Err.
func (e *SendError) Unwrap() []error { return []error{e.Kind, e.Err} }

func notSent(err error) error { return &SendError{Kind: ErrNotSent, Err: err} }
