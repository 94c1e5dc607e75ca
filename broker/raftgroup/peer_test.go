package raftgroup

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// fakePeer is a member of a group whose part a test plays: it sends what the
// test says, and answers as the test says.
type fakePeer struct {
	id    raft.ServerID
	addr  raft.ServerAddress
	port  *Port
	layer *streamLayer
	trans *raft.NetworkTransport
	end   func()
	// answer replies to requests; nil: with errors.
	answer atomic.Pointer[func(raft.RPC)]
}

// newFakePeer puts a peer on a cluster's network, as the node of that name.
func newFakePeer(c *testCluster, node string) *fakePeer {
	p := &fakePeer{id: raft.ServerID(node + "-fake")}
	hostport := node + ":7000"
	p.addr = peerAddress(p.id, hostport)
	p.port = NewPort(PortConfig{
		Cluster: "test", Listener: c.net.listen(hostport), Logger: c.logger.With("peer", node),
		Dial: c.net.dialer(hostport, func() bool { return true }),
	})
	ctx, cancel := context.WithCancel(context.Background())
	p.layer = newStreamLayer(ctx, p.port, "broker-a", p.id, p.addr)
	p.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: p.layer, MaxPool: 4, MaxRPCsInFlight: 16, Timeout: rpcTimeout, Logger: c.logger.With("peer", node),
	})
	p.port.register("broker-a", portGroup{serverID: string(p.id), serve: p.serve})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case rpc := <-p.trans.Consumer():
				if f := p.answer.Load(); f != nil {
					(*f)(rpc)
				} else {
					rpc.Respond(nil, errUnreachable)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	p.end = func() {
		cancel()
		p.layer.cut()
		p.trans.Close()
		p.trans.CloseStreams()
		p.port.Close()
		<-stopped
	}
	c.ends = append(c.ends, p.end)
	return p
}

func layerServe(l *streamLayer) func(hello, net.Conn) {
	return func(h hello, c net.Conn) {
		if h.Kind == streamRaft {
			l.offer(raft.ServerID(h.From), c)
			return
		}
		c.Close()
	}
}

func (p *fakePeer) serve(h hello, c net.Conn) {
	if h.Kind == streamRaft {
		p.layer.offer(raft.ServerID(h.From), c)
		return
	}
	defer c.Close()
	if h.Kind == streamState {
		// A group that exists: nobody makes another one.
		if body, err := json.Marshal(replicaState{ServerID: string(p.id), HasState: true}); err == nil {
			c.Write(body) // a peer that is gone has no use for it
		}
	}
}

// answers sets what the peer replies.
func (p *fakePeer) answers(f func(raft.RPC)) { p.answer.Store(&f) }

// agree is a peer that votes for anybody and takes all it is sent.
func agree(rpc raft.RPC) {
	switch req := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		resp := &raft.AppendEntriesResponse{Term: req.Term, Success: true, LastLog: req.PrevLogEntry + uint64(len(req.Entries))}
		rpc.Respond(resp, nil)
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{Term: req.Term, Granted: true}, nil)
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{Term: req.Term, Granted: true}, nil)
	case *raft.InstallSnapshotRequest:
		_, err := io.Copy(io.Discard, rpc.Reader)
		rpc.Respond(&raft.InstallSnapshotResponse{Term: req.Term, Success: true}, err)
	default:
		rpc.Respond(nil, errUnreachable)
	}
}

func (p *fakePeer) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte(p.id), Addr: []byte(p.addr)}
}

// target is a replica that a peer talks to.
type target interface {
	serverID() raft.ServerID
	peerAddress() raft.ServerAddress
}

// append sends entries behind (prev, prevTerm) to a node.
func (p *fakePeer) append(t *testing.T, to target, term, prev, prevTerm, commit uint64, entries ...*raft.Log) *raft.AppendEntriesResponse {
	t.Helper()
	resp, err := p.tryAppend(to, term, prev, prevTerm, commit, entries...)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func (p *fakePeer) tryAppend(to target, term, prev, prevTerm, commit uint64, entries ...*raft.Log) (*raft.AppendEntriesResponse, error) {
	for i, e := range entries {
		e.Index = prev + 1 + uint64(i)
		if e.Term == 0 {
			e.Term = term
		}
	}
	resp := new(raft.AppendEntriesResponse)
	return resp, p.trans.AppendEntries(to.serverID(), to.peerAddress(), &raft.AppendEntriesRequest{
		RPCHeader: p.header(), Term: term,
		PrevLogEntry: prev, PrevLogTerm: prevTerm, Entries: entries, LeaderCommitIndex: commit,
	}, resp)
}

// vote asks a node for its vote.
func (p *fakePeer) vote(t *testing.T, to target, term, last, lastTerm uint64) bool {
	t.Helper()
	granted, err := p.tryVote(to, term, last, lastTerm)
	if err != nil {
		t.Fatal(err)
	}
	return granted
}

func (p *fakePeer) tryVote(to target, term, last, lastTerm uint64) (granted bool, err error) {
	var resp raft.RequestVoteResponse
	err = p.trans.RequestVote(to.serverID(), to.peerAddress(), &raft.RequestVoteRequest{
		RPCHeader: p.header(), Term: term, LastLogIndex: last, LastLogTerm: lastTerm, LeadershipTransfer: true,
	}, &resp)
	return resp.Granted, err
}

func (n *testNode) serverID() raft.ServerID { return n.group().id }

func (n *testNode) peerAddress() raft.ServerAddress { return peerAddress(n.serverID(), n.addr) }

// alone is a cluster of three of which the test plays n2 and n3, with the entry
// that makes its configuration.
func alone(t testing.TB, tweak func(*Config)) (c *testCluster, n *testNode, p2, p3 *fakePeer, conf *raft.Log) {
	t.Helper()
	c = newTestCluster(t, 3, tweak)
	n = c.nodes[0]
	p2, p3 = newFakePeer(c, "n2"), newFakePeer(c, "n3")
	n.start()
	conf = &raft.Log{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: n.serverID(), Address: n.peerAddress()},
		{Suffrage: raft.Voter, ID: p2.id, Address: p2.addr},
		{Suffrage: raft.Voter, ID: p3.id, Address: p3.addr},
	}})}
	return c, n, p2, p3, conf
}

// applied waits until a node has applied an index.
func (n *testNode) applied(index uint64) bool {
	return n.c.poll(5*time.Second, func() bool {
		at, _ := n.group().progress.get()
		return at >= index
	})
}
