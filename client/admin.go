package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/raftmq/raftmq/remoting"
)

// Admin makes the calls of administration. Each goes to the leaders of the broker groups concerned, and may be repeated without harm.
type Admin struct{ c *Client }

// Admin returns the administration of the cluster that c's name servers know.
func (c *Client) Admin() *Admin { return &Admin{c} }

// clusterInfo asks a name server for all brokers.
func (c *Client) clusterInfo(ctx context.Context) (ClusterInfo, error) {
	var info ClusterInfo
	resp, err := c.servers.call(ctx, &remoting.Command{Code: remoting.GetBrokerClusterInfo})
	if err == nil {
		err = resp.Err()
	}
	if err == nil {
		err = info.DecodeBody(resp.Body)
	}
	if err != nil {
		return ClusterInfo{}, fmt.Errorf("cluster info: %w", err)
	}
	return info, nil
}

// ClusterInfo returns the broker groups, with the addresses of their replicas, and the clusters they belong to.
func (a *Admin) ClusterInfo(ctx context.Context) (*ClusterInfo, error) {
	info, err := a.c.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	return &info, nil
}

// groups returns the broker groups of the cluster, sorted by name.
func (a *Admin) groups(ctx context.Context) ([]*group, error) {
	info, err := a.c.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	if len(info.Brokers) == 0 {
		return nil, fmt.Errorf("%w: the name server knows no broker", ErrNoRoute)
	}
	var list []*group
	for _, name := range slices.Sorted(maps.Keys(info.Brokers)) {
		b := info.Brokers[name]
		list = append(list, a.c.learn(&b, ""))
	}
	return list, nil
}

// everywhere makes a call at each broker group, and calls answer with what comes of it. It stops at the first error.
func (a *Admin) everywhere(ctx context.Context, req *remoting.Command, answer func(broker string, resp *remoting.Command) error) error {
	groups, err := a.groups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		resp, err := a.c.callGroup(ctx, g, req)
		if err == nil && answer != nil {
			err = answer(g.name, resp)
		}
		if err != nil {
			return fmt.Errorf("%s at broker %s: %w", remoting.RequestName(req.Code), g.name, err)
		}
	}
	return nil
}

// ListTopics returns the names of all topics, sorted, those of RocketMQ itself among them.
func (a *Admin) ListTopics(ctx context.Context) ([]string, error) {
	resp, err := a.c.servers.call(ctx, &remoting.Command{Code: remoting.GetAllTopicListFromNameserver})
	if err == nil {
		err = resp.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	var list remoting.TopicList
	if err := list.DecodeBody(resp.Body); err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	slices.Sort(list.Topics)
	return list.Topics, nil
}

// TopicRoute returns where the queues of a topic are, as a name server has it at this moment; ErrNoRoute if it does not exist.
func (a *Admin) TopicRoute(ctx context.Context, topic string) (*RouteData, error) {
	r, err := a.c.ask(ctx, topic)
	if err != nil {
		return nil, err
	}
	return &r.data, nil
}

// CreateTopic makes a topic, or changes one, at each of some broker groups; with none named, at all there are. Begin with
// NewTopicConfig.
func (a *Admin) CreateTopic(ctx context.Context, t TopicConfig, brokers ...string) error {
	if err := remoting.CheckTopic(t.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	req := &remoting.Command{Code: remoting.UpdateAndCreateTopic, Header: &t}
	groups, err := a.groups(ctx)
	if err != nil {
		return err
	}
	for _, b := range brokers {
		if !slices.ContainsFunc(groups, func(g *group) bool { return g.name == b }) {
			return fmt.Errorf("%w: there is no broker %q", ErrConfig, b)
		}
	}
	for _, g := range groups {
		if len(brokers) > 0 && !slices.Contains(brokers, g.name) {
			continue
		}
		if _, err := a.c.callGroup(ctx, g, req); err != nil {
			return fmt.Errorf("create topic %s at broker %s: %w", t.Name, g.name, err)
		}
	}
	return nil
}

// DeleteTopic deletes a topic, with its messages, at all broker groups and name servers. ErrNotTold: it is deleted, but a name server that
// could not be reached may still name it for a while.
func (a *Admin) DeleteTopic(ctx context.Context, topic string) error {
	h := &remoting.TopicRequest{Topic: topic}
	if err := a.everywhere(ctx, &remoting.Command{Code: remoting.DeleteTopicInBroker, Header: h}, nil); err != nil {
		return err
	}
	// Every name server, as they do not talk to each other.
	var errs []error
	for _, p := range a.c.servers.peers {
		resp, err := p.call(ctx, &remoting.Command{Code: remoting.DeleteTopicInNamesrv, Header: h}, a.c.cfg.CallTimeout, a.c.cfg.CallTimeout)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: topic %s, name server %s: %w", ErrNotTold, topic, p.addr, err))
		} else if err = resp.Err(); err != nil {
			return fmt.Errorf("delete topic %s at name server %s: %w", topic, p.addr, err)
		}
	}
	return errors.Join(errs...)
}

// TopicConfigs returns a topic's configuration at each broker group that has it, by the group's name.
func (a *Admin) TopicConfigs(ctx context.Context, topic string) (map[string]TopicConfig, error) {
	r, err := a.TopicRoute(ctx, topic)
	if err != nil {
		return nil, err
	}
	all := map[string]TopicConfig{}
	for _, b := range r.Brokers {
		resp, err := a.c.callGroup(ctx, a.c.group(b.BrokerName), &remoting.Command{Code: remoting.GetTopicConfig, Header: &remoting.TopicRequest{Topic: topic}})
		var t TopicConfig
		if err == nil {
			err = t.DecodeBody(resp.Body)
		}
		if err != nil {
			return nil, fmt.Errorf("configuration of topic %s at broker %s: %w", topic, b.BrokerName, err)
		}
		all[b.BrokerName] = t
	}
	return all, nil
}

// TopicStats returns the range of each queue of a topic, sorted by broker and number.
func (a *Admin) TopicStats(ctx context.Context, topic string) (*TopicStats, error) {
	r, err := a.TopicRoute(ctx, topic)
	if err != nil {
		return nil, err
	}
	all := &TopicStats{}
	for _, b := range r.Brokers {
		resp, err := a.c.callGroup(ctx, a.c.group(b.BrokerName), &remoting.Command{Code: remoting.GetTopicStatsInfo, Header: &remoting.TopicRequest{Topic: topic}})
		var one TopicStats
		if err == nil {
			err = one.DecodeBody(resp.Body)
		}
		if err != nil {
			return nil, fmt.Errorf("stats of topic %s at broker %s: %w", topic, b.BrokerName, err)
		}
		all.Queues = append(all.Queues, one.Queues...)
		all.PutTPS += one.PutTPS
	}
	slices.SortFunc(all.Queues, func(a, b remoting.QueueStats) int { return compareQueues(a.MessageQueue, b.MessageQueue) })
	return all, nil
}

// ListGroups returns the consumer groups that any broker has, sorted by name.
func (a *Admin) ListGroups(ctx context.Context) ([]GroupConfig, error) {
	byName := map[string]GroupConfig{}
	err := a.everywhere(ctx, &remoting.Command{Code: remoting.GetAllSubscriptionGroupConfig}, func(_ string, resp *remoting.Command) error {
		var t remoting.GroupTable
		err := t.DecodeBody(resp.Body)
		for _, g := range t.Groups {
			byName[g.Name] = g
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var list []GroupConfig
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, byName[name])
	}
	return list, nil
}

// CreateGroup makes a consumer group, or changes one, at all broker groups. Begin with NewGroupConfig.
func (a *Admin) CreateGroup(ctx context.Context, g GroupConfig) error {
	if err := remoting.CheckGroup(g.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return a.everywhere(ctx, &remoting.Command{Code: remoting.UpdateAndCreateSubscriptionGroup, Body: g.AppendBody(nil)}, nil)
}

// DeleteGroup deletes a consumer group at all broker groups, with its offsets if cleanOffsets. Its retry and dead letter topics stay.
func (a *Admin) DeleteGroup(ctx context.Context, group string, cleanOffsets bool) error {
	return a.everywhere(ctx, &remoting.Command{Code: remoting.DeleteSubscriptionGroup, Header: &remoting.DeleteGroupRequest{Group: group, CleanOffset: cleanOffsets}}, nil)
}

// ConsumeStats returns how far a consumer group is with its queues, sorted; topic "": of all topics.
func (a *Admin) ConsumeStats(ctx context.Context, group, topic string) (*ConsumeStats, error) {
	all := &ConsumeStats{}
	req := &remoting.Command{Code: remoting.GetConsumeStats, Header: &remoting.ConsumeStatsRequest{ConsumerGroup: group, Topic: topic}}
	err := a.everywhere(ctx, req, func(_ string, resp *remoting.Command) error {
		var one ConsumeStats
		err := one.DecodeBody(resp.Body)
		all.Queues = append(all.Queues, one.Queues...)
		all.ConsumeTPS += one.ConsumeTPS
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all.Queues, func(a, b remoting.QueueConsumeStats) int { return compareQueues(a.MessageQueue, b.MessageQueue) })
	return all, nil
}

// Consumers returns the clients of a consumer group and what they subscribe to, as the first broker group that knows any says; an error with
// remoting.ConsumerNotOnline if none does.
func (a *Admin) Consumers(ctx context.Context, group string) (*ConsumerConnections, error) {
	groups, err := a.groups(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		var resp *remoting.Command
		resp, err = a.c.callGroup(ctx, g, &remoting.Command{Code: remoting.GetConsumerConnectionList, Header: &remoting.ConsumerGroupRequest{ConsumerGroup: group}})
		if err == nil {
			list := &ConsumerConnections{}
			return list, list.DecodeBody(resp.Body)
		}
		if !errors.Is(err, &BrokerError{Code: remoting.ConsumerNotOnline}) {
			break
		}
	}
	return nil, fmt.Errorf("consumers of group %s: %w", group, err)
}

// RuntimeInfo returns what the leader of a broker group says of itself: RocketMQ's keys and values.
func (a *Admin) RuntimeInfo(ctx context.Context, broker string) (map[string]string, error) {
	groups, err := a.groups(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(groups, func(g *group) bool { return g.name == broker })
	if i < 0 {
		return nil, fmt.Errorf("%w: there is no broker %q", ErrConfig, broker)
	}
	resp, err := a.c.callGroup(ctx, groups[i], &remoting.Command{Code: remoting.GetBrokerRuntimeInfo})
	if err != nil {
		return nil, err
	}
	var t remoting.KVTable
	err = t.DecodeBody(resp.Body)
	return t, err
}
