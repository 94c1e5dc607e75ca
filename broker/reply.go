package broker

import (
	"context"
	"strconv"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// pushTimeout is how long the client that made a request may take to confirm its
// reply: less than the replier waits.
const pushTimeout = 1500 * time.Millisecond

// reply answers SEND_REPLY_MESSAGE (324) and SEND_REPLY_MESSAGE_V2 (325): a reply
// is pushed to the client that made the request, which REPLY_TO_CLIENT names, and
// with storeReplyMessageEnable it is stored in the cluster's reply topic, too.
// Producers send their heartbeats to leaders, so the leader of any group whose
// topics the requester knows can push it. A leader that does not know the
// requester says SYSTEM_ERROR, and clients that repeat sends try another group.
//
// Deviations: only the reply topic is taken; a reply that could not be pushed is
// not stored, as its sender is told that it was not; one that was pushed is
// confirmed even if it could not be stored.
func (b *Broker) reply(ctx context.Context, s *session, req *remoting.Command) (answer, error) {
	op := &sendOp{b: b, s: s, started: time.Now()}
	if err := op.h.Decode(req); err != nil {
		return answer{}, err
	}
	if err := b.writable(); err != nil {
		return answer{}, err
	}
	h := &op.h
	if own := remoting.ReplyTopic(b.cfg.BrokerClusterName); h.Topic != own {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "a reply goes to %s, not to %.130s", own, h.Topic)
	}
	topic, ok := b.group.State().Topic(h.Topic)
	if !ok {
		return answer{}, b.noTopic(h.Topic)
	}
	if h.Batch {
		return answer{}, remoting.Errorf(remoting.MessageIllegal, "a reply can't be a batch")
	}
	if err := op.prepare(topic.Config, req.Body); err != nil {
		return answer{}, err
	}
	if op.record.Topic != h.Topic {
		return answer{}, remoting.Errorf(remoting.MessageIllegal, "a reply can be neither delayed nor transactional")
	}
	if err := b.push(ctx, op); err != nil {
		return answer{}, err
	}
	resp := &remoting.SendResponse{MsgID: "0", QueueID: op.queue, TransactionID: op.uniq, Region: remoting.RegionDefault, TraceOn: true}
	if *b.cfg.StoreReplyMessageEnable {
		stored := &storeOp{record: op.record, key: op.key}
		r, err := b.store(ctx, stored)
		if err == nil {
			err = refusalOf(r.Status, h.Topic)
		}
		if err != nil {
			b.logger.Warn("a reply was given to its requester, but not stored", "error", err)
		} else {
			resp.QueueID, resp.QueueOffset, resp.MsgID = r.Queue, r.QueueOffset, op.messageIDs(r)
		}
	}
	return answer{header: resp}, nil
}

// push gives a reply to the client that made the request.
func (b *Broker) push(ctx context.Context, op *sendOp) error {
	p := remoting.Properties(op.props)
	id := p.Get(remoting.PropReplyToClient)
	if id == "" || p.Get(remoting.PropCorrelationID) == "" {
		return remoting.Errorf(remoting.MessageIllegal, "a reply has to have the properties %s and %s of its request", remoting.PropReplyToClient, remoting.PropCorrelationID)
	}
	to := b.clients.producing(id)
	if to == nil {
		return remoting.Errorf(remoting.SystemError, "the reply was not pushed: no producer %.100q is connected to this broker", id)
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	h, now := &op.h, time.Now().UnixMilli()
	resp, err := to.s.conn.Call(ctx, &remoting.Command{Code: remoting.PushReplyMessageToClient, Body: op.record.Body, Header: &remoting.ReplyRequest{
		ProducerGroup: h.ProducerGroup, Topic: h.Topic, DefaultTopic: h.DefaultTopic, DefaultTopicQueueNums: h.DefaultTopicQueueNums,
		QueueID: op.queue, SysFlag: op.record.SysFlag, BornTimestamp: h.BornTimestamp, Flag: h.Flag,
		Properties:     string(remoting.AppendProperty(p, remoting.PropPushReplyTime, strconv.FormatInt(now, 10))),
		ReconsumeTimes: h.ReconsumeTimes, UnitMode: h.UnitMode,
		BornHost: op.s.addr.String(), StoreHost: b.addr.String(), StoreTimestamp: now,
	}})
	if err == nil {
		err = resp.Err()
	}
	if err != nil {
		return remoting.Errorf(remoting.SystemError, "the reply was not pushed to %.100q: %v", id, err)
	}
	return nil
}
