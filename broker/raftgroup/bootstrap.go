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
	"sync"
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
	// GroupID is the group's random id; "" before this replica has applied that.
	GroupID string `json:"groupId,omitempty"`
	// LeaderPeer is the peer port of the leader it knows.
	LeaderPeer    string `json:"leaderPeer,omitempty"`
	ClientAddress string `json:"clientAddress"` // where clients reach it
	// Former is this node's incarnation that members of the group look for, if so.
	Former string `json:"former,omitempty"`
	// Listened is how long this replica has been there to be looked for, in ms.
	Listened int64 `json:"listened"`
	// Peers are the members the group begins with, by its configuration.
	Peers []Peer `json:"peers"`
	// What says whether it may lead, see candidate.
	Applied      uint64 `json:"applied"`
	Complete     bool   `json:"complete"`
	Room         bool   `json:"room"`
	Restrained   string `json:"restrained,omitempty"` // why, if so
	OperatorTerm uint64 `json:"operatorTerm,omitempty"`
	// Voters are the raft addresses of those it knows.
	Voters []string `json:"voters,omitempty"`
	// LogEnd is how far its log reaches.
	LogEnd logEnd `json:"logEnd"`
	// Suspect: it may lack what it has acknowledged, see suspicion.
	Suspect bool `json:"suspect,omitempty"`
	// LostLeader, in LostTerm: it sees that this leader's process is gone.
	LostLeader string `json:"lostLeader,omitempty"`
	LostTerm   uint64 `json:"lostTerm,omitempty"`
	// Stands: it may stand for election.
	Stands bool `json:"stands"`
	// How its disk is, see fitness and fence.
	Fenced    string `json:"fenced,omitempty"`
	Slow      bool   `json:"slow,omitempty"`
	StoreTime int64  `json:"storeTime"` // ms that entries take to be stored, of late
}

// former is the incarnation of this node that others look for: they are members of
// the group, which so exists, and this replica has lost its data.
type former struct {
	mu sync.Mutex
	id string
	at time.Time
}

// formerFor is how long it counts that somebody was looking: they look all the time.
const formerFor = 10 * time.Second

func (f *former) note(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.id, f.at = id, time.Now()
}

func (f *former) get() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.at) > formerFor {
		return ""
	}
	return f.id
}

// bootstrap brings a replica without any state into the group. One node makes
// the group, the first by name, so that there is one at most; and only when every
// one of the initial peers, itself too, has said at its address that it has no
// state and means the same members. If one has state, the group exists, and this
// replica waits for its leader.
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
	if g.hasState() {
		return true, ""
	}
	if g.cfg.Exists {
		return false, "the configuration says that it exists (bootstrap: false): its leader has to take this replica in"
	}
	peers := g.peers()
	var c raft.Configuration
	for _, p := range peers {
		s, err := g.ask(ctx, p.Address)
		switch {
		case err != nil:
			return false, fmt.Sprintf("%s at %s has not said that it has no state: %v", p.Node, p.Address, err)
		case !isNode(s.ServerID, p.Node), p.Node == g.cfg.Node && s.ServerID != string(g.id):
			return false, fmt.Sprintf("at %s is %s, not the node %s that this one knows: check the node ids and addresses", p.Address, s.ServerID, p.Node)
		case s.HasState:
			leader := "its leader"
			if s.Leader != "" {
				leader += ", " + s.Leader + ","
			}
			return false, fmt.Sprintf("%s has state: the group exists, %s has to take this replica, %s, in", s.ServerID, leader, g.id)
		case s.Former != "":
			return false, fmt.Sprintf("somebody looks for %s at %s, where %s is now: the group exists, and its leader has to take this replica in", s.Former, p.Address, s.ServerID)
		case s.Listened < g.cfg.ListenFirst.Milliseconds():
			return false, fmt.Sprintf("%s has just started: members of the group may be looking for who it was", s.ServerID)
		case !slices.Equal(s.Peers, peers):
			return false, fmt.Sprintf("the configuration of %s says that the members are %v, that of this node says %v", s.ServerID, s.Peers, peers)
		}
		c.Servers = append(c.Servers, raft.Server{
			Suffrage: raft.Voter,
			ID:       raft.ServerID(s.ServerID),
			Address:  peerAddress(raft.ServerID(s.ServerID), p.Address),
		})
	}
	if peers[0].Node != g.cfg.Node {
		return false, fmt.Sprintf("%s makes it", peers[0].Node)
	}
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(stop) })()
	err := await(g.raft().BootstrapCluster(c), stop)
	switch {
	case err == nil:
		g.logger.Info("made the group", "members", c.Servers)
		return true, ""
	case errors.Is(err, raft.ErrCantBootstrap):
		return true, ""
	}
	return false, err.Error()
}

// peers are the initial members, sorted by name.
func (g *Group) peers() []Peer {
	return slices.SortedFunc(slices.Values(g.cfg.Peers), func(a, b Peer) int { return strings.Compare(a.Node, b.Node) })
}

// isNode says whether a ServerID is of a node: an incarnation follows its name.
func isNode(serverID, node string) bool {
	rest, ok := strings.CutPrefix(serverID, node+"-")
	return ok && !strings.Contains(rest, "-")
}

// hasState says whether this replica has a term, a log or a snapshot.
func (g *Group) hasState() bool {
	r := g.raft()
	return g.hadState || r.LastIndex() > 0 || r.CurrentTerm() > 0
}

// describe is what this replica answers when it is asked.
func (g *Group) describe() replicaState {
	addr, leader := g.knownLeader()
	applied, _ := g.progress.get()
	suspect, _ := g.suspicion.get()
	lost := g.shortcut.sees()
	f := g.fitness.get()
	s := replicaState{
		ServerID: string(g.id), Address: g.cfg.Port.Addr().String(),
		HasState: g.hasState(), Leader: string(leader), Peers: g.peers(),
		Former: g.former.get(), Listened: time.Since(g.begun).Milliseconds(),
		Applied: applied, Complete: g.store.Complete(), Room: f.room && g.room() == nil,
		Fenced: g.Fenced(), Slow: f.slow, StoreTime: f.average.Milliseconds(),
		OperatorTerm: g.handover.operatorTerm(),
		Voters:       g.voters(), LogEnd: g.logEnd(), Suspect: suspect,
		LostLeader: string(lost.leader), LostTerm: lost.term, Stands: g.stands(),
		GroupID: g.state.Configuration().GroupID, ClientAddress: g.cfg.ClientAddress.String(),
	}
	if leader != "" {
		_, s.LeaderPeer, _ = splitAddress(addr) // of another form: none that could be asked
	}
	if err := g.standing.restrained(); err != nil {
		s.Restrained = err.Error()
	}
	return s
}

// ask asks whoever is at an address for its state.
func (g *Group) ask(ctx context.Context, addr string) (s replicaState, err error) {
	err = g.question(ctx, addr, hello{Kind: streamState, Group: g.cfg.Name, From: string(g.id)}, askTimeout, &s)
	return s, err
}

// question puts a question that is all in its hello.
func (g *Group) question(ctx context.Context, addr string, h hello, timeout time.Duration, answer any) error {
	c, err := g.cfg.Port.connect(ctx, addr, h, askTimeout)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(c, maxAnswer))
	if err != nil {
		return err
	}
	return json.Unmarshal(body, answer)
}

// answer answers a question, and hangs up.
func (g *Group) answer(c net.Conn, answer any) {
	defer c.Close()
	body, err := json.Marshal(answer)
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
