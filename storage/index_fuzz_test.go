package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
)

// FuzzIndexRun changes a small run: cuts or lengthens it, patches bytes, and
// seals the pages it is told to again, so that what lies behind the checksums is
// reached too. Whatever comes of it, the reader ends, allocates no more than the
// file calls for, and says of entries that cannot be right that they are not.
//
//	input  | sealed pages, a bit each 1 | length of the file 2 | patch 4 ...
//	patch  | offset 2 | bytes to change, 1 or 8 (even or odd) 1 | value 1
func FuzzIndexRun(f *testing.F) {
	const records = 120
	base := disk.NewMem(1)
	_, name := oneIndexRun(f, base, records)
	run := readIndexFile(f, base, name)
	f.Add([]byte{0, 0, 0x40})                                   // as it is
	f.Add([]byte{0, 0, 0x10})                                   // one page
	f.Add([]byte{1, 0, 0x40, 16, 0, 0, 1})                      // a count of 1
	f.Add([]byte{1, 0, 0x40, 16, 0, 1, 255})                    // a huge count
	f.Add([]byte{2, 0, 0x40, 0, 0x10, 1, 255})                  // a first entry with the highest hash
	f.Add([]byte{8, 0, 0x40, 8, 0x30, 1, 0})                    // a fence of zero
	f.Add([]byte{15, 0, 0x40, 64, 0, 1, 0, 0, 0x30, 1, 0})      // zero fences throughout
	f.Add([]byte{15, 0, 0x20, 16, 0, 1, 0, 24, 0, 1, 255})      // no entries
	f.Add([]byte{2, 0, 0x40, 8, 0x10, 1, 255, 28, 0x10, 1, 63}) // offsets out of range
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 3 {
			return
		}
		b := make([]byte, binary.LittleEndian.Uint16(in[1:]))
		copy(b, run)
		for p := in[3:]; len(p) >= 4; p = p[4:] {
			off, n := int(binary.LittleEndian.Uint16(p)), 1+7*int(p[2]&1)
			for i := off; i < min(off+n, len(b)); i++ {
				b[i] = p[3]
			}
		}
		for page := range len(b) / indexPage {
			if in[0]>>page&1 == 1 {
				sealIndexPage(b[page*indexPage:(page+1)*indexPage], 1, uint32(page))
			}
		}
		fs := disk.NewMem(1)
		if err := fs.MkdirAll("test", "store/index"); err != nil {
			t.Fatal(err)
		}
		writeIndexFile(t, fs, name, b)

		r, err := openIndexRun(fs, name, 1, 0)
		if err != nil {
			if !errors.Is(err, errIndexDamaged) && !errors.Is(err, errIndexForeign) && !errors.Is(err, errIndexVersion) {
				t.Fatalf("open: %v", err)
			}
			return
		}
		sound := r.verify(fs) == nil
		hashes := []uint64{0, 1, math.MaxUint64, indexHash("T", "k")}
		for i := range records {
			hashes = append(hashes, indexHash("T", fmt.Sprint("u", i)))
		}
		for _, hash := range hashes {
			n, last := int64(0), int64(math.MaxInt64)
			c, err := r.seek(fs, hash)
			for ok := err == nil; ok; {
				var e indexEntry
				e, ok, err = c.prev()
				switch {
				case err != nil || !ok:
					ok = false
				case e.hash != hash || e.phys < r.begin || e.phys >= r.end:
					t.Fatalf("seek %#x gave %+v of a run of [%d, %d)", hash, e, r.begin, r.end)
				case sound && e.phys > last:
					t.Fatalf("seek %#x: %d after %d in a run that verifies", hash, e.phys, last)
				default:
					last = e.phys
				}
				if n++; n > r.count+1 {
					t.Fatalf("seek %#x gives more than %d entries", hash, r.count)
				}
			}
			if err != nil && (sound || !errors.Is(err, errIndexDamaged)) {
				t.Fatalf("seek %#x in a run that verifies (%v): %v", hash, sound, err)
			}
			if c != nil {
				if err := c.close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
