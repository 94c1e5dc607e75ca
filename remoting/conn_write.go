package remoting

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	corkedMost = 64 << 10 // a corked connection writes when this much waits
	keptBuffer = 1 << 20  // larger buffers are left to the collector
)

// outbox is what waits to be written: frames encoded into buf and, between them, bytes that belong to others.
type outbox struct {
	buf       *[]byte // from buffers; nil while empty, so that a quiet connection holds none
	segments  []segment
	releases  []func()
	size      int // with segments
	responses int // the part of size that responses make
}

// segment says that b is to be written behind buf[:at]. Its bytes are never touched here, only handed to writev: they may lie in a mapped
// file whose pages are not in memory.
type segment struct {
	at int
	b  []byte
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// enqueue encodes cmd, with a body of cmd.Body and then segments. The lock is held. On an error nothing was enqueued.
func (c *Conn) enqueue(cmd *Command, segments [][]byte, release func()) error {
	body := len(cmd.Body)
	for _, s := range segments {
		body += len(s)
	}
	if cmd.Version == 0 {
		cmd.Version = c.cfg.Version
	}
	if cmd.Language == 0 {
		cmd.Language = c.cfg.Language
	}
	o := &c.out
	if o.buf == nil {
		o.buf = buffers.Get().(*[]byte)
	}
	buf, err := appendHead(*o.buf, cmd, body, c.cfg.MaxFrame, &c.enc)
	size := len(buf) - len(*o.buf) + body
	if err != nil {
		*o.buf = buf
		return err
	}
	*o.buf = append(buf, cmd.Body...)
	for _, s := range segments {
		if len(s) > 0 {
			o.segments = append(o.segments, segment{len(*o.buf), s})
		}
	}
	if release != nil {
		o.releases = append(o.releases, release)
	}
	o.size += size
	c.enqueued += int64(size)
	c.pending += size
	if cmd.IsResponse() {
		o.responses += size
		c.responses.Add(int64(size))
	}
	if !c.corked || o.size >= corkedMost {
		c.wake.Signal()
	}
	return nil
}

// discard gives back what was not written.
func (o *outbox) discard() {
	if o.buf != nil {
		if *o.buf = (*o.buf)[:0]; cap(*o.buf) <= keptBuffer {
			buffers.Put(o.buf)
		}
		o.buf = nil
	}
	for i, release := range o.releases {
		release()
		o.releases[i] = nil
	}
	clear(o.segments)
	o.segments, o.releases = o.segments[:0], o.releases[:0]
	o.size, o.responses = 0, 0
}

// write is the writing goroutine.
func (c *Conn) write() error {
	var o outbox
	defer o.discard()
	for {
		c.mu.Lock()
		for c.err == nil && (c.out.size == 0 || c.corked && c.out.size < corkedMost) {
			c.wake.Wait()
		}
		if c.err == nil && c.out.size < corkedMost {
			// Whoever is about to send, sends now: with 64 callers that halves the time per call, as a write carries more frames.
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		if c.err != nil {
			c.mu.Unlock()
			return nil // Fail has the reason
		}
		o, c.out = c.out, o
		c.mu.Unlock()

		err := c.writeOut(&o)
		size, responses := o.size, o.responses
		o.discard()
		c.responses.Add(-int64(responses))
		c.mu.Lock()
		c.pending -= size
		c.makeRoom()
		c.checkQuiet()
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// makeRoom wakes who waits for room. The lock is held.
func (c *Conn) makeRoom() {
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// roomWanted returns a channel that is closed when room may be there. The lock is held.
func (c *Conn) roomWanted() <-chan struct{} {
	if c.room == nil {
		c.room = make(chan struct{})
	}
	return c.room
}

func (c *Conn) writeOut(o *outbox) error {
	if len(o.segments) == 0 {
		b := *o.buf
		return c.writing(func() (int64, bool, error) {
			n, err := c.nc.Write(b)
			b = b[n:]
			return int64(n), len(b) == 0, err
		})
	}
	list := make(net.Buffers, 0, 2*len(o.segments)+1)
	from := 0
	for _, s := range o.segments {
		if s.at > from {
			list = append(list, (*o.buf)[from:s.at])
			from = s.at
		}
		list = append(list, s.b)
	}
	if from < len(*o.buf) {
		list = append(list, (*o.buf)[from:])
	}
	return c.writing(func() (int64, bool, error) {
		n, err := list.WriteTo(c.nc)
		return n, len(list) == 0, err
	})
}

// writing calls write until it has written everything. The time limit starts anew whenever the peer has taken something.
func (c *Conn) writing(write func() (n int64, all bool, err error)) error {
	for {
		now := time.Now()
		if err := c.nc.SetWriteDeadline(now.Add(c.cfg.WriteTimeout)); err != nil {
			return err
		}
		n, all, err := write()
		c.written += n
		if n > 0 {
			c.lastWrite.Store(int64(now.Sub(c.started)))
		}
		switch {
		case err == nil && all:
			return nil
		case n > 0 && (err == nil || errors.Is(err, os.ErrDeadlineExceeded)):
			// Slow, but it moves.
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%w: no byte in %v", ErrSlowPeer, c.cfg.WriteTimeout)
		case err == nil:
			return errors.New("write made no progress and gave no error")
		default:
			return err
		}
	}
}
