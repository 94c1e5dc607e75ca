// Package disk is the one place where raftmq touches files.
//
// Every byte that has to survive a crash goes through an FS, so that a test can
// put an in-memory file system underneath (Mem), drop what was not synced at a
// seeded moment, and see what is left. There are two implementations: OS, the
// machine's own file system, and Mem.
//
// What the callers may rely on, and no more:
//
//   - A write is volatile until File.Datasync (or File.Sync, or FS.SyncFS) has
//     returned nil. Unsynced writes reach the disk in any order, or not at all,
//     page by page.
//   - Creating, renaming or removing a name is volatile until FS.SyncDir of its
//     directory has returned nil.
//   - After a failed sync nothing is known about the writes before it, and a
//     later sync that succeeds proves nothing about them: the kernel may have
//     marked the pages clean. They have to be written again.
package disk

import (
	"errors"
	"io"
	"io/fs"
)

// Label names the kind of file, or the call site, that an operation belongs to.
// Tests fail or delay operations by label; errors carry it.
type Label string

// ErrLocked is returned by FS.Lock when another process (or another opener in
// this one) holds the lock.
var ErrLocked = errors.New("disk: locked by another process")

// FS is a file system. Names are slash-separated paths. Its methods may be
// called from any goroutine.
type FS interface {
	// OpenFile opens name with the flags of package os (O_RDONLY, O_RDWR,
	// O_CREATE, O_EXCL, O_TRUNC). New files get mode 0o640.
	OpenFile(label Label, name string, flag int) (File, error)
	// MkdirAll makes a directory and its parents, mode 0o750.
	MkdirAll(label Label, name string) error
	// Remove removes a file or an empty directory.
	Remove(label Label, name string) error
	// RemoveAll removes a tree. A name that is not there is no error.
	RemoveAll(label Label, name string) error
	// Rename replaces newname by oldname, both in the same file system.
	Rename(label Label, oldname, newname string) error
	// ReadDir lists a directory, sorted by name.
	ReadDir(label Label, name string) ([]fs.DirEntry, error)
	// Stat describes a name. errors.Is(err, fs.ErrNotExist) if it is not there.
	Stat(label Label, name string) (fs.FileInfo, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(label Label, name string) error
	// SyncFS makes everything written to the file system that holds name
	// durable, all files at once.
	SyncFS(label Label, name string) error
	// Usage returns the size of the file system that holds name.
	Usage(name string) (Usage, error)
	// Lock takes an exclusive lock on the file name, which it creates. Closing
	// the result, or the end of the process, releases it. ErrLocked if taken.
	Lock(label Label, name string) (io.Closer, error)
}

// Usage is the size of a file system in bytes. Free counts what an
// unprivileged writer may still use.
type Usage struct {
	Total uint64
	Free  uint64
}

// UsedRatio is the used share of the file system, from 0 to 1.
func (u Usage) UsedRatio() float64 {
	if u.Total == 0 {
		return 0
	}
	return float64(u.Total-u.Free) / float64(u.Total)
}

// File is an open file. ReadAt and WriteAt may be called from any goroutine;
// what overlapping calls give is not defined.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	Name() string
	Size() (int64, error)
	Truncate(size int64) error
	// Allocate reserves the range off..off+n and grows the file to cover it:
	// a later write there does not fail for want of room. The range reads as
	// zeros where nothing was written.
	Allocate(off, n int64) error
	// Datasync makes the content, and the size, durable.
	Datasync() error
	// Sync is Datasync and the rest of the metadata.
	Sync() error
	// StartWriteback asks the kernel to begin writing the range off..off+n. It
	// promises nothing.
	StartWriteback(off, n int64) error
	// Map maps the first n bytes for reading; the file must be that long.
	Map(n int64) (Mapping, error)
}

// Mapping is a read-only view of a file's first bytes, kept up to date by the
// kernel. Its bytes are for handing to a write system call only: code that
// touches them faults on the goroutine's thread, which a hung disk turns into a
// stop of the whole process at the next garbage collection.
type Mapping interface {
	Bytes() []byte
	// Unmap ends the view. Nobody may use the bytes any more.
	Unmap() error
}

// relabeler is a file that can be given another label.
type relabeler interface{ withLabel(Label) File }

// WithLabel returns f under another label: its operations are the same file's,
// but faults and errors name the label given. Closing either closes both.
func WithLabel(f File, label Label) File {
	if r, ok := f.(relabeler); ok {
		return r.withLabel(label)
	}
	return f
}
