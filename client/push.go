package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// Listener consumes messages: as many as PushConfig.ConsumeBatch, of one topic and one queue. nil means that they are consumed. An error, or
// a panic, means that none is: each comes again later, up to MaxReconsumeTimes, and then becomes a dead letter; a ReconsumeError can say that
// some of them are, and when the others come again. A message can come more than once, also when nothing went wrong, so consuming one twice
// must do no harm (MsgID tells). With PushConfig.Broadcasting nothing comes again: what is not consumed is skipped.
//
// ctx ends after ConsumeTimeout, and when Close has waited long enough. The messages are the listener's to keep.
type Listener func(ctx context.Context, msgs []*MessageExt) error

// ConsumeFrom says where a group begins with a queue of which it has committed no offset.
type ConsumeFrom int

// The beginnings. They do not matter once the group has an offset.
const (
	// FromLast: with the messages that are sent from now on. Brokers say "at the beginning" of young queues all the same.
	FromLast ConsumeFrom = iota
	// FromFirst: with the first message that is still stored.
	FromFirst
	// FromTime: with the first message stored at PushConfig.FromTime or later.
	FromTime
)

// name returns what heartbeats say.
func (f ConsumeFrom) name() string {
	switch f {
	case FromFirst:
		return remoting.ConsumeFromFirstOffset
	case FromTime:
		return remoting.ConsumeFromTimestamp
	}
	return remoting.ConsumeFromLastOffset
}

// PushConfig configures a PushConsumer. All but Group may be left out: the zero value is the default.
type PushConfig struct {
	// Group is the consumer group. Its members share the queues of the topics, and must subscribe to the same ones. It is required.
	Group string
	// From is where a new group begins. Default: FromLast.
	From ConsumeFrom
	// FromTime goes with From FromTime. Default: 30 min before Start.
	FromTime time.Time
	// Workers is how many listeners run at once. Default: 20.
	Workers int
	// Ordered gives the messages of each queue to the listener in the order of their offsets, one listener at a time in the whole group. A
	// message that its listener fails on holds up its queue: it comes again after RedoDelay.
	Ordered bool
	// ConsumeBatch is how many messages a listener gets at most. Default: 1.
	ConsumeBatch int
	// PullBatch is how many messages are pulled at once. Default: 32.
	PullBatch int
	// MaxMessages, MaxBytes and MaxSpan say how much of one queue may be held that is not consumed: messages, bytes of their bodies, and
	// the distance from the first one's offset to the last one's. At any of them pulling stops until there is room. Defaults: 1000, 100 MiB,
	// 2000.
	MaxMessages int
	MaxBytes    int64
	MaxSpan     int64
	// MaxReconsumeTimes is how often a message comes again after failures before it is a dead letter, NoRetries for never. Where it is set it
	// becomes the group's, for all its consumers: what the last one started with counts. Default: the group's, which is 16 at first; with
	// Ordered, without end. With Ordered it is counted by this consumer only, so anew after its queue has moved.
	MaxReconsumeTimes int
	ownLimit          bool // MaxReconsumeTimes was set
	// ConsumeTimeout is how long a listener may take: after that the message that holds up its queue comes again as if it had failed; with
	// Ordered only the listener's context ends. Default: 15 min.
	ConsumeTimeout time.Duration
	// CommitInterval is how often offsets are committed; they also are when a queue goes to another client, and by Close. Default: 5 s.
	CommitInterval time.Duration
	// RebalanceInterval is how often the queues are shared anew without being told to; every second while it does not work out. Default:
	// 20 s.
	RebalanceInterval time.Duration
	// SuspendTime is how long a broker may hold a pull when there is nothing new. Default: 15 s.
	SuspendTime time.Duration
	// RedoDelay is how long after a failure a message is given to the listener again that could not be sent back to any broker; with Ordered,
	// any message, and then it is from 10 ms to 30 s. Default: 5 s, with Ordered 1 s.
	RedoDelay time.Duration
	// Allocate shares the queues among the group's clients. Default: AllocateAverage.
	Allocate Allocator
	// Broadcasting gives every client of the group all messages. Each keeps its own offsets, in a file; a message that its listener fails on is
	// skipped.
	Broadcasting bool
	// OffsetFile is where the offsets of Broadcasting are kept. Clients must not share one. Default:
	// ~/.rocketmq_offsets/<Config.ClientID>/<Group>/offsets.json, as Java has it, which takes a ClientID that was set.
	OffsetFile string
	// Interceptors stand around the listeners, the first one outermost.
	Interceptors []ConsumeInterceptor
}

func (cfg *PushConfig) validate() error {
	if err := remoting.CheckGroup(cfg.Group); err != nil {
		return fmt.Errorf("%w: PushConfig.Group: %w", ErrConfig, err)
	}
	for name, v := range map[string]int64{"Workers": int64(cfg.Workers), "ConsumeBatch": int64(cfg.ConsumeBatch), "PullBatch": int64(cfg.PullBatch),
		"MaxMessages": int64(cfg.MaxMessages), "MaxBytes": cfg.MaxBytes, "MaxSpan": cfg.MaxSpan, "ConsumeTimeout": int64(cfg.ConsumeTimeout),
		"CommitInterval": int64(cfg.CommitInterval), "RebalanceInterval": int64(cfg.RebalanceInterval), "SuspendTime": int64(cfg.SuspendTime),
		"RedoDelay": int64(cfg.RedoDelay)} {
		if v < 0 {
			return fmt.Errorf("%w: PushConfig.%s is negative", ErrConfig, name)
		}
	}
	if cfg.From < FromLast || cfg.From > FromTime {
		return fmt.Errorf("%w: PushConfig.From is %d", ErrConfig, cfg.From)
	}
	setDefault(&cfg.Workers, 20)
	setDefault(&cfg.ConsumeBatch, 1)
	setDefault(&cfg.PullBatch, 32)
	setDefault(&cfg.MaxMessages, 1000)
	setDefault(&cfg.MaxBytes, 100<<20)
	setDefault(&cfg.MaxSpan, 2000)
	cfg.ownLimit = cfg.MaxReconsumeTimes != 0
	if cfg.Ordered {
		setDefault(&cfg.MaxReconsumeTimes, math.MaxInt32)
		setDefault(&cfg.RedoDelay, time.Second)
		cfg.RedoDelay = min(max(cfg.RedoDelay, 10*time.Millisecond), 30*time.Second)
	}
	setDefault(&cfg.MaxReconsumeTimes, 16)
	cfg.MaxReconsumeTimes = max(cfg.MaxReconsumeTimes, 0)
	setDefault(&cfg.ConsumeTimeout, 15*time.Minute)
	setDefault(&cfg.CommitInterval, 5*time.Second)
	setDefault(&cfg.RebalanceInterval, 20*time.Second)
	setDefault(&cfg.SuspendTime, 15*time.Second)
	setDefault(&cfg.RedoDelay, 5*time.Second)
	if cfg.Allocate == nil {
		cfg.Allocate = AllocateAverage
	}
	return nil
}

// PushConsumer gives the messages of the topics it subscribes to to listeners. The clients of its group share the queues: each message goes
// to one of them, at least once, in no particular order unless PushConfig.Ordered.
type PushConsumer struct {
	c       *Client
	cfg     PushConfig
	started time.Time
	store   offsetStore
	pull    *PullConsumer // whose queues these are: its Poll takes the place of workers and listeners; nil: nobody's
	kick    chan struct{} // has one: share the queues anew now
	work    *dispatcher
	asked   chan struct{} // has one for each request of a broker being worked on

	ctx       context.Context // ends with Close: nothing is pulled, shared or committed any more
	cancel    context.CancelFunc
	listening context.Context // ends when listeners are to stop
	stop      context.CancelFunc
	loops     sync.WaitGroup // everything but workers
	workers   sync.WaitGroup

	consumed, unconsumed atomic.Int64 // messages

	mu       sync.Mutex
	state    pushState
	closed   chan struct{}
	subs     map[string]*subscription
	queues   map[MessageQueue]*processQueue
	assigned map[string][]MessageQueue // by topic: what a PullConsumer was assigned; nil: queues are shared
	seeks    map[MessageQueue]int64    // where to begin with assigned queues that are not held yet
	// leaving are, with Ordered, queues that were given up and whose listener is not done yet.
	leaving map[MessageQueue]*processQueue
	locks   locks
}

// maxAsked bounds how many requests of brokers are worked on at once.
const maxAsked = 16

type pushState int

const (
	pushNew pushState = iota
	pushRunning
	pushClosing
)

// NewPushConsumer returns a consumer that uses c's connections. It does nothing before Start.
func (c *Client) NewPushConsumer(cfg PushConfig) (*PushConsumer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	store, err := c.offsetStore(&cfg)
	if err != nil {
		return nil, err
	}
	return c.newPushConsumer(cfg, store), nil
}

// offsetStore returns where a consumer keeps its offsets.
func (c *Client) offsetStore(cfg *PushConfig) (offsetStore, error) {
	if !cfg.Broadcasting {
		return brokerOffsets{c, cfg.Group}, nil
	}
	path := cfg.OffsetFile
	if path == "" {
		if c.cfg.randomID {
			return nil, fmt.Errorf("%w: with Broadcasting, set PushConfig.OffsetFile, or Config.ClientID to the same one in each run: otherwise the offsets would not be found again", ErrConfig)
		}
		var err error
		if path, err = offsetFile(c.ID(), cfg.Group); err != nil {
			return nil, fmt.Errorf("%w: PushConfig.OffsetFile has no default: %w", ErrConfig, err)
		}
	}
	return &fileOffsets{path: path, log: c.log.With("group", cfg.Group, "file", path)}, nil
}

// newPushConsumer returns a consumer of a configuration that is valid.
func (c *Client) newPushConsumer(cfg PushConfig, store offsetStore) *PushConsumer {
	p := &PushConsumer{
		c: c, cfg: cfg, store: store, kick: make(chan struct{}, 1), work: newDispatcher(), asked: make(chan struct{}, maxAsked), closed: make(chan struct{}),
		subs: map[string]*subscription{}, queues: map[MessageQueue]*processQueue{}, seeks: map[MessageQueue]int64{},
		leaving: map[MessageQueue]*processQueue{}, locks: locks{turns: map[string]chan struct{}{}},
	}
	p.ctx, p.cancel = context.WithCancel(c.ctx)
	p.listening, p.stop = context.WithCancel(context.Background())
	return p
}

// manual reports whether offsets are committed only when the caller says so.
func (p *PushConsumer) manual() bool { return p.pull != nil && p.pull.cfg.ManualCommit }

// watchNow tells the watchers that other queues are held than before.
func (p *PushConsumer) watchNow() {
	if p.pull != nil {
		p.pull.watchNow()
	}
}

// assignment returns what was assigned of a topic; false: its queues are shared.
func (p *PushConsumer) assignment(topic string) ([]MessageQueue, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.assigned[topic], p.assigned != nil
}

// Subscribe makes listener consume the messages of a topic that are selected: all ("*"), by ByTag or by BySQL. It may be called before and after
// Start, and again for the same topic: then it replaces.
func (p *PushConsumer) Subscribe(topic string, selector Selector, listener Listener) error {
	if listener == nil {
		return fmt.Errorf("%w: the listener is nil", ErrConfig)
	}
	s, err := parseSubscription(topic, selector)
	if err != nil {
		return err
	}
	s.listener = wrap(p.cfg.Interceptors, listener)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == pushClosing {
		return ErrClosed
	}
	p.subs[topic] = s
	if p.state == pushRunning {
		p.c.beatNow()
		p.rebalanceNow()
	}
	return nil
}

// Unsubscribe ends what Subscribe began. What the listener has is finished; the rest stays for others, or for a later subscription.
func (p *PushConsumer) Unsubscribe(topic string) {
	p.mu.Lock()
	delete(p.subs, topic)
	p.mu.Unlock()
	p.c.beatNow()
	p.rebalanceNow()
}

// Start begins to consume. It waits until the routes of the topics are known, no longer than ctx; a topic that does not exist is no error: it
// is consumed when it does. SQL that a broker refuses is one, a *BrokerError.
func (p *PushConsumer) Start(ctx context.Context) error {
	p.mu.Lock()
	switch {
	case p.state == pushClosing:
		p.mu.Unlock()
		return ErrClosed
	case p.state == pushRunning:
		p.mu.Unlock()
		return fmt.Errorf("%w: the consumer was started before", ErrConfig)
	case len(p.subs) == 0:
		p.mu.Unlock()
		return fmt.Errorf("%w: the consumer subscribes to nothing", ErrConfig)
	}
	retry := remoting.RetryTopic(p.cfg.Group)
	if !p.cfg.Broadcasting {
		// Messages that failed come again by this topic, whatever their tags. Who listens is decided by their own topic.
		all, err := parseSubscription(retry, "*")
		if err != nil {
			p.mu.Unlock()
			return err
		}
		p.subs[retry] = all
	}
	topics := slices.Collect(maps.Keys(p.subs))
	p.started = time.Now() // before the first heartbeat, which says so
	p.mu.Unlock()

	if err := p.store.load(); err != nil {
		return err
	}
	for _, t := range topics {
		if t == retry {
			continue // brokers make it when they hear of the group
		}
		if _, err := p.c.routeOf(ctx, p.c.topic(t), false); err != nil && !errors.Is(err, ErrNoRoute) {
			return err
		}
	}
	if err := p.checkSelectors(ctx, p.subscriptions()); err != nil {
		return err
	}
	if err := p.c.addConsumer(p.cfg.Group, p); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == pushClosing {
		p.c.removeConsumer(p.cfg.Group)
		return ErrClosed
	}
	p.run()
	return nil
}

// run begins the work. The lock is held.
func (p *PushConsumer) run() {
	p.state = pushRunning
	setDefault(&p.started, time.Now())
	setDefault(&p.cfg.FromTime, p.started.Add(-30*time.Minute))
	if p.needsLocks() {
		p.startLocks()
	}
	p.loops.Go(p.rebalanceLoop)
	if !p.manual() {
		p.loops.Go(p.commitLoop)
	}
	if p.pull == nil {
		for range p.cfg.Workers {
			p.workers.Go(p.consume)
		}
	}
}

// closeGrace is how much longer than its context Close may take: for listeners to see that theirs has ended, and for the last commit.
const closeGrace = time.Second

// Close stops pulling, waits until the running listeners return or ctx ends, commits the offsets of what they have consumed, and leaves the
// group. When ctx has ended the contexts of listeners end too; those that do not return within a second are left behind, and that is an
// error: their messages will come again.
func (p *PushConsumer) Close(ctx context.Context) error {
	p.mu.Lock()
	was := p.state
	p.state = pushClosing
	p.mu.Unlock()
	if was == pushClosing {
		<-p.closed
		return nil
	}
	defer close(p.closed)
	defer p.stop()
	p.cancel()
	if was == pushNew {
		return nil
	}
	p.work.close()
	p.loops.Wait()

	err := p.awaitWorkers(ctx)
	if endErr := p.end(ctx); err == nil {
		err = endErr
	}
	return err
}

// end commits the last offsets and leaves the group. Nothing is pulled and consumed any more.
func (p *PushConsumer) end(ctx context.Context) (err error) {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(time.Until(deadlineOf(ctx)), closeGrace))
	defer cancel()
	commit := func(ctx context.Context) error { return p.commitAll(ctx, p.held()) }
	if p.cfg.Ordered {
		commit = p.endInOrder
	}
	if p.manual() {
		// What was not committed comes again.
	} else if err = commit(last); err != nil {
		err = fmt.Errorf("close consumer %s: offsets were not committed, messages will come again: %w", p.cfg.Group, err)
	}
	for _, q := range p.held() {
		q.drop()
	}
	p.c.removeConsumer(p.cfg.Group)
	p.c.unregister(last, "", p.cfg.Group, true)
	return err
}

// deadlineOf returns when ctx ends; with none, far in the future.
func deadlineOf(ctx context.Context) time.Time {
	if ctx.Err() != nil {
		return time.Now()
	}
	if d, ok := ctx.Deadline(); ok {
		return d
	}
	return time.Now().Add(time.Hour)
}

// awaitWorkers waits for the listeners.
func (p *PushConsumer) awaitWorkers(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		p.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	p.stop()
	grace, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	select {
	case <-done:
		return nil
	case <-grace.Done():
		return fmt.Errorf("close consumer %s: listeners are still running: %w", p.cfg.Group, ctx.Err())
	}
}

// held returns the queues that the consumer has.
func (p *PushConsumer) held() []*processQueue {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.queues))
}

// Queues returns the queues that this consumer has at the moment, sorted.
func (p *PushConsumer) Queues() []MessageQueue {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Keys(p.queues), compareQueues)
}

// subscription returns what is subscribed of a topic; nil: nothing.
func (p *PushConsumer) subscription(topic string) *subscription {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.subs[topic]
}

// subscriptions returns all of them, by topic.
func (p *PushConsumer) subscriptions() []*subscription {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*subscription
	for _, t := range slices.Sorted(maps.Keys(p.subs)) {
		list = append(list, p.subs[t])
	}
	return list
}

func (p *PushConsumer) data() remoting.ConsumerData {
	d := remoting.ConsumerData{Group: p.cfg.Group, ConsumeType: remoting.ConsumePassively, MessageModel: remoting.Clustering,
		ConsumeFromWhere: p.cfg.From.name()}
	p.mu.Lock()
	if p.cfg.ownLimit && !p.started.IsZero() {
		d.Started, d.MaxReconsumeTimes = p.started.UnixMilli(), int32(p.cfg.MaxReconsumeTimes)
	}
	p.mu.Unlock()
	if p.cfg.Broadcasting {
		d.MessageModel = remoting.Broadcasting
	}
	for _, s := range p.subscriptions() {
		d.Subscriptions = append(d.Subscriptions, s.data())
	}
	return d
}

func (p *PushConsumer) routeChanged(topic string) {
	if p.subscription(topic) != nil {
		p.rebalanceNow()
	}
}
