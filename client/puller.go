package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// puller pulls from one queue, at whichever replica answers.
type puller struct {
	c       *Client
	group   string
	mq      MessageQueue
	sub     *subscription
	g       *group
	from    int64 // the broker id that was suggested
	max     int
	suspend time.Duration // how long the broker may hold the request; 0: not at all
	walk    walk
}

// pull asks one replica, the next one in the walk. An error is that of a connection, a *BrokerError, or errNoLeader if the round is over:
// turn tells when to go on.
func (pl *puller) pull(ctx context.Context, offset int64) (*PullResult, error) {
	pl.walk.prefer = nil
	if pl.from != 0 {
		pl.walk.prefer = pl.g.replicas.Load().byID[pl.from]
	}
	p := pl.walk.next()
	if p == nil {
		return nil, fmt.Errorf("%w: %s", errNoLeader, pl.g.name)
	}
	pl.walk.try(p)
	hold := pl.suspend
	if d, ok := ctx.Deadline(); ok {
		// An answer that says "nothing" is better than none: the connection is not to blame.
		hold = min(hold, max(time.Until(d)-time.Second, time.Until(d)/2))
	}
	h := &remoting.PullRequest{
		ConsumerGroup: pl.group, Topic: pl.mq.Topic, QueueID: pl.mq.QueueID, QueueOffset: offset, MaxMsgNums: int32(pl.max),
		// The subscription comes with each pull, so that a replica that has not heard of us yet can serve it.
		SysFlag: remoting.PullSubscription, Subscription: pl.sub.expression, SubVersion: pl.sub.version, ExpressionType: pl.sub.kind,
		BrokerName: pl.mq.BrokerName,
	}
	if hold > 0 {
		h.SysFlag |= remoting.PullSuspend
		h.SuspendTimeoutMillis = hold.Milliseconds()
	}
	resp, err := p.call(ctx, &remoting.Command{Code: remoting.PullMessage, Header: h}, pl.c.cfg.CallTimeout/3, hold+pullMargin)
	if err != nil {
		return nil, err
	}
	return pl.read(p, offset, resp)
}

// read reads the answer of p to a pull from offset.
func (pl *puller) read(p *peer, offset int64, resp *remoting.Command) (*PullResult, error) {
	res := &PullResult{}
	switch resp.Code {
	case remoting.Success:
		res.Status = PullFound
	case remoting.PullNotFound:
		res.Status = PullNoNew
	case remoting.PullRetryImmediately:
		res.Status = PullNoMatch
	case remoting.PullOffsetMoved:
		if l := pl.g.leader.Load(); l != nil && l != p {
			// It may just be behind. The leader is not.
			pl.walk.redirected(l)
			pl.from = 0
			return nil, fmt.Errorf("replica %s of broker %s says that offset %d is outside of the queue, which only the leader can know", p.addr, pl.g.name, offset)
		}
		res.Status = PullOffsetMoved
	default:
		if l := pl.c.leaderIn(resp); l != nil {
			pl.g.lead(l)
			pl.walk.redirected(l)
			pl.from = 0
		}
		return nil, fmt.Errorf("pull: broker %s: %w", pl.g.name, resp.Err())
	}
	var h remoting.PullResponse
	if err := h.Decode(resp); err != nil {
		return nil, fmt.Errorf("pull: answer of broker %s: %w", pl.g.name, err)
	}
	res.NextOffset, res.MinOffset, res.MaxOffset = h.NextBeginOffset, h.MinOffset, h.MaxOffset
	pl.from = h.SuggestBrokerID
	if res.Status == PullFound {
		list, err := pl.c.decodeMessages(resp.Body, pl.g.name)
		if err != nil {
			return nil, fmt.Errorf("pull: %w", err)
		}
		// What there was no room for is pulled again.
		if i := slices.IndexFunc(list, func(m *MessageExt) bool { return m.Err == errAnswerFull }); i > 0 {
			res.NextOffset, list = list[i].QueueOffset, list[:i]
		}
		if res.Messages = pl.sub.filter(list); len(res.Messages) == 0 {
			res.Status = PullNoMatch
		}
	}
	if res.Status != PullOffsetMoved && res.NextOffset < offset {
		res.NextOffset = offset // an old broker's bug: it would mean to read again what was read
	}
	pl.walk = walk{g: pl.g, tried: pl.walk.tried[:0]}
	return res, nil
}

// passes reports whether a refusal is one of the moment.
func (pl *puller) passes(code int32) bool {
	switch code {
	case remoting.ServiceNotAvailable, remoting.SystemBusy, remoting.FlowControl, remoting.GoAway, remoting.SubscriptionNotExist,
		remoting.SubscriptionNotLatest, remoting.NotLeaderForQueue:
		return true
	}
	return false
}

// turn waits, after a failed pull, until it is time for the next one: at once if there is another replica to ask.
func (pl *puller) turn(ctx context.Context, limit time.Duration) error {
	if !pl.walk.over() {
		return ctx.Err()
	}
	pl.c.refreshGroup(pl.g)
	return pause(ctx, pl.walk.again(limit))
}
