package broker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

const (
	leadingTick    = time.Second
	furnishTimeout = 10 * time.Second
)

// leading is what a master does beside answering requests: it makes the topics
// every broker has and delivers delayed messages. Beside it run the retention of
// the CommitLog and the wheel of timer messages. All of it is commands, so that another replica goes on where this one was.
type leading struct {
	b      *Broker
	poke   chan struct{}
	ready  atomic.Uint64 // the last term in which the system topics were made sure of
	due    schedule
	retain retention
}

func newLeading(b *Broker) *leading {
	return &leading{b: b, poke: make(chan struct{}, 1), due: schedule{b: b}, retain: retention{b: b, keep: time.Duration(b.cfg.FileReservedTime) * time.Hour}}
}

// wake has the leader look at once for what there is to do.
func (l *leading) wake() { poke(l.poke) }

func (l *leading) run() {
	timer := time.NewTimer(leadingTick)
	defer timer.Stop()
	for {
		select {
		case <-l.poke:
		case <-timer.C:
		case <-l.b.ctx.Done():
			return
		}
		next := leadingTick
		if lead := l.b.group.Leadership(); lead.Self {
			if lead.Term != l.ready.Load() && l.furnish(l.b.ctx) {
				l.ready.Store(lead.Term)
			}
			next = min(next, l.due.deliver(l.b.ctx))
			l.b.leases.expire(l.b.ctx, lead.Term)
		}
		timer.Reset(next)
	}
}

// furnish makes the topics and groups that every RocketMQ broker has, as this
// node's configuration wants them. It says whether all are there.
func (l *leading) furnish(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, furnishTimeout)
	defer cancel()
	if err := l.b.furnish(ctx); err != nil {
		l.b.logger.Warn("the system topics and groups can't be made now", "error", err)
		return false
	}
	return true
}

func (b *Broker) furnish(ctx context.Context) error {
	for _, name := range systemGroups {
		if _, ok := b.group.State().Group(name); !ok {
			if _, err := b.group.Propose(ctx, fsm.PutGroup(remoting.NewGroupConfig(name), true)); err != nil {
				return err
			}
		}
	}
	for _, t := range b.systemTopicConfigs() {
		have, err := b.createTopic(ctx, t)
		if err == nil && t.Name == remoting.TopicSchedule && have.WriteQueueNums < t.WriteQueueNums {
			// There are more delay levels now. That there are fewer changes nothing:
			// what waits in the others is delivered.
			_, err = b.group.Propose(ctx, fsm.PutTopic(t, false))
		}
		if err != nil {
			return err
		}
	}
	if _, ok := b.group.State().Topic(remoting.TopicAutoCreate); ok && !*b.cfg.AutoCreateTopicEnable {
		// Clients take it for leave to send to any topic.
		_, err := b.group.Propose(ctx, fsm.DeleteTopic(remoting.TopicAutoCreate))
		return err
	}
	return nil
}

// furnished says whether the system topics are there.
func (b *Broker) furnished() bool {
	for _, t := range b.systemTopicConfigs() {
		if _, ok := b.group.State().Topic(t.Name); !ok {
			return false
		}
	}
	return true
}

// systemGroups are the consumer groups that a RocketMQ broker has from the start.
var systemGroups = []string{remoting.GroupTools, "FILTERSRV_CONSUMER", "SELF_TEST_C_GROUP", "CID_ONS-HTTP-PROXY", "CID_ONSAPI_PULL",
	"CID_ONSAPI_PERMISSION", "CID_ONSAPI_OWNER", "CID_RMQ_SYS_TRANS"}

func (b *Broker) systemTopicConfigs() []remoting.TopicConfig {
	with := func(name string, queues, perm int32) remoting.TopicConfig {
		c := ownTopic(name, queues)
		c.Perm = perm
		return c
	}
	const rw = remoting.PermRead | remoting.PermWrite
	all := []remoting.TopicConfig{
		with(remoting.TopicSelfTest, 1, rw),
		with(remoting.TopicBenchmark, 1024, rw),
		with(b.cfg.BrokerClusterName, 16, rw|remoting.PermInherit),
		with(b.name, 1, rw|remoting.PermInherit),
		with(remoting.TopicOffsetMoved, 1, rw),
		with(remoting.TopicSchedule, int32(len(b.node.delays)), rw),
		with(remoting.ReplyTopic(b.cfg.BrokerClusterName), 1, rw),
		with(remoting.TopicTimer, timerBuckets, rw),
		with(remoting.TopicHalf, 1, rw),
		with(remoting.TopicHalfOp, 1, rw),
	}
	if b.cfg.TraceTopicEnable {
		all = append(all, with(b.cfg.MsgTraceTopicName, 1, rw))
	}
	if *b.cfg.AutoCreateTopicEnable {
		all = append(all, with(remoting.TopicAutoCreate, b.cfg.DefaultTopicQueueNums, rw|remoting.PermInherit))
	}
	return all
}

// isSystemTopic says whether a topic is one that users may not change.
func (b *Broker) isSystemTopic(name string) bool {
	return remoting.IsSystemTopic(name) || name == b.cfg.BrokerClusterName || name == b.name ||
		b.cfg.TraceTopicEnable && name == b.cfg.MsgTraceTopicName || name == remoting.ReplyTopic(b.cfg.BrokerClusterName)
}
