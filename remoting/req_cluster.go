package remoting

import (
	"maps"
	"slices"
)

// ClusterInfo is the body of the answer to GetBrokerClusterInfo (106).
type ClusterInfo struct {
	Brokers  map[string]BrokerData // by broker name
	Clusters map[string][]string   // broker names by cluster
}

// AppendBody appends the body, with quoted broker ids.
func (c *ClusterInfo) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.member("brokerAddrTable", '{')
	for _, name := range slices.Sorted(maps.Keys(c.Brokers)) {
		b := c.Brokers[name]
		w.member(name, '{')
		w.brokerData(&b, true)
		w.close('}')
	}
	w.close('}')
	w.member("clusterAddrTable", '{')
	for _, name := range slices.Sorted(maps.Keys(c.Clusters)) {
		w.strings(name, c.Clusters[name])
	}
	w.close('}')
	return w.end()
}

// DecodeBody reads the body.
func (c *ClusterInfo) DecodeBody(body []byte) error {
	s := newScanner(body)
	*c = ClusterInfo{Brokers: map[string]BrokerData{}, Clusters: map[string][]string{}}
	for name := range s.members() {
		switch name {
		case "brokerAddrTable":
			for broker := range s.members() {
				c.Brokers[broker] = s.brokerData()
			}
		case "clusterAddrTable":
			for cluster := range s.members() {
				c.Clusters[cluster] = s.strings()
			}
		}
	}
	return s.done("cluster info")
}
