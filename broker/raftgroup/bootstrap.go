package raftgroup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

const (
	bootstrapRetry = 200 * time.Millisecond
	askTimeout     = 2 * time.Second
	maxAnswer      = 64 << 10
)

// replicaState is what a replica says of itself when it is asked.
type replicaState struct {
	ServerID string `json:"serverId"`
	Address  string `json:"address"` // of its peer port
	// HasState: it has a term, a log or a snapshot of the group.
	HasState bool `json:"hasState"`
	// Leader is the ServerID of the leader it knows.
	Leader string `json:"leader,omitempty"`
}

// bootstrap brings a replica without any state into the group. It makes the
// group only if every one of the initial peers has said that it has no state
// either: all then make it with the same members. If one has state, the group
// exists, and this replica waits for its leader.
func (g *Group) bootstrap(ctx context.Context) {
	timer := time.NewTicker(bootstrapRetry)
	defer timer.Stop()
	said := ""
	for {
		done, why := g.tryBootstrap(ctx)
		if done {
			return
		}
		if why != said {
			g.logger.Info("the group is not made yet", "because", why)
			said = why
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

func (g *Group) tryBootstrap(ctx context.Context) (done bool, why string) {
	if g.log.LastTerm() > 0 || g.raft.LastIndex() > 0 {
		return true, ""
	}
	states := make([]replicaState, len(g.cfg.Peers))
	for i, p := range g.cfg.Peers {
		if p.Node == g.cfg.Node {
			states[i] = g.describe()
			continue
		}
		var err error
		if states[i], err = g.ask(ctx, p.Address); err != nil {
			return false, fmt.Sprintf("%s at %s has not said that it has no state: %v", p.Node, p.Address, err)
		}
		if !isNode(states[i].ServerID, p.Node) {
			return false, fmt.Sprintf("at %s is %s, the configuration says %s", p.Address, states[i].ServerID, p.Node)
		}
	}
	var c raft.Configuration
	for i, s := range states {
		if s.HasState {
			return false, fmt.Sprintf("%s has state: the group exists, its leader %s has to take this replica, %s, in", s.ServerID, s.Leader, g.id)
		}
		c.Servers = append(c.Servers, raft.Server{
			Suffrage: raft.Voter,
			ID:       raft.ServerID(s.ServerID),
			Address:  peerAddress(raft.ServerID(s.ServerID), g.cfg.Peers[i].Address),
		})
	}
	slices.SortFunc(c.Servers, func(a, b raft.Server) int { return strings.Compare(string(a.ID), string(b.ID)) })
	err := g.raft.BootstrapCluster(c).Error()
	switch {
	case err == nil:
		g.logger.Info("made the group", "members", c.Servers)
		return true, ""
	case errors.Is(err, raft.ErrCantBootstrap):
		return true, "" // its leader was faster
	}
	return false, err.Error()
}

// isNode says whether a ServerID is of a node: an incarnation follows its name.
func isNode(serverID, node string) bool {
	rest, ok := strings.CutPrefix(serverID, node+"-")
	return ok && !strings.Contains(rest, "-")
}

// describe is what this replica answers when it is asked.
func (g *Group) describe() replicaState {
	s := replicaState{ServerID: string(g.id), Address: g.cfg.Port.Addr().String()}
	s.HasState = g.hadState || g.raft.LastIndex() > 0 || g.raft.CurrentTerm() > 0
	_, leader := g.raft.LeaderWithID()
	s.Leader = string(leader)
	return s
}

// ask asks whoever is at an address for its state.
func (g *Group) ask(ctx context.Context, addr string) (s replicaState, err error) {
	c, err := g.cfg.Port.connect(addr, hello{Kind: streamState, Group: g.cfg.Name, From: string(g.id)}, askTimeout)
	if err != nil {
		return s, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := c.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return s, err
	}
	body, err := io.ReadAll(io.LimitReader(c, maxAnswer))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(body, &s)
}

// answerState answers the question for this replica's state.
func (g *Group) answerState(c net.Conn) {
	defer c.Close()
	body, err := json.Marshal(g.describe())
	if err == nil {
		err = c.SetDeadline(time.Now().Add(askTimeout))
	}
	if err == nil {
		_, err = c.Write(body)
	}
	if err != nil {
		g.logger.Warn("a peer's question was not answered", "from", c.RemoteAddr(), "error", err)
	}
}
