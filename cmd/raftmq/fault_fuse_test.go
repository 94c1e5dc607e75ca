package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// faultDisk is a directory under a file system of this process, which can hang,
// be slow or fail. Its files are those of another directory.
type faultDisk struct {
	t            testing.TB
	dir, backing string
	server       *fuse.Server

	mu    sync.Mutex
	rules []*diskRule
	full  bool
	files map[*diskFile]bool // that are open
}

// diskOp is what is done to a file.
type diskOp string

const (
	diskRead  diskOp = "read"
	diskWrite diskOp = "write"
	diskSync  diskOp = "sync"
	diskAlloc diskOp = "allocate"
	diskName  diskOp = "name" // creating, renaming and removing
)

// diskRule says what becomes of operations on files whose path has a text in it.
type diskRule struct {
	path string
	ops  []diskOp // none: all
	slow time.Duration
	hang chan struct{} // until it is closed
	err  syscall.Errno
	once bool // err: only the first time

	hits atomic.Int64
}

// newFaultDisk mounts one on a directory for the time of a test.
func newFaultDisk(t testing.TB, dir string) *faultDisk {
	t.Helper()
	return newFaultDiskOn(t, dir, t.TempDir())
}

func newFaultDiskOn(t testing.TB, dir, backing string) *faultDisk {
	t.Helper()
	needsWorld(t)
	d := &faultDisk{t: t, dir: dir, backing: backing, files: map[*diskFile]bool{}}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := d.mount(); err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	t.Cleanup(func() {
		d.heal()
		d.unmount()
	})
	return d
}

func (d *faultDisk) mount() (err error) {
	second := time.Second
	d.server, err = fs.Mount(d.dir, &diskNode{d: d}, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faults", Name: "faults", DisableXAttrs: true, MaxWrite: 1 << 20},
		EntryTimeout: &second, AttrTimeout: &second,
	})
	return err
}

// unmount leaves nothing of the backing directory open. Nobody may use the
// directory.
func (d *faultDisk) unmount() {
	if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
		d.t.Errorf("unmount %s: %v", d.dir, err)
		return
	}
	d.server.Wait()
	for f := range d.files { // whose release was on its way
		f.Release(context.Background())
	}
}

// add makes a rule, before all others.
func (d *faultDisk) add(r *diskRule) *diskRule {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = append([]*diskRule{r}, d.rules...)
	return r
}

// heal ends all rules. What hangs goes on.
func (d *faultDisk) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.rules {
		if r.hang != nil {
			close(r.hang)
		}
	}
	d.rules = nil
}

// fill takes all room, or gives it back. What has its blocks can be written.
func (d *faultDisk) fill(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

func (d *faultDisk) isFull() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.full
}

// check does what the rules say. An operation that was let go goes on as if
// nothing had been.
func (d *faultDisk) check(op diskOp, path string) syscall.Errno {
	d.mu.Lock()
	var r *diskRule
	for _, r2 := range d.rules {
		if r2.applies(op, path) {
			r = r2
			break
		}
	}
	if r == nil || r.once && r.hits.Load() > 0 {
		d.mu.Unlock()
		return 0
	}
	r.hits.Add(1)
	d.mu.Unlock()
	if r.hang != nil {
		<-r.hang
	}
	<-time.After(r.slow)
	return r.err
}

func (r *diskRule) applies(op diskOp, path string) bool {
	if !strings.Contains(path, r.path) {
		return false
	}
	for _, o := range r.ops {
		if o == op {
			return true
		}
	}
	return len(r.ops) == 0
}

// diskNode is a file or directory.
type diskNode struct {
	fs.Inode
	d *faultDisk
}

func (n *diskNode) path(names ...string) string {
	return filepath.Join(append([]string{n.d.backing, n.Path(nil)}, names...)...)
}

func (n *diskNode) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	var s syscall.Statfs_t
	if err := syscall.Statfs(n.path(), &s); err != nil {
		return fs.ToErrno(err)
	}
	if n.d.isFull() {
		s.Bfree, s.Bavail = 0, 0
	}
	out.FromStatfsT(&s)
	return 0
}

// child makes the node of a name that is there.
func (n *diskNode) child(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	var st syscall.Stat_t
	if err := syscall.Lstat(n.path(name), &st); err != nil {
		return nil, fs.ToErrno(err)
	}
	out.Attr.FromStat(&st)
	return n.NewInode(ctx, &diskNode{d: n.d}, fs.StableAttr{Mode: st.Mode & syscall.S_IFMT, Ino: st.Ino}), 0
}

func (n *diskNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.child(ctx, name, out)
}

func (n *diskNode) Getattr(_ context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	var st syscall.Stat_t
	err := error(nil)
	if h, ok := f.(*diskFile); ok {
		err = syscall.Fstat(h.fd, &st)
	} else {
		err = syscall.Lstat(n.path(), &st)
	}
	out.Attr.FromStat(&st)
	return fs.ToErrno(err)
}

func (n *diskNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if errno := n.d.check(diskWrite, n.path()); errno != 0 {
			return errno
		}
		err := error(nil)
		if h, ok := f.(*diskFile); ok {
			err = syscall.Ftruncate(h.fd, int64(size))
		} else {
			err = syscall.Truncate(n.path(), int64(size))
		}
		if err != nil {
			return fs.ToErrno(err)
		}
	}
	return n.Getattr(ctx, f, out)
}

func (n *diskNode) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, errno := n.open(n.path(), int(flags)&^(syscall.O_CREAT|syscall.O_EXCL|syscall.O_APPEND), 0)
	return f, 0, errno
}

func (n *diskNode) open(path string, flags int, mode uint32) (fs.FileHandle, syscall.Errno) {
	fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC, mode)
	if err != nil {
		return nil, fs.ToErrno(err)
	}
	f := &diskFile{d: n.d, path: path, fd: fd}
	n.d.mu.Lock()
	n.d.files[f] = true
	n.d.mu.Unlock()
	return f, 0
}

func (n *diskNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if n.d.isFull() {
		return nil, nil, 0, syscall.ENOSPC
	}
	if errno := n.d.check(diskName, n.path(name)); errno != 0 {
		return nil, nil, 0, errno
	}
	f, errno := n.open(n.path(name), int(flags)|syscall.O_CREAT, mode)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	inode, errno := n.child(ctx, name, out)
	return inode, f, 0, errno
}

func (n *diskNode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.d.check(diskName, n.path(name)); errno != 0 {
		return nil, errno
	}
	if err := syscall.Mkdir(n.path(name), mode); err != nil {
		return nil, fs.ToErrno(err)
	}
	return n.child(ctx, name, out)
}

func (n *diskNode) Unlink(_ context.Context, name string) syscall.Errno {
	if errno := n.d.check(diskName, n.path(name)); errno != 0 {
		return errno
	}
	return fs.ToErrno(syscall.Unlink(n.path(name)))
}

func (n *diskNode) Rmdir(_ context.Context, name string) syscall.Errno {
	return fs.ToErrno(syscall.Rmdir(n.path(name)))
}

func (n *diskNode) Rename(_ context.Context, name string, to fs.InodeEmbedder, newName string, _ uint32) syscall.Errno {
	if errno := n.d.check(diskName, n.path(name)); errno != 0 {
		return errno
	}
	return fs.ToErrno(syscall.Rename(n.path(name), to.(*diskNode).path(newName)))
}

func (n *diskNode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return fs.NewLoopbackDirStream(n.path())
}

// Fsync of a directory; files' go to their handles.
func (n *diskNode) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) syscall.Errno {
	if h, ok := f.(*diskFile); ok {
		return h.Fsync(ctx, flags)
	}
	return n.d.check(diskSync, n.path()) // kill -9 loses no names
}

// diskFile is an open file.
type diskFile struct {
	d    *faultDisk
	path string
	fd   int
}

func (f *diskFile) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := f.d.check(diskRead, f.path); errno != 0 {
		return nil, errno
	}
	n, err := syscall.Pread(f.fd, dest, off)
	return fuse.ReadResultData(dest[:max(n, 0)]), fs.ToErrno(err)
}

func (f *diskFile) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.d.check(diskWrite, f.path); errno != 0 {
		return 0, errno
	}
	if f.d.isFull() {
		var st syscall.Stat_t
		if err := syscall.Fstat(f.fd, &st); err != nil {
			return 0, fs.ToErrno(err)
		}
		if off+int64(len(data)) > 512*st.Blocks { // in files that are not sparse
			return 0, syscall.ENOSPC
		}
	}
	n, err := syscall.Pwrite(f.fd, data, off)
	return uint32(max(n, 0)), fs.ToErrno(err)
}

func (f *diskFile) Fsync(_ context.Context, _ uint32) syscall.Errno {
	if errno := f.d.check(diskSync, f.path); errno != 0 {
		return errno
	}
	return fs.ToErrno(syscall.Fdatasync(f.fd))
}

func (f *diskFile) Allocate(_ context.Context, off, size uint64, mode uint32) syscall.Errno {
	if errno := f.d.check(diskAlloc, f.path); errno != 0 {
		return errno
	}
	if f.d.isFull() {
		return syscall.ENOSPC
	}
	return fs.ToErrno(syscall.Fallocate(f.fd, mode, int64(off), int64(size)))
}

func (f *diskFile) Flush(context.Context) syscall.Errno { return 0 }

func (f *diskFile) Release(context.Context) syscall.Errno {
	f.d.mu.Lock()
	delete(f.d.files, f)
	f.d.mu.Unlock()
	return fs.ToErrno(syscall.Close(f.fd))
}
