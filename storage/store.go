package storage

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"path"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/mutant"
)

const lockFile = "lock"

// Store is the CommitLog of one replica of a group, the queues that point into
// it, and the index. See the package comment for what is on the disk.
//
// Open, then Resume, then use. Write, CreateQueue, Trim, DropTopic, Pin and
// Resume are for one goroutine, the one that applies committed entries; all
// else is for any.
type Store struct {
	opts  Options
	fs    disk.FS
	dir   string
	log   hclog.Logger
	lock  io.Closer
	files *fileCache
	alloc *allocator

	state  atomic.Pointer[state]
	poison atomic.Pointer[error]
	closed atomic.Bool
	noRoom atomic.Bool // a queue's file could not be written for want of room
	// badTail is 1 more than where a block begins that is not whole and was found
	// damaged.
	badTail atomic.Int64

	queuesMu sync.RWMutex
	queues   map[QueueID]*Queue
	ioLocks  [64]sync.Mutex // over the queues; taken before a queue's mu

	writer writer // of the applying goroutine

	index atomic.Pointer[Index] // replaced by Resume only

	// maintain is held by whatever works on the files beside the writer: Sync, a
	// step of repair, of removal, of flushing. Resume takes it, so none of them
	// is under way when the state changes. hurry asks its holder to be quick.
	maintain    sync.Mutex
	hurry       atomic.Bool
	cancelIndex atomic.Pointer[context.CancelFunc] // ends a wait for the index's sync
	checkpoint  *checkpoint                        // the newest on the disk
	spoiled     int                                // checkpoints that were found damaged, and are to be written again

	gaps   gaps
	repair repairer
	house  housekeeper
	wg     sync.WaitGroup
	stop   chan struct{} // closed by Close

	counters counters
}

// state is what readers see of the CommitLog. It is never changed: each batch
// publishes a new one.
type state struct {
	epoch    uint64     // counts Resumes
	segs     []*segment // by base, without gaps
	min, end int64
	part     uint32 // CRC of the bytes of the last block, if it is not whole
	hot      int64  // bytes from here on were written by this process
	floor    int64  // below this the files are gone, whatever min says
}

// segment returns the segment that holds position off.
func (st *state) segment(off int64) *segment {
	if len(st.segs) == 0 || off < st.segs[0].base {
		return nil
	}
	i := (off - st.segs[0].base) / st.segs[0].size
	if i >= int64(len(st.segs)) {
		return nil
	}
	return st.segs[i]
}

// counters are the numbers in Stats that nothing else has.
type counters struct {
	badBlocks, badQueueBlocks, badSums, badBytes, badCheckpoints atomic.Int64
	mendedQueueBlocks, mendedSums, mendedBytes                   atomic.Int64
	filled, adopted, rebuiltUnits                                atomic.Int64
}

// Open opens the store in o.Dir, or makes it. It takes the directory's lock, and
// refuses a directory that is another store's: ErrForeign, ErrVersion,
// ErrCorrupt, disk.ErrLocked. Of the content it believes nothing yet: call
// Resume.
func Open(o Options) (_ *Store, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &Store{
		opts: o, fs: o.FS, dir: path.Clean(o.Dir), log: o.Logger.Named("storage"),
		queues: map[QueueID]*Queue{},
		stop:   make(chan struct{}),
	}
	s.files = newFileCache(s.fs, s.dir, o.MaxOpenFiles, func(err error) {
		s.log.Error("a file cannot be closed", "error", err)
	})
	if err := s.fs.MkdirAll(LabelDir, s.dir); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	s.lock, err = s.fs.Lock(LabelLock, s.dir+"/"+lockFile)
	if err != nil {
		return nil, fmt.Errorf("storage: %s is in use: %w", s.dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lock.Close())
		}
	}()
	if err := openFormat(s.fs, s.dir, format{o.SegmentSize, o.Cluster, o.Group, o.Replica}); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	for _, d := range []string{commitLogDir, sumsDir, queuesDir} {
		if err := s.fs.MkdirAll(LabelDir, s.dir+"/"+d); err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
	}
	for _, d := range []string{s.dir, path.Dir(s.dir)} {
		if err := s.fs.SyncDir(LabelDir, d); err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
	}
	c, damaged, err := loadCheckpoint(s.fs, s.dir, o.SegmentSize)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	for _, p := range damaged {
		s.log.Error("a checkpoint is damaged: what only it knew to be synced is compared or fetched again", "problem", p)
	}
	s.checkpoint, s.spoiled = c, len(damaged)
	s.state.Store(&state{})
	s.alloc = newAllocator(s)
	s.repair.init(s)
	s.house.init(s)
	return s, nil
}

// indexIdentity is the number that names a log in its index's files.
func indexIdentity(cluster, group string) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q", cluster, group)
	return h.Sum64()
}

// openIndex opens the index for the log as it is after a Resume. What it holds
// beyond end is forgotten: not every replay brings the same records back (one
// with ASYNC_FLUSH may have lost some).
func (s *Store) openIndex(begin, end int64) error {
	if s.opts.KeysOf == nil {
		return nil
	}
	x, err := OpenIndex(IndexOptions{
		FS: s.fs, Dir: s.dir + "/" + indexDir, Identity: indexIdentity(s.opts.Cluster, s.opts.Group), Logger: s.log,
	}, begin, end)
	if err != nil {
		return err
	}
	x.Append(end, end, nil)
	s.index.Store(x)
	return nil
}

// fail latches the first error of a write or a sync: nothing is written any
// more. It returns the error to pass on.
func (s *Store) fail(err error) error {
	if mutant.On("poison") {
		return fmt.Errorf("%w: %w", ErrPoisoned, err)
	}
	if s.poison.CompareAndSwap(nil, &err) {
		s.log.Error("a write or a sync failed: the store stops taking anything; restart this replica once the disk is well", "error", err)
	}
	return s.Err()
}

// Err is nil, or ErrPoisoned with the error that was first, or ErrClosed.
func (s *Store) Err() error {
	if err := s.poison.Load(); err != nil {
		return fmt.Errorf("%w: %w", ErrPoisoned, *err)
	}
	if s.closed.Load() {
		return ErrClosed
	}
	return nil
}

func (s *Store) ioLock(q *Queue) *sync.Mutex { return &s.ioLocks[q.seed%uint32(len(s.ioLocks))] }

// Queue returns the queue of that name, nil if it has no units yet.
func (s *Store) Queue(id QueueID) *Queue {
	s.queuesMu.RLock()
	defer s.queuesMu.RUnlock()
	return s.queues[id]
}

// CreateQueue returns the queue of that name, new if there is none. It keeps
// until Resume or DropTopic. For the applying goroutine.
func (s *Store) CreateQueue(id QueueID) (*Queue, error) {
	if q := s.Queue(id); q != nil {
		return q, nil
	}
	if err := CheckTopic(id.Topic); err != nil {
		return nil, err
	}
	if id.Queue < 0 {
		return nil, fmt.Errorf("storage: queue number %d is negative", id.Queue)
	}
	q := newQueue(s, id)
	q.gen = uint32(s.state.Load().epoch)
	s.queuesMu.Lock()
	s.queues[id] = q
	s.queuesMu.Unlock()
	s.writer.order = append(s.writer.order, q)
	s.writer.sorted = false
	return q, nil
}

// Min and End bound the CommitLog: the position of its first byte and the one
// behind its last.
func (s *Store) Min() int64 { return s.state.Load().min }

// End is the position behind the CommitLog's last byte.
func (s *Store) End() int64 { return s.state.Load().end }

// Close ends the background work, writes what is only in memory, without
// syncing it, and gives the directory up. What a View holds stays readable until
// it is released.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return ErrClosed
	}
	close(s.stop)
	s.alloc.wake()
	s.hurryUp()
	s.wg.Wait()
	s.maintain.Lock()
	defer s.maintain.Unlock()
	s.gaps.fill.Lock() // a Fill under way ends first
	defer s.gaps.fill.Unlock()
	var errs []error
	if s.poison.Load() == nil {
		errs = append(errs, s.flushQueues(), s.saveAllSums())
	}
	if x := s.index.Load(); x != nil {
		errs = append(errs, x.Close())
	}
	for _, g := range append(s.state.Load().segs, s.alloc.drain()...) {
		if g.w != nil {
			errs = append(errs, g.w.Close())
		}
		g.retire(false)
	}
	s.files.close()
	return errors.Join(append(errs, s.lock.Close())...)
}

// hurryUp asks the holder of maintain to be quick.
func (s *Store) hurryUp() {
	s.hurry.Store(true)
	if cancel := s.cancelIndex.Load(); cancel != nil {
		(*cancel)()
	}
}

// saveAllSums writes the sums of every whole block that is in memory.
func (s *Store) saveAllSums() error {
	var errs []error
	st := s.state.Load()
	for _, g := range st.segs {
		errs = append(errs, g.saveSums((min(st.end, g.end())-g.base)/blockSize))
	}
	for _, q := range s.allQueues() {
		errs = append(errs, q.saveSums())
	}
	return errors.Join(errs...)
}

func (s *Store) allQueues() []*Queue {
	s.queuesMu.RLock()
	defer s.queuesMu.RUnlock()
	all := make([]*Queue, 0, len(s.queues))
	for _, q := range s.queues {
		all = append(all, q)
	}
	return all
}
