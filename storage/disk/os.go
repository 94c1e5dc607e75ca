package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// OS is the machine's own file system. Linux only: it relies on fallocate,
// fdatasync, sync_file_range and syncfs.
func OS() FS { return osFS{} }

type osFS struct{}

func labeled(label Label, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", label, err)
}

func (osFS) OpenFile(label Label, name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o640)
	if err != nil {
		return nil, labeled(label, err)
	}
	return &osFile{f: f, label: label}, nil
}

func (osFS) MkdirAll(label Label, name string) error {
	return labeled(label, os.MkdirAll(name, 0o750))
}
func (osFS) Remove(label Label, name string) error    { return labeled(label, os.Remove(name)) }
func (osFS) RemoveAll(label Label, name string) error { return labeled(label, os.RemoveAll(name)) }
func (osFS) Rename(label Label, oldname, newname string) error {
	return labeled(label, os.Rename(oldname, newname))
}

func (osFS) ReadDir(label Label, name string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(name)
	return entries, labeled(label, err)
}

func (osFS) Stat(label Label, name string) (fs.FileInfo, error) {
	info, err := os.Stat(name)
	return info, labeled(label, err)
}

func (osFS) SyncDir(label Label, name string) error {
	d, err := os.Open(name)
	if err != nil {
		return labeled(label, err)
	}
	return labeled(label, errors.Join(d.Sync(), d.Close()))
}

func (osFS) SyncFS(label Label, name string) error {
	d, err := os.Open(name)
	if err != nil {
		return labeled(label, err)
	}
	err = ignoreEINTR(func() error { return unix.Syncfs(int(d.Fd())) })
	if err != nil {
		err = &fs.PathError{Op: "syncfs", Path: name, Err: err}
	}
	return labeled(label, errors.Join(err, d.Close()))
}

func (osFS) Usage(name string) (Usage, error) {
	var st unix.Statfs_t
	if err := ignoreEINTR(func() error { return unix.Statfs(name, &st) }); err != nil {
		return Usage{}, &fs.PathError{Op: "statfs", Path: name, Err: err}
	}
	// What root may use beyond the unprivileged is counted as used, as df does.
	used := (st.Blocks - st.Bfree) * uint64(st.Bsize)
	free := st.Bavail * uint64(st.Bsize)
	return Usage{Total: used + free, Free: free}, nil
}

func (osFS) Lock(label Label, name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, labeled(label, err)
	}
	err = ignoreEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, labeled(label, errors.Join(&fs.PathError{Op: "lock", Path: name, Err: err}, f.Close()))
	}
	return f, nil
}

type osFile struct {
	f     *os.File
	label Label
}

func (o *osFile) withLabel(label Label) File { return &osFile{f: o.f, label: label} }

func (o *osFile) Name() string { return o.f.Name() }
func (o *osFile) Close() error { return labeled(o.label, o.f.Close()) }

func (o *osFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.f.ReadAt(p, off)
	if err == io.EOF {
		return n, err // io.ReaderAt's contract, compared with ==
	}
	return n, labeled(o.label, err)
}

func (o *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := o.f.WriteAt(p, off)
	return n, labeled(o.label, err)
}

func (o *osFile) Size() (int64, error) {
	info, err := o.f.Stat()
	if err != nil {
		return 0, labeled(o.label, err)
	}
	return info.Size(), nil
}

func (o *osFile) Truncate(size int64) error { return labeled(o.label, o.f.Truncate(size)) }
func (o *osFile) Sync() error               { return labeled(o.label, o.f.Sync()) }

// control runs a system call on the descriptor, repeating it when a signal
// interrupted it.
func (o *osFile) control(op string, call func(fd int) error) error {
	raw, err := o.f.SyscallConn()
	if err != nil {
		return labeled(o.label, err)
	}
	var callErr error
	err = raw.Control(func(fd uintptr) {
		callErr = ignoreEINTR(func() error { return call(int(fd)) })
	})
	if err != nil {
		callErr = fs.ErrClosed // the one reason there is not to call
	}
	if callErr != nil {
		callErr = &fs.PathError{Op: op, Path: o.f.Name(), Err: callErr}
	}
	return labeled(o.label, callErr)
}

func (o *osFile) Allocate(off, n int64) error {
	return o.control("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, off, n) })
}

func (o *osFile) Datasync() error { return o.control("fdatasync", unix.Fdatasync) }

func (o *osFile) StartWriteback(off, n int64) error {
	return o.control("sync_file_range", func(fd int) error {
		return unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}

func (o *osFile) Map(n int64) (Mapping, error) {
	var data []byte
	err := o.control("mmap", func(fd int) (err error) {
		data, err = unix.Mmap(fd, 0, int(n), unix.PROT_READ, unix.MAP_SHARED)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &osMapping{data: data, label: o.label}, nil
}

type osMapping struct {
	data     []byte
	label    Label
	unmapped atomic.Bool
}

func (m *osMapping) Bytes() []byte { return m.data }

func (m *osMapping) Unmap() error {
	if m.unmapped.Swap(true) {
		return nil
	}
	return labeled(m.label, unix.Munmap(m.data))
}

func ignoreEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
