package raftgroup

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage"
)

const (
	fetchRetry = time.Second
	// missingGrace is how long a leader that misses something goes on before it
	// hands over: a damaged block or two are fetched sooner than that.
	missingGrace = 2 * time.Second
	// missingRanges restrains a replica that misses something.
	missingRanges = "missing a part of the CommitLog"
)

// A replica that got a snapshot knows what its CommitLog has to hold, and
// fetches what it has not from any peer that has it, beside raft's own traffic.
// The bytes are checked against the snapshot's manifest, so it does not matter
// whom they come from; what was fetched stays, whatever happens to either side.

// catchUp fetches what the store misses, whenever it misses something.
func (g *Group) catchUp() {
	retry := time.NewTimer(0)
	defer retry.Stop()
	var since time.Time // it misses something
	for {
		select {
		case <-g.progress.repair:
		case <-retry.C:
		case <-g.ctx.Done():
			return
		}
		for g.ctx.Err() == nil && len(g.store.Missing()) > 0 {
			if since.IsZero() {
				since = time.Now()
			}
			if err := g.fetchMissing(since); err != nil && g.ctx.Err() == nil {
				g.checkStore()
				g.logger.Warn("what this replica misses can't be fetched now", "error", err, "ranges", len(g.store.Missing()))
				retry.Reset(fetchRetry)
				break
			}
		}
		if len(g.store.Missing()) == 0 {
			since = time.Time{}
			g.standing.lift(missingRanges)
		}
	}
}

// restrainMissing has a replica that misses something stand for election last.
func (g *Group) restrainMissing(since time.Time) {
	if !g.Leadership().Self || time.Since(since) > missingGrace {
		g.standing.restrain(missingRanges, standLast)
	}
}

// fetchMissing fetches from one peer after the other until nothing is missing.
func (g *Group) fetchMissing(since time.Time) error {
	servers, err := g.servers()
	if err != nil {
		return err
	}
	err = errors.New("the group has no other member")
	for _, s := range leaderLast(servers, g.raft()) {
		if s.ID == g.id {
			continue
		}
		if err = g.fetchFrom(s, since); err == nil || g.ctx.Err() != nil {
			return err
		}
		g.logger.Debug("a peer can't give what is missing", "peer", s.ID, "error", err)
	}
	return err
}

// leaderLast orders servers so that the leader, who has the most to do, is asked
// only for what nobody else has.
func leaderLast(servers []raft.Server, r *raft.Raft) []raft.Server {
	_, leader := r.LeaderWithID()
	servers = slices.Clone(servers) // raft keeps its own
	slices.SortStableFunc(servers, func(a, b raft.Server) int {
		return cmp.Compare(one(a.ID == leader), one(b.ID == leader))
	})
	return servers
}

func (g *Group) fetchFrom(s raft.Server, since time.Time) error {
	g.restrainMissing(since)
	id, addr, err := splitAddress(s.Address)
	if err != nil {
		return err
	}
	c, err := g.cfg.Port.connect(g.ctx, addr, hello{Kind: streamFetch, Group: g.cfg.Name, From: string(g.id), To: string(id)}, askTimeout)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(g.ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	f := &fetcher{c: &progressConn{Conn: c}, rate: &throttle{rate: g.cfg.CatchUpRate}, chunk: firstFetchChunk, got: func(n int) {
		g.fetched.Add(int64(n))
		g.restrainMissing(since)
	}}
	ranges := g.store.Missing()
	var refused error
	for i, r := range ranges {
		if i > 0 && r.Sums > 0 && r.Sums == ranges[i-1].Sums && r.Off/g.cfg.SegmentSize == ranges[i-1].Off/g.cfg.SegmentSize {
			continue // another range of the same segment
		}
		switch err := f.fill(g.ctx, g.store, r); {
		case errors.Is(err, storage.ErrTrimmed): // meanwhile: it is missed no more
		case errors.Is(err, ErrRefused): // another peer may have it
			refused = err
		case err != nil:
			return err
		}
	}
	switch {
	case refused != nil:
		return refused
	case f.moved == 0 && len(g.store.Missing()) > 0:
		return errors.New("nothing came of it")
	}
	g.logger.Info("fetched what was missing", "from", id, "ranges", len(ranges), "bytes", f.moved)
	return nil
}
