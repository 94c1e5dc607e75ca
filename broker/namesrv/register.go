package namesrv

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// handleRegister answers RegisterBroker (103).
//
//	brokerName, brokerAddr, clusterName, brokerId  required
//	haServerAddr                                   for slaves, passed on to them
//	heartbeatTimeoutMillis                         the lease wanted
//	enableActingMaster                             either value: brokers from 5.0 on
//	compressed, bodyCrc32                          form and checksum of the body
//	raftmqGroup                                    id of the raft group: rules R1 to R5
//
// The body is a remoting.RegisterBody. The answer has haServerAddr and masterAddr
// for a slave whose master is registered, and in the body the order
// configuration of topics. Deviation: RocketMQ registers a broker with
// zero topics whose body is absent or damaged JSON, here the latter is refused.
func (s *Service) handleRegister(req *remoting.Command) (*remoting.Command, error) {
	r, err := decodeRegistration(req)
	if err != nil {
		return nil, err
	}
	if r.lease == 0 {
		r.lease = s.cfg.Lease
	}

	s.mu.Lock()
	a := s.table.admit(time.Now(), r)
	if a.refused == nil {
		delete(s.missing, Broker{r.BrokerName, r.BrokerAddr})
		if r.raft != "" && r.BrokerID == 0 && !a.ignored {
			// The leader knows all that the others could tell (R4).
			maps.DeleteFunc(s.missing, func(b Broker, _ bool) bool { return b.Name == r.BrokerName })
		}
	}
	allThere := len(s.missing) == 0 && len(s.cfg.Expect) > 0
	var body []byte
	if orders, ok := s.kv.spaces[orderConfNS]; ok && !s.table.options.NoOrderTopicConfig {
		body = remoting.KVTable(orders).AppendBody(nil)
	}
	var answer remoting.RegisterResponse
	if a.master != nil {
		answer = remoting.RegisterResponse{HAServerAddr: a.master.haAddr, MasterAddr: a.master.addr}
	}
	s.mu.Unlock()

	s.logAdmission(r, &a)
	if a.refused != nil {
		return nil, a.refused
	}
	if allThere {
		s.becomeReady("all expected brokers are registered")
	}
	return &remoting.Command{Header: &answer, Body: body}, nil
}

func (s *Service) logAdmission(r *registration, a *admission) {
	logger := s.logger.With("broker", r.BrokerName, "id", r.BrokerID, "address", r.BrokerAddr, "version", r.table.Version.StateVersion)
	switch {
	case a.refused != nil && a.quiet:
	case a.refused != nil:
		logger.Warn("broker refused", "reason", a.refused.Remark)
	case a.ignored:
		logger.Info("registration of an earlier term ignored")
	case a.appears && a.displaced != "":
		logger.Info("broker registered in the place of another", "displaced", a.displaced)
	case a.appears:
		logger.Info("broker registered")
	}
}

// decodeRegistration checks and decodes a request. What it returns shares nothing
// with req.
func decodeRegistration(req *remoting.Command) (*registration, error) {
	var h remoting.RegisterRequest
	if err := h.Decode(req); err != nil {
		return nil, err
	}
	if h.BodyCRC32 != 0 && h.BodyCRC32 != remoting.RegisterCRC(req.Body) {
		return nil, fmt.Errorf("the body's CRC-32 is %d, bodyCrc32 says %d: the registration was damaged on its way", remoting.RegisterCRC(req.Body), h.BodyCRC32)
	}
	r := &registration{
		BrokerIdentity: h.BrokerIdentity, raft: strings.Clone(req.Ext.Get(FieldGroup)), haAddr: strings.Clone(h.HAServerAddr),
		lease: leaseOf(h.HeartbeatTimeout), acting: h.EnableActingMaster, owner: req.Responder().Conn(),
	}
	if err := checkIdentity(&r.BrokerIdentity); err != nil {
		return nil, err
	}
	r.Cluster, r.BrokerName, r.BrokerAddr = strings.Clone(r.Cluster), strings.Clone(r.BrokerName), strings.Clone(r.BrokerAddr)
	if len(r.raft) > MaxGroupID {
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d", FieldGroup, len(r.raft), MaxGroupID)
	}
	if len(r.haAddr) > MaxName {
		return nil, fmt.Errorf("haServerAddr has %d bytes, the limit is %d", len(r.haAddr), MaxName)
	}
	var body remoting.RegisterBody
	var err error
	switch {
	case len(req.Body) == 0:
	case h.Compressed:
		err = body.DecodeCompressed(req.Body)
	default:
		err = body.DecodeBody(req.Body)
	}
	if err != nil {
		return nil, err
	}
	r.table = body.TopicTable
	if len(r.table.Topics) > MaxTopics {
		return nil, fmt.Errorf("register broker failed: %d topics, the limit is %d", len(r.table.Topics), MaxTopics)
	}
	for i := range r.table.Topics {
		if err := checkName("topic name", r.table.Topics[i].Name); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func checkIdentity(id *remoting.BrokerIdentity) error {
	if err := checkName("cluster name", id.Cluster); err != nil {
		return err
	}
	if err := checkName("broker name", id.BrokerName); err != nil {
		return err
	}
	if id.BrokerID < 0 {
		return fmt.Errorf("broker id is %d, want 0 for the master or more", id.BrokerID)
	}
	return checkAddr(id.BrokerAddr)
}

// leaseOf converts what a broker asks for; 0 means that it asks for nothing.
func leaseOf(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), maxLease.Milliseconds())) * time.Millisecond
}
