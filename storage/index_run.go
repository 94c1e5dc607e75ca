package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/raftmq/raftmq/storage/disk"
)

// indexRun is an immutable file of sorted entries. Only its header is in
// memory, and no descriptor is held: lookups are rare, descriptors are scarce.
type indexRun struct {
	indexHeader
	number uint64
	name   string // path

	// Under Index.mu:
	refs     int  // readers; the file is removed when the last one has left
	gone     bool // no longer part of the index
	unmerged bool // a merge could not read it; it is left out of merges until a restart
}

// openIndexRun reads and verifies a run's header.
func openIndexRun(fsys disk.FS, name string, number, log uint64) (_ *indexRun, err error) {
	f, err := fsys.OpenFile(indexReadLabel, name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	page := make([]byte, indexPage)
	if err := readIndexPages(f, page, 0); err != nil {
		return nil, err
	}
	h, err := decodeIndexHeader(page, number, size, log)
	if err != nil {
		return nil, err
	}
	return &indexRun{indexHeader: h, number: number, name: name}, nil
}

// readIndexPages reads whole pages. A file that ends too early is damaged: the
// size was right when it was opened, or ought to have been.
func readIndexPages(f disk.File, pages []byte, off int64) error {
	n, err := f.ReadAt(pages, off)
	if n == len(pages) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the file ends at byte %d", errIndexDamaged, off+int64(n))
	}
	return err
}

// load reads and verifies the n pages from page number first on into buf.
func (r *indexRun) load(f disk.File, buf []byte, first, n int64) ([]byte, error) {
	pages := buf[:n*indexPage]
	if err := readIndexPages(f, pages, first*indexPage); err != nil {
		return nil, err
	}
	for i := range n {
		if err := checkIndexPage(pages[i*indexPage:(i+1)*indexPage], r.number, uint32(first+i)); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// check says whether an entry may be in this run at all.
func (r *indexRun) check(e indexEntry) error {
	if e.phys < r.begin || e.phys >= r.end {
		return fmt.Errorf("%w: an entry for offset %d in a run of [%d, %d)", errIndexDamaged, e.phys, r.begin, r.end)
	}
	return nil
}

// indexCursor walks the entries of one hash in one run, newest first.
type indexCursor struct {
	run   *indexRun
	f     disk.File
	hash  uint64
	pages []byte // verified entry pages, number first (from 0) on
	first int64
	next  int64 // number of the entry to give next; below first*indexPerPage: load more
	span  int64 // pages to load
	buf   []byte
}

// The most pages a cursor reads at once, when a hash has many entries.
const indexCursorSpan = 16

// seek returns a cursor before the newest entry of hash. Close it.
func (r *indexRun) seek(fsys disk.FS, hash uint64) (_ *indexCursor, err error) {
	c := &indexCursor{run: r, hash: hash, next: -1, span: 1}
	// The newest entry of hash is in the last page that begins at or below it.
	i := sort.Search(len(r.top), func(i int) bool { return r.top[i] > hash }) - 1
	if i < 0 {
		return c, nil
	}
	if c.f, err = fsys.OpenFile(indexReadLabel, r.name, os.O_RDONLY); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	c.buf = make([]byte, indexPage)
	page, err := r.load(c.f, c.buf, 1+r.entryPages()+int64(i), 1)
	if err != nil {
		return nil, err
	}
	firstFence := int64(i) * indexPerFence
	n := int(min(indexPerFence, r.entryPages()-firstFence))
	fence := func(i int) uint64 { return binary.LittleEndian.Uint64(page[i*indexFenceSize:]) }
	b := sort.Search(n, func(i int) bool { return fence(i) > hash }) - 1
	if b < 0 || fence(0) != r.top[i] {
		return nil, fmt.Errorf("%w: fence page %d does not begin as the header says", errIndexDamaged, i)
	}
	begins := fence(b)
	if err := c.load(firstFence + int64(b)); err != nil {
		return nil, err
	}
	if got := c.at(c.first * indexPerPage).hash; got != begins {
		return nil, fmt.Errorf("%w: page %d does not begin as its fence says", errIndexDamaged, 1+c.first)
	}
	lo := c.first * indexPerPage
	hi := min(lo+indexPerPage, r.count)
	c.next = lo + int64(sort.Search(int(hi-lo), func(i int) bool { return c.at(lo+int64(i)).hash > hash })) - 1
	return c, nil
}

// load reads up to span entry pages of which the last is number last.
func (c *indexCursor) load(last int64) (err error) {
	n := min(c.span, last+1)
	if int64(len(c.buf)) < n*indexPage {
		c.buf = make([]byte, n*indexPage)
	}
	c.first = last + 1 - n
	c.span = min(2*c.span, indexCursorSpan)
	c.pages, err = c.run.load(c.f, c.buf, 1+c.first, n)
	return err
}

func (c *indexCursor) at(i int64) indexEntry {
	i -= c.first * indexPerPage
	return getIndexEntry(c.pages[i/indexPerPage*indexPage+i%indexPerPage*indexEntrySize:])
}

// prev returns the next older entry of the hash; ok is false after the oldest.
func (c *indexCursor) prev() (e indexEntry, ok bool, err error) {
	if c.next < 0 {
		return e, false, nil
	}
	if c.next < c.first*indexPerPage {
		if err := c.load(c.next / indexPerPage); err != nil {
			return e, false, err
		}
	}
	e = c.at(c.next)
	if e.hash != c.hash {
		c.next = -1
		return e, false, nil
	}
	c.next--
	return e, true, c.run.check(e)
}

func (c *indexCursor) close() error {
	if c.f == nil {
		return nil
	}
	return c.f.Close()
}

// indexScan reads a whole run in order, verifying it.
type indexScan struct {
	run   *indexRun
	f     disk.File
	buf   []byte
	pages []byte
	n     int64 // number of the entry read last
	e     indexEntry
}

const indexScanPages = 16

// scan returns a scan before the first entry. Close it.
func (r *indexRun) scan(fsys disk.FS, label disk.Label) (*indexScan, error) {
	f, err := fsys.OpenFile(label, r.name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &indexScan{run: r, f: f, n: -1, buf: make([]byte, indexScanPages*indexPage)}, nil
}

// next moves to the next entry, s.e; ok is false after the last.
func (s *indexScan) next() (ok bool, err error) {
	s.n++
	if s.n >= s.run.count {
		return false, nil
	}
	const group = indexScanPages * indexPerPage
	if s.n%group == 0 {
		first := s.n / indexPerPage
		s.pages, err = s.run.load(s.f, s.buf, 1+first, min(indexScanPages, s.run.entryPages()-first))
		if err != nil {
			return false, err
		}
	}
	i := s.n % group
	e := getIndexEntry(s.pages[i/indexPerPage*indexPage+i%indexPerPage*indexEntrySize:])
	if s.n > 0 && (e.hash < s.e.hash || e.hash == s.e.hash && e.phys < s.e.phys) {
		return false, fmt.Errorf("%w: entry %d is out of order", errIndexDamaged, s.n)
	}
	s.e = e
	return true, s.run.check(e)
}

func (s *indexScan) close() error { return s.f.Close() }

// verify reads every page of the run and compares what they say about one
// another.
func (r *indexRun) verify(fsys disk.FS) (err error) {
	s, err := r.scan(fsys, indexReadLabel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	fences := make([]uint64, 0, r.entryPages())
	last := int64(-1)
	for {
		ok, err := s.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if s.n%indexPerPage == 0 {
			fences = append(fences, s.e.hash)
		}
		last = max(last, s.e.phys)
	}
	if last != r.last {
		return fmt.Errorf("%w: the newest entry is %d, the header says %d", errIndexDamaged, last, r.last)
	}
	for i := range fences {
		at := i % indexPerFence
		if at == 0 {
			page := int64(i / indexPerFence)
			if s.pages, err = r.load(s.f, s.buf, 1+r.entryPages()+page, 1); err != nil {
				return err
			}
			if r.top[page] != fences[i] {
				return fmt.Errorf("%w: fence page %d does not begin as the header says", errIndexDamaged, page)
			}
		}
		if got := binary.LittleEndian.Uint64(s.pages[at*indexFenceSize:]); got != fences[i] {
			return fmt.Errorf("%w: the fence of page %d is wrong", errIndexDamaged, 1+i)
		}
	}
	return nil
}
