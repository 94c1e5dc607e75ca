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
	"time"
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

type memFile struct {
	data    []byte // what readers see; len is the size
	durable []byte // what the disk holds; len is the size in the durable inode
	dirty   map[int64]struct{}
	maps    int
}

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

// Clone returns an independent copy as kill -9 and a restart would find it: the
// page cache is whole, what was not synced still is not, no lock is held.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	seed := m.rng.Uint64()
	m.mu.Unlock()
	return m.copy(seed, func(f *memFile) *memFile {
		return &memFile{data: slices.Clone(f.data), durable: slices.Clone(f.durable), dirty: maps.Clone(f.dirty)}
	}, func(d *memDir) *memDir {
		return &memDir{names: maps.Clone(d.names), durable: maps.Clone(d.durable), pending: slices.Clone(d.pending)}
	})
}

// Crash returns an independent copy as a power loss and a restart would find
// it: of the unsynced pages, sizes and names, the seed decides which made it.
func (m *Mem) Crash(seed uint64) *Mem {
	rng := rand.New(rand.NewPCG(seed, 1))
	// One crash in four loses everything unsynced, one keeps nearly all of it:
	// a fair coin for each page would seldom reach either.
	keep := [...]float64{0, 0.5, 0.5, 0.95}[rng.IntN(4)]
	return m.copy(rng.Uint64(), func(f *memFile) *memFile {
		return f.crash(rng, keep)
	}, func(d *memDir) *memDir {
		names := maps.Clone(d.durable)
		n := 0
		if keep > 0 && len(d.pending) > 0 {
			n = rng.IntN(len(d.pending) + 1)
		}
		for _, op := range d.pending[:n] {
			applyDirOp(names, op)
		}
		return &memDir{names: names, durable: maps.Clone(names)}
	})
}

// copy walks the tree, in name order so that a seed gives one result, and
// copies every node once: a file may be reachable by two names (the durable and
// the current one of a rename).
func (m *Mem) copy(seed uint64, file func(*memFile) *memFile, dir func(*memDir) *memDir) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	done := map[any]any{}
	var visit func(node any) any
	visit = func(node any) any {
		if c, ok := done[node]; ok {
			return c
		}
		switch n := node.(type) {
		case *memFile:
			c := file(n)
			done[node] = c
			return c
		case *memDir:
			c := dir(n)
			done[node] = c
			for _, names := range []map[string]any{c.names, c.durable} {
				for _, name := range slices.Sorted(maps.Keys(names)) {
					names[name] = visit(names[name])
				}
			}
			for i, op := range c.pending {
				if op.node != nil {
					c.pending[i].node = visit(op.node)
				}
			}
			return c
		}
		panic("disk: unknown node")
	}
	root := visit(m.root).(*memDir)
	return &Mem{root: root, locks: map[string]bool{}, capacity: m.capacity, rng: rand.New(rand.NewPCG(seed, 0))}
}

func (f *memFile) crash(rng *rand.Rand, keep float64) *memFile {
	size := len(f.durable)
	if keep > 0 && rng.IntN(2) == 0 {
		size = len(f.data)
	}
	data := make([]byte, size)
	copy(data, f.durable)
	for _, page := range slices.Sorted(maps.Keys(f.dirty)) {
		roll := rng.Float64()
		torn := rng.IntN(8) == 0
		if roll >= keep {
			continue
		}
		for s := page * memPage; s < (page+1)*memPage; s += memSector {
			if torn && rng.IntN(2) == 0 {
				continue
			}
			if s < int64(size) && s < int64(len(f.data)) {
				copy(data[s:min(s+memSector, int64(size))], f.data[s:])
			}
		}
	}
	return &memFile{data: data, durable: slices.Clone(data), dirty: map[int64]struct{}{}}
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

// FlipBit flips one bit of a file, in the page cache and on the disk, as bit
// rot would. For tests.
func (m *Mem) FlipBit(name string, off int64, bit uint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.lookup(name)
	if err != nil {
		return err
	}
	f, ok := node.(*memFile)
	if !ok || off < 0 || off >= int64(len(f.data)) {
		return fmt.Errorf("disk: no byte %d in %s", off, name)
	}
	f.data[off] ^= 1 << (bit % 8)
	if off < int64(len(f.durable)) {
		f.durable[off] ^= 1 << (bit % 8)
	}
	return nil
}

func (f *memFile) resize(size int64) {
	old := int64(len(f.data))
	switch {
	case size < old:
		f.data = f.data[:size]
	case size <= int64(cap(f.data)):
		f.data = f.data[:size]
		clear(f.data[old:])
	default:
		if f.maps > 0 {
			panic("disk: a mapped file grew: its mapping would be stale")
		}
		grown := make([]byte, size, max(size, min(2*old, size+1<<20)))
		copy(grown, f.data)
		f.data = grown
	}
	f.touch(min(old, size), max(old, size)-min(old, size))
}

// touch marks the pages of a range dirty.
func (f *memFile) touch(off, n int64) {
	for p := off / memPage; n > 0 && p <= (off+n-1)/memPage; p++ {
		f.dirty[p] = struct{}{}
	}
}

// sync makes the file durable or, if the disk failed, marks every page clean
// although only some were written.
func (f *memFile) sync(ok bool, rng *rand.Rand) {
	if ok {
		f.durable = resized(f.durable, len(f.data))
	}
	for _, p := range slices.Sorted(maps.Keys(f.dirty)) {
		if !ok && rng.IntN(2) == 0 {
			continue
		}
		start := p * memPage
		end := min(start+memPage, int64(len(f.data)), int64(len(f.durable)))
		if start < end {
			copy(f.durable[start:end], f.data[start:end])
		}
	}
	clear(f.dirty)
}

func resized(b []byte, n int) []byte {
	if n <= len(b) {
		return b[:n]
	}
	return append(b, make([]byte, n-len(b))...)
}

type handle struct {
	fs       *Mem
	f        *memFile
	name     string
	writable bool
	closed   bool
}

type memHandle struct {
	*handle
	label Label
}

func (h *memHandle) withLabel(label Label) File { return &memHandle{handle: h.handle, label: label} }

// begin runs the hook and takes the lock. The caller unlocks if err is nil.
func (h *memHandle) begin(op Op) error {
	op.Label, op.Name = h.label, h.name
	if err := h.fs.check(op); err != nil {
		return fail(op, err)
	}
	h.fs.mu.Lock()
	if h.closed {
		h.fs.mu.Unlock()
		return fail(op, fs.ErrClosed)
	}
	return nil
}

func (h *memHandle) Name() string { return h.name }

func (h *memHandle) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return fail(Op{Kind: "close", Label: h.label, Name: h.name}, fs.ErrClosed)
	}
	h.closed = true
	return nil
}

func (h *memHandle) Size() (int64, error) {
	if err := h.begin(Op{Kind: OpStat}); err != nil {
		return 0, err
	}
	defer h.fs.mu.Unlock()
	return int64(len(h.f.data)), nil
}

func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	if err := h.begin(Op{Kind: OpRead, Off: off, Len: len(p)}); err != nil {
		return 0, err
	}
	defer h.fs.mu.Unlock()
	if off >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	op := Op{Kind: OpWrite, Label: h.label, Name: h.name, Off: off, Len: len(p)}
	err := h.fs.check(op)
	var short ShortWrite
	if errors.Is(err, ErrPretend) {
		return len(p), nil
	} else if errors.As(err, &short) {
		p = p[:min(short.N, len(p))]
	} else if err != nil {
		return 0, fail(op, err)
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed || !h.writable {
		return 0, fail(op, fs.ErrClosed)
	}
	if end := off + int64(len(p)); end > int64(len(h.f.data)) {
		if e := h.room(end - int64(len(h.f.data))); e != nil {
			return 0, fail(op, e)
		}
		h.f.resize(end)
	}
	n := copy(h.f.data[off:], p)
	h.f.touch(off, int64(n))
	if err != nil {
		return n, fail(op, err)
	}
	return n, nil
}

func (h *memHandle) room(n int64) error {
	if h.fs.capacity > 0 && h.fs.used()+n > h.fs.capacity {
		return syscall.ENOSPC
	}
	return nil
}

func (h *memHandle) Truncate(size int64) error {
	if err := h.begin(Op{Kind: OpTruncate, Off: size}); err != nil {
		return err
	}
	defer h.fs.mu.Unlock()
	h.f.resize(size)
	return nil
}

func (h *memHandle) Allocate(off, n int64) error {
	op := Op{Kind: OpAllocate, Label: h.label, Name: h.name, Off: off, Len: int(n)}
	if err := h.begin(op); err != nil {
		return err
	}
	defer h.fs.mu.Unlock()
	if grow := off + n - int64(len(h.f.data)); grow > 0 {
		if err := h.room(grow); err != nil {
			return fail(op, err)
		}
		h.f.resize(off + n)
	}
	return nil
}

func (h *memHandle) Datasync() error {
	op := Op{Kind: OpSync, Label: h.label, Name: h.name}
	err := h.fs.check(op)
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return fail(op, fs.ErrClosed)
	}
	if errors.Is(err, ErrPretend) {
		return nil
	}
	h.f.sync(err == nil, h.fs.rng)
	if err != nil {
		return fail(op, err)
	}
	return nil
}

func (h *memHandle) Sync() error { return h.Datasync() }

func (h *memHandle) StartWriteback(off, n int64) error {
	if err := h.begin(Op{Kind: OpWriteback, Off: off, Len: int(n)}); err != nil {
		return err
	}
	h.fs.mu.Unlock()
	return nil
}

func (h *memHandle) Map(n int64) (Mapping, error) {
	op := Op{Kind: OpMap, Label: h.label, Name: h.name, Len: int(n)}
	if err := h.begin(op); err != nil {
		return nil, err
	}
	defer h.fs.mu.Unlock()
	if n > int64(len(h.f.data)) {
		return nil, fail(op, fmt.Errorf("file of %d bytes is shorter than the mapping of %d", len(h.f.data), n))
	}
	h.f.maps++
	return &memMapping{h: h.handle, data: h.f.data[:n:n]}, nil
}

type memMapping struct {
	h    *handle
	data []byte
	done bool
}

func (m *memMapping) Bytes() []byte { return m.data }

func (m *memMapping) Unmap() error {
	m.h.fs.mu.Lock()
	defer m.h.fs.mu.Unlock()
	if !m.done {
		m.done = true
		m.h.f.maps--
	}
	return nil
}

type memInfo struct {
	name string
	size int64
	dir  bool
}

func infoOf(name string, node any) fs.FileInfo {
	if f, ok := node.(*memFile); ok {
		return memInfo{name: name, size: int64(len(f.data))}
	}
	return memInfo{name: name, dir: true}
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.dir }
func (i memInfo) Sys() any           { return nil }
func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o750
	}
	return 0o640
}
