package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
)

// The CommitLog is checked in blocks of 4 KiB. The sums of a segment's blocks
// are in a file of their own, beside the segments:
//
//	commitlog-sums/<segment>   0 | sum of block 0 4 | sum of block 1 4 | ...   big endian
//
// A sum is the block's CRC-32C, or 1 if that is 0; 0 is no sum. What the sums
// must be is known without the file: the manifest has the CRC-32C over them.
const (
	blockSize  = 4096
	sumSize    = 4
	sumsOnPage = blockSize / sumSize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealSum makes the sum of a block from its CRC.
func sealSum(crc uint32) uint32 {
	if crc == 0 {
		return 1
	}
	return crc
}

func blockSum(block []byte) uint32 { return sealSum(crc32.Checksum(block, castagnoli)) }

// extendCRC is crc32.Update over the four bytes of a word, big endian, without
// making them escape to the heap.
func extendCRC(crc, word uint32) uint32 {
	crc = ^crc
	for shift := 24; shift >= 0; shift -= 8 {
		crc = castagnoli[byte(crc)^byte(word>>shift)] ^ crc>>8
	}
	return ^crc
}

// digestOf is the checksum over encoded block sums.
func digestOf(encoded []byte) uint32 { return crc32.Checksum(encoded, castagnoli) }

func decodeSum(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

func encodeSums(sums []uint32) []byte {
	b := make([]byte, 0, len(sums)*sumSize)
	for _, s := range sums {
		b = binary.BigEndian.AppendUint32(b, s)
	}
	return b
}

// trust is what the manifest says of a segment: how much of it there is, the
// checksum over the sums of its whole blocks, and the CRC of the bytes of the
// block that is not whole.
type trust struct {
	valid  int64
	digest uint32
	part   uint32
}

// blockSums has the sums of one segment's blocks.
//
// Of the segment that is being written, and of those that were written since the
// last sync, they are in memory. Of the others the file has them: on first use
// it is read whole and compared with the digest, and a checksum for each of its
// pages is kept, so that later a page of it is enough.
type blockSums struct {
	memory atomic.Pointer[[]uint32]
	saved  int // of memory's, how many are in the file; of whoever holds maintain
	// unsaved says that some of memory's were set behind saved's back.
	unsaved atomic.Bool

	// needed says that the sums are not known, or not all of them: they have to
	// be made anew from the data, or fetched.
	needed  atomic.Bool
	damaged atomic.Bool // that is because they were found damaged

	mu    sync.Mutex
	pages []uint32 // nil before first use
	last  *sumPage
}

// sumPage is a page of a sums file that was checked.
type sumPage struct {
	number int64
	sums   [sumsOnPage]uint32
}

// load reads the file of sums of a segment whole and returns the sums of its
// first n blocks if they have the digest.
func (g *segment) loadSums(files *fileCache, n int64, digest uint32) ([]byte, error) {
	encoded := make([]byte, n*sumSize)
	if n == 0 {
		return encoded, nil
	}
	f, err := files.get(fileKey{base: g.base, sums: true}, false)
	if err != nil {
		return nil, err
	}
	defer files.put(f)
	if _, err := f.ReadAt(encoded, 0); err != nil {
		return nil, err
	}
	if got := digestOf(encoded); got != digest {
		return nil, fmt.Errorf("%w: block sums of segment %d have checksum %#x, the manifest says %#x", ErrCorrupt, g.base, got, digest)
	}
	return encoded, nil
}

// setPages takes checked sums of a whole segment that are in the file.
func (g *segment) setPages(encoded []byte) {
	var pages []uint32
	for len(encoded) > 0 {
		n := min(len(encoded), blockSize)
		pages = append(pages, digestOf(encoded[:n]))
		encoded = encoded[n:]
	}
	g.sums.mu.Lock()
	defer g.sums.mu.Unlock()
	g.sums.pages, g.sums.last = pages, nil
}

// blockSum returns the sum of a whole block. ErrMissing if it is not known.
func (g *segment) blockSum(block int64) (uint32, error) {
	if g.sums.needed.Load() {
		return 0, fmt.Errorf("%w: the block sums of segment %d", ErrMissing, g.base)
	}
	if m := g.sums.memory.Load(); m != nil {
		return (*m)[block], nil
	}
	page, err := g.sumPage(block / sumsOnPage)
	if err != nil {
		if isDamage(err) {
			g.store.sumsDamaged(g, err)
			err = fmt.Errorf("%w: %w", ErrMissing, err)
		}
		return 0, err
	}
	return page.sums[block%sumsOnPage], nil
}

// sumPage reads a page of the sums file of a sealed segment.
func (g *segment) sumPage(number int64) (*sumPage, error) {
	g.sums.mu.Lock()
	last, pages := g.sums.last, g.sums.pages
	g.sums.mu.Unlock()
	if last != nil && last.number == number {
		return last, nil
	}
	if pages == nil {
		encoded, err := g.loadSums(g.store.files, g.size/blockSize, g.digest)
		if err != nil {
			return nil, err
		}
		g.setPages(encoded)
		return g.sumPage(number)
	}
	f, err := g.store.files.get(fileKey{base: g.base, sums: true}, false)
	if err != nil {
		return nil, err
	}
	defer g.store.files.put(f)
	encoded := make([]byte, min(blockSize, g.size/blockSize*sumSize-number*blockSize))
	if _, err := f.ReadAt(encoded, number*blockSize); err != nil {
		return nil, err
	}
	if digestOf(encoded) != pages[number] {
		return nil, fmt.Errorf("%w: page %d of the block sums of segment %d", ErrCorrupt, number, g.base)
	}
	p := &sumPage{number: number}
	for i := range len(encoded) / sumSize {
		p.sums[i] = binary.BigEndian.Uint32(encoded[i*sumSize:])
	}
	g.sums.mu.Lock()
	defer g.sums.mu.Unlock()
	g.sums.last = p
	return p, nil
}

// saveSums writes the sums of the first n blocks to the file, if they are in
// memory and not there yet. For whoever holds maintain.
func (g *segment) saveSums(n int64) error {
	m := g.sums.memory.Load()
	if m == nil {
		return nil
	}
	if g.sums.unsaved.Swap(false) {
		g.sums.saved = 0
	}
	if n <= int64(g.sums.saved) {
		return nil
	}
	f, err := g.store.files.get(fileKey{base: g.base, sums: true}, true)
	if err != nil {
		return err
	}
	defer g.store.files.put(f)
	if _, err := f.WriteAt(encodeSums((*m)[g.sums.saved:n]), int64(g.sums.saved)*sumSize); err != nil {
		return err
	}
	g.sums.saved = int(n)
	return nil
}
