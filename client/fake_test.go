package client

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// cluster is a name server and broker groups that keep everything in memory. What a replica stores, all of its group have at once; what
// they do about a request can be scripted.
type cluster struct {
	t   testing.TB
	net network
	ns  *fakeServer

	mu      sync.Mutex
	groups  []*fakeGroup
	topics  map[string]fakeTopic
	nsDown  map[string]bool // topics that the name server has not heard of yet
	routes  int             // route requests answered
	pending sync.WaitGroup  // answers that come later

	timersMu sync.Mutex
	timers   []*time.Timer
}

type fakeTopic struct {
	queues int
	perm   int32
	only   string // the one group that has it; "": all
	order  string // what the name server was told of it as an ordered topic
}

func newCluster(t testing.TB, n network, groups, replicas int) *cluster {
	c := &cluster{t: t, net: n, topics: map[string]fakeTopic{}, nsDown: map[string]bool{}}
	c.ns = &fakeServer{c: c, handler: c.serveNames}
	c.ns.start()
	for i := range groups {
		g := &fakeGroup{c: c, name: fmt.Sprintf("broker-%c", 'a'+i), queues: map[MessageQueue]*fakeQueue{}, sent: map[string]sentAt{},
			offsets: map[string]int64{}, locks: map[string]fakeLock{}, min: map[MessageQueue]int64{}}
		for id := range replicas {
			r := &fakeReplica{g: g, id: int64(id), scripts: map[int32][]script{}, clients: map[string]map[string]*remoting.Conn{}}
			r.fakeServer = &fakeServer{c: c, handler: r.serve, onClose: r.closed}
			r.start()
			g.replicas = append(g.replicas, r)
		}
		c.groups = append(c.groups, g)
	}
	t.Cleanup(c.close)
	return c
}

// close ends all of it.
func (c *cluster) close() {
	c.ns.stop()
	for _, g := range c.groups {
		for _, r := range g.replicas {
			r.stop()
		}
	}
	c.timersMu.Lock()
	for _, t := range c.timers {
		if t.Stop() {
			c.pending.Done()
		}
	}
	c.timersMu.Unlock()
	c.pending.Wait()
}

// topic makes a topic with n queues in each group.
func (c *cluster) topic(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topics[name] = fakeTopic{queues: n, perm: remoting.PermRead | remoting.PermWrite}
}

// client returns a client of the cluster.
func (c *cluster) client(cfg Config) *Client {
	c.t.Helper()
	cfg.NameServers = c.ns.addr
	if cfg.Dial == nil {
		cfg.Dial = c.net.dial
	}
	cl, err := New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := cl.Close(ctx); err != nil {
			c.t.Error("close:", err)
		}
	})
	return cl
}

// later answers after d, as long as the cluster exists.
func (c *cluster) later(d time.Duration, f func()) {
	c.pending.Add(1)
	t := time.AfterFunc(d, func() {
		defer c.pending.Done()
		f()
	})
	c.timersMu.Lock()
	c.timers = append(c.timers, t)
	c.timersMu.Unlock()
}

// fakeServer listens, can crash, and come back at the same address.
type fakeServer struct {
	c       *cluster
	addr    string
	handler func(*remoting.Conn, *remoting.Command)
	onClose func(*remoting.Conn)

	mu   sync.Mutex
	srv  *remoting.Server
	done chan error
}

func (s *fakeServer) start() {
	l := s.c.net.listen(s.c.t, s.addr)
	if s.addr == "" { // a restart is at the same one
		s.addr = l.Addr().String()
	}
	srv := &remoting.Server{Handler: remoting.HandlerFunc(s.handler), Conn: remoting.ConnConfig{OnClose: func(c *remoting.Conn, _ error) {
		if s.onClose != nil {
			s.onClose(c)
		}
	}}}
	done := make(chan error, 1)
	go func(l net.Listener) { done <- srv.Serve(l) }(l)
	s.mu.Lock()
	s.srv, s.done = srv, done
	s.mu.Unlock()
}

// stop closes everything at once, as a crash does.
func (s *fakeServer) stop() {
	s.mu.Lock()
	srv, done := s.srv, s.done
	s.srv = nil
	s.mu.Unlock()
	if srv != nil {
		srv.Close()
		<-done
	}
}

func (s *fakeServer) up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srv != nil
}

// serveNames is the name server.
func (c *cluster) serveNames(conn *remoting.Conn, req *remoting.Command) {
	r := req.Responder()
	switch req.Code {
	case remoting.GetRouteInfoByTopic:
		var h remoting.RouteRequest
		if err := h.Decode(req); err != nil {
			r.Error(err)
			return
		}
		c.mu.Lock()
		c.routes++
		t, ok := c.topics[h.Topic]
		down := c.nsDown[h.Topic]
		c.mu.Unlock()
		if !ok || down {
			r.Error(remoting.Errorf(remoting.TopicNotExist, "no topic %s", h.Topic))
			return
		}
		var d remoting.RouteData
		for _, g := range c.groups {
			if t.only != "" && t.only != g.name {
				continue
			}
			d.Brokers = append(d.Brokers, g.data())
			d.Queues = append(d.Queues, remoting.QueueData{BrokerName: g.name, ReadQueueNums: int32(t.queues), WriteQueueNums: int32(t.queues), Perm: t.perm})
		}
		d.OrderTopicConf = t.order
		r.Respond(&remoting.Command{Body: d.AppendBody(nil, h.StandardJSON)})
	case remoting.GetBrokerClusterInfo:
		info := remoting.ClusterInfo{Brokers: map[string]remoting.BrokerData{}, Clusters: map[string][]string{}}
		for _, g := range c.groups {
			info.Brokers[g.name] = g.data()
			info.Clusters["DefaultCluster"] = append(info.Clusters["DefaultCluster"], g.name)
		}
		r.Respond(&remoting.Command{Body: info.AppendBody(nil)})
	case remoting.GetAllTopicListFromNameserver:
		var l remoting.TopicList
		c.mu.Lock()
		for name := range c.topics {
			l.Topics = append(l.Topics, name)
		}
		c.mu.Unlock()
		r.Respond(&remoting.Command{Body: l.AppendBody(nil)})
	case remoting.DeleteTopicInNamesrv:
		r.Respond(&remoting.Command{})
	default:
		r.Error(remoting.Errorf(remoting.RequestCodeNotSupported, "%d", req.Code))
	}
}

// fakeGroup is a broker group.
type fakeGroup struct {
	c        *cluster
	name     string
	replicas []*fakeReplica

	mu      sync.Mutex
	leader  int    // replica; -1: none
	term    uint64 // 0: the brokers do not know RaftStatusRequest
	routed  int    // the replica that the name server takes for the leader
	queues  map[MessageQueue]*fakeQueue
	min     map[MessageQueue]int64
	sent    map[string]sentAt
	offsets map[string]int64 // group/topic/queue
	locks   map[string]fakeLock
	commits []commit
	ended   []remoting.EndTransactionRequest
	held    []*heldPull
	stored  int // messages, repeats not counted
	repeats int
	phys    int64
	noDedup bool
}

type fakeQueue struct{ records [][]byte }

type sentAt struct {
	queue  int32
	offset int64
	phys   int64
	over   *remoting.Conn
}

type commit struct {
	queue  MessageQueue
	offset int64
}

type heldPull struct {
	h   remoting.PullRequest
	r   remoting.Responder
	own *fakeReplica
}

func (g *fakeGroup) data() remoting.BrokerData {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := remoting.BrokerData{Cluster: "DefaultCluster", BrokerName: g.name, Addrs: map[int64]string{}}
	// The leader has id 0, the others have the rest in turn.
	next := int64(1)
	for i, r := range g.replicas {
		if i == g.routed {
			d.Addrs[0] = r.addr
		} else {
			d.Addrs[next] = r.addr
			next++
		}
	}
	return d
}

// elect makes replica i the leader; the name server hears of it if routed.
func (g *fakeGroup) elect(i int, routed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leader = i
	if g.term > 0 {
		g.term++
	}
	for k, l := range g.locks { // its clock begins anew
		g.locks[k] = fakeLock{l.client, time.Now()}
	}
	if routed {
		g.routed = i
	}
}

// count returns how many messages are stored, and how many repeats were recognised.
func (g *fakeGroup) count() (stored, repeats int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stored, g.repeats
}

// records returns the records of a queue.
func (g *fakeGroup) records(mq MessageQueue) []remoting.RecordView {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []remoting.RecordView
	if q := g.queues[mq]; q != nil {
		for _, b := range q.records {
			v, err := remoting.ParseRecord(b)
			if err != nil {
				g.c.t.Error(err)
			}
			list = append(list, v)
		}
	}
	return list
}

func (g *fakeGroup) offset(group string, mq MessageQueue) (int64, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok := g.offsets[offsetKey(group, mq.Topic, mq.QueueID)]
	return o, ok
}

func offsetKey(group, topic string, queue int32) string {
	return fmt.Sprintf("%s/%s/%d", group, topic, queue)
}

// put stores a message as a broker does. The lock is held.
func (g *fakeGroup) put(h *remoting.SendHeader, body []byte, properties remoting.Properties, flag int32) sentAt {
	mq := MessageQueue{Topic: h.Topic, BrokerName: g.name, QueueID: max(h.QueueID, 0)}
	q := g.queues[mq]
	if q == nil {
		q = &fakeQueue{}
		g.queues[mq] = q
	}
	host := netip.MustParseAddrPort("127.0.0.1:10911")
	if a, err := netip.ParseAddrPort(g.replicas[max(g.leader, 0)].addr); err == nil {
		host = a
	}
	rec := remoting.Record{Topic: h.Topic, QueueID: mq.QueueID, QueueOffset: g.min[mq] + int64(len(q.records)), PhysicalOffset: g.phys, Flag: flag,
		SysFlag: h.SysFlag, BornTimestamp: h.BornTimestamp, BornHost: host, StoreTimestamp: time.Now().UnixMilli(), StoreHost: host,
		ReconsumeTimes: h.ReconsumeTimes, Body: body, Properties: properties}
	b, err := remoting.AppendRecord(nil, &rec)
	if err != nil {
		g.c.t.Error(err)
	}
	q.records = append(q.records, b)
	g.phys += int64(len(b))
	g.stored++
	return sentAt{queue: mq.QueueID, offset: rec.QueueOffset, phys: rec.PhysicalOffset}
}

// fill stores n messages with bodies "0", "1", ... in a queue.
func (g *fakeGroup) fill(mq MessageQueue, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range n {
		props := remoting.AppendProperty(nil, remoting.PropUniqKey, fmt.Sprintf("K%s-%d-%d", g.name, mq.QueueID, i))
		g.put(&remoting.SendHeader{Topic: mq.Topic, QueueID: mq.QueueID}, fmt.Append(nil, i), props, 0)
	}
	g.wake()
}

// wake answers the held pulls for which there is something. The lock is held.
func (g *fakeGroup) wake() {
	g.held = slices.DeleteFunc(g.held, func(p *heldPull) bool {
		if q := g.queues[MessageQueue{Topic: p.h.Topic, BrokerName: g.name, QueueID: p.h.QueueID}]; q == nil || g.min[MessageQueue{Topic: p.h.Topic, BrokerName: g.name, QueueID: p.h.QueueID}]+int64(len(q.records)) <= p.h.QueueOffset {
			return false
		}
		p.r.Respond(g.pull(&p.h))
		return true
	})
}

// pull answers a pull. The lock is held.
func (g *fakeGroup) pull(h *remoting.PullRequest) *remoting.Command {
	mq := MessageQueue{Topic: h.Topic, BrokerName: g.name, QueueID: h.QueueID}
	var records [][]byte
	if q := g.queues[mq]; q != nil {
		records = q.records
	}
	low := g.min[mq]
	high := low + int64(len(records))
	ph := &remoting.PullResponse{NextBeginOffset: h.QueueOffset, MinOffset: low, MaxOffset: high}
	resp := &remoting.Command{Header: ph}
	switch {
	case h.QueueOffset < low:
		resp.Code, ph.NextBeginOffset = remoting.PullOffsetMoved, low
	case h.QueueOffset > high:
		resp.Code, ph.NextBeginOffset = remoting.PullOffsetMoved, high
	case h.QueueOffset == high:
		resp.Code = remoting.PullNotFound
	default:
		examined := min(int(h.MaxMsgNums), len(records)-int(h.QueueOffset-low))
		for _, b := range records[h.QueueOffset-low:][:examined] {
			if wanted(h.Subscription, b) {
				resp.Body = append(resp.Body, b...)
			}
		}
		ph.NextBeginOffset = h.QueueOffset + int64(examined)
		if len(resp.Body) == 0 {
			resp.Code = remoting.PullRetryImmediately
		}
	}
	return resp
}

// wanted selects by the hash of the tag, as brokers do.
func wanted(expression string, record []byte) bool {
	if expression == "*" || expression == "" {
		return true
	}
	v, _ := remoting.ParseRecord(record)
	for _, tag := range strings.Split(expression, "||") {
		if remoting.TagHash(strings.TrimSpace(tag)) == remoting.TagHash(v.Properties().Get(remoting.PropTags)) {
			return true
		}
	}
	return false
}
