package namesrv

import (
	"maps"
	"slices"

	"github.com/raftmq/raftmq/remoting"
)

// Bits of a topic's sysFlag.
const (
	flagUnit    = 1
	flagUnitSub = 2
)

// topicsIf returns the sorted names of the topics that match.
func (s *Service) topicsIf(match func(name string, tp *topic) bool) *remoting.Command {
	var list remoting.TopicList
	s.mu.RLock()
	for name, tp := range s.table.topics {
		if match(name, tp) {
			list.Topics = append(list.Topics, name)
		}
	}
	s.mu.RUnlock()
	slices.Sort(list.Topics)
	return &remoting.Command{Body: list.AppendBody(nil)}
}

// handleTopicList answers GetAllTopicListFromNameserver (206).
func (s *Service) handleTopicList(*remoting.Command) (*remoting.Command, error) {
	return s.topicsIf(func(string, *topic) bool { return true }), nil
}

// handleTopicsByCluster answers GetTopicsByCluster (224): the topics that a
// broker of the cluster has, each once. None if the cluster is unknown.
//
//	cluster  required
func (s *Service) handleTopicsByCluster(req *remoting.Command) (*remoting.Command, error) {
	var h remoting.TopicsByClusterRequest
	if err := h.Decode(req); err != nil {
		return nil, err
	}
	return s.topicsIf(func(_ string, tp *topic) bool {
		return slices.ContainsFunc(tp.groups, func(g *group) bool { return g.cluster == h.Cluster })
	}), nil
}

// handleSystemTopics answers GetSystemTopicListFromNS (304): the names of
// clusters and brokers, which are topics too, and a broker to ask for its own.
func (s *Service) handleSystemTopics(*remoting.Command) (*remoting.Command, error) {
	var list remoting.TopicList
	names := map[string]bool{}
	s.mu.RLock()
	for _, g := range s.table.sortedGroups() {
		names[g.cluster], names[g.name] = true, true
		if list.BrokerAddr == "" {
			list.BrokerAddr = g.members[g.lowest()].addr
		}
	}
	s.mu.RUnlock()
	list.Topics = slices.Sorted(maps.Keys(names))
	return &remoting.Command{Body: list.AppendBody(nil)}, nil
}

func isUnit(flag int32) bool            { return flag&flagUnit != 0 }
func hasUnitSub(flag int32) bool        { return flag&flagUnitSub != 0 }
func hasUnitSubNotUnit(flag int32) bool { return hasUnitSub(flag) && !isUnit(flag) }

// unitTopics answers GetUnitTopicList (311), GetHasUnitSubTopicList (312) and
// GetHasUnitSubUnUnitTopicList (313). The first broker's flags speak for the
// topic.
func unitTopics(match func(flag int32) bool) handler {
	return func(s *Service, _ *remoting.Command) (*remoting.Command, error) {
		return s.topicsIf(func(name string, tp *topic) bool { return match(tp.groups[0].queues[name].sysFlag) }), nil
	}
}
