package raftgroup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage"
)

// A replica that got a snapshot knows what its CommitLog has to hold, and
// fetches what it has not from any peer that has it, beside raft's own traffic.
// The bytes are checked against the snapshot's manifest, so it does not matter
// whom they come from; what was fetched stays, whatever happens to either side.
//
//	request:  op 1 | offset 8 BE | length 8 BE
//	answer:   0 | length 4 BE | bytes         or   1 | length 4 BE | what is wrong
const (
	opData byte = 'D' // [offset, offset+length) of the CommitLog
	opSums byte = 'S' // block sums of the first length bytes of the segment at offset

	fetchRequestSize = 1 + 8 + 8
	// fetchChunk is how much is asked for at once: a multiple of the block size.
	fetchChunk   = 1 << 20
	maxFetch     = 8 << 20
	fetchTimeout = 10 * time.Second
	fetchRetry   = time.Second
)

// serveFetch answers a peer's requests until it hangs up.
func (g *Group) serveFetch(c net.Conn) {
	stop := context.AfterFunc(g.ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	pc := &progressConn{Conn: c}
	var req [fetchRequestSize]byte
	for {
		if _, err := io.ReadFull(pc, req[:]); err != nil {
			if err != io.EOF && g.ctx.Err() == nil {
				g.logger.Debug("a peer stopped fetching", "from", c.RemoteAddr(), "error", err)
			}
			return
		}
		body, err := g.read(req[0], int64(binary.BigEndian.Uint64(req[1:])), int64(binary.BigEndian.Uint64(req[9:])))
		status := byte(0)
		if err != nil {
			status, body = 1, []byte(err.Error())
		}
		head := binary.BigEndian.AppendUint32([]byte{status}, uint32(len(body)))
		if err = pc.SetWriteDeadline(time.Now().Add(fetchTimeout)); err == nil {
			_, err = (&net.Buffers{head, body}).WriteTo(pc)
		}
		if err != nil {
			g.logger.Debug("a peer stopped fetching", "from", c.RemoteAddr(), "error", err)
			return
		}
	}
}

func (g *Group) read(op byte, off, n int64) ([]byte, error) {
	switch {
	case op == opData && n > 0 && n <= maxFetch:
		return g.store.Read(off, int(n))
	case op == opSums:
		return g.store.ReadSums(off, n)
	}
	return nil, fmt.Errorf("no such request: %q of %d bytes", op, n)
}

// catchUp fetches what the store misses, whenever it misses something.
func (g *Group) catchUp() {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-g.progress.repair:
		case <-retry.C:
		case <-g.ctx.Done():
			return
		}
		for g.ctx.Err() == nil && len(g.store.Missing()) > 0 {
			if err := g.fetchMissing(); err != nil && g.ctx.Err() == nil {
				g.logger.Warn("what this replica misses can't be fetched now", "error", err, "ranges", len(g.store.Missing()))
				retry.Reset(fetchRetry)
				break
			}
		}
	}
}

// fetchMissing fetches from one peer after the other until nothing is missing.
func (g *Group) fetchMissing() error {
	servers, err := g.servers()
	if err != nil {
		return err
	}
	err = errors.New("the group has no other member")
	for _, s := range leaderFirst(servers, g.raft) {
		if s.ID == g.id {
			continue
		}
		if err = g.fetchFrom(s); err == nil || g.ctx.Err() != nil {
			return err
		}
		g.logger.Debug("a peer can't give what is missing", "peer", s.ID, "error", err)
	}
	return err
}

func leaderFirst(servers []raft.Server, r *raft.Raft) []raft.Server {
	_, leader := r.LeaderWithID()
	out := make([]raft.Server, 0, len(servers))
	for _, s := range servers {
		if s.ID == leader {
			out = append(out, s)
		}
	}
	for _, s := range servers {
		if s.ID != leader {
			out = append(out, s)
		}
	}
	return out
}

func (g *Group) fetchFrom(s raft.Server) error {
	id, addr, err := splitAddress(s.Address)
	if err != nil {
		return err
	}
	c, err := g.cfg.Port.connect(addr, hello{Kind: streamFetch, Group: g.cfg.Name, From: string(g.id), To: string(id)}, askTimeout)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(g.ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	f := &fetcher{c: &progressConn{Conn: c}, rate: g.cfg.CatchUpRate}
	ranges := g.store.Missing()
	var bytes int64
	for _, r := range ranges {
		n, err := f.fill(g.ctx, g.store, r)
		bytes += n
		// What was trimmed meanwhile is missed no more.
		if err != nil && !errors.Is(err, storage.ErrTrimmed) {
			return err
		}
	}
	g.logger.Info("fetched what was missing", "from", id, "ranges", len(ranges), "bytes", bytes)
	return nil
}

// fetcher is the asking side of a stream.
type fetcher struct {
	c     net.Conn
	rate  int64 // bytes per second; negative: no bound
	begin time.Time
	moved int64
}

// fill fetches a range into a store.
func (f *fetcher) fill(ctx context.Context, store *storage.Store, r storage.Range) (moved int64, err error) {
	if r.Sums > 0 {
		sums, err := f.ask(ctx, opSums, r.Off, r.Sums)
		if err != nil {
			return 0, err
		}
		if err := store.FillSums(r.Off, sums); err != nil {
			return 0, err
		}
	}
	for off := r.Off; off < r.End; {
		n := min(r.End, off-off%fetchChunk+fetchChunk) - off
		data, err := f.ask(ctx, opData, off, n)
		if err != nil {
			return moved, err
		}
		if err := store.Fill(off, data); err != nil {
			return moved, err
		}
		off += n
		moved += n
	}
	return moved, nil
}

func (f *fetcher) ask(ctx context.Context, op byte, off, n int64) ([]byte, error) {
	if err := f.throttle(ctx); err != nil {
		return nil, err
	}
	if err := f.c.SetDeadline(time.Now().Add(fetchTimeout)); err != nil {
		return nil, err
	}
	req := binary.BigEndian.AppendUint64([]byte{op}, uint64(off))
	req = binary.BigEndian.AppendUint64(req, uint64(n))
	if _, err := f.c.Write(req); err != nil {
		return nil, err
	}
	var head [5]byte
	if _, err := io.ReadFull(f.c, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFetch {
		return nil, fmt.Errorf("the peer answers with %d bytes, at most %d are allowed", size, maxFetch)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(f.c, body); err != nil {
		return nil, err
	}
	f.moved += int64(len(body))
	switch {
	case head[0] != 0:
		return nil, fmt.Errorf("the peer says: %s", body)
	case op == opData && int64(len(body)) != n:
		return nil, fmt.Errorf("the peer answers with %d bytes, %d were asked for", len(body), n)
	}
	return body, nil
}

// throttle waits until the rate allows more.
func (f *fetcher) throttle(ctx context.Context) error {
	if f.begin.IsZero() {
		f.begin = time.Now()
	}
	if f.rate <= 0 {
		return nil
	}
	due := f.begin.Add(time.Duration(float64(f.moved) / float64(f.rate) * float64(time.Second)))
	wait := time.Until(due)
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
