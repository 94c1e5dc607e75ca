package raftgroup

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/raftlog"
)

// rawRaft is raft with our transport and stores of the test's choice, without a
// Group: for what must be seen in raft itself.
type rawRaft struct {
	*raft.Raft
	id    raft.ServerID
	addr  raft.ServerAddress
	trans *transport
	end   func()
}

// nullFSM applies nothing.
type nullFSM struct{}

func (nullFSM) Apply(*raft.Log) any                 { return nil }
func (nullFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, errUnreachable }
func (nullFSM) Restore(r io.ReadCloser) error       { return r.Close() }

// newRawRaft starts one as node n1 on a cluster's network.
func newRawRaft(t *testing.T, c *testCluster, log raft.LogStore, stable raft.StableStore, election time.Duration, g guards) *rawRaft {
	t.Helper()
	r := &rawRaft{id: "n1-raw", addr: "n1-raw@n1:7000"}
	gate := &heartbeatGate{}
	port := NewPort(PortConfig{
		Cluster: "test", Listener: c.net.listen("n1:7000"), Logger: c.logger,
		Dial: c.net.dialer("n1:7000", func() bool { return true }),
	})
	ctx, cancel := context.WithCancel(context.Background())
	layer := newStreamLayer(ctx, port, "broker-a", r.id, r.addr)
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: 4, MaxRPCsInFlight: maxInFlight, Timeout: rpcTimeout, Logger: c.logger,
	})
	r.trans = newTransport(inner, gate, func(uint64, uint64) bool { return false }, func(uint64) (uint64, uint64) { return 0, 0 }, &standing{}, g)
	conf := raft.DefaultConfig()
	conf.LocalID = r.id
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = election, election, election
	conf.BatchApplyCh = true
	conf.Logger = c.logger
	halted := false
	var err error
	s := &stableStore{StableStore: stable, gate: gate, note: noNote, halt: func(error) bool { halted = true; return true }}
	if r.Raft, err = raft.NewRaft(conf, nullFSM{}, log, s, raft.NewDiscardSnapshotStore(), r.trans); err != nil {
		t.Fatal(err)
	}
	gate.watch(r.Raft, termOf{stable})
	port.register("broker-a", portGroup{serverID: string(r.id), serve: layerServe(layer)})
	r.end = func() {
		shutdown := r.Shutdown()
		cancel()
		layer.cut()
		if err := shutdown.Error(); err != nil {
			t.Error(err)
		}
		if err := port.Close(); err != nil {
			t.Error(err)
		}
		if halted {
			t.Log("the replica was stopped")
		}
	}
	return r
}

func (r *rawRaft) serverID() raft.ServerID         { return r.id }
func (r *rawRaft) peerAddress() raft.ServerAddress { return r.addr }

// termOf reads the term that a stable store holds.
type termOf struct{ raft.StableStore }

func (s termOf) CurrentTerm() uint64 {
	if s, ok := s.StableStore.(*raftlog.Stable); ok {
		return s.CurrentTerm()
	}
	term, _ := s.GetUint64([]byte(keyCurrentTerm)) // none yet: 0
	return term
}

// peersOf is a configuration entry of these servers.
func peersOf(servers ...raft.Server) *raft.Log {
	for i := range servers {
		servers[i].Suffrage = raft.Voter
	}
	return &raft.Log{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: servers})}
}

// noNote notes nothing of a write.
func noNote() func() { return func() {} }
