package remoting

import (
	"errors"
	"fmt"
)

// Responder answers one request. It is a small value that may outlive the request and be used from any goroutine, once: further answers are
// dropped, as are all if the request is oneway or the connection is gone. The zero Responder drops everything.
type Responder struct {
	c          *Conn
	opaque     int32
	slot       uint32
	generation uint32
	serialize  Serialize
	oneway     bool
}

// Responder returns what answers c, which a Handler got.
func (c *Command) Responder() Responder { return c.responder }

// Conn returns the connection that the request came by, nil for the zero Responder.
func (r Responder) Conn() *Conn { return r.c }

// Respond sends resp as the answer. Opaque, flag and encoding are set here, and version and language unless they are; resp is not changed
// and is free again when Respond returns. An answer that is too long for a frame goes as a SystemError saying so. It does not block.
func (r Responder) Respond(resp *Command) { r.RespondSegments(resp, nil, nil) }

// RespondSegments is Respond with a body of resp.Body and then segments, whose bytes are not copied or looked at but handed to the operating
// system. They must not change until release is called, exactly once: when they were written, or will not be. release may run before
// RespondSegments returns, or later on another goroutine; it must not block.
func (r Responder) RespondSegments(resp *Command, segments [][]byte, release func()) {
	if !r.enqueue(resp, segments, release) && release != nil {
		release()
	}
}

// Error answers with the text of err, which must be fit for the peer to see, and a code: that of the *Error it wraps, InvalidParameter for a
// request that cannot be decoded or names what cannot be (clients do not repeat it), else SystemError (producers do).
func (r Responder) Error(err error) {
	resp := Command{Code: SystemError, Remark: err.Error()}
	var e *Error
	switch {
	case errors.As(err, &e):
		resp.Code = e.Code
		if err == error(e) {
			resp.Remark = e.Remark
		}
	case errors.Is(err, ErrField), errors.Is(err, ErrBody), errors.Is(err, ErrName):
		resp.Code = InvalidParameter
	}
	r.Respond(&resp)
}

func (r Responder) enqueue(resp *Command, segments [][]byte, release func()) bool {
	if r.c == nil || r.oneway {
		return false
	}
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !r.freeSlot() || c.err != nil {
		return false
	}
	return r.send(resp, segments, release)
}

// send enqueues the answer. The lock is held.
func (r Responder) send(resp *Command, segments [][]byte, release func()) bool {
	q := *resp
	q.Opaque, q.Flag, q.Serialize = r.opaque, FlagResponse, r.serialize
	err := r.c.enqueue(&q, segments, release)
	if err == nil {
		return true
	}
	q.Code, q.Remark, q.Ext, q.Header, q.Body = SystemError, fmt.Sprintf("the answer cannot be sent: %v", err), nil, nil, nil
	if err := r.c.enqueue(&q, nil, nil); err != nil {
		r.c.failLocked(err) // cannot be: it is short
	}
	return false
}

// refuse answers a request that got no slot. The lock is held.
func (r Responder) refuse(resp *Command) {
	if !r.oneway {
		r.send(resp, nil, nil)
	}
}

// takeSlot counts the request as in flight. The lock is held.
func (r *Responder) takeSlot() {
	c := r.c
	if n := len(c.freeSlots); n > 0 {
		r.slot = c.freeSlots[n-1]
		c.freeSlots = c.freeSlots[:n-1]
	} else {
		r.slot = uint32(len(c.slots))
		c.slots = append(c.slots, 0)
	}
	r.generation = c.slots[r.slot]
}

// freeSlot ends the request; false means that it was ended before. The lock is held.
func (r Responder) freeSlot() bool {
	c := r.c
	if int(r.slot) >= len(c.slots) || c.slots[r.slot] != r.generation {
		return false
	}
	c.slots[r.slot]++
	c.freeSlots = append(c.freeSlots, r.slot)
	return true
}
