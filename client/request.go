package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

const (
	// introduceTime is how long a request waits at most for the routes to those who may have its reply.
	introduceTime = 500 * time.Millisecond
	// introduceInterval is how often, while a reply is waited for, replicas are looked for that do not know who asks.
	introduceInterval = 200 * time.Millisecond
	// replyPause is how long a reply waits to be tried again that its requester could not be given.
	replyPause = 100 * time.Millisecond
)

// requests are the requests of a client that wait for a reply, by correlation id.
type requests struct {
	mu      sync.Mutex
	waiting map[string]chan *MessageExt // with room for one
}

func (r *requests) add(id string) <-chan *MessageExt {
	ch := make(chan *MessageExt, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.waiting = map[string]chan *MessageExt{}
	}
	r.waiting[id] = ch
	return ch
}

func (r *requests) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, id)
}

// Request sends a message, and waits for the reply that a consumer makes with Reply: until ctx ends or, if that has no deadline, for
// ProducerConfig.Timeout. Consumers are told that time as the request's TTL. ErrNoReply: the request was sent, or perhaps (then the error is
// ErrLimbo, too), and no reply has come. Other errors are those of Send: the request is stored nowhere. Each Request is a message of its own;
// of several replies the first counts. The reply is the caller's.
//
// The reply comes over this client's connection to the leader of a broker group, so it can be lost when the leader dies between request and
// reply; a caller that can ask twice should.
func (p *Producer) Request(ctx context.Context, m *Message) (*MessageExt, error) {
	if !p.gate.enter() {
		return nil, notSent(ErrClosed)
	}
	defer p.gate.leave()
	if err := p.cfg.check(m); err != nil {
		return nil, notSent(err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.cfg.Timeout)
		defer cancel()
	}
	deadline, _ := ctx.Deadline()
	id := p.c.keys.Next()
	q := *m
	q.limbo = limbo{}
	q.Properties = withProperties(m.Properties, remoting.PropCorrelationID, id, remoting.PropReplyToClient, p.c.cfg.ClientID,
		remoting.PropTTL, strconv.FormatInt(max(1, time.Until(deadline).Milliseconds()), 10))
	reply := p.c.requests.add(id)
	defer p.c.requests.remove(id)

	p.introduce(ctx, m.Topic)
	_, sent := p.Send(ctx, &q)
	if sent != nil && !errors.Is(sent, ErrLimbo) {
		return nil, sent
	}
	again := time.NewTicker(introduceInterval)
	defer again.Stop()
	for {
		var err error
		select {
		case r := <-reply:
			return r, nil
		case <-again.C:
			p.introduce(ctx, m.Topic)
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-p.dying:
			err = ErrClosed
		}
		if sent != nil {
			err = errors.Join(sent, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrNoReply, err)
	}
}

// withProperties returns a copy of properties with others added: names and values in turn.
func withProperties(properties map[string]string, others ...string) map[string]string {
	all := maps.Clone(properties)
	if all == nil {
		all = map[string]string{}
	}
	for i := 0; i+1 < len(others); i += 2 {
		all[others[i]] = others[i+1]
	}
	return all
}

// introduction is when a replica was told of this client, and over which connection.
type introduction struct {
	conn *remoting.Conn
	at   time.Time
}

// introduce tells the replicas of this client that may have to give it a reply: those of the groups that have the topic, and of those that
// have the reply topic, as repliers choose any of them. Leaders hear of it anyway, but not the one that leads next. Nobody waits for answers:
// over one connection a broker reads the heartbeat before the request.
func (p *Producer) introduce(ctx context.Context, topic string) {
	ctx, cancel := context.WithTimeout(ctx, introduceTime)
	defer cancel()
	r, err := p.c.routeOf(ctx, p.c.topic(topic), false)
	if err != nil {
		return // the send finds out why
	}
	brokers := slices.Clone(r.data.Brokers)
	for _, b := range r.data.Brokers {
		if replies, err := p.c.routeOf(ctx, p.c.topic(remoting.ReplyTopic(b.Cluster)), false); err == nil {
			brokers = append(brokers, replies.data.Brokers...)
		}
	}
	for _, b := range brokers {
		for _, replica := range p.c.group(b.BrokerName).replicas.Load().list {
			p.introduceTo(replica)
		}
	}
}

func (p *Producer) introduceTo(replica *peer) {
	conn := replica.conn.Load()
	if conn == nil {
		if replica.failingFor() < p.c.cfg.HeartbeatInterval {
			p.c.connect(replica)
		}
		return
	}
	now := time.Now()
	p.knownMu.Lock()
	last := p.known[replica]
	due := last.conn != conn || now.Sub(last.at) > p.c.cfg.HeartbeatInterval
	if due {
		if p.known == nil {
			p.known = map[*peer]introduction{}
		}
		p.known[replica] = introduction{conn, now}
	}
	p.knownMu.Unlock()
	if due {
		p.c.heartbeatTo(replica, conn, nil)
	}
}

// serveReply (326) takes a reply. It says yes also to one that nobody waits for any more: sent again it would be no better.
func (c *Client) serveReply(req *remoting.Command) {
	var h remoting.ReplyRequest
	if err := h.Decode(req); err != nil {
		req.Responder().Error(err)
		return
	}
	rec, err := remoting.AppendRecord(nil, &remoting.Record{
		QueueID: h.QueueID, Flag: h.Flag, SysFlag: h.SysFlag, BornTimestamp: h.BornTimestamp, BornHost: hostOf(h.BornHost),
		StoreTimestamp: h.StoreTimestamp, StoreHost: hostOf(h.StoreHost), ReconsumeTimes: h.ReconsumeTimes, Topic: h.Topic,
		Body: req.Body, Properties: remoting.Properties(h.Properties),
	})
	if err != nil {
		req.Responder().Error(remoting.Errorf(remoting.InvalidParameter, "the reply makes no sense: %v", err))
		return
	}
	msgs, err := c.decodeMessages(rec, "")
	if err != nil {
		req.Responder().Error(err)
		return
	}
	id := msgs[0].Property(remoting.PropCorrelationID)
	c.requests.mu.Lock()
	ch := c.requests.waiting[id]
	delete(c.requests.waiting, id) // the first one counts
	c.requests.mu.Unlock()
	req.Responder().Respond(&remoting.Command{}) // first: who waits may close the connection
	if ch != nil {
		ch <- msgs[0]
	} else {
		c.log.Debug("nobody waits for the reply", "correlation", id)
	}
}

// hostOf reads an address that tools may be interested in; 0.0.0.0:0 if it is none.
func hostOf(text string) netip.AddrPort {
	if a, err := netip.ParseAddrPort(strings.TrimPrefix(text, "/")); err == nil { // so Java writes it
		return a
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
}

// Reply answers a message that was sent by Request, or by another client's way of asking: reply's Body, Tags, Keys and Properties go to the
// client that waits, its Topic does not matter. nil means that the client has got it. It is tried until ctx ends, but no longer than the
// request says that its sender waits, and at most ProducerConfig.Timeout if it does not say: then the error is ErrNoReply, and nobody has got
// it for sure. ErrMessage: request is not one.
func (p *Producer) Reply(ctx context.Context, request *MessageExt, reply *Message) error {
	if !p.gate.enter() {
		return notSent(ErrClosed)
	}
	defer p.gate.leave()
	correlation, to, cluster := request.Property(remoting.PropCorrelationID), request.Property(remoting.PropReplyToClient), request.Property(remoting.PropCluster)
	if correlation == "" || to == "" || cluster == "" || reply == nil {
		return notSent(fmt.Errorf("%w: %s is no request: it lacks %s, %s or %s; or the reply is nil", ErrMessage, request.MsgID,
			remoting.PropCorrelationID, remoting.PropReplyToClient, remoting.PropCluster))
	}
	wait := p.cfg.Timeout
	ttl := request.Property(remoting.PropTTL)
	if ms, err := strconv.ParseInt(ttl, 10, 32); err == nil && ms > 0 {
		wait = time.Duration(ms) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	m := *reply
	m.Topic, m.limbo = remoting.ReplyTopic(cluster), limbo{}
	m.DelayLevel, m.DeliverAfter, m.DeliverAt = 0, 0, time.Time{}
	m.Properties = withProperties(reply.Properties, remoting.PropMessageType, "reply", remoting.PropCorrelationID, correlation,
		remoting.PropReplyToClient, to, remoting.PropTTL, ttl)
	s := newSend(p)
	defer s.free()
	if err := s.single(&m); err != nil {
		return err
	}
	// The group that has the request knows who sent it.
	g, err := p.c.groupOf(ctx, request.Queue)
	if err != nil {
		return notSent(err)
	}
	s.req.Code = remoting.SendReplyMessageV2
	for {
		_, err := p.c.callGroup(ctx, g, &s.req)
		var refusal *BrokerError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refusal) && refusal.Code != remoting.SystemError && refusal.Code != remoting.ServiceNotAvailable && refusal.Code != remoting.SystemBusy:
			return &SendError{Kind: ErrRejected, Err: err}
		}
		// The requester may be on its way to a new leader.
		if ended := pause(ctx, jitter(replyPause)); ended != nil {
			return fmt.Errorf("%w: %w: %w", ErrNoReply, ended, err)
		}
	}
}
