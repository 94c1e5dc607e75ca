package storage

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
)

// OpenIndex opens the index in o.Dir for a log that begins at physical offset
// begin. What the files hold beyond end is forgotten: pass the position from
// which the log will be written again, or math.MaxInt64 if it is certain that
// the same bytes come.
//
// Files that are damaged, cannot be read or were made by another version are
// deleted, loudly: what they held is Missing. Foreign ones are left alone. It
// fails only if the directory cannot be made, listed or synced, or if a file that
// has to go cannot be removed: it might count again at a later start.
//
// Afterwards the owner goes on with Append from where it replays (see there),
// and fills in what is Missing. Close it to end its goroutines.
func OpenIndex(o IndexOptions, begin, end int64) (*Index, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	x := &Index{
		o:       o,
		log:     o.Logger.Named("index"),
		closing: make(chan struct{}),
		retry:   make(chan struct{}, 1),
		work:    make(chan struct{}, 1),
		behind:  make(chan struct{}, 1),
	}
	x.cond = sync.NewCond(&x.mu)
	if err := o.FS.MkdirAll(indexDirLabel, o.Dir); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	if err := o.FS.SyncDir(indexDirLabel, path.Dir(o.Dir)); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	if err := x.readRuns(end); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	for _, r := range x.runs {
		x.next = max(x.next, r.end)
		x.lastPhys, x.lastTime = max(x.lastPhys, r.last), max(x.lastTime, r.maxTime)
	}
	x.synced = x.next
	x.trim(begin)
	if gaps := x.missing(); len(gaps) > 0 {
		x.log.Warn("parts of the log are not indexed and are to be filled in", "ranges", gaps)
		x.signalBehind()
	}
	poke(x.work)
	x.wg.Go(x.flushLoop)
	x.wg.Go(x.mergeLoop)
	return x, nil
}

// readRuns finds the runs in the directory and removes what does not count.
func (x *Index) readRuns(end int64) error {
	entries, err := x.o.FS.ReadDir(indexDirLabel, x.o.Dir)
	if err != nil {
		return err
	}
	var doomed []string
	for _, entry := range entries {
		name := path.Join(x.o.Dir, entry.Name())
		base, unfinished := strings.CutSuffix(entry.Name(), indexTmpSuffix)
		number, ok := parseIndexRunName(base)
		if !ok {
			x.stats.Foreign++
			x.log.Warn("a file that is not the index's is left alone", "file", name)
			continue
		}
		x.number = max(x.number, number)
		if unfinished { // when the process ended
			doomed = append(doomed, name)
			continue
		}
		r, err := openIndexRun(x.o.FS, name, number, x.o.Identity)
		switch {
		case err == nil:
			x.runs = append(x.runs, r)
		case errors.Is(err, errIndexForeign):
			x.stats.Foreign++
			x.log.Error("a file that is not this index's is left alone", "file", name, "error", err)
		default:
			x.stats.Damaged++
			x.log.Error("a run file that cannot be used is deleted; its part of the log is to be indexed again", "file", name, "error", err)
			doomed = append(doomed, name)
		}
	}
	doomed = append(doomed, x.overrule()...)
	doomed = append(doomed, x.cut(end)...)
	if len(doomed) == 0 {
		return nil
	}
	for _, name := range doomed {
		if err := x.o.FS.Remove(indexDirLabel, name); err != nil {
			return err
		}
	}
	return x.o.FS.SyncDir(indexDirLabel, x.o.Dir)
}

// overrule keeps the runs that count by I4, in order: from the highest number
// down, those that overlap none kept before. It returns the others' names: inputs
// of a merge that a crash came after, or what an old copy brought back.
func (x *Index) overrule() (doomed []string) {
	slices.SortFunc(x.runs, func(a, b *indexRun) int { return cmp.Compare(b.number, a.number) })
	var keep []*indexRun
	for _, r := range x.runs {
		if slices.ContainsFunc(keep, func(k *indexRun) bool { return r.begin < k.end && k.begin < r.end }) {
			x.log.Info("a run file that a newer one replaces is deleted", "file", r.name, "from", r.begin, "to", r.end)
			doomed = append(doomed, r.name)
		} else {
			keep = append(keep, r)
		}
	}
	slices.SortFunc(keep, func(a, b *indexRun) int { return cmp.Compare(a.begin, b.begin) })
	x.runs = keep
	return doomed
}

// cut forgets what lies beyond end: the log is about to be written anew from
// there, perhaps with other records. A run across end is written again without
// the rest. It returns the names of the files to be removed.
func (x *Index) cut(end int64) (doomed []string) {
	var keep []*indexRun
	for _, r := range x.runs {
		if r.end <= end {
			keep = append(keep, r)
			continue
		}
		x.log.Warn("index beyond the end of the log is deleted", "file", r.name, "from", r.begin, "to", r.end, "end", end)
		doomed = append(doomed, r.name)
		if r.begin >= end {
			continue
		}
		short, err := x.merge([]*indexRun{r}, indexSpan{begin: r.begin, end: end}, 0)
		if err != nil {
			x.log.Error("a run file cannot be cut and is given up; its part of the log is to be indexed again", "file", r.name, "error", err)
			continue
		}
		keep = append(keep, short)
	}
	x.runs = keep
	return doomed
}
