package storage

import (
	"errors"
	"fmt"
	"math/bits"
)

// mergeLoop removes files that are no longer needed and merges runs, whenever
// there is something to do.
func (x *Index) mergeLoop() {
	pause := indexRetryMin
	for {
		select {
		case <-x.closing:
			return
		case <-x.work:
		}
		x.removeGarbage()
		merged, err := x.mergeOnce()
		if err != nil && !errors.Is(err, ErrIndexClosed) {
			x.log.Error("merging run files failed, it is tried again", "in", pause, "error", err)
			pause = x.pause(pause, nil)
			poke(x.work)
			continue
		}
		pause = indexRetryMin
		if merged {
			poke(x.work)
		}
	}
}

// removeGarbage deletes the files of dropped runs that nobody reads any more.
func (x *Index) removeGarbage() {
	x.mu.Lock()
	var remove, keep []*indexRun
	for _, r := range x.garbage {
		if r.refs == 0 {
			remove = append(remove, r)
		} else {
			keep = append(keep, r)
		}
	}
	x.garbage = keep
	x.mu.Unlock()
	for _, r := range remove {
		// That it stays is no harm beyond its room: it overlaps with what replaced
		// it, or was trimmed, and the next start tries again.
		if err := x.o.FS.Remove(indexDirLabel, r.name); err != nil {
			x.log.Error("a run file that is no longer needed cannot be deleted", "file", r.name, "error", err)
		}
	}
}

// hold keeps the files of runs in place until release.
func (x *Index) hold(runs []*indexRun) {
	for _, r := range runs {
		r.refs++
	}
}

func (x *Index) release(runs []*indexRun) {
	for _, r := range runs {
		if r.refs--; r.refs == 0 && r.gone {
			poke(x.work)
		}
	}
}

// mergeOnce does one merge, if there is one to do. It returns true when it has
// changed the runs and should be called again.
func (x *Index) mergeOnce() (bool, error) {
	x.mu.Lock()
	in := x.planMerge()
	first := x.min
	x.hold(in)
	x.mu.Unlock()
	if len(in) == 0 {
		return false, nil
	}
	out, err := x.merge(in, indexSpan{begin: in[0].begin, end: in[len(in)-1].end}, first)

	x.mu.Lock()
	defer x.mu.Unlock()
	x.release(in)
	var input *indexInputError
	switch {
	case errors.As(err, &input):
		if errors.Is(err, errIndexDamaged) {
			x.condemn(input.run, err)
		} else {
			x.log.Error("a run file cannot be read and is not merged any more", "error", err)
			input.run.unmerged = true
		}
		return true, nil
	case err != nil:
		return false, err
	}
	for _, r := range in {
		if r.gone { // trimmed, or given up by a query, meanwhile
			x.garbage = append(x.garbage, out)
			return true, nil
		}
	}
	for _, r := range in {
		r.gone = true
	}
	x.garbage = append(x.garbage, in...)
	var runs []*indexRun
	for _, r := range x.runs {
		if !r.gone {
			runs = append(runs, r)
		}
	}
	x.runs = runs
	x.insert(out)
	x.stats.Merges++
	x.stats.MergedBytes += out.fileSize()
	return true, nil
}

// planMerge picks the runs to merge. Those beyond the last Sync are left as they
// are, unless they are many: a restart may have to cut the index there, and is
// to find small runs.
func (x *Index) planMerge() []*indexRun {
	n := len(x.runs)
	for n > 0 && x.runs[n-1].end > x.synced {
		n--
	}
	if len(x.runs)-n > indexManyRuns {
		n = len(x.runs)
	}
	return planIndexMerge(x.runs[:n], x.o.MaxRunEntries)
}

// indexLevel is the size class of a run: the logarithm to the base indexFanout.
func indexLevel(count int64) int { return bits.Len64(uint64(count)) / indexFanoutBits }

// planIndexMerge picks neighbouring runs to merge. Only runs that meet are
// merged, since a run covers one range; runs of half the largest size and more
// stay as they are.
func planIndexMerge(runs []*indexRun, maxEntries int64) []*indexRun {
	for len(runs) > 0 {
		n := 0
		for n < len(runs) && !runs[n].unmerged && runs[n].count < maxEntries/2 && (n == 0 || runs[n-1].end == runs[n].begin) {
			n++
		}
		if in := planIndexNeighbours(runs[:n], maxEntries); in != nil {
			return in
		}
		runs = runs[max(n, 1):]
	}
	return nil
}

// planIndexNeighbours picks indexFanout runs of one level, the lowest first, and
// the smaller ones between them. So a key is written again about once per level,
// and there are fewer than indexFanout runs of each. Where sizes come in no
// order (syncs, fills) small runs are left between larger ones: of too many,
// the indexFanout that cost least are merged.
func planIndexNeighbours(runs []*indexRun, maxEntries int64) []*indexRun {
	if len(runs) < 2 {
		return nil
	}
	for level := range indexLevel(maxEntries) + 1 {
		if in := planIndexLevel(runs, maxEntries, level); in != nil {
			return in
		}
	}
	if len(runs) <= indexManyRuns {
		return nil
	}
	var in []*indexRun
	best := maxEntries + 1
	for i := range len(runs) - indexFanout + 1 {
		total := int64(0)
		for _, r := range runs[i : i+indexFanout] {
			total += r.count
		}
		if total < best {
			best, in = total, runs[i:i+indexFanout]
		}
	}
	return in
}

func planIndexLevel(runs []*indexRun, maxEntries int64, level int) []*indexRun {
	// The window under consideration is runs[first:i]: it begins with a run of
	// the level and holds total entries, in equals runs of that level.
	first, equals, total := -1, 0, int64(0)
	for i, r := range runs {
		if indexLevel(r.count) > level {
			first = -1
			continue
		}
		if first >= 0 && (total+r.count > maxEntries || i-first == indexMaxMerge) {
			if equals > 1 {
				return runs[first:i]
			}
			first = -1
		}
		if first < 0 {
			if indexLevel(r.count) < level {
				continue
			}
			first, equals, total = i, 0, 0
		}
		total += r.count
		if indexLevel(r.count) == level {
			if equals++; equals == indexFanout {
				return runs[first : i+1]
			}
		}
	}
	return nil
}

// indexInputError is a merge's failure to read one of its inputs.
type indexInputError struct {
	run *indexRun
	err error
}

func (e *indexInputError) Error() string { return fmt.Sprintf("%s: %v", e.run.name, e.err) }
func (e *indexInputError) Unwrap() error { return e.err }

// merge writes one run that covers span from the runs in, which are in order of
// begin, without what lies beyond the span or below first. The caller does not
// hold mu.
func (x *Index) merge(in []*indexRun, span indexSpan, first int64) (*indexRun, error) {
	x.mu.Lock()
	number := x.takeNumber()
	x.mu.Unlock()
	w, err := newIndexWriter(x.o.FS, indexMergeLabel, x.o.Dir, number)
	if err != nil {
		return nil, err
	}
	span.last = -1
	for _, r := range in {
		if r.last >= 0 {
			span.note(r.last, r.minTime)
			span.note(r.last, r.maxTime)
		}
	}
	if err = x.mergeEntries(w, in, max(span.begin, first), span.end); err == nil {
		var out *indexRun
		if out, err = w.finish(x.o.Identity, span); err == nil {
			return out, nil
		}
	}
	return nil, errors.Join(err, w.abort())
}

// mergeEntries adds the entries for [from, to) of the runs in, in order.
func (x *Index) mergeEntries(w *indexWriter, in []*indexRun, from, to int64) (err error) {
	scans := make([]*indexScan, 0, len(in))
	defer func() {
		for _, s := range scans {
			err = errors.Join(err, s.close())
		}
	}()
	// advance moves scan i on, and takes it out at its end.
	advance := func(i int) error {
		s := scans[i]
		ok, err := s.next()
		if err != nil {
			return &indexInputError{s.run, err}
		}
		if !ok {
			scans = append(scans[:i], scans[i+1:]...)
			if err := s.close(); err != nil {
				return &indexInputError{s.run, err}
			}
		}
		return nil
	}
	for _, r := range in {
		s, err := r.scan(x.o.FS, indexMergeLabel)
		if err != nil {
			return &indexInputError{r, err}
		}
		scans = append(scans, s)
		if err := advance(len(scans) - 1); err != nil {
			return err
		}
	}
	prev := indexEntry{phys: -1}
	for n := 0; len(scans) > 0; n++ {
		if n%(1<<14) == 0 && x.isClosing() {
			return ErrIndexClosed
		}
		// The runs are disjoint and in order, so of equal hashes the first run's
		// has the lowest offset.
		i := 0
		for j := 1; j < len(scans); j++ {
			if scans[j].e.hash < scans[i].e.hash {
				i = j
			}
		}
		e := scans[i].e
		if e.phys >= from && e.phys < to && (e.hash != prev.hash || e.phys != prev.phys) {
			if err := w.add(e); err != nil {
				return err
			}
			prev = e
		}
		if err := advance(i); err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) isClosing() bool {
	select {
	case <-x.closing:
		return true
	default:
		return false
	}
}
