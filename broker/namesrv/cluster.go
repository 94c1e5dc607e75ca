package namesrv

import (
	"encoding/json"

	"github.com/raftmq/raftmq/remoting"
)

// Clusters returns all clusters and their brokers as they are, without
// stand-ins. The caller owns it.
func (s *Service) Clusters() remoting.ClusterInfo {
	s.mu.RLock()
	defer s.mu.RUnlock()
	info := remoting.ClusterInfo{Brokers: map[string]remoting.BrokerData{}, Clusters: map[string][]string{}}
	for _, g := range s.table.sortedGroups() {
		info.Brokers[g.name] = g.data()
		info.Clusters[g.cluster] = append(info.Clusters[g.cluster], g.name)
	}
	return info
}

// isCluster says whether a broker is registered in the cluster.
func (t *table) isCluster(name string) bool {
	for _, g := range t.groups {
		if g.cluster == name {
			return true
		}
	}
	return false
}

// handleClusterInfo answers GetBrokerClusterInfo (106).
func (s *Service) handleClusterInfo(*remoting.Command) (*remoting.Command, error) {
	info := s.Clusters()
	return &remoting.Command{Body: info.AppendBody(nil)}, nil
}

// handleMemberGroup answers GetBrokerMemberGroup (901): the brokers that share a
// name, none if the name is unknown.
//
//	clusterName, brokerName  required
func (s *Service) handleMemberGroup(req *remoting.Command) (*remoting.Command, error) {
	r := req.Ext.Reader()
	cluster, name := r.String("clusterName"), r.String("brokerName")
	if err := r.Err(); err != nil {
		return nil, err
	}
	addrs := map[int64]string{}
	s.mu.RLock()
	if g := s.table.groups[name]; g != nil {
		addrs = g.addrs()
	}
	s.mu.RUnlock()
	return jsonResponse(map[string]any{"brokerMemberGroup": map[string]any{"brokerAddrs": addrs, "brokerName": name, "cluster": cluster}})
}

// jsonResponse is an answer with a body that package remoting does not have.
func jsonResponse(v any) (*remoting.Command, error) {
	body, err := json.Marshal(v)
	return &remoting.Command{Body: body}, err
}
