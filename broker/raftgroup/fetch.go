package raftgroup

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// The catch-up stream: a peer asks for bytes of the CommitLog and gets them, in
// order, until it hangs up.
//
//	request:  op 1 | offset 8 BE | length 8 BE
//	answer:   0 | length 4 BE | bytes         or   1 | length 4 BE | what is wrong
const (
	opData byte = 'D' // [offset, offset+length) of the CommitLog
	opSums byte = 'S' // block sums of the first length bytes of the segment at offset

	fetchRequestSize = 1 + 8 + 8
	fetchHeadSize    = 1 + 4
	maxFetch         = 8 << 20
	fetchTimeout     = 10 * time.Second
	// fetchIdle is how long a peer may keep a stream without asking.
	fetchIdle = time.Minute
	// maxFetchers bounds the streams of a group at one time: each may hold
	// maxFetch bytes. A peer has one, or one that it has given up and another.
	maxFetchers = 16
)

// serveFetch answers a peer's requests until it hangs up.
func (g *Group) serveFetch(c net.Conn) {
	stop := context.AfterFunc(g.ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	if g.fetchers.Add(1) > maxFetchers {
		g.fetchers.Add(-1)
		g.logger.Warn("a peer may not fetch: too many do", "from", c.RemoteAddr(), "limit", maxFetchers)
		return
	}
	defer g.fetchers.Add(-1)
	err := g.answerFetches(&progressConn{Conn: c})
	if err != io.EOF && g.ctx.Err() == nil {
		g.logger.Debug("a peer stopped fetching", "from", c.RemoteAddr(), "error", err)
	}
}

func (g *Group) answerFetches(c net.Conn) error {
	var req [fetchRequestSize]byte
	for {
		if err := c.SetReadDeadline(time.Now().Add(fetchIdle)); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, req[:]); err != nil {
			return err
		}
		if err := g.giving.take(g.ctx, int(min(binary.BigEndian.Uint64(req[9:]), maxFetch))); err != nil {
			return err
		}
		body, err := g.read(req[0], int64(binary.BigEndian.Uint64(req[1:])), int64(binary.BigEndian.Uint64(req[9:])))
		g.given.Add(int64(len(body)))
		status := byte(0)
		if err != nil {
			status, body = 1, []byte(err.Error())
		}
		head := binary.BigEndian.AppendUint32([]byte{status}, uint32(len(body)))
		if err := c.SetWriteDeadline(time.Now().Add(fetchTimeout)); err != nil {
			return err
		}
		if _, err := (&net.Buffers{head, body}).WriteTo(c); err != nil {
			return err
		}
	}
}

func (g *Group) read(op byte, off, n int64) ([]byte, error) {
	switch {
	case op == opData && n > 0 && n <= maxFetch:
		return g.store.Read(off, int(n))
	case op == opSums && n > 0:
		return g.store.ReadSums(off, n)
	}
	return nil, fmt.Errorf("no such request: %q of %d bytes", op, n)
}
