package broker

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// pullAtOnce is how many queue entries are read in one go.
	pullAtOnce = 64
	// readFactor and readAnyway say how much is read in one go: per byte that is
	// wanted, and anyway.
	readFactor, readAnyway = 4, 16 << 10

	// maxPulling bounds the bytes of answers to pulls that are not written yet.
	// Beyond half of it, clients get no more while they have some to take.
	maxPulling = 1 << 30
)

// pulled gathers the messages of an answer: first the queue's entries are picked,
// then the records are read, neighbours in one go.
type pulled struct {
	want, maxCount, maxBytes int // of this answer
	diskCount, diskBytes     int // if it has a message that is not in memory
	memory                   int64
	picked                   []picked
	bytes                    int
	full                     bool
	cold                     bool // it has a message that is not in memory any more
	units                    []storage.Unit
	segments                 [][]byte
	views                    []storage.View
}

// picked is a message of an answer.
type picked struct {
	offset int64 // in its queue
	phys   int64
	size   int
}

var pulledMessages = sync.Pool{New: func() any { return &pulled{units: make([]storage.Unit, 0, pullAtOnce)} }}

func (p *pulled) begin(b *Broker, h *remoting.PullRequest) {
	cfg := b.cfg
	p.want = int(h.MaxMsgNums)
	p.maxCount, p.maxBytes = cfg.TransferCountOnMessageInMem, cfg.TransferBytesOnMessageInMem
	p.diskCount, p.diskBytes = cfg.TransferCountOnMessageInDisk, cfg.TransferBytesOnMessageInDisk
	if h.MaxMsgBytes > 0 {
		p.maxBytes, p.diskBytes = min(p.maxBytes, int(h.MaxMsgBytes)), min(p.diskBytes, int(h.MaxMsgBytes))
	}
	p.memory = b.group.Store().End() - int64(cfg.AccessMessageInMemory)
}

// pick takes a message, or says that the answer is full. The first one is always
// taken, also for a pull that wants none: the stock Go client's pull consumer asks
// for 0 unless it is told otherwise, and gets one, as from RocketMQ.
func (p *pulled) pick(offset int64, u storage.Unit) bool {
	count, bytes := p.maxCount, p.maxBytes
	if u.Phys < p.memory {
		p.cold = true
		count, bytes = p.diskCount, p.diskBytes
	}
	if n := len(p.picked); n > 0 && (n >= min(p.want, count) || p.bytes+int(u.Size) > bytes) {
		p.full = true
		return false
	}
	p.picked = append(p.picked, picked{offset, u.Phys, int(u.Size)})
	p.bytes += int(u.Size)
	return true
}

// read reads what was picked, or the first of it: it says how many messages are
// there, and why no more.
func (p *pulled) read(store *storage.Store) (n int, err error) {
	for n < len(p.picked) && err == nil {
		run := neighbours(p.picked[n:])
		var v storage.View
		v, err = p.readRun(store, p.picked[n:n+run])
		if err != nil && run > 1 { // across the end of a segment, or one of them is not here
			run = 1
			v, err = p.readRun(store, p.picked[n:n+run])
		}
		if err != nil {
			break
		}
		p.views = append(p.views, v)
		first := p.picked[n].phys
		for _, m := range p.picked[n : n+run] {
			p.segments = append(p.segments, v.Bytes[m.phys-first:][:m.size])
		}
		n += run
	}
	return n, err
}

func (p *pulled) readRun(store *storage.Store, run []picked) (storage.View, error) {
	last := run[len(run)-1]
	return store.View(run[0].phys, int(last.phys-run[0].phys)+last.size)
}

// neighbours is how many messages are read in one go: those between which not
// much of others lies. Reading a little too much costs less than a read each.
func neighbours(list []picked) int {
	wanted := list[0].size
	for n := 1; n < len(list); n++ {
		wanted += list[n].size
		if span := list[n].phys + int64(list[n].size) - list[0].phys; span > int64(readFactor*wanted+readAnyway) {
			return n
		}
	}
	return len(list)
}

// handOver returns what releases the messages once they were sent.
func (p *pulled) handOver(from *pulling) func() {
	views, bytes := p.views, p.bytes
	p.views = nil
	return func() {
		for _, v := range views {
			v.Release()
		}
		from.give(bytes)
	}
}

// free gives back what was not handed over.
func (p *pulled) free() {
	for _, v := range p.views {
		v.Release()
	}
	clear(p.segments)
	*p = pulled{picked: p.picked[:0], units: p.units[:0], segments: p.segments[:0]}
	pulledMessages.Put(p)
}

// pulling counts the bytes of answers to pulls that are not written yet, so that
// clients that pull and do not read take no memory without bound, and none from
// those that do.
type pulling struct {
	limit int64 // of one connection
	bytes atomic.Int64
}

// reserve takes bytes for an answer over a connection, unless there are too many.
// errSlowReader: the client is to take first what it was sent already.
func (l *pulling) reserve(c *remoting.Conn, n int) error {
	pending := int64(c.Pending())
	switch all := l.bytes.Add(int64(n)); {
	case pending > l.limit, pending > 0 && all > maxPulling/2:
		l.give(n)
		return errSlowReader
	case all > maxPulling:
		l.give(n)
		return errManyPulls
	}
	return nil
}

var errSlowReader = errors.New("the client does not take its answers")

func (l *pulling) give(n int) { l.bytes.Add(-int64(n)) }
