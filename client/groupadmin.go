package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// clientAnswerTime is how long a broker may take that asks a client: a little longer than it gives the client.
const clientAnswerTime = 12 * time.Second

// ResetOffsets makes a consumer group go on, in all queues of a topic, with the first message stored at t or later; the zero time stands for
// the end, so that everything there is now is skipped. Without force only those queues are reset that go back by it: nothing is skipped. It
// returns where the group is then. Clients of the group may be there or not: they forget what they hold of before. Stock clients pause for
// 10 s when they are told.
func (a *Admin) ResetOffsets(ctx context.Context, group, topic string, t time.Time, force bool) ([]QueueOffset, error) {
	h := remoting.ResetOffsetRequest{Group: group, Topic: topic, Timestamp: -1, Force: force, QueueID: -1, Offset: -1}
	if !t.IsZero() {
		if h.Timestamp = t.UnixMilli(); h.Timestamp < 0 {
			return nil, fmt.Errorf("%w: there are no messages of %v", ErrConfig, t)
		}
	}
	r, err := a.TopicRoute(ctx, topic)
	if err != nil {
		return nil, err
	}
	var all []QueueOffset
	for _, b := range r.Brokers {
		list, err := a.resetOffsets(ctx, b.BrokerName, &h)
		if err != nil {
			return all, err
		}
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b QueueOffset) int { return compareQueues(a.MessageQueue, b.MessageQueue) })
	return all, nil
}

// ResetOffset makes a consumer group go on at an offset of a queue, which must be one that the queue has, or its end.
func (a *Admin) ResetOffset(ctx context.Context, group string, queue MessageQueue, offset int64) error {
	if offset < 0 {
		return fmt.Errorf("%w: offset %d is negative", ErrConfig, offset)
	}
	if _, err := a.c.groupOf(ctx, queue); err != nil {
		return err
	}
	_, err := a.resetOffsets(ctx, queue.BrokerName, &remoting.ResetOffsetRequest{
		Group: group, Topic: queue.Topic, Timestamp: -1, Force: true, QueueID: queue.QueueID, Offset: offset,
	})
	return err
}

func (a *Admin) resetOffsets(ctx context.Context, broker string, h *remoting.ResetOffsetRequest) (remoting.QueueOffsets, error) {
	resp, err := a.c.callGroup(ctx, a.c.group(broker), &remoting.Command{Code: remoting.InvokeBrokerToResetOffset, Header: h})
	var list remoting.QueueOffsets
	if err == nil {
		err = list.DecodeBody(resp.Body)
	}
	if err != nil {
		return nil, fmt.Errorf("reset offsets of group %s in topic %s at broker %s: %w", h.Group, h.Topic, broker, err)
	}
	return list, nil
}

// CommittedOffset returns a consumer group's offset of a queue; ErrNoOffset if it has committed none, also if its consumers would begin a young
// queue at 0.
func (a *Admin) CommittedOffset(ctx context.Context, group string, queue MessageQueue) (int64, error) {
	return a.c.committedOffset(ctx, group, queue, true)
}

// CloneOffsets gives consumer group dest the offsets of src, in one topic or, with topic "", in all where src has any. Both groups must
// exist. Clients of dest are told as of a reset.
func (a *Admin) CloneOffsets(ctx context.Context, src, dest, topic string) error {
	return a.everywhere(ctx, &remoting.Command{Code: remoting.CloneGroupOffset, Header: &remoting.CloneOffsetRequest{SrcGroup: src, DestGroup: dest, Topic: topic, Offline: true}}, nil)
}

// ConsumeDirectly has a client of a consumer group consume a stored message now, whatever the group's offsets are, and returns what came of
// it. The message is named by its OffsetMsgID, the client by its id; "" is any client of the group.
func (a *Admin) ConsumeDirectly(ctx context.Context, group, clientID, offsetMsgID string) (*ConsumeResult, error) {
	host, _, err := remoting.ParseOffsetMsgID(offsetMsgID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	g := a.c.groupAt(ctx, host)
	if g.name == "" {
		return nil, fmt.Errorf("%w: %s: no broker group has the address %s", ErrNotFound, offsetMsgID, host)
	}
	resp, err := a.c.callOnce(ctx, g, &remoting.Command{Code: remoting.ConsumeMessageDirectly, Header: &remoting.ConsumeDirectlyRequest{
		ConsumerGroup: group, ClientID: clientID, MsgID: offsetMsgID, BrokerName: g.name,
	}})
	result := &ConsumeResult{}
	if err == nil {
		err = result.DecodeBody(resp.Body)
	}
	if err != nil {
		return nil, fmt.Errorf("consume %s: %w", offsetMsgID, err)
	}
	return result, nil
}

// ConsumerRunningInfo returns what a client of a consumer group says of itself: RocketMQ's object, whose maps have objects as keys, which
// is not JSON to most parsers.
func (a *Admin) ConsumerRunningInfo(ctx context.Context, group, clientID string) ([]byte, error) {
	groups, err := a.groups(ctx)
	if err != nil {
		return nil, err
	}
	var last error
	for _, g := range groups { // a client may know some of them only
		resp, err := a.c.callOnce(ctx, g, &remoting.Command{Code: remoting.GetConsumerRunningInfo, Header: &remoting.RunningInfoRequest{ConsumerGroup: group, ClientID: clientID}})
		if err == nil {
			return resp.Body, nil
		}
		last = fmt.Errorf("running info of %s: broker %s: %w", clientID, g.name, err)
	}
	return nil, last
}

// ConsumerStatus returns how far each client of a consumer group is with the queues of a topic, or only one client; an error with
// remoting.ConsumerNotOnline if there is none.
func (a *Admin) ConsumerStatus(ctx context.Context, group, topic, clientID string) ([]ClientOffsets, error) {
	groups, err := a.groups(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		var resp *remoting.Command
		resp, err = a.c.callOnce(ctx, g, &remoting.Command{Code: remoting.InvokeBrokerToGetConsumerStatus, Header: &remoting.ConsumerStatusRequest{
			Topic: topic, Group: group, ClientID: clientID,
		}})
		if err == nil {
			var status remoting.ConsumerStatus
			return status, status.DecodeBody(resp.Body)
		}
		if !errors.Is(err, &BrokerError{Code: remoting.ConsumerNotOnline}) {
			break
		}
	}
	return nil, fmt.Errorf("consumer status of group %s: %w", group, err)
}

// callOnce makes a call that a broker passes on to a client, so that it may take long and is not to be repeated. Any replica will do. An
// answer with a code other than Success is a *BrokerError.
func (c *Client) callOnce(ctx context.Context, g *group, req *remoting.Command) (*remoting.Command, error) {
	err := fmt.Errorf("%w: %s", errNoLeader, g.name)
	for w := (walk{g: g}); ; {
		p := w.next()
		if p == nil {
			return nil, err
		}
		w.try(p)
		var conn *remoting.Conn
		if conn, err = p.get(ctx, c.cfg.CallTimeout); err != nil {
			continue
		}
		resp, err := c.roundTrip(ctx, conn, req, clientAnswerTime, nil)
		if err == nil {
			err = resp.Err()
		}
		return resp, err
	}
}
