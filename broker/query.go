package broker

import (
	"context"
	"errors"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	maxQueryNum     = 64 // RocketMQ's maxMsgsNumBatch
	defaultQueryNum = 32 // of a query for a UNIQ_KEY
)

// viewMessage answers VIEW_MESSAGE_BY_ID (33): the record at a physical offset,
// from any replica that has it.
func (b *Broker) viewMessage(_ context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.ViewMessageRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	v, err := b.message(h.Offset)
	if err != nil {
		return answer{}, remoting.Errorf(remoting.SystemError, "no message at physical offset %d of %s: %v", h.Offset, b.name, err)
	}
	return answer{body: v.Bytes()}, nil
}

// queryMessage answers QUERY_MESSAGE (12): the newest messages of a topic that
// have a key, or the UNIQ_KEY, and were stored in a span of time. The records
// are looked at, so that equal hashes are not mixed up.
func (b *Broker) queryMessage(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.QueryMessageRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if _, ok := b.group.State().Topic(h.Topic); !ok {
		return answer{}, b.noTopic(h.Topic)
	}
	limit := min(max(int(h.MaxNum), 1), maxQueryNum)
	if h.UniqKey {
		limit = defaultQueryNum
	}
	offsets, err := b.group.Store().Search(ctx, h.Topic, h.Key, h.BeginTimestamp, h.EndTimestamp, limit)
	if err != nil && !errors.Is(err, storage.ErrIndexBehind) {
		return answer{}, err
	}
	var body []byte
	var last remoting.RecordView
	for _, phys := range offsets {
		v, err := b.record(phys)
		if err != nil {
			continue // trimmed since, or not here at present
		}
		if len(body)+v.Size() > int(b.cfg.FrameMaxLength)/2 {
			break
		}
		body = append(body, v.Bytes()...)
		last = v
	}
	if len(body) == 0 {
		return answer{}, remoting.Errorf(remoting.QueryNotFound, "no message of %s with key %.100q in that span of time", h.Topic, h.Key)
	}
	return answer{
		header: &remoting.QueryMessageResponse{IndexLastUpdateTimestamp: last.StoreTimestamp(), IndexLastUpdatePhyOffset: last.PhysicalOffset()},
		body:   body,
	}, nil
}
