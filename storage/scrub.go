package storage

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/raftmq/raftmq/storage/disk"
)

const (
	// scrubChunk is how much of a segment is read at once.
	scrubChunk = 64 * blockSize
	// scrubFiles is how many descriptors Scrub has open.
	scrubFiles = 4
)

// Scrub reads everything that a store in use has on its disk, and compares it
// with the checksums that were taken when it was written: checkpoints, block
// sums, segments, queues, index. What it finds damaged is treated as if a reader
// had found it: it is not served any more, and comes back from where it can (see
// Missing); Stats counts it. Files are opened by their names, so one that was
// removed or replaced while another of its name is open is found, too.
//
// pace is called before each read with its size in bytes: it may wait, and its
// error ends the pass. Otherwise an error is for what kept Scrub from looking.
// Reads do not disturb the page cache, which also means that what is in memory
// is not read from the disk. For any goroutine, one at a time.
func (s *Store) Scrub(pace func(bytes int) error) error {
	files := newFileCache(s.fs, s.dir, scrubFiles, func(error) {}) // nothing was written that closing could lose
	files.flag, files.cold = os.O_RDONLY, true
	defer files.close()
	c := &scrubbing{Store: s, files: files, pace: pace}
	if err := c.checkpoints(); err != nil {
		return err
	}
	for _, g := range s.state.Load().segs {
		if err := errors.Join(c.sums(g), c.segment(g)); err != nil {
			return err
		}
	}
	for _, q := range s.allQueues() {
		if err := c.queue(q); err != nil {
			return err
		}
	}
	if x := s.index.Load(); x != nil {
		return x.scrub(pace)
	}
	return nil
}

// scrubbing is a Scrub under way.
type scrubbing struct {
	*Store
	files *fileCache
	pace  func(bytes int) error
}

// checkpoints compares the files of both checkpoints, and the format file, with
// what they must hold, and writes them again if need be.
func (c *scrubbing) checkpoints() error {
	c.maintain.Lock()
	defer c.maintain.Unlock()
	if err := c.Err(); err != nil {
		return err
	}
	o := c.opts
	want := format{o.SegmentSize, o.Cluster, o.Group, o.Replica}.encode()
	name := c.dir + "/" + formatFile
	have, err := readWhole(c.fs, LabelFormat, name)
	if err != nil && !isDamage(err) {
		return fmt.Errorf("storage: %w", err)
	}
	if !bytes.Equal(have, want) {
		c.counters.badCheckpoints.Add(1)
		c.log.Error("the format file is damaged: it is written again", "file", name, "error", err)
		if err := writeFormat(c.fs, c.dir, want); err != nil {
			return c.fail(fmt.Errorf("format file: %w", err))
		}
	}
	for slot := range uint64(2) {
		seq := c.checkpoint.seq - slot
		if seq == 0 || seq > c.checkpoint.seq {
			break // there were no more
		}
		name := checkpointPath(c.dir, seq)
		b, err := readWhole(c.fs, LabelCheckpoint, name)
		if err != nil && !isDamage(err) {
			return fmt.Errorf("storage: %w", err)
		}
		if err == nil {
			var p *checkpoint
			if p, err = parseCheckpoint(b); err == nil && p.seq != seq {
				err = fmt.Errorf("%w: it is checkpoint %d, expected is %d", ErrCorrupt, p.seq, seq)
			}
		}
		if err != nil {
			c.counters.badCheckpoints.Add(1)
			c.spoiled++
			c.log.Error("a checkpoint is damaged: it is written again", "file", name, "error", err)
		}
	}
	if c.spoiled == 0 {
		return nil
	}
	// What the newest says is true still: each takes the place of one of the files.
	for range 2 {
		again := *c.checkpoint
		if err := c.saveCheckpoint(&again); err != nil {
			return noSpace(fmt.Errorf("storage: checkpoint: %w", err))
		}
	}
	c.spoiled = 0
	return nil
}

// sums compares a segment's file of block sums with what it must be.
func (c *scrubbing) sums(g *segment) error {
	if !g.acquire() {
		return nil
	}
	defer g.release()
	if g.sums.needed.Load() {
		return nil
	}
	if g.sums.memory.Load() != nil {
		return c.savedSums(g)
	}
	n := g.size / blockSize
	if err := c.pace(int(n * sumSize)); err != nil {
		return err
	}
	_, err := g.loadSums(c.files, n, g.digest)
	if err != nil && isDamage(err) {
		c.sumsDamaged(g, err)
		return nil
	}
	return err
}

// savedSums compares what a file of block sums has with those in memory. They
// are right: the next sync writes them again.
func (c *scrubbing) savedSums(g *segment) error {
	c.maintain.Lock()
	defer c.maintain.Unlock()
	m := g.sums.memory.Load()
	if m == nil || g.sums.saved == 0 || g.sums.unsaved.Load() {
		return nil
	}
	key := fileKey{base: g.base, sums: true}
	f, err := c.files.get(key, false)
	if err == nil {
		encoded := make([]byte, g.sums.saved*sumSize)
		_, err = f.ReadAt(encoded, 0)
		c.files.put(f)
		if err == nil && !bytes.Equal(encoded, encodeSums((*m)[:g.sums.saved])) {
			err = fmt.Errorf("%w: block sums of segment %d", ErrCorrupt, g.base)
		}
	}
	if err == nil || !isDamage(err) {
		return err
	}
	c.files.forgetFile(key)
	c.Store.files.forgetFile(key)
	c.counters.badSums.Add(1)
	c.counters.mendedSums.Add(1)
	c.log.Error("block sums are damaged: they are written again from memory", "segment", g.base, "error", err)
	g.sums.unsaved.Store(true)
	if err := g.saveSums(int64(g.sums.saved)); err != nil {
		return c.fail(fmt.Errorf("block sums of segment %d: %w", g.base, err))
	}
	return nil
}

// segment reads the blocks of a segment that are here.
func (c *scrubbing) segment(g *segment) error {
	if !g.acquire() {
		return nil
	}
	defer g.release()
	for at := g.base; ; {
		st := c.state.Load()
		end := min(g.end(), st.end)
		if g.trimmed.Load() || g.sums.needed.Load() || st.epoch != g.epoch || at >= end {
			return nil
		}
		if at < st.floor {
			return nil // the rest of it, too: trims are of whole segments
		}
		to := min(at+scrubChunk, end)
		if gap, ok := c.gaps.next(at); ok && gap.from < to {
			if gap.from <= at {
				at = roundUp(gap.to)
				continue
			}
			to = gap.from
		}
		if err := c.pace(int(to - at)); err != nil {
			return err
		}
		if err := c.blocks(st, g, at, to); err != nil {
			return err
		}
		at = roundUp(to)
	}
}

// blocks reads some blocks, all of them although one is damaged.
func (c *scrubbing) blocks(st *state, g *segment, from, to int64) error {
	_, err := c.readBlocks(c.files, st, g, from, int(to-from))
	if err == nil || !errors.Is(err, ErrMissing) {
		return err
	}
	for at := from; at < to; at += blockSize {
		_, err := c.readBlocks(c.files, st, g, at, int(min(blockSize, to-at)))
		if err != nil && !errors.Is(err, ErrMissing) {
			return err
		}
	}
	c.files.forgetFile(fileKey{base: g.base})
	return nil
}

// queue reads a queue's blocks.
func (c *scrubbing) queue(q *Queue) error {
	q.mu.Lock()
	at, end := q.front, q.flushed
	q.mu.Unlock()
	buf := blockBuffers.Get().(*[unitsPerBlock * UnitSize]byte)
	defer blockBuffers.Put(buf)
	for at < end {
		_, next := queueBlock(at)
		if err := c.pace(unitsPerBlock * UnitSize); err != nil {
			return err
		}
		units := buf[:0]
		b, err := q.look(at, at+1, &units)
		if err == nil && b.file > 0 {
			err = q.readBlock(c.files, b, units[:b.file*UnitSize])
		}
		switch {
		case err == nil, errors.Is(err, ErrMissing), errors.Is(err, ErrTrimmed):
		case errors.Is(err, ErrDropped):
			return nil
		default:
			return err
		}
		at = next
	}
	c.files.drop(func(fileKey) bool { return true }) // it is done with
	return nil
}

// scrub verifies the index's files. One that is damaged is given up, and made
// anew from the log.
func (x *Index) scrub(pace func(bytes int) error) error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return ErrIndexClosed
	}
	x.users++
	runs := x.runs
	x.hold(runs)
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.release(runs)
		x.leave()
	}()
	for _, r := range runs {
		files := pacedFS{x.o.FS, pace}
		_, err := openIndexRun(files, r.name, r.number, x.o.Identity)
		if err == nil {
			err = r.verify(files)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, errIndexDamaged) && !errors.Is(err, errIndexForeign) && !isDamage(err) {
			return err
		}
		if err := x.o.FS.MkdirAll(indexDirLabel, x.o.Dir); err != nil { // it may be gone with all that was in it
			return err
		}
		x.mu.Lock()
		x.condemn(r, err)
		x.mu.Unlock()
	}
	return nil
}

// pacedFS opens files whose reads are paced, and leave the page cache alone.
type pacedFS struct {
	disk.FS
	pace func(bytes int) error
}

func (p pacedFS) OpenFile(label disk.Label, name string, flag int) (disk.File, error) {
	f, err := p.FS.OpenFile(label, name, flag)
	if err != nil {
		return nil, err
	}
	return pacedFile{disk.Cold(f), p.pace}, nil
}

type pacedFile struct {
	disk.File
	pace func(bytes int) error
}

func (p pacedFile) ReadAt(b []byte, off int64) (int, error) {
	if err := p.pace(len(b)); err != nil {
		return 0, err
	}
	return p.File.ReadAt(b, off)
}
