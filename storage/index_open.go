package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
)

// OpenIndex opens the index in o.Dir for a log that begins at physical offset
// begin. What the files hold beyond end is forgotten: pass math.MaxInt64 if
// the log will be written again with the same bytes from where it ends now, and
// the position up to which the log is trusted if that is not certain.
//
// Damaged run files are deleted and foreign ones left alone, both loudly; no
// content of the directory makes it fail. It fails if the directory cannot be
// made or listed, or if what lies beyond end cannot be removed.
//
// Afterwards the owner goes on with Append from where it replays (see there),
// and fills in Missing. Close it to end its goroutines.
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
	found, err := x.readRuns()
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	x.runs = x.accept(found)
	if err := x.cut(end); err != nil {
		return nil, fmt.Errorf("index: forget what lies beyond %d: %w", end, err)
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

// readRuns reads the headers of all run files in the directory.
func (x *Index) readRuns() (runs []*indexRun, _ error) {
	entries, err := x.o.FS.ReadDir(indexDirLabel, x.o.Dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		name := path.Join(x.o.Dir, entry.Name())
		if base, ok := strings.CutSuffix(entry.Name(), indexTmpSuffix); ok {
			if number, ok := parseIndexRunName(base); ok { // unfinished when the process ended
				x.number = max(x.number, number)
				x.remove(name)
				continue
			}
		}
		number, ok := parseIndexRunName(entry.Name())
		if !ok {
			x.stats.Foreign++
			x.log.Warn("a file that is not the index's is left alone", "file", name)
			continue
		}
		x.number = max(x.number, number)
		r, err := openIndexRun(x.o.FS, name, number, x.o.Identity)
		switch {
		case err == nil:
			runs = append(runs, r)
		case errors.Is(err, errIndexForeign), errors.Is(err, errIndexVersion):
			x.stats.Foreign++
			x.log.Error("a file that is not the index's is left alone", "file", name, "error", err)
		case errors.Is(err, errIndexDamaged):
			x.stats.Damaged++
			x.log.Error("a damaged run file is deleted; its part of the log is to be indexed again", "file", name, "error", err)
			x.remove(name)
		default:
			x.stats.Unreadable++
			x.log.Error("a run file cannot be read and is not used; its part of the log is to be indexed again", "file", name, "error", err)
		}
	}
	return runs, nil
}

// accept picks the runs that count, by I4: from the highest number down, those
// that overlap nothing picked before. The rest is deleted: inputs of a merge
// that a crash came before, or what a cut meant to remove.
func (x *Index) accept(found []*indexRun) (runs []*indexRun) {
	slices.SortFunc(found, func(a, b *indexRun) int {
		if a.number > b.number {
			return -1
		}
		return 1
	})
	for _, r := range found {
		overlaps := func(other *indexRun) bool { return r.begin < other.end && other.begin < r.end }
		if slices.ContainsFunc(runs, overlaps) {
			x.log.Info("a run file that a newer one replaces is deleted", "file", r.name, "from", r.begin, "to", r.end)
			x.remove(r.name)
			continue
		}
		runs = append(runs, r)
	}
	slices.SortFunc(runs, func(a, b *indexRun) int {
		if a.begin < b.begin {
			return -1
		}
		return 1
	})
	return runs
}

// cut forgets what lies beyond end, durably: the log is about to be written
// anew from there, perhaps with other records. A run across end is written
// again without the rest.
func (x *Index) cut(end int64) error {
	var keep []*indexRun
	var errs []error
	for _, r := range x.runs {
		if r.end <= end {
			keep = append(keep, r)
			continue
		}
		if r.begin < end {
			short, err := x.merge([]*indexRun{r}, indexSpan{begin: r.begin, end: end}, 0)
			if err == nil {
				keep = append(keep, short)
			} else {
				x.log.Error("a run file that is to be cut cannot be; it is given up", "file", r.name, "at", end, "error", err)
			}
		}
		x.log.Warn("index beyond the end of the log is deleted", "file", r.name, "from", r.begin, "to", r.end, "end", end)
		errs = append(errs, x.o.FS.Remove(indexDirLabel, r.name))
	}
	if len(errs) > 0 {
		errs = append(errs, x.o.FS.SyncDir(indexDirLabel, x.o.Dir))
	}
	x.runs = keep
	return errors.Join(errs...)
}

// remove deletes a file. That it stays is no harm beyond its room: what it says
// is right or overruled (I4), or it is looked at again at the next open.
func (x *Index) remove(name string) {
	if err := x.o.FS.Remove(indexDirLabel, name); err != nil {
		x.log.Error("a file that is no longer needed cannot be deleted", "file", name, "error", err)
	}
}
