package remoting

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// slowestFrame is the rate, in bytes a second, that a long frame may arrive at.
const slowestFrame = 16 << 10

// read is the reading goroutine.
func (c *Conn) read() error {
	in := frameReader{r: c.nc, limit: c.cfg.MaxFrame}
	clock := readClock{c: c, last: c.started}
	var decoder headerDecoder
	var cmd Command
	for {
		frame, owned, err := in.next()
		if err != nil {
			return err
		}
		if frame == nil {
			c.cork(false)
			if err := clock.arm(in.pending()); err != nil {
				return err
			}
			if err := in.fill(); err != nil {
				if err := clock.judge(err, in.pending()); err != nil {
					return err
				}
				continue
			}
			clock.last = time.Now()
			continue
		}
		clock.begun = time.Time{}
		if err := decoder.decode(frame, &cmd); err != nil {
			return err
		}
		if cmd.IsResponse() {
			c.dispatchResponse(&cmd, owned)
			continue
		}
		if c.responses.Load() > int64(c.cfg.MaxPending) {
			c.cork(false)
			if !c.awaitRoom() {
				return ErrClosed // Fail had another reason
			}
			clock.last = time.Now()
		}
		c.cork(in.end > in.start)
		c.dispatchRequest(&cmd)
	}
}

// cork holds small answers back, or lets them go.
func (c *Conn) cork(on bool) {
	c.mu.Lock()
	if c.corked != on {
		c.corked = on
		if !on && c.out.size > 0 {
			c.wake.Signal()
		}
	}
	c.mu.Unlock()
}

// awaitRoom waits until the peer has taken enough of its answers; false means the connection has ended.
func (c *Conn) awaitRoom() bool {
	for {
		c.mu.Lock()
		if c.err != nil {
			c.mu.Unlock()
			return false
		}
		if c.responses.Load() <= int64(c.cfg.MaxPending)/2 {
			c.mu.Unlock()
			return true
		}
		room := c.roomWanted()
		c.mu.Unlock()
		<-room
	}
}

// dispatchRequest gives a request to the handler, or refuses it.
func (c *Conn) dispatchRequest(cmd *Command) {
	r := Responder{c: c, opaque: cmd.Opaque, serialize: cmd.Serialize, oneway: cmd.IsOneway()}
	cmd.responder = r
	c.mu.Lock()
	switch {
	case c.err != nil || c.lingering:
		c.mu.Unlock()
		return
	case c.draining:
		c.asked = time.Now()
		refusal := Command{Code: ServiceNotAvailable, Remark: "shutting down", Ext: c.cfg.DrainFields}
		if cmd.Version > VersionGoAway {
			refusal.Code = GoAway
		}
		r.refuse(&refusal)
	case !r.oneway && len(c.slots)-len(c.freeSlots) >= c.cfg.MaxInFlight:
		r.refuse(&Command{Code: SystemBusy, Remark: fmt.Sprintf("[OVERLOAD] %d requests of this connection are unanswered", c.cfg.MaxInFlight)})
	case c.handler == nil:
		r.refuse(&Command{Code: RequestCodeNotSupported, Remark: fmt.Sprintf("request %s (%d) is not served here", RequestName(cmd.Code), cmd.Code)})
	default:
		if !r.oneway {
			cmd.responder.takeSlot()
		}
		c.mu.Unlock()
		c.handler.ServeRemoting(c, cmd)
		return
	}
	c.mu.Unlock()
}

// readClock sets read deadlines. A deadline is cheap but not free, so it is set ahead only now and then; when one strikes too early, judge
// sees that the time is not over, and arm sets the next.
type readClock struct {
	c     *Conn
	last  time.Time // of the last byte read
	begun time.Time // when the frame being read was first seen; zero if there is none
	set   time.Time // the deadline in force
}

// limit returns when time is over for a frame of which a part has arrived (size > 0), or for an idle connection. Zero means never.
func (k *readClock) limit(size int) time.Time {
	if size > 0 {
		return k.begun.Add(k.c.cfg.FrameTimeout + time.Duration(size)*time.Second/slowestFrame)
	}
	if k.c.cfg.IdleTimeout < 0 {
		return time.Time{}
	}
	last := k.last
	if w := k.c.started.Add(time.Duration(k.c.lastWrite.Load())); w.After(last) {
		last = w
	}
	return last.Add(k.c.cfg.IdleTimeout)
}

func (k *readClock) arm(size int) error {
	if size > 0 && k.begun.IsZero() {
		k.begun = k.last
	}
	want := k.limit(size)
	if k.set.Equal(want) || !k.set.IsZero() && k.set.Before(want) && k.set.After(k.last) {
		return nil // it strikes early, if at all
	}
	k.set = want
	return k.c.nc.SetReadDeadline(want)
}

// judge says whether an error of a read ends the connection, and how to call it.
func (k *readClock) judge(err error, size int) error {
	switch {
	case errors.Is(err, io.EOF) && size > 0:
		return fmt.Errorf("%w: the peer closed inside a frame", io.ErrUnexpectedEOF)
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	k.set = time.Time{}
	if limit := k.limit(size); limit.IsZero() || time.Now().Before(limit) {
		return nil
	}
	if size > 0 {
		return fmt.Errorf("%w: %d bytes", ErrSlowFrame, size)
	}
	return ErrIdle
}
