package broker

import (
	"context"
	"errors"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/remoting"
)

// requestTimeout bounds what a request may wait for raft: less than clients
// wait for an answer (3 s).
const requestTimeout = 2500 * time.Millisecond

// handler answers one request. It runs on the connection's reading goroutine and
// must not block.
type handler func(b *Broker, s *session, req *remoting.Command)

// handlers are all requests a broker knows. See ServeRemoting for the others.
var handlers map[int32]handler

func init() {
	handlers = map[int32]handler{
		remoting.SendMessage:                      (*Broker).send,
		remoting.SendMessageV2:                    (*Broker).send,
		remoting.SendBatchMessage:                 (*Broker).send,
		remoting.ConsumerSendMsgBack:              blocking((*Broker).sendBack),
		remoting.PullMessage:                      (*Broker).pull,
		remoting.LitePullMessage:                  (*Broker).pull,
		remoting.HeartBeat:                        (*Broker).heartbeat,
		remoting.UnregisterClient:                 (*Broker).unregisterClient,
		remoting.CheckClientConfig:                (*Broker).checkClientConfig,
		remoting.GetConsumerListByGroup:           (*Broker).consumerList,
		remoting.QueryConsumerOffset:              blocking((*Broker).queryConsumerOffset),
		remoting.UpdateConsumerOffset:             (*Broker).updateConsumerOffset,
		remoting.GetMaxOffset:                     blocking((*Broker).maxOffset),
		remoting.GetMinOffset:                     blocking((*Broker).minOffset),
		remoting.SearchOffsetByTimestamp:          blocking((*Broker).searchOffset),
		remoting.GetEarliestMsgStoreTime:          blocking((*Broker).earliestStoreTime),
		remoting.ViewMessageByID:                  blocking((*Broker).viewMessage),
		remoting.QueryMessage:                     blocking((*Broker).queryMessage),
		remoting.UpdateAndCreateTopic:             blocking((*Broker).putTopic),
		remoting.DeleteTopicInBroker:              blocking((*Broker).deleteTopic),
		remoting.GetAllTopicConfig:                blocking((*Broker).allTopics),
		remoting.GetTopicConfig:                   blocking((*Broker).topicConfig),
		remoting.GetTopicStatsInfo:                blocking((*Broker).topicStats),
		remoting.GetSystemTopicListFromBroker:     blocking((*Broker).systemTopics),
		remoting.UpdateAndCreateSubscriptionGroup: blocking((*Broker).putGroup),
		remoting.DeleteSubscriptionGroup:          blocking((*Broker).deleteGroup),
		remoting.GetAllSubscriptionGroupConfig:    blocking((*Broker).allGroups),
		remoting.GetSubscriptionGroupConfig:       blocking((*Broker).subscriptionGroupConfig),
		remoting.GetConsumeStats:                  blocking((*Broker).consumeStats),
		remoting.QueryTopicConsumeByWho:           blocking((*Broker).topicConsumers),
		remoting.GetConsumerConnectionList:        (*Broker).consumerConnections,
		remoting.GetProducerConnectionList:        (*Broker).producerConnections,
		remoting.GetBrokerRuntimeInfo:             blocking((*Broker).runtimeInfo),
		remoting.RaftStatusRequest:                blocking((*Broker).raftStatus),
		remoting.RaftTransferRequest:              blocking((*Broker).raftTransfer),
		remoting.RaftSnapshotRequest:              blocking((*Broker).raftSnapshot),
		remoting.GetBrokerConfig:                  (*Broker).brokerConfig,
	}
}

// ServeRemoting implements remoting.Handler.
func (b *Broker) ServeRemoting(c *remoting.Conn, req *remoting.Command) {
	h, ok := handlers[req.Code]
	if !ok {
		req.Responder().Error(remoting.Errorf(remoting.RequestCodeNotSupported, " request type %d not supported", req.Code))
		return
	}
	h(b, b.sessions.of(c), req)
}

// answer is what a blocking handler returns: a header and a body, either or both
// nil.
type answer struct {
	header remoting.Header
	body   []byte
}

// blocking makes a handler of a function that may block. It gets a copy of the
// request, and time until clients stop waiting.
func blocking(f func(b *Broker, ctx context.Context, s *session, req *remoting.Command) (answer, error)) handler {
	return func(b *Broker, s *session, req *remoting.Command) {
		req = req.Clone()
		if !b.workers.try(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, requestTimeout)
			defer cancel()
			a, err := f(b, ctx, s, req)
			if err != nil {
				b.refuse(req.Responder(), err)
				return
			}
			req.Responder().Respond(&remoting.Command{Code: remoting.Success, Header: a.header, Body: a.body})
		}) {
			req.Responder().Error(errBusy)
		}
	}
}

// refuse answers a request with what went wrong.
func (b *Broker) refuse(r remoting.Responder, err error) {
	var coded *remoting.Error
	resp := &remoting.Command{Code: remoting.SystemError, Remark: err.Error()}
	switch {
	case errors.As(err, &coded):
		resp.Code, resp.Remark = coded.Code, coded.Remark
	case errors.Is(err, remoting.ErrField), errors.Is(err, remoting.ErrBody), errors.Is(err, remoting.ErrName):
		resp.Code = remoting.InvalidParameter
	case errors.Is(err, raftgroup.ErrNotLeader):
		// A code that every stock client retries, on another broker if it has one.
		resp.Code = remoting.ServiceNotAvailable
		resp.Remark = "this replica of " + b.name + " does not lead it"
		if l := b.group.Leadership(); l.Address != "" && !l.Self {
			resp.Remark += ", " + l.Node + " does"
			resp.Ext.Add(extLeader, l.Address)
		}
	case errors.Is(err, raftgroup.ErrNoRoom):
		resp.Code = remoting.ServiceNotAvailable
		resp.Remark = "the disk of this replica of " + b.name + " is full: writes are refused until there is room"
	case errors.Is(err, raftgroup.ErrClosed):
		resp.Code = remoting.ServiceNotAvailable
	case errors.Is(err, raftgroup.ErrBusy):
		resp.Code = remoting.SystemBusy
		resp.Remark = "[OVERLOAD] " + err.Error() + " (maxPendingBytes)"
	case errors.Is(err, raftgroup.ErrTooLarge):
		resp.Code = remoting.MessageIllegal
	}
	r.Respond(resp)
}

// Extension fields that raftmq adds to answers. Clients that do not know them
// pass them over.
const (
	// extLeader is where the leader's clients connect: "host:port".
	extLeader = "raftmqLeader"
	// extOutcome says "unknown" with FLUSH_DISK_TIMEOUT and FLUSH_SLAVE_TIMEOUT:
	// the message may be stored yet, and asking again under its UNIQ_KEY tells.
	extOutcome = "raftmqOutcome"
)
