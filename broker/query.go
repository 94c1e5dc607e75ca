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
	rec, err := b.group.Store().Record(h.Offset)
	if err != nil {
		return answer{}, remoting.Errorf(remoting.SystemError, "no message at physical offset %d of %s: %v", h.Offset, b.name, err)
	}
	return answer{body: rec}, nil
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
	store := b.group.Store()
	offsets, err := store.Search(ctx, h.Topic, h.Key, h.BeginTimestamp, h.EndTimestamp, limit)
	if err != nil && !errors.Is(err, storage.ErrIndexBehind) {
		return answer{}, err
	}
	var body []byte
	var last int64
	for _, phys := range offsets {
		rec, err := store.Record(phys)
		if err != nil {
			continue // trimmed since, or not here at present
		}
		if len(body)+len(rec) > int(b.cfg.FrameMaxLength)/2 {
			break
		}
		body = append(body, rec...)
		last = phys
	}
	if len(body) == 0 {
		return answer{}, remoting.Errorf(remoting.QueryNotFound, "no message of %s with key %.100q in that span of time", h.Topic, h.Key)
	}
	at, err := storeTime(store, last)
	if err != nil {
		return answer{}, err
	}
	return answer{header: &remoting.QueryMessageResponse{IndexLastUpdateTimestamp: at, IndexLastUpdatePhyOffset: last}, body: body}, nil
}
