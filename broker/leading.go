package broker

import (
	"context"
	"time"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

const (
	leadingTick         = time.Second
	systemTopicsTimeout = 10 * time.Second
)

// leading is what a master does beside answering requests: it makes the topics
// every broker has, delivers delayed messages and trims the CommitLog. All of it
// is commands, so that another replica goes on where this one was.
type leading struct {
	b      *Broker
	poke   chan struct{}
	term   uint64 // whose system topics are there
	due    schedule
	retain retention
}

func newLeading(b *Broker) *leading {
	return &leading{b: b, poke: make(chan struct{}, 1), due: schedule{b: b}, retain: retention{b: b}}
}

// wake has the leader look at once for what there is to do.
func (l *leading) wake() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

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
		l.retain.watchDisk()
		if lead := l.b.group.Leadership(); lead.Self {
			if lead.Term != l.term && l.systemTopics(l.b.ctx) {
				l.term = lead.Term
			}
			next = min(next, l.due.deliver(l.b.ctx))
			l.retain.trim(l.b.ctx)
		}
		timer.Reset(next)
	}
}

// systemTopics makes the topics that every RocketMQ broker has, as this node's
// configuration wants them. It says whether all are there.
func (l *leading) systemTopics(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, systemTopicsTimeout)
	defer cancel()
	b := l.b
	for _, t := range b.systemTopicConfigs() {
		_, err := b.createTopic(ctx, t)
		if have, ok := b.group.State().Topic(t.Name); ok && t.Name == remoting.TopicSchedule && have.Config.WriteQueueNums < t.WriteQueueNums {
			// There are more delay levels now. That there are fewer changes nothing:
			// what waits in the others is delivered.
			_, err = b.group.Propose(ctx, fsm.PutTopic(t, false))
		}
		if err != nil {
			b.logger.Warn("a system topic can't be created now", "topic", t.Name, "error", err)
			return false
		}
	}
	if _, ok := b.group.State().Topic(remoting.TopicAutoCreate); ok && !*b.cfg.AutoCreateTopicEnable {
		// Clients take it for leave to send to any topic.
		if _, err := b.group.Propose(ctx, fsm.DeleteTopic(remoting.TopicAutoCreate)); err != nil {
			b.logger.Warn("the template of topics can't be deleted now", "error", err)
			return false
		}
	}
	return true
}

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
		with(remoting.TopicHalf, 1, rw),
		with(remoting.TopicHalfOp, 1, rw),
	}
	if *b.cfg.AutoCreateTopicEnable {
		all = append(all, with(remoting.TopicAutoCreate, b.cfg.DefaultTopicQueueNums, rw|remoting.PermInherit))
	}
	return all
}

// isSystemTopic says whether a topic is one that users may not change.
func (b *Broker) isSystemTopic(name string) bool {
	return remoting.IsSystemTopic(name) || name == b.cfg.BrokerClusterName || name == b.name || name == remoting.ReplyTopic(b.cfg.BrokerClusterName)
}
