package raftgroup

import (
	"net"
	"sync/atomic"
	"time"
)

// writeChunk bounds what one system call has to move before the deadline is
// set again.
const writeChunk = 64 << 10

// progressConn lets deadlines move with progress. hashicorp/raft sets one
// deadline for a whole request, however large: 4 MiB over 200 kbit/s takes 168
// seconds, and would be given up and begun again for ever. Here the time left
// until the deadline set is what each further piece of it may take.
type progressConn struct {
	net.Conn
	read, write atomic.Int64 // allowance for one piece, ns; 0: no deadline
}

func allowance(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	// A deadline in the past is how callers interrupt: it must stay one.
	return max(1, int64(time.Until(t)))
}

func (c *progressConn) SetDeadline(t time.Time) error {
	c.read.Store(allowance(t))
	c.write.Store(allowance(t))
	return c.Conn.SetDeadline(t)
}

func (c *progressConn) SetReadDeadline(t time.Time) error {
	c.read.Store(allowance(t))
	return c.Conn.SetReadDeadline(t)
}

func (c *progressConn) SetWriteDeadline(t time.Time) error {
	c.write.Store(allowance(t))
	return c.Conn.SetWriteDeadline(t)
}

func (c *progressConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if d := c.read.Load(); d > 0 && n > 0 {
		if e := c.Conn.SetReadDeadline(time.Now().Add(time.Duration(d))); e != nil && err == nil {
			err = e
		}
	}
	return n, err
}

func (c *progressConn) Write(p []byte) (n int, err error) {
	for {
		m, err := c.Conn.Write(p[:min(len(p), writeChunk)])
		n += m
		if err != nil {
			return n, err
		}
		if p = p[m:]; len(p) == 0 {
			return n, nil
		}
		if d := c.write.Load(); d > 0 {
			if err := c.Conn.SetWriteDeadline(time.Now().Add(time.Duration(d))); err != nil {
				return n, err
			}
		}
	}
}
