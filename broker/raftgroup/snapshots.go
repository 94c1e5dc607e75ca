package raftgroup

import (
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/hashicorp/raft"
)

const snapshotCheck = 250 * time.Millisecond

// snapshots takes a snapshot whenever the raft log has grown by SnapshotBytes.
// raft itself counts entries, which says nothing of how long a replay takes.
func (g *Group) snapshots() {
	tick := time.NewTicker(snapshotCheck)
	defer tick.Stop()
	var seen uint64
	for {
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
		index, _ := g.progress.get()
		if index == seen || g.log.BytesAfter(g.lastSnapshot()) < g.cfg.SnapshotBytes {
			continue
		}
		seen = index
		if err := g.Snapshot(); err != nil && g.ctx.Err() == nil {
			g.logger.Error("the snapshot that is due can't be taken", "error", err)
		}
	}
}

func (g *Group) lastSnapshot() uint64 {
	if all := g.snaps.All(); len(all) > 0 {
		return all[0].Index
	}
	return 0
}

// Snapshot takes a snapshot now, and forgets the raft log before it but for
// TrailingBytes.
func (g *Group) Snapshot() error {
	conf := g.raft().ReloadableConfig()
	conf.TrailingLogs = g.trailing()
	if err := g.raft().ReloadConfig(conf); err != nil {
		return err
	}
	err := g.raft().Snapshot().Error()
	if storeErr := g.store.Err(); storeErr != nil {
		g.fail(storeErr)
	}
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("group %s: snapshot: %w", g.cfg.Name, err)
	}
	return nil
}

// trailing is how many entries at the log's end make up TrailingBytes: what a
// replica that was away for a moment can catch up with without a snapshot.
func (g *Group) trailing() uint64 {
	last := g.raft().LastIndex()
	n := sort.Search(int(min(last, 1<<30)), func(n int) bool {
		return g.log.BytesAfter(last-uint64(n)) >= g.cfg.TrailingBytes
	})
	return uint64(n)
}
