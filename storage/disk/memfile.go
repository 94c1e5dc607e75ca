package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"
)

type memFile struct {
	data    []byte // what readers see; len is the size
	durable []byte // what the disk holds; len is the size in the durable inode
	dirty   map[int64]struct{}
	maps    int
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
