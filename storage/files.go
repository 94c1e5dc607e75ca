package storage

import (
	"container/list"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/raftmq/raftmq/storage/disk"
)

// The names in the store's directory.
const (
	commitLogDir = "commitlog"
	sumsDir      = "commitlog-sums"
	queuesDir    = "consumequeue"
	indexDir     = "index"
	sumsSuffix   = ".sums"
)

func offsetName(off int64) string { return fmt.Sprintf("%020d", off) }

// parseOffsetName is its inverse; ok is false for any other name.
func parseOffsetName(name string) (off int64, ok bool) {
	off, err := strconv.ParseInt(name, 10, 64)
	return off, err == nil && off >= 0 && offsetName(off) == name
}

func segmentPath(dir string, base int64) string {
	return dir + "/" + commitLogDir + "/" + offsetName(base)
}
func sumsPath(dir string, base int64) string { return dir + "/" + sumsDir + "/" + offsetName(base) }

func topicPath(dir string, t TopicID) string { return dir + "/" + queuesDir + "/" + t.String() }

func queuePath(dir string, id QueueID) string {
	return topicPath(dir, id.topic()) + "/" + strconv.Itoa(int(id.Queue))
}

// queueFilePath is the file of a queue whose first unit is base.
func queueFilePath(dir string, id QueueID, base int64) string {
	return queuePath(dir, id) + "/" + offsetName(base*UnitSize)
}

// fileKey names a file: of a queue, or of the CommitLog if queue is nil. base is
// the first unit or the first byte in it.
type fileKey struct {
	queue *Queue
	base  int64
	sums  bool
}

func (k fileKey) path(dir string) string {
	switch {
	case k.queue == nil && k.sums:
		return sumsPath(dir, k.base)
	case k.queue == nil:
		return segmentPath(dir, k.base)
	case k.sums:
		return queueFilePath(dir, k.queue.id, k.base) + sumsSuffix
	}
	return queueFilePath(dir, k.queue.id, k.base)
}

func (k fileKey) label() disk.Label {
	switch {
	case k.queue == nil && k.sums:
		return LabelSums
	case k.queue == nil:
		return LabelCommitLog
	case k.sums:
		return LabelQueueSums
	}
	return LabelQueue
}

// fileCache shares descriptors: tens of thousands of queues and thousands of
// segments are used through a few hundred open files, least recently used out
// first. More are open only while more are in use at one moment.
type fileCache struct {
	fs     disk.FS
	dir    string
	max    int
	flag   int         // of opening: os.O_RDWR, or os.O_RDONLY
	cold   bool        // reads leave the page cache alone
	report func(error) // that a file could not be closed: nothing depends on it

	mu   sync.Mutex
	open map[fileKey]*cachedFile
	idle list.List // of *cachedFile nobody uses, most recently used in front
}

type cachedFile struct {
	disk.File
	key  fileKey
	uses int
	gone bool          // not in the map any more: the last user closes it
	elem *list.Element // in idle
}

func newFileCache(fs disk.FS, dir string, max int, report func(error)) *fileCache {
	return &fileCache{fs: fs, dir: dir, max: max, flag: os.O_RDWR, report: report, open: map[fileKey]*cachedFile{}}
}

// get opens a file, with create making it if need be.
// The caller puts it back.
func (c *fileCache) get(key fileKey, create bool) (*cachedFile, error) {
	c.mu.Lock()
	if f := c.open[key]; f != nil {
		c.use(f)
		c.mu.Unlock()
		return f, nil
	}
	c.mu.Unlock()
	// Opening may take as long as the disk likes: not under the lock.
	flag := c.flag
	if create {
		flag |= os.O_CREATE
	}
	file, err := c.fs.OpenFile(key.label(), key.path(c.dir), flag)
	if err != nil {
		return nil, err
	}
	if c.cold {
		file = disk.Cold(file)
	}
	c.mu.Lock()
	f := c.open[key]
	if f == nil {
		f = &cachedFile{File: file, key: key}
		c.open[key] = f
		file = nil
	}
	c.use(f)
	old := c.surplus()
	c.mu.Unlock()
	if file != nil { // somebody was faster
		old = append(old, file)
	}
	c.closeAll(old)
	return f, nil
}

func (c *fileCache) use(f *cachedFile) {
	f.uses++
	if f.elem != nil {
		c.idle.Remove(f.elem)
		f.elem = nil
	}
}

// surplus takes idle files beyond the bound out of the cache.
func (c *fileCache) surplus() (old []disk.File) {
	for len(c.open) > c.max && c.idle.Len() > 0 {
		old = append(old, c.forget(c.idle.Back().Value.(*cachedFile)))
	}
	return old
}

func (c *fileCache) forget(f *cachedFile) disk.File {
	if f.elem != nil {
		c.idle.Remove(f.elem)
		f.elem = nil
	}
	f.gone = true
	delete(c.open, f.key)
	return f.File
}

// put gives a file back.
func (c *fileCache) put(f *cachedFile) {
	c.mu.Lock()
	f.uses--
	var old []disk.File
	switch {
	case f.uses > 0:
	case f.gone:
		old = []disk.File{f.File}
	default:
		f.elem = c.idle.PushFront(f)
		old = c.surplus()
	}
	c.mu.Unlock()
	c.closeAll(old)
}

// drop closes the files that match, those in use as soon as they are not.
func (c *fileCache) drop(match func(fileKey) bool) {
	c.mu.Lock()
	var old []disk.File
	for key, f := range c.open {
		if !match(key) {
			continue
		}
		c.forget(f)
		if f.uses == 0 {
			old = append(old, f.File)
		}
	}
	c.mu.Unlock()
	c.closeAll(old)
}

// forgetFile closes a file, so that the next get opens what has its name by then.
func (c *fileCache) forgetFile(key fileKey) {
	c.drop(func(k fileKey) bool { return k == key })
}

// close closes everything, and what is opened or in use still once it is not.
func (c *fileCache) close() {
	c.mu.Lock()
	c.max = 0
	c.mu.Unlock()
	c.drop(func(fileKey) bool { return true })
}

func (c *fileCache) closeAll(files []disk.File) {
	for _, f := range files {
		if err := f.Close(); err != nil {
			c.report(err)
		}
	}
}
