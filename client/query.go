package client

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// View returns the message that an OffsetMsgID names. It asks the broker in the id, and if that cannot be reached or does not have it the
// other replicas of its group, which have the same record at the same place. ErrNotFound: nobody has it.
func (p *PullConsumer) View(ctx context.Context, offsetMsgID string) (*MessageExt, error) {
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	host, offset, err := remoting.ParseOffsetMsgID(offsetMsgID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*p.c.cfg.CallTimeout)
	defer cancel()
	req := &remoting.Command{Code: remoting.ViewMessageByID, Header: &remoting.ViewMessageRequest{Offset: offset}}
	g := p.c.groupAt(ctx, host)
	first := p.c.peer(host.String())
	var errs []error
	for _, at := range append([]*peer{first}, slices.DeleteFunc(slices.Clone(g.replicas.Load().list), func(p *peer) bool { return p == first })...) {
		resp, err := at.call(ctx, req, p.c.cfg.CallTimeout/3, p.c.cfg.CallTimeout/3)
		if err == nil {
			err = resp.Err()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", at.addr, err))
			continue
		}
		list, err := p.c.decodeMessages(resp.Body, g.name)
		if err != nil {
			return nil, err
		}
		if len(list) == 1 {
			return list[0], nil
		}
		errs = append(errs, fmt.Errorf("%s: %d messages in the answer", at.addr, len(list)))
	}
	err = errors.Join(errs...)
	if slices.ContainsFunc(errs, func(err error) bool { return errors.As(err, new(*BrokerError)) }) {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotFound, offsetMsgID, err)
	}
	return nil, fmt.Errorf("view %s: %w", offsetMsgID, err)
}

// groupAt returns the group that has a replica at addr; one without name and replicas if nobody knows it.
func (c *Client) groupAt(ctx context.Context, addr netip.AddrPort) *group {
	find := func() *group {
		for _, g := range c.groupList() {
			for _, p := range g.replicas.Load().list {
				if p.addr == addr.String() {
					return g
				}
			}
		}
		return nil
	}
	if g := find(); g != nil {
		return g
	}
	// Not among the brokers of the topics we have to do with: look at all there are.
	info, err := c.clusterInfo(ctx)
	if err != nil {
		c.log.Debug("cluster info", "error", err)
	}
	for _, b := range info.Brokers {
		c.learn(&b, "")
	}
	if g := find(); g != nil {
		return g
	}
	g := &group{}
	g.replicas.Store(&replicas{})
	return g
}

// QueryByKey returns messages of a topic that have key among their Keys and were stored between from and to (zero: any time), at most limit
// of each broker (default 32), oldest first. No message is no error.
func (p *PullConsumer) QueryByKey(ctx context.Context, topic, key string, from, to time.Time, limit int) ([]*MessageExt, error) {
	return p.query(ctx, topic, key, from, to, limit, false)
}

// QueryByID returns messages of a topic with a MsgID. There can be several: one of each broker group, after sends whose outcome was unknown.
func (p *PullConsumer) QueryByID(ctx context.Context, topic, msgID string) ([]*MessageExt, error) {
	return p.query(ctx, topic, msgID, time.Time{}, time.Time{}, 0, true)
}

func (p *PullConsumer) query(ctx context.Context, topic, key string, from, to time.Time, limit int, id bool) ([]*MessageExt, error) {
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	h := &remoting.QueryMessageRequest{Topic: topic, Key: key, MaxNum: int32(limit), EndTimestamp: 1<<63 - 1, UniqKey: id}
	setDefault(&h.MaxNum, 32)
	if !from.IsZero() {
		h.BeginTimestamp = from.UnixMilli()
	}
	if !to.IsZero() {
		h.EndTimestamp = to.UnixMilli()
	}
	r, err := p.c.routeOf(ctx, p.c.topic(topic), false)
	if err != nil {
		return nil, err
	}
	var found []*MessageExt
	for _, b := range r.data.Brokers {
		resp, err := p.c.callGroup(ctx, p.c.group(b.BrokerName), &remoting.Command{Code: remoting.QueryMessage, Header: h})
		if errors.Is(err, &BrokerError{Code: remoting.QueryNotFound}) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list, err := p.c.decodeMessages(resp.Body, b.BrokerName)
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			// Brokers look up hashes, so what they find is looked at again.
			if m.Queue.Topic == topic && (id && m.MsgID == key || !id && slices.Contains(m.Keys, key)) {
				found = append(found, m)
			}
		}
	}
	slices.SortStableFunc(found, func(a, b *MessageExt) int { return a.StoreTime.Compare(b.StoreTime) })
	return found, nil
}
