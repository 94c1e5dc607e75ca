package client

import (
	"context"
)

// offsetStore is where a consumer keeps how far it is.
type offsetStore interface {
	// load is called before anything else.
	load() error
	// committed returns the offset of a queue; ErrNoOffset: there is none.
	committed(ctx context.Context, mq MessageQueue) (int64, error)
	commit(ctx context.Context, mq MessageQueue, offset int64) error
	// save makes commits last that do not by themselves.
	save() error
}

// brokerOffsets are the offsets of a group, which its clients share: the brokers have them.
type brokerOffsets struct {
	c     *Client
	group string
}

func (o brokerOffsets) load() error { return nil }

func (o brokerOffsets) committed(ctx context.Context, mq MessageQueue) (int64, error) {
	return o.c.committedOffset(ctx, o.group, mq, false)
}

func (o brokerOffsets) commit(ctx context.Context, mq MessageQueue, offset int64) error {
	return o.c.commitOffset(ctx, o.group, mq, offset)
}

func (o brokerOffsets) save() error { return nil }
