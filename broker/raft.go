package broker

import (
	"context"
	"errors"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/remoting"
)

// raftStatus answers RaftStatusRequest.
func (b *Broker) raftStatus(context.Context, *session, *remoting.Command) (answer, error) {
	s := b.group.Status()
	s.ReadErrors = b.counters.readErrors.Load()
	s.Configured = len(b.configured)
	for _, g := range b.cfg.Groups {
		s.Groups = append(s.Groups, g.BrokerName)
	}
	return answer{body: s.AppendBody(nil)}, nil
}

// raftTransfer answers RaftTransferRequest: leadership goes to another replica.
func (b *Broker) raftTransfer(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	if !b.leads() {
		return answer{}, raftgroup.ErrNotLeader
	}
	return answer{}, b.group.TransferLeadership(ctx, req.Ext.Get("to"))
}

// raftSnapshot answers RaftSnapshotRequest: this replica takes a snapshot.
func (b *Broker) raftSnapshot(context.Context, *session, *remoting.Command) (answer, error) {
	return answer{}, b.group.Snapshot()
}

// raftTrust answers RaftTrustRequest: this replica takes part in elections though
// it lost power with entries unsynced.
func (b *Broker) raftTrust(context.Context, *session, *remoting.Command) (answer, error) {
	err := b.group.Trust()
	if errors.Is(err, raftgroup.ErrNotSuspect) {
		err = remoting.Errorf(remoting.InvalidParameter, "%v: there is nothing to trust it with", err)
	}
	return answer{}, err
}
