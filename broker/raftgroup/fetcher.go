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

// fetchChunk is how much is asked for at once: a multiple of the block size.
const fetchChunk = 1 << 20

// fetcher is the asking side of a stream.
type fetcher struct {
	c     net.Conn
	rate  int64 // bytes per second; negative: no bound
	begin time.Time
	moved int64
}

// fill fetches a range into a store.
func (f *fetcher) fill(ctx context.Context, store *storage.Store, r storage.Range) error {
	if r.Sums > 0 {
		sums, err := f.ask(ctx, opSums, r.Off, r.Sums)
		if err != nil {
			return err
		}
		if err := store.FillSums(r.Off, sums); err != nil {
			return err
		}
	}
	for off := r.Off; off < r.End; {
		n := min(r.End, off-off%fetchChunk+fetchChunk) - off
		data, err := f.ask(ctx, opData, off, n)
		if err != nil {
			return err
		}
		if err := store.Fill(off, data); err != nil {
			return err
		}
		off += n
	}
	return nil
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
