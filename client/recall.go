package client

import (
	"context"
	"fmt"

	"github.com/raftmq/raftmq/remoting"
)

// Recall takes back a message that waits for the time it was given by DeliverAfter or DeliverAt, by the RecallHandle of its SendResult. With nil
// it is never delivered. A *BrokerError with the code remoting.IllegalOperation says that no such message waits: it was delivered or recalled,
// or the handle is of another topic; also when the answer to a first attempt was lost, and that was repeated. remoting.NoPermission: the broker
// does not allow it.
func (p *Producer) Recall(ctx context.Context, topic, handle string) error {
	if !p.gate.enter() {
		return ErrClosed
	}
	defer p.gate.leave()
	h, err := remoting.ParseRecallHandle(handle)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	g, err := p.c.groupOf(ctx, MessageQueue{Topic: topic, BrokerName: h.BrokerName})
	if err != nil {
		return err
	}
	_, err = p.c.callGroup(ctx, g, &remoting.Command{Code: remoting.RecallMessage, Header: &remoting.RecallMessageRequest{
		ProducerGroup: p.cfg.Group, Topic: topic, RecallHandle: handle, BrokerName: h.BrokerName,
	}})
	return err
}
