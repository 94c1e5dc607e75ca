package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// NoRetries is the value of ProducerConfig.Retries for none.
const NoRetries = -1

// ProducerConfig configures a Producer. The zero value is the default.
type ProducerConfig struct {
	// Group is the producer group. Default: DEFAULT_PRODUCER. It matters for transactions and for tools that list producers.
	Group string
	// Timeout is how long a send may take, with all its attempts; a context that ends earlier counts. Default: 3 s.
	Timeout time.Duration
	// AttemptTimeout is how long an attempt may go unanswered before another replica is asked. Default: half of Timeout.
	AttemptTimeout time.Duration
	// Retries is how many further attempts follow one that failed, NoRetries for none. It does not count what it takes to find the leader
	// (replicas that cannot be reached, or say that they do not lead) nor questions after an outcome that the broker called unknown: these
	// end with Timeout. Default: 2.
	Retries int
	// StayInGroup keeps a send in the broker group that was chosen first. Default: a send that was definitely not stored there goes to another
	// group, if there is one, and none is chosen that has just failed.
	StayInGroup bool
	// LeaveInLimbo lets a send whose outcome is unknown go to another group when the first one, asked again, does not say. That makes
	// an answer likelier while a whole group is unreachable, and can store the message in both: groups do not know each other's ids. Default:
	// ErrLimbo rather than perhaps twice.
	LeaveInLimbo bool
	// InOrder keeps one send in flight per queue: a send waits until those that came before it on its queue have an outcome, and is
	// retried on its queue only. Together with SendTo, ShardingKey or Select it keeps the order, if the caller sends a Message again
	// that ended with an error before sending the next one. SendAsync waits likewise.
	InOrder bool
	// Select chooses the queue: it returns an index of queues, which are sorted by broker and number, or a negative one to leave it to the
	// producer. It goes before ShardingKey. A send is then retried on that queue only. It is called by many goroutines.
	Select func(queues []MessageQueue, m *Message) int
	// CompressOver is from which size on bodies are compressed, negative: never. Batches are not. Default: 4096 bytes.
	CompressOver int
	// Compression is how. Default: Zlib, which every client can undo.
	Compression Compression
	// CompressLevel is how hard Zlib and Zstd try, 1 to 9; LZ4 has no levels. Default: 5.
	CompressLevel int
	// MaxMessageSize is the longest body, before compression, and batch. Default: 4 MiB, as the broker's.
	MaxMessageSize int
	// MaxInFlight is how many messages of SendAsync may be without an outcome. Default: 4096.
	MaxInFlight int
	// Interceptors are called around each send, the first one outermost.
	Interceptors []SendInterceptor
}

func (cfg *ProducerConfig) validate() error {
	setDefault(&cfg.Group, "DEFAULT_PRODUCER")
	setDefault(&cfg.Timeout, 3*time.Second)
	setDefault(&cfg.AttemptTimeout, cfg.Timeout/2)
	setDefault(&cfg.Retries, 2)
	setDefault(&cfg.CompressOver, 4096)
	setDefault(&cfg.CompressLevel, 5)
	setDefault(&cfg.MaxMessageSize, remoting.MaxMessageSize)
	setDefault(&cfg.MaxInFlight, 4096)
	cfg.Retries = max(cfg.Retries, 0)
	switch {
	case cfg.Timeout < 0 || cfg.AttemptTimeout < 0:
		return fmt.Errorf("%w: ProducerConfig.Timeout and AttemptTimeout must not be negative", ErrConfig)
	case cfg.CompressLevel < 1 || cfg.CompressLevel > 9:
		return fmt.Errorf("%w: ProducerConfig.CompressLevel is %d, want 1 to 9", ErrConfig, cfg.CompressLevel)
	case cfg.Compression < Zlib || cfg.Compression > Zstd:
		return fmt.Errorf("%w: ProducerConfig.Compression is %d", ErrConfig, cfg.Compression)
	case cfg.MaxMessageSize < 0 || cfg.MaxInFlight < 0:
		return fmt.Errorf("%w: ProducerConfig.MaxMessageSize and MaxInFlight must not be negative", ErrConfig)
	}
	if err := remoting.CheckGroup(cfg.Group); err != nil {
		return fmt.Errorf("%w: ProducerConfig.Group: %w", ErrConfig, err)
	}
	return nil
}

// Producer sends messages. It is safe for use by several goroutines; sends that are under way together share each connection without waiting
// for each other.
type Producer struct {
	c      *Client
	cfg    ProducerConfig
	policy retryPolicy
	bodies *compressor
	gate   *gate         // sends under way
	dying  chan struct{} // closed when they have to end

	turnsMu sync.Mutex
	turns   map[MessageQueue]chan struct{} // of InOrder: has one while a send of the queue is under way

	knownMu sync.Mutex
	known   map[*peer]introduction // of Request

	async  completions
	checks *checks // of a TransactionProducer, else nil
}

// NewProducer returns a producer that uses c's connections.
func (c *Client) NewProducer(cfg ProducerConfig) (*Producer, error) { return c.newProducer(cfg, nil) }

func (c *Client) newProducer(cfg ProducerConfig, checks *checks) (*Producer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	bodies, err := newCompressor(cfg.Compression, cfg.CompressLevel)
	if err != nil {
		return nil, fmt.Errorf("%w: ProducerConfig.CompressLevel: %w", ErrConfig, err)
	}
	p := &Producer{
		c: c, cfg: cfg, bodies: bodies, policy: retryPolicy{retries: cfg.Retries, leave: !cfg.StayInGroup, afterLimbo: cfg.LeaveInLimbo},
		gate: newGate(), dying: make(chan struct{}), turns: map[MessageQueue]chan struct{}{}, checks: checks,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, ErrClosed
	}
	p.async.start(cfg.MaxInFlight)
	c.producers[p] = struct{}{}
	c.beatNow()
	return p, nil
}

// Close waits until the sends under way have their outcome, or ctx ends: then they get one, ErrLimbo if they may be stored. Sends that come
// later get ErrNotSent and ErrClosed. Callbacks of SendAsync have returned when Close does, which must not be called by one; what they wait
// for may take AttemptTimeout longer than ctx.
func (p *Producer) Close(ctx context.Context) error {
	if !p.gate.shut() {
		<-p.async.stopped // someone else is closing
		return nil
	}
	err := p.gate.wait(ctx)
	if err != nil {
		close(p.dying)
		<-p.gate.idle
		err = fmt.Errorf("close producer %s: sends were under way: %w", p.cfg.Group, err)
	}
	p.async.stop()
	c := p.c
	if p.checks != nil {
		p.checks.close()
	}
	c.mu.Lock()
	delete(c.producers, p)
	last := true
	for other := range c.producers {
		last = last && other.cfg.Group != p.cfg.Group
	}
	c.mu.Unlock()
	if last {
		c.unregister(ctx, p.cfg.Group, "", p.checks != nil)
	}
	return err
}

// Queues returns the queues that a topic's messages can be sent to, sorted by broker and number.
func (p *Producer) Queues(ctx context.Context, topic string) ([]MessageQueue, error) {
	r, err := p.c.routeOf(ctx, p.c.topic(topic), true)
	if err != nil {
		return nil, err
	}
	return r.queues(), nil
}

// Send sends a message and waits for the outcome: a result if it was stored, else a *SendError of kind ErrNotSent, ErrLimbo or ErrRejected.
func (p *Producer) Send(ctx context.Context, m *Message) (*SendResult, error) {
	return p.send(ctx, m, nil)
}

// SendTo is Send to a queue, with retries on that queue only.
func (p *Producer) SendTo(ctx context.Context, queue MessageQueue, m *Message) (*SendResult, error) {
	return p.send(ctx, m, &queue)
}

func (p *Producer) send(ctx context.Context, m *Message, queue *MessageQueue) (*SendResult, error) {
	if !p.gate.enter() {
		return nil, notSent(ErrClosed)
	}
	defer p.gate.leave()
	return p.sendOne(ctx, m, queue, false)
}

// sendOne sends a message, or half of one. The gate is entered.
func (p *Producer) sendOne(ctx context.Context, m *Message, queue *MessageQueue, half bool) (*SendResult, error) {
	s := newSend(p)
	defer s.free()
	s.half = half
	ctx, in := p.intercept(ctx, m)
	err := s.single(m)
	return s.deliver(ctx, in, queue, err)
}

// SendBatch sends messages of one topic in one request, to one queue: they are stored together, in their order, or not at all. None may
// be delayed. A batch that ended with ErrLimbo can only be asked about by sending the same batch again; its messages sent in any other
// way end with ErrLimbo and ErrMessage.
func (p *Producer) SendBatch(ctx context.Context, ms []*Message) (*SendResult, error) {
	return p.sendBatch(ctx, ms, nil)
}

// SendBatchTo is SendBatch to a queue, with retries on that queue only.
func (p *Producer) SendBatchTo(ctx context.Context, queue MessageQueue, ms []*Message) (*SendResult, error) {
	return p.sendBatch(ctx, ms, &queue)
}

func (p *Producer) sendBatch(ctx context.Context, ms []*Message, queue *MessageQueue) (*SendResult, error) {
	if !p.gate.enter() {
		return nil, notSent(ErrClosed)
	}
	defer p.gate.leave()
	s := newSend(p)
	defer s.free()
	ctx, in := p.intercept(ctx, ms...)
	err := s.batch(ms)
	return s.deliver(ctx, in, queue, err)
}

// SendOneway sends a message and does not wait for an answer, nor ask for one: nil means that it was given to a connection. It is for
// messages that may be lost.
func (p *Producer) SendOneway(ctx context.Context, m *Message) error {
	if !p.gate.enter() {
		return notSent(ErrClosed)
	}
	defer p.gate.leave()
	s := newSend(p)
	defer s.free()
	ctx, in := p.intercept(ctx, m)
	err := s.single(m)
	in.restore()
	if err == nil {
		err = s.oneway(ctx)
	}
	in.done(nil, err)
	return err
}

// turn returns the channel that the sends of a queue take turns by.
func (p *Producer) turn(queue MessageQueue) chan struct{} {
	p.turnsMu.Lock()
	defer p.turnsMu.Unlock()
	t := p.turns[queue]
	if t == nil {
		t = make(chan struct{}, 1)
		p.turns[queue] = t
	}
	return t
}
