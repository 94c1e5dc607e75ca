package broker

import (
	"context"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// How often a message comes again before it is dead. Who says so, the first of
// them that does:
//
//	the instance that started last, if its client tells (raftmq's does, in its
//	heartbeats): for the whole group, whatever the requests of others say;
//	the request: stock clients send their own number with each, 16 if they were
//	told none; but no more than retryMaxTimes of the group, if that is not the
//	default, so that what an operator sets has an effect;
//	retryMaxTimes of the group.
//
// An operator's change of retryMaxTimes takes the word from the instances that
// run; the next one that starts has it again.

// versionOwnRetryLimit is the first client release (3.4.9) whose own limit of
// retries counts.
const versionOwnRetryLimit = 121

// retryLimit is how often a message of a group comes again. own is what the
// request says, -1 if nothing.
func (b *Broker) retryLimit(group remoting.GroupConfig, own, clientVersion int32) int32 {
	if group.RetryMaxTimes < 0 {
		group.RetryMaxTimes = remoting.DefaultRetryMaxTimes
	}
	if own < 0 || clientVersion < versionOwnRetryLimit || b.group.State().LastStart(group.Name).Told {
		return group.RetryMaxTimes
	}
	if group.RetryMaxTimes == remoting.DefaultRetryMaxTimes {
		return own
	}
	return min(own, group.RetryMaxTimes)
}

// copyLimit is retryLimit for a copy that the client makes itself: that is how
// ordered consumers of stock clients say that they are done with a message, so one
// beyond their own number is dead also if the group's is higher.
func (b *Broker) copyLimit(group remoting.GroupConfig, own, clientVersion int32) int32 {
	limit := b.retryLimit(group, own, clientVersion)
	if own >= 0 && clientVersion >= versionOwnRetryLimit {
		limit = min(own, limit)
	}
	return limit
}

// hasStarted says whether a heartbeat is that of an instance that has started since
// the last one that told how often its group's messages come again. What is ahead
// of the log's time is left to a later heartbeat.
func (b *Broker) hasStarted(d *remoting.ConsumerData) bool {
	return d.Started > b.group.State().LastStart(d.Group).Time && d.Started <= b.group.LogTime()+fsm.StartSkew &&
		d.MessageModel == remoting.Clustering && d.MaxReconsumeTimes >= 0 && d.MaxReconsumeTimes <= maxReconsumeTimes
}

// start has the group follow what an instance that has started says.
func (b *Broker) start(ctx context.Context, d *remoting.ConsumerData) error {
	_, err := b.group.Propose(ctx, fsm.StartConsumer(d.Group, d.Started, d.MaxReconsumeTimes))
	return err
}
