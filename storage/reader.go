package storage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/raftmq/raftmq/storage/disk"
)

// Reader reads the raw bytes of a store that nobody has open, checks nothing and
// changes nothing: for tools that compare replicas. For one goroutine.
type Reader struct {
	Cluster, Group, Replica string // whose the store is
	SegmentSize             int64

	fs         disk.FS
	dir        string
	lock       io.Closer
	files      *fileCache
	queues     map[QueueID]*Queue // keys of files
	checkpoint *checkpoint
	damaged    []Problem // checkpoint files that are no good
}

// OpenReader opens a store for reading. disk.ErrLocked if a process has it open,
// ErrVersion, ErrCorrupt; fs.ErrNotExist if there is none.
func OpenReader(fsys disk.FS, dir string) (_ *Reader, err error) {
	dir = path.Clean(dir)
	b, err := readWhole(fsys, LabelFormat, dir+"/"+formatFile)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	f, err := parseFormat(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	r := &Reader{
		Cluster: f.cluster, Group: f.group, Replica: f.replica, SegmentSize: f.segmentSize,
		fs: fsys, dir: dir, queues: map[QueueID]*Queue{},
	}
	r.files = newFileCache(fsys, dir, 256, func(error) {}) // nothing was written that closing could lose
	r.files.flag = os.O_RDONLY
	if r.lock, err = fsys.Lock(LabelLock, dir+"/"+lockFile); err != nil {
		return nil, fmt.Errorf("storage: %s is in use: %w", dir, err)
	}
	if r.checkpoint, r.damaged, err = loadCheckpoint(fsys, dir, r.SegmentSize); err != nil {
		return nil, errors.Join(fmt.Errorf("storage: %w", err), r.lock.Close())
	}
	return r, nil
}

// Synced is the manifest of what was synced last.
func (r *Reader) Synced() *Manifest { return r.checkpoint.manifest }

// Floor is up to where a trim has removed files, or may have.
func (r *Reader) Floor() int64 { return r.checkpoint.floor }

// ReadLog reads the bytes [off, off+len(p)) of the CommitLog. fs.ErrNotExist or
// io.EOF if the files do not have them.
func (r *Reader) ReadLog(off int64, p []byte) error {
	for len(p) > 0 {
		base := off - off%r.SegmentSize
		n := min(int64(len(p)), base+r.SegmentSize-off)
		if err := r.read(fileKey{base: base}, p[:n], off-base); err != nil {
			return err
		}
		p = p[n:]
		off += n
	}
	return nil
}

// ReadUnits reads units of a queue as they are on the disk, UnitSize bytes each:
// from unit off on as many as fit into p. Errors as ReadLog.
func (r *Reader) ReadUnits(id QueueID, off int64, p []byte) error {
	p = p[:len(p)/UnitSize*UnitSize]
	for len(p) > 0 {
		file := queueFile(off)
		n := min(int64(len(p)), (file+unitsPerFile-off)*UnitSize)
		if err := r.read(fileKey{queue: r.queue(id), base: file}, p[:n], (off-file)*UnitSize); err != nil {
			return err
		}
		p = p[n:]
		off += n / UnitSize
	}
	return nil
}

func (r *Reader) queue(id QueueID) *Queue {
	q := r.queues[id]
	if q == nil {
		q = newQueue(nil, id)
		r.queues[id] = q
	}
	return q
}

func (r *Reader) read(key fileKey, p []byte, off int64) error {
	f, err := r.files.get(key, false)
	if err != nil {
		return err
	}
	defer r.files.put(f)
	_, err = f.ReadAt(p, off)
	return err
}

// Queues lists the queues that have a directory, in no order, whether anything
// names them or not.
func (r *Reader) Queues() (ids []QueueID, err error) {
	topics, err := r.fs.ReadDir(LabelDir, r.dir+"/"+queuesDir)
	if err != nil {
		return nil, err
	}
	for _, e := range topics {
		t, ok := parseTopicDir(e.Name())
		if !ok {
			continue
		}
		numbers, err := r.fs.ReadDir(LabelDir, topicPath(r.dir, t))
		if err != nil {
			return nil, err
		}
		for _, e := range numbers {
			if n, err := strconv.ParseInt(e.Name(), 10, 32); err == nil && strconv.FormatInt(n, 10) == e.Name() {
				ids = append(ids, QueueID{t.Topic, t.Incarnation, int32(n)})
			}
		}
	}
	return ids, nil
}

// parseTopicDir is the inverse of TopicID.String.
func parseTopicDir(name string) (TopicID, bool) {
	topic, inc, ok := strings.Cut(name, "@")
	n, err := strconv.ParseUint(inc, 10, 64)
	t := TopicID{topic, n}
	return t, ok && err == nil && t.String() == name && CheckTopic(topic) == nil
}

// Close gives the store up.
func (r *Reader) Close() error {
	r.files.close()
	return r.lock.Close()
}
