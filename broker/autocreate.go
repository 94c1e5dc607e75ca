package broker

import (
	"context"
	"strings"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// sendTopic finds the topic of a send, and makes it if that is allowed. A send
// to a retry topic that has been tried often enough goes to the group's dead
// letters instead.
func (b *Broker) sendTopic(ctx context.Context, op *sendOp, clientVersion int32) (remoting.TopicConfig, error) {
	h := &op.h
	if group, ok := strings.CutPrefix(h.Topic, remoting.RetryPrefix); ok {
		return b.retryTopicOfSend(ctx, op, group, clientVersion)
	}
	template, may := b.template(h)
	if !may {
		return remoting.TopicConfig{}, b.noTopic(h.Topic)
	}
	n := min(max(h.DefaultTopicQueueNums, 1), template.WriteQueueNums)
	if strings.HasPrefix(h.Topic, remoting.DLQPrefix) {
		n = 1
	}
	c := ownTopic(h.Topic, n)
	c.Perm = template.Perm &^ remoting.PermInherit
	c.FilterType = template.FilterType
	if h.UnitMode {
		c.SysFlag |= 1
	}
	return b.createTopic(ctx, c)
}

// template is the topic that the topic of a send is to be made like, if it may be
// made at all.
func (b *Broker) template(h *remoting.SendHeader) (remoting.TopicConfig, bool) {
	t, ok := b.group.State().Topic(h.DefaultTopic)
	return t.Config, ok && *b.cfg.AutoCreateTopicEnable && t.Config.Perm&remoting.PermInherit != 0 && !b.isSystemTopic(h.Topic)
}

func (b *Broker) noTopic(name string) error {
	return remoting.Errorf(remoting.TopicNotExist, "topic %s does not exist on %s; create it (raftmq topic create), or set autoCreateTopicEnable", name, b.name)
}

// createTopic makes a topic unless it exists, and returns what it is like.
func (b *Broker) createTopic(ctx context.Context, c remoting.TopicConfig) (remoting.TopicConfig, error) {
	if t, ok := b.group.State().Topic(c.Name); ok {
		return t.Config, nil
	}
	if _, err := b.group.Propose(ctx, fsm.PutTopic(c, true)); err != nil {
		return c, err
	}
	t, ok := b.group.State().Topic(c.Name)
	if !ok { // deleted at once
		return c, b.noTopic(c.Name)
	}
	return t.Config, nil
}

// ownTopic is a topic made for a group: one queue, or as many as given.
func ownTopic(name string, queues int32) remoting.TopicConfig {
	c := remoting.NewTopicConfig(name)
	c.ReadQueueNums, c.WriteQueueNums = queues, queues
	return c
}

// subscriptionGroup finds a consumer group, and makes it if that is allowed.
func (b *Broker) subscriptionGroup(ctx context.Context, name string) (remoting.GroupConfig, error) {
	g, ok := b.group.State().Group(name)
	if !ok {
		if remoting.CheckGroup(name) != nil || !b.mayCreateGroup(name) {
			return g, remoting.Errorf(remoting.SubscriptionGroupNotExist, "consumer group %s does not exist on %s; create it, or set autoCreateSubscriptionGroup", name, b.name)
		}
		if !b.leads() {
			return g, raftgroup.ErrNotLeader
		}
		if _, err := b.group.Propose(ctx, fsm.PutGroup(remoting.NewGroupConfig(name), true)); err != nil {
			return g, err
		}
		if g, ok = b.group.State().Group(name); !ok { // deleted at once
			return g, remoting.Errorf(remoting.SubscriptionGroupNotExist, "consumer group %s does not exist on %s any more", name, b.name)
		}
	}
	return g, nil
}

func (b *Broker) mayCreateGroup(name string) bool {
	return *b.cfg.AutoCreateSubscriptionGroup || remoting.IsSystemGroup(name)
}

// retryTopic finds or makes the retry topic of a group.
func (b *Broker) retryTopic(ctx context.Context, g remoting.GroupConfig) (remoting.TopicConfig, error) {
	return b.createTopic(ctx, ownTopic(remoting.RetryTopic(g.Name), max(1, g.RetryQueueNums)))
}

// retryTopicOfSend: a consumer sends a message to its group's retry topic by
// itself when sending it back has failed, and an ordered one to be rid of it.
func (b *Broker) retryTopicOfSend(ctx context.Context, op *sendOp, group string, clientVersion int32) (remoting.TopicConfig, error) {
	g, err := b.subscriptionGroup(ctx, group)
	if err != nil {
		return remoting.TopicConfig{}, err
	}
	h := &op.h
	// A group that holds a queue consumes in order, and such a message is dead.
	if h.ReconsumeTimes <= b.copyLimit(g, h.MaxReconsumeTimes, clientVersion) && !b.leases.ordered(group) {
		return b.retryTopic(ctx, g)
	}
	h.Topic, h.QueueID = remoting.DLQTopic(group), 0
	h.Properties = string(remoting.AppendProperty(
		remoting.Properties(h.Properties).AppendExcept(nil, remoting.PropDelay), remoting.PropDelay, "-1"))
	return b.createTopic(ctx, ownTopic(h.Topic, 1))
}
