package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/raftmq/raftmq/remoting"
)

// Replicas returns the addresses of a broker group's replicas that the name server knows, the leader first.
func (a *Admin) Replicas(ctx context.Context, broker string) ([]string, error) {
	info, err := a.c.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	b, ok := info.Brokers[broker]
	if !ok {
		return nil, fmt.Errorf("%w: there is no broker %q; there are %v", ErrConfig, broker, slices.Sorted(maps.Keys(info.Brokers)))
	}
	var addrs []string
	for _, id := range slices.Sorted(maps.Keys(b.Addrs)) {
		addrs = append(addrs, b.Addrs[id])
	}
	return addrs, nil
}

// RaftStatus returns how the replica at an address sees itself and its group. Only raftmq brokers know the request.
func (a *Admin) RaftStatus(ctx context.Context, addr string) (*remoting.RaftStatus, error) {
	resp, err := a.callAddr(ctx, addr, &remoting.Command{Code: remoting.RaftStatusRequest})
	if err != nil {
		return nil, err
	}
	s := new(remoting.RaftStatus)
	return s, s.DecodeBody(resp.Body)
}

// RaftTransfer makes the leader at an address give leadership to a member of its group, named by its node or ServerID; "" for the one best
// fit.
func (a *Admin) RaftTransfer(ctx context.Context, addr, to string) error {
	req := &remoting.Command{Code: remoting.RaftTransferRequest}
	req.Ext.Add("to", to)
	_, err := a.callAddr(ctx, addr, req)
	return err
}

// RaftSnapshot makes the replica at an address take a snapshot.
func (a *Admin) RaftSnapshot(ctx context.Context, addr string) error {
	_, err := a.callAddr(ctx, addr, &remoting.Command{Code: remoting.RaftSnapshotRequest})
	return err
}

// RaftTrust makes the replica at an address, which lost power with entries unsynced, vote and stand before it has what it acknowledged
// again: messages may be lost for good. It is for when a voter is gone that the others wait for.
func (a *Admin) RaftTrust(ctx context.Context, addr string) error {
	_, err := a.callAddr(ctx, addr, &remoting.Command{Code: remoting.RaftTrustRequest})
	return err
}

// callAddr calls one replica, whoever leads.
func (a *Admin) callAddr(ctx context.Context, addr string, req *remoting.Command) (*remoting.Command, error) {
	ctx, cancel := context.WithTimeout(ctx, a.c.cfg.CallTimeout)
	defer cancel()
	resp, err := a.c.peer(addr).call(ctx, req, a.c.cfg.CallTimeout, a.c.cfg.CallTimeout)
	if err == nil {
		err = resp.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return resp, nil
}

// RaftAddPeer takes the replica whose peer port is at peer into a group, without a vote: it gets one by itself when it is caught up and
// well, but for a learner. With node it has to be that one's. addr is of any replica of the group.
func (a *Admin) RaftAddPeer(ctx context.Context, addr, peer, node string, learner bool) (*remoting.RaftMember, error) {
	req := &remoting.Command{Code: remoting.RaftAddPeerRequest}
	req.Ext.Add("address", peer)
	req.Ext.Add("node", node)
	req.Ext.Add("learner", strconv.FormatBool(learner))
	resp, err := a.callAddr(ctx, addr, req)
	if err != nil {
		return nil, err
	}
	m := new(remoting.RaftMember)
	return m, m.DecodeBody(resp.Body)
}

// RaftRemovePeer takes a member, named by its node or ServerID, out of a group. It is refused if the members that are alive would not be a
// majority any more, unless forced. addr is of any replica of the group.
func (a *Admin) RaftRemovePeer(ctx context.Context, addr, node string, force bool) error {
	return a.changeMember(ctx, addr, remoting.RaftRemovePeerRequest, node, force)
}

// RaftPromote gives a member a vote. See RaftRemovePeer.
func (a *Admin) RaftPromote(ctx context.Context, addr, node string, force bool) error {
	return a.changeMember(ctx, addr, remoting.RaftPromoteRequest, node, force)
}

// RaftDemote takes a member's vote away: it stays, as a learner. See RaftRemovePeer.
func (a *Admin) RaftDemote(ctx context.Context, addr, node string, force bool) error {
	return a.changeMember(ctx, addr, remoting.RaftDemoteRequest, node, force)
}

func (a *Admin) changeMember(ctx context.Context, addr string, code int32, node string, force bool) error {
	req := &remoting.Command{Code: code}
	req.Ext.Add("node", node)
	req.Ext.Add("force", strconv.FormatBool(force))
	_, err := a.callAddr(ctx, addr, req)
	return err
}

// RaftAutopilot returns how a group's leader sees its members. addr is of any replica of the group.
func (a *Admin) RaftAutopilot(ctx context.Context, addr string) (*remoting.RaftAutopilot, error) {
	resp, err := a.callAddr(ctx, addr, &remoting.Command{Code: remoting.RaftAutopilotRequest})
	if err != nil {
		return nil, err
	}
	s := new(remoting.RaftAutopilot)
	return s, s.DecodeBody(resp.Body)
}

// RaftSetAutopilot sets what holds for changes of a group's membership that nobody asked for.
func (a *Admin) RaftSetAutopilot(ctx context.Context, addr string, c remoting.RaftAutopilotConfig) error {
	_, err := a.callAddr(ctx, addr, &remoting.Command{Code: remoting.RaftSetAutopilotRequest, Body: c.AppendBody(nil)})
	return err
}
