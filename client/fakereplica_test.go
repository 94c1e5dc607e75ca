package client

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// script is what a replica does about one request instead of answering it.
type script struct {
	dropBefore bool              // close the connection
	dropAfter  bool              // carry it out and close the connection
	silent     bool              // carry it out and say nothing
	deaf       bool              // say nothing
	delay      time.Duration     // carry it out after a while
	answer     *remoting.Command // say this
	store      bool              // and carry it out too
	then       func()            // run this first
}

// fakeReplica is one broker process.
type fakeReplica struct {
	*fakeServer
	g  *fakeGroup
	id int64

	// Under the group's lock.
	scripts   map[int32][]script // by request code, used up one after the other
	always    func(req *remoting.Command) *script
	clients   map[string]map[string]*remoting.Conn // by group and client id
	asking    map[string]*remoting.Conn            // producers, by client id
	producers map[string]*remoting.Conn            // by group
	seen      []int32                              // codes of requests
	beats     []remoting.Heartbeat
	backs     []remoting.SendBackRequest // carried out
	forward   bool                       // a follower passes writes on to the leader
	hint      bool                       // a follower names the leader
}

// next scripts what happens to the next requests of a code.
func (r *fakeReplica) next(code int32, s ...script) {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	r.scripts[code] = append(r.scripts[code], s...)
}

// requests returns how many requests of a code came.
func (r *fakeReplica) requests(code int32) int {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	n := 0
	for _, c := range r.seen {
		if c == code {
			n++
		}
	}
	return n
}

func (r *fakeReplica) serve(conn *remoting.Conn, req *remoting.Command) {
	g := r.g
	g.mu.Lock()
	r.seen = append(r.seen, req.Code)
	var s script
	if list := r.scripts[req.Code]; len(list) > 0 {
		s, r.scripts[req.Code] = list[0], list[1:]
	} else if r.always != nil {
		if a := r.always(req); a != nil {
			s = *a
		}
	}
	g.mu.Unlock()
	if s.then != nil {
		s.then()
	}
	answer := func(req *remoting.Command) {
		g.mu.Lock()
		defer g.mu.Unlock()
		resp := r.execute(conn, req)
		if s.dropAfter || s.silent || s.answer != nil {
			resp = nil
		}
		if resp != nil {
			req.Responder().Respond(resp)
		}
	}
	switch {
	case s.dropBefore:
		conn.Fail(errors.New("script"))
	case s.dropAfter:
		answer(req)
		conn.Fail(errors.New("script"))
	case s.deaf:
	case s.answer != nil:
		if s.store {
			answer(req)
		}
		req.Responder().Respond(s.answer)
	case s.delay > 0:
		req := req.Clone()
		g.c.later(s.delay, func() { answer(req) })
	default:
		answer(req)
	}
}

// leads says whether r may answer what only leaders do, and if not, what to say. The group's lock is held.
func (r *fakeReplica) leads() *remoting.Command {
	g := r.g
	if g.leader >= 0 && g.replicas[g.leader] == r || g.leader >= 0 && r.forward && g.replicas[g.leader].up() {
		return nil
	}
	resp := &remoting.Command{Code: remoting.ServiceNotAvailable, Remark: "not the leader"}
	if g.leader >= 0 && r.hint {
		resp.Ext.Add(extLeader, g.replicas[g.leader].addr)
	}
	return resp
}

// execute carries out a request; nil: it is answered later. The group's lock is held.
func (r *fakeReplica) execute(conn *remoting.Conn, req *remoting.Command) *remoting.Command {
	g := r.g
	switch req.Code {
	case remoting.SendMessageV2, remoting.SendBatchMessage, remoting.UpdateConsumerOffset, remoting.ConsumerSendMsgBack, remoting.UpdateAndCreateTopic,
		remoting.LockBatchMQ, remoting.UnlockBatchMQ, remoting.SendReplyMessageV2:
		if no := r.leads(); no != nil {
			return no
		}
	}
	refuse := func(err error) *remoting.Command {
		return &remoting.Command{Code: remoting.InvalidParameter, Remark: err.Error()}
	}
	switch req.Code {
	case remoting.RaftStatusRequest:
		if g.term == 0 {
			return refuse(errors.New("unknown request"))
		}
		s := remoting.RaftStatus{Term: g.term}
		if g.leader >= 0 {
			s.LeaderAddress = g.replicas[g.leader].addr
		}
		return &remoting.Command{Body: s.AppendBody(nil)}
	case remoting.SendMessageV2, remoting.SendBatchMessage:
		return r.executeSend(conn, req)
	case remoting.PullMessage:
		var h remoting.PullRequest
		if err := h.Decode(req); err != nil {
			return refuse(err)
		}
		resp := g.pull(&h)
		if resp.Code == remoting.PullNotFound && h.SysFlag&remoting.PullSuspend != 0 {
			p := &heldPull{h, req.Responder(), r}
			g.held = append(g.held, p)
			g.c.later(time.Duration(h.SuspendTimeoutMillis)*time.Millisecond, func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				if i := slices.Index(g.held, p); i >= 0 {
					g.held = slices.Delete(g.held, i, i+1)
					p.r.Respond(g.pull(&h))
				}
			})
			return nil
		}
		return resp
	case remoting.QueryConsumerOffset:
		var h remoting.QueryConsumerOffsetRequest
		if err := h.Decode(req); err != nil {
			return refuse(err)
		}
		if o, ok := g.offsets[offsetKey(h.ConsumerGroup, h.Topic, h.QueueID)]; ok {
			return &remoting.Command{Header: &remoting.OffsetResponse{Offset: o}}
		}
		return &remoting.Command{Code: remoting.QueryNotFound, Remark: "none"}
	case remoting.UpdateConsumerOffset:
		var h remoting.UpdateConsumerOffsetRequest
		if err := h.Decode(req); err != nil {
			return refuse(err)
		}
		g.offsets[offsetKey(h.ConsumerGroup, h.Topic, h.QueueID)] = h.CommitOffset
		g.commits = append(g.commits, commit{MessageQueue{Topic: h.Topic, BrokerName: g.name, QueueID: h.QueueID}, h.CommitOffset})
		return &remoting.Command{}
	case remoting.GetMaxOffset, remoting.GetMinOffset, remoting.GetEarliestMsgStoreTime:
		var h remoting.QueueRequest
		if err := h.Decode(req); err != nil {
			return refuse(err)
		}
		mq := MessageQueue{Topic: h.Topic, BrokerName: g.name, QueueID: h.QueueID}
		o, first := g.min[mq], int64(-1)
		if q := g.queues[mq]; q != nil {
			if req.Code == remoting.GetMaxOffset {
				o += int64(len(q.records))
			}
			if len(q.records) > 0 {
				v, _ := remoting.ParseRecord(q.records[0])
				first = v.StoreTimestamp()
			}
		}
		if req.Code == remoting.GetEarliestMsgStoreTime {
			return &remoting.Command{Header: &remoting.TimestampResponse{Timestamp: first}}
		}
		return &remoting.Command{Header: &remoting.OffsetResponse{Offset: o}}
	case remoting.SearchOffsetByTimestamp:
		var h remoting.SearchOffsetRequest
		if err := h.Decode(req); err != nil {
			return refuse(err)
		}
		mq := MessageQueue{Topic: h.Topic, BrokerName: g.name, QueueID: h.QueueID}
		o := g.min[mq]
		if q := g.queues[mq]; q != nil {
			for _, b := range q.records {
				if v, _ := remoting.ParseRecord(b); v.StoreTimestamp() >= h.Timestamp {
					break
				}
				o++
			}
		}
		return &remoting.Command{Header: &remoting.OffsetResponse{Offset: o}}
	case remoting.SendReplyMessageV2:
		return r.executeReply(req)
	case remoting.ViewMessageByID, remoting.QueryMessage:
		return r.executeQuery(req)
	case remoting.HeartBeat:
		return r.executeHeartbeat(conn, req)
	case remoting.UnregisterClient:
		var h remoting.UnregisterClientRequest
		if err := h.Decode(req); err != nil {
			return refuse(err)
		}
		delete(r.clients[h.ConsumerGroup], h.ClientID)
		r.notify(h.ConsumerGroup)
		return &remoting.Command{}
	case remoting.GetConsumerListByGroup:
		list := remoting.ConsumerList(slices.Collect(maps.Keys(r.clients[req.Ext.Get("consumerGroup")])))
		if len(list) == 0 {
			return &remoting.Command{Code: remoting.SystemError, Remark: "nobody"}
		}
		return &remoting.Command{Body: list.AppendBody(nil)}
	case remoting.ConsumerSendMsgBack:
		return r.executeSendBack(req)
	case remoting.LockBatchMQ, remoting.UnlockBatchMQ:
		return r.executeLock(req)
	case remoting.EndTransaction:
		return r.executeEndTransaction(req)
	case remoting.UpdateAndCreateTopic:
		var t remoting.TopicConfig
		if err := t.Decode(req); err != nil {
			return refuse(err)
		}
		g.c.topic(t.Name, int(t.WriteQueueNums))
		return &remoting.Command{}
	case remoting.GetTopicStatsInfo:
		var s remoting.TopicStats
		for mq, q := range g.queues {
			if mq.Topic == req.Ext.Get("topic") {
				s.Queues = append(s.Queues, remoting.QueueStats{MessageQueue: mq, MinOffset: g.min[mq], MaxOffset: g.min[mq] + int64(len(q.records))})
			}
		}
		return &remoting.Command{Body: s.AppendBody(nil)}
	}
	return &remoting.Command{Code: remoting.RequestCodeNotSupported, Remark: remoting.RequestName(req.Code)}
}

// executeSend stores a message or batch once per id. The group's lock is held.
func (r *fakeReplica) executeSend(conn *remoting.Conn, req *remoting.Command) *remoting.Command {
	g := r.g
	var h remoting.SendHeader
	if err := h.Decode(req); err != nil {
		return &remoting.Command{Code: remoting.InvalidParameter, Remark: err.Error()}
	}
	g.c.mu.Lock()
	t, ok := g.c.topics[h.Topic]
	g.c.mu.Unlock()
	if ok && int(h.QueueID) >= t.queues {
		return &remoting.Command{Code: remoting.InvalidParameter, Remark: "no such queue"}
	}
	batch := []remoting.BatchMessage{{Flag: h.Flag, Body: req.Body, Properties: remoting.Properties(h.Properties)}}
	if h.Batch {
		var err error
		if batch, err = remoting.DecodeBatch(req.Body, 1000); err != nil {
			return &remoting.Command{Code: remoting.MessageIllegal, Remark: err.Error()}
		}
	}
	if group, ok := strings.CutPrefix(h.Topic, remoting.RetryPrefix); ok && h.MaxReconsumeTimes >= 0 && h.ReconsumeTimes > h.MaxReconsumeTimes {
		h.Topic = remoting.DLQTopic(group)
	}
	key := h.Topic
	for _, m := range batch {
		key += "/" + m.Properties.Get(remoting.PropUniqKey)
	}
	at, known := g.sent[key]
	if known && at.over == conn && req.Ext.Get(extRepeat) != "true" {
		// A broker may take it for one that is made on purpose, and store it.
		g.c.t.Errorf("%s is sent again and does not say so", key)
	}
	if known && !g.noDedup {
		g.repeats++
	} else {
		for i, m := range batch {
			props := m.Properties
			if level := props.Get(remoting.PropDelay); level != "" && strings.HasPrefix(h.Topic, remoting.RetryPrefix) {
				props = props.AppendExcept(nil, remoting.PropDelay) // nobody waits in tests
			}
			if props.Get(remoting.PropTransaction) == "true" {
				props = remoting.AppendProperty(slices.Clone(props), remoting.PropRealTopic, h.Topic)
				h.Topic, h.QueueID = remoting.TopicHalf, 0
			}
			a := g.put(&h, slices.Clone(m.Body), slices.Clone(props), m.Flag)
			if i == 0 {
				at = a
			}
		}
		at.over = conn
		g.sent[key] = at
		g.wake()
	}
	id := "7F00000100002A9F0000000000000400"
	if h.Topic == remoting.TopicHalf {
		id = remoting.OffsetMsgID(netip.MustParseAddrPort("127.0.0.1:10911"), at.phys)
	}
	return &remoting.Command{Header: &remoting.SendResponse{MsgID: id, QueueID: at.queue, QueueOffset: at.offset}}
}

// executeReply passes a reply on to who has asked. The group's lock is held.
func (r *fakeReplica) executeReply(req *remoting.Command) *remoting.Command {
	var h remoting.SendHeader
	if err := h.Decode(req); err != nil {
		return &remoting.Command{Code: remoting.InvalidParameter, Remark: err.Error()}
	}
	conn := r.asking[remoting.Properties(h.Properties).Get(remoting.PropReplyToClient)]
	responder := req.Responder()
	push := &remoting.Command{Code: remoting.PushReplyMessageToClient, Body: slices.Clone(req.Body), Header: &remoting.ReplyRequest{
		ProducerGroup: h.ProducerGroup, Topic: h.Topic, SysFlag: h.SysFlag, BornTimestamp: h.BornTimestamp, Flag: h.Flag, Properties: h.Properties,
		BornHost: "/10.0.0.9:1", StoreHost: r.addr, StoreTimestamp: time.Now().UnixMilli(),
	}}
	if conn == nil || conn.CallAsync(push, time.Second, func(_ *remoting.Command, err error) {
		if err != nil {
			responder.Error(remoting.Errorf(remoting.SystemError, "not pushed: %v", err))
			return
		}
		responder.Respond(&remoting.Command{Header: &remoting.SendResponse{MsgID: "0"}})
	}) != nil {
		return &remoting.Command{Code: remoting.SystemError, Remark: "the requester is not here"}
	}
	return nil
}

func (r *fakeReplica) executeQuery(req *remoting.Command) *remoting.Command {
	g := r.g
	resp := &remoting.Command{}
	for _, q := range g.queues {
		for _, b := range q.records {
			v, _ := remoting.ParseRecord(b)
			if req.Code == remoting.ViewMessageByID {
				if req.Ext.Get("offset") == strconv.FormatInt(v.PhysicalOffset(), 10) {
					resp.Body = b
				}
			} else if strings.Contains(v.Properties().Get(remoting.PropKeys)+" "+v.Properties().Get(remoting.PropUniqKey), req.Ext.Get("key")) {
				resp.Body = append(resp.Body, b...) // too many, as hashes find too many
			}
		}
	}
	if len(resp.Body) == 0 {
		return &remoting.Command{Code: remoting.QueryNotFound, Remark: "none"}
	}
	return resp
}

func (r *fakeReplica) executeHeartbeat(conn *remoting.Conn, req *remoting.Command) *remoting.Command {
	var h remoting.Heartbeat
	if err := h.DecodeBody(req.Body); err != nil {
		return &remoting.Command{Code: remoting.SystemError, Remark: err.Error()}
	}
	r.beats = append(r.beats, h)
	if len(h.Producers) > 0 {
		if r.asking == nil {
			r.asking, r.producers = map[string]*remoting.Conn{}, map[string]*remoting.Conn{}
		}
		r.asking[h.ClientID] = conn
	}
	for _, group := range h.Producers {
		r.producers[group] = conn
	}
	for _, d := range h.Consumers {
		retry := remoting.RetryTopic(d.Group)
		r.g.c.mu.Lock()
		if _, ok := r.g.c.topics[retry]; !ok {
			r.g.c.topics[retry] = fakeTopic{queues: 1, perm: remoting.PermRead | remoting.PermWrite}
		}
		r.g.c.mu.Unlock()
		if r.clients[d.Group] == nil {
			r.clients[d.Group] = map[string]*remoting.Conn{}
		}
		if r.clients[d.Group][h.ClientID] != conn {
			r.clients[d.Group][h.ClientID] = conn
			r.notify(d.Group)
		}
	}
	return &remoting.Command{}
}

// notify tells the clients of a group that it has changed. The group's lock is held.
func (r *fakeReplica) notify(group string) {
	for _, c := range r.clients[group] {
		c.Notify(&remoting.Command{Code: remoting.NotifyConsumerIDsChanged, Header: &remoting.ConsumerGroupRequest{ConsumerGroup: group}})
	}
}

// closed forgets the clients of a connection.
func (r *fakeReplica) closed(conn *remoting.Conn) {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	for group, clients := range r.clients {
		for id, c := range clients {
			if c == conn {
				delete(clients, id)
				r.notify(group)
			}
		}
	}
}

func (r *fakeReplica) executeSendBack(req *remoting.Command) *remoting.Command {
	g := r.g
	var h remoting.SendBackRequest
	if err := h.Decode(req); err != nil {
		return &remoting.Command{Code: remoting.InvalidParameter, Remark: err.Error()}
	}
	for _, q := range g.queues {
		for _, b := range q.records {
			v, _ := remoting.ParseRecord(b)
			if v.PhysicalOffset() != h.Offset {
				continue
			}
			r.backs = append(r.backs, h)
			topic := remoting.RetryTopic(h.Group)
			if h.DelayLevel < 0 || v.ReconsumeTimes() >= h.MaxReconsumeTimes && h.MaxReconsumeTimes >= 0 {
				topic = remoting.DLQTopic(h.Group)
			}
			props := v.Properties().AppendExcept(nil)
			if props.Get(remoting.PropRetryTopic) == "" {
				props = remoting.AppendProperty(props, remoting.PropRetryTopic, v.Topic())
			}
			g.put(&remoting.SendHeader{Topic: topic, ReconsumeTimes: v.ReconsumeTimes() + 1, SysFlag: v.SysFlag(), BornTimestamp: v.BornTimestamp()}, v.Body(), props, v.Flag())
			g.wake()
			return &remoting.Command{}
		}
	}
	return &remoting.Command{Code: remoting.SystemError, Remark: "no message there"}
}

// fakeLock is a queue that a client has locked for a group.
type fakeLock struct {
	client string
	at     time.Time
}

// fakeLockTime is how long a broker keeps a lock that is not renewed.
const fakeLockTime = time.Minute

// executeLock locks or unlocks. The group's lock is held.
func (r *fakeReplica) executeLock(req *remoting.Command) *remoting.Command {
	g := r.g
	var h remoting.LockRequest
	if err := h.DecodeBody(req.Body); err != nil {
		return &remoting.Command{Code: remoting.InvalidParameter, Remark: err.Error()}
	}
	ours := remoting.LockResponse{}
	for _, mq := range h.Queues {
		k := offsetKey(h.ConsumerGroup, mq.Topic, mq.QueueID)
		l := g.locks[k]
		switch mine := l.client == h.ClientID; {
		case req.Code == remoting.UnlockBatchMQ && mine:
			delete(g.locks, k)
		case req.Code == remoting.LockBatchMQ && (mine || time.Since(l.at) >= fakeLockTime):
			g.locks[k] = fakeLock{h.ClientID, time.Now()}
			ours = append(ours, mq)
		}
	}
	if req.Code == remoting.UnlockBatchMQ {
		return &remoting.Command{}
	}
	return &remoting.Command{Body: ours.AppendBody(nil)}
}
