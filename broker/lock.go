package broker

import (
	"context"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/remoting"
)

const (
	// maxLockQueues bounds the queues of one request, maxLockRequest its body,
	// maxClientID its client's id.
	maxLockQueues  = 10_000
	maxLockRequest = 4 << 20
	maxClientID    = 1024
)

// lockQueues answers LOCK_BATCH_MQ (41): a client that consumes in order gets the
// queues that no other client of its group holds, for rebalanceLockMaxLiveTime
// from now on. The answer names those it holds. Deviations from RocketMQ: locks
// outlive the leader; a queue that does not exist here is not locked; a group
// that does not exist is made, or refused if that is not allowed; the number of
// queues is bounded. onlyThisBroker says nothing, as replicas have no locks of
// their own.
func (b *Broker) lockQueues(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	r, queues, err := b.lockRequest(req)
	if err != nil {
		return answer{}, err
	}
	if _, err := b.subscriptionGroup(ctx, r.ConsumerGroup); err != nil {
		return answer{}, err
	}
	held, err := b.leases.lock(ctx, r.ConsumerGroup, r.ClientID, queues)
	if err != nil {
		return answer{}, err
	}
	var ok remoting.LockResponse
	for _, k := range held {
		ok = append(ok, remoting.MessageQueue{Topic: k.topic, BrokerName: b.name, QueueID: k.queue})
	}
	return answer{body: ok.AppendBody(nil)}, nil
}

// unlockQueues answers UNLOCK_BATCH_MQ (42), often sent one-way: the client gives
// up what it holds of the queues.
func (b *Broker) unlockQueues(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	r, queues, err := b.lockRequest(req)
	if err != nil {
		return answer{}, err
	}
	return answer{}, b.leases.unlock(ctx, r.ConsumerGroup, r.ClientID, queues)
}

// lockRequest reads a request. Of the queues it returns those that are here.
func (b *Broker) lockRequest(req *remoting.Command) (r remoting.LockRequest, queues []queueKey, err error) {
	if len(req.Body) > maxLockRequest {
		return r, nil, remoting.Errorf(remoting.InvalidParameter, "a body of %d bytes, the limit is %d", len(req.Body), maxLockRequest)
	}
	if err := r.DecodeBody(req.Body); err != nil {
		return r, nil, err
	}
	switch {
	case !b.leads():
		return r, nil, raftgroup.ErrNotLeader
	case r.ClientID == "" || len(r.ClientID) > maxClientID:
		return r, nil, remoting.Errorf(remoting.InvalidParameter, "clientId of %d bytes, want 1 to %d", len(r.ClientID), maxClientID)
	case len(r.Queues) > maxLockQueues:
		return r, nil, remoting.Errorf(remoting.InvalidParameter, "%d queues in one request, the limit is %d", len(r.Queues), maxLockQueues)
	}
	if err := remoting.CheckGroup(r.ConsumerGroup); err != nil {
		return r, nil, err
	}
	seen := map[queueKey]bool{}
	for _, q := range r.Queues {
		t, ok := b.group.State().Topic(q.Topic)
		k := queueKey{q.Topic, q.QueueID}
		if ok && !seen[k] && (q.BrokerName == b.name || q.BrokerName == "") && q.QueueID >= 0 && q.QueueID < max(t.Config.ReadQueueNums, t.Config.WriteQueueNums) {
			seen[k] = true
			queues = append(queues, k)
		}
	}
	return r, queues, nil
}
