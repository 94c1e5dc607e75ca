package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/raftmq/raftmq/storage/disk"
)

const (
	// stableBytes is the size a new file gets. Term and vote never need more, so
	// that writing them does not fail on a full disk.
	stableBytes = 256 << 10
	// maxStableBytes bounds what is read of a file that is not ours.
	maxStableBytes = 64 << 20
)

// OpenStable opens the stable store in the file name, a raft-boltdb. With create
// it is made if it is not there: only for a replica that is new, because one
// that forgets its vote may vote twice. A *FileError says what is wrong with the
// file; nothing has been changed in that case.
//
// The file's pages are verified first: bbolt checks some of them with panics,
// and takes a damaged newest state for an unfinished one, which here would be an
// older vote.
func OpenStable(name string, create bool) (_ *Stable, err error) {
	system := disk.OS()
	info, err := system.Stat(LabelStable, name)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return nil, missingStable(name)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 && create {
		err = createBolt(system, name, 0, vote{})
	}
	if err != nil {
		return nil, err
	}
	// The name may be in memory only, if the process that made it was killed.
	if err := system.SyncDir(LabelStable, path.Dir(name)); err != nil {
		return nil, err
	}
	if err := verifyBolt(system, name); err != nil {
		return nil, err
	}
	// bbolt looks into a mapping of the file: in memory it stays. Else a page that the
	// kernel has let go would have to come from a disk that may hang, and the whole
	// process would wait for that at the next collection of garbage.
	bolt, err := openBolt(name, &bbolt.Options{Timeout: time.Second, Mlock: true})
	if err != nil { // there may be a limit of what can be locked
		bolt, err = openBolt(name, &bbolt.Options{Timeout: time.Second})
	}
	if err != nil {
		return nil, err
	}
	s, err := NewStable(bolt, false)
	if err != nil {
		return nil, stableError(name, errors.Join(err, bolt.Close()))
	}
	s.close = bolt.Close
	s.whole = wholeBolt(name)
	s.remake = func(term uint64, v vote) (raft.StableStore, func() error, error) {
		if err := createBolt(system, name, term, v); err != nil {
			return nil, nil, err
		}
		if err := system.SyncDir(LabelStable, path.Dir(name)); err != nil {
			return nil, nil, err
		}
		bolt, err := openBolt(name, &bbolt.Options{Timeout: time.Second})
		if err != nil {
			return nil, nil, err
		}
		s.whole = wholeBolt(name)
		return bolt, bolt.Close, nil
	}
	return s, nil
}

// wholeBolt returns a function that looks whether the file that was just opened
// has its name still, and is whole.
func wholeBolt(name string) func() error {
	opened, err := os.Stat(name)
	return func() error {
		now, errNow := os.Stat(name)
		if err := errors.Join(err, errNow); err != nil {
			return err
		}
		if !os.SameFile(opened, now) {
			return &FileError{File: name, Offset: -1, Detail: "while it was open another file took its place", Err: ErrForeign}
		}
		return checkBoltFile(name)
	}
}

// ReadStable verifies the stable store in the file name, for offline use: it
// changes nothing. It returns the term. Errors are those of OpenStable, and
// disk.ErrLocked if a process has the file open.
func ReadStable(name string) (term uint64, err error) {
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return 0, missingStable(name)
	}
	if err := verifyBolt(disk.OS(), name); err != nil {
		return 0, err
	}
	bolt, err := openBolt(name, &bbolt.Options{Timeout: time.Second, ReadOnly: true})
	if err != nil {
		return 0, err
	}
	s, err := loadStable(bolt, false)
	if err = errors.Join(err, bolt.Close()); err != nil {
		return 0, stableError(name, err)
	}
	return s.term, nil
}

func missingStable(name string) error {
	return &FileError{File: name, Offset: -1, Detail: "the store of term and vote is not there", Err: ErrMissing}
}

func openBolt(name string, opts *bbolt.Options) (bolt *raftboltdb.BoltStore, err error) {
	err = recovered(func() (err error) {
		bolt, err = raftboltdb.New(raftboltdb.Options{Path: name, BoltOptions: opts})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("raftlog: opening %s: %w", name, err)
	}
	return bolt, nil
}

// stableError says which file an error of its content is about.
func stableError(name string, err error) error {
	for _, kind := range []error{ErrCorrupt, ErrMissing, ErrVersion} {
		if errors.Is(err, kind) {
			return &FileError{File: name, Offset: -1, Detail: err.Error(), Err: kind}
		}
	}
	return fmt.Errorf("raftlog: opening %s: %w", name, err)
}

// createBolt makes the file under another name and gives it its own when term
// and vote are in it.
func createBolt(system disk.FS, name string, term uint64, v vote) error {
	tmp := name + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{Path: tmp, BoltOptions: &bbolt.Options{Timeout: time.Second}})
	if err != nil {
		return fmt.Errorf("raftlog: making %s: %w", tmp, err)
	}
	s, err := NewStable(bolt, true)
	if err == nil {
		err = errors.Join(s.storeVote(v), s.storeTerm(term))
	}
	if err := errors.Join(err, bolt.Close()); err != nil {
		return fmt.Errorf("raftlog: making %s: %w", tmp, err)
	}
	f, err := system.OpenFile(LabelStable, tmp, os.O_RDWR)
	if err != nil {
		return err
	}
	if err = f.Allocate(0, stableBytes); errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return system.Rename(LabelStable, tmp, name) // OpenStable syncs the directory
}

// verifyBolt reads the file and checks its structure.
func verifyBolt(system disk.FS, name string) (err error) {
	lock, err := system.Lock(LabelStable, name) // the lock that bbolt takes
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return checkBoltFile(name)
}

// checkBoltFile is verifyBolt for who has the lock.
func checkBoltFile(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if info.Size() > maxStableBytes {
		return &FileError{File: name, Offset: -1, Detail: fmt.Sprintf("%d bytes are too many for a term and a vote", info.Size()), Err: ErrForeign}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if page, detail := checkBolt(b); detail != "" {
		return &FileError{File: name, Offset: page, Detail: detail, Err: ErrCorrupt}
	}
	return nil
}

// What follows knows bbolt's file format, version 2:
//
//	page     | id (8) | flags (2) | count (2) | overflow (4) | ...
//	meta     | magic (4) | version (4) | page size (4) | flags (4) | root bucket: page (8) sequence (8) |
//	         | freelist page (8) | high water mark (8) | transaction (8) | FNV-1a of these (8) |
//	freelist | page id (8) ...
//	branch   | pos (4) | key size (4) | page id (8) ...           pos counts from the element's own start
//	leaf     | flags (4) | pos (4) | key size (4) | value size (4) ...
//	bucket   | root page (8), 0: inline | sequence (8) | the page, if inline |
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	boltPageHeader = 16
	boltElement    = 16
	boltMetaLen    = 56 // without checksum

	boltBranch   = 0x01
	boltLeaf     = 0x02
	boltMeta     = 0x04
	boltFreelist = 0x10
	boltBucket   = 0x01 // flag of a leaf element

	boltMaxDepth = 16
)

// boltChecker walks a bolt file and notes each page that something refers to.
type boltChecker struct {
	b        []byte
	pageSize uint64
	pages    uint64 // high water mark
	used     []bool
}

// boltError is damage at a page.
type boltError struct {
	off    uint64
	detail string
}

func (e boltError) Error() string { return e.detail }

// checkBolt checks that a bolt file is whole: both meta pages valid (each is
// written within one disk sector, so a torn one does not exist), every page in
// its place and within bounds, keys in order, every page below the high water
// mark either in use once or free once. An empty string says that it is; else
// it says what is wrong at which byte.
func checkBolt(b []byte) (off int64, detail string) {
	err := (&boltChecker{b: b}).check()
	var be boltError
	if errors.As(err, &be) {
		return int64(be.off), be.detail
	}
	return 0, ""
}

func (c *boltChecker) check() error {
	m0, err := c.meta(0, 0)
	if err != nil {
		return err
	}
	m1, err := c.meta(m0.pageSize, 1)
	if err != nil {
		return err
	}
	if m0.pageSize != m1.pageSize || m0.tx+1 != m1.tx && m1.tx+1 != m0.tx {
		return boltError{0, "the two meta pages do not belong together"}
	}
	m := m0
	if m1.tx > m0.tx {
		m = m1
	}
	c.pageSize, c.pages = m.pageSize, m.pages
	if c.pages < 4 || c.pages > uint64(len(c.b))/c.pageSize {
		return boltError{0, fmt.Sprintf("the file has %d bytes, too few for its %d pages of %d", len(c.b), c.pages, c.pageSize)}
	}
	c.used = make([]bool, c.pages)
	c.used[0], c.used[1] = true, true
	if err := c.tree(m.root, nil, 0, true); err != nil {
		return err
	}
	if err := c.freelist(m.freelist); err != nil {
		return err
	}
	for id, used := range c.used {
		if !used {
			return boltError{uint64(id) * c.pageSize, "a page that is neither in use nor free"}
		}
	}
	return nil
}

type boltMetaPage struct {
	pageSize, root, freelist, pages, tx uint64
}

func (c *boltChecker) meta(off, id uint64) (m boltMetaPage, err error) {
	le := binary.LittleEndian
	if uint64(len(c.b)) < off+boltPageHeader+boltMetaLen+8 {
		return m, boltError{off, "the file ends before its meta page"}
	}
	page, b := c.b[off:], c.b[off+boltPageHeader:]
	sum := uint64(14695981039346656037)
	for _, v := range b[:boltMetaLen] {
		sum = (sum ^ uint64(v)) * 1099511628211
	}
	m = boltMetaPage{
		pageSize: uint64(le.Uint32(b[8:])), root: le.Uint64(b[16:]),
		freelist: le.Uint64(b[32:]), pages: le.Uint64(b[40:]), tx: le.Uint64(b[48:]),
	}
	switch {
	case le.Uint32(b) != boltMagic || le.Uint32(b[4:]) != boltVersion || sum != le.Uint64(b[boltMetaLen:]):
		return m, boltError{off, "a meta page is damaged"}
	case le.Uint64(page) != id || le.Uint16(page[8:]) != boltMeta || m.tx%2 != id:
		return m, boltError{off, "a meta page is in the wrong place"}
	case m.pageSize < 512 || m.pageSize > 1<<16 || m.pageSize&(m.pageSize-1) != 0:
		return m, boltError{off, fmt.Sprintf("a page size of %d", m.pageSize)}
	}
	return m, nil
}

// take checks a page's header, notes it as used and returns all its bytes.
func (c *boltChecker) take(id uint64) ([]byte, error) {
	if id >= c.pages {
		return nil, boltError{0, fmt.Sprintf("a reference to page %d of %d", id, c.pages)}
	}
	le := binary.LittleEndian
	off := id * c.pageSize
	b := c.b[off:]
	overflow := uint64(le.Uint32(b[12:]))
	if le.Uint64(b) != id || overflow >= c.pages-id {
		return nil, boltError{off, "a page with a damaged header"}
	}
	for i := id; i <= id+overflow; i++ {
		if c.used[i] {
			return nil, boltError{i * c.pageSize, "a page that is in use twice"}
		}
		c.used[i] = true
	}
	return b[:(overflow+1)*c.pageSize], nil
}

// tree checks the pages below a root. low is the least key allowed; top says
// that it is the file's own tree, which holds buckets only.
func (c *boltChecker) tree(id uint64, low []byte, depth int, top bool) error {
	b, err := c.take(id)
	if err != nil {
		return err
	}
	if depth > boltMaxDepth {
		return boltError{id * c.pageSize, "pages nested too deeply"}
	}
	if err := c.elements(b, low, depth, top); err != nil {
		return boltError{id * c.pageSize, err.Error()}
	}
	return nil
}

// elements checks what a branch or leaf page holds.
func (c *boltChecker) elements(b, low []byte, depth int, top bool) error {
	le := binary.LittleEndian
	flags, count := le.Uint16(b[8:]), uint64(le.Uint16(b[10:]))
	if flags != boltBranch && flags != boltLeaf {
		return fmt.Errorf("a page of kind %#x where a branch or a leaf belongs", flags)
	}
	end := boltPageHeader + count*boltElement
	if end > uint64(len(b)) || flags == boltBranch && count == 0 {
		return errors.New("a page with a damaged header")
	}
	for i := range count {
		at := boltPageHeader + i*boltElement
		e := b[at:]
		pos, ksize, vsize, child := le.Uint32(e), le.Uint32(e[4:]), uint32(0), le.Uint64(e[8:])
		if flags == boltLeaf {
			pos, ksize, vsize = le.Uint32(e[4:]), le.Uint32(e[8:]), le.Uint32(e[12:])
		}
		start := at + uint64(pos)
		if start < end || ksize == 0 || start+uint64(ksize)+uint64(vsize) > uint64(len(b)) {
			return errors.New("an element outside its page")
		}
		key := b[start:][:ksize]
		if i > 0 && string(key) <= string(low) || string(key) < string(low) {
			return errors.New("keys out of order")
		}
		low = key
		var err error
		if flags == boltBranch {
			err = c.tree(child, key, depth+1, top)
		} else if f := le.Uint32(e); f == boltBucket {
			err = c.bucket(b[start+uint64(ksize):][:vsize], depth)
		} else if f != 0 || top {
			err = fmt.Errorf("an element of kind %#x", f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *boltChecker) bucket(b []byte, depth int) error {
	if len(b) < boltPageHeader {
		return errors.New("a damaged bucket")
	}
	if root := binary.LittleEndian.Uint64(b); root != 0 {
		return c.tree(root, nil, depth+1, false)
	}
	b = b[16:]
	if len(b) < boltPageHeader || depth > boltMaxDepth {
		return errors.New("a damaged bucket")
	}
	if binary.LittleEndian.Uint16(b[8:]) != boltLeaf {
		return errors.New("a damaged bucket")
	}
	return c.elements(b, nil, depth+1, false)
}

func (c *boltChecker) freelist(id uint64) error {
	b, err := c.take(id)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	count := uint64(le.Uint16(b[10:]))
	// 65535 would mean that the first element is the count: 256 MiB of free pages.
	if le.Uint16(b[8:]) != boltFreelist || count == 0xFFFF || boltPageHeader+count*8 > uint64(len(b)) {
		return boltError{id * c.pageSize, "the list of free pages is damaged"}
	}
	for i := range count {
		free := le.Uint64(b[boltPageHeader+i*8:])
		if free >= c.pages || c.used[free] {
			return boltError{id * c.pageSize, "the list of free pages is damaged"}
		}
		c.used[free] = true
	}
	return nil
}
