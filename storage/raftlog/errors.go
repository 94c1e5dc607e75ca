package raftlog

import (
	"errors"
	"fmt"
	"sync"

	"github.com/raftmq/raftmq/storage/mutant"
)

// What an error of this package wraps; compare with errors.Is.
var (
	// ErrBadMagic: the file is not one of ours at all.
	ErrBadMagic = errors.New("raftlog: bad magic")
	// ErrVersion: the file was written by a release whose format this one does
	// not know.
	ErrVersion = errors.New("raftlog: unknown format version")
	// ErrCorrupt: bytes that were synced have changed.
	ErrCorrupt = errors.New("raftlog: corrupt")
	// ErrMissing: a file that must be there is not.
	ErrMissing = errors.New("raftlog: missing")
	// ErrForeign: a file that does not belong to this log.
	ErrForeign = errors.New("raftlog: foreign file")
	// ErrPoisoned: a write or a sync failed earlier; what it left on the disk is
	// unknown, so the store accepts nothing more until it is opened again.
	ErrPoisoned = errors.New("raftlog: poisoned by a failed write")
	// ErrClosed: the store has been closed.
	ErrClosed = errors.New("raftlog: closed")
	// ErrNoSpace: no room; nothing was written and the store is fine.
	ErrNoSpace = errors.New("raftlog: no space")
	// ErrTooLarge: an entry that no segment can hold; nothing was written.
	ErrTooLarge = errors.New("raftlog: entry too large for a segment")
	// ErrGap: the entry does not follow the log's last; nothing was written.
	ErrGap = errors.New("raftlog: entry does not follow the log's last")
	// ErrMiddle: a range neither at the log's beginning nor at its end cannot be
	// deleted.
	ErrMiddle = errors.New("raftlog: range in the middle of the log")
	// ErrStaleTerm: a term or a vote older than the one that is stored.
	ErrStaleTerm = errors.New("raftlog: stale term")
)

// FileError says which file is wrong, where, and what can be done about it. It
// wraps one of ErrBadMagic, ErrVersion, ErrCorrupt, ErrMissing and ErrForeign.
type FileError struct {
	File   string
	Offset int64 // -1: the file as a whole
	Detail string
	Err    error
}

func (e *FileError) Error() string {
	where := e.File
	if e.Offset >= 0 {
		where = fmt.Sprintf("%s at byte %d", e.File, e.Offset)
	}
	return fmt.Sprintf("%v: %s: %s; %s", e.Err, where, e.Detail, e.advice())
}

func (e *FileError) Unwrap() error { return e.Err }

func (e *FileError) advice() string {
	switch e.Err {
	case ErrVersion:
		return "start the release that wrote it, or a newer one"
	case ErrForeign, ErrBadMagic:
		return "move the file out of the directory if it does not belong there; if it took the place of one that does, " +
			"move the data directory away and let the replica join again as a new one"
	default:
		return "nothing was changed; keep the data directory for study and let the replica join again with an empty one"
	}
}

// latch keeps the first failure for ever.
type latch struct {
	mu     sync.Mutex
	err    error
	closed chan struct{}
}

func newLatch() *latch { return &latch{closed: make(chan struct{})} }

// fail latches cause, if it is the first, and returns what is latched.
func (l *latch) fail(cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mutant.On("poison") {
		return cause
	}
	if l.err == nil {
		l.err = fmt.Errorf("%w: %w", ErrPoisoned, cause)
		close(l.closed)
	}
	return l.err
}

func (l *latch) get() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
