package broker

import (
	"context"
	"strconv"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// raftScrub answers RaftScrubRequest: this replica begins to check what is on its
// disk. Its status says when it has ended.
func (b *Broker) raftScrub(_ context.Context, _ *session, req *remoting.Command) (answer, error) {
	rate := int64(0)
	if text := req.Ext.Get("bytesPerSec"); text != "" {
		var err error
		if rate, err = strconv.ParseInt(text, 10, 64); err != nil || rate < 1 {
			return answer{}, remoting.Errorf(remoting.InvalidParameter, "bytesPerSec %q is not a number of bytes", text)
		}
	}
	b.group.Scrub(rate)
	s := b.group.Status()
	return answer{body: s.Scrub.AppendBody(nil)}, nil
}

// raftDigest answers RaftDigestRequest: all replicas take their digests.
func (b *Broker) raftDigest(ctx context.Context, _ *session, _ *remoting.Command) (answer, error) {
	if !b.leads() {
		return answer{}, raftgroup.ErrNotLeader
	}
	_, err := b.group.Propose(ctx, fsm.TakeDigests())
	return answer{}, err
}
