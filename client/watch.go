package client

import (
	"fmt"
	"slices"

	"github.com/raftmq/raftmq/remoting"
)

// watcher is somebody who wants to know of changes of a topic's queues.
type watcher struct {
	topic     string
	tell      func(all, mine []MessageQueue)
	told      bool
	all, mine []MessageQueue
}

// WatchQueues calls f with the queues of a topic, sorted, and those among them that Poll reads: as soon as they are known, and when either has
// changed. Calls come one at a time, until Close; f must not call Close. For one topic the last WatchQueues counts.
func (p *PullConsumer) WatchQueues(topic string, f func(all, mine []MessageQueue)) error {
	if err := remoting.CheckTopic(topic); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if f == nil {
		return fmt.Errorf("%w: WatchQueues of %s with nil", ErrConfig, topic)
	}
	if !p.gate.enter() {
		return ErrClosed
	}
	defer p.gate.leave() // so Close waits for what begins here
	p.mu.Lock()
	p.watchers[topic] = &watcher{topic: topic, tell: f}
	first := !p.watching
	p.watching = true
	p.mu.Unlock()
	if first {
		p.watchLoop.Go(p.watch)
	}
	p.c.refresh(p.c.topic(topic), false, refreshGap) // from now on its route is kept up to date
	p.watchNow()
	return nil
}

// watchNow makes the watchers be told of what has changed.
func (p *PullConsumer) watchNow() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// watch tells the watchers.
func (p *PullConsumer) watch() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.changed:
		}
		p.mu.Lock()
		list := make([]*watcher, 0, len(p.watchers))
		for _, w := range p.watchers {
			list = append(list, w)
		}
		p.mu.Unlock()
		for _, w := range list {
			p.tell(w)
		}
	}
}

// tell tells one watcher if there is something new.
func (p *PullConsumer) tell(w *watcher) {
	r := p.c.topic(w.topic).route.Load()
	if r == nil || r.borrowed {
		return // the topic does not exist; routeChanged comes when it does
	}
	mine := slices.DeleteFunc(p.push.Queues(), func(mq MessageQueue) bool { return mq.Topic != w.topic })
	if w.told && slices.Equal(w.all, r.read) && slices.Equal(w.mine, mine) {
		return
	}
	w.told, w.all, w.mine = true, r.read, mine
	w.tell(slices.Clone(r.read), slices.Clone(mine))
}
