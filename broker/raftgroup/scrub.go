package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage/raftlog"
)

const (
	// firstScrub is how long after the start the first pass begins at the latest.
	firstScrub = time.Hour
	// scrubRetry is when a pass that could not be ended is begun again.
	scrubRetry = 10 * time.Minute
	// applyWait is how long a damaged entry of the raft log may be on its way to
	// being applied.
	applyWait = 10 * time.Second
)

// scrubber reads all that a replica has on its disk, now and then or when it is
// asked, looks whether it is what was written, and has it mended:
//
//	term and vote         written again from memory
//	raft log, header      written again from memory
//	raft log, entry       applied: a snapshot is taken, and the entry deleted with
//	                      all before it. Not applied: it may be one that was
//	                      acknowledged on this replica's word, so the replica stops
//	snapshot              another one is taken, then it is removed
//	CommitLog, queues ... see storage.Store.Scrub: from peers, or from one another
//
// A file that was removed or replaced while the raft log has it open stops the
// replica: what is written to it may not be there at the next start. So does a
// directory that is another replica's: nothing of it is mended.
type scrubber struct {
	now chan struct{} // a pass is asked for

	mu     sync.Mutex
	rate   int64 // of the pass that is asked for; 0: as configured
	badLog uint64
	status remoting.RaftScrub
	found  map[string]int64 // but for the store's, which counts by itself
	mended map[string]int64
}

func (s *scrubber) init() {
	s.now = make(chan struct{}, 1)
	s.found, s.mended = map[string]int64{}, map[string]int64{}
}

// Scrub has a pass begun now, with so many bytes a second, 0 for the rate that is
// configured, and returns its number: it has ended when RaftScrub.Passes is that.
// One that is under way is ended and begun anew.
func (g *Group) Scrub(rate int64) int64 {
	s := &g.scrub
	s.mu.Lock()
	s.rate = rate
	s.status.Asked++
	n := s.status.Asked
	s.mu.Unlock()
	select {
	case s.now <- struct{}{}:
	default:
	}
	return n
}

// scrubs runs the passes.
func (g *Group) scrubs() {
	var due <-chan time.Time
	timer := time.NewTimer(min(g.cfg.ScrubInterval, firstScrub))
	defer timer.Stop()
	if g.cfg.ScrubInterval > 0 {
		due = timer.C
	}
	for {
		select {
		case <-due:
		case <-g.scrub.now:
		case <-g.ctx.Done():
			return
		}
		next := g.cfg.ScrubInterval
		if !g.scrubPass() {
			next = min(next, scrubRetry)
		}
		if g.cfg.ScrubInterval > 0 {
			timer.Reset(next)
		}
	}
}

// errPassAgain ends a pass because another one is asked for.
var errPassAgain = errors.New("another pass is asked for")

// scrubPass reads all once, and says whether it has.
func (g *Group) scrubPass() bool {
	s := &g.scrub
	s.mu.Lock()
	t := &throttle{rate: g.cfg.ScrubRate}
	if s.rate != 0 {
		t.rate = s.rate
	}
	answers := s.status.Asked
	s.rate = 0
	s.status.Running, s.status.Begun = true, g.cfg.Now().UnixMilli()
	s.mu.Unlock()
	err := g.scrubAll(func(n int) error {
		s.mu.Lock()
		s.status.Bytes += int64(n)
		again := s.status.Asked != answers
		s.mu.Unlock()
		switch {
		case g.Err() != nil:
			return g.Err()
		case again:
			return errPassAgain
		}
		return t.take(g.ctx, n)
	})
	s.mu.Lock()
	s.status.Running = false
	if err == nil {
		s.status.Passes++
		s.status.Answered = answers
		s.status.Ended = g.cfg.Now().UnixMilli()
		s.status.Error = ""
	} else if g.ctx.Err() == nil && !errors.Is(err, errPassAgain) {
		s.status.Error = err.Error()
		s.status.Answered = answers
	}
	s.mu.Unlock()
	if err != nil && g.ctx.Err() == nil && !errors.Is(err, errPassAgain) {
		g.logger.Error("the check of what is on the disk was not ended", "error", err)
		g.checkStore()
	}
	return err == nil
}

func (g *Group) scrubAll(pace func(bytes int) error) error {
	if err := g.scrubPlace(); err != nil {
		return err
	}
	if err := g.scrubIdentity(); err != nil {
		return err
	}
	if err := g.scrubStable(); err != nil {
		return err
	}
	if err := g.scrubLog(pace); err != nil {
		return err
	}
	if err := g.scrubSnapshots(pace); err != nil {
		return err
	}
	return g.store.Scrub(pace)
}

// damaged counts and tells what a pass has found.
func (s *scrubber) damaged(g *Group, kind string, err error) {
	s.mu.Lock()
	s.found[kind]++
	s.mu.Unlock()
	g.logger.Error("damage on the disk", "in", kind, "error", err)
}

func (s *scrubber) repaired(g *Group, kind string, n int64) {
	s.mu.Lock()
	s.mended[kind] += n
	s.mu.Unlock()
	g.logger.Info("mended what was damaged on the disk", "in", kind)
}

// What is counted, by name.
const (
	scrubKindIdentity  = "identity"
	scrubKindStable    = "stableStore"
	scrubKindLog       = "raftLog"
	scrubKindSnapshot  = "snapshot"
	scrubKindCommitLog = "commitLogBytes"
	scrubKindSums      = "blockSums"
	scrubKindQueue     = "consumeQueue"
	scrubKindIndex     = "index"
	scrubKindStore     = "checkpoint"
)

// scrubPlace looks whether the directory is still the one that was opened. Before
// that nothing is written into it by name.
func (g *Group) scrubPlace() error {
	headers, err := g.log.Here()
	return g.logLooked(headers, err)
}

// logLooked tells what became of headers of the raft log, and stops the replica if
// a file is not the log's any more.
func (g *Group) logLooked(headers int64, err error) error {
	if headers > 0 {
		g.scrub.damaged(g, scrubKindLog, errors.New("headers of the raft log were damaged"))
		g.scrub.repaired(g, scrubKindLog, 1)
	}
	if errors.Is(err, raftlog.ErrMissing) || errors.Is(err, raftlog.ErrForeign) {
		g.scrub.damaged(g, scrubKindLog, err)
		g.fail(err)
	}
	return err
}

// scrubIdentity looks whether the file that says who this is says so. One that
// is gone or can't be read is written again; one that names another replica stops
// this one.
func (g *Group) scrubIdentity() error {
	want := Identity{Cluster: g.cfg.Cluster, Group: g.cfg.Name, Node: g.cfg.Node}
	have, err := loadIdentity(g.cfg.FS, g.cfg.Dir, want)
	if err == nil && have.ServerID() == g.id {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%s: %w: it names %s, this is %s", path.Join(g.cfg.Dir, IdentityFile), ErrForeign, have.ServerID(), g.id)
	}
	g.scrub.damaged(g, scrubKindIdentity, err)
	if errors.Is(err, ErrForeign) {
		g.fail(err)
		return err
	}
	if err := writeIdentity(g.cfg.FS, g.cfg.Dir, g.identity); err != nil {
		return err
	}
	g.scrub.repaired(g, scrubKindIdentity, 1)
	return nil
}

func (g *Group) scrubStable() error {
	damage, err := g.stable.Scrub()
	if damage != nil {
		g.scrub.damaged(g, scrubKindStable, damage)
	}
	if err == nil && damage != nil {
		g.scrub.repaired(g, scrubKindStable, 1)
	}
	return err // one that is poisoned stops the replica by itself
}

func (g *Group) scrubLog(pace func(bytes int) error) error {
	rep, err := g.log.Scrub(pace)
	if err := g.logLooked(rep.Headers, err); errors.Is(err, raftlog.ErrMissing) || errors.Is(err, raftlog.ErrForeign) {
		return err
	}
	if bad := max(rep.Bad, g.scrub.takeBadLog()); bad > 0 {
		if rep.Bad == bad {
			g.scrub.damaged(g, scrubKindLog, rep.Cause)
		}
		if err := g.forgetLog(bad); err != nil {
			return err
		}
		g.scrub.repaired(g, scrubKindLog, 1)
	}
	return err
}

// takeBadLog is the last entry that raft could not read.
func (s *scrubber) takeBadLog() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	bad := s.badLog
	s.badLog = 0
	return bad
}

// forgetLog deletes an entry that can't be read, and all before it, once a
// snapshot stands for them. One that is not applied, and does not come to be,
// stops the replica: nobody knows who counts on it.
func (g *Group) forgetLog(bad uint64) error {
	ctx, cancel := context.WithTimeout(g.ctx, applyWait)
	defer cancel()
	if err := g.progress.wait(ctx, bad); err != nil {
		if g.ctx.Err() == nil {
			err = &raftlog.FileError{File: path.Join(g.cfg.Dir, "raft", "log"), Offset: -1, Err: raftlog.ErrCorrupt,
				Detail: fmt.Sprintf("entry %d is damaged and not applied yet: others may count on this replica having it", bad)}
			g.fail(err)
		}
		return err
	}
	if g.lastSnapshot() < bad {
		if err := g.Snapshot(); err != nil {
			return err
		}
	}
	if g.lastSnapshot() < bad {
		return fmt.Errorf("group %s: there is no snapshot yet of entry %d, which is damaged in the raft log", g.cfg.Name, bad)
	}
	first, err := g.log.FirstIndex()
	if err != nil || first > bad {
		return err
	}
	return g.log.DeleteRange(first, bad)
}

// entryLost says whether raft can do without an entry of its log that it can't
// read: one that is applied is replaced by a snapshot, for who asks for it.
func (g *Group) entryLost(index uint64, err error) bool {
	if applied, _ := g.progress.get(); index > applied || !errors.Is(err, raftlog.ErrCorrupt) {
		return false
	}
	s := &g.scrub
	s.mu.Lock()
	first := s.badLog < index
	s.badLog = max(s.badLog, index)
	s.mu.Unlock()
	if first {
		s.damaged(g, scrubKindLog, err)
		g.Scrub(0)
	}
	return true
}

func (g *Group) scrubSnapshots(pace func(bytes int) error) error {
	damaged, err := g.snaps.Scrub(pace)
	if err != nil || len(damaged) == 0 {
		return err
	}
	for _, d := range damaged {
		g.scrub.damaged(g, scrubKindSnapshot, d.Err)
	}
	if newest, err := newest(g.snaps); err != nil || newest == nil || newest.ID == damaged[0].ID {
		if err := g.Snapshot(); err != nil {
			return err
		}
	}
	for _, d := range damaged {
		if err := g.snaps.Remove(d.ID); err != nil {
			return err
		}
		g.scrub.repaired(g, scrubKindSnapshot, 1)
	}
	return nil
}

// scrubStatus is what RaftStatus says of it.
func (g *Group) scrubStatus() remoting.RaftScrub {
	s, v := &g.scrub, g.store.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	out.Found, out.Repaired = map[string]int64{}, map[string]int64{}
	add := func(kind string, found, mended int64) {
		if found += s.found[kind]; found > 0 {
			out.Found[kind] = found
		}
		if mended += s.mended[kind]; mended > 0 {
			out.Repaired[kind] = mended
		}
	}
	for _, kind := range []string{scrubKindIdentity, scrubKindStable, scrubKindLog, scrubKindSnapshot} {
		add(kind, 0, 0)
	}
	add(scrubKindCommitLog, v.BadBytes, v.MendedBytes)
	add(scrubKindSums, v.BadSums, v.MendedSums)
	add(scrubKindQueue, v.BadQueueBlocks, v.MendedQueueBlocks)
	add(scrubKindStore, v.BadCheckpoints, v.BadCheckpoints)
	mended := int64(v.Index.Damaged)
	if len(v.Index.Missing) > 0 {
		mended = 0 // it is being made anew
	}
	add(scrubKindIndex, int64(v.Index.Damaged), mended)
	return out
}
