package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

const (
	// clientTimeout is how long a client may take to answer what a tool asks of
	// it, as with RocketMQ: tools wait for 15 s.
	clientTimeout = 10 * time.Second
	// statusTimeout is the same for what tools wait 5 s for.
	statusTimeout = 3 * time.Second

	// versionForward is the first client release (3.1.8) that answers them.
	versionForward = 62
)

// runningInfo answers GET_CONSUMER_RUNNING_INFO (307): the client is asked, and
// what it says is passed through.
func (b *Broker) runningInfo(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.RunningInfoRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	return b.forward(ctx, h.ConsumerGroup, h.ClientID, &remoting.Command{Code: req.Code, Header: &h})
}

// consumeDirectly answers CONSUME_MESSAGE_DIRECTLY (309): a client is given a
// message to consume now, whatever its queue's offset is, and says what came of
// it. Deviation: without a clientId it is any client of the group.
func (b *Broker) consumeDirectly(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.ConsumeDirectlyRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	_, phys, err := remoting.ParseOffsetMsgID(h.MsgID)
	if err != nil {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "msgId %.80q is no offset message id: %v", h.MsgID, err)
	}
	v, err := b.message(phys)
	if err != nil {
		return answer{}, remoting.Errorf(remoting.SystemError, "no message at physical offset %d of %s: %v", phys, b.name, err)
	}
	if h.ClientID == "" {
		if ids := b.clients.consumerIDs(h.ConsumerGroup); len(ids) > 0 {
			h.ClientID = ids[0]
		}
	}
	h.BrokerName, h.Topic = b.name, v.Topic()
	return b.forward(ctx, h.ConsumerGroup, h.ClientID, &remoting.Command{Code: req.Code, Header: &h, Body: v.Bytes()})
}

// forward asks a client of a consumer group.
func (b *Broker) forward(ctx context.Context, group, id string, cmd *remoting.Command) (answer, error) {
	m := b.clients.consuming(group, id)
	switch {
	case m == nil:
		return answer{}, remoting.Errorf(remoting.SystemError, "the consumer %s of group %s is not connected to this broker", id, group)
	case m.version < versionForward:
		return answer{}, remoting.Errorf(remoting.SystemError, "the consumer %s of group %s is too old to be asked", id, group)
	}
	resp, err := m.s.conn.Call(ctx, cmd)
	if errors.Is(err, context.DeadlineExceeded) {
		return answer{}, remoting.Errorf(remoting.ConsumeMsgTimeout, "the consumer %s of group %s has not answered in time", id, group)
	}
	if err == nil {
		err = resp.Err()
	}
	if err != nil {
		return answer{}, err
	}
	return answer{body: resp.Body}, nil
}

// consumerStatus answers INVOKE_BROKER_TO_GET_CONSUMER_STATUS (223): how far the
// clients of a group are with a topic, all or one. Those that do not answer in
// time are left out; if none does, that is an error.
func (b *Broker) consumerStatus(_ context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.ConsumerStatusRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	members := b.clients.membersOf(h.Group)
	if h.ClientID != "" {
		members = nil
		if m := b.clients.consuming(h.Group, h.ClientID); m != nil {
			members = append(members, m)
		}
	}
	if len(members) == 0 {
		return answer{}, b.notOnline(h.Group)
	}
	all := make([]remoting.QueueOffsets, len(members))
	failed := make([]error, len(members))
	var calls sync.WaitGroup
	var size atomic.Int64
	for i, m := range members {
		calls.Add(1)
		done := func(resp *remoting.Command, err error) {
			defer calls.Done()
			if err == nil {
				err = resp.Err()
			}
			if err == nil && size.Add(int64(len(resp.Body))) > int64(b.cfg.FrameMaxLength)/2 {
				err = errors.New("the clients have said more than fits in an answer")
			}
			if err == nil {
				err = all[i].DecodeBody(resp.Body)
			}
			failed[i] = err
		}
		cmd := &remoting.Command{Code: remoting.GetConsumerStatusFromClient, Header: &h}
		if m.version < versionReset {
			done(nil, errors.New("the client is too old to be asked"))
		} else if err := m.s.conn.CallAsync(cmd, statusTimeout, done); err != nil {
			done(nil, err)
		}
	}
	calls.Wait()
	var status remoting.ConsumerStatus
	for i, m := range members {
		if failed[i] == nil {
			status = append(status, remoting.ClientOffsets{ClientID: m.id, Offsets: all[i]})
		}
	}
	if len(status) == 0 {
		return answer{}, remoting.Errorf(remoting.SystemError, "no consumer of group %s has answered: %v", h.Group, errors.Join(failed...))
	}
	return answer{body: status.AppendBody(nil)}, nil
}
