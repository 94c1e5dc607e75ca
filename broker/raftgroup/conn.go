package raftgroup

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// writeChunk bounds what one system call has to move before the deadline is
// set again.
const writeChunk = 64 << 10

// progressConn lets deadlines move with progress. hashicorp/raft sets one
// deadline for a whole request and its answer, however large: 4 MiB over 200
// kbit/s takes 168 seconds, and would be given up and begun again for ever. Here
// the time left until the deadline set is what each further piece may take, and
// what was written puts off the deadline for its answer, too.
type progressConn struct {
	net.Conn
	read, write atomic.Int64 // allowance for one piece, ns; 0: no deadline
	fixed       bool         // deadlines stay where they were set
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
	if n > 0 && err == nil {
		err = c.extend(&c.read, c.Conn.SetReadDeadline)
	}
	return n, err
}

func (c *progressConn) Write(p []byte) (n int, err error) {
	for {
		m, err := c.Conn.Write(p[:min(len(p), writeChunk)])
		n += m
		if err == nil {
			err = c.extend(&c.read, c.Conn.SetReadDeadline)
		}
		if p = p[m:]; err != nil || len(p) == 0 {
			return n, err
		}
		if err := c.extend(&c.write, c.Conn.SetWriteDeadline); err != nil {
			return n, err
		}
	}
}

func (c *progressConn) extend(allowance *atomic.Int64, set func(time.Time) error) error {
	d := allowance.Load()
	if d <= 0 || c.fixed {
		return nil
	}
	return set(time.Now().Add(time.Duration(d)))
}

// hungUp says whether the other side has ended a connection, without reading.
func hungUp(c net.Conn) bool {
	if m, ok := c.(interface{ hungUp() bool }); ok {
		return m.hungUp()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	over := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		over = n == 0 && err == nil || err != nil && err != unix.EAGAIN && err != unix.EINTR
	})
	return over || err != nil
}

// maxUnsent bounds what a connection's buffer holds that was not sent yet.
const maxUnsent = 128 << 10

// boundUnsent keeps the kernel from taking more than it can send soon: what is
// written must be a sign of progress, not of a large buffer.
func boundUnsent(c net.Conn) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	}); err != nil {
		return err
	}
	return set
}
