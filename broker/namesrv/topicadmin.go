package namesrv

import (
	"slices"
	"strings"

	"github.com/raftmq/raftmq/remoting"
)

// handleDeleteTopic answers DeleteTopicInNamesrv (216). A broker that still has
// the topic brings it back with its next full registration.
//
//	topic        required
//	clusterName  only the brokers of this cluster
//
// mqadmin of 4.9.8 puts each of the two where the other belongs.
func (s *Service) handleDeleteTopic(req *remoting.Command) (*remoting.Command, error) {
	r := req.Ext.Reader()
	name, cluster := r.String("topic"), r.StringOr("clusterName", "")
	if err := r.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if cluster != "" && !s.table.isCluster(cluster) && s.table.isCluster(name) {
		name, cluster = cluster, name
	}
	if tp := s.table.topics[name]; tp != nil {
		for _, g := range slices.Clone(tp.groups) {
			if cluster == "" || g.cluster == cluster {
				s.table.dropQueue(g, name)
			}
		}
	}
	return &remoting.Command{}, nil
}

// handleRegisterTopic answers RegisterTopicInNamesrv (217), by which a RocketMQ
// broker of 5.x makes one topic known. Nothing happens if one of the brokers
// named is not registered, and to raft groups, which register all their topics.
//
//	topic  required
//
// The body is a remoting.RouteData, of which the queues count.
func (s *Service) handleRegisterTopic(req *remoting.Command) (*remoting.Command, error) {
	var h remoting.TopicRequest
	if err := h.Decode(req); err != nil {
		return nil, err
	}
	if err := checkName("topic name", h.Topic); err != nil {
		return nil, err
	}
	var route remoting.RouteData
	if err := route.DecodeBody(req.Body); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range route.Queues {
		if s.table.groups[route.Queues[i].BrokerName] == nil {
			return &remoting.Command{}, nil
		}
	}
	for i := range route.Queues {
		q := &route.Queues[i]
		g := s.table.groups[q.BrokerName]
		if g.raft != "" {
			continue
		}
		if !s.table.setQueue(g, strings.Clone(h.Topic), queue{read: q.ReadQueueNums, write: q.WriteQueueNums, perm: q.Perm, sysFlag: q.TopicSysFlag}) {
			return nil, remoting.Errorf(remoting.SystemError, "%d routes are registered, the limit", s.table.maxRoutes)
		}
	}
	return &remoting.Command{}, nil
}

// handleWipeWritePerm answers WipeWritePermOfBroker (205): producers leave the
// broker's topics, until AddWritePermOfBroker or until the broker registers
// another data version.
//
//	brokerName  required
//
// The answer has wipeTopicCount, the number of the broker's topics.
func (s *Service) handleWipeWritePerm(req *remoting.Command) (*remoting.Command, error) {
	return s.setWiped(req, true, "wipeTopicCount")
}

// handleAddWritePerm answers AddWritePermOfBroker (327), which undoes
// WipeWritePermOfBroker. Deviation: RocketMQ makes every topic readable and
// writable, here each has again what its broker registered.
//
//	brokerName  required
//
// The answer has addTopicCount, the number of the broker's topics.
func (s *Service) handleAddWritePerm(req *remoting.Command) (*remoting.Command, error) {
	return s.setWiped(req, false, "addTopicCount")
}

func (s *Service) setWiped(req *remoting.Command, wiped bool, count string) (*remoting.Command, error) {
	r := req.Ext.Reader()
	name := r.String("brokerName")
	if err := r.Err(); err != nil {
		return nil, err
	}
	n := 0
	s.mu.Lock()
	if g := s.table.groups[name]; g != nil {
		n = len(g.queues)
		for topic, q := range g.queues {
			q.wiped = wiped
			s.table.setQueue(g, topic, q) // one that is there needs no room
		}
	}
	s.mu.Unlock()
	s.logger.Info("write permission changed", "broker", name, "wiped", wiped, "topics", n)
	return &remoting.Command{Ext: remoting.Fields{{Key: count, Value: itoa(int64(n))}}}, nil
}
