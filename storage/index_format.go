package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
)

// A run file is made of pages of 4096 bytes, sealed one by one:
//
//	page 0                header
//	pages 1..b            entries, sorted by (hash, physical offset), 204 a page
//	pages b+1..b+f        fences: the first hash of each entry page, 510 a page
//
//	every page   0 |........................ content ........................|
//	          4080 | run number 8 | page number 4 | CRC-32C of bytes 0..4092 4 |
//
//	header       0 | magic "RMQX" 4 | version 4 | identity of the log 8      |
//	            16 | number of entries 8 | begin 8 | end 8 | last 8          |
//	            48 | min time ms 8 | max time ms 8                           |
//	            64 | the first fence of each fence page, 8 each ...          |
//
//	entry        0 | hash 8 | physical offset 8 | store time in seconds 4 |
//
// Little-endian. What is not used is zero. The run's and the page's number are
// in every seal, so that a page that lies in the wrong place does not pass. The
// fences in the header stay in memory: looking up a hash reads one fence page
// and one entry page.
const (
	indexMagic   = "RMQX"
	indexVersion = 1

	indexPage       = 4096
	indexPageBody   = 4080
	indexHeaderSize = 64
	indexEntrySize  = 20
	indexPerPage    = indexPageBody / indexEntrySize // entries
	indexFenceSize  = 8
	indexPerFence   = indexPageBody / indexFenceSize // fences
	indexMaxTop     = (indexPageBody - indexHeaderSize) / indexFenceSize

	// indexFormatMax is how many entries the fences in a header can span.
	indexFormatMax = indexMaxTop * indexPerFence * indexPerPage

	indexRunSuffix = ".run"
	indexTmpSuffix = ".tmp"
)

// What can be wrong with a file that is called like a run.
var (
	errIndexDamaged = errors.New("index: damaged")
	errIndexForeign = errors.New("index: not a run of this log")
	errIndexVersion = errors.New("index: made by another version")
)

var indexCRC = crc32.MakeTable(crc32.Castagnoli)

func sealIndexPage(page []byte, run uint64, number uint32) {
	binary.LittleEndian.PutUint64(page[4080:], run)
	binary.LittleEndian.PutUint32(page[4088:], number)
	binary.LittleEndian.PutUint32(page[4092:], crc32.Checksum(page[:4092], indexCRC))
}

func checkIndexPage(page []byte, run uint64, number uint32) error {
	if sum := crc32.Checksum(page[:4092], indexCRC); sum != binary.LittleEndian.Uint32(page[4092:]) {
		return fmt.Errorf("%w: page %d fails its checksum", errIndexDamaged, number)
	}
	gotRun, gotNumber := binary.LittleEndian.Uint64(page[4080:]), binary.LittleEndian.Uint32(page[4088:])
	if gotRun != run || gotNumber != number {
		return fmt.Errorf("%w: page %d of run %d lies where page %d of run %d belongs",
			errIndexDamaged, gotNumber, gotRun, number, run)
	}
	return nil
}

// indexHeader is what a run's first page says.
type indexHeader struct {
	indexSpan
	log   uint64 // identity of the CommitLog
	count int64
	top   []uint64 // first fence of each fence page
}

// entryPages and fencePages are the numbers of pages, fileSize the bytes.
func (h *indexHeader) entryPages() int64 { return (h.count + indexPerPage - 1) / indexPerPage }
func (h *indexHeader) fencePages() int64 {
	return (h.entryPages() + indexPerFence - 1) / indexPerFence
}
func (h *indexHeader) fileSize() int64 {
	return (1 + h.entryPages() + h.fencePages()) * indexPage
}

func (h *indexHeader) encode(page []byte, run uint64) {
	clear(page)
	copy(page, indexMagic)
	le := binary.LittleEndian
	le.PutUint32(page[4:], indexVersion)
	le.PutUint64(page[8:], h.log)
	for i, v := range [...]int64{h.count, h.begin, h.end, h.last, h.minTime, h.maxTime} {
		le.PutUint64(page[16+8*i:], uint64(v))
	}
	for i, fence := range h.top {
		le.PutUint64(page[indexHeaderSize+indexFenceSize*i:], fence)
	}
	sealIndexPage(page, run, 0)
}

// decodeIndexHeader reads the first page of a file of the given size. Checksum,
// magic and version stand where every version has them, so that damage, another
// format and another version are told apart, in this order.
func decodeIndexHeader(page []byte, run uint64, size int64, log uint64) (indexHeader, error) {
	var h indexHeader
	if err := checkIndexPage(page, run, 0); err != nil {
		return h, err
	}
	if string(page[:4]) != indexMagic {
		return h, fmt.Errorf("%w: bad magic %q", errIndexForeign, page[:4])
	}
	le := binary.LittleEndian
	if v := le.Uint32(page[4:]); v != indexVersion {
		return h, fmt.Errorf("%w: version %d, this one reads %d", errIndexVersion, v, indexVersion)
	}
	h.log = le.Uint64(page[8:])
	for i, v := range [...]*int64{&h.count, &h.begin, &h.end, &h.last, &h.minTime, &h.maxTime} {
		*v = int64(le.Uint64(page[16+8*i:]))
	}
	switch {
	case h.log != log:
		return h, fmt.Errorf("%w: it belongs to log %#x, this is %#x", errIndexForeign, h.log, log)
	case h.count < 0 || h.count > indexFormatMax || h.begin < 0 || h.begin >= h.end ||
		h.count == 0 != (h.last == -1) || h.count > 0 && (h.last < h.begin || h.last >= h.end):
		return h, fmt.Errorf("%w: %d entries for [%d, %d), last %d", errIndexDamaged, h.count, h.begin, h.end, h.last)
	case size != h.fileSize():
		return h, fmt.Errorf("%w: %d bytes for %d entries, expected %d", errIndexDamaged, size, h.count, h.fileSize())
	}
	h.top = make([]uint64, h.fencePages())
	for i := range h.top {
		h.top[i] = le.Uint64(page[indexHeaderSize+indexFenceSize*i:])
		if i > 0 && h.top[i] < h.top[i-1] {
			return h, fmt.Errorf("%w: fences out of order", errIndexDamaged)
		}
	}
	return h, nil
}

func putIndexEntry(b []byte, e indexEntry) {
	binary.LittleEndian.PutUint64(b, e.hash)
	binary.LittleEndian.PutUint64(b[8:], uint64(e.phys))
	binary.LittleEndian.PutUint32(b[16:], e.sec)
}

func getIndexEntry(b []byte) indexEntry {
	return indexEntry{
		hash: binary.LittleEndian.Uint64(b),
		phys: int64(binary.LittleEndian.Uint64(b[8:])),
		sec:  binary.LittleEndian.Uint32(b[16:]),
	}
}

// indexRunName is the file name of a run: its number, so that names sort by age.
func indexRunName(run uint64) string { return fmt.Sprintf("%020d%s", run, indexRunSuffix) }

// parseIndexRunName is its inverse; ok is false for any other name.
func parseIndexRunName(name string) (run uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, indexRunSuffix)
	run, err := strconv.ParseUint(digits, 10, 64)
	return run, ok && err == nil && run < math.MaxUint64 && indexRunName(run) == name
}
