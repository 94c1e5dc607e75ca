package namesrv

import (
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// handleUnregister answers UnregisterBroker (104).
//
//	brokerName, brokerAddr, clusterName, brokerId  required
//
// The broker with that name and address is removed whatever its id: it may have
// another one by now. Success also if there is none.
func (s *Service) handleUnregister(req *remoting.Command) (*remoting.Command, error) {
	var h remoting.BrokerIdentity
	if err := h.Decode(req); err != nil {
		return nil, err
	}
	s.mu.Lock()
	m := s.table.unregister(time.Now(), h.BrokerName, h.BrokerAddr)
	s.mu.Unlock()
	if m != nil {
		s.logGone([]gone{{h.BrokerName, m}}, "unregistered")
	}
	return &remoting.Command{}, nil
}

// handleQueryDataVersion answers QueryDataVersion (322), by which a broker asks
// whether it has to register again, and which refreshes its lease.
//
//	brokerName, brokerAddr, clusterName, brokerId  required
//
// The body is the broker's data version, that of the answer the one registered;
// empty if there is none. Deviation: changed is also true if the broker is
// registered under another id.
func (s *Service) handleQueryDataVersion(req *remoting.Command) (*remoting.Command, error) {
	var h remoting.BrokerIdentity
	if err := h.Decode(req); err != nil {
		return nil, err
	}
	var version remoting.DataVersion
	if err := version.DecodeBody(req.Body); err != nil {
		return nil, err
	}
	resp := &remoting.Command{Header: &remoting.QueryDataVersionResponse{Changed: true}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, m := s.table.find(h.BrokerName, h.BrokerAddr); m != nil {
		m.refresh(time.Now(), req.Responder().Conn())
		resp.Header = &remoting.QueryDataVersionResponse{Changed: m.id != h.BrokerID || m.version != version}
		resp.Body = m.version.AppendBody(nil)
	}
	return resp, nil
}

// handleHeartbeat answers BrokerHeartbeat (904), which refreshes a lease. Success
// also if the broker is not registered.
//
//	brokerName, brokerAddr, clusterName  required
func (s *Service) handleHeartbeat(req *remoting.Command) (*remoting.Command, error) {
	var h remoting.BrokerHeartbeatRequest
	if err := h.Decode(req); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, m := s.table.find(h.BrokerName, h.BrokerAddr); m != nil {
		m.refresh(time.Now(), req.Responder().Conn())
	}
	return &remoting.Command{}, nil
}
