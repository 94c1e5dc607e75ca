package raftgroup

import (
	"fmt"
	"time"

	"github.com/raftmq/raftmq/storage/raftlog"
)

const superviseEvery = time.Second

// supervise begins a new life when raft has lost track of its own log.
//
// hashicorp/raft keeps the index of its last entry in memory, and two paths
// leave it pointing behind the log's end: installing a snapshot while an
// ex-leader's uncommitted tail passes it (issue 697: the log is emptied, the
// index stays), and an append that fails after it has cut off a tail. From then
// on it refuses all that the leader sends, and the leader sends snapshots for
// ever. Read again from the disk, all is well.
func (g *Group) supervise() {
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	var before lost
	for {
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
		g.checkStore()
		now, is := g.lost()
		if !is || now != before || g.Err() != nil || g.cfg.guard.noSupervisor {
			before = now
			continue
		}
		before = lost{}
		g.logger.Warn("raft has lost track of its log and is started again",
			"believes", now.believed, "last", now.last, "snapshot", now.snapshot)
		if err := g.restart(); err != nil {
			g.fail(err)
		}
	}
}

// lost is a raft that believes in entries that are neither in the log nor in the
// snapshot.
type lost struct{ believed, last, snapshot uint64 }

func (g *Group) lost() (lost, bool) {
	believed := g.raft().LastIndex()
	last, err := g.log.LastIndex()
	if err != nil || believed <= last {
		return lost{}, false
	}
	if _, busy := g.log.Pending(); busy || g.isFenced() {
		return lost{}, false // it is being changed, and may be right in a moment
	}
	l := lost{believed: believed, last: last, snapshot: g.lastSnapshot()}
	return l, believed > l.snapshot
}

// restart ends raft and starts it again on the same files.
func (g *Group) restart() error {
	g.abdicate()
	err := g.life.Load().stop()
	if err != nil {
		return fmt.Errorf("stopping raft: %w", err)
	}
	if _, err := raftlog.Reconcile(g.log, g.snaps); err != nil {
		return err
	}
	g.opening.Lock()
	defer g.opening.Unlock()
	if g.ctx.Err() != nil {
		return nil
	}
	l, err := g.begin(true)
	if err != nil {
		return err
	}
	close(l.ready)
	if g.Err() != nil {
		l.halt() // it failed while there was no life to halt
	}
	return nil
}
