package storage

import (
	"errors"
	"io"
	"io/fs"
	"syscall"

	"github.com/raftmq/raftmq/storage/disk"
)

var (
	// ErrTrimmed means that the range asked for lies below what is retained.
	ErrTrimmed = errors.New("storage: below the retained range")
	// ErrBeyond means that the range asked for does not end within the log or
	// the queue, or that the caller's numbers cannot be right.
	ErrBeyond = errors.New("storage: beyond the end")
	// ErrMissing means that the bytes asked for belong to this store but are not
	// here: not fetched yet, or found damaged. Another replica has them.
	ErrMissing = errors.New("storage: not on this replica at present")
	// ErrDropped means that the queue's topic was deleted.
	ErrDropped = errors.New("storage: the topic was deleted")

	// ErrPoisoned means that a write or a sync failed before. The state of the
	// files is not known, and nothing more is written until the process has
	// been restarted. Reads go on. The error that was first is joined to it.
	ErrPoisoned = errors.New("storage: stopped after a failed write or sync")
	// ErrNoSpace means that the disk has no room. Nothing is broken: the store
	// goes on by itself when there is room again.
	ErrNoSpace = errors.New("storage: no room on the disk")
	// ErrClosed is returned once Close was called.
	ErrClosed = errors.New("storage: closed")

	// ErrForeign means that the directory belongs to another cluster, group or
	// replica, or is laid out for another segment size.
	ErrForeign = errors.New("storage: the directory belongs to another store")
	// ErrVersion means that a file was written by a release that this one does
	// not know.
	ErrVersion = errors.New("storage: written by another version")
	// ErrCorrupt means that a file's content is damaged.
	ErrCorrupt = errors.New("storage: damaged")

	// ErrMismatch means that bytes given to Fill or FillSums are not those that
	// the manifest names: ask another peer.
	ErrMismatch = errors.New("storage: does not match the manifest")
	// ErrNoSums means that Fill needs the segment's block sums first.
	ErrNoSums = errors.New("storage: the segment's block sums are not known yet")
	// ErrSuperseded means that Resume was called between Pin and Sync.
	ErrSuperseded = errors.New("storage: the store was resumed from another manifest")
)

// The labels under which the store touches the disk, for tests that fail one
// kind of operation. The index has its own.
const (
	LabelDir        disk.Label = "store directory"
	LabelLock       disk.Label = "store lock"
	LabelFormat     disk.Label = "store format"
	LabelCheckpoint disk.Label = "store checkpoint"
	LabelCommitLog  disk.Label = "commitlog"
	LabelAllocate   disk.Label = "commitlog allocate"
	LabelFill       disk.Label = "commitlog fill"
	LabelSums       disk.Label = "commitlog sums"
	LabelQueue      disk.Label = "consumequeue"
	LabelQueueSums  disk.Label = "consumequeue sums"
	LabelTrim       disk.Label = "store trim"
)

// isDamage tells an error that says something about the bytes on the disk from
// one that says something about the process (out of descriptors, closed): only
// the former is a reason to fetch the bytes again.
func isDamage(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, syscall.EIO) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
