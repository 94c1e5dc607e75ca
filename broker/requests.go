package broker

import (
	"context"
	"errors"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/remoting"
)

// requestTimeout bounds what a request may wait for its turn and for raft: less
// than clients wait for an answer (3 s).
const requestTimeout = 2500 * time.Millisecond

// handler answers one request. It runs on the connection's reading goroutine and
// must not block.
type handler func(b *Broker, s *session, req *remoting.Command)

// handlers are all requests a broker knows. See ServeRemoting for the others.
var handlers map[int32]handler

func init() {
	handlers = map[int32]handler{
		remoting.SendMessage:      (*Broker).send,
		remoting.SendMessageV2:    (*Broker).send,
		remoting.SendBatchMessage: (*Broker).send,

		remoting.EndTransaction:         waiting((*Broker).endTransaction),
		remoting.ResumeCheckHalfMessage: waiting((*Broker).resumeCheck),

		remoting.PullMessage:     (*Broker).pull,
		remoting.LitePullMessage: (*Broker).pull,

		remoting.HeartBeat:                 (*Broker).heartbeat,
		remoting.UnregisterClient:          (*Broker).unregisterClient,
		remoting.CheckClientConfig:         (*Broker).checkClientConfig,
		remoting.GetConsumerListByGroup:    (*Broker).consumerList,
		remoting.GetConsumerConnectionList: (*Broker).consumerConnections,
		remoting.GetProducerConnectionList: (*Broker).producerConnections,

		remoting.UpdateConsumerOffset:    (*Broker).updateConsumerOffset,
		remoting.QueryConsumerOffset:     waiting((*Broker).queryConsumerOffset),
		remoting.GetMaxOffset:            waiting((*Broker).maxOffset),
		remoting.GetMinOffset:            waiting((*Broker).minOffset),
		remoting.SearchOffsetByTimestamp: reading((*Broker).searchOffset),
		remoting.GetEarliestMsgStoreTime: reading((*Broker).earliestStoreTime),

		remoting.LockBatchMQ:   waiting((*Broker).lockQueues),
		remoting.UnlockBatchMQ: waiting((*Broker).unlockQueues),

		remoting.InvokeBrokerToResetOffset: reading((*Broker).resetOffset),
		remoting.CloneGroupOffset:          waiting((*Broker).cloneOffset),
		remoting.QueryCorrectionOffset:     reading((*Broker).correctionOffset),
		remoting.QueryConsumeTimeSpan:      reading((*Broker).timeSpan),

		remoting.SendReplyMessage:   asking((*Broker).reply),
		remoting.SendReplyMessageV2: asking((*Broker).reply),

		remoting.InvokeBrokerToGetConsumerStatus: asking((*Broker).consumerStatus),
		remoting.GetConsumerRunningInfo:          asking((*Broker).runningInfo),
		remoting.ConsumeMessageDirectly:          asking((*Broker).consumeDirectly),

		remoting.RecallMessage:            waiting((*Broker).recallMessage),
		remoting.ConsumerSendMsgBack:      waiting((*Broker).sendBack),
		remoting.DeadLettersRequest:       reading((*Broker).deadLetters),
		remoting.ResendDeadLettersRequest: waiting((*Broker).resendDeadLetters),
		remoting.ViewMessageByID:          reading((*Broker).viewMessage),
		remoting.QueryMessage:             reading((*Broker).queryMessage),

		remoting.UpdateAndCreateTopic:         waiting((*Broker).putTopic),
		remoting.DeleteTopicInBroker:          waiting((*Broker).deleteTopic),
		remoting.GetAllTopicConfig:            reading((*Broker).allTopics),
		remoting.GetTopicConfig:               reading((*Broker).topicConfig),
		remoting.GetTopicStatsInfo:            reading((*Broker).topicStats),
		remoting.GetSystemTopicListFromBroker: reading((*Broker).systemTopics),
		remoting.QueryTopicConsumeByWho:       reading((*Broker).topicConsumers),

		remoting.UpdateAndCreateSubscriptionGroup: waiting((*Broker).putGroup),
		remoting.DeleteSubscriptionGroup:          waiting((*Broker).deleteGroup),
		remoting.GetAllSubscriptionGroupConfig:    reading((*Broker).allGroups),
		remoting.GetSubscriptionGroupConfig:       reading((*Broker).subscriptionGroupConfig),
		remoting.GetConsumeStats:                  reading((*Broker).consumeStats),

		remoting.GetBrokerRuntimeInfo:    reading((*Broker).runtimeInfo),
		remoting.GetBrokerConfig:         (*Broker).brokerConfig,
		remoting.RaftStatusRequest:       reading((*Broker).raftStatus),
		remoting.RaftScrubRequest:        reading((*Broker).raftScrub),
		remoting.RaftDigestRequest:       waiting((*Broker).raftDigest),
		remoting.RaftTransferRequest:     waiting((*Broker).raftTransfer),
		remoting.RaftSnapshotRequest:     reading((*Broker).raftSnapshot),
		remoting.RaftTrustRequest:        reading((*Broker).raftTrust),
		remoting.RaftAddPeerRequest:      waiting((*Broker).raftAddPeer),
		remoting.RaftRemovePeerRequest:   waiting((*Broker).raftRemovePeer),
		remoting.RaftPromoteRequest:      waiting((*Broker).raftPromote),
		remoting.RaftDemoteRequest:       waiting((*Broker).raftDemote),
		remoting.RaftAutopilotRequest:    reading((*Broker).raftAutopilot),
		remoting.RaftSetAutopilotRequest: waiting((*Broker).raftSetAutopilot),
	}
}

// ServeRemoting implements remoting.Handler.
func (b *Broker) ServeRemoting(c *remoting.Conn, req *remoting.Command) {
	h, ok := handlers[req.Code]
	if !ok {
		req.Responder().Error(remoting.Errorf(remoting.RequestCodeNotSupported, " request type %d not supported", req.Code))
		return
	}
	s := b.sessions.of(c)
	b.usage.note(s, req)
	if b.group.Removed() != "" && !answeredWhenRemoved(req) {
		b.refuse(req.Responder(), raftgroup.ErrNotLeader)
		return
	}
	if b.relays(s, req) {
		b.relay(s, req, h)
		return
	}
	h(b, s, req)
}

// answer is what a handler that may block returns: a header and a body, either or
// both nil.
type answer struct {
	header remoting.Header
	body   []byte
}

// blockingHandler answers one request on a goroutine that may block. ctx ends when
// clients stop waiting.
type blockingHandler func(b *Broker, ctx context.Context, s *session, req *remoting.Command) (answer, error)

// waiting is for requests that wait for raft, reading for those that read the
// disk, asking for those that wait for another client: so that a disk that hangs
// keeps nobody from joining a group, and neither does a client that is silent.
func waiting(f blockingHandler) handler {
	return blocking(f, func(b *Broker) *workers { return b.workers })
}

func reading(f blockingHandler) handler {
	return blocking(f, func(b *Broker) *workers { return b.readers })
}

func asking(f blockingHandler) handler {
	return blocking(f, func(b *Broker) *workers { return b.askers })
}

func blocking(f blockingHandler, pool func(*Broker) *workers) handler {
	return func(b *Broker, s *session, req *remoting.Command) {
		req = req.Clone()
		refuse := func(err error) { b.refuse(req.Responder(), err) }
		b.run(pool(b), requestBytes(req), refuse, func(ctx context.Context) {
			a, err := f(b, ctx, s, req)
			switch {
			case errors.Is(err, raftgroup.ErrNotLeader) && b.relaysAfter(req):
				b.relay(s, req, blocking(f, pool))
				return
			case err != nil:
				refuse(err)
				return
			}
			req.Responder().Respond(&remoting.Command{Code: remoting.Success, Header: a.header, Body: a.body})
		})
	}
}

// run has a request answered by a worker, or refused if none has time for it.
// size is what the request keeps in memory.
func (b *Broker) run(pool *workers, size int, refuse func(error), answer func(context.Context)) {
	deadline := time.Now().Add(pool.patience)
	if !pool.try(size, func(ctx context.Context) {
		if time.Now().After(deadline) {
			// Nothing was done, and the client has gone on.
			refuse(errLate)
			return
		}
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		answer(ctx)
	}) {
		refuse(errBusy)
	}
}

var errLate = remoting.Errorf(remoting.SystemBusy, "[TIMEOUT_CLEAN_QUEUE] the request had waited too long when its turn came")

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
		resp.Ext.Add(extNotLeading, "true")
		if l := b.group.Leadership(); l.Address != "" && !l.Self {
			resp.Remark += ", " + l.Node + " does"
			resp.Ext.Add(extLeader, l.Address)
		}
	case errors.Is(err, raftgroup.ErrNoRoom):
		resp.Code = remoting.ServiceNotAvailable
		resp.Remark = "the disk of this replica of " + b.name + " is full: writes are refused until there is room"
	case errors.Is(err, raftgroup.ErrClosed):
		resp.Code = remoting.ServiceNotAvailable
		resp.Ext.Add(extNotLeading, "true")
	case errors.Is(err, raftgroup.ErrBusy):
		resp.Code = remoting.SystemBusy
		resp.Remark = "[OVERLOAD] " + err.Error() + " (maxPendingBytes)"
	case errors.Is(err, raftgroup.ErrTooLarge):
		resp.Code = remoting.MessageIllegal
	case errors.Is(err, raftgroup.ErrUnknown):
		resp.Ext.Add(extOutcome, "unknown")
	}
	r.Respond(resp)
}
