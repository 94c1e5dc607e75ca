package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

const (
	memPage   = 4096
	memSector = 512
)

// Mem is an FS in memory that knows what has been synced. Crash returns what a
// power loss leaves of it, Clone what kill -9 leaves. A hook sees every
// operation first and can fail it, cut it short or hold it up. For tests.
//
// What it assumes of a disk: dirty pages are written back in any order or not
// at all; a page caught by the power loss may be a mix of old and new sectors;
// the size in the inode and the names in a directory are separate and may be
// older than the data; a sync that failed leaves its pages clean, so that the
// next sync passes over them.
type Mem struct {
	mu       sync.Mutex
	root     *memDir
	locks    map[string]bool
	capacity int64 // 0: no limit
	hook     func(Op) error
	rng      *rand.Rand
}

// OpKind says what an operation does.
type OpKind string

// The operations a hook sees.
const (
	OpOpen      OpKind = "open"
	OpMkdir     OpKind = "mkdir"
	OpRemove    OpKind = "remove"
	OpRename    OpKind = "rename"
	OpReadDir   OpKind = "readdir"
	OpStat      OpKind = "stat"
	OpSyncDir   OpKind = "syncdir"
	OpSyncFS    OpKind = "syncfs"
	OpRead      OpKind = "read"
	OpWrite     OpKind = "write"
	OpTruncate  OpKind = "truncate"
	OpAllocate  OpKind = "allocate"
	OpSync      OpKind = "sync" // Datasync and Sync
	OpWriteback OpKind = "writeback"
	OpMap       OpKind = "map"
)

// Op is one operation, as a hook sees it before it is carried out.
type Op struct {
	Kind  OpKind
	Label Label
	Name  string
	Off   int64
	Len   int
}

// ShortWrite, returned by a hook for a write, lets the first N bytes through
// and then fails the write with Err.
type ShortWrite struct {
	N   int
	Err error
}

func (s ShortWrite) Error() string { return fmt.Sprintf("short write of %d bytes: %v", s.N, s.Err) }
func (s ShortWrite) Unwrap() error { return s.Err }

// ErrPretend, returned by a hook for a write or a sync, reports success without
// doing anything: a disk that lies, or a step that a test leaves out to show
// what it is good for.
var ErrPretend = errors.New("disk: success reported, nothing done")

type dirOp struct {
	add, remove string
	node        any // of add
}

type memDir struct {
	names   map[string]any // *memFile or *memDir
	durable map[string]any
	pending []dirOp
}

func newMemDir() *memDir { return &memDir{names: map[string]any{}, durable: map[string]any{}} }

func (d *memDir) change(op dirOp) {
	applyDirOp(d.names, op)
	d.pending = append(d.pending, op)
}

func applyDirOp(names map[string]any, op dirOp) {
	if op.remove != "" {
		delete(names, op.remove)
	}
	if op.add != "" {
		names[op.add] = op.node
	}
}

func (d *memDir) sync() {
	d.durable = maps.Clone(d.names)
	d.pending = nil
}

// NewMem returns an empty file system whose root directory exists. The seed
// decides which pages a failed sync has written.
func NewMem(seed uint64) *Mem {
	return &Mem{root: newMemDir(), locks: map[string]bool{}, rng: rand.New(rand.NewPCG(seed, 0))}
}

// SetHook installs a function that is called before each operation, on the
// caller's goroutine and without locks held: an error fails the operation. Nil
// removes it.
func (m *Mem) SetHook(hook func(Op) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = hook
}

// SetCapacity bounds the sum of all file sizes: beyond it writes and
// allocations fail with ENOSPC. 0 means no bound.
func (m *Mem) SetCapacity(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = n
}

// check runs the hook.
func (m *Mem) check(op Op) error {
	m.mu.Lock()
	hook := m.hook
	m.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op)
}

func pathError(op OpKind, name string, err error) error {
	return &fs.PathError{Op: string(op), Path: name, Err: err}
}

// fail gives an operation's error its label, operation and name.
func fail(op Op, err error) error {
	var pe *fs.PathError
	if !errors.As(err, &pe) {
		err = pathError(op.Kind, op.Name, err)
	}
	return labeled(op.Label, err)
}

func (m *Mem) lookup(name string) (any, error) {
	var node any = m.root
	for part := range strings.SplitSeq(strings.Trim(path.Clean(name), "/"), "/") {
		if part == "" || part == "." {
			continue
		}
		d, ok := node.(*memDir)
		if !ok {
			return nil, syscall.ENOTDIR
		}
		if node, ok = d.names[part]; !ok {
			return nil, fs.ErrNotExist
		}
	}
	return node, nil
}

func (m *Mem) dir(name string) (*memDir, error) {
	node, err := m.lookup(name)
	if err != nil {
		return nil, err
	}
	d, ok := node.(*memDir)
	if !ok {
		return nil, syscall.ENOTDIR
	}
	return d, nil
}

func (m *Mem) used() (n int64) {
	var visit func(d *memDir)
	visit = func(d *memDir) {
		for _, node := range d.names {
			switch c := node.(type) {
			case *memDir:
				visit(c)
			case *memFile:
				n += int64(len(c.data))
			}
		}
	}
	visit(m.root)
	return n
}

// OpenFile implements FS.
func (m *Mem) OpenFile(label Label, name string, flag int) (File, error) {
	op := Op{Kind: OpOpen, Label: label, Name: name}
	if err := m.check(op); err != nil {
		return nil, fail(op, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	parent, err := m.dir(path.Dir(path.Clean(name)))
	if err != nil {
		return nil, fail(op, err)
	}
	base := path.Base(path.Clean(name))
	node, ok := parent.names[base]
	switch {
	case !ok && flag&os.O_CREATE == 0:
		return nil, fail(op, fs.ErrNotExist)
	case ok && flag&os.O_EXCL != 0:
		return nil, fail(op, fs.ErrExist)
	case !ok:
		node = &memFile{dirty: map[int64]struct{}{}}
		parent.change(dirOp{add: base, node: node})
	}
	f, ok := node.(*memFile)
	if !ok {
		return nil, fail(op, syscall.EISDIR)
	}
	if flag&os.O_TRUNC != 0 {
		f.resize(0)
	}
	writable := flag&(os.O_RDWR|os.O_WRONLY) != 0
	return &memHandle{handle: &handle{fs: m, f: f, name: name, writable: writable}, label: label}, nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(label Label, name string) error {
	op := Op{Kind: OpMkdir, Label: label, Name: name}
	if err := m.check(op); err != nil {
		return fail(op, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.root
	for part := range strings.SplitSeq(strings.Trim(path.Clean(name), "/"), "/") {
		if part == "" || part == "." {
			continue
		}
		node, ok := d.names[part]
		if !ok {
			node = newMemDir()
			d.change(dirOp{add: part, node: node})
		}
		if d, ok = node.(*memDir); !ok {
			return fail(op, syscall.ENOTDIR)
		}
	}
	return nil
}

// Remove implements FS.
func (m *Mem) Remove(label Label, name string) error { return m.remove(label, name, false) }

// RemoveAll implements FS.
func (m *Mem) RemoveAll(label Label, name string) error {
	err := m.remove(label, name, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (m *Mem) remove(label Label, name string, all bool) error {
	op := Op{Kind: OpRemove, Label: label, Name: name}
	if err := m.check(op); err != nil {
		return fail(op, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	parent, err := m.dir(path.Dir(path.Clean(name)))
	if err != nil {
		return fail(op, err)
	}
	base := path.Base(path.Clean(name))
	node, ok := parent.names[base]
	if !ok {
		return fail(op, fs.ErrNotExist)
	}
	if d, ok := node.(*memDir); ok && !all && len(d.names) > 0 {
		return fail(op, syscall.ENOTEMPTY)
	}
	parent.change(dirOp{remove: base})
	return nil
}

// Rename implements FS.
func (m *Mem) Rename(label Label, oldname, newname string) error {
	op := Op{Kind: OpRename, Label: label, Name: newname}
	if err := m.check(op); err != nil {
		return fail(op, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	from, err := m.dir(path.Dir(path.Clean(oldname)))
	if err != nil {
		return fail(op, err)
	}
	to, err := m.dir(path.Dir(path.Clean(newname)))
	if err != nil {
		return fail(op, err)
	}
	oldbase, newbase := path.Base(path.Clean(oldname)), path.Base(path.Clean(newname))
	node, ok := from.names[oldbase]
	if !ok {
		return fail(op, fs.ErrNotExist)
	}
	if from == to {
		from.change(dirOp{remove: oldbase, add: newbase, node: node})
		return nil
	}
	to.change(dirOp{add: newbase, node: node})
	from.change(dirOp{remove: oldbase})
	return nil
}

// ReadDir implements FS.
func (m *Mem) ReadDir(label Label, name string) ([]fs.DirEntry, error) {
	op := Op{Kind: OpReadDir, Label: label, Name: name}
	if err := m.check(op); err != nil {
		return nil, fail(op, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dir(name)
	if err != nil {
		return nil, fail(op, err)
	}
	var entries []fs.DirEntry
	for _, base := range slices.Sorted(maps.Keys(d.names)) {
		entries = append(entries, fs.FileInfoToDirEntry(infoOf(base, d.names[base])))
	}
	return entries, nil
}

// Stat implements FS.
func (m *Mem) Stat(label Label, name string) (fs.FileInfo, error) {
	op := Op{Kind: OpStat, Label: label, Name: name}
	if err := m.check(op); err != nil {
		return nil, fail(op, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.lookup(name)
	if err != nil {
		return nil, fail(op, err)
	}
	return infoOf(path.Base(path.Clean(name)), node), nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(label Label, name string) error {
	op := Op{Kind: OpSyncDir, Label: label, Name: name}
	if err := m.check(op); err != nil {
		return fail(op, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dir(name)
	if err != nil {
		return fail(op, err)
	}
	d.sync()
	return nil
}

// SyncFS implements FS.
func (m *Mem) SyncFS(label Label, name string) error {
	op := Op{Kind: OpSyncFS, Label: label, Name: name}
	hookErr := m.check(op)
	m.mu.Lock()
	defer m.mu.Unlock()
	var visit func(d *memDir)
	visit = func(d *memDir) {
		if hookErr == nil {
			d.sync()
		}
		for _, name := range slices.Sorted(maps.Keys(d.names)) {
			switch c := d.names[name].(type) {
			case *memDir:
				visit(c)
			case *memFile:
				c.sync(hookErr == nil, m.rng)
			}
		}
	}
	visit(m.root)
	if hookErr != nil {
		return fail(op, hookErr)
	}
	return nil
}

// Usage implements FS.
func (m *Mem) Usage(string) (Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := m.capacity
	if total == 0 {
		total = 1 << 50
	}
	return Usage{Total: uint64(total), Free: uint64(max(0, total-m.used()))}, nil
}

type memLock struct {
	m    *Mem
	name string
}

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.name)
	return nil
}

// Lock implements FS.
func (m *Mem) Lock(label Label, name string) (io.Closer, error) {
	f, err := m.OpenFile(label, name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name = path.Clean(name)
	if m.locks[name] {
		return nil, labeled(label, pathError("lock", name, ErrLocked))
	}
	m.locks[name] = true
	return memLock{m, name}, nil
}
