package disk

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// ErrHung is returned where nobody may be kept waiting for a disk that does not
// answer.
var ErrHung = errors.New("disk: it does not answer")

const (
	// watchedAtOnce is how many operations of either kind, urgent or not, a Watch can
	// tell of at one time. Of more the first are known, and those are the oldest.
	watchedAtOnce = 256
	// usageWait is how long Watch.Usage waits for the file system.
	usageWait = 100 * time.Millisecond
)

// OpClose closes a file: it may wait for the disk as well.
const OpClose OpKind = "close"

// InFlight is an operation that has begun and not ended.
type InFlight struct {
	Kind  OpKind
	Label Label
	Name  string
	Since time.Time
}

// Watch is an FS that can tell what is under way on the one below, and since
// when: a disk that hangs gives no error, and whoever waits for it can't say so.
// To note an operation takes no lock.
//
// Operations that are urgent have slots of their own: however many others hang,
// they are told of.
//
// Usage does not wait for a disk that hangs: then it is ErrHung.
type Watch struct {
	fs     FS
	urgent func(OpKind, Label) bool
	base   time.Time  // a moment before the first operation
	first  watchSlots // the urgent ones
	others watchSlots

	mu     sync.Mutex
	usages map[string]*usageCall // that were not answered yet
}

// watchSlots are what is noted of operations under way.
type watchSlots struct {
	next  atomic.Uint32
	slots [watchedAtOnce]watchSlot
}

type watchSlot struct {
	began atomic.Int64 // ns since base; 0: free
	kind  atomic.Pointer[OpKind]
	of    atomic.Pointer[watchedName]
}

// watchedName is what an operation is done to.
type watchedName struct {
	label Label
	name  string
}

// NewWatch watches what goes through it on a file system. urgent says what may
// not be missed, of which there are never many at one time; it is asked on each
// operation.
func NewWatch(fs FS, urgent func(OpKind, Label) bool) *Watch {
	return &Watch{fs: fs, urgent: urgent, base: time.Now().Add(-1), usages: map[string]*usageCall{}}
}

// begin notes that an operation begins. What it returns ends it.
func (w *Watch) begin(kind *OpKind, of *watchedName) *watchSlot {
	now := int64(time.Since(w.base))
	in := &w.others
	if w.urgent(*kind, of.label) {
		in = &w.first
	}
	first := in.next.Add(1)
	for i := range uint32(watchedAtOnce) {
		s := &in.slots[(first+i)%watchedAtOnce]
		if s.began.Load() == 0 && s.began.CompareAndSwap(0, now) {
			s.kind.Store(kind)
			s.of.Store(of)
			return s
		}
	}
	return nil
}

func (s *watchSlot) end() {
	if s != nil {
		s.began.Store(0)
	}
}

// Note notes an operation that goes to the disk by another way. The function
// ends it.
func (w *Watch) Note(kind OpKind, label Label, name string) (end func()) {
	return w.begin(&kind, &watchedName{label, name}).end
}

// Oldest is the operation that has been under way for longest among those that
// count.
func (w *Watch) Oldest(count func(InFlight) bool) (oldest InFlight, ok bool) {
	for _, in := range []*watchSlots{&w.first, &w.others} {
		for i := range in.slots {
			f, busy := in.slots[i].inFlight(w.base)
			if busy && (!ok || f.Since.Before(oldest.Since)) && count(f) {
				oldest, ok = f, true
			}
		}
	}
	return oldest, ok
}

// inFlight is the operation that has the slot.
func (s *watchSlot) inFlight(base time.Time) (f InFlight, ok bool) {
	began := s.began.Load()
	kind, of := s.kind.Load(), s.of.Load()
	// Of one that has just begun, the slot may still say what was there before: it
	// is young, and not looked for.
	if began == 0 || kind == nil || of == nil || s.began.Load() != began {
		return f, false
	}
	return InFlight{*kind, of.label, of.name, base.Add(time.Duration(began))}, true
}

// OpenFile implements FS.
func (w *Watch) OpenFile(label Label, name string, flag int) (File, error) {
	defer w.Note(OpOpen, label, name)()
	f, err := w.fs.OpenFile(label, name, flag)
	if err != nil {
		return nil, err
	}
	return w.file(f, label, name), nil
}

// MkdirAll implements FS.
func (w *Watch) MkdirAll(label Label, name string) error {
	defer w.Note(OpMkdir, label, name)()
	return w.fs.MkdirAll(label, name)
}

// Remove implements FS.
func (w *Watch) Remove(label Label, name string) error {
	defer w.Note(OpRemove, label, name)()
	return w.fs.Remove(label, name)
}

// RemoveAll implements FS.
func (w *Watch) RemoveAll(label Label, name string) error {
	defer w.Note(OpRemove, label, name)()
	return w.fs.RemoveAll(label, name)
}

// Rename implements FS.
func (w *Watch) Rename(label Label, oldname, newname string) error {
	defer w.Note(OpRename, label, newname)()
	return w.fs.Rename(label, oldname, newname)
}

// ReadDir implements FS.
func (w *Watch) ReadDir(label Label, name string) ([]fs.DirEntry, error) {
	defer w.Note(OpReadDir, label, name)()
	return w.fs.ReadDir(label, name)
}

// Stat implements FS.
func (w *Watch) Stat(label Label, name string) (fs.FileInfo, error) {
	defer w.Note(OpStat, label, name)()
	return w.fs.Stat(label, name)
}

// SyncDir implements FS.
func (w *Watch) SyncDir(label Label, name string) error {
	defer w.Note(OpSyncDir, label, name)()
	return w.fs.SyncDir(label, name)
}

// SyncFS implements FS.
func (w *Watch) SyncFS(label Label, name string) error {
	defer w.Note(OpSyncFS, label, name)()
	return w.fs.SyncFS(label, name)
}

// Lock implements FS.
func (w *Watch) Lock(label Label, name string) (io.Closer, error) {
	defer w.Note(OpOpen, label, name)()
	return w.fs.Lock(label, name)
}

// usageCall is one question to the file system, for all who ask meanwhile.
type usageCall struct {
	done  chan struct{}
	usage Usage
	err   error
}

// Usage implements FS.
func (w *Watch) Usage(name string) (Usage, error) {
	w.mu.Lock()
	c := w.usages[name]
	if c == nil {
		c = &usageCall{done: make(chan struct{})}
		w.usages[name] = c
		// Nobody can wait for it to end: a disk may hang for ever.
		go w.ask(name, c)
	}
	w.mu.Unlock()
	limit := time.NewTimer(usageWait)
	defer limit.Stop()
	select {
	case <-c.done:
		return c.usage, c.err
	case <-limit.C:
		return Usage{}, labeled("usage", ErrHung)
	}
}

func (w *Watch) ask(name string, c *usageCall) {
	c.usage, c.err = w.fs.Usage(name)
	w.mu.Lock()
	delete(w.usages, name)
	w.mu.Unlock()
	close(c.done)
}

// file watches an open file.
func (w *Watch) file(f File, label Label, name string) File {
	return &watchedFile{File: f, w: w, of: watchedName{label, name}}
}

// The operations of a file: kept here so that noting one makes nothing.
var opRead, opWrite, opStat, opTruncate, opAllocate, opSync, opWriteback, opMap, opClose = OpRead, OpWrite, OpStat, OpTruncate, OpAllocate, OpSync, OpWriteback, OpMap, OpClose

type watchedFile struct {
	File
	w  *Watch
	of watchedName
}

func (f *watchedFile) withLabel(label Label) File {
	return f.w.file(WithLabel(f.File, label), label, f.Name())
}

func (f *watchedFile) begin(kind *OpKind) *watchSlot { return f.w.begin(kind, &f.of) }

func (f *watchedFile) ReadAt(p []byte, off int64) (int, error) {
	defer f.begin(&opRead).end()
	return f.File.ReadAt(p, off)
}

func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	defer f.begin(&opWrite).end()
	return f.File.WriteAt(p, off)
}

func (f *watchedFile) Size() (int64, error) {
	defer f.begin(&opStat).end()
	return f.File.Size()
}

func (f *watchedFile) Truncate(size int64) error {
	defer f.begin(&opTruncate).end()
	return f.File.Truncate(size)
}

func (f *watchedFile) Allocate(off, n int64) error {
	defer f.begin(&opAllocate).end()
	return f.File.Allocate(off, n)
}

func (f *watchedFile) Datasync() error {
	defer f.begin(&opSync).end()
	return f.File.Datasync()
}

func (f *watchedFile) Sync() error {
	defer f.begin(&opSync).end()
	return f.File.Sync()
}

func (f *watchedFile) StartWriteback(off, n int64) error {
	defer f.begin(&opWriteback).end()
	return f.File.StartWriteback(off, n)
}

func (f *watchedFile) Map(n int64) (Mapping, error) {
	defer f.begin(&opMap).end()
	return f.File.Map(n)
}

func (f *watchedFile) Close() error {
	defer f.begin(&opClose).end()
	return f.File.Close()
}
