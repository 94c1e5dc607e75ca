package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// minDeadAfter is the shortest silence that may count as death: an election and a
// disk's pause are no reason to take a member out.
const minDeadAfter = 5 * time.Second

// raftAddPeer answers RaftAddPeerRequest.
func (b *Broker) raftAddPeer(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	addr := req.Ext.Get("address")
	if _, err := hostPort(addr); err != nil {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "address %q: want host:port of the node's peer port: %v", addr, err)
	}
	learner, err := flag(req, "learner")
	if err != nil {
		return answer{}, err
	}
	m, err := b.group.AddPeer(ctx, addr, req.Ext.Get("node"), learner)
	already := errors.Is(err, raftgroup.ErrAlreadyMember)
	if err != nil && !already {
		return answer{}, err
	}
	return answer{body: (&remoting.RaftMember{ServerID: m.ServerID, Address: m.Peer, Already: already}).AppendBody(nil)}, nil
}

// raftRemovePeer answers RaftRemovePeerRequest.
func (b *Broker) raftRemovePeer(ctx context.Context, s *session, req *remoting.Command) (answer, error) {
	return b.changeMember(ctx, s, req, b.group.RemovePeer)
}

// raftPromote answers RaftPromoteRequest.
func (b *Broker) raftPromote(ctx context.Context, s *session, req *remoting.Command) (answer, error) {
	return b.changeMember(ctx, s, req, b.group.Promote)
}

// raftDemote answers RaftDemoteRequest.
func (b *Broker) raftDemote(ctx context.Context, s *session, req *remoting.Command) (answer, error) {
	return b.changeMember(ctx, s, req, b.group.Demote)
}

func (b *Broker) changeMember(ctx context.Context, s *session, req *remoting.Command, change func(ctx context.Context, node string, force bool) error) (answer, error) {
	force, err := flag(req, "force")
	if err != nil {
		return answer{}, err
	}
	node := req.Ext.Get("node")
	if node == "" {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "field node is missing: which member?")
	}
	err = change(ctx, node, force)
	if errors.Is(err, raftgroup.ErrHandedOver) && req.Ext.Get(extFrom) == "" {
		return b.passOn(ctx, s, req)
	}
	return answer{}, err
}

// passOn asks the next leader what this one has handed leadership over for.
func (b *Broker) passOn(ctx context.Context, s *session, req *remoting.Command) (answer, error) {
	out := &remoting.Command{Code: req.Code, Ext: append(req.Ext[:len(req.Ext):len(req.Ext)], remoting.Field{Key: extFrom, Value: fmt.Sprint(s.addr, " ", s.number)})}
	for {
		lead := b.nextLeader(ctx)
		if lead.Self || lead.Address == "" {
			return answer{}, raftgroup.ErrNotLeader // who asks may ask again
		}
		resp, err := b.askLeader(ctx, lead.Address, out, false)
		if err != nil && !errors.Is(err, remoting.ErrNotSent) {
			return answer{}, fmt.Errorf("%w: the next leader did not answer: %w", raftgroup.ErrUnknown, err)
		}
		if err == nil && resp.Ext.Get(extNotLeading) == "" {
			return answer{body: resp.Body}, resp.Err()
		}
		select {
		case <-time.After(relayPause):
		case <-ctx.Done():
			return answer{}, raftgroup.ErrNotLeader
		}
	}
}

// raftAutopilot answers RaftAutopilotRequest.
func (b *Broker) raftAutopilot(context.Context, *session, *remoting.Command) (answer, error) {
	a, err := b.group.Autopilot()
	return answer{body: a.AppendBody(nil)}, err
}

// raftSetAutopilot answers RaftSetAutopilotRequest.
func (b *Broker) raftSetAutopilot(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var c remoting.RaftAutopilotConfig
	if err := c.DecodeBody(req.Body); err != nil {
		return answer{}, err
	}
	if c.MinVoters < 0 || c.Stable < 0 || c.DeadAfter < 0 {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "minVoters %d, stableMs %d, deadAfterMs %d: want 0 for the default, or more", c.MinVoters, c.Stable, c.DeadAfter)
	}
	if c.DeadAfter > 0 && c.DeadAfter < minDeadAfter.Milliseconds() {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "deadAfterMs %d: want 0 for the default, or %d at least", c.DeadAfter, minDeadAfter.Milliseconds())
	}
	if limit := raftgroup.MaxAutopilotWait.Milliseconds(); c.Stable > limit || c.DeadAfter > limit {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "stableMs %d, deadAfterMs %d: want at most %d, which is 10 years", c.Stable, c.DeadAfter, limit)
	}
	return answer{}, b.group.SetAutopilot(ctx, fsm.Autopilot{
		KeepDead: !c.CleanupDead, MinVoters: c.MinVoters, Stable: c.Stable, DeadAfter: c.DeadAfter, MaxTrailing: c.MaxTrailing,
	})
}

// flag reads a boolean field, false without it.
func flag(req *remoting.Command, name string) (bool, error) {
	text := req.Ext.Get(name)
	if text == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, remoting.Errorf(remoting.InvalidParameter, "field %s is %q: want true or false", name, text)
	}
	return v, nil
}

// answeredWhenRemoved says whether a replica that is no member any more answers a
// request: what it passes on to the leader, and what is about the replica itself.
func answeredWhenRemoved(req *remoting.Command) bool {
	_, passedOn := relayed[req.Code]
	switch req.Code {
	case remoting.HeartBeat, remoting.UnregisterClient, remoting.GetBrokerRuntimeInfo, remoting.GetBrokerConfig,
		remoting.RaftStatusRequest, remoting.RaftTransferRequest, remoting.RaftSnapshotRequest,
		remoting.RaftScrubRequest, remoting.RaftTrustRequest:
		return true
	}
	return passedOn
}
