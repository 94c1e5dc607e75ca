package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/raftmq/raftmq/storage/disk"
)

// The labels under which the index touches the disk.
const (
	indexDirLabel   disk.Label = "index directory"
	indexReadLabel  disk.Label = "index read"
	indexFlushLabel disk.Label = "index flush"
	indexMergeLabel disk.Label = "index merge"
	indexFillLabel  disk.Label = "index fill"
)

const (
	indexWriteBuffer = 64 * indexPage
	// A merge may write hundreds of megabytes. The kernel is told to begin
	// writing them back early: one sync of them all would hold up everybody
	// else's sync on that disk.
	indexWriteback = 4 << 20
)

// indexWriter writes one run: to a temporary name, synced, then renamed. All
// writes are sequential but the header's.
type indexWriter struct {
	fs    disk.FS
	label disk.Label
	dir   string
	run   uint64
	f     disk.File

	buf     []byte // pages not yet written
	fill    int    // bytes in it, a multiple of a page and the content of one
	off     int64  // in the file of buf
	started int64  // write-back began up to here
	page    uint32
	fences  []uint64
	count   int64
	last    int64 // largest physical offset
}

func newIndexWriter(fsys disk.FS, label disk.Label, dir string, run uint64) (*indexWriter, error) {
	tmp := path.Join(dir, indexRunName(run)+indexTmpSuffix)
	f, err := fsys.OpenFile(label, tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	return &indexWriter{
		fs: fsys, label: label, dir: dir, run: run, f: f,
		buf: make([]byte, indexWriteBuffer), off: indexPage, started: indexPage, page: 1, last: -1,
	}, nil
}

// add appends an entry. They come sorted by (hash, physical offset).
func (w *indexWriter) add(e indexEntry) error {
	if w.fill%indexPage == 0 {
		if err := w.room(); err != nil {
			return err
		}
		w.fences = append(w.fences, e.hash)
	}
	putIndexEntry(w.buf[w.fill:], e)
	w.fill += indexEntrySize
	w.count++
	w.last = max(w.last, e.phys)
	if w.fill%indexPage == indexPageBody {
		w.seal()
	}
	return nil
}

// room makes place for a page in the buffer.
func (w *indexWriter) room() error {
	if w.fill < len(w.buf) {
		return nil
	}
	return w.write()
}

func (w *indexWriter) write() error {
	if w.fill == 0 {
		return nil // a run without entries
	}
	if _, err := w.f.WriteAt(w.buf[:w.fill], w.off); err != nil {
		return err
	}
	w.off += int64(w.fill)
	w.fill = 0
	clear(w.buf)
	if n := w.off - w.started; n >= indexWriteback {
		if err := w.f.StartWriteback(w.started, n); err != nil {
			return err
		}
		w.started = w.off
	}
	return nil
}

// seal closes the page that is being filled.
func (w *indexWriter) seal() {
	start := w.fill / indexPage * indexPage
	sealIndexPage(w.buf[start:start+indexPage], w.run, w.page)
	w.page++
	w.fill = start + indexPage
}

// finish completes the file and puts it under its name. When it returns nil the
// run is durable. log and what span says go into the header, but for span.last.
func (w *indexWriter) finish(log uint64, span indexSpan) (*indexRun, error) {
	span.last = w.last
	h := indexHeader{indexSpan: span, log: log, count: w.count}
	if w.fill%indexPage > 0 {
		w.seal()
	}
	for i, fence := range w.fences {
		if i%indexPerFence == 0 {
			if err := w.room(); err != nil {
				return nil, err
			}
			h.top = append(h.top, fence)
		}
		binary.LittleEndian.PutUint64(w.buf[w.fill:], fence)
		w.fill += indexFenceSize
		if i%indexPerFence == indexPerFence-1 || i == len(w.fences)-1 {
			w.seal()
		}
	}
	if err := w.write(); err != nil {
		return nil, err
	}
	if w.count > indexFormatMax {
		return nil, fmt.Errorf("index: a run of %d entries is beyond the format's %d", w.count, int64(indexFormatMax))
	}
	h.encode(w.buf[:indexPage], w.run)
	if _, err := w.f.WriteAt(w.buf[:indexPage], 0); err != nil {
		return nil, err
	}
	if err := w.f.Datasync(); err != nil {
		return nil, err
	}
	f := w.f
	w.f = nil
	if err := f.Close(); err != nil {
		return nil, err
	}
	name := path.Join(w.dir, indexRunName(w.run))
	if err := w.fs.Rename(w.label, name+indexTmpSuffix, name); err != nil {
		return nil, err
	}
	if err := w.fs.SyncDir(w.label, w.dir); err != nil {
		return nil, err
	}
	return &indexRun{indexHeader: h, number: w.run, name: name}, nil
}

// abort removes what there is of a run that could not be finished, under either
// name: after a failed SyncDir the rename may or may not have happened.
func (w *indexWriter) abort() error {
	var errs []error
	if w.f != nil {
		errs = append(errs, w.f.Close())
	}
	name := path.Join(w.dir, indexRunName(w.run))
	for _, n := range []string{name + indexTmpSuffix, name} {
		if err := w.fs.Remove(w.label, n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
