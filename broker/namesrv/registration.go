package namesrv

import (
	"strings"
	"sync"

	"github.com/raftmq/raftmq/remoting"
)

// Registration is what a broker, a replica of a raft group, says of itself.
type Registration struct {
	Cluster    string
	BrokerName string // of the group
	BrokerAddr string // "host:port" for clients
	BrokerID   int64  // 0: the leader; followers have other ids, each its own
	Group      string // the group's random id; "": not a raft group
	Term       uint64 // raft term
	// Topics are all topics of the group, in the same order and with the same
	// Version on every replica that has applied the same commands. Version's
	// Counter grows with every change; its StateVersion is not used, Term stands
	// there on the wire. RocketMQ's name server refuses to register a broker
	// with exactly one topic at first: it takes it for a change of that topic.
	// The registrar keeps the slice; nobody may change it any more.
	Topics remoting.TopicTable
}

func (r *Registration) identity() remoting.BrokerIdentity {
	return remoting.BrokerIdentity{Cluster: r.Cluster, BrokerName: r.BrokerName, BrokerAddr: r.BrokerAddr, BrokerID: r.BrokerID}
}

func (r *Registration) version() remoting.DataVersion {
	v := r.Topics.Version
	v.StateVersion = int64(r.Term)
	return v
}

// revision is a Registration under way to name servers, encoded once for all.
type revision struct {
	Registration
	encode sync.Once
	body   []byte
	crc    uint32
}

// registerRequest returns RegisterBroker (103) in the form that every RocketMQ
// name server takes: JSON, not compressed.
func (rev *revision) registerRequest(leaseMillis int64) *remoting.Command {
	rev.encode.Do(func() {
		body := remoting.RegisterBody{TopicTable: rev.Topics}
		body.Version = rev.version()
		rev.body = body.AppendBody(nil)
		rev.crc = remoting.RegisterCRC(rev.body)
	})
	// Having said whether a slave may act as master, a broker of 5.x has its
	// topics taken from a slave while the group has no master.
	acting := false
	req := &remoting.Command{Code: remoting.RegisterBroker, Body: rev.body, Header: &remoting.RegisterRequest{
		BrokerIdentity: rev.identity(), HAServerAddr: rev.BrokerAddr, HeartbeatTimeout: leaseMillis, EnableActingMaster: &acting, BodyCRC32: rev.crc}}
	if rev.Group != "" {
		req.Ext = remoting.Fields{{Key: FieldGroup, Value: rev.Group}}
	}
	return req
}

// queryRequest returns QueryDataVersion (322).
func (rev *revision) queryRequest() *remoting.Command {
	id := rev.identity()
	return &remoting.Command{Code: remoting.QueryDataVersion, Header: &id, Body: rev.version().AppendBody(nil)}
}

// unregisterRequest returns UnregisterBroker (104).
func (rev *revision) unregisterRequest() *remoting.Command {
	id := rev.identity()
	return &remoting.Command{Code: remoting.UnregisterBroker, Header: &id}
}

// nameServers returns addresses without blanks and repetitions, in order.
func nameServers(list []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, addr := range list {
		if addr = strings.TrimSpace(addr); addr != "" && !seen[addr] {
			seen[addr] = true
			out = append(out, addr)
		}
	}
	return out
}
