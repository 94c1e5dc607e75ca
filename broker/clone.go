package broker

import (
	"context"
	"slices"
	"strings"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// cloneOffset answers CLONE_GROUP_OFFSET (314): a group gets the offsets of
// another one, in a topic or in all where that has committed any. A topic that
// the other group's clients do not subscribe to now is left out unless offline is
// set. Deviations: both groups have to exist; if the group that gets them has
// clients, they are told as of a reset, as else their next commits would undo it;
// so are those of a group with a reset that they do not know of yet.
func (b *Broker) cloneOffset(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.CloneOffsetRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if err := b.upToDate(ctx); err != nil {
		return answer{}, err
	}
	state := b.group.State()
	for _, name := range []string{h.SrcGroup, h.DestGroup} {
		if _, ok := state.Group(name); !ok {
			return answer{}, b.noGroup(name)
		}
	}
	if h.Topic != "" {
		if _, ok := state.Topic(h.Topic); !ok {
			return answer{}, b.noTopic(h.Topic)
		}
	}
	if h.SrcGroup == h.DestGroup {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "srcGroup and destGroup are both %s", h.SrcGroup)
	}
	online := len(b.clients.consumerIDs(h.SrcGroup)) > 0
	var offsets []fsm.Offset
	state.CommittedOffsets(func(o fsm.Offset) {
		if o.Group == h.SrcGroup && (h.Topic == "" || o.Topic == h.Topic) {
			o.Group = h.DestGroup
			offsets = append(offsets, o)
		}
	})
	if online && !h.Offline {
		offsets = slices.DeleteFunc(offsets, func(o fsm.Offset) bool {
			sub, _, _ := b.clients.subscription(h.SrcGroup, o.Topic)
			return sub == nil
		})
	}
	command := fsm.CommitOffsets
	if len(b.clients.consumerIDs(h.DestGroup)) > 0 || slices.ContainsFunc(offsets, func(o fsm.Offset) bool {
		_, pending := state.PendingReset(o.Group, o.Topic, o.Queue)
		return pending
	}) {
		command = fsm.ResetOffsets
	}
	return answer{}, b.proposeOffsets(ctx, offsets, command)
}

// correctionOffset answers QUERY_CORRECTION_OFFSET (308): for each queue of a
// topic the least offset that any group but some has committed, or the greatest
// number there is where the group to compare with is further.
func (b *Broker) correctionOffset(_ context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.CorrectionOffsetRequest
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	without := strings.Split(h.FilterGroups, ",")
	state := b.group.State()
	least := remoting.CorrectionOffsets{}
	state.CommittedOffsets(func(o fsm.Offset) {
		if have, ok := least[o.Queue]; o.Topic == h.Topic && !slices.Contains(without, o.Group) && (!ok || o.Offset < have) {
			least[o.Queue] = o.Offset
		}
	})
	for queue, offset := range least {
		if own, ok := state.CommittedOffset(h.CompareGroup, h.Topic, queue); ok && own > offset {
			least[queue] = 1<<63 - 1
		}
	}
	return answer{body: least.AppendBody(nil)}, nil
}
