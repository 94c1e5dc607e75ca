package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// A replica that does not lead passes on what only the leader can answer
// (forwardToLeader). Stock clients learn of a new leader from the name servers,
// every 30 s, whatever fails: until then this is how they reach it. While there is
// no leader a request is held for a moment.
//
//	R1  A request is passed on by one replica at most: one that is passed on to
//	    another that does not lead either is refused.
//	R2  It is repeated only if it was surely not handled, or if to handle it twice
//	    does no harm; else its client is told that the outcome is unknown.
//	R3  The leader takes it for its client's: bornHost, and what counts as sent
//	    again on purpose.
//	R4  One-way requests of one connection are passed on in the order they come: an
//	    older offset must not overtake a newer one.

const (
	// relayHold is how long a request waits for somebody to lead.
	relayHold = time.Second
	// relayPause is how long it waits when its leader was none.
	relayPause = 20 * time.Millisecond
	// dialTimeout bounds the making of a connection to another replica.
	dialTimeout = time.Second
)

const (
	// extFrom says for whom a replica passes on a request: the client's address,
	// a space, and the number of its session there.
	extFrom = "raftmqFrom"
	// extNotLeading says with SERVICE_NOT_AVAILABLE, or GO_AWAY, that the replica does not lead:
	// nothing was done, and another one will do it.
	extNotLeading = "raftmqNotLeading"
)

// relayed are the requests that are passed on, and whether one of which nobody
// knows if it was handled may be repeated.
var relayed = map[int32]func(b *Broker, req *remoting.Command) bool{
	remoting.SendMessage:      (*Broker).repeatableSend,
	remoting.SendMessageV2:    (*Broker).repeatableSend,
	remoting.SendBatchMessage: (*Broker).repeatableSend,

	remoting.EndTransaction:         harmless,
	remoting.ResumeCheckHalfMessage: harmless,
	// Its copy has a key of its own.
	remoting.ConsumerSendMsgBack: func(b *Broker, _ *remoting.Command) bool { return b.remembers(fsm.Key{1}) },

	remoting.RecallMessage: notTwice, // the second is told that no such message waits

	remoting.UpdateConsumerOffset: notTwice, // the client has gone on meanwhile
	remoting.QueryConsumerOffset:  harmless,
	remoting.GetMaxOffset:         harmless,
	remoting.GetMinOffset:         harmless,
	remoting.LockBatchMQ:          harmless,
	remoting.UnlockBatchMQ:        notTwice, // it may have locked them again

	remoting.InvokeBrokerToResetOffset: notTwice,
	remoting.CloneGroupOffset:          notTwice,
	remoting.ResendDeadLettersRequest:  notTwice,

	remoting.UpdateAndCreateTopic:             harmless,
	remoting.DeleteTopicInBroker:              notTwice,
	remoting.UpdateAndCreateSubscriptionGroup: harmless,
	remoting.DeleteSubscriptionGroup:          notTwice,

	remoting.RaftAddPeerRequest:      harmless,
	remoting.RaftRemovePeerRequest:   notTwice, // the second finds no such member
	remoting.RaftPromoteRequest:      harmless,
	remoting.RaftDemoteRequest:       harmless,
	remoting.RaftAutopilotRequest:    harmless,
	remoting.RaftSetAutopilotRequest: harmless,
}

func harmless(*Broker, *remoting.Command) bool { return true }
func notTwice(*Broker, *remoting.Command) bool { return false }

// repeatableSend says whether a send that is repeated is stored once.
func (b *Broker) repeatableSend(req *remoting.Command) bool {
	var h remoting.SendHeader
	if h.Decode(req) != nil || !b.remembers(fsm.Key{1}) {
		return false
	}
	topic, ok := b.group.State().Topic(h.Topic)
	return ok && topic.Config.Attributes[fsm.AttributeDedup] != "false" && !h.Batch && scanProperties(h.Properties).uniq != ""
}

// relays says whether a request is passed on, or has to wait for others that are.
func (b *Broker) relays(s *session, req *remoting.Command) bool {
	_, known := relayed[req.Code]
	return known && *b.cfg.ForwardToLeader && (!b.leads() || req.IsOneway() && s.relaying()) && req.Ext.Get(extFrom) == "" // R1
}

// extHeld marks, within a replica, a request that was to be passed on already.
const extHeld = "raftmqHeld"

// relaysAfter says whether a request is passed on that this replica has begun to
// handle, and found that it leads no more: if nothing was done, or may be done
// again, and not for ever.
func (b *Broker) relaysAfter(req *remoting.Command) bool {
	repeatable, known := relayed[req.Code]
	return known && *b.cfg.ForwardToLeader && req.Ext.Get(extFrom) == "" && req.Ext.Get(extHeld) == "" &&
		(isSend(req) || repeatable(b, req))
}

// relay passes a request on and its answer back.
func (b *Broker) relay(s *session, req *remoting.Command, handle handler) {
	out := &remoting.Command{
		Code: req.Code, Version: req.Version, Language: req.Language, Body: req.Body,
		Ext: append(slices.Clip(slices.Clone(req.Ext)), remoting.Field{Key: extFrom, Value: fmt.Sprint(s.addr, " ", s.number)}),
	}
	if req.IsOneway() {
		b.relayOneway(s, req, out, handle)
		return
	}
	req = req.Clone()
	req.Ext = append(req.Ext, remoting.Field{Key: extHeld, Value: "true"})
	out.Body = req.Body
	refuse := func(err error) { b.refuse(req.Responder(), err) }
	b.run(b.relaying, requestBytes(req), refuse, func(ctx context.Context) { b.relayNow(ctx, s, req, out, handle, refuse) })
}

// relayOneway passes on a request whose client does not wait, after those that came
// before it. (R4)
func (b *Broker) relayOneway(s *session, req, out *remoting.Command, handle handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.oneway) == 0 {
		if c := b.links.connected(b.group.Leadership().Address); c != nil && c.Notify(out) == nil {
			return
		}
	}
	req = req.Clone()
	out.Body = req.Body
	deadline := time.Now().Add(requestTimeout)
	s.oneway = append(s.oneway, func(ctx context.Context) {
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		b.relayNow(ctx, s, req, out, handle, func(err error) { b.refuse(req.Responder(), err) })
	})
	if !b.relaying.try(requestBytes(req), s.relayFirst) {
		s.oneway = s.oneway[:len(s.oneway)-1] // it is lost, as on the way
	}
}

// relayFirst passes on the first of the session's one-way requests that wait. There
// is one call for each.
func (s *session) relayFirst(ctx context.Context) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	first := s.oneway[0]
	s.mu.Unlock()
	first(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oneway[0] = nil
	if s.oneway = s.oneway[1:]; len(s.oneway) == 0 {
		s.oneway = nil
	}
}

// relaying says whether one-way requests wait to be passed on.
func (s *session) relaying() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.oneway) > 0
}

func (b *Broker) relayNow(ctx context.Context, s *session, req, out *remoting.Command, handle handler, refuse func(error)) {
	limbo := false
	for {
		held, cancel := context.WithTimeout(ctx, relayHold)
		lead := b.nextLeader(held)
		cancel()
		switch {
		case lead.Self && limbo:
			// The answer to the first one, or its storing, is found by its key.
			req.Ext = markRepeat(req.Ext)
			if isSend(req) {
				b.sendAfter(s, req, true)
				return
			}
			fallthrough
		case lead.Self:
			handle(b, s, req)
			return
		case lead.Address == "" && limbo:
			b.relayUnknown(req)
			return
		case lead.Address == "":
			refuse(raftgroup.ErrNotLeader)
			return
		}
		if limbo {
			out.Ext = markRepeat(out.Ext)
		}
		resp, err := b.askLeader(ctx, lead.Address, out, req.IsOneway())
		switch {
		case err == nil && resp == nil: // one-way
			return
		case err == nil && resp.Ext.Get(extOutcome) == "unknown" && relayed[req.Code](b, req) && ctx.Err() == nil:
			limbo = true // whoever leads next knows
		case err == nil && resp.Ext.Get(extNotLeading) == "" && limbo && isSend(req) && refused(resp):
			b.relayUnknown(req) // that this one was refused says nothing of the first
			return
		case err == nil && resp.Ext.Get(extNotLeading) == "":
			resp.Ext.Add(extLeader, lead.Address)
			req.Responder().Respond(&remoting.Command{Code: resp.Code, Version: resp.Version, Language: resp.Language, Remark: resp.Remark, Ext: resp.Ext, Body: resp.Body})
			return
		case err == nil:
			// It does not lead, or not any more, and nobody has told us yet.
		case errors.Is(err, remoting.ErrFrameTooLarge), errors.Is(err, remoting.ErrTooLong):
			refuse(fmt.Errorf("%w: %w", raftgroup.ErrTooLarge, err)) // it would be so again
			return
		case errors.Is(err, remoting.ErrLimbo):
			limbo = true
			if !relayed[req.Code](b, req) {
				b.relayUnknown(req)
				return
			}
		}
		select {
		case <-time.After(relayPause):
		case <-ctx.Done():
			if limbo {
				b.relayUnknown(req)
			} else {
				refuse(raftgroup.ErrNotLeader)
			}
			return
		}
	}
}

func isSend(req *remoting.Command) bool {
	switch req.Code {
	case remoting.SendMessage, remoting.SendMessageV2, remoting.SendBatchMessage:
		return true
	}
	return false
}

// refused says whether the answer to a send is that it was not stored.
func refused(resp *remoting.Command) bool {
	switch resp.Code {
	case remoting.Success, remoting.SlaveNotAvailable, remoting.FlushDiskTimeout, remoting.FlushSlaveTimeout:
		return false
	}
	return true
}

func markRepeat(ext remoting.Fields) remoting.Fields {
	if ext.Get(extRepeat) == "" {
		ext = append(ext, remoting.Field{Key: extRepeat, Value: "true"})
	}
	return ext
}

// relayUnknown answers a request that was passed on and may have been handled.
func (b *Broker) relayUnknown(req *remoting.Command) {
	err := fmt.Errorf("%w: the leader did not answer", raftgroup.ErrUnknown)
	var h remoting.SendHeader
	if isSend(req) && h.Decode(req) == nil {
		b.counters.putUnknown.Add(1)
		resp := &remoting.Command{Code: remoting.FlushSlaveTimeout, Remark: err.Error(), Header: &remoting.SendResponse{
			MsgID: remoting.OffsetMsgID(b.addr, -1), QueueID: h.QueueID, QueueOffset: -1,
		}}
		resp.Ext.Add(extOutcome, "unknown")
		req.Responder().Respond(resp)
		return
	}
	b.refuse(req.Responder(), err)
}

// askLeader passes a request on to the replica that leads and returns its answer;
// none if it is one-way. Its errors are those of remoting's Call.
func (b *Broker) askLeader(ctx context.Context, addr string, req *remoting.Command, oneway bool) (*remoting.Command, error) {
	c, err := b.links.get(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", remoting.ErrNotSent, err)
	}
	if oneway {
		return nil, c.Notify(req)
	}
	return c.Call(ctx, req)
}

// from is who a request is from: the connection's client, or the one it was
// passed on for. A session that this replica does not have gets a number that no
// session here has.
func (s *session) from(req *remoting.Command) (netip.AddrPort, origin) {
	text := req.Ext.Get(extFrom)
	if text == "" {
		return s.addr, origin{session: s.number}
	}
	host, session, _ := strings.Cut(text, " ")
	addr, err := netip.ParseAddrPort(host)
	number, err2 := strconv.ParseUint(session, 10, 64)
	if err != nil || err2 != nil {
		return s.addr, origin{session: s.number} // no replica has written that
	}
	return addr, origin{session: number, by: s.number}
}

// origin is a session of a client, here or, with by, at the replica at the other
// end of that session.
type origin struct{ session, by uint64 }

// links are this replica's connections to others.
type links struct {
	maxFrame int

	mu     sync.Mutex
	byAddr map[string]*link
	closed bool
}

type link struct {
	dialing chan struct{} // room for the one who dials
	mu      sync.Mutex
	conn    *remoting.Conn
}

var errLinksClosed = errors.New("this replica is closing")

// connected returns the connection to an address, if there is one.
func (l *links) connected(addr string) *remoting.Conn {
	l.mu.Lock()
	k := l.byAddr[addr]
	l.mu.Unlock()
	if k == nil {
		return nil
	}
	return k.alive()
}

func (k *link) alive() *remoting.Conn {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn == nil || k.conn.Err() != nil {
		return nil
	}
	return k.conn
}

// get returns a connection to an address, a new one if need be.
func (l *links) get(ctx context.Context, addr string) (*remoting.Conn, error) {
	l.mu.Lock()
	if l.byAddr == nil {
		l.byAddr = map[string]*link{}
	}
	k := l.byAddr[addr]
	if k == nil {
		k = &link{dialing: make(chan struct{}, 1)}
		l.byAddr[addr] = k
	}
	l.mu.Unlock()
	if c := k.alive(); c != nil {
		return c, nil
	}
	select {
	case k.dialing <- struct{}{}:
		defer func() { <-k.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c := k.alive(); c != nil {
		return c, nil
	}
	nc, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(errLinksClosed, nc.Close())
	}
	c := remoting.NewConn(nc, remoting.ConnConfig{MaxFrame: l.maxFrame}, nil)
	k.mu.Lock()
	k.conn = c
	k.mu.Unlock()
	return c, nil
}

// close ends all connections: who waits for an answer finds it in limbo.
func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, k := range l.byAddr { // in any order
		if c := k.alive(); c != nil {
			c.Close() // its error is always nil
		}
	}
}
