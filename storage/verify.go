package storage

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"strings"

	"github.com/raftmq/raftmq/storage/disk"
)

// VerifyOptions says what Verify is to check. FS, Dir and UnitOf are required.
type VerifyOptions struct {
	FS     disk.FS
	Dir    string
	UnitOf func(record []byte) (q QueueID, offset int64, u Unit, ok bool) // as in Options
	KeysOf func(record []byte) []IndexKey                                 // nil: the index is not looked at

	// Manifest is what must be there; nil takes the newest checkpoint's. What
	// lies behind it was not synced, or only there, and is replayed: see Comparer.
	Manifest *Manifest

	// Progress, if set, is told now and then how far into the CommitLog the check
	// is, in bytes.
	Progress func(done, total int64)
}

// Verify reads everything in a store that nobody has open, changes nothing, and
// says what is wrong: every block checksum, every record, every queue unit
// against its record and the offsets of a queue for gaps, every index file and
// whether it has the keys of the records, files that lack. The error is for what
// kept it from looking.
func Verify(o VerifyOptions) (*VerifyReport, error) {
	r, err := OpenReader(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	v := &verifier{VerifyReport: &VerifyReport{Manifest: o.Manifest}, o: o, r: r}
	return v.VerifyReport, errors.Join(v.run(), r.Close())
}

type verifier struct {
	*VerifyReport
	o       VerifyOptions
	r       *Reader
	begin   int64 // of what is to be there
	missing spans
	queues  map[QueueID]*queueCheck
	index   []*runCheck
}

// queueCheck is what is known of a queue while the records are read.
type queueCheck struct {
	QueueState
	facts queueFacts
	next  int64 // the offset that the queue's next record must have; -1 if not known
}

func (v *verifier) run() error {
	c := v.r.checkpoint
	if v.Manifest == nil {
		v.Manifest = c.manifest
	}
	if v.Manifest.SegmentSize != v.r.SegmentSize {
		return fmt.Errorf("%w: the manifest is for segments of %d bytes, the store has %d", ErrForeign, v.Manifest.SegmentSize, v.r.SegmentSize)
	}
	for _, p := range v.r.damaged {
		v.add(p.File, p.Offset, "%s", p.Text)
	}
	if v.Manifest.End > c.manifest.End {
		v.add(path.Base(checkpointPath("", c.seq)), -1, "covers the log up to %d, expected is %d: the newest checkpoint is lost, or was never written", c.manifest.End, v.Manifest.End)
	}
	v.begin = max(v.Manifest.Min, c.floor)
	v.missing = c.missing.within(v.begin, v.Manifest.End)
	v.MissingBytes = v.missing.size()
	v.queues = map[QueueID]*queueCheck{}
	for _, e := range v.Manifest.Queues {
		v.queues[e.QueueID] = &queueCheck{QueueState: e, next: -1}
	}
	for _, f := range c.queues {
		if q := v.queues[f.id]; q != nil {
			q.facts = f
		}
	}
	if err := v.openIndex(); err != nil {
		return err
	}
	v.Manifest.segments(v.segment)
	if err := v.records(); err != nil {
		return err
	}
	for _, e := range v.Manifest.Queues {
		v.queue(v.queues[e.QueueID])
	}
	v.closeIndex()
	return v.strangers()
}

// strangers looks for files that are not the store's.
func (v *verifier) strangers() error {
	known := map[string]bool{
		lockFile: true, formatFile: true, formatFile + ".tmp": true, "checkpoint.0": true, "checkpoint.1": true, checkpointTemporary: true,
		commitLogDir: true, sumsDir: true, queuesDir: true, indexDir: true,
	}
	for _, dir := range []string{"", commitLogDir, sumsDir, queuesDir} {
		entries, err := v.r.fs.ReadDir(LabelDir, v.r.dir+"/"+dir)
		if err != nil && !isNotExist(err) {
			return err
		}
		for _, e := range entries {
			off, ok := parseOffsetName(e.Name())
			switch dir {
			case "":
				ok = known[e.Name()]
			case queuesDir:
				_, ok = parseTopicDir(e.Name())
			default:
				ok = ok && off%v.r.SegmentSize == 0
			}
			if !ok {
				v.add(strings.TrimPrefix(dir+"/"+e.Name(), "/"), -1, "is not a file of the store")
			}
		}
	}
	return nil
}

// relative is the name of a file below the directory.
func (v *verifier) relative(key fileKey) string {
	return strings.TrimPrefix(key.path(v.r.dir), v.r.dir+"/")
}

// segment compares a segment's blocks with their sums, and the sums with the
// manifest.
func (v *verifier) segment(base int64, t trust) {
	if base+v.Manifest.SegmentSize <= v.begin {
		return
	}
	key, sumsKey := fileKey{base: base}, fileKey{base: base, sums: true}
	name, sumsName := v.relative(key), v.relative(sumsKey)
	sums := make([]byte, t.valid/blockSize*sumSize)
	whole := !v.missing.overlaps(base, base+t.valid)
	if err := v.r.read(sumsKey, sums, 0); err != nil && len(sums) > 0 {
		if whole {
			v.add(sumsName, -1, "cannot be read: %v", err)
		}
		return
	}
	if got := digestOf(sums); got != t.digest {
		if !whole {
			return // they are to be fetched as well
		}
		v.add(sumsName, -1, "checksum %#x, the manifest says %#x", got, t.digest)
	}
	buf := make([]byte, 256*blockSize)
	for at := int64(0); at < t.valid; at += int64(len(buf)) {
		data := buf[:min(int64(len(buf)), t.valid-at)]
		if v.missing.overlaps(base+at, base+at+int64(len(data))) {
			data = data[:0] // looked at block by block
		} else if err := v.r.read(key, data, at); err != nil {
			v.add(name, at, "cannot be read: %v", err)
			return
		}
		for b := at; b < min(at+int64(len(buf)), t.valid); b += blockSize {
			n := min(blockSize, t.valid-b)
			block := buf[b-at : b-at+n]
			if len(data) == 0 {
				if v.missing.overlaps(base+b, base+b+n) {
					continue
				}
				if err := v.r.read(key, block, b); err != nil {
					v.add(name, b, "cannot be read: %v", err)
					continue
				}
			}
			v.block(name, b, block, sums, t)
		}
		if v.o.Progress != nil {
			v.o.Progress(base+at-v.begin, 2*(v.Manifest.End-v.begin))
		}
	}
}

func (v *verifier) block(name string, at int64, block, sums []byte, t trust) {
	v.Blocks++
	got, want := blockSum(block), uint32(0)
	if i := at / blockSize * sumSize; i < int64(len(sums)) {
		want = decodeSum(sums[i:])
	} else {
		got, want = crc32.Checksum(block, castagnoli), t.part
	}
	if got != want {
		v.add(name, at, "block has checksum %#x, expected %#x", got, want)
	}
}

// records walks the records, and holds the queues and the index against them.
func (v *verifier) records() error {
	end := v.Manifest.End
	for pos := v.begin; pos < end; {
		stop := end
		if gap, ok := v.missing.next(pos); ok {
			if gap.from <= pos {
				pos = v.skip(pos, gap.to)
				continue
			}
			stop = gap.from
		}
		scan := logScan{segment: v.r.SegmentSize, pos: pos, end: end, read: func(off int64, need, want int) ([]byte, error) {
			if off+int64(need) > stop {
				return nil, ErrMissing
			}
			b := make([]byte, min(int64(want), stop-off))
			return b, v.r.ReadLog(off, b)
		}}
		for {
			phys, rec, err := scan.next()
			if errors.Is(err, io.EOF) {
				pos = end
				break
			}
			if err != nil {
				if !errors.Is(err, ErrMissing) {
					v.add(v.relative(fileKey{base: phys - phys%v.r.SegmentSize}), phys%v.r.SegmentSize, "%v", err)
				}
				pos = v.skip(phys, phys+1)
				break
			}
			v.record(phys, rec)
			if v.o.Progress != nil && v.Records%(1<<16) == 0 {
				v.o.Progress(end-v.begin+phys-v.begin, 2*(end-v.begin))
			}
		}
	}
	return nil
}

// skip goes from where no record can be read to where one begins for sure: the
// next segment. What is in between cannot be held against queues and index.
func (v *verifier) skip(from, to int64) int64 {
	to += v.r.SegmentSize - 1
	to -= to % v.r.SegmentSize
	for _, q := range v.queues {
		q.next = -1
	}
	for _, run := range v.index {
		run.skipped = run.skipped || run.begin < to && from < run.end
	}
	return to
}

func (v *verifier) record(phys int64, rec []byte) {
	v.Records++
	name, off := v.relative(fileKey{base: phys - phys%v.r.SegmentSize}), phys%v.r.SegmentSize
	r, err := parseRecord(rec)
	if err == nil {
		err = r.checkBody()
	}
	if err == nil && r.phys != phys {
		err = fmt.Errorf("the record at %d says it is at %d", phys, r.phys)
	}
	if err != nil {
		v.add(name, off, "%v", err)
		return
	}
	v.keys(phys, rec)
	id, at, unit, ok := v.o.UnitOf(rec)
	if !ok {
		return
	}
	q := v.queues[id]
	if q == nil || at >= q.Max {
		v.add(name, off, "record of unit %d of queue %s, which the manifest does not have", at, id)
		return
	}
	if q.next >= 0 && at != q.next {
		v.add(name, off, "record of unit %d of queue %s, expected is %d", at, id, q.next)
	}
	q.next = at + 1
	if q.facts.holed(at) {
		return
	}
	var b [UnitSize]byte
	if err := v.r.ReadUnits(id, at, b[:]); err != nil {
		v.add(v.relative(fileKey{queue: v.r.queue(id), base: queueFile(at)}), (at-queueFile(at))*UnitSize, "unit %d cannot be read: %v", at, err)
		return
	}
	v.Units++
	if got := decodeUnit(b[:]); got != unit {
		v.add(v.relative(fileKey{queue: v.r.queue(id), base: queueFile(at)}), (at-queueFile(at))*UnitSize, "unit %d is %+v, its record gives %+v", at, got, unit)
	}
}

func (f *queueFacts) holed(unit int64) bool {
	for _, h := range f.holes {
		if h.lo <= unit && unit < h.hi {
			return true
		}
	}
	return false
}

// queue compares a queue's blocks with their sums.
func (v *verifier) queue(q *queueCheck) {
	v.Queues++
	if q.next >= 0 && q.next != q.Max {
		v.add(strings.TrimPrefix(queuePath(v.r.dir, q.QueueID), v.r.dir+"/"), -1,
			"the last record is that of unit %d, the queue ends at %d", q.next-1, q.Max)
	}
	for _, h := range q.facts.holes {
		v.MissingUnits += min(h.hi, q.Max) - min(h.lo, q.Max)
	}
	key := v.r.queue(q.QueueID)
	start, end := queueBlock(q.facts.front)
	for ; start < q.Max; start, end = queueBlock(end) {
		stop, holed := min(end, q.Max), false
		for _, h := range q.facts.holes {
			holed = holed || h.lo < stop && start < h.hi
		}
		if holed || q.facts.front >= stop {
			continue
		}
		file := queueFile(start)
		name, at := v.relative(fileKey{queue: key, base: file}), (start-file)*UnitSize
		units := make([]byte, (stop-start)*UnitSize)
		if err := v.r.read(fileKey{queue: key, base: file}, units, at); err != nil {
			v.add(name, at, "cannot be read: %v", err)
			continue
		}
		got, want := crc32.Update(key.blockSeed(start), castagnoli, units), q.Part
		switch {
		case stop == end:
			var b [sumSize]byte
			if err := v.r.read(fileKey{queue: key, base: file, sums: true}, b[:], blockNumber(start)%blocksPerFile*sumSize); err != nil {
				v.add(name+sumsSuffix, blockNumber(start)%blocksPerFile*sumSize, "cannot be read: %v", err)
				continue
			}
			got, want = sealSum(got), decodeSum(b[:])
		case q.facts.hasLocal:
			want = q.facts.local
		}
		v.QueueBlocks++
		if got != want {
			v.add(name, at, "block has checksum %#x, expected %#x", got, want)
		}
	}
}
