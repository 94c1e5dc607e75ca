package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// PullStatus is what a pull found.
type PullStatus int

// The outcomes of a pull.
const (
	// PullFound: there are messages.
	PullFound PullStatus = iota
	// PullNoNew: there is no message at or behind the offset yet.
	PullNoNew
	// PullNoMatch: there are messages, none of which is wanted; go on at NextOffset.
	PullNoMatch
	// PullOffsetMoved: the offset is outside the queue; NextOffset is the nearest one inside.
	PullOffsetMoved
)

var pullStatusNames = [...]string{"FOUND", "NO_NEW_MSG", "NO_MATCHED_MSG", "OFFSET_ILLEGAL"}

// String returns RocketMQ's name.
func (s PullStatus) String() string {
	if s < 0 || int(s) >= len(pullStatusNames) {
		return "UNKNOWN"
	}
	return pullStatusNames[s]
}

// PullResult is the answer to a pull.
type PullResult struct {
	Status PullStatus
	// NextOffset is where to pull next.
	NextOffset int64
	// MinOffset is the queue's first offset, MaxOffset the one that the next message will have.
	MinOffset, MaxOffset int64
	Messages             []*MessageExt
}

// PullRequest says what to pull.
type PullRequest struct {
	Queue MessageQueue
	// Offset is that of the first message wanted.
	Offset int64
	// Max is how many messages are wanted at most; brokers may send less. Default: 32.
	Max int
	// Selector says which messages are wanted. Default: all.
	Selector Selector
	// NoWait makes the broker answer at once even if there is nothing new. Otherwise it holds the request until there is, or SuspendTime is
	// over.
	NoWait bool
}

// PullConfig configures a PullConsumer. All but Group may be left out: the zero value is the default. All but Group and SuspendTime is for
// Poll.
type PullConfig struct {
	// Group is the consumer group. It is required.
	Group string
	// SuspendTime is how long a broker may hold a pull. Default: 20 s.
	SuspendTime time.Duration
	// From is where to begin with a queue of which the group has committed no offset. Default: FromLast.
	From ConsumeFrom
	// FromTime goes with From FromTime. Default: 30 min before the first Subscribe or Assign.
	FromTime time.Time
	// PollMax is how many messages Poll returns at most. Default: 32.
	PollMax int
	// PullBatch, MaxMessages, MaxBytes and MaxSpan bound what is pulled ahead of Poll, as in PushConfig.
	PullBatch   int
	MaxMessages int
	MaxBytes    int64
	MaxSpan     int64
	// ManualCommit leaves commits to CommitSync and Commit. Default: what the caller is done with is committed every CommitInterval, when a
	// queue goes to another consumer, and by Close.
	ManualCommit bool
	// CommitInterval is how often offsets are committed. Default: 5 s.
	CommitInterval time.Duration
	// RebalanceInterval and Allocate are as in PushConfig.
	RebalanceInterval time.Duration
	Allocate          Allocator
}

func (cfg *PullConfig) validate() error {
	setDefault(&cfg.SuspendTime, 20*time.Second)
	setDefault(&cfg.PollMax, 32)
	if err := remoting.CheckGroup(cfg.Group); err != nil {
		return fmt.Errorf("%w: PullConfig.Group: %w", ErrConfig, err)
	}
	if cfg.SuspendTime < 0 || cfg.PollMax < 0 {
		return fmt.Errorf("%w: PullConfig.SuspendTime and PollMax must not be negative", ErrConfig)
	}
	return nil
}

// push returns the configuration of the PushConsumer that holds the queues for Poll.
func (cfg *PullConfig) push() PushConfig {
	return PushConfig{
		Group: cfg.Group, From: cfg.From, FromTime: cfg.FromTime, PullBatch: cfg.PullBatch, MaxMessages: cfg.MaxMessages, MaxBytes: cfg.MaxBytes,
		MaxSpan: cfg.MaxSpan, CommitInterval: cfg.CommitInterval, RebalanceInterval: cfg.RebalanceInterval, SuspendTime: cfg.SuspendTime,
		Allocate: cfg.Allocate,
	}
}

// pullMargin is how much longer than it may be held a pull may take: brokers look at the clock every few seconds only.
const pullMargin = 10 * time.Second

// PullConsumer lets its caller take messages when it likes: those that are pulled ahead of queues that it has subscribed to or was assigned, by
// Poll; or any, by Pull. And it manages offsets. It is safe for use by several goroutines, of which one may Poll.
type PullConsumer struct {
	c    *Client
	cfg  PullConfig
	gate *gate
	// ctx ends with Close.
	ctx    context.Context
	cancel context.CancelFunc

	push      *PushConsumer // holds the queues that Poll reads; it has no listeners
	changed   chan struct{} // has one: there may be something to tell the watchers
	watchLoop sync.WaitGroup
	unchecked atomic.Bool // something is subscribed to that brokers were not asked about

	mu       sync.Mutex
	topics   map[string]*subscription // pulled from by Pull
	pulls    map[MessageQueue]int64   // the broker that each queue was suggested to be pulled from, if not the leader
	polled   []polled
	paused   map[MessageQueue]bool
	watchers map[string]*watcher // by topic
	watching bool                // the loop runs
}

// NewPullConsumer returns a consumer that uses c's connections.
func (c *Client) NewPullConsumer(cfg PullConfig) (*PullConsumer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	push := cfg.push()
	if err := push.validate(); err != nil {
		return nil, fmt.Errorf("PullConfig: %w", err)
	}
	p := &PullConsumer{
		c: c, cfg: cfg, gate: newGate(), push: c.newPushConsumer(push, brokerOffsets{c, cfg.Group}), changed: make(chan struct{}, 1),
		topics: map[string]*subscription{}, pulls: map[MessageQueue]int64{}, paused: map[MessageQueue]bool{}, watchers: map[string]*watcher{},
	}
	p.push.pull = p
	p.ctx, p.cancel = context.WithCancel(c.ctx)
	if err := c.addConsumer(cfg.Group, p); err != nil {
		p.cancel()
		p.push.cancel()
		return nil, err
	}
	return p, nil
}

// Close ends the calls under way, which return ErrClosed, commits the offsets of what the caller is done with (see Poll), and leaves the
// group.
func (p *PullConsumer) Close(ctx context.Context) error {
	if !p.gate.shut() {
		return nil
	}
	p.cancel()
	<-p.gate.idle
	p.watchLoop.Wait()
	if begun, err := p.closePolling(ctx); begun {
		return err
	}
	p.c.removeConsumer(p.cfg.Group)
	p.c.unregister(ctx, "", p.cfg.Group, true)
	return nil
}

// enter begins a call; its context ends with ctx or Close. If err is nil, leave must follow.
func (p *PullConsumer) enter(ctx context.Context) (call context.Context, leave func(), err error) {
	if !p.gate.enter() {
		return nil, nil, ErrClosed
	}
	call, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ctx, func() { cancel(ErrClosed) })
	return call, func() {
		stop()
		cancel(nil)
		p.gate.leave()
	}, nil
}

// FetchQueues returns the queues of a topic, sorted by broker and number.
func (p *PullConsumer) FetchQueues(ctx context.Context, topic string) ([]MessageQueue, error) {
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, p.c.cfg.CallTimeout)
	defer cancel()
	r, err := p.c.routeOf(ctx, p.c.topic(topic), false)
	if err != nil {
		return nil, err
	}
	return append([]MessageQueue(nil), r.read...), nil
}

// Pull pulls messages of a queue. Any replica may answer; if one does not, the next is asked, until ctx ends.
func (p *PullConsumer) Pull(ctx context.Context, req PullRequest) (*PullResult, error) {
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	sub, err := parseSubscription(req.Queue.Topic, req.Selector)
	if err != nil {
		return nil, err
	}
	g, err := p.c.groupOf(ctx, req.Queue)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.topics[sub.topic] == nil {
		p.topics[sub.topic] = sub
		p.c.beatNow()
	}
	from := p.pulls[req.Queue]
	p.mu.Unlock()

	pl := puller{c: p.c, group: p.cfg.Group, mq: req.Queue, sub: sub, g: g, from: from, max: max(req.Max, 0), suspend: p.cfg.SuspendTime}
	setDefault(&pl.max, 32)
	if req.NoWait {
		pl.suspend = 0
	}
	pl.walk.g = g
	for {
		res, err := pl.pull(ctx, req.Offset)
		if err == nil {
			if pl.from != from {
				p.mu.Lock()
				p.pulls[req.Queue] = pl.from
				p.mu.Unlock()
			}
			return res, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, fmt.Errorf("pull: %w: %w", cause, err)
		}
		var refusal *BrokerError
		if errors.As(err, &refusal) && !pl.passes(refusal.Code) {
			return nil, err
		}
		if err := pl.turn(ctx, maxPause); err != nil {
			return nil, fmt.Errorf("pull: %w: %w", context.Cause(ctx), err)
		}
	}
}

// groupOf returns the broker group that has a queue.
func (c *Client) groupOf(ctx context.Context, mq MessageQueue) (*group, error) {
	g := c.group(mq.BrokerName)
	if len(g.replicas.Load().list) > 0 {
		return g, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	if _, err := c.routeOf(ctx, c.topic(mq.Topic), false); err != nil {
		return nil, err
	}
	if len(g.replicas.Load().list) == 0 {
		return nil, fmt.Errorf("%w: topic %s has no queue at broker %q", ErrNoRoute, mq.Topic, mq.BrokerName)
	}
	return g, nil
}

func (p *PullConsumer) data() remoting.ConsumerData {
	d := remoting.ConsumerData{Group: p.cfg.Group, ConsumeType: remoting.ConsumeActively, MessageModel: remoting.Clustering,
		ConsumeFromWhere: p.cfg.From.name()}
	for _, s := range p.push.subscriptions() {
		d.Subscriptions = append(d.Subscriptions, s.data())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.topics {
		if p.push.subscription(s.topic) == nil {
			d.Subscriptions = append(d.Subscriptions, s.data())
		}
	}
	return d
}

func (p *PullConsumer) routeChanged(topic string) {
	p.push.routeChanged(topic)
	p.watchNow()
}
