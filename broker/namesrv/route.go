package namesrv

import (
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// memberTopicPrefix begins the topics through which RocketMQ's slaves learn of
// each other: there each must see the others as they are.
const memberTopicPrefix = "rmq_sys_SYNC_BROKER_MEMBER_"

// The two styles of a route's broker ids; see remoting.RouteData.AppendBody.
const (
	bareIDs = iota
	quotedIDs
)

// encodedRoute is the answer to route requests while the table's epoch is the
// one given. Thousands of clients ask for the same few topics every 30 s.
type encodedRoute struct {
	epoch uint64
	until time.Time // when a stand-in must go (R5); zero: no limit
	body  []byte
}

// handleRoute answers GetRouteInfoByTopic (105).
//
//	topic                  required
//	acceptStandardJsonOnly quoted broker ids, as clients from 4.9.4 on get anyway
//
// TopicNotExist if no broker that lives has the topic; before the service is
// ready, SystemError instead, on which clients keep the route they have. One that
// knows whom it waits for answers nothing before it has heard them, for a moment:
// clients that got half of a route would have no more for half a minute.
func (s *Service) handleRoute(req *remoting.Command) (*remoting.Command, error) {
	var h remoting.RouteRequest
	if err := h.Decode(req); err != nil {
		return nil, err
	}
	if len(s.cfg.Expect) > 0 && !s.Ready() && s.holdRoute(h, req.Responder()) {
		return nil, nil
	}
	return s.answerRoute(h)
}

// heldRoutes are route requests that wait for the service to be ready. Who takes
// one out answers it.
type heldRoutes struct {
	mu       sync.Mutex
	waiting  map[*heldRoute]struct{}
	released bool
}

type heldRoute struct {
	request   remoting.RouteRequest
	responder remoting.Responder
	timer     *time.Timer
}

const (
	// routeHold is for how long a route request is held: less than clients wait.
	routeHold = 2 * time.Second
	// maxHeldRoutes bounds how many are.
	maxHeldRoutes = 10_000
)

// holdRoute has a route request answered when the service is ready, or routeHold
// from now. It says whether it will be.
func (s *Service) holdRoute(h remoting.RouteRequest, r remoting.Responder) bool {
	k := &s.held
	k.mu.Lock()
	defer k.mu.Unlock()
	// What has a longer name is no topic, and not worth its memory.
	if k.released || len(k.waiting) >= maxHeldRoutes || len(h.Topic) > remoting.MaxGroupTopicName {
		return false
	}
	h.Topic = strings.Clone(h.Topic) // without what else the request has
	held := &heldRoute{request: h, responder: r}
	held.timer = time.AfterFunc(routeHold, func() {
		if k.take(held) {
			s.answerHeld(held)
		}
	})
	if k.waiting == nil {
		k.waiting = map[*heldRoute]struct{}{}
	}
	k.waiting[held] = struct{}{}
	return true
}

func (s *Service) answerHeld(held *heldRoute) {
	resp, err := s.answerRoute(held.request)
	if err != nil {
		held.responder.Error(err)
		return
	}
	held.responder.Respond(resp)
}

// take says whether the request was still held. It is not any more.
func (k *heldRoutes) take(held *heldRoute) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.waiting[held]
	delete(k.waiting, held)
	return ok
}

// releaseRoutes answers all that are held, and has none held any more.
func (s *Service) releaseRoutes() {
	k := &s.held
	k.mu.Lock()
	waiting := k.waiting
	k.waiting, k.released = nil, true
	k.mu.Unlock()
	for held := range waiting { // in any order
		held.timer.Stop()
		s.answerHeld(held)
	}
}

func (s *Service) answerRoute(h remoting.RouteRequest) (*remoting.Command, error) {
	style := bareIDs
	if h.StandardJSON {
		style = quotedIDs
	}
	s.mu.RLock()
	body := s.encodedRoute(h.Topic, style)
	s.mu.RUnlock()
	switch {
	case body != nil:
		return &remoting.Command{Body: body}, nil
	case s.Ready():
		return nil, remoting.Errorf(remoting.TopicNotExist, "no broker has topic %.128q: create it, or have it created by sending to it", h.Topic)
	default:
		return nil, remoting.Errorf(remoting.SystemError, "name server not ready: it has just started and has not heard of topic %.128q yet, ask again", h.Topic)
	}
}

// encodedRoute returns the body of a route answer, nil if there is no such
// topic. It is not to be changed. The read lock is held.
func (s *Service) encodedRoute(name string, style int) []byte {
	tp := s.table.topics[name]
	if tp == nil {
		return nil
	}
	cache := &tp.cached[style]
	if c := cache.Load(); c != nil && c.epoch == s.table.epoch && (c.until.IsZero() || time.Now().Before(c.until)) {
		return c.body
	}
	route, until := s.table.route(time.Now(), name)
	route.OrderTopicConf = s.orderConf(name)
	body := route.AppendBody(nil, style == quotedIDs)
	cache.Store(&encodedRoute{s.table.epoch, until, body})
	return body
}

// orderConf returns a topic's order configuration, if routes have one. Go
// clients crash on a separator at its end. A lock is held.
func (s *Service) orderConf(name string) string {
	if !s.table.options.OrderMessage {
		return ""
	}
	return strings.TrimRight(s.kv.spaces[orderConfNS][name], "; ")
}

// Routes returns the route of a topic as clients get it, and false if there is
// none. The caller owns it.
func (s *Service) Routes(topic string) (remoting.RouteData, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.table.topics[topic] == nil {
		return remoting.RouteData{}, false
	}
	route, _ := s.table.route(time.Now(), topic)
	route.OrderTopicConf = s.orderConf(topic)
	return route, true
}

// route makes the route of a topic that is there, sorted by broker name, and
// says until when it is right if nothing changes.
func (t *table) route(now time.Time, name string) (route remoting.RouteData, until time.Time) {
	for _, g := range t.topics[name].groups {
		q := g.queues[name]
		perm := q.perm
		if q.wiped || g.acting && g.members[masterID] == nil {
			perm &^= remoting.PermWrite
		}
		data := g.data()
		if g.members[masterID] == nil {
			if end := g.leaderless.Add(t.standIn); g.raft != "" && now.Before(end) {
				promote(data.Addrs, g.standIn())
				if until.IsZero() || end.Before(until) {
					until = end
				}
			}
			if t.options.ActingMaster && g.acting && !strings.HasPrefix(name, memberTopicPrefix) {
				promote(data.Addrs, g.lowest())
			}
		}
		route.Brokers = append(route.Brokers, data)
		route.Queues = append(route.Queues, remoting.QueueData{
			BrokerName: g.name, ReadQueueNums: q.read, WriteQueueNums: q.write, Perm: perm, TopicSysFlag: q.sysFlag})
	}
	return route, until
}

// standIn returns the id of the follower that takes the leader's place (R5): the
// leader that was, to which clients are connected, or the first.
func (g *group) standIn() int64 {
	if m := g.at(g.leader); m != nil {
		return m.id
	}
	return g.lowest()
}

// promote shows a broker as the master.
func promote(addrs map[int64]string, id int64) {
	addr := addrs[id]
	delete(addrs, id)
	addrs[masterID] = addr
}
