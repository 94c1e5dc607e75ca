package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// maxHeartbeat bounds the body of a heartbeat: a client that subscribes to a
// thousand topics needs about 200 KiB.
const maxHeartbeat = 1 << 20

// heartbeat answers HEART_BEAT (34): the client's groups are registered, and
// what a consumer group needs (its configuration, its retry topic) is made. The
// answer does not say that version 2 heartbeats are understood, so clients go on
// sending whole ones. Deviations: a client that connects again replaces its old
// self; what one connection may register is bounded.
func (b *Broker) heartbeat(s *session, req *remoting.Command) {
	var h remoting.Heartbeat
	responder := req.Responder()
	if err := b.register(s, req, &h); err != nil {
		b.refuse(responder, err)
		return
	}
	var missing []*remoting.ConsumerData
	for i := range h.Consumers {
		if d := &h.Consumers[i]; b.leads() && (b.lacks(d) || b.hasStarted(d)) {
			missing = append(missing, d)
		}
	}
	if len(missing) == 0 {
		responder.Respond(&remoting.Command{Code: remoting.Success})
		return
	}
	b.run(b.workers, len(req.Body), func(err error) { b.refuse(responder, err) }, func(ctx context.Context) {
		for _, d := range missing {
			if err := b.makeGroup(ctx, d); err != nil {
				// The next heartbeat tries again, and so does the first pull.
				b.logger.Warn("what a consumer group needs was not made", "consumerGroup", d.Group, "error", err)
			}
		}
		responder.Respond(&remoting.Command{Code: remoting.Success})
	})
}

// register notes who is there.
func (b *Broker) register(s *session, req *remoting.Command, h *remoting.Heartbeat) error {
	if err := checkBody("a heartbeat", req.Body); err != nil {
		return err
	}
	if err := h.DecodeBody(req.Body); err != nil {
		return err
	}
	b.welcome(h)
	return b.clients.beat(member{id: h.ClientID, s: s, language: req.Language, version: req.Version, seen: time.Now()}, h)
}

// welcome leaves out the consumer groups that do not exist and may not be made,
// and those of clients that spell the protocol's words in their own way.
func (b *Broker) welcome(h *remoting.Heartbeat) {
	h.Consumers = slices.DeleteFunc(h.Consumers, func(d remoting.ConsumerData) bool {
		_, exists := b.group.State().Group(d.Group)
		return !d.Known() || !exists && (remoting.CheckGroup(d.Group) != nil || !b.mayCreateGroup(d.Group))
	})
}

// lacks says whether something is to be made for a consumer group. In broadcasting
// nothing comes again, so there is no retry topic.
func (b *Broker) lacks(d *remoting.ConsumerData) bool {
	g, ok := b.group.State().Group(d.Group)
	if !ok {
		return remoting.CheckGroup(d.Group) == nil && b.mayCreateGroup(d.Group)
	}
	_, ok = b.group.State().Topic(remoting.RetryTopic(d.Group))
	return !ok && g.RetryQueueNums > 0 && d.MessageModel == remoting.Clustering
}

func (b *Broker) makeGroup(ctx context.Context, d *remoting.ConsumerData) error {
	g, err := b.subscriptionGroup(ctx, d.Group)
	if err == nil && b.hasStarted(d) {
		err = b.start(ctx, d)
	}
	if err != nil || g.RetryQueueNums <= 0 || d.MessageModel != remoting.Clustering {
		return err
	}
	_, err = b.retryTopic(ctx, g)
	return err
}

// unregisterClient answers UNREGISTER_CLIENT (35).
func (b *Broker) unregisterClient(s *session, req *remoting.Command) {
	var h remoting.UnregisterClientRequest
	if err := h.Decode(req); err != nil {
		b.refuse(req.Responder(), err)
		return
	}
	b.clients.leave(h.ClientID, h.ProducerGroup, h.ConsumerGroup, s)
	req.Responder().Respond(&remoting.Command{Code: remoting.Success})
}

// checkClientConfig answers CHECK_CLIENT_CONFIG (46), by which consumers ask at
// their start whether a subscription that is not one of tags will do.
func (b *Broker) checkClientConfig(_ *session, req *remoting.Command) {
	var h remoting.CheckClientRequest
	err := checkBody("a client check", req.Body)
	if err == nil {
		err = h.DecodeBody(req.Body)
	}
	if sub := &h.Subscription; err == nil && sub.ExpressionType != remoting.ExpressionTag {
		switch _, err = b.filters.get(sub.ExpressionType, sub.Expression); {
		case errors.Is(err, errFiltersOff):
			err = remoting.Errorf(remoting.SystemError, "%v", err)
		case err != nil:
			err = remoting.Errorf(remoting.SubscriptionParseFailed, "%v", err)
		}
	}
	if err != nil {
		b.refuse(req.Responder(), err)
		return
	}
	req.Responder().Respond(&remoting.Command{Code: remoting.Success})
}

// checkBody bounds the body of a heartbeat and its like.
func checkBody(what string, body []byte) error {
	if len(body) > maxHeartbeat {
		return remoting.Errorf(remoting.InvalidParameter, "%s of %d bytes, the limit is %d", what, len(body), maxHeartbeat)
	}
	return nil
}

// consumerList answers GET_CONSUMER_LIST_BY_GROUP (38): by it consumers share the
// queues. A replica that was started a moment ago also asks the others: it may
// lead already, and stock consumers have yet to send it a heartbeat.
func (b *Broker) consumerList(_ *session, req *remoting.Command) {
	var h remoting.ConsumerGroupRequest
	if err := h.Decode(req); err != nil {
		b.refuse(req.Responder(), err)
		return
	}
	r := req.Responder()
	list := func(others []string) {
		ids := append(b.clients.consumerIDs(h.ConsumerGroup), others...)
		slices.Sort(ids)
		if ids = slices.Compact(ids); len(ids) == 0 {
			r.Error(remoting.Errorf(remoting.SystemError, "no consumer of group %s is connected to this broker", h.ConsumerGroup))
			return
		}
		r.Respond(&remoting.Command{Code: remoting.Success, Body: remoting.ConsumerList(ids).AppendBody(nil)})
	}
	if len(b.others()) == 0 || time.Since(b.started) > borrowedFor {
		list(nil)
		return
	}
	b.run(b.borrowing, requestSize, func(err error) { b.refuse(r, err) }, func(ctx context.Context) { list(b.consumersElsewhere(ctx, h.ConsumerGroup)) })
}

// consumerConnections answers GET_CONSUMER_CONNECTION_LIST (203).
func (b *Broker) consumerConnections(_ *session, req *remoting.Command) {
	var h remoting.ConsumerGroupRequest
	if err := h.Decode(req); err != nil {
		b.refuse(req.Responder(), err)
		return
	}
	c, ok := b.clients.consumerConnections(h.ConsumerGroup)
	if !ok {
		b.refuse(req.Responder(), b.notOnline(h.ConsumerGroup))
		return
	}
	req.Responder().Respond(&remoting.Command{Code: remoting.Success, Body: c.AppendBody(nil)})
}

// producerConnections answers GET_PRODUCER_CONNECTION_LIST (204).
func (b *Broker) producerConnections(_ *session, req *remoting.Command) {
	var h remoting.ProducerGroupRequest
	if err := h.Decode(req); err != nil {
		b.refuse(req.Responder(), err)
		return
	}
	list := b.clients.producerConnections(h.ProducerGroup)
	if len(list) == 0 {
		req.Responder().Error(remoting.Errorf(remoting.SystemError, "no producer of group %s is connected to this broker", h.ProducerGroup))
		return
	}
	req.Responder().Respond(&remoting.Command{Code: remoting.Success, Body: list.AppendBody(nil)})
}
