package raftgroup

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/raftmq/raftmq/storage"
)

// How much is asked for at once: multiples of the block size.
const (
	minFetchChunk   = 4 << 10
	firstFetchChunk = 64 << 10
	maxFetchChunk   = 1 << 20
	// fetchPart is how long it may take: raft's own messages wait behind it on a
	// slow link.
	fetchPart = 50 * time.Millisecond
)

// fetcher is the asking side of a stream. It asks for one part after the other,
// small ones where they take long, and rests as long as each has taken: however
// little the link, the peer or a disk can do, half of it is left to others.
type fetcher struct {
	c     net.Conn
	rate  *throttle
	chunk int64 // to ask for next
	moved int64 // bytes that came
	// got is told how much of what was missing came.
	got func(n int)
}

// fill fetches a range into a store. Of a segment whose block sums are needed it
// fetches these only: with them much may be found on the own disk.
func (f *fetcher) fill(ctx context.Context, store *storage.Store, r storage.Range) error {
	if r.Sums > 0 {
		sums, err := f.ask(ctx, opSums, r.Off, r.Sums)
		if err != nil {
			return err
		}
		return store.FillSums(r.Off, sums)
	}
	for off := r.Off; off < r.End; {
		n := min(r.End-off, f.chunk)
		if err := f.rate.take(ctx, int(n)); err != nil {
			return err
		}
		begun := time.Now()
		data, err := f.ask(ctx, opData, off, n)
		if err != nil {
			return err
		}
		f.got(len(data))
		if err := store.Fill(off, data); err != nil {
			return err
		}
		off += n
		if err := f.rest(ctx, time.Since(begun)); err != nil {
			return err
		}
	}
	return nil
}

// rest follows a part that took so long.
func (f *fetcher) rest(ctx context.Context, took time.Duration) error {
	switch {
	case took > 2*fetchPart:
		f.chunk = max(minFetchChunk, f.chunk/2)
	case took < fetchPart:
		f.chunk = min(maxFetchChunk, 2*f.chunk)
	}
	t := time.NewTimer(min(took, fetchTimeout))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fetcher) ask(ctx context.Context, op byte, off, n int64) ([]byte, error) {
	if err := f.c.SetDeadline(time.Now().Add(fetchTimeout)); err != nil {
		return nil, err
	}
	req := binary.BigEndian.AppendUint64([]byte{op}, uint64(off))
	req = binary.BigEndian.AppendUint64(req, uint64(n))
	if _, err := f.c.Write(req); err != nil {
		return nil, err
	}
	var head [fetchHeadSize]byte
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
		return nil, fmt.Errorf("%w: %s", ErrRefused, body)
	case op == opData && int64(len(body)) != n:
		return nil, fmt.Errorf("the peer answers with %d bytes, %d were asked for", len(body), n)
	}
	return body, nil
}
