package raftlog

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

const (
	snapMagic     = 0x50414E5351524D52 // "RMRQSNAP"
	snapVersion   = 1
	snapHeader    = 20
	snapBlock     = 128 << 10 // payload bytes of a block, all but the last one's
	snapBlockHead = 8
	snapTrailer   = 16
	maxSnapMeta   = 1 << 20
)

// A snapshot file, little-endian. Each checksum is a CRC-32C chained over the
// one before it, so that no block can be left out or take another's place.
//
//	header   | magic (8) | version (4) | length of meta (4) | CRC of these and meta (4) | meta, JSON |
//	block    | length (4), not 0 | CRC (4) | payload |            as often as needed, all but the last one full
//	trailer  | 0 (4) | CRC of the next 8, chained (4) | payload bytes (8) |

// snapMeta is the header's JSON.
type snapMeta struct {
	ID                 string       `json:"id"`
	Index              uint64       `json:"index"`
	Term               uint64       `json:"term"`
	ConfigurationIndex uint64       `json:"configuration_index"`
	Servers            []snapServer `json:"servers"`
}

type snapServer struct {
	Suffrage int    `json:"suffrage"`
	ID       string `json:"id"`
	Address  string `json:"address"`
}

func (m *snapMeta) raftMeta(size int64) *raft.SnapshotMeta {
	out := &raft.SnapshotMeta{
		Version: 1, ID: m.ID, Index: m.Index, Term: m.Term, ConfigurationIndex: m.ConfigurationIndex, Size: size,
	}
	for _, s := range m.Servers {
		out.Configuration.Servers = append(out.Configuration.Servers, raft.Server{
			Suffrage: raft.ServerSuffrage(s.Suffrage), ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Address),
		})
	}
	return out
}

// encodeSnapHeader returns the header and its checksum.
func encodeSnapHeader(m *snapMeta) ([]byte, uint32, error) {
	meta, err := json.Marshal(m)
	if err != nil {
		return nil, 0, err
	}
	if len(meta) > maxSnapMeta {
		return nil, 0, fmt.Errorf("raftlog: the configuration takes %d bytes, a snapshot holds %d", len(meta), maxSnapMeta)
	}
	le := binary.LittleEndian
	b := le.AppendUint64(nil, snapMagic)
	b = le.AppendUint32(b, snapVersion)
	b = le.AppendUint32(b, uint32(len(meta)))
	crc := crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, meta)
	b = le.AppendUint32(b, crc)
	return append(b, meta...), crc, nil
}

// snapFile is a snapshot file that was found to have a whole header.
type snapFile struct {
	meta    snapMeta
	payload int64
	blocks  int64 // where they begin
	crc     uint32
}

// snapSize is the size of the file for a payload.
func snapSize(blocks, payload int64) int64 {
	n := (payload + snapBlock - 1) / snapBlock
	return blocks + payload + n*snapBlockHead + snapTrailer
}

// readSnapHeader reads and checks the header, and that the file's size is what
// the trailer makes it.
func readSnapHeader(f disk.File) (*snapFile, error) {
	bad := func(off int64, err error, format string, args ...any) error {
		return &FileError{File: f.Name(), Offset: off, Detail: fmt.Sprintf(format, args...), Err: err}
	}
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	var head [snapHeader]byte
	if size < snapHeader+snapTrailer {
		return nil, bad(size, ErrCorrupt, "the snapshot ends too early")
	}
	if err := readFull(f, head[:], 0); err != nil {
		return nil, err
	}
	n := int64(le.Uint32(head[12:]))
	switch {
	case le.Uint64(head[:]) != snapMagic:
		return nil, bad(0, ErrBadMagic, "this is not a snapshot")
	case le.Uint32(head[8:]) != snapVersion:
		return nil, bad(0, ErrVersion, "version %d, this release knows %d", le.Uint32(head[8:]), snapVersion)
	case n > maxSnapMeta || n > size-snapHeader-snapTrailer:
		return nil, bad(12, ErrCorrupt, "the snapshot's header is damaged")
	}
	meta := make([]byte, n)
	if err := readFull(f, meta, snapHeader); err != nil {
		return nil, err
	}
	s := &snapFile{blocks: snapHeader + n}
	s.crc = crc32.Update(crc32.Checksum(head[:16], castagnoli), castagnoli, meta)
	if s.crc != le.Uint32(head[16:]) {
		return nil, bad(0, ErrCorrupt, "the snapshot's header is damaged")
	}
	if err := json.Unmarshal(meta, &s.meta); err != nil {
		return nil, bad(snapHeader, ErrCorrupt, "the snapshot's header: %v", err)
	}
	var trailer [snapTrailer]byte
	if err := readFull(f, trailer[:], size-snapTrailer); err != nil {
		return nil, err
	}
	s.payload = int64(le.Uint64(trailer[8:]))
	if s.payload < 0 || s.payload > size || le.Uint32(trailer[:]) != 0 || snapSize(s.blocks, s.payload) != size {
		return nil, bad(size-snapTrailer, ErrCorrupt, "the snapshot has %d bytes, its end says that it has another size", size)
	}
	return s, nil
}

func readFull(f disk.File, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("raftlog: reading %s at byte %d: %w", f.Name(), off, err)
}

// snapReader hands out the payload, each block after its checksum was found
// right, and io.EOF after the trailer's was.
type snapReader struct {
	f    disk.File
	s    *snapFile
	off  int64
	crc  uint32
	left int64  // payload bytes not read from the file
	buf  []byte // read and not handed out
	raw  []byte
	err  error
}

func newSnapReader(f disk.File, s *snapFile) *snapReader {
	return &snapReader{f: f, s: s, off: s.blocks, crc: s.crc, left: s.payload}
}

func (r *snapReader) Read(p []byte) (int, error) {
	for len(r.buf) == 0 && r.err == nil {
		r.err = r.next()
	}
	if len(r.buf) == 0 {
		return 0, r.err
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

func (r *snapReader) next() error {
	le := binary.LittleEndian
	n := min(r.left, snapBlock)
	head := int64(snapBlockHead)
	covered := head // where what the checksum covers begins
	if n == 0 {
		head = snapTrailer
	}
	if r.raw == nil {
		r.raw = make([]byte, snapBlockHead+max(n, snapTrailer))
	}
	b := r.raw[:head+n]
	if err := readFull(r.f, b, r.off); err != nil {
		return err
	}
	r.crc = crc32.Update(r.crc, castagnoli, b[covered:])
	if int64(le.Uint32(b)) != n || le.Uint32(b[4:]) != r.crc {
		return &FileError{File: r.f.Name(), Offset: r.off, Detail: "a block of the snapshot is damaged", Err: ErrCorrupt}
	}
	if n == 0 {
		return io.EOF
	}
	r.off += head + n
	r.left -= n
	r.buf = b[head:]
	return nil
}

func (r *snapReader) Close() error { return r.f.Close() }
