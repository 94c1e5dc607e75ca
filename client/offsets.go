package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// queueCall makes a call about a queue.
func (c *Client) queueCall(ctx context.Context, mq MessageQueue, req *remoting.Command) (*remoting.Command, error) {
	g, err := c.groupOf(ctx, mq)
	if err != nil {
		return nil, err
	}
	return c.callGroup(ctx, g, req)
}

// queueOffset makes a call whose answer is an offset.
func (c *Client) queueOffset(ctx context.Context, mq MessageQueue, code int32, h remoting.Header) (int64, error) {
	resp, err := c.queueCall(ctx, mq, &remoting.Command{Code: code, Header: h})
	if err != nil {
		return 0, err
	}
	var o remoting.OffsetResponse
	err = o.Decode(resp)
	return o.Offset, err
}

// committedOffset returns a group's offset of a queue; ErrNoOffset if it has none. Without noZero a young queue is at 0 then.
func (c *Client) committedOffset(ctx context.Context, group string, mq MessageQueue, noZero bool) (int64, error) {
	offset, err := c.queueOffset(ctx, mq, remoting.QueryConsumerOffset, &remoting.QueryConsumerOffsetRequest{
		ConsumerGroup: group, Topic: mq.Topic, QueueID: mq.QueueID, NoZero: noZero,
	})
	if errors.Is(err, &BrokerError{Code: remoting.QueryNotFound}) {
		return 0, fmt.Errorf("%w: group %s, topic %s, broker %s, queue %d", ErrNoOffset, group, mq.Topic, mq.BrokerName, mq.QueueID)
	}
	return offset, err
}

func (c *Client) commitOffset(ctx context.Context, group string, mq MessageQueue, offset int64) error {
	// Not oneway, as other clients do: what was not confirmed is committed again.
	_, err := c.queueCall(ctx, mq, &remoting.Command{Code: remoting.UpdateConsumerOffset, Header: &remoting.UpdateConsumerOffsetRequest{
		ConsumerGroup: group, Topic: mq.Topic, QueueID: mq.QueueID, CommitOffset: offset,
	}})
	return err
}

func (c *Client) maxOffset(ctx context.Context, mq MessageQueue) (int64, error) {
	return c.queueOffset(ctx, mq, remoting.GetMaxOffset, &remoting.QueueRequest{Topic: mq.Topic, QueueID: mq.QueueID})
}

func (c *Client) minOffset(ctx context.Context, mq MessageQueue) (int64, error) {
	return c.queueOffset(ctx, mq, remoting.GetMinOffset, &remoting.QueueRequest{Topic: mq.Topic, QueueID: mq.QueueID})
}

func (c *Client) offsetAt(ctx context.Context, mq MessageQueue, t time.Time) (int64, error) {
	return c.queueOffset(ctx, mq, remoting.SearchOffsetByTimestamp, &remoting.SearchOffsetRequest{Topic: mq.Topic, QueueID: mq.QueueID, Timestamp: t.UnixMilli()})
}

// Committed returns the offset that the group has committed of a queue: that of the next message to consume. ErrNoOffset: none was ever
// committed; any other error means that it could not be found out.
func (p *PullConsumer) Committed(ctx context.Context, queue MessageQueue) (int64, error) {
	return p.offset(ctx, func(ctx context.Context) (int64, error) { return p.c.committedOffset(ctx, p.cfg.Group, queue, false) })
}

// Commit stores the offset of the next message to consume. When it returns nil the broker has stored it. Of queues that are polled CommitSync
// knows it.
func (p *PullConsumer) Commit(ctx context.Context, queue MessageQueue, offset int64) error {
	if offset < 0 {
		return fmt.Errorf("%w: offset %d is negative", ErrConfig, offset)
	}
	_, err := p.offset(ctx, func(ctx context.Context) (int64, error) { return 0, p.c.commitOffset(ctx, p.cfg.Group, queue, offset) })
	if err == nil {
		p.push.noteCommit(queue, offset)
	}
	return err
}

// MinOffset returns the offset of the first message of a queue.
func (p *PullConsumer) MinOffset(ctx context.Context, queue MessageQueue) (int64, error) {
	return p.offset(ctx, func(ctx context.Context) (int64, error) { return p.c.minOffset(ctx, queue) })
}

// MaxOffset returns the offset that the next message of a queue will have.
func (p *PullConsumer) MaxOffset(ctx context.Context, queue MessageQueue) (int64, error) {
	return p.offset(ctx, func(ctx context.Context) (int64, error) { return p.c.maxOffset(ctx, queue) })
}

// OffsetAt returns the offset of the first message stored at t or later; behind the last one it is MaxOffset. (Java's
// offsetForTimestamp.)
func (p *PullConsumer) OffsetAt(ctx context.Context, queue MessageQueue, t time.Time) (int64, error) {
	return p.offset(ctx, func(ctx context.Context) (int64, error) { return p.c.offsetAt(ctx, queue, t) })
}

// EarliestStoreTime returns when the first message of a queue was stored; the zero Time if there is none.
func (p *PullConsumer) EarliestStoreTime(ctx context.Context, queue MessageQueue) (time.Time, error) {
	ms, err := p.offset(ctx, func(ctx context.Context) (int64, error) {
		resp, err := p.c.queueCall(ctx, queue, &remoting.Command{Code: remoting.GetEarliestMsgStoreTime, Header: &remoting.QueueRequest{
			Topic: queue.Topic, QueueID: queue.QueueID,
		}})
		if err != nil {
			return 0, err
		}
		var h remoting.TimestampResponse
		err = h.Decode(resp)
		return h.Timestamp, err
	})
	if err != nil || ms < 0 {
		return time.Time{}, err
	}
	return time.UnixMilli(ms), nil
}

// offset runs a call.
func (p *PullConsumer) offset(ctx context.Context, call func(context.Context) (int64, error)) (int64, error) {
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	offset, err := call(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrClosed) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return offset, err
}
