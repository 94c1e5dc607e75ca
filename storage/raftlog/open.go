package raftlog

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/mutant"
)

// Open opens the log in dir, whose parent must be there. It reads and verifies all of it, cuts off a torn
// tail, writes again and syncs what is not known to be on the disk, and only
// then returns. A *FileError says what is wrong with a file; nothing has been
// changed in that case. disk.ErrLocked: the log is open elsewhere.
func Open(fs disk.FS, dir string, opts Options) (_ *Log, err error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if opts.Create {
		err = makeDir(fs, LabelDir, dir)
	} else if _, err = fs.Stat(LabelDir, dir); errors.Is(err, os.ErrNotExist) {
		err = &FileError{File: dir, Offset: -1, Detail: "the directory of the raft log is not there", Err: ErrMissing}
	}
	if err != nil {
		return nil, err
	}
	lock, err := fs.Lock(LabelDir, path.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	img, err := scan(fs, dir, os.O_RDWR, nil)
	defer func() {
		if err != nil {
			err = errors.Join(err, img.close(), lock.Close())
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, name := range img.tmps {
		if err := fs.Remove(LabelDir, name); err != nil {
			return nil, err
		}
	}
	// Names, too, may be in memory only.
	if err := fs.SyncDir(LabelDir, dir); err != nil {
		return nil, err
	}
	if len(img.segs) == 0 {
		if err := img.create(fs, dir, &opts); err != nil {
			return nil, err
		}
	}
	l := newLog(fs, dir, opts, img)
	l.lock = lock
	if err := l.recover(img); err != nil {
		return nil, err
	}
	if err := l.openMark(img.hasMark); err != nil {
		return nil, err
	}
	for _, s := range slices.Concat(l.segs, l.free) {
		s.file = disk.WithLabel(s.file, LabelAppend)
	}
	l.start()
	return l, nil
}

// makeDir makes a directory if it is not there. Its name is synced in any case:
// it may be in memory only, if whoever made it was killed.
func makeDir(fs disk.FS, label disk.Label, dir string) error {
	if err := fs.MkdirAll(label, dir); err != nil {
		return err
	}
	return fs.SyncDir(label, path.Dir(path.Clean(dir)))
}

// create makes the first segment of a new log.
func (img *image) create(fs disk.FS, dir string, opts *Options) error {
	if !opts.Create {
		return &FileError{File: dir, Offset: -1, Detail: "there is no raft log", Err: ErrMissing}
	}
	if len(img.free) == 0 { // else an attempt to make the log was cut short: go on with it
		img.logID = opts.logID
	}
	if img.logID == 0 {
		var b [8]byte
		rand.Read(b[:]) // never fails
		img.logID = binary.LittleEndian.Uint64(b[:])
	}
	img.seed = seedOf(img.logID)
	img.number++
	s, err := createSegment(fs, dir, img.number, opts.SegmentBytes, img.logID, func() bool { return false })
	if err != nil {
		return err
	}
	start := position{1, segmentHeader}
	img.segs = []*segment{s}
	img.epoch = 1
	img.end, img.synced = start, start
	img.state = state{generation: 1, start: start, last: 1, synced: start}
	h := s.head
	h.seq, h.epoch, h.cut, h.state = 1, 1, cut{segmentHeader, 1}, img.state
	s.seq, s.epoch, s.base = 1, 1, 1
	return s.save(h, disk.File.Datasync)
}

func newLog(fs disk.FS, dir string, opts Options, img *image) *Log {
	return &Log{
		fs: fs, dir: dir, opts: opts, logID: img.logID, seed: img.seed,
		syncing: newTurn(), writing: newTurn(), headers: newTurn(),
		poison: newLatch(), started: time.Now(),
		lastCRC: img.lastCRC, state: img.state, epoch: img.epoch, generation: img.state.generation,
		segs: img.segs, free: img.free,
		first: img.first, last: img.last, lastTerm: img.lastTerm, synced: img.synced,
		cache: cache{limit: opts.CacheBytes}, number: img.number,
		kick: make(chan struct{}, 1), requests: make(chan spareRequest), quit: make(chan struct{}),
	}
}

// recover makes what the scan found durable.
func (l *Log) recover(img *image) error {
	tail := l.tail()
	if l.synced.seq < tail.seq {
		// Segments before the tail were synced before it got its first entry.
		l.synced = tail.at(segmentHeader)
	}
	if from := max(l.synced.off, segmentHeader); from < tail.end && !mutant.On("resync") {
		if err := l.resync(tail, from); err != nil {
			return err
		}
		l.opts.Logger.Info("raft log: wrote entries again that were not known to be synced",
			"file", tail.file.Name(), "from", from, "to", tail.end, "last_index", l.last)
	}
	l.synced = tail.at(tail.end)
	start := img.state.start
	if l.last == 0 {
		start = tail.at(tail.end)
	}
	l.headers.Lock()
	defer l.headers.Unlock()
	return l.cutAt(tail, tail.end, l.first, start)
}

// resync writes what s holds from an offset to its end once more, and syncs it.
// The page cache may be ahead of the disk, after a kill or a failed sync, and
// only writing makes its pages dirty again.
func (l *Log) resync(s *segment, from int64) error {
	f := disk.WithLabel(s.file, LabelResync)
	w := &window{file: f, size: s.end}
	for off := from; off < s.end; {
		n := min(windowBytes, s.end-off)
		b, err := w.at(off, n)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
		off += n
	}
	return f.Datasync()
}

// start begins the background work.
func (l *Log) start() {
	l.trimFree()
	l.joined.Go(l.keep)
	if l.opts.Flush == AsyncFlush {
		l.joined.Go(l.flush)
	}
	l.wakeKeeper()
}

// Close ends the background work and closes the files. What is not synced yet
// is synced; a clean end is recorded, unless the log is poisoned. On a disk that
// hangs, Close waits for it. Closing twice is no error.
func (l *Log) Close() error {
	l.quitOnce.Do(func() { close(l.quit) })
	l.joined.Wait()
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed {
		return nil
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	var err error
	if l.poison.get() == nil {
		err = l.closeClean()
	}
	for _, s := range slices.Concat(l.segs, l.spares, l.free, l.doomed) {
		err = errors.Join(err, s.file.Close())
	}
	if err = errors.Join(err, l.lock.Close()); err != nil {
		return fmt.Errorf("raftlog: closing %s: %w", l.dir, err)
	}
	return nil
}

// closeClean records that everything is synced: from now on damage to the last
// entries is known for what it is. The spare gets a copy, so that an older copy
// of the tail put in its place shows as well.
func (l *Log) closeClean() error {
	if err := l.syncTail(); err != nil {
		return err
	}
	l.headers.Lock()
	defer l.headers.Unlock()
	st := l.state
	st.synced = l.synced
	for _, s := range slices.Concat(l.segs[len(l.segs)-1:], l.spares[:min(1, len(l.spares))]) {
		if err := l.saveState(s, s.head, st); err != nil {
			return err
		}
	}
	return l.closeMark()
}
